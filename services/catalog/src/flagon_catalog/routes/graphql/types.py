"""What can be asked for: the types of the GraphQL schema and where their values come from.

Each resolver is one call of the function of the domain that serves the same over REST, or
of its twin for many parents; who may see what is decided there.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, NewType, TypeVar
from uuid import UUID

import strawberry
from pydantic import BaseModel, Field

from flagon_catalog.domain import categories, prices, products, reviews, searches
from flagon_catalog.domain import tags as tags_domain
from flagon_catalog.review_schemas import ProductReviewQuery
from flagon_catalog.routes import categories as category_routes
from flagon_catalog.routes import positions
from flagon_catalog.routes import prices as price_routes
from flagon_catalog.routes import products as product_routes
from flagon_catalog.routes import reviews as review_routes
from flagon_catalog.schemas import (
    CategoryQuery,
    CategorySlug,
    PriceQuery,
    ProductQuery,
    Sku,
    Slug,
)
from flagon_chassis import paging
from flagon_chassis.errors import Invalid
from flagon_chassis.paging import CursorInvalid

from .connections import Connection, connection
from .levels import Asker, Level
from .weight import FIRST

Row = Mapping[str, Any]
Info = strawberry.Info[Asker, None]
R = TypeVar("R")
K = TypeVar("K", bound="ProductQuery | ProductReviewQuery | CategoryQuery | PriceQuery")

MinorUnits = NewType("MinorUnits", int)
Json = NewType("Json", object)

First = Annotated[int, strawberry.argument(description="How many, 1 to 100.")]
After = Annotated[
    str | None,
    strawberry.argument(description="The cursor of the last item of the page before."),
]


def _minor(value: object) -> int:
    if type(value) is not int:
        raise TypeError("Minor units are a whole number.")
    return value


def _as_it_is(value: object) -> object:
    # Times become text when the whole answer does, as in REST.
    return value


SCALARS: dict[object, Any] = {
    MinorUnits: strawberry.scalar(
        name="MinorUnits",
        description="An amount of money in minor units (cents): a whole number, which"
        " may be larger than an Int.",
        serialize=_minor,
        parse_value=_minor,
    ),
    Json: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        serialize=_as_it_is,
        parse_value=_as_it_is,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="A time as RFC 3339 writes it, in UTC.",
        serialize=_as_it_is,
        parse_value=_as_it_is,
    ),
}


@strawberry.enum(description="Whether a product is for sale.")
class ProductStatus(Enum):
    """Whether a product is for sale."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


