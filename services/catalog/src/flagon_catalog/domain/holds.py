"""What is held of the stock, and the end of what was held too long."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import ColumnElement, delete, func, select, text, update
from sqlalchemy.orm import Session

from flagon_catalog.models import MOMENT, RESERVATION_VIEW, Reservation
from flagon_chassis import events

View = dict[str, Any]
"""A reservation as the API shows it, by field name."""

_HELD = Reservation.ended_at.is_(None)
_OVERDUE = _HELD & (Reservation.expires_at <= MOMENT)

# Ids begin with the time at which they were made (UUIDv7), and nothing ends before it
# begins: the primary key leads to what is old, and no index is kept up for that.
_MADE_BEFORE = text(
    """
    reservation.id < cast(
        lpad(to_hex(cast(1000 * extract(
            epoch from now() - make_interval(days => :days)
        ) as bigint)), 12, '0') || repeat('0', 20) as uuid
    )
    """
)


def settle(session: Session, product_id: UUID) -> int:
    """Write down what has expired of a locked product; return how much is held then.

    What this returns stays true until the lock is given away: who takes the place of an
    expired reservation has ended it, and no clock that is set back can revive it.
    """
    expire_overdue(session, [product_id])
    total = select(func.coalesce(func.sum(Reservation.quantity), 0)).where(
        Reservation.product_id == product_id, _HELD
    )
    return int(session.scalar(total) or 0)


def expire_overdue(session: Session, product_ids: Sequence[UUID]) -> None:
    """End what has expired of these products, which the caller has locked."""
    _expire(session, _OVERDUE & Reservation.product_id.in_(product_ids))


def sweep(session: Session, *, limit: int) -> int:
    """End some of what has expired, of any product; return how many were ended.

    Several may do so at once: each leaves alone what another is about to end.
    """
    due = (
        select(Reservation.id)
        .where(_OVERDUE)
        .order_by(Reservation.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    # A CTE is carried out once; a subquery's limit counts anew at each execution.
    return _expire(session, Reservation.id.in_(select(due.cte("due").c.id)))


def purge(session: Session, *, days: int, limit: int) -> int:
    """Delete some of what ended longer ago; return how many were deleted.

    Several may do so at once. What is held stays, however old it is.
    """
    old = (
        select(Reservation.id)
        .where(
            _MADE_BEFORE,
            # What is held has none.
            Reservation.ended_at < func.now() - text("make_interval(days => :days)"),
        )
        .order_by(Reservation.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    # As in `sweep`.
    found = session.execute(
        delete(Reservation)
        .where(Reservation.id.in_(select(old.cte("old").c.id)))
        .returning(Reservation.id),
        {"days": days},
    )
    return len(found.all())


def _expire(session: Session, which: ColumnElement[bool]) -> int:
    rows = session.execute(
        update(Reservation)
        .where(which)
        .values(
            outcome="expired",
            ended_at=MOMENT,
            version=Reservation.version + 1,
            updated_at=MOMENT,
        )
        .returning(*RESERVATION_VIEW)
    ).all()
    emit_changed(session, (row._asdict() for row in rows), changed=["state"])
    return len(rows)


def emit_changed(
    session: Session, views: Iterable[View], *, changed: Sequence[str]
) -> None:
    """Add an event for each reservation: itself and the names of what changed."""
    events.emit_many(
        session,
        [
            (
                "reservation.changed.v1",
                str(view["id"]),
                {**to_jsonable_python(view), "changed": list(changed)},
                # Nothing of `products/<id>`, which strangers may follow: who holds how
                # much under which order number is not theirs to know.
                [
                    "reservations",
                    f"reservations/{view['id']}",
                    f"users/{view['holder']}",
                ],
            )
            for view in views
        ],
    )
