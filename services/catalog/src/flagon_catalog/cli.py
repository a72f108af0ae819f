"""The catalog's admin commands: `flask --app flagon_catalog.app …`."""

import json
from importlib.resources import files

import click
from flask.cli import with_appcontext

from flagon_chassis.db import transaction

from . import keeper
from .domain import bulk, categories
from .schemas import sift


@click.command
@with_appcontext
def seed() -> None:
    """Put a small assortment into the shop; safe to run again."""
    shop = json.loads((files(__package__) / "seed.json").read_text())
    items, errors = sift(shop["products"])
    if errors:
        raise click.ClickException(f"seed.json has wrong products: {errors}")
    with transaction() as session:
        categories.ensure_categories(session, shop["categories"], shop["categories"])
        outcomes = bulk.upsert_products(session, list(items.values()))
    created = sum(outcome.outcome == "created" for outcome in outcomes)
    click.echo(f"{created} of {len(outcomes)} products are new.")


@click.command
@with_appcontext
def sweep() -> None:
    """Write down and tell which reservations have expired; `serve` does so by itself."""
    click.echo(f"{keeper.sweep()} reservations have expired.")
