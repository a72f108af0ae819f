"""Products: find, list, create, change and delete them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic_core import from_json, to_jsonable_python
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Integer,
    Select,
    Subquery,
    Table,
    Text,
    Update,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    update,
    values,
)
from sqlalchemy import column as column_of
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased
from uuid_utils.compat import uuid7

from flagon_catalog.models import (
    HELD,
    PRODUCT_RATING,
    PRODUCT_VIEW,
    Category,
    Image,
    Price,
    Product,
    Review,
    Tag,
    product_tag,
)
from flagon_chassis import events
from flagon_chassis.errors import Conflict, Invalid, NotFound

from . import audit, holds, slugs, words
from .attribute_schemas import check_attributes, same
from .categories import Shelf, lock_shelf, within
from .markup import article_of
from .shapes import WHOLE, Shape
from .tags import find_tag_ids, set_tags

if TYPE_CHECKING:
    import psycopg

View = dict[str, Any]
"""A product as the API shows it, by field name."""

_VIEW = WHOLE.select()
_WRITTEN = (
    Product.id,
    PRODUCT_RATING,
    Product.version,
    Product.created_at,
    Product.updated_at,
    Product.price_minor,
    Product.currency,
)
_GENERATED = ("id", "rating", "version", "created_at", "updated_at")
_PRICE = frozenset({"price_minor", "currency"})
_FITTING = frozenset({"attributes", "category"})
_RENDERED_AT_ONCE = 200
"""Descriptions of one transaction: 4 MB at most, and a moment's locks."""
_STATEMENTS_KEPT = 256
_PRODUCTS = cast("Table", Product.__table__)
# Parameters named as columns are would be set, too.
_SET = "set_"
_KEY = "key"
_GOES_ALONG: tuple[tuple[type[Review | Image], str, Sequence[Any]], ...] = (
    (Review, "review", (Review.id, Review.version, Review.product_id, Review.state)),
    (Image, "image", (Image.id, Image.version, Image.product_id, Image.sha256)),
)


class ProductNotFound(NotFound):
    """There is no such product."""


class SkuTaken(Conflict):
    """Another product already has this SKU."""


class SlugTaken(Conflict):
    """Another product already has this slug."""


class StockHeld(Conflict):
    """More is held for reservations than the stock would be."""


class ProductHeld(Conflict):
    """Reservations hold some of this product."""


class CategoryUnknown(Invalid):
    """The product's category does not exist."""


class RelevanceUnknown(Invalid):
    """Only a search has a relevance to sort by."""


_TAKEN = {"uq_product_sku": (SkuTaken, "sku"), "uq_product_slug": (SlugTaken, "slug")}


# A word that is being typed: of two letters or more, for one begins too many.
_LAST_WORD = re.compile(r"(?<!\S)[^\W_]{2,}\Z")


@dataclass(frozen=True)
class Filter:
    """Which products a list is about; None does not filter."""

    statuses: tuple[str, ...] = ("active",)
    q: str | None = None
    """Words to search for; `"a phrase"`, `or` and `-without` work as on the web."""
    prefix: bool = False
    """Whether the last word may be the beginning of one."""
    category: str | None = None
    """A category's slug; what is in the categories in it counts too."""
    tag: tuple[str, ...] = ()
    """Slugs of tags; a product must have all of them."""
    attribute: tuple[str, ...] = ()
    """`name:value` each; a product must fit all of them."""
    sku: str | None = None
    slug: str | None = None
    currency: str | None = None
    price_minor_min: int | None = None
    price_minor_max: int | None = None
    in_stock: bool | None = None
    """Whether any is available."""


def find_product(
    session: Session,
    *,
    id: UUID | None = None,
    slug: str | None = None,
    sku: str | None = None,
    hidden: bool = False,
    shape: Shape = WHOLE,
) -> View:
    """Return one product, by its id, its slug or its SKU.

    :param shape: what to select; more comes with it, see `Shape.show`.
    :param hidden: whether drafts and archived products are found as well.
    :raises ProductNotFound: there is none.
    """
    keys = ((Product.id, id), (Product.slug, slug), (Product.sku, sku))
    column, value = next(pair for pair in keys if pair[1] is not None)
    row = session.execute(shape.select().where(column == value)).one_or_none()
    if row is None or not visible(row.status, hidden=hidden):
        raise ProductNotFound(f"There is no product {value}.")
    return row._asdict()


