"""How the web process starts: `python -m flagon_web serve`."""

import sys

from flagon_chassis import server

from .settings import Settings


def main(arguments: list[str]) -> int:
    """Run the command and return the exit status."""
    if arguments != ["serve"]:
        sys.stderr.write("usage: python -m flagon_web serve\n")
        return 2
    server.serve(Settings(), "flagon_web.app:create_app()")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
