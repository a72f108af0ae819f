"""Events: written to the outbox in the transaction that makes the change."""

from datetime import UTC, datetime
from functools import cache
from json import loads
from pathlib import Path
from typing import Any

from flask import Flask, current_app
from jsonschema_rs import Draft202012Validator
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars
from uuid_utils.compat import uuid7

from . import tracing
from .tables import outbox

PREFIX = "market.flagon."
EMITTED = "flagon.emitted"
"""In the `info` of a session that has told an event in its transaction."""
# Postgres folds equal notifications of one transaction into one.
_WAKE = func.pg_notify("outbox", "")
_PUT = insert(outbox).returning(_WAKE)
_FEW = 8
"""Rows that are faster in one statement that wakes the relay as well."""


class EventInvalid(ValueError):
    """An event does not match its published schema; the code that emits it is wrong."""


def init_app(app: Flask, source: str, schemas: Path) -> None:
    """Let the app emit the events whose schemas are in a folder.

    :param source: the CloudEvents source, `/services/<name>`.
    :param schemas: files `<type without the prefix>.json`, JSON Schemas of `data`.
    """
    app.extensions["flagon.events"] = (source, load_schemas(schemas))


@cache
def load_schemas(folder: Path) -> dict[str, Draft202012Validator]:
    """Return a validator for each event type that has a schema file in the folder."""
    return {
        PREFIX + path.stem: Draft202012Validator(
            loads(path.read_text()), validate_formats=True
        )
        for path in sorted(folder.glob("*.json"))
    }


def emit(
    session: Session,
    type_: str,
    *,
    subject: str,
    data: dict[str, Any],
    topics: list[str],
) -> None:
    """Add one event to the session's outbox; see `emit_many`."""
    emit_many(session, [(type_, subject, data, topics)])


def emit_many(
    session: Session, events: list[tuple[str, str, dict[str, Any], list[str]]]
) -> None:
    """Add events to the session's outbox; the relay sends them once it has committed.

    :param events: type without the prefix, the entity's id, the resource as the API
        shows it plus `changed`, and the delivery topics.
    :raises EventInvalid: the data does not match the schema, or there is none.
    """
    put(session, prepare(events))


def prepare(
    events: list[tuple[str, str, dict[str, Any], list[str]]],
    headers: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return rows of the outbox for events, for who writes several things at once.

    :param events: as `emit_many` takes them.
    :param headers: trace and request id, where they are not those at hand.
    :raises EventInvalid: the data does not match the schema, or there is none.
    """
    source, schemas = current_app.extensions["flagon.events"]
    headers = _headers() if headers is None else headers
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    rows = []
    for type_, subject, data, topics in events:
        full = PREFIX + type_
        _check(schemas, full, data)
        event_id = uuid7()
        envelope = {
            "specversion": "1.0",
            "id": str(event_id),
            "source": source,
            "type": full,
            "subject": subject,
            "time": now,
            "datacontenttype": "application/json",
            "data": data,
            "topics": topics,
            **{name: value for name, value in headers.items() if name == "traceparent"},
        }
        rows.append(
            {
                "id": event_id,
                "channel": "event",
                "name": full,
                "subject": subject,
                "body": envelope,
                "headers": headers,
            }
        )
    return rows


def emit_task(
    session: Session, name: str, *, queue: str, subject: str, **kwargs: object
) -> None:
    """Add a task message to the session's outbox; the relay hands it to the queue.

    :param subject: what the task is about; messages of one subject keep their order.
    :param kwargs: the task's keyword arguments, JSON values.
    """
    emit_tasks(session, name, queue=queue, tasks=[(subject, kwargs)])


def emit_tasks(
    session: Session,
    name: str,
    *,
    queue: str,
    tasks: list[tuple[str, dict[str, Any]]],
) -> None:
    """Add messages of one task to the session's outbox; see `emit_task`.

    :param tasks: what each is about, and its keyword arguments.
    """
    put(session, prepare_tasks(name, queue=queue, tasks=tasks))


def prepare_tasks(
    name: str, *, queue: str, tasks: list[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return rows of the outbox for messages of one task; see `emit_task`."""
    headers = _headers()
    return [
        {
            "id": uuid7(),
            "channel": "task",
            "name": name,
            "subject": subject,
            "body": {"queue": queue, "kwargs": kwargs},
            "headers": headers,
        }
        for subject, kwargs in tasks
    ]


def put(session: Session, rows: list[dict[str, Any]]) -> None:
    """Add rows to the outbox, in this order, and wake the relay.

    :param rows: values of the table's columns `id` to `headers`.
    """
    if not rows:
        return
    if any(row["channel"] == "event" for row in rows):
        session.info[EMITTED] = True
    if len(rows) <= _FEW:
        # As the session would, without what it does for entities.
        session.flush()
        session.connection().execute(_PUT, rows)
        return
    # Many are faster without anything to return.
    session.execute(insert(outbox), rows)
    wake_relay(session)


def wake_relay(session: Session) -> None:
    """Tell the relay, when the transaction commits, that there is something to send."""
    session.execute(select(_WAKE))


def _headers() -> dict[str, str]:
    traceparent = tracing.current_traceparent()
    request_id = get_contextvars().get("request_id")
    return {
        **({"traceparent": traceparent} if traceparent else {}),
        **({"request_id": str(request_id)} if request_id else {}),
    }


def _check(
    schemas: dict[str, Draft202012Validator], type_: str, data: dict[str, Any]
) -> None:
    if type_ not in schemas:
        raise EventInvalid(f"{type_} has no schema file.")
    error = next(schemas[type_].iter_errors(data), None)
    if error is not None:
        where = "/".join(map(str, error.instance_path))
        raise EventInvalid(f"{type_} at /{where}: {error.message}")