def visible(status: str, *, hidden: bool) -> bool:
    """Return whether a product of this status is shown.

    :param hidden: whether the caller sees drafts and archived products as well.
    """
    return hidden or status == "active"


def find_products(
    session: Session, ids: Iterable[UUID], *, hidden: bool = False
) -> dict[UUID, View]:
    """Return those of these products that are there, by id.

    :param hidden: whether drafts and archived products are found as well.
    """
    rows = session.execute(_VIEW.where(Product.id.in_(set(ids))))
    return {row.id: row._asdict() for row in rows if visible(row.status, hidden=hidden)}


def find_articles(
    session: Session, views: Iterable[Mapping[str, Any]]
) -> dict[UUID, str]:
    """Return the descriptions of these products as HTML, by id."""
    made = select(Product.id, Product.description_html)
    described = {view["id"]: view["description"] for view in views}
    rows = session.execute(made.where(Product.id.in_(described)))
    html: dict[UUID, str | None] = {row.id: row.description_html for row in rows}
    # Those from before there was any have none yet.
    return {id_: html.get(id_) or article_of(text) for id_, text in described.items()}


def list_products(
    session: Session,
    wanted: Filter,
    *,
    sort: str,
    limit: int,
    after: Sequence[Any] | None = None,
    shape: Shape = WHOLE,
) -> list[View]:
    """Return one page of products, each with its `position` in the order.

    :param sort: `relevance` (the best first), or `created_at`, `name` or `price_minor`,
        with a minus in front for the reverse.
    :param after: position and id of the last product of the page before.
    :param shape: what to select; more comes with it, see `Shape.show`.
    :raises RelevanceUnknown: it is to be sorted by relevance without a search.
    """
    last = None if after is None else tuple(after)
    # Of its connection: rows without entities need nothing that the session would add.
    result = session.connection().execute(_listing(shape, wanted, sort, limit, last))
    # Half the time of `Row._asdict`, and this is the busiest line of the shop.
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


# To put one together takes as long as all else here, and most people ask for the same.
@lru_cache(maxsize=_STATEMENTS_KEPT)
def _listing(
    shape: Shape, wanted: Filter, sort: str, limit: int, after: tuple[Any, ...] | None
) -> Select[Any]:
    """Return the statement of `list_products`."""
    # Without a search each status is a range of its own in the index of the order.
    merged = wanted.q is None and (wanted.category, len(wanted.statuses)) != (None, 1)
    within_range = replace(wanted, statuses=()) if merged else wanted
    position, page = _paged(within_range, sort, limit, after)
    backward = _backward(sort)
    if merged:
        return _merged(shape, wanted, page, position, limit, backward=backward)
    if wanted.q is None:
        return page(shape.select().add_columns(position.label("position")))
    return _ranked(shape, wanted, page, position, backward=backward)


def list_products_in(
    session: Session,
    categories: Sequence[str],
    wanted: Filter,
    *,
    sort: str,
    limit: int,
    after: Sequence[Any] | None = None,
) -> dict[str, list[View]]:
    """Return one page of products of each of these categories, in one statement.

    Each page is the one that `list_products` gives for that category; there is an empty
    one for a category that does not exist.

    :param categories: slugs; the one in `wanted` does not count.
    """
    position, page = _paged(wanted, sort, limit, after)
    backward = _backward(sort)
    top = aliased(Category)
    shelf = (
        select(top.slug.label("top"), Category.id)
        .join(Category, within(top.slug))
        .where(top.slug.in_(categories))
        .subquery("shelf")
    )
    nearest = page(
        select(Product.id, position.label("position")).where(
            Product.category_id == shelf.c.id
        )
    ).lateral("nearest")
    order = _ordered(nearest.c.position, nearest.c.id, backward=backward)
    ranked = (
        select(
            shelf.c.top,
            nearest.c.id,
            nearest.c.position,
            func.row_number()
            .over(partition_by=shelf.c.top, order_by=order)
            .label("place"),
        )
        .select_from(shelf.join(nearest, true()))
        .subquery("ranked")
    )
    rows = session.execute(
        WHOLE.select()
        .add_columns(ranked.c.position, ranked.c.top)
        .join(ranked, ranked.c.id == Product.id)
        .where(ranked.c.place <= limit)
        .order_by(ranked.c.top, ranked.c.place)
    )
    pages: dict[str, list[View]] = {slug: [] for slug in categories}
    for row in rows:
        view = row._asdict()
        pages[view.pop("top")].append(view)
    return pages


