"""Changes of many products at once, planned before they are made.

A plan holds what each product becomes and not how it came to that, so that what is done is
what was shown (docs/adr/0102-planned-changes-of-many-products.md).
"""

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flagon_chassis.errors import Invalid
from flagon_web import i18n
from flagon_web.i18n import gettext as _

from . import money
from .products import BulkResult, Present

STEPS_MAX = 50
"""Most products that are changed at once: a page of their list."""
_FIELDS = {"price": "price_minor", "category": "category", "stock": "stock"}
_PERCENT = re.compile(r"\A([+\N{MINUS SIGN}-]?)([0-9]{1,4}(?:[.,][0-9]{1,2})?)\s?%?\Z")
_PERCENT_MIN, _PERCENT_MAX = -100, 1000

Change = Literal["price", "category", "stock"]
Value = int | str | None


class PercentUnreadable(Invalid):
    """The percentage cannot be read."""


class OtherCurrency(Invalid):
    """The product has its price in another currency."""


class FewerThanNone(Invalid):
    """More is to be taken out of the stock than there is."""


class Step(BaseModel):
    """What a plan makes of one product."""

    model_config = ConfigDict(frozen=True)

    id: str
    sku: str = Field(max_length=64)
    name: str
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    version: int
    """The one that was seen; after another edit the step is not made."""
    before: Value
    after: Value


class Plan(BaseModel):
    """What becomes of some products, in the order in which they were named."""

    model_config = ConfigDict(frozen=True)

    change: Change
    steps: list[Step] = Field(max_length=STEPS_MAX)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        kinds = str | None if self.change == "category" else int
        for one in self.steps:
            if not all(isinstance(value, kinds) for value in (one.before, one.after)):
                raise ValueError(f"that is no {self.change}")
        return self

    @property
    def items(self) -> list[dict[str, Any]]:
        """What the catalog is told."""
        name = _FIELDS[self.change]
        return [
            {"sku": one.sku, "version": one.version, name: one.after}
            for one in self.steps
        ]

    @property
    def needed(self) -> int:
        """How many products it changes; others are so already."""
        return sum(one.before != one.after for one in self.steps)

    def without(self, skus: Iterable[str]) -> "Plan":
        """Return the same plan for other products than these."""
        left_out = set(skus)
        kept = [one for one in self.steps if one.sku not in left_out]
        return Plan(change=self.change, steps=kept)

    def undone(self, results: Iterable[BulkResult]) -> "Plan":
        """Return the plan that takes back what came of this one.

        :param results: of its steps, in their order.
        """
        steps = [
            one.model_copy(
                update={
                    "version": result.present.version,
                    "before": one.after,
                    "after": one.before,
                }
            )
            for one, result in zip(self.steps, results, strict=True)
            if result.outcome == "updated" and result.present
        ]
        return Plan(change=self.change, steps=steps)


def step(change: Change, found: Present, after: Value) -> Step:
    """Return the step from what a product is to what it shall be."""
    return Step(
        **found.model_dump(include={"id", "sku", "name", "currency", "version"}),
        before=value(change, found),
        after=after,
    )


def value(change: Change, found: Present) -> Value:
    """Return what such a change is about, as a product has it."""
    told: Value = getattr(found, _FIELDS[change])
    return told


def words(
    change: Change, categories: Mapping[str, str], value: Value, currency: str
) -> str:
    """Return what such a change is about, as people read it; empty where it is nothing.

    :param categories: names by slug.
    """
    if value is None:
        return ""
    if change == "price":
        return money.readable(int(value), currency)
    if change == "stock":
        return i18n.number(int(value))
    return categories.get(str(value), str(value)).strip()


def percent(text: str) -> Decimal:
    """Return the percentage that somebody wrote, with a decimal comma or point.

    :raises PercentUnreadable: it is none, or takes more away than there is.
    """
    found = _PERCENT.match(text.strip())
    if found is None:
        example = f"\N{MINUS SIGN}7{i18n.decimal_sign()}5"
        raise PercentUnreadable(
            _("Write a percentage such as %(example)s.", example=example)
        )
    share = Decimal(found[2].replace(",", "."))
    if found[1] in {"-", "\N{MINUS SIGN}"}:
        share = -share
    if not _PERCENT_MIN <= share <= _PERCENT_MAX:
        raise PercentUnreadable(
            _(
                "Write a percentage between %(least)s and %(most)s.",
                least=i18n.number(_PERCENT_MIN),
                most=i18n.number(_PERCENT_MAX),
            )
        )
    return share


def by_percent(price_minor: int, share: Decimal) -> int:
    """Return a price that is higher by a percentage, in whole minor units.

    Halves go up, as in shops, in the currency's own smallest unit.
    """
    exact = price_minor * (100 + share) / 100
    return int(exact.to_integral_value(ROUND_HALF_UP))


def by_difference(stock: int, more: int) -> int:
    """Return a stock with so many more, or fewer.

    :raises FewerThanNone: there is not so much to take.
    """
    if stock + more < 0:
        raise FewerThanNone(_("There would be fewer than none."))
    return stock + more


def to_amount(found: Present, amount: str, currency: str) -> int:
    """Return the price that a product shall have, in minor units.

    :raises OtherCurrency: its price is in another one.
    :raises AmountUnreadable: it is no amount of the currency.
    """
    if found.currency != currency:
        raise OtherCurrency(_("Its price is in %(currency)s.", currency=found.currency))
    return money.minor_units(amount, currency)
