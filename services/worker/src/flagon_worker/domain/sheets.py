"""Read a supplier's file: its encoding, its delimiter, its columns and its rows.

Whatever the file is, memory stays bounded: a row, and so a column and a line, has a
greatest length, and what goes beyond ends the reading with a sentence that says why.
"""

import codecs
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

ROW_CHARS_MAX = 1 << 20
"""Characters in one row; a longer one means a wrong delimiter or a missing quote."""
COLUMNS_MAX = 1000
"""Columns in one file."""

ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "cp1250": "Windows-1250",
    "cp1251": "Windows-1251",
    "cp1252": "Windows-1252",
    "cp1253": "Windows-1253",
    "cp1254": "Windows-1254",
    "cp1257": "Windows-1257",
    "iso8859-1": "ISO 8859-1",
    "iso8859-2": "ISO 8859-2",
    "iso8859-15": "ISO 8859-15",
    "mac-roman": "Mac Roman",
}
"""Encodings that can be read, by codec. Each maps a line to bytes in one way only, so
that the length of what was read is the place in the file."""

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Delimiters that are looked for, the likeliest first."""

_SAMPLE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 18
_SAMPLE_ROWS = 50
_NAMES_SHOWN = 20
_SHORT_NAME = 60
# What C0 control characters a table may hold: tab, the line ends and form feed.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_CP1252_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_STRAY_BYTE = re.compile("[\udc80-\udcff]")
_LINE_END = re.compile(r"\r\n|\r|\n")

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "an Excel or OpenDocument workbook (or another ZIP file)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "an SQLite database"),
)
_SAVE_AS = "Save it as “CSV UTF-8” and send it again."


class SheetUnreadable(Exception):
    """The file cannot be read as a table; the message says why and what to do."""


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


# --- encoding -----------------------------------------------------------------------


def find_encoding(path: Path) -> tuple[str, int]:
    """Return the codec of a file and the length of its byte order mark.

    UTF-8 is believed only when the whole file is; else the file is Windows-1252, unless
    it has characters that speak for damaged UTF-8: taking that for Windows-1252 would
    turn every good accent of the file into rubbish.

    :raises SheetUnreadable: the file is empty, binary or of no known encoding.
    """
    with path.open("rb") as file:
        head = file.read(_SAMPLE_BYTES)
        if not head.strip():
            raise SheetUnreadable("The file is empty. Send a file with a header row.")
        for magic, what in _MAGIC:
            if head.startswith(magic):
                raise SheetUnreadable(f"The file is {what}, not a CSV file. {_SAVE_AS}")
        if head.startswith(codecs.BOM_UTF8):
            _require_utf8(file)
            return "utf-8", len(codecs.BOM_UTF8)
        for mark, codec in (
            (codecs.BOM_UTF16_LE, "utf-16-le"),
            (codecs.BOM_UTF16_BE, "utf-16-be"),
        ):
            if head.startswith(mark):
                return codec, len(mark)
        codec = _utf16_without_mark(head)
        if codec:
            return codec, 0
        if _BINARY.search(head):
            raise SheetUnreadable(
                "The file is binary (it holds control characters), not a CSV file. "
                + _SAVE_AS
            )
        return ("utf-8" if _is_utf8(file) else "cp1252"), 0


def _utf16_without_mark(head: bytes) -> str:
    # Mostly Latin text has a zero in every other byte; the side tells the order.
    even, odd = head[0::2], head[1::2]
    if odd.count(0) > len(odd) * 0.6 and even.count(0) < len(even) * 0.05:
        return "utf-16-le"
    if even.count(0) > len(even) * 0.6 and odd.count(0) < len(odd) * 0.05:
        return "utf-16-be"
    return ""


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    return iter(lambda: file.read(_CHUNK_BYTES), b"")


def _require_utf8(file: BinaryIO) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = 0
    try:
        for chunk in _chunks(file):
            decoder.decode(chunk)
            place += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _broken_utf8(place + error.start) from error


def _broken_utf8(place: int) -> SheetUnreadable:
    return SheetUnreadable(
        f"The file looks like UTF-8, but the bytes near position {place} are not. "
        "Save it as UTF-8 again, or name its `encoding` in the parameters."
    )


def _is_utf8(file: BinaryIO) -> bool:
    """Tell UTF-8 from Windows-1252 by every byte of the file."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    accents = strays = place = 0
    first_stray = -1
    undefined = False
    for chunk in itertools.chain(_chunks(file), [b""]):
        if chunk.isascii() and not decoder.getstate()[0] and chunk:
            place += len(chunk)
            continue
        text = decoder.decode(chunk, final=not chunk)
        plain = len(text.encode("ascii", errors="ignore"))
        found = len(_STRAY_BYTE.findall(text))
        strays += found
        accents += len(text) - plain - found
        if strays and first_stray < 0:
            first_stray = place
        undefined = undefined or bool(_CP1252_UNDEFINED.search(chunk))
        place += len(chunk)
    if not strays:
        return True
    if accents >= strays:
        raise _broken_utf8(first_stray)
    if undefined:
        raise SheetUnreadable(
            "The file is neither UTF-8 nor UTF-16 nor Windows-1252. Save it as UTF-8, "
            "or name its `encoding` in the parameters."
        )
    return False


# --- lines --------------------------------------------------------------------------


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
                f"binary or damaged. {_SAVE_AS}"
            )
        if line.isascii():
            self.end_byte += len(line) * self._width
        else:
            self.end_byte += len(line.encode(self._encoding))
        return line


# --- layout -------------------------------------------------------------------------


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
        codec, mark = _trusted_encoding(path, encoding)
    with path.open("rb") as file:
        file.seek(mark)
        sample = file.read(_SAMPLE_BYTES).decode(codec, errors="replace")
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


def _trusted_encoding(path: Path, encoding: str) -> tuple[str, int]:
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise SheetUnreadable("The file is empty. Send a file with a header row.")
    if encoding == "utf-16":
        big = head.startswith(codecs.BOM_UTF16_BE)
        encoding = "utf-16-be" if big else "utf-16-le"
    marks = {
        "utf-8": codecs.BOM_UTF8,
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
    }
    mark = marks.get(encoding, b"")
    return encoding, len(mark) if mark and head.startswith(mark) else 0


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
                f"The header row cannot be read ({error}). {_SAVE_AS}"
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


# --- rows ---------------------------------------------------------------------------


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
