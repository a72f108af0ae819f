"""The export: products of the catalog into a file of the job.

Lines come from the catalog by id and go to the file in batches; after each one
transaction stores the last id and the length of the file. What was interrupted goes on
after that id, and what a crashed run left beyond that length is overwritten.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from xml.sax.saxutils import escape, quoteattr

from . import leases, reports
from .runs import Run

FIELDS = (
    "id",
    "sku",
    "slug",
    "name",
    "description",
    "price_minor",
    "currency",
    "status",
    "stock",
    "available",
    "category",
    "tags",
    "rating",
    "attributes",
    "created_at",
    "updated_at",
    "version",
)
"""The columns, in order; what else the catalog shows comes after them."""

XLSX_ROWS_MAX = 100_000
"""Products of one workbook: it is written at once, within the time of a task."""

_TYPES = {
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "xml": "application/xml",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "gz": "application/gzip",
    "pdf": "application/pdf",
}
BINARY_TYPES = frozenset(_TYPES.values()) - {"text/csv"}

_PART = "export.part"
_BATCH_ROWS = 1000
_BATCH_BYTES = 4 << 20
_CELL_CHARS = 32_767
# What XML 1.0 cannot hold (section 2.2).
_NO_XML = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}"
)
_FORMULA = "=+-@\t\r"


class Catalog(Protocol):
    """Where products come from."""

    def export(
        self, filters: Mapping[str, Any], *, after: str | None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Open an export as NDJSON, by id, in pieces of any size.

        :raises leases.Trouble: the catalog does not answer, or breaks off.
        :raises leases.JobFailed: it does not understand the filters.
        """


@dataclass
class Place:
    """Where an export goes on."""

    after: str | None = None
    bytes: int = 0
    done: int = 0
    columns: list[str] | None = None
    whole: bool = False
    """All products are in the file."""


def media_type(name: str) -> str:
    """Return the media type of an artefact."""
    return _TYPES.get(name.rpartition(".")[2], "application/octet-stream")


def run_export(run: Run, *, folder: Path, catalog: Catalog) -> dict[str, Any]:
    """Write the job's file and return how many products are in it.

    :param folder: the job's files.
    """
    params = run.job.params
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / _PART
    name = f"products.{params['format']}" + (".gz" if params["gzip"] else "")
    place = Place()
    if run.job.checkpoint:
        place = Place(**run.job.checkpoint["place"])
    # Not a turn's end: every turn must get a step further, or none would come to an end.
    run.check(turn=False)
    if not place.whole:
        _fetch(run, place, part, catalog)
    made = part
    if params["format"] == "xlsx" and part.exists():
        made = folder / f"{name}.part"
        _workbook(run, place, part, made)
    with run.step() as (session, job):
        # A run that was killed right after this has renamed it before.
        if made.exists():
            made.replace(folder / name)
        message = f"{place.done} products exported."
        run.advance(session, job, _step(place, message, [name]))
    part.unlink(missing_ok=True)
    return {"products": place.done}


def _step(place: Place, message: str, artefacts: list[str]) -> leases.Step:
    return leases.Step(
        place=asdict(place),
        result={"products": place.done},
        artefacts=artefacts,
        done=place.done,
        total=place.done if place.whole else None,
        unit="products",
        message=message,
    )


def _fetch(run: Run, place: Place, part: Path, catalog: Catalog) -> None:
    params = run.job.params
    format_ = params["format"]
    filters = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if name not in {"format", "gzip"} and value not in (None, [])
    }

    def write(text: bytes) -> None:
        # Members of gzip can follow each other (RFC 1952 section 2.2), so each batch is
        # whole, and the file can be cut off after any of them.
        addition = gzip.compress(text, 6, mtime=0) if params["gzip"] else text
        place.bytes = reports.write(part, addition, at=place.bytes)

    with catalog.export(filters, after=place.after) as pieces:
        for batch in _batches(_lines(pieces)):
            rows = [json.loads(line) for line in batch]
            text = b""
            if place.columns is None:
                place.columns = _columns(rows[0])
                text = _head(format_, place.columns)
            if format_ in {"ndjson", "xlsx"}:
                text += b"".join(batch)
            else:
                text += _WRITERS[format_](rows, place.columns)
            with run.step() as (session, job):
                # Under the job's lock: a worker that lost its lease never gets here.
                write(text)
                place.after = str(rows[-1]["id"])
                place.done += len(rows)
                _refuse_too_many(format_, place.done)
                run.advance(session, job, _step(place, "Exporting.", []))
            run.check()
    with run.step() as (session, job):
        text = b"" if place.columns else _head(format_, list(FIELDS))
        write(text + (b"</products>\n" if format_ == "xml" else b""))
        place.whole = True
        run.advance(session, job, _step(place, "Finishing.", []))


