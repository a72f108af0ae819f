"""Profiles: mappings of columns that a person keeps for a supplier's files."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis.errors import Conflict, NotFound
from flagon_worker.models import ImportProfile

from . import audit, owners

PROFILES_MAX = 100
"""Of one account."""
FIELDS = ("mapping", "defaults", "encoding", "delimiter", "decimals")
"""What a profile brings to an import."""
_WHAT = "import profiles"


class ProfileNotFound(NotFound):
    """The account has no such import profile."""


class ProfileNameTaken(Conflict):
    """Another import profile of the account has this name."""


class ProfilesTooMany(Conflict):
    """The account has as many import profiles as it may."""


def find_profile(
    session: Session, owner: str, profile_id: UUID, *, lock: bool = False
) -> ImportProfile:
    """Return one of an account's profiles.

    :raises ProfileNotFound: it has none with this id.
    """
    statement = select(ImportProfile).where(
        ImportProfile.owner == owner, ImportProfile.id == profile_id
    )
    found = session.scalar(statement.with_for_update() if lock else statement)
    if found is None:
        raise ProfileNotFound(f"There is no import profile {profile_id}.")
    return found


def list_profiles(
    session: Session, owner: str, *, after: str | None = None, limit: int = PROFILES_MAX
) -> list[ImportProfile]:
    """Return an account's profiles by name.

    :param after: only names after this one.
    """
    statement = select(ImportProfile).where(ImportProfile.owner == owner)
    if after is not None:
        statement = statement.where(ImportProfile.name > after)
    return list(session.scalars(statement.order_by(ImportProfile.name).limit(limit)))


def create_profile(
    session: Session,
    owner: str,
    **fields: Any,  # noqa: ANN401 (columns, of many types)
) -> ImportProfile:
    """Keep a profile and return it.

    :param fields: `name` and those of `FIELDS`, valid.
    :raises ProfileNameTaken: another one has the name.
    :raises ProfilesTooMany: there are as many as there may be.
    """
    owners.hold(session, owner, _WHAT)
    count = select(func.count()).select_from(ImportProfile)
    if session.scalars(count.where(ImportProfile.owner == owner)).one() >= PROFILES_MAX:
        raise ProfilesTooMany(f"There may be {PROFILES_MAX}; delete one first.")
    _refuse_taken(session, owner, fields["name"])
    at = datetime.now(UTC)
    profile = ImportProfile(
        id=uuid7(), owner=owner, created_at=at, updated_at=at, version=1, **fields
    )
    session.add(profile)
    session.flush()
    audit.record(session, "created", profile)
    return profile


def _refuse_taken(session: Session, owner: str, name: str) -> None:
    taken = select(ImportProfile.id).where(
        ImportProfile.owner == owner, ImportProfile.name == name
    )
    if session.scalar(taken) is not None:
        raise ProfileNameTaken(f"There is an import profile called {name}.", name=name)


def replace_profile(
    session: Session,
    profile: ImportProfile,
    **fields: Any,  # noqa: ANN401 (columns, of many types)
) -> None:
    """Give a profile other contents, and perhaps another name.

    :param profile: locked by this transaction.
    :raises ProfileNameTaken: another one has the name.
    """
    changed = {
        name: value for name, value in fields.items() if getattr(profile, name) != value
    }
    if "name" in changed:
        owners.hold(session, profile.owner, _WHAT)
        _refuse_taken(session, profile.owner, changed["name"])
    if not changed:
        return
    before = audit.members(profile)
    for name, value in changed.items():
        setattr(profile, name, value)
    profile.updated_at = datetime.now(UTC)
    profile.version += 1
    session.flush()
    audit.record(session, "updated", profile, before=before)


def delete_profile(session: Session, profile: ImportProfile) -> None:
    """Forget a profile; imports that were handed in with it stay as they are."""
    audit.record(session, "deleted", profile)
    session.delete(profile)


def suggest_profiles(
    session: Session, owner: str, columns: Collection[str]
) -> list[ImportProfile]:
    """Return the profiles that fit a file's header: those that use most of it first.

    One fits when the file has all columns that it maps, named exactly so: an import with
    it would begin.
    """
    known = set(columns)
    fitting = [
        profile
        for profile in list_profiles(session, owner)
        if known.issuperset(profile.mapping.values())
    ]
    return sorted(
        fitting,
        key=lambda profile: (
            -len(set(profile.mapping.values())),
            -profile.updated_at.timestamp(),
        ),
    )


def applied(profile: ImportProfile, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an import with this profile; what is given counts more.

    They are the job's from then on: a change of the profile changes no import that was
    handed in.
    """
    return {**{name: getattr(profile, name) for name in FIELDS}, **params}


def take_events(session: Session, envelopes: Sequence[Mapping[str, Any]]) -> None:
    """Forget the profiles of accounts that are gone; safe to repeat."""
    gone = owners.gone(envelopes)
    if gone:
        session.execute(delete(ImportProfile).where(ImportProfile.owner.in_(gone)))
