"""Reservations: put stock aside, and take it out or give it back."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_catalog.models import MOMENT, RESERVATION_VIEW, Product, Reservation
from flagon_chassis.errors import Conflict, Forbidden, NotFound

from . import audit, holds
from .holds import View
from .products import ProductNotFound, emit_changed, find_product


class StockShort(Conflict):
    """Less of the product is available than was asked for."""


class ProductNotForSale(Conflict):
    """Drafts and archived products cannot be reserved."""


class ReservationNotFound(NotFound):
    """There is no such reservation."""


class ReservationForeign(Forbidden):
    """This reservation is somebody else's."""


class ReservationEnded(Conflict):
    """The reservation has ended in another way."""


def reserve_stock(
    session: Session,
    *,
    product_id: UUID,
    quantity: int,
    seconds: int,
    holder: str,
    reference: str | None,
) -> View:
    """Put a quantity of a product aside and return the reservation as the API shows it.

    :param seconds: how long it is held; then it ends by itself.
    :param holder: subject of the token that asks.
    :raises ProductNotFound: there is no such product.
    :raises ProductNotForSale: it is a draft or archived.
    :raises StockShort: less than that is available.
    """
    product = _lock_stock(session, product_id)
    if product is None:
        raise ProductNotFound(f"There is no product {product_id}.")
    if product.status != "active":
        raise ProductNotForSale(f"The product is {product.status}.")
    # Every statement from here on sees what others did before they gave the lock away.
    available = product.stock - holds.settle(session, product_id)
    if quantity > available:
        raise StockShort(f"{available} are available.", available=available)
    row = session.execute(
        insert(Reservation)
        .values(
            id=uuid7(),
            product_id=product_id,
            quantity=quantity,
            holder=holder,
            reference=reference,
            expires_at=MOMENT + timedelta(seconds=seconds),
        )
        .returning(*RESERVATION_VIEW)
    ).one()
    view = row._asdict()
    holds.emit_changed(session, [view], changed=list(view))
    audit.record(session, "reservation", [(None, view, None)])
    return view


def find_reservation(session: Session, *, id: UUID, holder: str | None) -> View:
    """Return one reservation.

    :param holder: whose it must be; None when anybody's will do.
    :raises ReservationNotFound: there is none.
    """
    row = session.execute(
        select(*RESERVATION_VIEW).where(Reservation.id == id)
    ).one_or_none()
    if row is None or holder not in {None, row.holder}:
        raise ReservationNotFound(f"There is no reservation {id}.")
    return row._asdict()


def list_reservations(
    session: Session,
    *,
    holder: str | None,
    state: str | None,
    product_id: UUID | None,
    limit: int,
    after: UUID | None = None,
) -> list[View]:
    """Return one page of reservations, the newest first.

    :param holder: whose; None for everybody's.
    :param state: as it is at this moment; None for any.
    :param after: id of the last reservation of the page before.
    """
    statement = select(*RESERVATION_VIEW).order_by(Reservation.id.desc()).limit(limit)
    conditions: list[ColumnElement[bool]] = []
    if holder is not None:
        conditions.append(Reservation.holder == holder)
    if product_id is not None:
        conditions.append(Reservation.product_id == product_id)
    if after is not None:
        conditions.append(Reservation.id < after)
    held = Reservation.ended_at.is_(None)
    match state:
        case "held":
            conditions += [held, Reservation.expires_at > MOMENT]
        case "expired":
            overdue = held & (Reservation.expires_at <= MOMENT)
            conditions.append(or_(Reservation.outcome == "expired", overdue))
        case str():
            conditions.append(Reservation.outcome == state)
    rows = session.execute(statement.where(*conditions))
    return [row._asdict() for row in rows]


def commit_reservation(
    session: Session, *, id: UUID, caller: str, sees_all: bool
) -> View:
    """Take what is held out of the stock for good and return the reservation.

    Safe to repeat: what is committed stays so.

    :param caller: subject of the token that asks.
    :param sees_all: whether the caller may know of other people's reservations.
    :raises ReservationNotFound: there is none that the caller may know of.
    :raises ReservationForeign: it is somebody else's.
    :raises ReservationEnded: it was released or has expired.
    """
    known = find_reservation(session, id=id, holder=None if sees_all else caller)
    product_id = known["product_id"]
    # First the product, then its reservations: everybody locks in this order, so nobody
    # waits in a circle.
    _lock_stock(session, product_id)
    reservation = _lock(session, id, caller, sees_all=sees_all)
    if not _holds(reservation, "committed"):
        return reservation
    view = _end(session, reservation, "committed")
    session.execute(
        update(Product)
        .where(Product.id == product_id)
        .values(
            stock=Product.stock - view["quantity"],
            version=Product.version + 1,
            versions_sold=Product.versions_sold + 1,
            updated_at=func.clock_timestamp(),
        )
    )
    # What is available stays the same: as much less is held.
    product = find_product(session, id=product_id, hidden=True)
    emit_changed(session, [(product, ["stock"])])
    before = {"stock": product["stock"] + view["quantity"]}
    audit.record(session, "product", [(before, product, ["stock"])])
    return view


def release_reservation(
    session: Session, *, id: UUID, caller: str, sees_all: bool
) -> View:
    """Give back what is held and return the reservation.

    Safe to repeat: what is released stays so. Parameters and failures are those of
    `commit_reservation`.
    """
    # Without the product's lock: that more becomes available disturbs nobody.
    reservation = _lock(session, id, caller, sees_all=sees_all)
    if not _holds(reservation, "released"):
        return reservation
    return _end(session, reservation, "released")


def _lock_stock(session: Session, product_id: UUID) -> Any:  # noqa: ANN401 (a row)
    """Return status and stock of a product that nobody can sell or change meanwhile."""
    return session.execute(
        select(Product.status, Product.stock)
        .where(Product.id == product_id)
        # Reviews and whatever else only refers to the product need not wait.
        .with_for_update(key_share=True)
    ).one_or_none()


def _lock(session: Session, id: UUID, caller: str, *, sees_all: bool) -> View:
    row = session.execute(
        select(*RESERVATION_VIEW).where(Reservation.id == id).with_for_update()
    ).one_or_none()
    if row is None or (row.holder != caller and not sees_all):
        raise ReservationNotFound(f"There is no reservation {id}.")
    if row.holder != caller:
        raise ReservationForeign("Only who reserved can end it; else it expires.")
    return row._asdict()


def _holds(reservation: View, wanted: str) -> bool:
    """Say whether a reservation can be ended so; False when it has been already.

    :raises ReservationEnded: it has ended in another way.
    """
    state = reservation["state"]
    if state not in {"held", wanted}:
        raise ReservationEnded(f"It is {state}.", state=state)
    return bool(state == "held")


def _end(session: Session, reservation: View, state: str) -> View:
    row = session.execute(
        update(Reservation)
        .where(Reservation.id == reservation["id"])
        .values(
            outcome=state,
            ended_at=MOMENT,
            version=Reservation.version + 1,
            updated_at=MOMENT,
        )
        .returning(*RESERVATION_VIEW)
    ).one()
    view = row._asdict()
    holds.emit_changed(session, [view], changed=["state"])
    audit.record(session, "reservation", [(reservation, view, ["state"])])
    return view
