"""What products cost, and since when."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from flagon_catalog.models import Price, Product

from .products import ProductNotFound, visible

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
    found = list_prices_of(
        session, [product_id], limit=limit, after=after, hidden=hidden
    )
    if product_id not in found:
        raise ProductNotFound(f"There is no product {product_id}.")
    return found[product_id]


def list_prices_of(
    session: Session,
    product_ids: Sequence[UUID],
    *,
    limit: int,
    after: int | None = None,
    hidden: bool = False,
) -> dict[UUID, list[dict[str, Any]]]:
    """Return one page of prices of each of these products, in one statement.

    As `list_prices` does for one; a product that is not found is not in the answer.
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
        select(Product.id, Product.status, *page.c)
        .select_from(Product)
        .outerjoin(page, true())
        .where(Product.id.in_(product_ids))
        .order_by(page.c.version.desc())
    )
    pages: dict[UUID, list[dict[str, Any]]] = {}
    for row in rows:
        if visible(row.status, hidden=hidden):
            prices = pages.setdefault(row.id, [])
            if row.version is not None:
                view = row._asdict()
                del view["id"], view["status"]
                prices.append(view)
    return pages
