"""The import profiles API: mappings of columns that people keep."""

from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, url_for

from flagon_chassis import auth, conditional, idempotency, paging, web
from flagon_chassis.db import transaction

from .domain import profiles
from .models import ImportProfile
from .profile_schemas import (
    Header,
    NewProfile,
    ProfilePage,
    ProfileView,
    Suggestions,
)
from .schedule_schemas import PageQuery

bp = APIBlueprint(
    "profiles", __name__, url_prefix="/api/v1/import-profiles", tag="Import profiles"
)
READ, WRITE = "jobs:read", "jobs:write"
_PRIVATE = {"Cache-Control": "private, no-cache"}


def _view(profile: ImportProfile) -> dict[str, Any]:
    names = ("id", "name", *profiles.FIELDS, "created_at", "updated_at", "version")
    return {name: getattr(profile, name) for name in names}


def _shown(profile: ImportProfile, status: int = 200) -> Response:
    response = web.reply(ProfileView, _view(profile), status, headers=_PRIVATE)
    response.set_etag(conditional.etag(profile.version))
    return response


@bp.get("")
@auth.requires(READ)
@bp.doc(operation_id="list_import_profiles", summary="List own profiles by name")
@bp.input(PageQuery, location="query", arg_name="asked")
@bp.output(ProfilePage)
def list_profiles(asked: PageQuery) -> Response:
    """List the mappings that the caller keeps."""
    owner = auth.caller().sub
    purpose = f"import profiles of {owner}"
    after = paging.decode(purpose, asked.cursor)[0] if asked.cursor else None
    with transaction() as session:
        found = profiles.list_profiles(
            session, owner, after=after, limit=asked.limit + 1
        )
    shown = found[: asked.limit]
    more = len(found) > asked.limit
    cursor = paging.encode(purpose, [shown[-1].name]) if more else None
    page = {"items": [_view(profile) for profile in shown], "next_cursor": cursor}
    return web.reply(ProfilePage, page, headers=_PRIVATE)


@bp.post("")
@auth.requires(WRITE)
@bp.doc(
    operation_id="create_import_profile",
    summary="Keep a mapping",
    responses={409: "Another one has the name, or there are as many as there may be"},
)
@bp.input(NewProfile, arg_name="new")
@bp.output(ProfileView, 201)
def create_profile(new: NewProfile) -> Response:
    """Keep a mapping of columns for the imports of the caller.

    With an `Idempotency-Key` it can be repeated without a second effect.
    """

    def respond() -> Response:
        profile = profiles.create_profile(
            session, auth.caller().sub, **new.model_dump()
        )
        response = _shown(profile, 201)
        response.headers["Location"] = url_for(
            "profiles.find_profile", profile_id=profile.id
        )
        return response

    with transaction() as session:
        return idempotency.once(session, respond)


@bp.post("/suggest")
@auth.requires(READ)
@bp.doc(operation_id="suggest_import_profiles", summary="Find profiles for a file")
@bp.input(Header, arg_name="header")
@bp.output(Suggestions)
def suggest_profiles(header: Header) -> Response:
    """Return the profiles whose columns a file has all, which changes nothing."""
    with transaction() as session:
        found = profiles.suggest_profiles(session, auth.caller().sub, header.columns)
    items = [_view(profile) for profile in found]
    return web.reply(Suggestions, {"items": items}, headers=_PRIVATE)


@bp.get("/<uuid:profile_id>")
@auth.requires(READ)
@bp.doc(
    operation_id="find_import_profile", summary="Show a profile", responses=[304, 404]
)
@bp.output(ProfileView)
def find_profile(profile_id: UUID) -> Response:
    """Show one of the caller's mappings."""
    with transaction() as session:
        profile = profiles.find_profile(session, auth.caller().sub, profile_id)
    return conditional.tagged(_shown(profile), profile.version)


@bp.put("/<uuid:profile_id>")
@auth.requires(WRITE)
@bp.doc(
    operation_id="replace_import_profile",
    summary="Replace a profile",
    responses=[404, 409, 412, 428],
)
@bp.input(NewProfile, arg_name="new")
@bp.output(ProfileView)
def replace_profile(profile_id: UUID, new: NewProfile) -> Response:
    """Give a mapping other contents; imports that were handed in stay as they are."""
    with transaction() as session:
        profile = _locked(session, profile_id)
        profiles.replace_profile(session, profile, **new.model_dump())
    return _shown(profile)


@bp.delete("/<uuid:profile_id>")
@auth.requires(WRITE)
@bp.doc(
    operation_id="delete_import_profile",
    summary="Forget a profile",
    responses={
        204: "Gone",
        404: "Not Found",
        412: "Precondition Failed",
        428: "Precondition Required",
    },
)
def delete_profile(profile_id: UUID) -> Response:
    """Forget a mapping; imports that were handed in with it stay as they are."""
    with transaction() as session:
        profiles.delete_profile(session, _locked(session, profile_id))
    return Response(status=204)


def _locked(session: Any, profile_id: UUID) -> ImportProfile:  # noqa: ANN401 (sqlalchemy is below)
    profile = profiles.find_profile(session, auth.caller().sub, profile_id, lock=True)
    conditional.require_match(profile.version)
    return profile