@strawberry.enum(description="Which products; all but ACTIVE need `catalog:write`.")
class StatusFilter(Enum):
    """Which products to list."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"
    ANY = "any"


@strawberry.enum(description="The order of products; RELEVANCE needs `q`.")
class ProductSort(Enum):
    """The order of products."""

    RELEVANCE = "relevance"
    OLDEST = "created_at"
    NEWEST = "-created_at"
    NAME = "name"
    NAME_DESC = "-name"
    PRICE = "price_minor"
    PRICE_DESC = "-price_minor"


@strawberry.enum(description="The order of reviews.")
class ReviewSort(Enum):
    """The order of reviews."""

    NEWEST = "newest"
    HIGHEST = "highest"
    LOWEST = "lowest"


@strawberry.enum(description="Whether a review is shown to everybody.")
class ReviewState(Enum):
    """Whether a review is shown to everybody."""

    PENDING = "pending"
    PUBLISHED = "published"
    REJECTED = "rejected"


@strawberry.input(description="Which products; what is left out does not matter.")
class ProductFilter:
    """Which products, as the list of REST takes it."""

    tags: list[str] | None = strawberry.field(
        default=None, description="Slugs; a product has all of them."
    )
    status: StatusFilter = StatusFilter.ACTIVE
    currency: str | None = None
    price_minor_min: MinorUnits | None = None
    price_minor_max: MinorUnits | None = None
    in_stock: bool | None = None

    def asked(self) -> dict[str, Any]:
        """Return the filter as `ProductQuery` takes it."""
        return {
            "tag": self.tags or [],
            "status": self.status.value,
            "currency": self.currency,
            "price_minor_min": self.price_minor_min,
            "price_minor_max": self.price_minor_max,
            "in_stock": self.in_stock,
        }


def _resolver(description: str) -> Callable[[Callable[..., R]], R]:
    made: Callable[[Callable[..., R]], R] = strawberry.field(description=description)
    return made


class KeyUnclear(Invalid):
    """One thing is asked for by none of its names, or by several."""


class _Key(BaseModel, extra="forbid", frozen=True):
    """By what one thing is asked for."""

    id: UUID | None = None
    slug: Annotated[str, Field(max_length=120)] | None = None
    sku: Sku | None = None


class _ProductKey(_Key):
    slug: Slug | None = None


class _CategoryKey(_Key):
    slug: CategorySlug | None = None


def _key(kind: type[_Key], **given: str | None) -> dict[str, Any]:
    """Return the one name that is given, checked."""
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise KeyUnclear(f"Give one of {', '.join(given)}.")
    return kind.model_validate(named).model_dump(exclude_none=True)


def _alone(level: Level[Any], asked: K) -> None:
    """Refuse a cursor where there are several lists, because it belongs to one.

    :raises CursorInvalid: there are several.
    """
    if asked.cursor is not None and len(level.items) > 1:
        raise CursorInvalid("A cursor goes on with one list; ask for its owner alone.")


@strawberry.type(description="What published reviews say of a product, in short.")
class Rating:
    """What published reviews say of a product, in short."""

    count: int
    average: float | None = strawberry.field(
        description="Stars, 1 to 5, to two decimals; null without reviews."
    )


@strawberry.type(description="A word that products are marked with.")
class Tag:
    """A word that products are marked with."""

    id: strawberry.ID
    slug: str
    name: str


@strawberry.type(description="A price that a product has had.")
class Price:
    """A price that a product has had."""

    version: int = strawberry.field(description="The product's version that brought it")
    price_minor: MinorUnits
    currency: str
    from_: datetime = strawberry.field(
        name="from", description="It held until the next one."
    )


@strawberry.type(description="What one person says about one product.")
class Review:
    """A review as the asker sees it."""

    _row: strawberry.Private[Row]
    _level: strawberry.Private[Level[Row]]
    id: strawberry.ID
    product_id: strawberry.ID
    subject: strawberry.ID | None = strawberry.field(
        description="The author's account; null for all but the author and moderators"
    )
    author: str
    rating: int = strawberry.field(description="Stars, 1 to 5")
    title: str
    body: str = strawberry.field(description="Markdown")
    body_html: str = strawberry.field(description="The body as HTML, safe to show")
    language: str | None
    state: ReviewState
    note: str | None = strawberry.field(
        description="Why it was rejected; null for all but the author and moderators"
    )
    version: int
    created_at: datetime
    updated_at: datetime

    @_resolver("Null when it is not for sale.")
    def product(self) -> "Product | None":
        """Return what the review is about."""
        level, asker = self._level, self._level.asker

        def load(rows: Sequence[Row]) -> dict[UUID, Product]:
            found = products.find_products(
                asker.session, [row["product_id"] for row in rows], hidden=asker.hidden
            )
            return _products(asker, found.values())

        return level.once("product", load).get(self._row["product_id"])


def _reviews(asker: Asker, rows: Sequence[Row]) -> dict[UUID, Review]:
    """Return reviews of one level, by id."""
    level = Level(rows, asker)
    return {
        row["id"]: Review(
            _row=row,
            _level=level,
            id=strawberry.ID(str(row["id"])),
            product_id=strawberry.ID(str(row["product_id"])),
            subject=None
            if row["subject"] is None
            else strawberry.ID(str(row["subject"])),
            author=row["author"],
            rating=row["rating"],
            title=row["title"],
            body=row["body"],
            body_html=row["body_html"],
            language=row["language"],
            state=ReviewState(row["state"]),
            note=row["note"],
            version=row["version"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
        for row in rows
    }


@strawberry.type(description="A shelf of the shop.")
class Category:
    """A shelf of the shop."""

    _row: strawberry.Private[Row]
    _level: strawberry.Private[Level[Row]]
    id: strawberry.ID
    slug: str
    name: str
    description: str
    path: list[str] = strawberry.field(description="Slugs from the root to this one")
    attribute_schema: Json | None = strawberry.field(
        description="What the attributes of products in it have to be like"
    )
    version: int
    created_at: datetime
    updated_at: datetime

    @_resolver("The category that it is in.")
    def parent(self) -> "Category | None":
        """Return the category that it is in."""
        return self._above().get(self._row["parent"])

    @_resolver("The categories that it is in, the root first.")
    def ancestors(self) -> "list[Category]":
        """Return the categories that it is in, the root first."""
        above = self._above()
        # One that was deleted or moved a moment ago is not there.
        return [above[slug] for slug in self._row["path"][:-1] if slug in above]

    def _above(self) -> "dict[str, Category]":
        asker = self._level.asker

        def load(rows: Sequence[Row]) -> dict[str, Category]:
            slugs = {slug for row in rows for slug in row["path"][:-1]}
            return (
                _categories(
                    asker, categories.find_categories(asker.session, slugs).values()
                )
                if slugs
                else {}
            )

        return self._level.once("above", load)

    @_resolver("The categories that are directly in it, by name.")
    def children(
        self, first: First = FIRST, after: After = None
    ) -> "Connection[Category]":
        """Return the categories that are directly in it."""
        level, asker = self._level, self._level.asker
        slug = self._row["slug"]
        asked = CategoryQuery(parent=slug, limit=first, cursor=after)
        _alone(level, asked)
        place = positions.after(
            category_routes.purpose_of(asked), asked.cursor, times=False
        )

        def load(
            rows: Sequence[Row],
        ) -> tuple[dict[str, list[Any]], dict[str, Category]]:
            pages = categories.list_categories_in(
                asker.session,
                [row["slug"] for row in rows],
                limit=first + 1,
                after=place,
            )
            # The one more that tells of a next page is none of this level.
            shown = [row for page in pages.values() for row in page[:first]]
            return pages, _categories(asker, shown)

        pages, found = level.once(("children", first, after), load)
        return connection(
            Category,
            pages[slug],
            lambda row: found[row["slug"]],
            limit=first,
            onward=after is not None,
            cursor=lambda row: positions.cursor(
                category_routes.purpose_of(asked), row["position"], row["id"]
            ),
        )

    @_resolver("The products in it and in the categories in it.")
    def products(
        self,
        first: First = FIRST,
        after: After = None,
        filter: ProductFilter | None = None,
        sort: ProductSort = ProductSort.NEWEST,
    ) -> "Products":
        """Return the products in it and in the categories in it."""
        level, asker = self._level, self._level.asker
        slug = self._row["slug"]
        asked = ProductQuery(
            category=slug,
            limit=first,
            cursor=after,
            sort=sort.value,
            **(filter or ProductFilter()).asked(),
        )
        _alone(level, asked)
        wanted = product_routes.wanted_products(asked, hidden=asker.hidden)
        purpose = product_routes.purpose_of(asked)
        place = positions.after(purpose, after, times=sort.value.endswith("created_at"))

        def load(
            rows: Sequence[Row],
        ) -> tuple[dict[str, list[Any]], dict[UUID, Product]]:
            pages = products.list_products_in(
                asker.session,
                [row["slug"] for row in rows],
                wanted,
                sort=sort.value,
                limit=first + 1,
                after=place,
            )
            shown = {row["id"]: row for page in pages.values() for row in page[:first]}
            return pages, _products(asker, shown.values())

        key = asked.model_dump_json(exclude={"category"})
        pages, found = level.once(("products", key), load)
        return connection(
            Product,
            pages[slug],
            lambda row: found[row["id"]],
            limit=first,
            onward=after is not None,
            cursor=lambda row: positions.cursor(purpose, row["position"], row["id"]),
            made=Products,
        )


def _categories(asker: Asker, rows: Any) -> dict[str, Category]:  # noqa: ANN401 (rows, in any collection)
    """Return categories of one level, by slug."""
    rows = list(rows)
    level = Level(rows, asker)
    return {
        row["slug"]: Category(
            _row=row,
            _level=level,
            id=strawberry.ID(str(row["id"])),
            slug=row["slug"],
            name=row["name"],
            description=row["description"],
            path=row["path"],
            attribute_schema=row["attribute_schema"],
            version=row["version"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
        for row in rows
    }


@strawberry.type(description="Something that can be bought.")
class Product:
    """Something that can be bought."""

    _row: strawberry.Private[Row]
    _level: strawberry.Private[Level[Row]]
    id: strawberry.ID
    sku: str
    slug: str
    name: str
    description: str
    price_minor: MinorUnits
    currency: str = strawberry.field(description="ISO 4217")
    status: ProductStatus
    stock: int
    available: int = strawberry.field(
        description="The stock without what reservations hold"
    )
    attributes: Json
    rating: Rating
    version: int
    created_at: datetime
    updated_at: datetime

    @_resolver("The description, which is Markdown, as HTML that is safe to show.")
    def description_html(self) -> str:
        """Return the description as HTML that is safe to show."""
        asker = self._level.asker

        def load(rows: Sequence[Row]) -> dict[UUID, str]:
            return products.find_articles(asker.session, rows)

        return self._level.once("description_html", load)[self._row["id"]]

    @_resolver("The category that it is in.")
    def category(self) -> Category | None:
        """Return the category that it is in."""
        asker = self._level.asker

        def load(rows: Sequence[Row]) -> dict[str, Category]:
            slugs = {row["category"] for row in rows if row["category"] is not None}
            return (
                _categories(
                    asker, categories.find_categories(asker.session, slugs).values()
                )
                if slugs
                else {}
            )

        return self._level.once("category", load).get(self._row["category"])

    @_resolver("What it is marked with.")
    def tags(self) -> list[Tag]:
        """Return what it is marked with."""
        asker = self._level.asker

        def load(rows: Sequence[Row]) -> dict[str, Tag]:
            slugs = {slug for row in rows for slug in row["tags"]}
            found = tags_domain.find_tags(asker.session, slugs) if slugs else {}
            return {
                slug: Tag(id=strawberry.ID(str(row["id"])), slug=slug, name=row["name"])
                for slug, row in found.items()
            }

        found = self._level.once("tags", load)
        return [found[slug] for slug in self._row["tags"] if slug in found]

    @_resolver("Its published reviews.")
    def reviews(
        self,
        first: First = FIRST,
        after: After = None,
        rating: int | None = None,
        language: str | None = None,
        sort: ReviewSort = ReviewSort.NEWEST,
    ) -> Connection[Review]:
        """Return its published reviews."""
        level, asker = self._level, self._level.asker
        asked = ProductReviewQuery(
            limit=first, cursor=after, rating=rating, language=language, sort=sort.value
        )
        _alone(level, asked)
        purpose = review_routes.purpose_of(self._row["id"], asked)
        place = positions.after(purpose, after, times=asked.sort == "newest")

        def load(
            rows: Sequence[Row],
        ) -> tuple[dict[UUID, list[Any]], dict[UUID, Review]]:
            pages = reviews.list_reviews_of(
                asker.session,
                [row["id"] for row in rows],
                hidden=asker.hidden,
                sort=asked.sort,
                limit=first + 1,
                rating=rating,
                language=language,
                after=place,
            )
            shown = [row for page in pages.values() for row in page[:first]]
            return pages, _reviews(asker, shown)

        pages, found = level.once(("reviews", asked.model_dump_json()), load)
        return connection(
            Review,
            # Who was hidden a moment ago shows no more.
            pages.get(self._row["id"], []),
            lambda row: found[row["id"]],
            limit=first,
            onward=after is not None,
            cursor=lambda row: positions.cursor(purpose, row["position"], row["id"]),
        )

    @_resolver("The prices that it has had, the newest first.")
    def prices(self, first: First = FIRST, after: After = None) -> Connection[Price]:
        """Return the prices that it has had."""
        level, asker = self._level, self._level.asker
        asked = PriceQuery(limit=first, cursor=after)
        _alone(level, asked)
        purpose = price_routes.purpose_of(self._row["id"])
        place = paging.decode(purpose, after)[0] if after is not None else None

        def load(rows: Sequence[Row]) -> dict[UUID, list[dict[str, Any]]]:
            return prices.list_prices_of(
                asker.session,
                [row["id"] for row in rows],
                limit=first + 1,
                after=place,
                hidden=asker.hidden,
            )

        pages = level.once(("prices", first, after), load)
        return connection(
            Price,
            pages.get(self._row["id"], []),
            lambda row: Price(
                version=row["version"],
                price_minor=row["price_minor"],
                currency=row["currency"],
                from_=row["from"],
            ),
            limit=first,
            onward=after is not None,
            cursor=lambda row: paging.encode(purpose, [row["version"]]),
        )


@strawberry.type(name="ProductConnection", description="A page of products.")
class Products(Connection[Product]):
    """A page of products."""

    corrected: str | None = strawberry.field(
        default=None,
        description="What was searched for instead of `q`, which finds nothing.",
    )


def _products(asker: Asker, rows: Any) -> dict[UUID, Product]:  # noqa: ANN401 (rows, in any collection)
    """Return products of one level, by id."""
    rows = list(rows)
    level = Level(rows, asker)
    return {
        row["id"]: Product(
            _row=row,
            _level=level,
            id=strawberry.ID(str(row["id"])),
            sku=row["sku"],
            slug=row["slug"],
            name=row["name"],
            description=row["description"],
            price_minor=row["price_minor"],
            currency=row["currency"],
            status=ProductStatus(row["status"]),
            stock=row["stock"],
            available=row["available"],
            attributes=row["attributes"],
            rating=Rating(**row["rating"]),
            version=row["version"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
        for row in rows
    }


@strawberry.type(description="What the catalog tells.")
class Query:
    """What the catalog tells."""

    @_resolver("One product, by one of its names.")
    def product(
        self,
        info: Info,
        id: strawberry.ID | None = None,
        slug: str | None = None,
        sku: str | None = None,
    ) -> Product | None:
        """Return one product."""
        asker = info.context
        key = _key(_ProductKey, id=id, slug=slug, sku=sku)
        row = asker.read(
            lambda: products.find_product(asker.session, hidden=asker.hidden, **key)
        )
        return _products(asker, [row])[row["id"]]

    @_resolver("A list of products, or a search.")
    def products(
        self,
        info: Info,
        first: First = FIRST,
        after: After = None,
        q: Annotated[
            str | None,
            strawberry.argument(description='`"a phrase"`, `or`, `-without` work.'),
        ] = None,
        category: Annotated[
            str | None,
            strawberry.argument(description="A slug; what is in it counts too."),
        ] = None,
        filter: ProductFilter | None = None,
        sort: Annotated[
            ProductSort | None,
            strawberry.argument(description="RELEVANCE with `q`, else NEWEST."),
        ] = None,
        exact: Annotated[
            bool, strawberry.argument(description="Search for the very words of `q`.")
        ] = False,
    ) -> Products:
        """Return a page of products."""
        asker = info.context
        asked = ProductQuery(
            q=q,
            category=category,
            limit=first,
            cursor=after,
            sort=sort.value if sort else None,
            exact=exact,
            **(filter or ProductFilter()).asked(),
        )
        wanted = product_routes.wanted_products(asked, hidden=asker.hidden)
        order = product_routes.sort_of(asked)
        purpose = product_routes.purpose_of(asked)
        place = positions.after(purpose, after, times=order.endswith("created_at"))
        page = asker.read(
            lambda: searches.search_products(
                asker.session,
                wanted,
                sort=order,
                limit=first + 1,
                exact=exact,
                after=place,
            )
        )
        rows = page.rows
        found = _products(asker, rows[:first])
        return connection(
            Product,
            rows,
            lambda row: found[row["id"]],
            limit=first,
            onward=after is not None,
            cursor=lambda row: positions.cursor(purpose, row["position"], row["id"]),
            made=Products,
            corrected=page.corrected,
        )

    @_resolver("One category, by one of its names.")
    def category(
        self, info: Info, id: strawberry.ID | None = None, slug: str | None = None
    ) -> Category | None:
        """Return one category."""
        asker = info.context
        key = _key(_CategoryKey, id=id, slug=slug)
        row = asker.read(lambda: categories.find_category(asker.session, **key))
        return _categories(asker, [row])[row["slug"]]

    @_resolver("Categories by name.")
    def categories(
        self,
        info: Info,
        first: First = FIRST,
        after: After = None,
        roots: Annotated[
            bool, strawberry.argument(description="Only those that are in none.")
        ] = False,
    ) -> Connection[Category]:
        """Return a page of categories."""
        asker = info.context
        parent = "" if roots else None
        asked = CategoryQuery(limit=first, cursor=after, parent=parent)
        purpose = category_routes.purpose_of(asked)
        place = positions.after(purpose, after, times=False)
        rows = asker.read(
            lambda: categories.list_categories(
                asker.session, parent=parent, limit=first + 1, after=place
            )
        )
        found = _categories(asker, rows[:first])
        return connection(
            Category,
            rows,
            lambda row: found[row["slug"]],
            limit=first,
            onward=after is not None,
            cursor=lambda row: positions.cursor(purpose, row["position"], row["id"]),
        )

    @_resolver("One review; unpublished ones only for their author and moderators.")
    def review(self, info: Info, id: strawberry.ID) -> Review | None:
        """Return one review."""
        asker = info.context
        key = _key(_Key, id=id)
        row = asker.read(
            lambda: reviews.find_review(asker.session, reader=asker.reader, **key)
        )
        return _reviews(asker, [row])[row["id"]]
