"""Products and categories as the catalog shows them, with what pages ask of them."""

import re
from datetime import datetime
from functools import cached_property
from html import unescape
from textwrap import shorten
from typing import Any

from markupsafe import Markup, escape
from pydantic import BaseModel, ConfigDict, Field

from flagon_web.i18n import LazyText, ngettext
from flagon_web.i18n import gettext as _

from . import covers, money
from .terms import capitalized, term

_LINK = re.compile(r"\Ahttps?://", re.IGNORECASE)
_SMALL = 3
_SHARP = 480
_SHARPEST = 960
"""Pixels that are enough for the largest place in a page on the sharpest screen."""
_SUMMARY = 150
# Of Unicode's private use: no text has a meaning for them.
_BEGIN, _END = "\ue000", "\ue001"
_NO_MARKS = str.maketrans("", "", _BEGIN + _END)
_HIT = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}]*){_END}")

# Where a supplier names the people behind a product, in the order of preference.
_MAKERS = ("authors", "author", "artist", "brand", "maker", "manufacturer")
_NAMES = {"isbn": "ISBN", "isbn13": "ISBN-13", "ean": "EAN", "gtin": "GTIN"}


STATUSES: dict[str, LazyText] = {
    "active": LazyText("On sale"),
    "draft": LazyText("Draft"),
    "archived": LazyText("Archived"),
}
"""Of a product, in words."""


class Shown(BaseModel):
    """Something that another service shows; members that are new to us are no error."""

    # Frozen models may still cache what they compute.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Category(Shown):
    """One shelf of the shop."""

    id: str = ""
    slug: str
    name: str
    description: str = ""
    parent: str | None = None
    """The slug of the category that it is in."""
    path: list[str] = Field(default_factory=list)
    """Slugs from the root to this one."""
    attribute_schema: dict[str, Any] | None = None
    """What it asks of the attributes of products in it, as JSON Schema."""
    etag: str = ""

    @property
    def level(self) -> int:
        """How many categories it is in."""
        return max(0, len(self.path) - 1)

    @property
    def indented(self) -> str:
        """The name as it stands in a list of choices."""
        return "\N{EM SPACE}" * self.level + self.name


class Place(Shown):
    """A category in the tree, and where it can go from there."""

    category: Category
    above: str | None = None
    """The slug of what its parent is in; empty at the root, None where it is in none."""
    before: Category | None = None
    """The one before it in the same category."""


def neighbours(tree: list[Category]) -> list[Place]:
    """Return categories in the order of their tree with what is around them."""
    last: dict[str | None, Category] = {}
    places = []
    for one in tree:
        above = None if one.parent is None else "".join(one.path[-3:-2])
        places.append(Place(category=one, above=above, before=last.get(one.parent)))
        last[one.parent] = one
    return places


class Thumbnail(Shown):
    """A picture, made smaller."""

    width: int
    height: int
    url: str


class Image(Shown):
    """A picture of a product."""

    id: str = ""
    position: int = 0
    version: int = 1
    etag: str = ""
    alt: str = ""
    width: int
    height: int
    url: str
    thumbnails: list[Thumbnail] = Field(default_factory=list)

    @property
    def smallest(self) -> "Thumbnail | Image":
        """The narrowest one; the whole while there is none."""
        return min(self.thumbnails, key=lambda small: small.width, default=self)

    @property
    def shown(self) -> "Thumbnail | Image":
        """The narrowest one that is sharp in a page; the whole while there is none."""
        wide = [small for small in self.thumbnails if small.width >= _SHARP]
        return min(wide, key=lambda small: small.width, default=self)

    @property
    def srcset(self) -> str:
        """What a browser may choose from, as HTML's `srcset`.

        The whole is among it only where nothing else is sharp enough: it may be huge.
        """
        small = [one for one in self.thumbnails if one.width < self.width]
        choice: list[Thumbnail | Image] = [*small]
        if all(one.width < _SHARPEST for one in small):
            choice.append(self)
        return ", ".join(f"{one.url} {one.width}w" for one in choice)


class Rating(Shown):
    """What people think of a product."""

    count: int = 0
    average: float | None = None
    """Stars, 1 to 5; None while nobody has reviewed it."""


class Embedded(Shown):
    """What was asked for with a product."""

    images: list[Image] = Field(default_factory=list)


