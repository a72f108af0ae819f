"""The import: a supplier's file, row by row, into the catalog.

The file is read to its end before anything is sent, so one that cannot be read changes
nothing. Then batches go to the catalog, each under a key of its own, and after each one
transaction stores the place in the file, the counts and the length of the report. What
was interrupted goes on there; a batch that was sent but not confirmed is sent again under
the same key and counted once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import history, leases, reports, sheets
from .encodings import SheetUnreadable
from .mapping import DecimalEvidence, Decimals, Item, Mapper
from .runs import Run

_CHECK_EVERY_ROWS = 1000


class BatchRefused(Exception):
    """The catalog takes a batch as a whole for wrong; the message says why."""


@dataclass(frozen=True)
class ItemResult:
    """What became of one item of a batch."""

    outcome: str
    """`created`, `updated`, `unchanged` or `refused`."""
    reason: str = ""


class Catalog(Protocol):
    """Where products go."""

    def upsert(self, items: Sequence[Item], *, key: str) -> Sequence[ItemResult]:
        """Create or change products by SKU; a second call with the key does nothing.

        :raises leases.Trouble: the catalog does not answer.
        :raises BatchRefused: it does not understand the batch.
        """


@dataclass
class Counts:
    """What became of the rows."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0

    def add(self, outcome: str) -> None:
        """Count one row."""
        setattr(self, outcome, getattr(self, outcome) + 1)


@dataclass
class Checkpoint:
    """Where an import goes on."""

    layout: sheets.Layout
    total: int
    decimals: Decimals
    batch_rows: int
    """Fixed at the start: a batch must hold the same rows whenever it is sent."""
    byte: int
    row: int
    batch: int = 0
    done: int = 0
    report_bytes: int = 0
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Checkpoint":
        """Return what `asdict` made."""
        layout = dict(stored["layout"])
        layout["columns"] = tuple(layout["columns"])
        return cls(
            **{
                **stored,
                "layout": sheets.Layout(**layout),
                "counts": Counts(**stored["counts"]),
            }
        )


def run_import(
    run: Run, *, folder: Path, catalog: Catalog, batch_rows: int
) -> dict[str, Any]:
    """Import the job's file and return how many rows did what.

    :param folder: the job's files: `upload`, and the report that is made.
    """
    params = run.job.params
    source = folder / "upload"
    if not source.exists():
        raise leases.JobFailed("The uploaded file is gone. Submit the import again.")
    try:
        if run.job.checkpoint:
            place = Checkpoint.load(run.job.checkpoint["place"])
        else:
            place = _survey(run, source, params, batch_rows)
        with sheets.open_rows(
            source, place.layout, start_byte=place.byte, start_row=place.row
        ) as rows:
            _import_rows(run, place, rows, folder / reports.NAME, catalog)
    except SheetUnreadable as reason:
        raise leases.JobFailed(str(reason)) from reason
    return asdict(place.counts)


def _survey(
    run: Run, source: Path, params: Mapping[str, Any], batch_rows: int
) -> Checkpoint:
    """Read the whole file once and confirm that it can be read."""
    mapping: dict[str, str] = params["mapping"]
    layout = sheets.inspect(
        source,
        wanted=list(mapping.values()),
        encoding=params.get("encoding"),
        delimiter=params.get("delimiter"),
    )
    evidence = DecimalEvidence()
    column = mapping.get("price")
    price_at = layout.columns.index(column) if column is not None else -1

    def notice(row: sheets.Row) -> None:
        if row.number % _CHECK_EVERY_ROWS == 0:
            run.check(turn=False)
        if 0 <= price_at < len(row.cells):
            evidence.add(row.cells[price_at])

    total = sheets.survey(source, layout, notice)
    decimals: Decimals = params.get("decimals") or "auto"
    place = Checkpoint(
        layout,
        total,
        evidence.verdict() if decimals == "auto" else decimals,
        batch_rows,
        byte=layout.start_byte,
        row=layout.start_row,
    )
    with run.step() as (session, job):
        sheet = f"{total} rows, {len(layout.columns)} columns, {layout.encoding}"
        history.write_line(session, job, "info", f"Read the file: {sheet}.")
        run.advance(session, job, _step(place, f"Read {total} rows; importing."))
    run.check()
    return place


