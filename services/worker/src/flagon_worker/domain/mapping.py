"""Turn the cells of a supplier's row into a product that the catalog understands."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

Decimals = Literal["auto", "comma", "point"]
Item = dict[str, object]

TARGETS = (
    "sku",
    "name",
    "description",
    "price",
    "price_minor",
    "currency",
    "stock",
    "category",
    "status",
)
"""What a column may be mapped to, besides `attributes.<name>`."""
ATTRIBUTE = re.compile(r"\Aattributes\.[a-z][a-z0-9_]{0,62}\Z")
"""A target that is one of the product's free attributes."""

STATUSES = ("draft", "active", "archived")
CELL_CHARS_MAX = 20_000
"""The longest text that a product has: its description."""
NAME_CHARS_MAX = 200
PRICE_MAX = 999_999_999_999
"""Greatest price in minor units."""
STOCK_MAX = 1_000_000_000
"""Most pieces in stock."""

_SKU = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_CURRENCY = re.compile(r"\A[A-Z]{3}\Z")
# Spreadsheets write whole numbers as "5.0"; "1.000" could be a thousand, so is refused.
_WHOLE = re.compile(r"\A([+-]?\d{1,18})(?:[.,]0{1,2})?\Z")
# Groups of thousands are parted by the other sign or an apostrophe.
_STYLES: dict[str, re.Pattern[str]] = {
    "comma": re.compile(r"\A(\d+|[1-9]\d{0,2}(?:[.'\u2019]\d{3})+)(?:,(\d+))?\Z"),
    "point": re.compile(r"\A(\d+|[1-9]\d{0,2}(?:[,'\u2019]\d{3})+)(?:\.(\d+))?\Z"),
}
_AROUND_AMOUNT = "€$£¥₹ \t\u00a0\u202f"
_SPACES = re.compile(r"[ \u00a0\u202f](?=\d{3}(?!\d))")
_CODE_AROUND = re.compile(r"\A(?:[A-Za-z]{3})?\s*(.*?)\s*(?:[A-Za-z]{3})?\Z")
_GROUPING = re.compile("[.,'\u2019]")
_AMOUNT_CHARS_MAX = 40
# Letters that are not made of a plain one and an accent.
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"}
)
_NOT_SLUG = re.compile(r"[^a-z0-9]+")

# ISO 4217: the currencies whose minor unit is not a hundredth.
_WITHOUT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THOUSANDTHS = "BHD IQD JOD KWD LYD OMR TND"
_MINOR_DIGITS = dict.fromkeys(_WITHOUT.split(), 0) | dict.fromkeys(
    _THOUSANDTHS.split(), 3
)


class ValueRefused(Exception):
    """A cell's text cannot be what its column is mapped to; the message says why."""


@dataclass
class DecimalEvidence:
    """What the prices of a file say about its decimal sign."""

    commas: int = 0
    points: int = 0

    def add(self, text: str) -> None:
        """Count a price that can be read in one way only."""
        readings = _readings(_bare_amount(text))
        if len(set(readings.values())) == len(readings) == 1:
            self.commas += "comma" in readings
            self.points += "point" in readings

    def verdict(self) -> Decimals:
        """Return the decimal sign that every doubtless price has, else `auto`."""
        if self.commas and not self.points:
            return "comma"
        if self.points and not self.commas:
            return "point"
        return "auto"


def minor_digits(currency: str) -> int:
    """Return how many decimals the currency's minor unit is."""
    return _MINOR_DIGITS.get(currency, 2)


def read_whole(text: str, *, limit: int) -> int:
    """Return a whole number, zero or more.

    :param limit: the greatest that is taken.
    :raises ValueRefused: it is none, or beyond the limit.
    """
    found = _WHOLE.match(text.strip())
    if not found:
        raise ValueRefused(f"“{_shown(text)}” is not a whole number.")
    number = int(found[1])
    if not 0 <= number <= limit:
        raise ValueRefused(f"{number} is not between 0 and {limit}.")
    return number


def read_price(text: str, *, currency: str, decimals: Decimals) -> int:
    """Return an amount such as `1.234,50`, `1,234.50` or `€ 12,99` in minor units.

    :param decimals: the decimal sign; `auto` takes what can be read in one way only.
    :raises ValueRefused: it is no amount, or can be read in two ways.
    """
    readings = _readings(_bare_amount(text))
    if decimals != "auto":
        readings = {style: r for style, r in readings.items() if style == decimals}
    if not readings:
        raise ValueRefused(f"“{_shown(text)}” is not a price.")
    if len(set(readings.values())) > 1:
        raise ValueRefused(
            f"“{_shown(text)}” can be read as thousands or as decimals. Say which by "
            "`decimals` (`comma` or `point`)."
        )
    whole, fraction = next(iter(readings.values()))
    digits = minor_digits(currency)
    if len(fraction) > digits:
        raise ValueRefused(
            f"“{_shown(text)}” has more decimals than {currency} has ({digits})."
        )
    minor = int(whole + fraction.ljust(digits, "0"))
    if minor > PRICE_MAX:
        raise ValueRefused(f"“{_shown(text)}” is more than a price may be.")
    return minor


