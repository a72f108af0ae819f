"""How realtime starts: `python -m flagon_realtime serve`."""

import sys

from flagon_chassis import server

from .settings import Settings

_USAGE = "usage: python -m flagon_realtime serve"


def main(arguments: list[str]) -> None:
    """Run one command until it ends.

    :raises SystemExit: the command is unknown.
    """
    if arguments != ["serve"]:
        raise SystemExit(_USAGE)
    server.serve(
        Settings(),
        "flagon_realtime.app:create_app()",
        gunicorn={
            "worker_class": "flagon_realtime.worker.StreamWorker",
            # gevent has to patch the library before anything of ours is loaded.
            "preload_app": False,
            # Streams are handed over and do not count: this bounds the memory that a
            # storm of new connections takes while they wait for their turn.
            "worker_connections": 1000,
            # Everybody reconnects at once after a restart.
            "backlog": 4096,
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
