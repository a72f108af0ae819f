"""Start a process of the catalog: `python -m flagon_catalog serve|relay|consumer|migrate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flagon_chassis import server

from .settings import Settings

if TYPE_CHECKING:
    from flask import Flask

MIGRATIONS = Path(__file__).parent / "migrations"


def serve(settings: Settings) -> None:
    """Serve the API."""
    server.serve(
        settings,
        "flagon_catalog.app:create_app()",
        started=_keep,
        # The library of the bucket has threads of its own, which a fork leaves behind:
        # every process would wait for them for ever.
        preload=not settings.images_url,
    )


def _keep(app: "Flask") -> None:
    """Let each process end what has expired; they leave alone what another ends."""
    from . import keeper  # noqa: PLC0415 (imports the app's libraries)

    keeper.start(app, seconds=app.extensions["flagon.settings"].sweep_seconds)


def relay(settings: Settings) -> None:
    """Send what the outbox holds."""
    server.share_metrics(settings.metrics_dir)
    from flagon_chassis import relay as chassis_relay  # noqa: PLC0415 (metrics first)
    from flagon_chassis.content import Content  # noqa: PLC0415

    # Who committed an event renames the content, unless it was killed in between.
    content = Content(settings.redis_cache_url.get_secret_value(), "catalog")
    chassis_relay.run(
        settings,
        "catalog",
        told=content.changed,
        errands=("worker.make_thumbnails",),
    )


def consumer(settings: Settings) -> None:
    """Forget what accounts wrote that are gone."""
    from flagon_chassis import consumer as chassis_consumer  # noqa: PLC0415

    from . import accounts  # noqa: PLC0415 (only this command needs them)

    chassis_consumer.run(
        settings, "catalog", accounts.GROUP, accounts.forget, types=accounts.TYPES
    )


def migrate(settings: Settings) -> None:
    """Bring the database to the newest revision, as the role that owns it."""
    from flagon_chassis import db  # noqa: PLC0415 (only this command needs it)

    db.migrate(settings, MIGRATIONS)


def main() -> None:
    """Run the command that was asked for."""
    commands = {
        "serve": serve,
        "relay": relay,
        "consumer": consumer,
        "migrate": migrate,
    }
    asked = " ".join(sys.argv[1:])
    if asked not in commands:
        sys.exit(f"usage: python -m flagon_catalog {'|'.join(commands)}")
    commands[asked](Settings())


if __name__ == "__main__":
    main()
