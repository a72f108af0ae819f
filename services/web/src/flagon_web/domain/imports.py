"""A supplier's file: what its columns are and what they probably mean."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from pydantic import Field

from flagon_chassis.errors import Invalid
from flagon_web.i18n import LazyText, number
from flagon_web.i18n import gettext as _

from . import money
from .products import Shown

MAX_COLUMNS = 200
SAMPLE_ROWS = 5
_ROWS_TO_JUDGE = 3
"""With fewer, values look alike by chance."""
HEAD_BYTES = 256 * 1024
"""How much of a file is read to show its columns."""

IGNORED = ""
ATTRIBUTE = "attribute"
TARGETS = {
    "sku": LazyText("SKU (the article number)"),
    "name": LazyText("Name"),
    "description": LazyText("Description"),
    "price": LazyText("Price, as a decimal amount"),
    "price_minor": LazyText("Price, in cents"),
    "currency": LazyText("Currency"),
    "stock": LazyText("Stock"),
    "category": LazyText("Category"),
    "status": LazyText("Status"),
}
"""What a column can become, with the words for people."""

_SKU = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_AMOUNT = re.compile(r"\A\D{0,3}\s?\d+(?:[.,]\d{1,2})?\s?\D{0,3}\Z")
_SIGN_OR_CENTS = re.compile(r"[€$£¥]|\d[.,]\d\d(?!\d)")
_CURRENCY = re.compile(r"\A[A-Z]{3}\Z")
_STATUSES = frozenset(["draft", "active", "archived"])
_DEFAULTS = frozenset(["price_minor", "currency", "stock", "category"])
_DELIMITERS = ",;\t|"
# In the order of trust: the first header that is found wins.
_HEADERS: dict[str, tuple[str, ...]] = {
    "sku": (
        "sku",
        "article number",
        "article no",
        "artikelnummer",
        "item number",
        "item no",
        "product code",
        "product id",
        "book id",
        "item id",
        "article",
        "ean",
        "gtin",
        "isbn13",
        "isbn",
        "reference",
        "id",
    ),
    "name": (
        "name",
        "title",
        "product name",
        "product title",
        "item name",
        "bezeichnung",
        "titel",
        "nom",
        "titre",
        "nombre",
        "original title",
    ),
    "description": (
        "description",
        "long description",
        "beschreibung",
        "details",
        "summary",
        "blurb",
    ),
    "price_minor": ("price minor", "price cents", "cents", "price in cents"),
    "price": (
        "price",
        "unit price",
        "retail price",
        "list price",
        "rrp",
        "preis",
        "prix",
        "precio",
        "amount",
    ),
    "currency": ("currency", "currency code", "waehrung", "wahrung", "devise"),
    "stock": (
        "stock",
        "quantity",
        "qty",
        "in stock",
        "inventory",
        "bestand",
        "menge",
        "units",
        "on hand",
    ),
    "category": (
        "category",
        "product category",
        "product type",
        "department",
        "genre",
        "kategorie",
        "section",
    ),
    "status": ("status", "state"),
}
_WORTH_KEEPING = frozenset(
    [
        "authors",
        "author",
        "artist",
        "brand",
        "maker",
        "manufacturer",
        "publisher",
        "language",
        "language_code",
        "isbn",
        "isbn13",
        "ean",
        "format",
        "pages",
        "series",
        "year",
        "original_publication_year",
        "publication_year",
        "published",
        "original_title",
        "colour",
        "color",
        "size",
        "material",
        "weight",
        "average_rating",
    ]
)


class FileUnreadable(Invalid):
    """The file cannot be read as a table."""


class MappingIncomplete(Invalid):
    """The columns do not say enough to make products."""


@dataclass(frozen=True)
class Table:
    """The top of a supplier's file."""

    columns: list[str]
    rows: list[dict[str, str]]
    """The first rows, at most `SAMPLE_ROWS`."""
    kind: str
    """How the file was read, in words for people."""

    def sample(self, column: str, count: int = 3) -> list[str]:
        """Return the first values of a column that are not empty."""
        return [value for value in self.values(column) if value][:count]

    def values(self, column: str) -> list[str]:
        """Return the values of a column in all rows that were read."""
        return [row.get(column, "").strip() for row in self.rows]