def _refuse_too_many(format_: str, done: int) -> None:
    if format_ == "xlsx" and done > XLSX_ROWS_MAX:
        raise leases.JobFailed(
            f"A workbook holds {XLSX_ROWS_MAX} products at most. Filter, or take CSV."
        )


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = bytearray()
    for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n") + 1
        if end:
            yield from bytes(rest[:end]).splitlines(keepends=True)
            del rest[:end]
    if rest:
        raise leases.Trouble("The catalog broke off in the middle of a product.")


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _columns(row: Mapping[str, Any]) -> list[str]:
    known = [name for name in FIELDS if name in row]
    return known + [name for name in row if name not in FIELDS]


def _head(format_: str, columns: list[str]) -> bytes:
    if format_ == "csv":
        return (",".join(columns) + "\n").encode()
    if format_ == "xml":
        return b'<?xml version="1.0" encoding="UTF-8"?>\n<products>\n'
    return b""


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula, as the catalog's CSV does.

    One that begins so already gets another apostrophe: what was there can be told.
    """
    return f"'{text}" if text.lstrip("'").startswith(tuple(_FORMULA)) else text


def _cell(value: object) -> object:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return harmless(value)
    return value


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _xml(rows: list[dict[str, Any]], _columns: list[str]) -> bytes:
    return "".join(_element("item", row) + "\n" for row in rows).encode(
        "utf-8", "replace"
    )


def _element(name: str, value: object) -> str:
    """Return a JSON value as an element, as the catalog's lists have it.

    Names of attributes can be any text, which names of elements cannot: those become
    `<entry name="…">`, and what is in a list `<item>`.
    """
    if name.isidentifier() and name.isascii():
        start, end = name, name
    else:
        start, end = f"entry name={quoteattr(name.translate(_NO_XML))}", "entry"
    if isinstance(value, Mapping):
        inner = "".join(_element(part, found) for part, found in value.items())
    elif isinstance(value, list):
        inner = "".join(_element("item", found) for found in value)
    elif isinstance(value, bool):
        inner = str(value).lower()
    else:
        inner = "" if value is None else escape(str(value).translate(_NO_XML))
    return f"<{start}>{inner}</{end}>"


_WRITERS: dict[str, Callable[[list[dict[str, Any]], list[str]], bytes]] = {
    "csv": _csv,
    "xml": _xml,
}


def _workbook(run: Run, place: Place, lines: Path, target: Path) -> None:
    """Write a workbook of the lines, row by row, in memory that does not grow.

    Made anew when it was interrupted: half a workbook is of no use.
    """
    # Loaded where a workbook is made, which is rare.
    import xlsxwriter  # type: ignore[import-untyped]  # noqa: PLC0415

    columns = place.columns or list(FIELDS)
    options = {
        "constant_memory": True,
        "tmpdir": str(target.parent),
        "strings_to_formulas": False,
        "strings_to_numbers": False,
        "strings_to_urls": False,
    }
    with xlsxwriter.Workbook(target, options) as book, lines.open("rb") as source:
        sheet = book.add_worksheet("products")
        sheet.freeze_panes(1, 0)
        sheet.write_row(0, 0, columns)
        for number, line in enumerate(source, 1):
            if number % _BATCH_ROWS == 0:
                run.check(turn=False)
            row = json.loads(line)
            for column, name in enumerate(columns):
                value = row.get(name)
                if isinstance(value, bool):
                    sheet.write_boolean(number, column, value)
                elif isinstance(value, int | float):
                    sheet.write_number(number, column, value)
                elif value is not None:
                    # A string, whatever it looks like: never a formula; the apostrophe is
                    # for who saves the sheet as CSV.
                    sheet.write_string(number, column, str(_cell(value))[:_CELL_CHARS])