def _backward(sort: str) -> bool:
    return sort == "relevance" or sort.startswith("-")


def _paged(
    wanted: Filter, sort: str, limit: int, after: Sequence[Any] | None
) -> tuple[ColumnElement[Any], Callable[[Select[Any]], Select[Any]]]:
    """Return the position in the order, and what makes a page of a selection."""
    query = None if wanted.q is None else query_of(wanted.q, prefix=wanted.prefix)
    position = _position(sort.lstrip("-"), query)
    backward = _backward(sort)

    def page(statement: Select[Any]) -> Select[Any]:
        statement = _filtered(statement, wanted, query).limit(limit)
        if after is not None:
            order, last = tuple_(position, Product.id), tuple(after)
            statement = statement.where(order < last if backward else order > last)
        return statement.order_by(
            *_ordered(position, Product.id.expression, backward=backward)
        )

    return position, page


def matching(statement: Select[Any], wanted: Filter) -> Select[Any]:
    """Return a selection of the products that a list is about, in no order."""
    query = None if wanted.q is None else query_of(wanted.q, prefix=wanted.prefix)
    statement = _filtered(statement, wanted, query)
    return statement if wanted.category is None else _inside(statement, wanted.category)


def _inside(statement: Select[Any], category: str) -> Select[Any]:
    shelves = select(Category.id).where(within(category))
    return statement.where(Product.category_id.in_(shelves))


def _ordered(
    position: ColumnElement[Any], id_: ColumnElement[UUID], *, backward: bool
) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return (position.desc(), id_.desc()) if backward else (position, id_)


def _merged(
    shape: Shape,
    wanted: Filter,
    page: Callable[[Select[Any]], Select[Any]],
    position: ColumnElement[Any],
    limit: int,
    *,
    backward: bool,
) -> Select[Any]:
    """Return the list of a category and all in it, or of several statuses, or of both.

    One page of each is read from the index that gives its order, and they are merged: so
    the work depends on the number of categories and not on the number of products.
    """
    statuses = values(column_of("status", Text), name="state").data(
        [(one,) for one in wanted.statuses]
    )
    ranges = select(statuses.c.status)
    if wanted.category is not None:
        ranges = (
            ranges.add_columns(Category.id.label("category_id"))
            .select_from(Category)
            .join(statuses, true())
            .where(within(wanted.category))
        )
    shelf = ranges.subquery("shelf")
    matches = [Product.status == shelf.c.status]
    if wanted.category is not None:
        matches.append(Product.category_id == shelf.c.category_id)
    nearest = page(
        select(Product.id, position.label("position")).where(*matches)
    ).lateral("nearest")
    merged = (
        select(nearest.c.id, nearest.c.position)
        .select_from(shelf.join(nearest, true()))
        .order_by(*_ordered(nearest.c.position, nearest.c.id, backward=backward))
        .limit(limit)
        .subquery("page")
    )
    return _shown(shape, merged, backward=backward)


def _ranked(
    shape: Shape,
    wanted: Filter,
    page: Callable[[Select[Any]], Select[Any]],
    position: ColumnElement[Any],
    *,
    backward: bool,
) -> Select[Any]:
    """Return the list of a search.

    All that it finds has to be read and sorted, and only then a page of it is shown: what
    belongs to a product, such as its reservations, is not looked up for the others.
    """
    found = select(Product.id, position.label("position"))
    if wanted.category is not None:
        # A search finds few products, and once is enough.
        found = _inside(found, wanted.category)
    return _shown(shape, page(found).subquery("page"), backward=backward)


