"""The commands, one function each: they translate, the other modules work."""

import subprocess
from collections.abc import Callable
from typing import cast

from . import local
from .stack import Mode, Stack

Values = dict[str, str]


def choose_mode(wanted: str) -> Mode:
    """Return the mode to use: Docker when an engine answers, else local."""
    if wanted != "auto":
        return cast("Mode", wanted)
    try:
        answered = subprocess.run(
            ["docker", "info"],  # noqa: S607 (wherever it is)
            check=False,
            capture_output=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "local"
    return "docker" if answered.returncode == 0 else "local"


def up(stack: Stack, values: Values, _format: str) -> None:
    """Start everything."""
    local.up(stack, values.get("ONLY", "").split())


def down(stack: Stack, _values: Values, _format: str) -> None:
    """Stop everything."""
    local.down(stack)


COMMANDS: dict[str, Callable[[Stack, Values, str], int | None]] = {
    "up": up,
    "down": down,
}
