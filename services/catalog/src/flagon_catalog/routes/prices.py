"""The prices of the API that products have had."""

from uuid import UUID

from apiflask import APIBlueprint
from flask import Response

from flagon_catalog.domain import prices
from flagon_catalog.schemas import PricePage, PriceQuery
from flagon_chassis import auth, paging
from flagon_chassis.db import reading

from . import answer_if_changed, listed, refuse_unclear, sees_hidden

bp = APIBlueprint(
    "prices",
    __name__,
    url_prefix="/api/v1/products/<uuid:product_id>/prices",
    tag="Prices",
)
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)

FIELDS = ["version", "price_minor", "currency", "from"]


@bp.get("")
@auth.open_route
@bp.doc(operation_id="list_prices", responses=[404])
@bp.input(PriceQuery, location="query", arg_name="asked")
@bp.output(PricePage)
def list_prices(product_id: UUID, asked: PriceQuery) -> Response:
    """List the prices that a product has had, the newest first."""
    hidden = sees_hidden()
    purpose = purpose_of(product_id)
    with reading() as session:
        items, cursor = paging.page(
            purpose,
            asked,
            lambda after, limit: prices.list_prices(
                session,
                product_id=product_id,
                limit=limit,
                after=after,
                hidden=hidden,
            ),
            lambda price: price["version"],
        )
    return listed(items, cursor, FIELDS, "prices", hidden=hidden)


def purpose_of(product_id: UUID) -> str:
    """Return what a cursor of the prices of a product is good for."""
    return f"prices {product_id}"