def _shown(shape: Shape, page: Subquery, *, backward: bool) -> Select[Any]:
    """Return what is shown of the products of a page, which has `id` and `position`."""
    return (
        shape.select()
        .add_columns(page.c.position)
        .join(page, page.c.id == Product.id)
        .order_by(*_ordered(page.c.position, page.c.id, backward=backward))
    )


def query_of(q: str, *, prefix: bool = False) -> ColumnElement[Any]:
    """Return what Postgres is to search for.

    :param prefix: whether the last word may be the beginning of one.
    """
    # An accent is no reason not to find something; the index has none (models.SEARCH).
    folded = words.folded(q)
    whole = _searched(folded)
    last = _LAST_WORD.search(folded) if prefix else None
    if last is None:
        return whole
    # Letters and digits alone, so nothing in it has a meaning for Postgres.
    begun = func.to_tsquery(literal_column("'simple'::regconfig"), f"{last[0]}:*")
    rest = folded[: last.start()].strip()
    return whole.op("||")(_searched(rest).op("&&")(begun) if rest else begun)


def _searched(folded: str) -> ColumnElement[Any]:
    # English finds other forms of a word, simple finds names made of stop words.
    english, simple = (
        func.websearch_to_tsquery(literal_column(f"'{config}'::regconfig"), folded)
        for config in ("english", "simple")
    )
    return english.op("||")(simple)


def _position(sort: str, query: ColumnElement[Any] | None) -> ColumnElement[Any]:
    """Return what a list is ordered by, before the id."""
    match sort:
        case "created_at":
            return Product.created_at.expression
        case "price_minor":
            return Product.price_minor.expression
        case "name":
            return func.lower(Product.name)
    if query is None:
        raise RelevanceUnknown("Give `q`, or sort by something else.")
    # A whole number, because a cursor must give back exactly what it was given. The 1
    # makes long texts count less.
    return (func.ts_rank(Product.search, query, 1) * 1_000_000).cast(Integer)


