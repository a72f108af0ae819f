"""How long a start takes and how much memory an idle stack needs."""

import contextlib
import io
import time

from . import local, status
from .problem import Problem
from .stack import Stack

START_SECONDS = 20
MEMORY_MB = 900
_SETTLE_SECONDS = 20


def start(stack: Stack) -> dict[str, object]:
    """Stop and start a local stack and return what it cost.

    Memory is the sum of proportional shares (PSS) of all processes, so that pages which
    forked processes share count once.
    """
    if stack.mode != "local":
        raise Problem("The start is measured in local mode.", "make bench MODE=local")
    local.down(stack)
    began = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        local.up(stack)
    seconds = time.monotonic() - began
    time.sleep(_SETTLE_SECONDS)
    found = status.collect(stack)
    return {
        "start_seconds": round(seconds, 1),
        "start_target_seconds": START_SECONDS,
        "memory_mb": round(sum(one.memory_mb for one in found), 1),
        "memory_target_mb": MEMORY_MB,
        "by_process_mb": {one.name: one.memory_mb for one in found},
    }


def table(found: dict[str, object]) -> str:
    """Return the lines that people read."""
    return (
        f"start to every /readyz   {found['start_seconds']} s"
        f"   (target < {found['start_target_seconds']})\n"
        f"memory, idle             {found['memory_mb']} MB"
        f"   (target < {found['memory_target_mb']})"
    )
