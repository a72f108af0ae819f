"""The reservations of the API: stock that is put aside."""

from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, url_for

from flagon_catalog.domain import reservations
from flagon_catalog.domain.holds import View
from flagon_catalog.models import RESERVATION_VIEW
from flagon_catalog.schemas import (
    NewReservation,
    ReservationPage,
    ReservationQuery,
    ReservationView,
)
from flagon_chassis import auth, conditional, idempotency, paging
from flagon_chassis.db import reading, transaction

from . import PAGING, WRITE, answer_if_changed, listed, refuse_unclear, shown

bp = APIBlueprint("reservations", __name__, url_prefix="/api/v1", tag="Reservations")
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)

FIELDS = [column.key for column in RESERVATION_VIEW]

SEE_ALL = frozenset({"merchandiser", "operator", "admin"})
"""Roles of the people who answer for the stock, and so must find out who holds it.

A service has no role, whatever its scopes: it sees what it reserved itself."""


@bp.post("/products/<uuid:product_id>/reservations")
@auth.requires(WRITE)
@bp.doc(
    operation_id="reserve_stock",
    responses={404: "", 409: "Not enough is available, or it is not for sale"},
)
@bp.input(NewReservation, arg_name="new")
@bp.output(ReservationView, 201)
def reserve_stock(product_id: UUID, new: NewReservation) -> Response:
    """Put a quantity of a product aside.

    It counts as sold until it is committed, released or `expires_in` seconds have passed.
    With an `Idempotency-Key` this can be repeated without a second effect.
    """

    def respond() -> Response:
        view = reservations.reserve_stock(
            session,
            product_id=product_id,
            quantity=new.quantity,
            seconds=new.expires_in,
            holder=auth.caller().sub,
            reference=new.reference,
        )
        location = url_for("reservations.find_reservation", reservation_id=view["id"])
        return _tagged(shown(view, 201, location=location), view)

    with transaction() as session:
        return idempotency.once(session, respond)


@bp.get("/reservations")
@auth.requires(WRITE)
@bp.doc(operation_id="list_reservations")
@bp.input(ReservationQuery, location="query", arg_name="asked")
@bp.output(ReservationPage)
def list_reservations(asked: ReservationQuery) -> Response:
    """List the caller's reservations, the newest first; merchandisers may list all."""
    if asked.holder == "any" and not _sees_all():
        raise reservations.ReservationForeign("Only merchandisers see all of them.")
    caller = auth.caller().sub
    purpose = f"reservations {caller} {asked.model_dump_json(exclude=PAGING)}"
    with reading() as session:
        items, cursor = paging.page(
            purpose,
            asked,
            lambda after, limit: reservations.list_reservations(
                session,
                holder=None if asked.holder == "any" else caller,
                state=asked.state,
                product_id=asked.product_id,
                limit=limit,
                after=after and UUID(after),
            ),
            lambda reservation: str(reservation["id"]),
        )
    return listed(items, cursor, FIELDS, "reservations")


@bp.get("/reservations/<uuid:reservation_id>")
@auth.requires(WRITE)
@bp.doc(operation_id="find_reservation", responses=[304, 404])
@bp.output(ReservationView)
def find_reservation(reservation_id: UUID) -> Response:
    """Show a reservation of the caller; merchandisers may see all."""
    holder = None if _sees_all() else auth.caller().sub
    with reading() as session:
        view = reservations.find_reservation(session, id=reservation_id, holder=holder)
    return _tagged(shown(view), view)


@bp.post("/reservations/<uuid:reservation_id>/commit")
@auth.requires(WRITE)
@bp.doc(
    operation_id="commit_reservation",
    responses={403: "", 404: "", 409: "It was released or has expired"},
)
@bp.output(ReservationView)
def commit_reservation(reservation_id: UUID) -> Response:
    """Take what is held out of the stock for good.

    Doing so again answers the same, with or without an `Idempotency-Key`.
    """

    def respond() -> Response:
        view = reservations.commit_reservation(
            session,
            id=reservation_id,
            caller=auth.caller().sub,
            sees_all=_sees_all(),
        )
        return _tagged(shown(view), view)

    with transaction() as session:
        return idempotency.once(session, respond)


@bp.post("/reservations/<uuid:reservation_id>/release")
@auth.requires(WRITE)
@bp.doc(
    operation_id="release_reservation",
    responses={403: "", 404: "", 409: "It was committed or has expired"},
)
@bp.output(ReservationView)
def release_reservation(reservation_id: UUID) -> Response:
    """Give back what is held.

    Doing so again answers the same, with or without an `Idempotency-Key`.
    """

    def respond() -> Response:
        view = reservations.release_reservation(
            session,
            id=reservation_id,
            caller=auth.caller().sub,
            sees_all=_sees_all(),
        )
        return _tagged(shown(view), view)

    with transaction() as session:
        return idempotency.once(session, respond)


def _sees_all() -> bool:
    return not SEE_ALL.isdisjoint(auth.caller().roles)


def _tagged(response: Response, view: View) -> Response:
    # The state is part of the tag because it expires before that is written down.
    return conditional.tagged(response, view["version"], str(view["id"]), view["state"])
