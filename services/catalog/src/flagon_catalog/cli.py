"""The catalog's admin commands: `flask --app flagon_catalog.app …`."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.resources import files
from itertools import islice
from time import perf_counter
from typing import IO, Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from flagon_chassis.db import transaction
from flagon_chassis.errors import Failure

from . import keeper
from .domain import assortment, bulk, categories
from .domain import products as domain_products
from .domain import reviews as domain
from .domain.sheets import SheetUnreadable, batches, opened, shown
from .schemas import BulkSummary, bulk_report, sift

PRODUCTS_MAX = 1_000_000
BATCH = 500
"""Products of one transaction: well within the time that a statement may take."""
PROGRESS = 5_000
"""Products between two lines that say how far it is."""

_OUTCOMES = tuple(BulkSummary.model_fields)


@click.command
@click.option(
    "--products",
    "count",
    type=click.IntRange(0, PRODUCTS_MAX),
    metavar="N",
    help="Make this many products instead, always the same ones.",
)
@click.option(
    "--random-seed", type=int, help="Make other products than those of 0, the default."
)
@click.option(
    "--file",
    type=click.File("rb"),
    metavar="PATH",
    help="Load a CSV file instead, such as an export; `-` is standard input.",
)
@with_appcontext
def seed(count: int | None, random_seed: int | None, file: IO[bytes] | None) -> None:
    """Put products into the shop, a small assortment if nothing else is said.

    Safe to run again.
    """
    if count is not None and file is not None:
        raise click.UsageError("Give --products or --file, not both.")
    if count is None and random_seed is not None:
        raise click.UsageError("--random-seed goes with --products.")
    if count is None and file is None:
        _start()
        return
    tally = _Tally(count)
    try:
        if file is not None:
            _load(file, tally)
        else:
            _grow(count or 0, random_seed or 0, tally)
    except (Failure, SheetUnreadable) as refused:
        raise click.ClickException(f"Not all was written. {refused}") from refused
    finally:
        tally.end()
    if tally.counts["refused"]:
        click.get_current_context().exit(1)


def _start() -> None:
    shop = json.loads((files(__package__) / "seed.json").read_text())
    items, errors = sift(shop["products"])
    if errors:
        raise click.ClickException(f"seed.json has wrong products: {errors}")
    with transaction() as session:
        categories.ensure_categories(session, shop["categories"], shop["categories"])
        outcomes = bulk.upsert_products(session, list(items.values()))
    created = sum(outcome.outcome == "created" for outcome in outcomes)
    click.echo(f"{created} of {len(outcomes)} products are new.")


def _grow(count: int, random_seed: int, tally: "_Tally") -> None:
    """Make products until there are this many."""
    data = json.loads((files(__package__) / "assortment.json").read_text())
    with transaction() as session:
        assortment.plant(session, data["categories"])
    products = assortment.Assortment(data, random_seed).products(count)
    while batch := list(islice(products, BATCH)):
        for index, reason in _put(batch, tally):
            click.echo(f"{batch[index]['sku']}: {reason}", err=True)


def _load(file: IO[bytes], tally: "_Tally") -> None:
    """Load a CSV file and say which rows were refused; others are written."""
    with opened(file) as sheet:
        if sheet.ignored:
            click.echo(f"Ignored columns: {shown(sheet.ignored)}.", err=True)
        for batch in batches(iter(sheet), BATCH):
            good = [row for row in batch if not row.problem]
            refused = [(row.line, row.problem) for row in batch if row.problem]
            tally.counts["refused"] += len(refused)
            refused += [
                (good[index].line, reason)
                for index, reason in _put([row.item for row in good], tally)
            ]
            for line, reason in sorted(refused):
                click.echo(f"Line {line}: {reason}", err=True)


def _put(items: list[dict[str, Any]], tally: "_Tally") -> Iterable[tuple[int, str]]:
    """Write products; return the index of each that is refused, with the reason."""
    try:
        report = _written(items)
    except bulk.TooMuchText as refused:
        # Which one it is, the database does not say.
        if len(items) == 1:
            tally.add({"refused": 1})
            return [(0, f"{refused.title()}.")]
        half = len(items) // 2
        first, second = _put(items[:half], tally), _put(items[half:], tally)
        return [*first, *((half + index, reason) for index, reason in second)]
    tally.add(report["summary"])
    return [
        (result["index"], " ".join(map(_sentence, result["errors"])))
        for result in report["results"]
        if result["outcome"] == "refused"
    ]


def _written(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Write products in a transaction of their own and return the report."""
    valid, errors = sift(items)
    with transaction() as session:
        outcomes = bulk.upsert_products(session, list(valid.values()))
    return bulk_report(items, dict(zip(valid, outcomes, strict=True)), errors)


def _sentence(error: dict[str, str]) -> str:
    # Names inside of attributes are the file's, and a terminal obeys some characters.
    pointer = ascii(error["pointer"].removeprefix("#/"))[1:-1]
    return f"{pointer}: {error['detail'].rstrip('.')}."


class _Tally:
    """How many products ended how, and how fast."""

    def __init__(self, total: int | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._total = "" if total is None else f" of {total}"
        self._began = perf_counter()

    def add(self, summary: dict[str, int]) -> None:
        """Count a batch, and tell people every few thousand products."""
        before = self.counts.total()
        self.counts.update(summary)
        if before // PROGRESS < self.counts.total() // PROGRESS:
            line = f"{self.counts.total()}{self._total} products, {self._rate()}"
            click.echo(line, err=True)

    def end(self) -> None:
        """Say how it ended."""
        parts = ", ".join(f"{self.counts[name]} {name}" for name in _OUTCOMES)
        click.echo(f"{self.counts.total()} products: {parts}; {self._rate()}")

    def _rate(self) -> str:
        return f"{self.counts.total() / (perf_counter() - self._began):.0f} a second."


@click.group
def reviews() -> None:
    """Look after what people wrote about products."""


@reviews.command
@click.argument("subject", type=click.UUID)
@with_appcontext
def forget(subject: UUID) -> None:
    """Delete all reviews of the account SUBJECT; safe to run again."""
    with transaction() as session:
        count = domain.forget_subject(session, subject)
    click.echo(f"{count} reviews are gone.")


@reviews.command
@with_appcontext
def render() -> None:
    """Make the HTML of all reviews anew: after an upgrade of what makes it."""
    click.echo(f"{_rendered(domain.render_reviews)} reviews look different.")


@click.group
def products() -> None:
    """Look after products."""


@products.command("render")
@with_appcontext
def render_products() -> None:
    """Make the HTML of all descriptions anew: after an upgrade of what makes it."""
    count = _rendered(domain_products.render_products)
    click.echo(f"{count} descriptions were written.")


def _rendered(step: Callable[..., tuple[UUID | None, int]]) -> int:
    """Take step after step, each in a transaction; return how many were written."""
    after, total = None, 0
    while True:
        with transaction() as session:
            after, written = step(session, after=after)
        total += written
        if after is None:
            return total


@click.command
@with_appcontext
def sweep() -> None:
    """Write down and tell which reservations have expired; `serve` does so by itself."""
    click.echo(f"{keeper.sweep()} reservations have expired.")
