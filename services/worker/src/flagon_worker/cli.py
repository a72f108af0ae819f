"""What an operator can ask on the command line: `flask --app flagon_worker.app …`."""

import json

import click
from flask.cli import AppGroup

from flagon_chassis.db import transaction

from .domain import archive

events = AppGroup("events", help="The archive of the platform's events.")


@events.command("list")
@click.option("--subject", help="Only events on this entity, by its id.")
@click.option("--type", "type_", help="Only events of this CloudEvents type.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
def list_events(subject: str | None, type_: str | None, limit: int) -> None:
    """Print the newest events, one JSON object a line, oldest first."""
    with transaction() as session:
        found = archive.list_events(session, subject=subject, type_=type_, limit=limit)
    for entry in found:
        click.echo(json.dumps(entry.event, ensure_ascii=False))