def _filtered(
    statement: Select[Any], wanted: Filter, query: ColumnElement[Any] | None
) -> Select[Any]:
    """Add all filters but the category, which is the caller's.

    Without statuses that one is the caller's, too.
    """
    conditions: list[ColumnElement[bool]] = []
    if len(wanted.statuses) == 1:
        # Equality with one status lets the index give the order.
        conditions.append(Product.status == wanted.statuses[0])
    elif wanted.statuses:
        conditions.append(Product.status.in_(wanted.statuses))
    if query is not None:
        conditions.append(Product.search.op("@@")(query))
    conditions.extend(_tagged(slug) for slug in wanted.tag)
    conditions.extend(_attributed(each) for each in wanted.attribute)
    for column, value in (
        (Product.sku, wanted.sku),
        (Product.slug, wanted.slug),
        (Product.currency, wanted.currency),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.price_minor_min is not None:
        conditions.append(Product.price_minor >= wanted.price_minor_min)
    if wanted.price_minor_max is not None:
        conditions.append(Product.price_minor <= wanted.price_minor_max)
    if wanted.in_stock is not None:
        # What somebody holds cannot be bought, so it does not count.
        conditions.append(
            Product.stock > HELD if wanted.in_stock else Product.stock <= HELD
        )
    return statement.where(*conditions)


def _tagged(slug: str) -> ColumnElement[bool]:
    """Return whether a product has a tag; the planner may begin at either of the two."""
    tag = select(Tag.id).where(Tag.slug == slug).scalar_subquery()
    return (
        select(product_tag.c.product_id)
        .where(product_tag.c.product_id == Product.id, product_tag.c.tag_id == tag)
        .exists()
    )


def _attributed(wanted: str) -> ColumnElement[bool]:
    """Return whether a product has an attribute; an index on `attributes` knows."""
    name, _, value = wanted.partition(":")
    meant: list[object] = [value]
    with suppress(ValueError):
        # In an address there is no telling 5 from "5", or true from "true".
        known = from_json(value, allow_inf_nan=False)
        # 1e400 is JSON, and no number to Python.
        if known is None or (isinstance(known, bool | int | float) and isfinite(known)):
            meant.append(known)
    forms = [form for each in meant for form in (each, [each])]
    return or_(*(Product.attributes.contains({name: form}) for form in forms))


def create_product(session: Session, fields: Mapping[str, Any]) -> View:
    """Add one product and return it as the API shows it.

    :param fields: every field that a client sets; a `slug` of None is made of the name.
    :raises SkuTaken: a product with this SKU exists.
    :raises SlugTaken: a product with this very slug exists.
    :raises CategoryUnknown: there is no category with this slug.
    :raises AttributesUnfit: its category asks for others.
    :raises TagUnknown: there is no tag with one of these slugs.
    """
    id_ = uuid7()
    given = fields["slug"]
    tags = find_tag_ids(session, fields["tags"])
    choices = (given,) if given else slugs.choices(fields["name"], fields["sku"], id_)
    shelf = _shelf(session, fields["category"])
    if shelf:
        check_attributes(fields["attributes"], shelf.rules)
    columns = _columns(fields, shelf)
    values, created = _insert(session, {**columns, "id": id_}, choices)
    if tags:
        set_tags(session, id_, tags)
    # Nobody can have reserved what nobody has seen.
    available = fields["stock"]
    view = _in_order({**fields, "available": available, **values, **created})
    emit_changed(session, [(view, list(view))])
    audit.record(session, "product", [(None, view, None)])
    return view


def _insert(
    session: Session, columns: dict[str, Any], choices: Sequence[str]
) -> tuple[dict[str, Any], View]:
    """Add a product with the first slug that is free.

    Returns its columns and what the database set itself.
    """
    *nicer, last = choices
    for slug in nicer:
        values = {**columns, "slug": slug}
        # Not an error that is caught: it would cost a savepoint, two round trips.
        created = _try_write(session, _adding(tuple(values), yielding=True), values)
        if created is not None:
            return values, created
    values = {**columns, "slug": last}
    return values, _write(session, _adding(tuple(values), yielding=False), values)


def lock_product(session: Session, *, id: UUID) -> View:
    """Return a product that nobody else can change before the transaction ends.

    :raises ProductNotFound: there is none.
    """
    locked = session.scalar(
        select(Product.id).where(Product.id == id).with_for_update()
    )
    if locked is None:
        raise ProductNotFound(f"There is no product {id}.")
    # Only now: a statement that waits for a row sees that row as it then is, but what
    # belongs to it (category, tags, reservations) as it was when the wait began.
    return session.execute(_VIEW.where(Product.id == id)).one()._asdict()


def last_edit(session: Session, product: View) -> int:
    """Return the version of a locked product since which only sales have changed it."""
    sold = session.scalar(
        select(Product.versions_sold).where(Product.id == product["id"])
    )
    return int(product["version"] - (sold or 0))


def change_product(session: Session, product: View, fields: Mapping[str, Any]) -> View:
    """Set fields of a locked product and return it as the API shows it.

    When nothing differs there is no new version and no event. Attributes are checked when
    they or the category differ: what a category asks for later is no obstacle to others.

    :raises SkuTaken: another product has the new SKU.
    :raises SlugTaken: another product has the new slug.
    :raises CategoryUnknown: there is no category with this slug.
    :raises AttributesUnfit: its category asks for others.
    :raises StockHeld: the stock would be less than what is held.
    :raises TagUnknown: there is no tag with one of these slugs.
    """
    # Not `!=`, for which true is 1: attributes have both.
    changed = {
        name: value for name, value in fields.items() if not same(product[name], value)
    }
    if not changed:
        return product
    shelf = None
    if not changed.keys().isdisjoint(_FITTING):
        now = {**product, **changed}
        shelf = _shelf(session, now["category"])
        if shelf:
            check_attributes(now["attributes"], shelf.rules)
    held = _held(session, product, changed["stock"]) if "stock" in changed else 0
    if "tags" in changed:
        tags = find_tag_ids(session, changed["tags"])
        set_tags(session, product["id"], tags)
    values = _columns(changed, shelf)
    written = _write(
        session,
        _changing(tuple(values), priced=not _PRICE.isdisjoint(changed)),
        values,
        product,
    )
    if "stock" in changed:
        changed["available"] = changed["stock"] - held
    view = _in_order({**product, **changed, **written})
    emit_changed(session, [(view, list(changed))])
    audit.record(session, "product", [(product, view, list(changed))])
    return view


def _held(session: Session, product: View, stock: int) -> int:
    """Return how much of a locked product is held, if this stock is enough for it."""
    held = holds.settle(session, product["id"])
    if stock < held:
        detail = f"{held} are held for reservations."
        wrong = [{"pointer": "#/stock", "detail": detail}]
        raise StockHeld(detail, held=held, errors=wrong)
    return held


def archive_product(session: Session, product: View) -> View:
    """Take a locked product out of the shop and return it as the API shows it.

    All that belongs to it stays, what is held too; a change of its status brings it back.
    When it is archived already there is no new version and no event.
    """
    return change_product(session, product, {"status": "archived"})


def delete_product(session: Session, product: View) -> None:
    """Delete a locked product for good, with its prices, reviews and images.

    :raises ProductHeld: reservations hold some of it.
    """
    held = holds.settle(session, product["id"])
    if held:
        raise ProductHeld(
            f"{held} are held: archive it, and delete it when they have ended.",
            held=held,
        )
    # What would go by itself leaves its rows in the audit, too.
    for table, entity, columns in _GOES_ALONG:
        gone = session.execute(
            delete(table).where(table.product_id == product["id"]).returning(*columns)
        )
        audit.record(session, entity, ((row._asdict(), None, None) for row in gone))
    session.execute(delete(Product).where(Product.id == product["id"]))
    audit.record(session, "product", [(product, None, None)])
    events.emit(
        session,
        "product.deleted.v1",
        subject=str(product["id"]),
        data={"id": str(product["id"]), "sku": product["sku"]},
        topics=["products", f"products/{product['id']}"],
    )


def emit_changed(
    session: Session, changes: Iterable[tuple[View, Sequence[str]]]
) -> None:
    """Add an event for each product: the product and the names of what changed."""
    events.emit_many(
        session,
        [
            (
                "product.changed.v1",
                str(view["id"]),
                {**to_jsonable_python(dict(view)), "changed": list(names)},
                ["products", f"products/{view['id']}"],
            )
            for view, names in changes
        ],
    )


def _columns(fields: Mapping[str, Any], shelf: Shelf | None) -> dict[str, Any]:
    """Return fields as columns: the category becomes its id, tags are none.

    With a description goes its HTML.
    """
    columns = {name: value for name, value in fields.items() if name != "tags"}
    if "description" in columns:
        columns["description_html"] = article_of(columns["description"])
    if "category" in columns:
        del columns["category"]
        columns["category_id"] = shelf.id if shelf else None
    return columns


def _shelf(session: Session, slug: str | None) -> Shelf | None:
    if slug is None:
        return None
    shelf = lock_shelf(session, slug)
    if shelf is None:
        detail = f"There is no category {slug}."
        raise CategoryUnknown(
            detail, errors=[{"pointer": "#/category", "detail": detail}]
        )
    return shelf


# To put together the statement of a write takes longer than to carry it out.
@lru_cache(maxsize=_STATEMENTS_KEPT)
def _adding(names: tuple[str, ...], *, yielding: bool) -> Select[Any]:
    """Return what adds a product with these columns; see `_writing`.

    :param yielding: whether it adds nothing where another product has the slug.
    """
    adding = insert(_PRODUCTS).values(_to_be_set(names))
    if yielding:
        adding = adding.on_conflict_do_nothing(index_elements=["slug"])
    return _writing(adding, priced=True)


@lru_cache(maxsize=_STATEMENTS_KEPT)
def _changing(names: tuple[str, ...], *, priced: bool) -> Select[Any]:
    """Return what changes these columns of a product; see `_writing`."""
    changing = (
        update(_PRODUCTS)
        .where(_PRODUCTS.c.id == bindparam(_KEY))
        .values(
            **_to_be_set(names),
            version=_PRODUCTS.c.version + 1,
            versions_sold=0,
            updated_at=func.clock_timestamp(),
        )
    )
    return _writing(changing, priced=priced)


def _to_be_set(names: Iterable[str]) -> dict[str, BindParameter[Any]]:
    return {
        name: bindparam(_SET + name, type_=_PRODUCTS.c[name].type) for name in names
    }


def _writing(statement: Insert | Update, *, priced: bool) -> Select[Any]:
    """Return a statement that writes a product and tells what the database sets itself.

    In the same round trip it writes down which words the product has.

    :param priced: whether it writes the price into the history too.
    """
    written = statement.returning(*_WRITTEN).cte("written")
    told = select(*(written.c[name] for name in _GENERATED))
    told = told.add_cte(words.LEARN.cte("learned"))
    if not priced:
        return told
    columns = ("id", "version", "price_minor", "currency", "updated_at")
    price = insert(Price).from_select(
        ["product_id", "version", "price_minor", "currency", "from"],
        select(*(written.c[name] for name in columns)),
    )
    return told.add_cte(price.cte("priced"))


def _write(
    session: Session,
    statement: Select[Any],
    values: Mapping[str, Any],
    product: Mapping[str, Any] = MappingProxyType({}),
) -> View:
    """Write one product and return what the database sets itself; see `_try_write`."""
    return cast("View", _try_write(session, statement, values, product))


def _try_write(
    session: Session,
    statement: Select[Any],
    values: Mapping[str, Any],
    product: Mapping[str, Any] = MappingProxyType({}),
) -> View | None:
    """Do the same, and return None if the statement leaves a slug to who has it.

    :param values: of the columns that are set.
    :param product: what it was before; empty for a new one.
    :raises SkuTaken: another product has this SKU; the transaction is lost.
    :raises SlugTaken: another product has this slug; the transaction is lost.
    """
    given = {_SET + name: value for name, value in values.items()}
    given["words"] = words.words_of([values])
    if product:
        given[_KEY] = product["id"]
    try:
        written = session.connection().execute(statement, given).one_or_none()
    except IntegrityError as error:
        failure, name = _TAKEN[broken_rule(error)]
        detail = f"{({**product, **values})[name]} is in use."
        wrong = [{"pointer": f"#/{name}", "detail": detail}]
        raise failure(detail, errors=wrong) from error
    return written._asdict() if written else None


def broken_rule(error: IntegrityError) -> str:
    """Return the name of the constraint that the database found broken."""
    return str(cast("psycopg.Error", error.orig).diag.constraint_name)


def render_products(session: Session, *, after: UUID | None) -> tuple[UUID | None, int]:
    """Make the HTML of some descriptions anew, as today's code does it; safe to repeat.

    One that was not made yet is no change: readers were shown the same.

    :param after: the last product of the call before, None to begin.
    :returns: the last product that was looked at, None when there are no more, and how
        many were written.
    """
    statement = (
        select(Product.id, Product.description, Product.description_html)
        .order_by(Product.id)
        .limit(_RENDERED_AT_ONCE)
    )
    if after is not None:
        statement = statement.where(Product.id > after)
    found = session.execute(statement.with_for_update()).all()
    written = 0
    for row in found:
        html = article_of(row.description)
        if html == row.description_html:
            continue
        written += 1
        one = update(Product).where(Product.id == row.id)
        session.execute(one.values(description_html=html))
        if row.description_html is None:
            continue
        session.execute(
            one.values(version=Product.version + 1, updated_at=func.clock_timestamp())
        )
        view = session.execute(_VIEW.where(Product.id == row.id)).one()._asdict()
        emit_changed(session, [(view, ["description_html"])])
        audit.record(session, "product", [({}, view, ["description_html"])])
    return (found[-1].id if found else None), written


def _in_order(fields: Mapping[str, Any]) -> View:
    return {column.key: fields[column.key] for column in PRODUCT_VIEW}
