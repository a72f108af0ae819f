"""How auth's processes start: `python -m flagon_auth serve | relay | migrate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flagon_chassis import server

from .settings import Settings

if TYPE_CHECKING:
    from flask import Flask

MIGRATIONS = Path(__file__).parent / "migrations"


def main(command: str) -> None:
    """Run one command until it ends or SIGTERM comes."""
    settings = Settings()
    if command == "serve":
        server.serve(
            settings,
            "flagon_auth.app:create_app()",
            started=_keep,
        )
    elif command == "relay":
        # Only here: the relay needs neither a server nor the web app.
        from flagon_chassis import relay  # noqa: PLC0415

        tasks = ("worker.send_mail", "worker.deliver_logout")
        relay.run(settings, "auth", errands=tasks)
    elif command == "migrate":
        from flagon_chassis import db  # noqa: PLC0415 (SQLAlchemy is not the relay's)

        db.migrate(settings, MIGRATIONS)
    else:
        sys.exit(f"Unknown command {command}: use serve, relay or migrate.")


def _keep(app: "Flask") -> None:
    """Let each process look after the signing keys; a lock picks one of them."""
    from . import keeper  # noqa: PLC0415 (imports the app's libraries)

    keeper.start(app)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "serve")
