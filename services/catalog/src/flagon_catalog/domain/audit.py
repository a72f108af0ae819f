"""Who changed what: a row for each new version and each deletion, beside its event.

The rows are made here and not by triggers, because only here it is known which members
people would say have changed; a test walks over every route that writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from flagon_chassis.audit import add_rows, told

ENTITIES = ("product", "category", "tag", "review", "reservation", "image")

Change = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None, Sequence[str] | None]
"""An entity before and after, None where there is none, and the names of what changed; of
what is new or gone None names everything."""

# What every entity has, and the row tells in columns of its own or not at all.
_STAMPS = frozenset({"id", "version", "created_at", "updated_at"})
# What is made of other members, or changes without a version.
_DERIVED = {
    "product": frozenset({"available", "rating", "description_html"}),
    "review": frozenset({"body_html"}),
    "image": frozenset({"thumbnails", "url", "width", "height"}),
}
# What people wrote about themselves goes when they ask for it, and from here nothing goes
# before its time. Images have rows of their own.
_NAMED_ONLY = {
    "review": frozenset({"author", "title", "body", "body_html", "note"}),
    "product": frozenset({"images", "description_html"}),
}


def record(session: Session, entity: str, changes: Iterable[Change]) -> None:
    """Add one row for each change of entities of one kind, in the present transaction."""
    add_rows(session, entity, [_row(entity, *change) for change in changes])


def _row(
    entity: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    names: Sequence[str] | None,
) -> dict[str, Any]:
    present = after if after is not None else before or {}
    action = "updated"
    if before is None or after is None:
        action = "created" if before is None else "deleted"
    return {
        "action": action,
        "id": present["id"],
        "version": present["version"],
        "changes": _told(entity, before, after, names or list(present)),
    }


def _told(
    entity: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Return what the row tells of the members that changed.

    An import comes here for each of its rows.
    """
    derived = _DERIVED.get(entity, frozenset())
    # Something that is made anew may be all there is to tell.
    left_out = _STAMPS if derived.issuperset(names) else _STAMPS | derived
    return told(
        before,
        after,
        [name for name in names if name not in left_out],
        named_only=_NAMED_ONLY.get(entity, ()),
    )