@dataclass(frozen=True)
class Defaults:
    """What every row gets where the file says nothing."""

    price: str = ""
    """A decimal amount, empty for none."""
    currency: str = "EUR"
    stock: int | None = None
    category: str = ""


class Profile(Shown):
    """A mapping of columns that a person keeps."""

    id: str
    name: str
    mapping: dict[str, str]
    """The file's column for each target."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    encoding: str | None = None
    delimiter: str | None = None
    decimals: str = "auto"
    etag: str = ""

    @property
    def plain(self) -> bool:
        """Whether the form of the columns can show all that it says."""
        own = (self.encoding, self.delimiter, self.decimals)
        columns = self.mapping.values()
        return (
            own == (None, None, "auto")
            and self.defaults.keys() <= _DEFAULTS
            and len(set(columns)) == len(columns)
            and all(_shown_as(full, column) for full, column in self.mapping.items())
        )

    def chosen(self, columns: Sequence[str]) -> list[str]:
        """Return the target of each column, as `suggest` has them."""
        targets = {
            column: _shown_as(full, column) for full, column in self.mapping.items()
        }
        return [targets.get(column, IGNORED) for column in columns]

    def given(self) -> Defaults:
        """Return what it gives every row, as people write it."""
        currency = str(self.defaults.get("currency", Defaults.currency))
        price = self.defaults.get("price_minor")
        return Defaults(
            price="" if price is None else money.writable(int(price), currency),
            currency=currency,
            stock=self.defaults.get("stock"),
            category=self.defaults.get("category", ""),
        )


class ProfileList(Shown):
    """Some profiles."""

    items: list[Profile]


class ProfilePage(ProfileList):
    """Some profiles, by name."""

    next_cursor: str | None = None


@dataclass
class _Suggestion:
    """The guessing in progress: each target goes to one column."""

    by_column: dict[str, str] = field(default_factory=dict)

    def give(self, column: str, target: str) -> None:
        self.by_column[column] = target

    def free(self, column: str) -> bool:
        return column not in self.by_column


def read_table(head: bytes, *, complete: bool) -> Table:
    """Return the columns and the first rows of a CSV or NDJSON file.

    :param head: the first bytes of the file, up to `HEAD_BYTES`.
    :param complete: whether that is the whole file; if not, the last line may be torn.
    :raises FileUnreadable: it is empty, binary, has one line or too many columns.
    """
    if not head.strip():
        raise FileUnreadable(_("The file is empty."))
    text, encoding = _decode(head)
    if not complete:
        text = text.rpartition("\n")[0]
        if not text:
            raise FileUnreadable(
                _("The first line is too long to be a row of columns.")
            )
    if "\0" in text:
        raise FileUnreadable(_("The file is not text. Save it as CSV and try again."))
    if text.lstrip()[:1] == "{":
        return _read_ndjson(text, encoding)
    return _read_csv(text, encoding)


def suggest(table: Table) -> dict[str, str]:
    """Return a target for every column: one of `TARGETS`, `ATTRIBUTE` or `IGNORED`.

    Headers decide; the sample may veto (an article number must look like one), and says
    what no header says.
    """
    suggestion = _Suggestion()
    words = {column: _words(column) for column in table.columns}
    for target, headers in _HEADERS.items():
        for header in headers:
            column = next(
                (
                    column
                    for column in table.columns
                    if words[column] == header
                    and suggestion.free(column)
                    and _fits(target, table.sample(column, SAMPLE_ROWS))
                ),
                None,
            )
            if column is not None:
                suggestion.give(column, target)
                break
    for target in _BY_VALUES:
        if target in suggestion.by_column.values():
            continue
        unknown = filter(suggestion.free, table.columns)
        likely = _likely(target, {column: table.values(column) for column in unknown})
        if likely is not None:
            suggestion.give(likely, target)
    return {
        column: suggestion.by_column.get(
            column,
            ATTRIBUTE if attribute_name(column) in _WORTH_KEEPING else IGNORED,
        )
        for column in table.columns
    }


def params(
    chosen: Mapping[str, str], defaults: Defaults, *, dry_run: bool
) -> dict[str, Any]:
    """Return the parameters of the import job.

    :param chosen: the target of every column.
    :raises MappingIncomplete: no SKU, no name, no price, or two columns for one target.
    :raises money.AmountUnreadable: the default price is not an amount.
    """
    mapping: dict[str, str] = {}
    for column, target in chosen.items():
        if target == IGNORED:
            continue
        full = f"attributes.{attribute_name(column)}" if target == ATTRIBUTE else target
        if full in mapping:
            name = full.partition(".")[2]
            words = TARGETS.get(full) or _("the attribute “%(name)s”", name=name)
            raise MappingIncomplete(
                _("Two columns are chosen for this, keep one: %(target)s", target=words)
            )
        mapping[full] = column
    for target in ("sku", "name"):
        if target not in mapping:
            words = TARGETS[target]
            raise MappingIncomplete(
                _("Choose the column that holds: %(target)s.", target=words)
            )
    if "price" in mapping and "price_minor" in mapping:
        raise MappingIncomplete(_("Choose one column for the price, not two."))
    values: dict[str, Any] = {"currency": defaults.currency}
    if defaults.price.strip():
        values["price_minor"] = money.minor_units(defaults.price, defaults.currency)
    elif "price" not in mapping and "price_minor" not in mapping:
        raise MappingIncomplete(
            _("Choose a column for the price, or give one for all.")
        )
    if defaults.stock is not None:
        values["stock"] = defaults.stock
    if defaults.category:
        values["category"] = defaults.category
    return {"mapping": mapping, "defaults": values, "dry_run": dry_run}


def attribute_name(column: str) -> str:
    """Return the name under which a column is kept as an attribute."""
    words = slug(column).replace("-", "_").lstrip("_0123456789")
    return words[:62].rstrip("_") or "column"


def slug(text: str) -> str:
    """Return a category's slug for a name that somebody typed; may be empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")[:64].strip("-")


