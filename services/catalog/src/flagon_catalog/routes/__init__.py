"""The catalog's HTTP surface; one module for each noun."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flask import Response, current_app, request
from pydantic_core import to_json
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from flagon_chassis import auth, conditional

WRITE = "catalog:write"
REPEATABLE = frozenset({"tag"})
"""Names that may be in a query several times."""
PATCH_TYPES = ("application/merge-patch+json", "application/json")

V = TypeVar("V", bound=Callable[..., Any])


def merge_patch(view: V) -> V:
    """Mark a view that takes a JSON merge patch; put it right above `bp.input`."""
    view.__dict__["_spec"]["content_type"] = list(PATCH_TYPES)
    return view


def refuse_unclear() -> None:
    """Refuse a query that says two things, and a patch that is no JSON merge patch."""
    twice = [
        name
        for name, values in request.args.lists()
        if len(values) > 1 and name not in REPEATABLE
    ]
    if twice:
        raise BadRequest(f"Give {', '.join(sorted(twice))} only once.")
    if request.method == "PATCH" and request.mimetype not in PATCH_TYPES:
        raise UnsupportedMediaType(f"Send the patch as {PATCH_TYPES[0]}.")


def sees_hidden() -> bool:
    """Say whether the caller may see what is not for sale."""
    caller = auth.caller_if_any()
    return caller is not None and WRITE in caller.scopes


def shown(
    body: object, status: int = 200, *, hidden: bool = True, location: str | None = None
) -> Response:
    """Return a JSON response, encoded once.

    :param hidden: whether only this caller may see it; else shared caches may keep it
        for a moment, and longer while the catalog does not answer.
    """
    response = Response(to_json(body), status, mimetype="application/json")
    if hidden:
        response.headers["Cache-Control"] = "private, no-cache"
    else:
        settings = current_app.extensions["flagon.settings"]
        response.headers["Cache-Control"] = (
            f"public, max-age=0, s-maxage={settings.fresh_seconds},"
            f" stale-if-error={settings.stale_seconds}"
        )
    response.headers["Vary"] = "Authorization"
    if location is not None:
        response.headers["Location"] = location
    return response


def tagged(response: Response, view: Mapping[str, Any], *more: str) -> Response:
    """Put the entity tag of a product or category on a response, or make it a 304.

    :param more: what else the bytes depend on.
    """
    # The id is part of the tag because a slug or SKU can come to name another one.
    return conditional.tagged(response, view["version"], str(view["id"]), *more)


def require_match(view: Mapping[str, Any]) -> None:
    """Let a change pass only if `If-Match` names this version of it."""
    conditional.require_match(view["version"], str(view["id"]))
