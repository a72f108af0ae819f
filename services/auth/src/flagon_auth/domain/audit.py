"""The audit log: what matters to security, each record chained to the one before it.

Whoever changes, removes or inserts a record breaks the chain from there on; the
service's own database login may only add and read.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, func, insert, select
from sqlalchemy.orm import Session

from flagon_auth.models import AuditEvent
from flagon_chassis.errors import Conflict

_BEGINNING = bytes(32)
# Made once: this runs in every sign-in, and making a statement costs as much as running it.
_TAKE_TURN = select(func.pg_advisory_xact_lock(728_114_020))
_LAST = (
    select(AuditEvent.sequence, AuditEvent.hash)
    .order_by(AuditEvent.sequence.desc())
    .limit(1)
)
_TABLE = cast("Table", AuditEvent.__table__)
_ADD = insert(_TABLE)
_COLUMNS = _TABLE.columns.keys()


class AuditLogBroken(Conflict):
    """The audit log was changed after it was written."""


def record(
    session: Session,
    action: str,
    *,
    account_id: UUID | None = None,
    actor: str | None = None,
    address: str | None = None,
    now: datetime,
    **details: Any,  # noqa: ANN401 (whatever JSON can say)
) -> None:
    """Add one record; the last step of its transaction, because all others wait for it.

    :param action: what happened, such as `password_changed`.
    :param account_id: whom it concerns.
    :param actor: who did it: an account's or client's id, or `cli`.
    :param address: the network address it came from.
    :param details: JSON without fractions and without anything secret.
    """
    session.execute(_TAKE_TURN)
    last = session.execute(_LAST).one_or_none()
    row = AuditEvent(
        sequence=last.sequence + 1 if last else 1,
        occurred_at=now,
        action=action,
        account_id=account_id,
        actor=actor,
        address=address,
        details=details,
        previous_hash=last.hash if last else _BEGINNING,
    )
    row.hash = _hash(row)
    # What else the transaction did comes first, as it would with an object.
    session.flush()
    session.execute(_ADD, {name: getattr(row, name) for name in _COLUMNS})


def verify(session: Session) -> int:
    """Return how many records there are, after checking every one.

    :raises AuditLogBroken: at the first record that is not as it was written.
    """
    count, previous = 0, _BEGINNING
    rows = (
        select(AuditEvent)
        .order_by(AuditEvent.sequence)
        .execution_options(yield_per=1000)
    )
    # Closed at once where it breaks: the cursor is on the server.
    with session.scalars(rows) as found:
        for row in found:
            count += 1
            intact = row.previous_hash == previous and row.hash == _hash(row)
            if row.sequence != count or not intact:
                raise AuditLogBroken(f"Record {count} is not what was written.")
            previous = row.hash
    return count


def list_records(
    session: Session,
    account_id: UUID | None = None,
    *,
    limit: int,
    before: int | None = None,
) -> list[AuditEvent]:
    """Return records, newest first.

    :param account_id: only what concerns this account.
    :param before: the sequence number that the page follows.
    """
    statement = select(AuditEvent)
    if account_id is not None:
        statement = statement.filter_by(account_id=account_id)
    if before is not None:
        statement = statement.where(AuditEvent.sequence < before)
    return list(
        session.scalars(statement.order_by(AuditEvent.sequence.desc()).limit(limit))
    )


def _hash(row: AuditEvent) -> bytes:
    content = [
        row.sequence,
        row.occurred_at.astimezone(UTC).isoformat(timespec="microseconds"),
        row.action,
        str(row.account_id) if row.account_id else None,
        row.actor,
        row.address,
        row.details,
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(row.previous_hash + text.encode()).digest()
