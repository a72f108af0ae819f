"""The report: what is in the catalog, what became of it lately, and a chart, as PDF.

All numbers are read first and stored with the job. What was interrupted draws the numbers
that it stored, so a report is of one moment, whoever is killed, and its file is the same.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flagon_worker.models import ArchivedEvent, Job

from . import charts, leases, reports
from .mapping import minor_digits
from .runs import Run

NAME = "report.pdf"
_PART = "report.part"
_BARS_MAX = 15
_CURRENCIES_MAX = 4
_PREFIX = "market.flagon."
_CHANGES = {
    "made": "Products made",
    "changed": "Products changed",
    "priced": "of these, in price",
    "deleted": "Products deleted",
    "reviewed": "Reviews written or changed",
}
_COUNTS = ("created", "updated", "unchanged", "refused")


class Catalog(Protocol):
    """Who counts products."""

    def count(
        self, facets: Sequence[str], filters: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Return how many products have which value; drafts and archived ones count.

        :param facets: of `category`, `status`, `currency`, `price`.
        :raises leases.Trouble: the catalog does not answer.
        """


def run_report(run: Run, *, folder: Path, catalog: Catalog) -> dict[str, Any]:
    """Write the report and return its main numbers.

    :param folder: the job's files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Not a turn's end: every turn must get a step further, or none would come to an end.
    run.check(turn=False)
    if run.job.checkpoint:
        numbers = run.job.checkpoint["place"]
    else:
        numbers = _read(run, catalog)
        with run.step() as (session, job):
            run.advance(session, job, _step(numbers, done=1))
    part = folder / _PART
    content = draw(numbers)
    with run.step() as (session, job):
        # Under the job's lock: a worker that lost its lease never gets here.
        reports.write(part, content, at=0)
        part.replace(folder / NAME)
        run.advance(session, job, _step(numbers, done=2))
    return _result(numbers)


def _step(numbers: Mapping[str, Any], *, done: int) -> leases.Step:
    return leases.Step(
        place=dict(numbers),
        result=_result(numbers),
        artefacts=[NAME] if done == 2 else [],  # noqa: PLR2004 (of two steps)
        done=done,
        total=2,
        unit="steps",
        message="Drawing." if done == 1 else "The report is there.",
    )


def _result(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "products": sum(count for _, count in numbers["status"]),
        "changes": sum(
            count for name, count in numbers["changes"].items() if name != "priced"
        ),
        "jobs": sum(count for *_, count in numbers["jobs"]),
    }


def _read(run: Run, catalog: Catalog) -> dict[str, Any]:
    """Return all numbers of the hours before the job was handed in."""
    until = run.job.created_at
    since = until - timedelta(hours=run.job.params["hours"])
    facets = catalog.count(["category", "status", "currency"], {})
    currencies = [found["value"] for found in facets["currency"]][:_CURRENCIES_MAX]
    prices = {}
    for currency in currencies:
        run.check(turn=False)
        counted = catalog.count(["price"], {"currency": currency})
        prices[currency] = [
            [found["price_minor_min"], found["price_minor_max"], found["count"]]
            for found in counted["price"]
        ]
    with run.begin() as session:
        return {
            "since": since.isoformat(),
            "until": until.isoformat(),
            "complete": facets["complete"],
            "category": [[each["value"], each["count"]] for each in facets["category"]],
            "status": [[each["value"], each["count"]] for each in facets["status"]],
            "prices": prices,
            "changes": _changes(session, since, until),
            **_jobs(session, since, until),
        }


def _changes(session: Session, since: datetime, until: datetime) -> dict[str, int]:
    """Return how many events told of what, as far as they have come."""
    changed = ArchivedEvent.event["data"]["changed"]
    product = ArchivedEvent.type == f"{_PREFIX}product.changed.v1"
    # A new product brings all its fields.
    new = product & changed.has_key("id")
    counts = {
        "made": new,
        "changed": product & ~new,
        "priced": product & ~new & changed.has_key("price_minor"),
        "deleted": ArchivedEvent.type == f"{_PREFIX}product.deleted.v1",
        "reviewed": ArchivedEvent.type == f"{_PREFIX}review.changed.v1",
    }
    row = session.execute(
        select(
            *(func.count().filter(of).label(name) for name, of in counts.items())
        ).where(ArchivedEvent.received_at >= since, ArchivedEvent.received_at < until)
    ).one()
    return dict(row._mapping)  # noqa: SLF001 (as documented)


def _jobs(session: Session, since: datetime, until: datetime) -> dict[str, Any]:
    """Return the jobs that were handed in, by kind and state, and what imports did."""
    lately = (Job.created_at >= since) & (Job.created_at < until)
    rows = session.execute(
        select(Job.kind, Job.state, func.count())
        .where(lately, Job.kind.in_(("import", "export")))
        .group_by(Job.kind, Job.state)
        .order_by(Job.kind, Job.state)
    )
    sums = [
        func.coalesce(func.sum(Job.result[name].as_integer()), 0) for name in _COUNTS
    ]
    found = session.execute(select(*sums).where(lately, Job.kind == "import")).one()
    return {
        "jobs": [list(row) for row in rows],
        "rows": [[name, int(n)] for name, n in zip(_COUNTS, found, strict=True)],
    }


def draw(numbers: Mapping[str, Any]) -> bytes:
    """Return the report of these numbers as PDF; the same ones are the same bytes."""
    since, until = (
        datetime.fromisoformat(numbers[name]) for name in ("since", "until")
    )
    page = charts.Document(f"Catalog, {until:%d %B %Y}", until)
    page.heading("The catalog", size=18)
    page.line(f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC.")
    total = _result(numbers)["products"]
    page.line(
        f"{total:,} products."
        if numbers["complete"]
        else f"More than {total:,} products: the numbers below are of so many."
    )
    page.heading("By state")
    page.bars(_most(numbers["status"]))
    page.heading("By category")
    page.bars(_most(numbers["category"]) or [("none", 0)])
    rest = len(numbers["category"]) - _BARS_MAX
    if rest > 0:
        page.line(f"{rest} more have fewer. A product counts for those above it, too.")
    for currency, ranges in numbers["prices"].items():
        page.heading(f"By price in {currency}", chart=True)
        page.columns(
            [(_range(least, most, currency), count) for least, most, count in ranges]
        )
    page.heading("What changed")
    page.table(
        ("What", "How often"),
        [(said, f"{numbers['changes'][name]:,}") for name, said in _CHANGES.items()],
    )
    page.heading("Imports and exports")
    page.table(
        ("Kind", "State", "Jobs"),
        [(kind, state, f"{count:,}") for kind, state, count in numbers["jobs"]]
        or [("none", "", "0")],
    )
    page.line("")
    rows = ", ".join(f"{number:,} {name}" for name, number in numbers["rows"])
    page.line(f"Rows of imports: {rows}.")
    return page.bytes()


def _most(found: Sequence[Sequence[Any]]) -> list[tuple[str, int]]:
    """Return the largest, the largest first."""
    ordered = sorted(found, key=lambda each: (-each[1], each[0]))
    return [(str(value), int(count)) for value, count in ordered[:_BARS_MAX]]


def _range(least: int, most: int | None, currency: str) -> str:
    unit = 10 ** minor_digits(currency)
    if most is None:
        return f"{least / unit:g} and more"
    return f"{least / unit:g} to {most / unit:g}"
