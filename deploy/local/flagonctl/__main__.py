"""`python -m flagonctl COMMAND`: what the Makefile calls."""

import argparse
import sys

from . import commands
from .problem import Problem
from .stack import Stack


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="flagonctl", description=__doc__)
    parser.add_argument("--mode", choices=("auto", "local", "docker"), default="auto")
    parser.add_argument("--port-base", type=int, default=8080)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("command", choices=sorted(commands.COMMANDS))
    parser.add_argument("values", nargs="*", help="NAME=value; an empty value is none")
    chosen = parser.parse_args(arguments)
    values = {}
    for pair in chosen.values:
        name, _, value = pair.partition("=")
        if value:
            values[name] = value
    try:
        mode = commands.choose_mode(chosen.mode)
        stack = Stack(mode, chosen.port_base)
        status = commands.COMMANDS[chosen.command](stack, values, chosen.format)
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