class Product(Shown):
    """One product of the catalog."""

    id: str
    sku: str
    slug: str
    name: str
    description: str = ""
    description_html: str | None = None
    """The catalog's, which lets no more through than text, links, lists and headings."""
    price_minor: int
    currency: str
    status: str = "active"
    stock: int = 0
    available: int | None = None
    """The stock without what is reserved; None from a catalog that has no reservations."""
    category: str | None = None
    tags: list[str] = Field(default_factory=list)
    attributes: dict[str, Any] = Field(default_factory=dict)
    rating: Rating = Rating()
    version: int = 1
    updated_at: datetime | None = None
    embedded: Embedded = Embedded()
    etag: str = ""
    """The entity tag of what was read; a change must name it."""

    @property
    def text(self) -> Markup:
        """The description as it is shown; empty where there is none to show."""
        return Markup(self.description_html or "")  # noqa: S704 (sanitised where made)

    @property
    def summary(self) -> str:
        """The beginning of the description, without its marks and in one line."""
        html = self.description_html
        # A blank, because the words of two paragraphs are not one.
        text = (
            self.description
            if html is None
            else Markup(str(html).replace("<", " <")).striptags()  # noqa: S704 (as above)
        )
        return shorten(text, _SUMMARY, placeholder="…")

    @property
    def ref(self) -> str:
        """What its page's address ends in."""
        return self.slug or self.id

    @cached_property
    def title(self) -> covers.Title:
        """The name, cut into what is printed large and small."""
        return covers.split_title(self.name)

    @cached_property
    def makers(self) -> list[str]:
        """Authors or other makers, in the order given, each once."""
        for name in _MAKERS:
            value = self.attributes.get(name)
            parts = value if isinstance(value, list) else str(value or "").split(",")
            found = [str(part).strip() for part in parts if str(part).strip()]
            if found:
                return list(dict.fromkeys(found))
        return []

    @property
    def byline(self) -> str:
        """The makers in one short line: all of them only when they are few."""
        if len(self.makers) > _SMALL:
            return ngettext(
                "%(first)s and %(num)s other",
                "%(first)s and %(num)s others",
                len(self.makers) - 1,
                first=self.makers[0],
            )
        return ", ".join(self.makers)

    @property
    def image(self) -> Image | None:
        """The first of its images, if they were asked for and there are any."""
        return next(iter(self.embedded.images), None)

    @cached_property
    def cover(self) -> covers.Cover:
        """The generated cover."""
        return covers.cover(self.name, by=self.makers[0] if self.makers else "")

    @property
    def price(self) -> str:
        """The price for people."""
        return money.readable(self.price_minor, self.currency)

    @property
    def price_plain(self) -> str:
        """The price as a form holds it."""
        return money.writable(self.price_minor, self.currency)

    @property
    def left(self) -> int:
        """How many can be bought."""
        return self.stock if self.available is None else self.available

    @property
    def availability(self) -> str:
        """One of `none`, `few` or `many`."""
        if self.left <= 0:
            return "none"
        return "few" if self.left <= _SMALL else "many"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Pairs of (label, value) of the attributes worth reading, sorted by label."""
        return [
            (label(name), _fact(name, value))
            for name, value in sorted(self.attributes.items())
            if name not in _MAKERS and _worth_reading(value)
        ]


class FacetValue(Shown):
    """How many products of a list have a value."""

    value: str
    count: int


class Facets(Shown):
    """What a search can be narrowed by, the most first."""

    complete: bool = True
    """False where there are more products than are counted."""
    category: list[FacetValue] = Field(default_factory=list)
    tag: list[FacetValue] = Field(default_factory=list)
    status: list[FacetValue] = Field(default_factory=list)

    @property
    def total(self) -> int:
        """How many products there are, where statuses were counted."""
        return sum(one.count for one in self.status)


class Hits(Shown):
    """Where a search found its words in a product, as HTML with these in `<mark>`."""

    name: str = ""
    description: str = ""
    """Excerpts."""

    @property
    def title(self) -> Markup:
        """What is printed large of the name."""
        return _marked(covers.split_title(_readable(self.name)).main)

    @property
    def excerpt(self) -> Markup:
        """What is in the description; empty where none of the words is."""
        text = _readable(self.description)
        return _marked(text) if _BEGIN in text else Markup()


class ProductPage(Shown):
    """Some products, and where the next ones begin."""

    items: list[Product]
    next_cursor: str | None = None
    facets: Facets = Facets()
    highlights: dict[str, Hits] = Field(default_factory=dict)
    """By the ids of the products, where they were asked for."""
    corrected: str | None = None
    """What was searched for instead of words that find nothing."""


class FieldError(Shown):
    """What is wrong with a field."""

    pointer: str = ""
    detail: str


class Present(Shown):
    """A product as it is, in short."""

    id: str
    sku: str
    name: str
    price_minor: int
    currency: str
    stock: int
    category: str | None
    version: int


class BulkResult(Shown):
    """What became of one of several products."""

    sku: str | None
    outcome: str
    errors: list[FieldError] = Field(default_factory=list)
    present: Present | None = None
    """The product as it is now, where that was asked for and there is one."""

    @property
    def stale(self) -> bool:
        """Whether somebody has edited the product since it was seen."""
        return any(error.pointer == "#/version" for error in self.errors)


class BulkSummary(Shown):
    """How many products ended how."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0


class BulkReport(Shown):
    """What became of several products, in the order in which they were named."""

    results: list[BulkResult]
    summary: BulkSummary


class ImagePage(Shown):
    """All images of a product, in order."""

    items: list[Image]


class CategoryPage(Shown):
    """Some categories, and where the next ones begin."""

    items: list[Category]
    next_cursor: str | None = None


def status_words(status: str) -> str:
    """Return the status of a product in words; one that is new to us as it comes."""
    return str(STATUSES.get(status, status))


def label(name: str) -> str:
    """Return the name of an attribute as words: `language_code` → `Language code`."""
    if name.lower() in _NAMES:
        return _NAMES[name.lower()]
    words = re.sub(r"[_\-.]+", " ", name).strip() or name
    return capitalized(term(words))


def _readable(html: str) -> str:
    """Return the text of escaped HTML with `_BEGIN` and `_END` around what is marked."""
    plain = html.translate(_NO_MARKS)
    return unescape(plain.replace("<mark>", _BEGIN).replace("</mark>", _END))


def _marked(text: str) -> Markup:
    """Return a text as HTML; whatever it holds, there is no other element in it."""
    parts = (part.translate(_NO_MARKS) for part in _HIT.split(text))
    pieces = (
        Markup("<mark>{}</mark>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )
    return Markup().join(pieces)


def _worth_reading(value: object) -> bool:
    if isinstance(value, dict) or value is None:
        return False
    return bool(str(value).strip()) and not _LINK.match(str(value))


def _fact(name: str, value: object) -> str:
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    text = str(value).strip()
    if "year" in name and text.endswith(".0"):
        # Spreadsheets write whole years as decimals.
        text = text[:-2]
    if "year" in name and text.startswith("-") and text[1:].isdigit():
        text = _("%(year)s BC", year=text[1:])
    return text
