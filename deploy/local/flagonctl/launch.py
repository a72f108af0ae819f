"""Starts one process under the supervisor: `python -I -S launch.py FILE`.

Alone in a file and with nothing but the standard library, so that it starts in
milliseconds. Before it becomes the program it ends what a killed earlier copy left: the
children of a killed nginx, for one, would hold the port for ever.
"""

import json
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

_PATIENCE_SECONDS = 3.0


def main(specification: Path) -> None:
    """Become the program that a specification names."""
    wanted = prepare(specification)
    os.execve(wanted["argv"][0], wanted["argv"], wanted["env"])  # noqa: S606 (no shell wanted)


def prepare(specification: Path) -> dict[str, Any]:
    """Make this process ready for the program that a specification names.

    The file is JSON: `argv`, `env` (the whole environment), `cwd`, `group_file`, where
    the id of the process group is left for the next start, and `forked`, which says that
    no new interpreter is wanted (nursery.py). Who serves has `listen` and `own` as well,
    its two addresses, and `bind`, the variable that takes them.
    """
    wanted: dict[str, Any] = json.loads(specification.read_text())
    group_file = Path(wanted["group_file"])
    state = Path(wanted["cwd"])
    end(group_file, state)
    # The supervisor made this process the leader of a group of its own.
    group_file.write_text(str(os.getpid()))
    os.umask(0o077)
    os.chdir(state)
    if "listen" in wanted:
        places = listeners(wanted["listen"], wanted["own"])
        wanted["env"][wanted["bind"]] = places
    return wanted


def listeners(listen: str, own: str) -> str:
    """Return what to bind: the socket that came as standard input, and one of our own.

    Without such a socket, the two addresses.
    """
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        return f"{listen},{own}"
    shared = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    host, _, port = own.rpartition(":")
    alone = socket.create_server((host, int(port))).detach()
    for descriptor in (shared, alone):
        # They outlive `exec`, where there is one.
        os.set_inheritable(descriptor, True)
    return f"fd://{shared},fd://{alone}"


def end(group_file: Path, state: Path) -> int:
    """End every process of the group that a file names and return how many there were."""
    try:
        group = int(group_file.read_text())
    except (FileNotFoundError, ValueError):
        return 0
    first = members(group, state)
    for leftover in first:
        _signal(leftover, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while leftovers := members(group, state):
        if time.monotonic() > deadline:
            for leftover in leftovers:
                _signal(leftover, signal.SIGKILL)
        time.sleep(0.05)
    return len(first)


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def members(group: int, state: Path) -> list[int]:
    """Return the living processes of a group that are ours.

    Ids are used again by the kernel. Ours work below the stack's folder; the environment
    would not do as a mark, because nginx and Postgres write their titles over it.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            # After the name in brackets: state, parent, group.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) != group or fields[0] == "Z":
                continue
            if _works_below(entry, state):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _works_below(entry: Path, state: Path) -> bool:
    try:
        return (entry / "cwd").readlink().is_relative_to(state)
    except PermissionError:
        # In a container even root may not see this of others: the owner must do.
        return entry.stat().st_uid == state.stat().st_uid


if __name__ == "__main__":
    main(Path(sys.argv[1]))
