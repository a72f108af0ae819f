"""What products cost, and since when."""

from typing import Any
from uuid import UUID

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from flagon_catalog.models import Price, Product

from .products import ProductNotFound

_PRICE = (Price.version, Price.price_minor, Price.currency, Price.from_.label("from"))


def list_prices(
    session: Session,
    *,
    product_id: UUID,
    limit: int,
    after: int | None = None,
    hidden: bool = False,
) -> list[dict[str, Any]]:
    """Return the prices that a product has had, the newest first, as the API shows them.

    :param after: the product's version at the last price of the page before.
    :param hidden: whether those of drafts and archived products are found as well.
    :raises ProductNotFound: there is no such product.
    """
    newest = (
        select(*_PRICE)
        .where(Price.product_id == Product.id)
        .order_by(Price.version.desc())
        .limit(limit)
        .correlate(Product)
    )
    if after is not None:
        newest = newest.where(Price.version < after)
    page = newest.lateral("page")
    # One statement, so a product without more prices is not taken for one that is gone.
    rows = session.execute(
        select(Product.status, *page.c)
        .select_from(Product)
        .outerjoin(page, true())
        .where(Product.id == product_id)
        .order_by(page.c.version.desc())
    ).all()
    if not rows or not (hidden or rows[0].status == "active"):
        raise ProductNotFound(f"There is no product {product_id}.")
    return [
        {name: value for name, value in row._asdict().items() if name != "status"}
        for row in rows
        if row.version is not None
    ]
