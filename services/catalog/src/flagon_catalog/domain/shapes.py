"""What of a product is shown: some of its fields, and what belongs to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal_column, select
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by

from flagon_catalog.models import (
    CATEGORY_VIEW,
    IMAGE_VIEW,
    PRODUCT_VIEW,
    Category,
    Image,
    Picture,
    Product,
)
from flagon_chassis.errors import Invalid

from . import renditions
from .markup import article_of

FIELDS = tuple(column.key for column in PRODUCT_VIEW)
"""What lists show if nothing else is asked for."""
HTML = "description_html"
_AFTER = FIELDS.index("description") + 1
NAMES = (*FIELDS[:_AFTER], HTML, *FIELDS[_AFTER:])
"""All that can be shown of a product."""
INCLUDES = ("category", "images")

# What entity tags, cursors and the rules of who sees what are made of.
_NEEDED = frozenset({"id", "version", "status", "available", "rating"})
_IN_CATEGORY = "category__"
_IMAGES = "images__"
_SOURCE = "description__"

_PARTS: list[ColumnElement[Any]] = []
for _column in IMAGE_VIEW:
    _PARTS += [literal_column(f"'{_column.key}'"), _column.expression]

# In the statement that selects the products, because one for each would be many.
_EMBEDDED = (
    select(
        func.coalesce(
            func.jsonb_agg(
                aggregate_order_by(func.jsonb_build_object(*_PARTS), Image.position)
            ),
            literal_column("'[]'::jsonb"),
            type_=JSONB(),
        )
    )
    .join(Picture, Picture.sha256 == Image.sha256)
    .where(Image.product_id == Product.id)
    .correlate(Product)
    .scalar_subquery()
    .label(_IMAGES)
)
# Selections: making one takes as long as a small query.
_CACHED = 100


class FieldUnknown(Invalid):
    """Products have no such field."""


class IncludeUnknown(Invalid):
    """Nothing of this name can be shown with a product."""


@dataclass(frozen=True)
class Shape:
    """What to show of a product."""

    fields: frozenset[str] = frozenset(FIELDS)
    include: frozenset[str] = frozenset()

    @lru_cache(maxsize=_CACHED)  # noqa: B019 (a shape is a value, and few are kept)
    def select(self) -> Select[Any]:
        """Return a selection of what is shown and what is needed beside it."""
        wanted = self.fields | _NEEDED
        statement = (
            select(*(column for column in PRODUCT_VIEW if column.key in wanted))
            .select_from(Product)
            .outerjoin(Category, Product.category_id == Category.id)
        )
        if HTML in wanted:
            # What it is made of, where it has not been made.
            source = case(
                (Product.description_html.is_(None), Product.description), else_=None
            )
            statement = statement.add_columns(
                Product.description_html, source.label(_SOURCE)
            )
        if "category" in self.include:
            statement = statement.add_columns(
                *(column.label(_IN_CATEGORY + column.key) for column in CATEGORY_VIEW)
            )
        if "images" in self.include:
            statement = statement.add_columns(_EMBEDDED)
        return statement

    def names(self) -> list[str]:
        """Return the names of what is shown, in order."""
        shown = [name for name in NAMES if name in self.fields]
        return [*shown, "embedded"] if self.include else shown

    def show(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return a selected product as the API shows it."""
        if self == WHOLE:
            return dict(found)
        shown = {
            name: _html(found) if name == HTML else found[name]
            for name in NAMES
            if name in self.fields
        }
        if self.include:
            shown["embedded"] = self.embedded(found)
        return shown

    def embedded(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was selected with a product, by the names of `include`."""
        shown: dict[str, Any] = {}
        if "category" in self.include:
            shown["category"] = _category(found)
        if "images" in self.include:
            shown["images"] = [renditions.shown(image) for image in found[_IMAGES]]
        return shown


WHOLE = Shape()
"""Every field of a list, and nothing else."""
SINGLE = Shape(frozenset(NAMES))
"""What one product is shown with that is asked for by itself."""


def _html(found: Mapping[str, Any]) -> str:
    """Return the HTML of a description, made now for a product from before there was any."""
    html = found.get(HTML)
    if html is None:
        html = article_of(found.get(_SOURCE, found.get("description")) or "")
    return str(html)


def _category(found: Mapping[str, Any]) -> dict[str, Any] | None:
    if found[f"{_IN_CATEGORY}id"] is None:
        return None
    return {column.key: found[_IN_CATEGORY + column.key] for column in CATEGORY_VIEW}


def shape(fields: str | None, include: str | None, *, default: Shape = WHOLE) -> Shape:
    """Return the shape that a query asks for.

    :param fields: names with commas between them; those of `default` when None.
    :param include: likewise; nothing when None.
    :raises FieldUnknown: products have no such field.
    :raises IncludeUnknown: nothing of this name can be included.
    """
    return Shape(
        default.fields
        if fields is None
        else frozenset(known(fields, "fields", NAMES, FieldUnknown)),
        WHOLE.include
        if include is None
        else frozenset(known(include, "include", INCLUDES, IncludeUnknown)),
    )


def known(
    asked: str, parameter: str, names: Sequence[str], failure: type[Invalid]
) -> list[str]:
    """Return the names that a query parameter lists, in the order of `names`.

    :param asked: names with commas between them.
    :raises Invalid: as `failure`: one of them is none of `names`.
    """
    wanted = frozenset(asked.split(","))
    unknown = sorted(wanted.difference(names))
    if unknown:
        detail = f"There is no {unknown[0]!r}; known are {', '.join(names)}."
        raise failure(
            detail,
            errors=[{"pointer": f"#/{parameter}", "detail": detail}],
            known=list(names),
        )
    return [name for name in names if name in wanted]
