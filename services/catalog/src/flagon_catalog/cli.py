"""The catalog's admin commands: `flask --app flagon_catalog.app …`."""

import json
from importlib.resources import files
from uuid import UUID

import click
from flask.cli import with_appcontext

from flagon_chassis.db import transaction

from . import keeper
from .domain import bulk, categories
from .domain import reviews as domain
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
    after, total = None, 0
    while True:
        with transaction() as session:
            after, differed = domain.render_reviews(session, after=after)
        total += differed
        if after is None:
            break
    click.echo(f"{total} reviews look different.")


@click.command
@with_appcontext
def sweep() -> None:
    """Write down and tell which reservations have expired; `serve` does so by itself."""
    click.echo(f"{keeper.sweep()} reservations have expired.")
