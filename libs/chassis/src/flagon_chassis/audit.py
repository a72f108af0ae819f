"""Who changed what: rows that a service adds beside its changes and can never take back.

What is an entity, and which of its members are told, is the service's to say.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field
from pydantic_core import to_json
from sqlalchemy import Connection, Select, func, select, text
from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from . import tables, tracing
from .tables import audit

SYSTEM = "system"
"""The actor where nobody asked: a command or the passing of time."""
VALUE_CHARACTERS_MAX = 256
"""Longest value that is kept whole, counted in its JSON; of others it is the beginning."""
VIEW = tuple(
    column.label("id") if column.name == "entity_id" else column for column in audit.c
)
"""The columns of a row in the order of the API."""

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


# With the rights of the owner, because the service must not delete rows: whoever has taken
# it over could only hasten the end of what is 30 days old.
_PURGE = """
create function audit_purge(days integer) returns integer
language plpgsql strict security definer set search_path = public, pg_temp as $$
declare gone integer;
begin
  if days < 30 then
    raise exception 'Rows are kept for 30 days at least.' using errcode = '22023';
  end if;
  delete from audit where sequence in (
    select sequence from audit where at < now() - make_interval(days => days)
    order by sequence limit 5000 for update skip locked
  );
  get diagnostics gone = row_count;
  return gone;
end $$
"""

# Who may write rows may have old ones removed: the service, and no reader.
_ALLOW = """
do $$
declare name text;
begin
  revoke execute on function audit_purge(integer) from public;
  for name in
    select distinct grantee from information_schema.role_routine_grants
    where routine_name = 'audit_purge' and grantee not in (current_user, 'PUBLIC')
  loop
    execute format('revoke execute on function audit_purge(integer) from %I', name);
  end loop;
  for name in
    select distinct grantee from information_schema.role_table_grants
    where table_name = 'audit' and privilege_type = 'INSERT'
      and grantee not in (current_user, 'PUBLIC')
  loop
    execute format('grant execute on function audit_purge(integer) to %I', name);
  end loop;
end $$
"""


class AuditChange(BaseModel):
    """What a member was and became; neither where that is nobody's business."""

    from_: Any = Field(default=None, alias="from")
    to: Any = None
    cut: bool = Field(
        default=False, description="Whether these are only the beginnings."
    )


class AuditRecord(BaseModel):
    """A row as APIs show it; each says which actions and entities it knows."""

    sequence: int
    at: datetime
    actor: str = Field(description="Subject of the token, or `system`")
    client: str | None = Field(description="The program that the token was given to")
    action: str
    entity: str
    id: UUID
    version: int = Field(description="The new one, or the last")
    changes: dict[str, AuditChange]
    request_id: str | None
    trace_id: str | None


class AuditFilter(BaseModel):
    """Which rows an API lists."""

    entity: str | None = None
    id: UUID | None = Field(default=None, description="Of what was changed")
    actor: str | None = Field(
        default=None, min_length=1, max_length=200, examples=["system"]
    )
    since: AwareDatetime | None = Field(
        default=None, description="At this time or later."
    )
    until: AwareDatetime | None = Field(
        default=None, description="Before this time: with `since` a stretch of time."
    )


def add_rows(session: Session, entity: str, rows: list[dict[str, Any]]) -> None:
    """Add rows about entities of one kind, in the present transaction.

    :param rows: `action`, `id`, `version` and `changes` of each.
    """
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


def told(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    names: Iterable[str],
    *,
    named_only: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return by the name of each member that changed what it was and became.

    Of what is new or gone those members are left out that were never set.

    :param before: None for what is new.
    :param after: None for what is gone.
    :param names: of the members that changed.
    :param named_only: of those whose values are nobody's business.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in names:
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
                words = value if isinstance(value, str) else to_json(value).decode()
                if len(words) > VALUE_CHARACTERS_MAX:
                    change[side] = words[:VALUE_CHARACTERS_MAX]
                    change["cut"] = True
        else:
            found[name] = {} if name in named_only else change
    return found


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

    :param id: of what was changed.
    :param actor: subject of the token that changed it, or `SYSTEM`.
    :param since: of this time or later.
    :param until: of an earlier time than this.
    :param before: number of the last row of the page before.
    """
    statement = select(*VIEW).order_by(audit.c.sequence.desc()).limit(limit)
    for column, value in (
        (audit.c.entity, entity),
        (audit.c.entity_id, id),
        (audit.c.actor, actor),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if before is not None:
        statement = statement.where(audit.c.sequence < before)
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
    at = audit.c.at + timedelta()
    if since is not None:
        statement = statement.where(at >= since, audit.c.sequence >= places["since"])
    if until is not None:
        statement = statement.where(at < until, audit.c.sequence < places["until"])
    return statement


def purge(session: Session, *, days: int) -> int:
    """Delete some of the rows that are older, and return how many.

    Several may do so at once. The service's role cannot delete rows; the database does it
    in a function that refuses to touch what is younger than 30 days.

    :param days: 30 or more.
    """
    return int(session.scalar(select(func.audit_purge(days))) or 0)


def create(connection: Connection) -> None:
    """Create the table and what guards it; for an owner's migration.

    Whoever may add and read rows by then can do that alone, and have old ones removed.
    """
    tables.create(connection, "audit")
    tables.append_only(connection, "audit")
    connection.execute(text(_PURGE))
    connection.execute(text(_ALLOW))


def drop(connection: Connection) -> None:
    """Drop all of it; for an owner's migration."""
    connection.execute(text("drop function audit_purge(integer)"))
    tables.drop(connection, "audit")