def _readings(amount: str) -> dict[str, tuple[str, str]]:
    """Return the digits before and after the decimal sign, by decimal sign."""
    found = {style: pattern.match(amount) for style, pattern in _STYLES.items()}
    return {
        style: (_GROUPING.sub("", match[1]), (match[2] or "").rstrip("0"))
        for style, match in found.items()
        if match
    }


def _bare_amount(text: str) -> str:
    if len(text) > _AMOUNT_CHARS_MAX:
        # No price, and not worth the time that the patterns take.
        return ""
    found = _CODE_AROUND.match(text.strip(_AROUND_AMOUNT))
    bare = (found[1] if found else text).strip(_AROUND_AMOUNT)
    return _SPACES.sub("", bare)


def _shown(text: str) -> str:
    limit = 40
    return text if len(text) <= limit else text[:limit] + "…"


def slug_of(text: str) -> str:
    """Return a category's name as its slug: small letters, digits and hyphens.

    :raises ValueRefused: nothing is left of it.
    """
    plain = (
        unicodedata.normalize("NFKD", text.lower().translate(_LETTERS))
        .encode("ascii", "ignore")
        .decode()
    )
    slug = _NOT_SLUG.sub("-", plain).strip("-")[:64].strip("-")
    if not slug:
        raise ValueRefused(f"“{_shown(text)}” gives no category slug.")
    return slug


@dataclass
class Mapper:
    """Makes products of the rows of one file.

    :param columns: the file's columns in order.
    :param mapping: column by target.
    :param defaults: value by target, where a cell is empty or no column is mapped.
    """

    columns: Sequence[str]
    mapping: Mapping[str, str]
    defaults: Mapping[str, object]
    decimals: Decimals = "auto"
    _places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._places = {
            target: self.columns.index(column)
            for target, column in self.mapping.items()
        }

    def text(self, cells: Sequence[str], target: str) -> str:
        """Return the cell that is mapped to a target, empty when there is none."""
        place = self._places.get(target)
        if place is None or place >= len(cells):
            return ""
        return cells[place].strip()

    def item(self, cells: Sequence[str]) -> tuple[Item, list[str]]:
        """Return a row as a product, and every reason to refuse it."""
        problems: list[str] = []
        item: Item = {}
        short = [
            self.columns[place]
            for place in sorted(set(self._places.values()))
            if place >= len(cells)
        ]
        if short:
            problems.append(f"The row ends before the column “{short[0]}”.")
            return item, problems
        attributes: dict[str, str] = {}
        currency = self._currency(cells)
        for target in dict.fromkeys((*self.mapping, *self.defaults)):
            value: object = self.text(cells, target)
            decimals = self.decimals
            if value == "":
                value = self.defaults.get(target, "")
                # A default was not written by whoever wrote the file.
                decimals = "auto" if isinstance(value, str) else "point"
            if value == "":
                continue
            try:
                if target.startswith("attributes."):
                    attributes[target.partition(".")[2]] = _text(str(value))
                elif target == "price":
                    item["price_minor"] = read_price(
                        str(value), currency=currency, decimals=decimals
                    )
                else:
                    item[target] = _READERS[target](str(value))
            except ValueRefused as refusal:
                problems.append(f"{target}: {refusal}")
        if attributes:
            item["attributes"] = attributes
        problems.extend(
            f"{required}: The cell is empty."
            for required in ("sku", "name")
            if required in self.mapping
            and required not in item
            and not any(problem.startswith(f"{required}:") for problem in problems)
        )
        return item, problems

    def _currency(self, cells: Sequence[str]) -> str:
        found = self.text(cells, "currency") or str(self.defaults.get("currency", ""))
        return found.upper() or "EUR"


def _text(value: str, limit: int = CELL_CHARS_MAX) -> str:
    if len(value) > limit:
        raise ValueRefused(
            f"The text has {len(value)} characters; {limit} is the most."
        )
    return value


def _sku(value: str) -> str:
    if not _SKU.match(value):
        raise ValueRefused(
            f"“{_shown(value)}” is no SKU: letters, digits, points, hyphens and "
            "underscores, at most 64, beginning with a letter or digit."
        )
    return value


def _name(value: str) -> str:
    return _text(value, NAME_CHARS_MAX)


def _read_currency(value: str) -> str:
    if not _CURRENCY.match(value.upper()):
        raise ValueRefused(f"“{_shown(value)}” is no ISO 4217 code such as EUR.")
    return value.upper()


def _status(value: str) -> str:
    if value.lower() not in STATUSES:
        raise ValueRefused(f"“{_shown(value)}” is none of {', '.join(STATUSES)}.")
    return value.lower()


_READERS: dict[str, Callable[[str], object]] = {
    "sku": _sku,
    "name": _name,
    "description": _text,
    "price_minor": partial(read_whole, limit=PRICE_MAX),
    "currency": _read_currency,
    "stock": partial(read_whole, limit=STOCK_MAX),
    "category": slug_of,
    "status": _status,
}


def check_defaults(defaults: Mapping[str, object]) -> list[str]:
    """Return what is wrong with values that stand in for empty cells."""
    return Mapper((), {}, defaults).item(())[1]
