"""What runs and how it is, for people and as JSON."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from . import local
from .processes import SINK, TWINS, WATCHERS, Process
from .stack import Stack
from .supervisor import Supervisor

_MEBIBYTE = 1024**2


@dataclass(frozen=True)
class Status:
    """One line of `make status`."""

    name: str
    state: str
    """The supervisor's word: RUNNING, BACKOFF, STOPPED…; DOWN without a supervisor."""
    health: str
    """`ready`, or what is missing."""
    url: str
    pid: int
    seconds: int
    """Since its last start."""
    memory_mb: float
    """Proportional share (PSS) of the process and its children, shared pages counted once."""
    processes: int


def collect(stack: Stack) -> list[Status]:
    """Return the status of every process of a local stack."""
    supervisor = Supervisor(stack)
    states = supervisor.states()
    now = time.time()

    def one(process: Process) -> Status:
        state = states.get(process.name)
        running = state is not None and state.pid > 0
        members = _family(stack, process) if running else []
        return Status(
            name=process.name,
            state=state.state if state else "DOWN",
            health=local.probe(stack, process) if running else "-",
            url=url(stack, process),
            pid=state.pid if state else 0,
            seconds=int(now - state.since) if state and running else 0,
            memory_mb=round(sum(map(_memory, members)) / _MEBIBYTE, 1),
            processes=len(members),
        )

    with ThreadPoolExecutor(max_workers=6) as pool:
        watchers = [one for one in (*WATCHERS, SINK) if one.name in states]
        twins = [
            twin for twin in TWINS if twin.name in states and states[twin.name].pid
        ]
        found = list(pool.map(one, (*stack.processes, *watchers, *twins)))
    pid = supervisor.pid
    if pid is not None:
        own = psutil.Process(pid)
        found.append(
            Status(
                name="supervisor",
                state="RUNNING",
                health="ready" if supervisor.answers() else "no answer",
                url=f"http://127.0.0.1:{stack.supervisor_port}",
                pid=pid,
                seconds=int(now - own.create_time()),
                memory_mb=round(_memory(pid) / _MEBIBYTE, 1),
                processes=1,
            )
        )
    return found


def _family(stack: Stack, process: Process) -> set[int]:
    """Return the ids of a process and of all that stem from it."""
    found = set(local.group_members(stack, process.name))
    for member in list(found):
        # Each connection of Postgres is a process with a group of its own. One that
        # ended since it was listed takes no memory.
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {
                one.pid for one in psutil.Process(member).children(recursive=True)
            }
    return found


def url(stack: Stack, process: Process) -> str:
    """Return where a process answers."""
    schemes = {"postgres": "postgresql", "redis": "redis", "rabbitmq": "amqp"}
    if process.kind == "gateway":
        return stack.http_url
    return f"{schemes.get(process.kind, 'http')}://{stack.address(process.name)}"


def _memory(pid: int) -> int:
    """Return the bytes that a process really costs."""
    # Pages shared with its siblings count once in all, unlike in the resident size.
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def table(found: list[Status]) -> str:
    """Return the lines that people read."""
    head = ("PROCESS", "STATE", "HEALTH", "URL", "PID", "UP", "MB")
    rows = [
        (
            one.name,
            one.state,
            one.health,
            one.url,
            str(one.pid or "-"),
            _duration(one.seconds) if one.pid else "-",
            f"{one.memory_mb:.0f}",
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(7)]
    lines = [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
    total = sum(one.memory_mb for one in found)
    return "\n".join([*lines, f"{total:.0f} MB in all"])


def as_json(stack: Stack, found: list[Status]) -> dict[str, object]:
    """Return what programs read."""
    return {
        "stack": stack.name,
        "mode": stack.mode,
        "ready": bool(found) and all(one.health == "ready" for one in found),
        "url": stack.http_url,
        "https_url": stack.https_url,
        "memory_mb": round(sum(one.memory_mb for one in found), 1),
        "processes": [asdict(one) for one in found],
    }


def _duration(seconds: int) -> str:
    if seconds < 120:  # noqa: PLR2004 (two minutes)
        return f"{seconds} s"
    if seconds < 7200:  # noqa: PLR2004 (two hours)
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h"
