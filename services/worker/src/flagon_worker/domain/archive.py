"""The event archive: every event of the platform, kept for a while."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_worker.models import ArchivedEvent


def archive_events(session: Session, events: Sequence[Mapping[str, Any]]) -> None:
    """Keep events; one that is there already stays as it is.

    :param events: CloudEvents envelopes.
    """
    rows = [
        {
            "id": event["id"],
            "source": event["source"],
            "type": event["type"],
            "subject": event["subject"],
            "time": event["time"],
            "event": dict(event),
        }
        for event in events
    ]
    if rows:
        session.execute(insert(ArchivedEvent).values(rows).on_conflict_do_nothing())


def list_events(
    session: Session,
    *,
    subject: str | None = None,
    type_: str | None = None,
    limit: int,
) -> list[ArchivedEvent]:
    """Return the newest events, oldest of them first.

    :param subject: only those on this entity.
    :param type_: only those of this CloudEvents type.
    """
    statement = select(ArchivedEvent)
    if subject:
        statement = statement.where(ArchivedEvent.subject == subject)
    if type_:
        statement = statement.where(ArchivedEvent.type == type_)
    newest = session.scalars(statement.order_by(ArchivedEvent.id.desc()).limit(limit))
    return list(reversed(newest.all()))


def purge_events(session: Session, *, keep: timedelta) -> int:
    """Forget events that were received long ago and return how many."""
    before = datetime.now(UTC) - keep
    gone = session.scalars(
        delete(ArchivedEvent)
        .where(ArchivedEvent.received_at < before)
        .returning(ArchivedEvent.id)
    )
    return len(gone.all())
