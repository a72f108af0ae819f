"""The catalog's JSON, as clients see it."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import (
    Annotated,
    Any,
    Literal,
    Required,  # pydantic needs these before 3.12
)
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from flagon_chassis.audit import AuditFilter, AuditRecord

from .domain.bulk import Outcome

SKU = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*$"
BULK_ITEMS_MAX = 1000
PRICE_MAX = 999_999_999_999
STOCK_MAX = 1_000_000_000
VERSION_MAX = 2**31 - 1
HOLD_SECONDS_MIN = 10
HOLD_SECONDS_DEFAULT = 15 * 60
HOLD_SECONDS_MAX = 24 * 3600
NUMBER_MAX = 2**53 - 1
"""Beyond this, JSON numbers do not mean the same to every reader (RFC 8259 section 6)."""
DEPTH_MAX = 5
VALUES_MAX = 500
SCHEMA_DEPTH_MAX = 40
SCHEMA_VALUES_MAX = 4000
TEXT_MAX = 5000
TAGS_MAX = 20
"""Most tags of one product, and most that a list asks for."""
ATTRIBUTE_FILTERS_MAX = 10
"""Most attributes that a list asks for."""
ERRORS_MAX = 20
"""Most errors that are told of one item of a bulk upsert."""

# Characters that no text is written with: the C0 controls but tab and line ends, DEL, and
# halves of surrogate pairs, which UTF-8 cannot spell.
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_LINE_ENDS = re.compile("[\t\n\r]")


def _whole(value: object) -> object:
    # JSON Schema calls 106.0 an integer too; True is none, though Python says so.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _usable(value: str) -> str:
    if _UNUSABLE.search(value):
        raise PydanticCustomError("text", "Text may not hold control characters.")
    return value


def _one_line(value: str) -> str:
    if _LINE_ENDS.search(_usable(value)):
        raise PydanticCustomError("text", "Text must be one line.")
    return value


def _sorted(value: list[str]) -> list[str]:
    return sorted(set(value))


def _listed(value: object) -> object:
    # A query names a thing once or several times.
    return [value] if isinstance(value, str) else value


def _words(value: str) -> str | None:
    # An empty search box is no search.
    return _usable(value).strip() or None


def _currency(value: str) -> str:
    if value not in CURRENCIES:
        raise PydanticCustomError("currency", "Not a current ISO 4217 code.")
    return value


def _attributes(value: dict[str, Any]) -> dict[str, Any]:
    return _bounded(value, "attributes", DEPTH_MAX, VALUES_MAX)


def _attribute_schema(value: dict[str, Any]) -> dict[str, Any]:
    return _bounded(value, "schemas", SCHEMA_DEPTH_MAX, SCHEMA_VALUES_MAX)


def _bounded(
    value: dict[str, Any], nouns: str, depth_max: int, values_max: int
) -> dict[str, Any]:
    for number, (depth, found) in enumerate(_walk(value)):
        if depth > depth_max:
            raise PydanticCustomError(
                "attributes", f"Nest {nouns} at most {depth_max} deep."
            )
        if number > values_max:
            raise PydanticCustomError(
                "attributes", f"Give at most {values_max} values and names."
            )
        if isinstance(found, str):
            if len(found) > TEXT_MAX:
                raise PydanticCustomError(
                    "attributes", f"A text has at most {TEXT_MAX} characters."
                )
            _usable(found)
        elif isinstance(found, int | float) and not (
            math.isfinite(found) and abs(found) <= NUMBER_MAX
        ):
            raise PydanticCustomError(
                "attributes", f"Numbers are between -{NUMBER_MAX} and {NUMBER_MAX}."
            )
    return value


def _walk(value: object, depth: int = 0) -> Iterator[tuple[int, object]]:
    """Yield each value and name with its depth, outer ones first."""
    yield depth, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield depth, name
            yield from _walk(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, depth + 1)


CURRENCIES = frozenset(
    [
        "AED",
        "AFN",
        "ALL",
        "AMD",
        "AOA",
        "ARS",
        "AUD",
        "AWG",
        "AZN",
        "BAM",
        "BBD",
        "BDT",
        "BHD",
        "BIF",
        "BMD",
        "BND",
        "BOB",
        "BRL",
        "BSD",
        "BTN",
        "BWP",
        "BYN",
        "BZD",
        "CAD",
        "CDF",
        "CHF",
        "CLP",
        "CNY",
        "COP",
        "CRC",
        "CUP",
        "CVE",
        "CZK",
        "DJF",
        "DKK",
        "DOP",
        "DZD",
        "EGP",
        "ERN",
        "ETB",
        "EUR",
        "FJD",
        "FKP",
        "GBP",
        "GEL",
        "GHS",
        "GIP",
        "GMD",
        "GNF",
        "GTQ",
        "GYD",
        "HKD",
        "HNL",
        "HTG",
        "HUF",
        "IDR",
        "ILS",
        "INR",
        "IQD",
        "IRR",
        "ISK",
        "JMD",
        "JOD",
        "JPY",
        "KES",
        "KGS",
        "KHR",
        "KMF",
        "KPW",
        "KRW",
        "KWD",
        "KYD",
        "KZT",
        "LAK",
        "LBP",
        "LKR",
        "LRD",
        "LSL",
        "LYD",
        "MAD",
        "MDL",
        "MGA",
        "MKD",
        "MMK",
        "MNT",
        "MOP",
        "MRU",
        "MUR",
        "MVR",
        "MWK",
        "MXN",
        "MYR",
        "MZN",
        "NAD",
        "NGN",
        "NIO",
        "NOK",
        "NPR",
        "NZD",
        "OMR",
        "PAB",
        "PEN",
        "PGK",
        "PHP",
        "PKR",
        "PLN",
        "PYG",
        "QAR",
        "RON",
        "RSD",
        "RUB",
        "RWF",
        "SAR",
        "SBD",
        "SCR",
        "SDG",
        "SEK",
        "SGD",
        "SHP",
        "SLE",
        "SOS",
        "SRD",
        "SSP",
        "STN",
        "SVC",
        "SYP",
        "SZL",
        "THB",
        "TJS",
        "TMT",
        "TND",
        "TOP",
        "TRY",
        "TTD",
        "TWD",
        "TZS",
        "UAH",
        "UGX",
        "USD",
        "UYU",
        "UZS",
        "VED",
        "VES",
        "VND",
        "VUV",
        "WST",
        "XAF",
        "XCD",
        "XOF",
        "XPF",
        "YER",
        "ZAR",
        "ZMW",
    ]
)
"""Currencies that something can be priced in (ISO 4217)."""

Status = Literal["draft", "active", "archived"]
Sku = Annotated[str, Field(pattern=SKU, examples=["mug-blue-03"])]
Slug = Annotated[str, Field(pattern=SLUG, max_length=120, examples=["blue-mug"])]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    Field(examples=["Blue mug"]),
    AfterValidator(_one_line),
]
Description = Annotated[
    str, Field(max_length=20_000, examples=["Holds 3 dl."]), AfterValidator(_usable)
]
PriceMinor = Annotated[
    int,
    Field(ge=0, le=PRICE_MAX, description="Minor units (cents)", examples=[1299]),
    BeforeValidator(_whole),
]
Currency = Annotated[
    str,
    Field(pattern=r"^[A-Z]{3}$", description="ISO 4217", examples=["EUR"]),
    AfterValidator(_currency),
]
Stock = Annotated[int, Field(ge=0, le=STOCK_MAX, examples=[5]), BeforeValidator(_whole)]
Attributes = Annotated[
    dict[str, Any],
    Field(
        description=f"Free JSON, at most {DEPTH_MAX} deep and {VALUES_MAX} values.",
        examples=[{"colour": "blue"}],
    ),
    AfterValidator(_attributes),
]
AttributeSchema = Annotated[
    dict[str, Any],
    Field(
        description="What the attributes of products in it, and in the categories in it,"
        " have to be like: a JSON Schema (2020-12) of an object; null asks for nothing.",
        examples=[
            {
                "type": "object",
                "required": ["colour"],
                "properties": {"colour": {"enum": ["blue", "red"]}},
            }
        ],
    ),
    AfterValidator(_attribute_schema),
]
CategorySlug = Annotated[
    str,
    Field(
        pattern=SLUG,
        max_length=120,
        description="The slug of a category",
        examples=["kitchen"],
    ),
]
ReservationState = Literal["held", "committed", "released", "expired"]
Reference = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    Field(description="Whatever the holder knows it by", examples=["order 4711"]),
    AfterValidator(_one_line),
]
TagSlug = Annotated[
    str,
    Field(
        pattern=SLUG, max_length=120, description="The slug of a tag", examples=["sale"]
    ),
]
Tags = Annotated[
    list[TagSlug],
    Field(max_length=TAGS_MAX, description="Each counts once; shown sorted."),
    AfterValidator(_sorted),
]


AttributeFilter = Annotated[
    str, Field(pattern="^[^:]+:", max_length=200), AfterValidator(_usable)
]


class _Body(BaseModel, extra="forbid", strict=True, frozen=True):
    """What a client sends: exact types, no unknown fields."""


class NewProduct(_Body):
    """A whole product, as a client may set it."""

    sku: Sku
    slug: Slug | None = Field(
        default=None, description="Made of the name, or kept, when absent."
    )
    name: Name
    description: Description = ""
    price_minor: PriceMinor
    currency: Currency = "EUR"
    status: Status = "active"
    stock: Stock = 0
    category: CategorySlug | None = None
    tags: Tags = Field(default_factory=list)
    attributes: Attributes = Field(default_factory=dict)


class ProductChange(_Body):
    """A JSON merge patch (RFC 7396) for a product: null takes a field back."""

    sku: Sku = Field(default_factory=str)
    slug: Slug = Field(default_factory=str)
    name: Name = Field(default_factory=str)
    description: Description | None = None
    price_minor: PriceMinor = Field(default_factory=int)
    currency: Currency | None = None
    status: Status | None = None
    stock: Stock | None = None
    category: CategorySlug | None = None
    tags: Tags | None = None
    attributes: Attributes | None = None


class RatingView(BaseModel):
    """What published reviews say of a product, in short."""

    count: int
    average: float | None = Field(
        description="Stars, 1 to 5, to two decimals; null while nobody has reviewed it.",
        examples=[4.25],
    )


class ProductView(BaseModel):
    """A product."""

    id: UUID
    sku: Sku
    slug: Slug
    name: Name
    description: Description = Field(description="Markdown")
    description_html: str = Field(
        default_factory=str,
        description="The same as HTML that is safe to show; in lists if it is asked for",
    )
    price_minor: PriceMinor
    currency: Currency
    status: Status
    stock: Stock
    available: Stock = Field(description="The stock without what reservations hold")
    category: CategorySlug | None
    tags: list[TagSlug]
    attributes: dict[str, Any]
    rating: RatingView
    version: int
    created_at: datetime
    updated_at: datetime


class FacetValue(BaseModel):
    """How many products of a list have a value."""

    value: str
    count: int


class PriceRange(BaseModel):
    """How many products of a list have a price from here to there, both included."""

    price_minor_min: int
    price_minor_max: int | None
    count: int


class Facets(BaseModel):
    """What was asked to be counted under the filters of a list, the most first."""

    complete: bool = Field(description="False when only 100,000 products were counted.")
    category: list[FacetValue] = Field(
        default=[], description="A product counts for each category above it too."
    )
    tag: list[FacetValue] = []
    status: list[FacetValue] = []
    currency: list[FacetValue] = []
    price: list[PriceRange] = []


class Highlight(BaseModel):
    """Why a search found a product, as HTML: escaped text with the words in `<mark>`."""

    name: str = Field(examples=["Coffee <mark>mug</mark> &amp; saucer"])
    description: str = Field(
        description="Excerpts.", examples=["A <mark>mug</mark> that keeps warm"]
    )


class ProductPage(BaseModel):
    """Some products and how to get the next ones."""

    items: list[ProductView]
    next_cursor: str | None
    facets: Facets = Field(default=None, description="When they were asked for.")  # type: ignore[assignment]
    highlights: dict[str, Highlight] = Field(
        default_factory=dict,
        description="By the ids of the items, when they were asked for.",
    )
    corrected: str = Field(
        default_factory=str,
        description="What was searched for instead of `q`, which finds nothing.",
        examples=["harry potter"],
    )


_FORMAT = Field(default=None, description="Instead of `Accept`, as in a link.")


class PageQuery(BaseModel, extra="forbid", frozen=True):
    """What every list takes."""

    limit: int = Field(default=20, ge=1, le=100)
    cursor: str | None = Field(
        default=None, max_length=2000, description="`next_cursor` of the page before"
    )
    format: Literal["json", "ndjson", "csv", "xml"] | None = _FORMAT


class DeletionQuery(BaseModel, extra="forbid", frozen=True):
    """How much is to be deleted."""

    permanently: bool = Field(
        default=False,
        description="Whether it is to be gone for good; that needs `catalog:purge`.",
    )


class ShapeQuery(BaseModel, frozen=True):
    """What to show of a product."""

    fields: str | None = Field(
        default=None,
        max_length=500,
        description="Names of fields with commas between them; others are left out.",
        examples=["id,name,price_minor"],
    )
    include: str | None = Field(
        default=None,
        max_length=100,
        description="`category` shows the whole category as `embedded.category`,"
        " `images` the images as `embedded.images`; both with a comma between.",
        examples=["category"],
    )


class _ProductFilter(BaseModel, extra="forbid", frozen=True):
    """Which products."""

    q: Annotated[str, Field(max_length=200), AfterValidator(_words)] | None = Field(
        default=None,
        description='Words to search for; `"a phrase"`, `or` and `-without` work.',
    )
    category: CategorySlug | None = Field(
        default=None, description="What is in the categories in it counts too."
    )
    tag: Annotated[Tags, BeforeValidator(_listed)] = Field(
        default_factory=list, description="May be repeated: a product has all of them."
    )
    attribute: Annotated[
        list[AttributeFilter],
        Field(max_length=ATTRIBUTE_FILTERS_MAX),
        BeforeValidator(_listed),
    ] = Field(
        default_factory=list,
        description="`name:value`, where a list holds the value or is it; numbers and"
        " true, false and null match as such. May be repeated: a product fits all.",
        examples=[["colour:blue"]],
    )
    status: Literal["draft", "active", "archived", "any"] = Field(
        default="active", description="All but `active` need the scope catalog:write."
    )
    sku: Sku | None = None
    slug: Slug | None = Field(
        default=None,
        deprecated=True,
        description="Ask for `/api/v1/products/by-slug/{slug}`; ends on 2027-06-01.",
    )
    currency: Currency | None = None
    price_minor_min: int | None = Field(default=None, ge=0, le=PRICE_MAX)
    price_minor_max: int | None = Field(default=None, ge=0, le=PRICE_MAX)
    in_stock: bool | None = Field(
        default=None, description="Whether any of it is available"
    )


class ExportQuery(_ProductFilter):
    """Which products to export, and how."""

    format: Literal["ndjson", "csv"] | None = _FORMAT
    after: UUID | None = Field(
        default=None,
        description="Only products whose ids come after this one: goes on where an"
        " export broke off.",
    )


class ProductQuery(PageQuery, ShapeQuery, _ProductFilter):
    """Which products to list."""

    sort: (
        Literal[
            "relevance",
            "created_at",
            "-created_at",
            "name",
            "-name",
            "price_minor",
            "-price_minor",
        ]
        | None
    ) = Field(
        default=None,
        description="`relevance` by default when `q` is given, else `-created_at`.",
    )
    facets: str | None = Field(
        default=None,
        max_length=100,
        description="What to count under these filters, with commas between:"
        " `category`, `tag`, `status`, `currency`, `price`.",
        examples=["category,tag"],
    )
    highlight: bool = Field(
        default=False, description="Whether to show where `q` was found, in JSON alone."
    )
    prefix: bool = Field(
        default=False,
        description="Whether the last word of `q` may be the beginning of one, from two"
        " letters on: for suggestions while somebody types.",
    )
    exact: bool = Field(
        default=False,
        description="Whether to search for the very words of `q`; else, where they find"
        " nothing, words that no product has are replaced by near ones.",
    )


class PriceView(BaseModel):
    """A price that a product has had."""

    version: int = Field(description="The product's version that brought it")
    price_minor: PriceMinor
    currency: Currency
    from_: datetime = Field(alias="from", description="It held until the next one.")


class PricePage(BaseModel):
    """Some prices and how to get the next ones."""

    items: list[PriceView]
    next_cursor: str | None


AuditEntity = Literal["product", "category", "tag", "review", "reservation", "image"]


class PriceQuery(PageQuery):
    """Which prices to list."""


class AuditView(AuditRecord):
    """That something got a new version or was deleted."""

    action: Literal["created", "updated", "deleted"]
    entity: AuditEntity


class AuditPage(BaseModel):
    """Some rows of the audit and how to get the next ones."""

    items: list[AuditView]
    next_cursor: str | None


class AuditQuery(AuditFilter, PageQuery):
    """Which rows of the audit to list."""

    entity: AuditEntity | None = None


class NewCategory(_Body):
    """A whole category, as a client may set it."""

    slug: Slug | None = Field(
        default=None, description="Made of the name when absent; never changes."
    )
    name: Name
    description: Description = ""
    parent: CategorySlug | None = Field(
        default=None, description="The slug of the category that it is in."
    )
    attribute_schema: AttributeSchema | None = None


class CategoryChange(_Body):
    """A JSON merge patch (RFC 7396) for a category: null takes a field back."""

    slug: Slug = Field(default_factory=str)
    name: Name = Field(default_factory=str)
    description: Description | None = None
    parent: CategorySlug | None = None
    attribute_schema: AttributeSchema | None = None


class CategoryView(BaseModel):
    """A category."""

    id: UUID
    slug: Slug
    name: Name
    description: Description
    parent: CategorySlug | None
    path: list[Slug] = Field(description="Slugs from the root to this one.")
    attribute_schema: AttributeSchema | None
    version: int
    created_at: datetime
    updated_at: datetime


class CategoryPage(BaseModel):
    """Some categories and how to get the next ones."""

    items: list[CategoryView]
    next_cursor: str | None


class CategoryQuery(PageQuery):
    """Which categories to list."""

    parent: CategorySlug | Literal[""] | None = Field(
        default=None,
        description="Those directly in this one; empty for those that are in none.",
    )


class NewTag(_Body):
    """A whole tag, as a client may set it."""

    slug: Slug | None = Field(
        default=None, description="Made of the name when absent; never changes."
    )
    name: Name


class TagChange(_Body):
    """A JSON merge patch (RFC 7396) for a tag."""

    slug: Slug = Field(default_factory=str)
    name: Name = Field(default_factory=str)


class TagView(BaseModel):
    """A tag."""

    id: UUID
    slug: Slug
    name: Name
    version: int
    created_at: datetime
    updated_at: datetime


class TagPage(BaseModel):
    """Some tags and how to get the next ones."""

    items: list[TagView]
    next_cursor: str | None


class TagQuery(PageQuery):
    """Which tags to list."""


class NewReservation(_Body):
    """How much to put aside, and for how long."""

    quantity: Annotated[
        int, Field(ge=1, le=STOCK_MAX, examples=[2]), BeforeValidator(_whole)
    ]
    expires_in: Annotated[
        int,
        Field(ge=HOLD_SECONDS_MIN, le=HOLD_SECONDS_MAX, description="Seconds"),
        BeforeValidator(_whole),
    ] = HOLD_SECONDS_DEFAULT
    reference: Reference | None = None


class ReservationView(BaseModel):
    """A quantity of a product that is put aside for somebody."""

    id: UUID
    product_id: UUID
    quantity: int
    state: ReservationState
    holder: str = Field(description="Subject of the token that reserved")
    reference: Reference | None
    expires_at: datetime
    version: int
    created_at: datetime
    updated_at: datetime


class ReservationPage(BaseModel):
    """Some reservations and how to get the next ones."""

    items: list[ReservationView]
    next_cursor: str | None


class ReservationQuery(PageQuery):
    """Which reservations to list."""

    holder: Literal["me", "any"] = Field(
        default="me", description="`any` is for merchandisers alone."
    )
    state: ReservationState | None = None
    product_id: UUID | None = None


class BulkItem(TypedDict, total=False):
    """A product to create or, when its SKU exists, to change."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    sku: Required[Sku]
    version: Annotated[
        int,
        Field(
            ge=1,
            le=VERSION_MAX,
            description="Change it only if nobody has edited it since this version, and"
            " make no new product; sales count where the stock is set.",
            examples=[7],
        ),
        BeforeValidator(_whole),
    ]
    name: Name
    description: Description
    price_minor: PriceMinor
    currency: Currency
    status: Status
    stock: Stock
    category: CategorySlug | None
    tags: Tags
    attributes: Attributes