def _step(place: Checkpoint, message: str) -> leases.Step:
    return leases.Step(
        place=asdict(place),
        result=asdict(place.counts),
        artefacts=[reports.NAME] if place.report_bytes else [],
        done=place.done,
        total=place.total,
        unit="rows",
        message=message,
    )


def _import_rows(
    run: Run,
    place: Checkpoint,
    rows: Iterator[sheets.Row],
    report: Path,
    catalog: Catalog,
) -> None:
    params = run.job.params
    dry_run = bool(params.get("dry_run"))
    mapper = Mapper(
        place.layout.columns,
        params["mapping"],
        params.get("defaults") or {},
        place.decimals,
    )
    # Not a turn's end: every turn must get a step further, or none would come to an end.
    run.check(turn=False)
    while batch := sheets.take(rows, place.batch_rows):
        reasons = _send(
            mapper,
            batch,
            None if dry_run else catalog,
            f"{run.job.id}:{place.batch}",
            place.counts,
        )
        addition = reports.encode(
            [str(row.number), mapper.text(row.cells, "sku"), reason, *row.cells]
            for row, reason in reasons
        )
        place.batch += 1
        place.done += len(batch)
        place.byte, place.row = batch[-1].end_byte, batch[-1].number
        with run.step() as (session, job):
            if addition:
                if not place.report_bytes:
                    addition = reports.header(place.layout.columns) + addition
                # Under the job's lock: a worker that lost its lease never gets here.
                place.report_bytes = reports.write(
                    report, addition, at=place.report_bytes
                )
                history.write_line(
                    session,
                    job,
                    "warning",
                    f"Up to row {place.row}: refused {len(reasons)} of {len(batch)}.",
                )
            run.advance(session, job, _step(place, _message(place, dry_run=dry_run)))
        if place.done < place.total:
            run.check()


def _message(place: Checkpoint, *, dry_run: bool) -> str:
    refused = f"{place.counts.refused} refused"
    if dry_run:
        usable = place.done - place.counts.refused
        return f"Dry run: {usable} rows can be imported, {refused}; nothing is changed."
    if place.done < place.total:
        return f"Importing; {refused}."
    return f"Imported; {refused}."


def _send(
    mapper: Mapper,
    batch: Sequence[sheets.Row],
    catalog: Catalog | None,
    key: str,
    counts: Counts,
) -> list[tuple[sheets.Row, str]]:
    """Map a batch, hand it to the catalog and return the refused rows with reasons.

    :param catalog: None for a dry run.
    """
    items: list[Item] = []
    senders: list[sheets.Row] = []
    reasons: dict[int, str] = {}
    for row in batch:
        item, problems = ({}, [row.problem]) if row.problem else mapper.item(row.cells)
        if problems:
            reasons[row.number] = " ".join(problems)
        else:
            items.append(item)
            senders.append(row)
    if items and catalog is not None:
        results = _upsert(catalog, items, key)
        for row, result in zip(senders, results, strict=True):
            if result.outcome == "refused":
                reasons[row.number] = result.reason
            else:
                counts.add(result.outcome)
    counts.refused += len(reasons)
    return [(row, reasons[row.number]) for row in batch if row.number in reasons]


def _upsert(catalog: Catalog, items: Sequence[Item], key: str) -> Sequence[ItemResult]:
    """Send a batch; where it is refused as a whole, find the items that are to blame."""
    try:
        return catalog.upsert(items, key=key)
    except BatchRefused as refusal:
        if len(items) == 1:
            return [ItemResult("refused", str(refusal))]
        half = len(items) // 2
        results = [
            *_upsert(catalog, items[:half], f"{key}.0"),
            *_upsert(catalog, items[half:], f"{key}.1"),
        ]
        if all(result.reason == str(refusal) for result in results):
            # Not one item but all: the two services do not understand each other.
            raise leases.JobFailed(
                f"The catalog refuses the import: {refusal}"
            ) from None
        return results
