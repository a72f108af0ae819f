"""Who changed what: a row for each new version and each deletion, beside its event.

The rows are made here and not by triggers, because only here it is known which members
people would say have changed; a test walks over every route that writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from flagon_catalog.models import AUDIT_VIEW, AuditRow
from flagon_chassis import tracing

SYSTEM = "system"
"""The actor where nobody asked: a command or the passing of time."""
VALUE_CHARACTERS_MAX = 256
"""Longest value that is kept whole, counted in its JSON; of others it is the beginning."""
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

# One statement for any number of rows.
_ADD = text(
    """
    INSERT INTO audit (actor, client, action, entity, entity_id, version, changes,
        request_id, trace_id)
    SELECT :actor, :client, action, :entity, id, version, changes, :request_id, :trace_id
    FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS row (
        action text, id uuid, version int, changes jsonb
    )
    """
)

LONGEST_TRANSACTION = timedelta(hours=1)
"""Rows have the time at which their transaction began and the number of their insertion."""

# Numbers and times rise together, but for what is open for long. So the place of a time is
# found by halving, in as many rows as a number has digits, and needs no index of its own.
_PLACES = text(
    """
    WITH RECURSIVE search (name, at, low, high) AS (
        SELECT name, at + slack, low, high
        FROM unnest(
            cast(:names AS text[]),
            cast(:times AS timestamptz[]),
            cast(:slacks AS interval[])
        ) AS wanted (name, at, slack), (
            SELECT coalesce(min(sequence), 0) AS low, coalesce(max(sequence), -1) + 1 AS high
            FROM audit
        ) AS ends
        UNION ALL
        SELECT name, search.at,
            CASE WHEN row.at < search.at THEN row.sequence + 1 ELSE low END,
            CASE WHEN row.at < search.at THEN high ELSE (low + high) / 2 END
        FROM search, LATERAL (
            SELECT sequence, at FROM audit
            WHERE sequence >= (low + high) / 2 ORDER BY sequence LIMIT 1
        ) AS row
        WHERE low < high
    )
    SELECT name, low FROM search WHERE low >= high
    """
)


def record(session: Session, entity: str, changes: Iterable[Change]) -> None:
    """Add one row for each change of entities of one kind, in the present transaction."""
    rows = [_row(entity, *change) for change in changes]
    if not rows:
        return
    context = get_contextvars()
    traceparent = tracing.current_traceparent()
    session.connection().execute(
        _ADD,
        {
            "actor": context.get("sub", SYSTEM),
            "client": context.get("client_id"),
            "entity": entity,
            "request_id": context.get("request_id"),
            "trace_id": traceparent.split("-")[1] if traceparent else None,
            "rows": to_json(rows).decode(),
        },
    )


def list_rows(
    session: Session,
    *,
    entity: str | None = None,
    id: UUID | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    before: int | None = None,
) -> list[dict[str, Any]]:
    """Return one page of rows, the newest first.

    :param id: of the product or whatever else was changed.
    :param actor: subject of the token that changed it, or `SYSTEM`.
    :param since: of this time or later.
    :param until: of an earlier time than this.
    :param before: number of the last row of the page before.
    """
    statement = select(*AUDIT_VIEW).order_by(AuditRow.sequence.desc()).limit(limit)
    for column, value in (
        (AuditRow.entity, entity),
        (AuditRow.entity_id, id),
        (AuditRow.actor, actor),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if before is not None:
        statement = statement.where(AuditRow.sequence < before)
    if since is not None or until is not None:
        statement = _between(session, statement, since, until)
    return [row._asdict() for row in session.execute(statement)]


def _between(
    session: Session,
    statement: Select[Any],
    since: datetime | None,
    until: datetime | None,
) -> Select[Any]:
    """Narrow a statement to some time, without a look at what is long before or after."""
    # What stands before the first row of an hour earlier was written before `since`.
    wanted = {
        "since": (since, -LONGEST_TRANSACTION),
        "until": (until, LONGEST_TRANSACTION),
    }
    asked = [(name, *both) for name, both in wanted.items() if both[0] is not None]
    names, times, slacks = zip(*asked, strict=True)
    given = {"names": [*names], "times": [*times], "slacks": [*slacks]}
    places = {row.name: row.low for row in session.execute(_PLACES, given)}
    # In a form that no index knows: the one of times would bring all that is so old.
    at = AuditRow.at + timedelta()
    if since is not None:
        statement = statement.where(at >= since, AuditRow.sequence >= places["since"])
    if until is not None:
        statement = statement.where(at < until, AuditRow.sequence < places["until"])
    return statement


def purge(session: Session, *, days: int) -> int:
    """Delete some of the rows that are older, and return how many.

    Several may do so at once. The service's role cannot delete rows; the database does it
    in a function that refuses to touch what is younger than 30 days.

    :param days: 30 or more.
    """
    return int(session.scalar(select(func.audit_purge(days))) or 0)


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
    """Return by the name of each member that changed what it was and became.

    Of what is new or gone those members are left out that were never set. An import comes
    here for each of its rows, so what is asked first is what is true most often.
    """
    named_only = _NAMED_ONLY.get(entity, _STAMPS)
    derived = _DERIVED.get(entity, frozenset())
    # Something that is made anew may be all there is to tell.
    left_out = _STAMPS if derived.issuperset(names) else _STAMPS | derived
    told: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in left_out:
            continue
        change: dict[str, Any] = {}
        for side, view in (("from", before), ("to", after)):
            if view is None:
                continue
            value = view.get(name)
            # Zero is a value, an empty text or list is none.
            if (before is None or after is None) and not value and value != 0:
                break
            change[side] = value
            if isinstance(value, str | list | dict):
                text = value if isinstance(value, str) else to_json(value).decode()
                if len(text) > VALUE_CHARACTERS_MAX:
                    change[side] = text[:VALUE_CHARACTERS_MAX]
                    change["cut"] = True
        else:
            told[name] = {} if name in named_only else change
    return told
