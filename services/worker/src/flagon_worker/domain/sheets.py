"""Read a supplier's file: its encoding, its delimiter, its columns and its rows.

Whatever the file is, memory stays bounded: a row, and so a column and a line, has a
greatest length, and what goes beyond ends the reading with a sentence that says why.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, Literal

from .encodings import (
    ENCODINGS,
    SAMPLE_BYTES,
    SAVE_AS,
    SheetUnreadable,
    find_encoding,
    skip_mark,
)

ROW_CHARS_MAX = 1 << 20
"""Characters in one row; a longer one means a wrong delimiter or a missing quote."""
COLUMNS_MAX = 1000
"""Columns in one file."""
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Delimiters that are looked for, the likeliest first."""

_SAMPLE_ROWS = 50
_NAMES_SHOWN = 20
_SHORT_NAME = 60
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Layout:
    """How the bytes of one file become rows."""

    form: Literal["csv", "ndjson"]
    encoding: str
    """A key of `ENCODINGS`."""
    delimiter: str
    columns: tuple[str, ...]
    """Names of the columns, without surrounding blanks."""
    start_byte: int
    """Where the first row after the header begins."""
    start_row: int
    """The number, as a spreadsheet counts, of the last row before `start_byte`."""


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    number: int
    """As a spreadsheet shows it: the header is row 1."""
    cells: Sequence[str]
    """As many as there are columns, unless `problem` says otherwise."""
    end_byte: int
    """Where the next row begins."""
    problem: str = ""
    """Why the row cannot be used; empty when it can."""


class _Lines:
    """Lines of a text file, together with the byte at which the last one ended."""

    def __init__(self, file: BinaryIO, encoding: str, start_byte: int) -> None:
        file.seek(start_byte)
        self.end_byte = start_byte
        self._encoding = encoding
        self._width = 2 if encoding.startswith("utf-16") else 1
        # newline="": a line ends at CR, LF or both, and keeps what ended it.
        self._text = io.TextIOWrapper(file, encoding=encoding, newline="")
        self._row_chars = 0

    def begin_row(self) -> None:
        """Measure the next row from here."""
        self._row_chars = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(ROW_CHARS_MAX + 1 - self._row_chars)
        except UnicodeError as error:
            raise SheetUnreadable(
                f"The file is not {ENCODINGS[self._encoding]} throughout: the bytes "
                f"after position {self.end_byte} cannot be read. Save it as UTF-8."
            ) from error
        if not line:
            raise StopIteration
        self._row_chars += len(line)
        if self._row_chars > ROW_CHARS_MAX:
            raise SheetUnreadable(
                f"A row is longer than {ROW_CHARS_MAX} characters. Is a quotation mark "
                "never closed, or is this not a CSV file?"
            )
        if "\0" in line:
            raise SheetUnreadable(
                f"The file holds NUL characters (after byte {self.end_byte}): it is "
                f"binary or damaged. {SAVE_AS}"
            )
        if line.isascii():
            self.end_byte += len(line) * self._width
        else:
            self.end_byte += len(line.encode(self._encoding))
        return line