def _decode(head: bytes) -> tuple[str, str]:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        # An odd last byte is half a character of what was not read.
        return head[: len(head) // 2 * 2].decode("utf-16", "replace"), "UTF-16"
    if head.startswith(b"\xef\xbb\xbf"):
        return head[3:].decode("utf-8", "replace"), "UTF-8"
    try:
        return head.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 3:
            return head[: error.start].decode("utf-8"), "UTF-8"
    return head.decode("cp1252", "replace"), "Windows-1252"


def _read_ndjson(text: str, encoding: str) -> Table:
    columns: dict[str, None] = {}
    rows = []
    for line in text.splitlines()[:SAMPLE_ROWS]:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FileUnreadable(_("A line is not a JSON object.")) from error
        if not isinstance(row, dict):
            raise FileUnreadable(_("A line is not a JSON object."))
        columns.update(dict.fromkeys(row))
        rows.append({name: _text(value) for name, value in row.items()})
    kind = _("JSON lines, %(encoding)s", encoding=encoding)
    return _table(list(columns), rows, kind)


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)


def _read_csv(text: str, encoding: str) -> Table:
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = []
        for line in reader:
            if any(cell.strip() for cell in line):
                lines.append(line)
            if len(lines) > SAMPLE_ROWS:
                break
    except csv.Error as error:
        raise FileUnreadable(
            _("A field is longer than any field should be.")
        ) from error
    if not lines:
        raise FileUnreadable(_("The file is empty."))
    header = [cell.strip() for cell in lines[0]]
    if len(lines) == 1:
        raise FileUnreadable(_("The file has a header but no rows."))
    rows = [dict(zip(header, line, strict=False)) for line in lines[1:]]
    names = {
        ",": _("commas"),
        ";": _("semicolons"),
        "\t": _("tabs"),
        "|": _("bars"),
    }
    kind = _(
        "CSV with %(signs)s, %(encoding)s", signs=names[delimiter], encoding=encoding
    )
    return _table(header, rows, kind)


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first lines most evenly."""
    lines = [line for line in text.splitlines()[:20] if line.strip()]

    def evenness(delimiter: str) -> tuple[int, int]:
        counts = [len(cells) for cells in csv.reader(lines, delimiter=delimiter)]
        if not counts or counts[0] == 1:
            return (0, 0)
        return (sum(count == counts[0] for count in counts), counts[0])

    try:
        return max(_DELIMITERS, key=evenness)
    except csv.Error as error:
        raise FileUnreadable(
            _("A field is longer than any field should be.")
        ) from error


def _table(columns: Sequence[str], rows: list[dict[str, str]], kind: str) -> Table:
    if len(columns) > MAX_COLUMNS:
        raise FileUnreadable(
            _(
                "The file has %(count)s columns; %(limit)s are the limit.",
                count=number(len(columns)),
                limit=number(MAX_COLUMNS),
            )
        )
    if not all(columns):
        raise FileUnreadable(
            _("A column has no name. Name every column in the header.")
        )
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if list(columns).count(name) > 1)
        raise FileUnreadable(_("Two columns are named “%(name)s”.", name=twice[:60]))
    return Table(list(columns), rows, kind)


def _words(header: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", header)
    ascii_text = "".join(c for c in ascii_text if not unicodedata.combining(c))
    return re.sub(r"[\W_]+", " ", ascii_text.lower()).strip()


def _fits(target: str, sample: Sequence[str]) -> bool:
    if target == "sku":
        return all(_SKU.match(value) for value in sample) and len(set(sample)) == len(
            sample
        )
    if target == "price":
        return all(_AMOUNT.match(value) for value in sample)
    if target in ("stock", "price_minor"):
        return all(value.removesuffix(".0").isdigit() for value in sample)
    return True


def _shown_as(full: str, column: str) -> str:
    """Return how the form shows a target of a column; empty when it cannot."""
    if full == f"attributes.{attribute_name(column)}":
        return ATTRIBUTE
    return full if full in TARGETS else IGNORED


def _is_money(value: str) -> bool:
    # A number without a sign or cents could be anything.
    return bool(_AMOUNT.match(value) and _SIGN_OR_CENTS.search(value))


def _is_number_of_article(value: str) -> bool:
    return bool(_SKU.match(value)) and any(c.isdigit() for c in value)


_BY_VALUES: dict[str, Callable[[str], bool]] = {
    "currency": lambda value: bool(_CURRENCY.match(value)),
    "status": lambda value: value.lower() in _STATUSES,
    "price": _is_money,
    "sku": _is_number_of_article,
    "name": lambda value: any(c.isalpha() for c in value),
}
"""What every value of a column looks like that can become this, in the order of trust."""


def _likely(target: str, columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column that becomes a target by its values alone; None in doubt.

    :param columns: the values of each, in all rows that were read.
    """
    found = {
        column: values
        for column, values in columns.items()
        if len(values) >= _ROWS_TO_JUDGE and all(map(_BY_VALUES[target], values))
    }
    if target in {"sku", "name"}:
        found = {c: v for c, v in found.items() if len(set(v)) == len(v)}
    if target == "sku":
        # Of several the first: those who write files begin with it.
        return next(iter(found), None)
    if target == "name":
        long = {c: mean(map(len, values)) for c, values in found.items()}
        return max(long, key=lambda column: long[column], default=None)
    return next(iter(found)) if len(found) == 1 else None
