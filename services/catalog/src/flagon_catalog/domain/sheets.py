"""Read products from a CSV file such as an export is: row by row, each judged alone.

Whatever the file is, memory stays bounded: a row has a greatest length.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, TextIO

from .cells import exact

ROW_CHARS_MAX = 1 << 24
"""Characters in one row, twice what a product that came by the API can need."""
BATCH_CHARS_MAX = 1 << 20
"""Characters after which a batch is full, however few its rows are."""
_NAMES_SHOWN = 20
_NAME_SHOWN = 60

_NUMBER = re.compile(r"-?[0-9]{1,18}")


class SheetUnreadable(ValueError):
    """The file is not a CSV file of products."""


class _NoValue(ValueError):
    """A cell does not hold what its column is for; the text says why."""


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    line: int
    """The line that it begins in; the header is line 1."""
    item: dict[str, Any] = field(default_factory=dict)
    """The fields that it gives, not yet validated."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""
    chars: int = 0
    """How long its cells are together."""


def _number(cell: str) -> int:
    if not _NUMBER.fullmatch(cell):
        raise _NoValue("is not a whole number")
    return int(cell)


def _json(cell: str) -> object:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise _NoValue("is not valid JSON") from error


_COLUMNS: dict[str, Callable[[str], object]] = {
    "sku": exact,
    "name": exact,
    "description": exact,
    "price_minor": _number,
    "currency": exact,
    "status": exact,
    "stock": _number,
    "category": exact,
    "tags": _json,
    "attributes": _json,
}
_EMPTIED = {"description": "", "category": None}
"""What an empty cell means where it is a value: an export writes these so."""


@contextmanager
def opened(file: IO[bytes]) -> "Iterator[Sheet]":
    """Read a file as a sheet; it is not closed.

    :param file: UTF-8, with a byte order mark or without.
    :raises SheetUnreadable: there is no header with a SKU in it.
    """
    # What is not UTF-8 becomes halves of surrogate pairs, by which its row is known.
    # newline="": line ends inside of cells stay as they are.
    text = io.TextIOWrapper(
        file, encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    try:
        yield Sheet(text)
    finally:
        text.detach()


class Sheet:
    """A CSV file whose header has been read; go through it once for its rows."""

    def __init__(self, text: TextIO) -> None:
        """Read the header.

        :param text: as `opened` gives it.
        :raises SheetUnreadable: there is no header with a SKU in it.
        """
        csv.field_size_limit(ROW_CHARS_MAX)
        self._lines = _Lines(text)
        # Strict: text after a closing quotation mark is told, not guessed at.
        self._reader = csv.reader(self._lines, strict=True)
        self._names = self._header()
        self.ignored = [name for name in self._names if name not in _COLUMNS]
        """Columns that are none of a product that can be set."""

    def _header(self) -> list[str]:
        try:
            names = [name.strip() for name in next(self._reader, [])]
        except csv.Error as error:
            raise SheetUnreadable(f"The header cannot be read: {error}.") from error
        if "sku" not in names:
            raise SheetUnreadable(
                "The first line must name the columns, with commas between them, and"
                f" `sku` must be one. It names {shown(names) or 'nothing'}."
            )
        twice = [name for name in _COLUMNS if names.count(name) > 1]
        if twice:
            raise SheetUnreadable(f"Two columns are called {shown(twice)}.")
        return names

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows that are not empty, also those that cannot be used.

        :raises SheetUnreadable: nobody can tell where the row ends.
        """
        while True:
            line = self._lines.begin_row()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                if self._lines.ended:
                    raise SheetUnreadable(
                        f"Line {line} opens a quotation mark that is never closed."
                    ) from error
                yield Row(line, problem=f"It is not valid CSV: {error}.")
                continue
            if cells:
                yield self._row(line, cells)

    def _row(self, line: int, cells: Sequence[str]) -> Row:
        if len(cells) != len(self._names):
            problem = f"It has {len(cells)} cells, the header has {len(self._names)}."
            return Row(line, problem=problem)
        item: dict[str, Any] = {}
        for name, cell in zip(self._names, cells, strict=True):
            read = _COLUMNS.get(name)
            if read is None or (not cell and name not in _EMPTIED):
                continue
            try:
                # Only a text that came as UTF-8 can be written as such.
                cell.encode()
                item[name] = read(cell) if cell else _EMPTIED[name]
            except UnicodeEncodeError:
                return Row(line, problem=f"{name} is not UTF-8.")
            except _NoValue as wrong:
                return Row(line, problem=f"{name} {wrong}.")
        if "sku" not in item:
            return Row(line, problem="It has no sku.")
        return Row(line, item, chars=sum(map(len, cells)))


class _Lines:
    """Lines of a text, counted, of a bounded length."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._read = 0
        self._chars = 0
        self._began = 1
        self.ended = False

    def begin_row(self) -> int:
        """Measure the next row from here and return the number of its first line."""
        self._chars, self._began = 0, self._read + 1
        return self._began

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(ROW_CHARS_MAX + 1 - self._chars)
        if not line:
            self.ended = True
            raise StopIteration
        self._read += 1
        self._chars += len(line)
        if self._chars > ROW_CHARS_MAX:
            raise SheetUnreadable(
                f"The row that begins in line {self._began} is longer than"
                f" {ROW_CHARS_MAX} characters. Is a quotation mark never closed?"
            )
        return line


def batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in lists that are short enough to hold in memory.

    :param size: most rows of one list.
    :raises SheetUnreadable: as the rows do, after the last list before it.
    """
    batch: list[Row] = []
    chars = 0
    try:
        for row in rows:
            batch.append(row)
            chars += row.chars
            if len(batch) >= size or chars >= BATCH_CHARS_MAX:
                yield batch
                batch, chars = [], 0
    except SheetUnreadable:
        # What was read before it is good.
        yield batch
        raise
    if batch:
        yield batch


def shown(names: Sequence[str]) -> str:
    """Return names of columns for people, not too many of them nor too long ones."""
    few = [ascii(name[:_NAME_SHOWN])[1:-1] for name in names[:_NAMES_SHOWN]]
    more = len(names) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")
