"""The watches API: products whose price a person follows."""

import hashlib
from typing import Any, cast
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app, request, url_for

from flagon_chassis import auth, conditional, paging, web
from flagon_chassis.db import transaction
from flagon_chassis.errors import Forbidden, Invalid

from . import telemetry
from .domain import owners, watches
from .models import Watch
from .schedule_schemas import PageQuery
from .watch_schemas import WatchPage, WatchView, Wish

bp = APIBlueprint("watches", __name__, url_prefix="/api/v1/watches", tag="Watches")
# What every customer may: see what was done for them, and write in their own name.
READ, WRITE = "jobs:read", "reviews:write"


class AccountRequired(Forbidden):
    """Only people watch products."""


class WatchCurrencyWrong(Invalid):
    """The product is not sold in this currency."""


def _owner() -> str:
    """Return whose watches these are.

    :raises AccountRequired: a service asks, which nobody can write to.
    """
    caller = auth.caller()
    if caller.sid is None or caller.sub == caller.client_id:
        raise AccountRequired("Ask with a person's token.")
    return caller.sub


def _view(watch: Watch) -> dict[str, Any]:
    names = "product_id below_minor currency told_at created_at updated_at version"
    seen = {"price_minor": watch.seen_minor, "currency": watch.seen_currency}
    return {
        **{name: getattr(watch, name) for name in names.split()},
        "seen": seen if watch.seen_minor is not None else None,
    }


def _news(watch: Watch) -> str:
    """Return what tells two views of one version apart: events change none."""
    told = repr([watch.seen_minor, watch.seen_currency, watch.told_at])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _shown(watch: Watch, status: int = 200) -> Response:
    response = web.reply(
        WatchView,
        _view(watch),
        status,
        headers={"Cache-Control": "private, no-cache"},
    )
    response.set_etag(conditional.etag(watch.version, _news(watch)))
    return response


@bp.get("")
@auth.requires(READ)
@bp.doc(operation_id="list_watches", summary="List the caller's watches, newest first")
@bp.input(PageQuery, location="query", arg_name="asked")
@bp.output(WatchPage)
def list_watches(asked: PageQuery) -> Response:
    """List the products whose price the caller follows."""
    owner = _owner()
    purpose = f"watches of {owner}"
    before = UUID(paging.decode(purpose, asked.cursor)[0]) if asked.cursor else None
    with transaction() as session:
        found = watches.list_watches(
            session, owner, before=before, limit=asked.limit + 1
        )
    shown = found[: asked.limit]
    more = len(found) > asked.limit
    cursor = paging.encode(purpose, [str(shown[-1].id)]) if more else None
    return web.reply(
        WatchPage,
        {"items": [_view(watch) for watch in shown], "next_cursor": cursor},
        headers={"Cache-Control": "private, no-cache"},
    )


@bp.get("/<uuid:product_id>")
@auth.requires(READ)
@bp.doc(operation_id="find_watch", summary="Show a watch", responses=[304, 404])
@bp.output(WatchView)
def find_watch(product_id: UUID) -> Response:
    """Show the caller's watch of a product."""
    with transaction() as session:
        response = _shown(watches.find_watch(session, _owner(), product_id))
    response.make_conditional(request)
    return response


@bp.put("/<uuid:product_id>")
@auth.requires(WRITE)
@bp.doc(
    operation_id="watch_product",
    summary="Watch a product",
    responses={
        201: "It is watched from now on",
        404: "There is no such product",
        409: "There are as many watches as there may be",
        412: "",
        428: "",
    },
)
@bp.input(Wish, arg_name="wish")
@bp.output(WatchView)
def watch_product(product_id: UUID, wish: Wish) -> Response:
    """Have the caller told by mail and live of each time the product gets cheaper.

    The live event is `market.flagon.price.dropped.v1` under the topic `me`. A change of a
    watch needs `If-Match`. While the catalog is away, the product is not looked at.
    """
    owner = _owner()
    _check(product_id, wish)
    with transaction() as session:
        owners.hold(session, owner, "watches")
        try:
            watch = watches.find_watch(session, owner, product_id, lock=True)
        except watches.WatchNotFound:
            if "If-Match" in request.headers:
                raise
            watch = watches.create_watch(
                session, owner, product_id, **wish.model_dump()
            )
            status = 201
        else:
            conditional.require_match(watch.version, extras=[_news(watch)])
            watches.change_watch(session, watch, **wish.model_dump())
            status = 200
    if status == 201:  # noqa: PLR2004 (created)
        telemetry.count_watch("begun")
    if watch.seen_minor is None:
        watch = _priced(owner, product_id, watch)
    response = _shown(watch, status)
    if status == 201:  # noqa: PLR2004 (created)
        response.headers["Location"] = url_for(
            "watches.find_watch", product_id=product_id
        )
    return response


def _products() -> watches.Products:
    return cast("watches.Products", current_app.extensions["flagon.products"])


def _check(product_id: UUID, wish: Wish) -> None:
    """Refuse what the catalog would not know, if it can be asked."""
    try:
        offer = _products().find(product_id)
    except watches.CatalogAway:
        return
    if wish.currency not in {None, offer.currency}:
        detail = f"it is sold in {offer.currency}"
        raise WatchCurrencyWrong(
            f"The product {product_id} is sold in {offer.currency}.",
            errors=[{"pointer": "#/currency", "detail": detail}],
        )


def _priced(owner: str, product_id: UUID, watch: Watch) -> Watch:
    """Return the watch with what the product costs now, if the catalog can be asked."""
    try:
        offer = _products().find(product_id)
    except (watches.CatalogAway, watches.ProductUnknown):
        return watch
    with transaction() as session:
        watch = watches.find_watch(session, owner, product_id, lock=True)
        watches.note_price(session, watch, offer)
    return watch


@bp.delete("/<uuid:product_id>")
@auth.requires(WRITE)
@bp.doc(
    operation_id="delete_watch",
    summary="End a watch",
    responses={
        204: "Gone",
        404: "Not Found",
        412: "Precondition Failed",
        428: "Precondition Required",
    },
)
def delete_watch(product_id: UUID) -> Response:
    """No longer tell the caller of lower prices of a product."""
    with transaction() as session:
        watch = watches.find_watch(session, _owner(), product_id, lock=True)
        conditional.require_match(watch.version, extras=[_news(watch)])
        session.delete(watch)
    telemetry.count_watch("ended")
    return Response(status=204)