def inspect(
    path: Path,
    *,
    wanted: Sequence[str],
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Layout:
    """Return how to read a file whose `wanted` columns are going to be used.

    :param encoding: trusted when given: a codec of `ENCODINGS` or `utf-16`.
    :param delimiter: trusted when given.
    :raises SheetUnreadable: it is no table, or lacks one of the columns.
    """
    if encoding is None:
        codec, mark = find_encoding(path)
    else:
        codec, mark = skip_mark(path, encoding)
    with path.open("rb") as file:
        file.seek(mark)
        sample = file.read(SAMPLE_BYTES).decode(codec, errors="replace")
    if sample.lstrip()[:1] in {"{", "["} and delimiter is None:
        _refuse_json_array(sample)
        return Layout("ndjson", codec, "", tuple(dict.fromkeys(wanted)), mark, 0)
    with path.open("rb") as file:
        lines = _Lines(file, codec, mark)
        row = 0
        hint = re.match(r'"?sep=(.)"?\s*(?:\r\n|\r|\n)', sample)
        if hint:
            # Excel's own way to name the delimiter, in a line above the header.
            next(lines)
            delimiter = delimiter or hint[1]
            row = 1
        else:
            delimiter = delimiter or _find_delimiter(sample)
        columns, skipped = _read_header(lines, delimiter)
        start = lines.end_byte
    _check_columns(columns, wanted, delimiter)
    return Layout("csv", codec, delimiter, columns, start, row + skipped)


def _refuse_json_array(sample: str) -> None:
    if sample.lstrip().startswith("["):
        raise SheetUnreadable(
            "The file is a JSON array. Send CSV, or one JSON object a line (NDJSON)."
        )


def _find_delimiter(sample: str) -> str:
    """Return the delimiter under which most rows have as many cells as the header."""
    # The last line may have been cut by the end of the sample.
    last = max(sample.rfind("\n"), sample.rfind("\r"))
    lines = _LINE_END.split(sample[: last + 1] or sample)
    best, best_score = ",", (0, 0)
    for delimiter in DELIMITERS:
        reader = csv.reader(iter(lines), delimiter=delimiter)
        widths = [len(row) for row in itertools.islice(reader, _SAMPLE_ROWS) if row]
        if not widths or widths[0] == 1:
            continue
        score = (sum(width == widths[0] for width in widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _read_header(lines: _Lines, delimiter: str) -> tuple[tuple[str, ...], int]:
    """Return the names in the header row and the number of that row."""
    csv.field_size_limit(ROW_CHARS_MAX)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    for number in itertools.count(1):
        lines.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise SheetUnreadable(
                f"The header row cannot be read ({error}). {SAVE_AS}"
            ) from error
        if cells is None:
            break
        if any(cell.strip() for cell in cells):
            return tuple(cell.strip() for cell in cells), number
    raise SheetUnreadable("The file has no header row. Send one with column names.")


def _check_columns(
    columns: Sequence[str], wanted: Sequence[str], delimiter: str
) -> None:
    if len(columns) > COLUMNS_MAX:
        raise SheetUnreadable(
            f"The file has {len(columns)} columns; at most {COLUMNS_MAX} can be read. "
            "Leave out what the mapping does not use."
        )
    named = [name for name in columns if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise SheetUnreadable(
            f"The header names {_quoted(twice)} more than once. Give every column a "
            "name of its own."
        )
    missing = [name for name in dict.fromkeys(wanted) if name not in named]
    if missing:
        near = get_close_matches(missing[0], named, n=1)
        hint = f" Did you mean {_quoted(near)}?" if near else ""
        raise SheetUnreadable(
            f"The file has no column {_quoted(missing)}.{hint} Read with the delimiter "
            f"{DELIMITERS.get(delimiter, delimiter)}, its columns are "
            f"{_quoted(named)}."
        )


def _quoted(names: Sequence[str]) -> str:
    shown = [
        f"“{name if len(name) <= _SHORT_NAME else name[:_SHORT_NAME] + '…'}”"
        for name in names[:_NAMES_SHOWN]
    ]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(shown) + more


@contextmanager
def open_rows(
    path: Path, layout: Layout, *, start_byte: int, start_row: int
) -> Iterator[Iterator[Row]]:
    """Open a file and give its rows from a place on; blank rows are left out.

    :param start_byte: the `end_byte` of a row, or the layout's `start_byte`.
    :param start_row: the `number` of that row, or the layout's `start_row`.
    """
    with path.open("rb") as file:
        lines = _Lines(file, layout.encoding, start_byte)
        if layout.form == "csv":
            yield _csv_rows(lines, layout, start_row)
        else:
            yield _json_rows(lines, layout, start_row)


def _csv_rows(lines: _Lines, layout: Layout, number: int) -> Iterator[Row]:
    csv.field_size_limit(ROW_CHARS_MAX)
    # strict: text after a closing quote is told, not guessed at.
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True)
    width = len(layout.columns)
    while True:
        lines.begin_row()
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise SheetUnreadable(
                    f"Row {number} opens a quotation mark that is never closed. Close "
                    "it, or write it twice where it is meant as such."
                ) from error
            reason = "The row is not valid CSV: text follows a closing quotation mark."
            yield Row(number, (), lines.end_byte, reason)
            continue
        if len(cells) > width:
            if any(cell.strip() for cell in cells[width:]):
                reason = f"The row has {len(cells)} cells, the header has {width}."
                yield Row(number, cells, lines.end_byte, reason)
                continue
            del cells[width:]
        if any(map(str.strip, cells)):
            yield Row(number, cells, lines.end_byte)


def _json_rows(lines: _Lines, layout: Layout, number: int) -> Iterator[Row]:
    while True:
        lines.begin_row()
        number += 1
        line = next(lines, "")
        if not line:
            return
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_float=str, parse_int=str)
        except (ValueError, RecursionError):
            yield Row(number, (), lines.end_byte, "The line is not valid JSON.")
            continue
        if not isinstance(found, dict):
            yield Row(number, (), lines.end_byte, "The line is not a JSON object.")
            continue
        cells = [_as_text(found.get(name)) for name in layout.columns]
        yield Row(number, cells, lines.end_byte)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def survey(
    path: Path, layout: Layout, notice: Callable[[Row], None] = lambda _row: None
) -> int:
    """Read a whole file once, before anything is done with it, and count its rows.

    :param notice: called with every row, to gather evidence.
    :raises SheetUnreadable: some part cannot be read, or there is no row.
    """
    total = 0
    with open_rows(
        path, layout, start_byte=layout.start_byte, start_row=layout.start_row
    ) as rows:
        for row in rows:
            total += 1
            notice(row)
    if not total:
        raise SheetUnreadable("The file has a header but no rows. Nothing to import.")
    return total


def take(rows: Iterable[Row], limit: int) -> list[Row]:
    """Return the next rows, at most `limit` of them and few enough to hold in memory."""
    batch: list[Row] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += sum(map(len, row.cells))
        if len(batch) >= limit or chars >= ROW_CHARS_MAX:
            break
    return batch
