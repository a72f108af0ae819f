"""What an operator can ask on the command line: `flask --app flagon_worker.app …`."""

import json

import click
from flask import current_app
from flask.cli import AppGroup

from flagon_chassis import buses
from flagon_chassis.db import transaction

from . import clients
from .domain import archive, mails

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


@events.command("dead")
def list_dead_events() -> None:
    """Print the events that a consumer failed at, one JSON object a line, oldest first."""
    for fields in buses.dead(current_app.extensions["flagon.settings"]):
        told = {name.decode(): value.decode() for name, value in fields.items()}
        click.echo(json.dumps(told, ensure_ascii=False))


mail = AppGroup("mails", help="Mails that went to a folder instead of a server.")


@mail.command("show")
@click.option("--to", help="Only mails to this address.")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1, 500))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def show_mails(to: str | None, limit: int, *, as_json: bool) -> None:
    """Print the newest mails, the newest last."""
    folder = clients.mail_folder(current_app.extensions["flagon.settings"])
    for message in mails.kept(folder, to=to, limit=limit):
        body = message.get_body(("plain",))
        said = {
            "to": str(message["To"]),
            "subject": str(message["Subject"]),
            "date": str(message["Date"]),
            "text": body.get_content().replace("\r\n", "\n") if body else "",
        }
        if as_json:
            click.echo(json.dumps(said, ensure_ascii=False))
        else:
            head = "\n".join(
                f"{name}: {said[name]}" for name in ("date", "to", "subject")
            )
            click.echo(f"{'-' * 72}\n{head}\n\n{said['text']}")
