"""How many products of a list have which category, tag, status, currency and price."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    Text,
    cast,
    func,
    literal,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from flagon_catalog.models import Category, Product, Tag, product_tag
from flagon_chassis.errors import Invalid

from .products import Filter, matching

COUNTED_MAX = 100_000
"""Most products that are counted; more make the counts lower bounds."""
VALUES_MAX = 50
"""Most values of one facet: those that the most products have."""
PRICES = (0, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000)
"""Where ranges of prices begin, in minor units of whatever currency."""


_COUNTED: tuple[Any, ...] = (
    Product.id,
    Product.category_id,
    Product.status,
    Product.currency,
    Product.price_minor,
)


class FacetUnknown(Invalid):
    """Lists have no such facet."""


def _category(found: CTE) -> Select[Any]:
    # A product counts for every category that it would be found in.
    shelves = (
        select(found.c.category_id, func.count().label("count"))
        .group_by(found.c.category_id)
        .subquery("shelves")
    )
    above = (
        func.unnest(Category.path).table_valued("slug", name="above").render_derived()
    )
    return (
        select(above.c.slug, func.sum(shelves.c.count).label("count"))
        .select_from(shelves)
        .join(Category, Category.id == shelves.c.category_id)
        .join(above, true())
        .group_by(above.c.slug)
    )


def _tag(found: CTE) -> Select[Any]:
    return (
        _selected(Tag.slug.expression, func.count().label("count"))
        .select_from(found)
        .join(product_tag, product_tag.c.product_id == found.c.id)
        .join(Tag, Tag.id == product_tag.c.tag_id)
        .group_by(Tag.slug)
    )


def _column(name: str) -> Callable[[CTE], Select[Any]]:
    def count(found: CTE) -> Select[Any]:
        return select(found.c[name], func.count().label("count")).group_by(
            found.c[name]
        )

    return count


def _price(found: CTE) -> Select[Any]:
    place: ColumnElement[int] = func.width_bucket(found.c.price_minor, array(PRICES))
    return _selected(place.label("place"), func.count().label("count")).group_by(place)


def _selected(*columns: ColumnElement[Any]) -> Select[Any]:
    return select(*columns)


_FACETS: dict[str, Callable[[CTE], Select[Any]]] = {
    "category": _category,
    "tag": _tag,
    "status": _column("status"),
    "currency": _column("currency"),
    "price": _price,
}
NAMES = tuple(_FACETS)


def count_facets(
    session: Session, wanted: Filter, names: Sequence[str]
) -> dict[str, Any]:
    """Return how many of the products of a list have which value, the most first.

    All filters count, also one by the facet itself. One statement, whatever is asked for.

    :param names: some of `NAMES`.
    """
    found = (
        matching(
            select(*_COUNTED),
            wanted,
        )
        .limit(COUNTED_MAX)
        .cte("found")
    )
    parts = [
        select(literal("").label("facet"), null().label("value"), func.count())
        .select_from(found)
        .subquery()
    ]
    for name in names:
        counts = _FACETS[name](found).subquery(f"of_{name}")
        value = cast(counts.c[0], Text)
        parts.append(
            select(literal(name), value, counts.c.count)
            .order_by(counts.c.count.desc(), value.collate("C"))
            .limit(VALUES_MAX)
            .subquery()
        )
    rows = session.execute(union_all(*(select(part) for part in parts))).all()
    counted = {
        name: [(value, int(count)) for facet, value, count in rows if facet == name]
        for name in ("", *names)
    }
    [(_, total)] = counted.pop("")
    shown: dict[str, Any] = {
        name: [{"value": value, "count": count} for value, count in values]
        for name, values in counted.items()
    }
    if "price" in counted:
        shown["price"] = [
            _range(int(place), count)
            for place, count in sorted(counted["price"], key=lambda pair: int(pair[0]))
        ]
    return {"complete": total < COUNTED_MAX, **shown}


def _range(place: int, count: int) -> dict[str, int | None]:
    """Return a range as the filters of a list take it, both ends included."""
    return {
        "price_minor_min": PRICES[place - 1],
        "price_minor_max": PRICES[place] - 1 if place < len(PRICES) else None,
        "count": count,
    }