_ITEMS = TypeAdapter(list[BulkItem])


def sift(items: list[Any]) -> tuple[dict[int, BulkItem], dict[int, list[ErrorDetails]]]:
    """Return the usable items and the errors of the others, both by position."""
    try:
        return dict(enumerate(_ITEMS.validate_python(items))), {}
    except ValidationError as error:
        errors: dict[int, list[ErrorDetails]] = {}
        for found in error.errors(include_url=False, include_input=False):
            errors.setdefault(int(found["loc"][0]), []).append(found)
    good = [position for position in range(len(items)) if position not in errors]
    valid = _ITEMS.validate_python([items[position] for position in good])
    return dict(zip(good, valid, strict=True)), errors


class BulkUpsert(_Body):
    """Products to create or change by SKU; categories and tags are made if need be."""

    items: Annotated[
        list[Any],
        Field(min_length=1, max_length=BULK_ITEMS_MAX),
        WithJsonSchema(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": BULK_ITEMS_MAX,
                "items": TypeAdapter(BulkItem).json_schema(),
            }
        ),
    ]
    dry_run: bool = Field(
        default=False,
        description="Whether to tell only what would become of each item.",
    )


class FieldError(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(description="RFC 6901, from the item on", examples=["#/name"])
    detail: str
    category: str = Field(
        default_factory=str,
        description="The slug of the category that asks for it, where one does.",
    )


class PresentProduct(BaseModel):
    """A product as it is, in short."""

    id: UUID
    sku: Sku
    name: Name
    price_minor: PriceMinor
    currency: Currency
    status: Status
    stock: Stock
    available: int
    category: CategorySlug | None
    version: int


class BulkResult(BaseModel):
    """What became of one item."""

    index: int
    sku: str | None
    outcome: Literal["created", "updated", "unchanged", "refused"]
    errors: list[FieldError]
    present: PresentProduct | None = Field(
        default=None,
        description="The product as it is after the call, or null where there is none:"
        " told of usable items that name a version, and in a dry run of all usable ones.",
    )


class BulkSummary(BaseModel):
    """How many items ended how."""

    created: int
    updated: int
    unchanged: int
    refused: int


class BulkReport(BaseModel):
    """What became of each item, in the order of the items."""

    results: list[BulkResult]
    summary: BulkSummary


def bulk_report(
    items: list[Any],
    outcomes: Mapping[int, Outcome],
    errors: Mapping[int, list[ErrorDetails]],
) -> dict[str, Any]:
    """Return the report on a bulk upsert, as `BulkReport` shows it.

    :param outcomes: of the valid items, by position.
    :param errors: of the others, by position.
    """
    results = [
        {
            "index": index,
            "sku": _sku_of(item),
            "outcome": outcomes[index].outcome if index in outcomes else "refused",
            "errors": _refusals(outcomes[index])
            if index in outcomes
            else [_field_error(error) for error in errors[index][:ERRORS_MAX]],
        }
        for index, item in enumerate(items)
    ]
    counts = Counter(result["outcome"] for result in results)
    return {
        "results": results,
        "summary": {name: counts[name] for name in BulkSummary.model_fields},
    }


def _refusals(outcome: Outcome) -> list[dict[str, str]]:
    if outcome.stale:
        return [{"pointer": "#/version", "detail": outcome.stale}]
    if outcome.misfits:
        return outcome.misfits
    if outcome.held is not None:
        detail = f"{outcome.held} are held for reservations."
        return [{"pointer": "#/stock", "detail": detail}]
    return [
        {"pointer": f"#/{name}", "detail": "A new product needs it."}
        for name in outcome.lacking
    ]


def _sku_of(item: object) -> str | None:
    sku = item.get("sku") if isinstance(item, dict) else None
    return sku[:64] if isinstance(sku, str) else None


def _field_error(error: ErrorDetails) -> dict[str, str]:
    # The first part is the position in the body, which the result names already.
    parts = (
        str(part).replace("~", "~0").replace("/", "~1") for part in error["loc"][1:]
    )
    return {
        "pointer": "#" + "".join(f"/{part}" for part in parts),
        "detail": error["msg"],
    }


class LearnStep(BaseModel, extra="forbid"):
    """The words of which products come next."""

    after: UUID | None = None
    since: AwareDatetime | None = None


class ForgetStep(BaseModel, extra="forbid"):
    """Which words come next."""

    after: str = Field(default="", max_length=200)


class WordsView(BaseModel):
    """What came of a step through the words."""

    after: str | None
    looked_at: int
    written: int
    at: datetime
