"""What can keep a stack from starting: each check names it and the next step."""

import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator

import psutil

from . import programs
from .problem import Problem
from .processes import ports
from .stack import Stack

_FREE_BYTES = 1024**3
"""Least free space to start with: databases, Redis' log, uploads and metrics grow."""
_OLDEST_PYTHON = (3, 11)

Check = Callable[[Stack], None]


def python_is_new_enough(_stack: Stack) -> None:
    """Refuse an interpreter that is older than the code."""
    if sys.version_info < _OLDEST_PYTHON:
        message = (
            f"Python {sys.version.split()[0]} is too old: 3.11 or newer is needed."
        )
        raise Problem(message, "sudo apt-get install -y python3.11 python3.11-venv")


def programs_are_installed(stack: Stack) -> None:
    """Refuse to begin without one of the bought programs."""
    for program in ("redis-server", programs.GATEWAYS[stack.gateway], "prometheus"):
        programs.find(program)
    programs.postgres_for(stack.state / "postgres.none")
    if stack.has_rabbitmq:
        programs.rabbitmq_version()


def data_can_be_read(stack: Stack) -> None:
    """Refuse data of another Postgres, and data whose secrets are gone."""
    data = stack.state / "postgres"
    programs.postgres_for(data)
    if (data / "PG_VERSION").exists() and not (
        stack.secrets / "postgres_password"
    ).exists():
        message = (
            f"{data} holds data, but the passwords that open it are gone from "
            f"{stack.secrets}."
        )
        raise Problem(message, "put the folder back, or forget the data: make reset")


def disk_has_room(stack: Stack) -> None:
    """Refuse to start on a disk that is about to be full."""
    folder = stack.state
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        message = (
            f"Only {free // 1024**2} MB are free on the disk of {folder}; "
            f"{_FREE_BYTES // 1024**2} MB are needed."
        )
        raise Problem(message, f"df -h {folder}   (and make room there)")


def ports_are_free(stack: Stack) -> None:
    """Refuse a port that something else listens on, and say who that is."""
    for what, port in ports(stack.port_base).items():
        with socket.socket() as probe:
            # As the servers do it: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                message = f"Port {port} ({what}) is taken by {_listener(port)}."
                other = 9080 if stack.port_base != 9080 else 10080  # noqa: PLR2004
                raise Problem(
                    message, f"stop that program, or: make up PORT_BASE={other}"
                ) from None


def _listener(port: int) -> str:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "a program of another user"
    # A listener, if there is one; else whoever uses the number for an outgoing connection.
    connections.sort(key=lambda connection: connection.status != psutil.CONN_LISTEN)
    for connection in connections:
        if connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "a program of another user"
            try:
                name = psutil.Process(connection.pid).name()
            except psutil.NoSuchProcess:
                continue
            return f"{name} (pid {connection.pid})"
    return "an unknown program"


def postgres_lock_is_ours(stack: Stack) -> None:
    """Remove the lock file of a Postgres that died with its machine.

    Postgres refuses to start when the process id in it belongs to any living process,
    which after a reboot is often a stranger.
    """
    lock = stack.state / "postgres" / "postmaster.pid"
    try:
        pid = int(lock.read_text().split()[0])
        name = psutil.Process(pid).name()
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        # None, unreadable, or stale in a way that Postgres itself sees.
        return
    if "postgres" not in name:
        print(
            f"The lock of a Postgres that is gone (pid {pid}, now {name}) is removed."
        )
        lock.unlink()


BEFORE_START: tuple[Check, ...] = (
    python_is_new_enough,
    programs_are_installed,
    data_can_be_read,
    disk_has_room,
    postgres_lock_is_ours,
    ports_are_free,
)


def before_start(stack: Stack) -> None:
    """Run every check that a start needs.

    :raises Problem: the first thing that is wrong.
    """
    for check in BEFORE_START:
        check(stack)


def findings(
    stack: Stack, selected: tuple[Check, ...]
) -> Iterator[tuple[str, Problem | None]]:
    """Run checks and return, by readable name, what each found."""
    for check in selected:
        name = check.__name__.replace("_", " ")
        try:
            check(stack)
        except Problem as problem:
            yield name, problem
        else:
            yield name, None


def secrets_are_private(stack: Stack) -> None:
    """Refuse secrets that others on this machine can read."""
    if stack.secrets.exists() and stack.secrets.stat().st_mode & 0o077:
        message = f"Others may look into {stack.secrets}."
        raise Problem(message, f"chmod 700 {stack.secrets}")


def processes_are_ready(stack: Stack) -> None:
    """Refuse a running stack of which a part is not ready."""
    from . import local  # noqa: PLC0415 (which uses the checks above)

    for process in stack.processes:
        said = local.probe(stack, process)
        if said != "ready":
            message = f"{process.name} is not ready: {said}."
            raise Problem(message, f"make logs S={process.name}")


def gateway_answers(stack: Stack) -> None:
    """Refuse a containers stack whose gateway is silent."""
    from . import compose  # noqa: PLC0415 (loads what local mode does not need)

    if not compose.answers(stack):
        raise Problem(f"Nothing answers at {stack.http_url}.", "make up MODE=docker")


def selected(stack: Stack, *, running: bool) -> tuple[Check, ...]:
    """Return the checks that make sense for a stack as it is."""
    if stack.mode == "docker":
        return (disk_has_room, gateway_answers)
    if running:
        return (
            python_is_new_enough,
            programs_are_installed,
            data_can_be_read,
            disk_has_room,
            secrets_are_private,
            processes_are_ready,
        )
    return (*BEFORE_START, secrets_are_private)


def why_unready(body: bytes) -> str:
    """Return in a few words what a `/readyz` answer complains about."""
    try:
        said = json.loads(body)
        failed = [
            f"{name}: {check.get('error', 'down')}"
            for name, check in said.get("checks", {}).items()
            if not check.get("ok")
        ]
        return ", ".join(failed) or str(said.get("status", "not ready"))
    except (ValueError, AttributeError):
        return "not ready"
