"""Other code for a service of a running stack: the old beside the new, nobody waits.

What serves is there twice for a while, on one listening socket (sockets.py): the new one
starts, both answer, the old one stops. All else is called by nobody and starts again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import environment, local, reach
from .problem import Problem
from .processes import BY_NAME, PROCESSES, TWINS, Process
from .stack import Stack
from .supervisor import Supervisor, write_specification
from .vault import Vault

_SOURCES = ("libs/chassis/src", "services/*/src")

_TAKE_BACK = """
import sys
from alembic import command
from flagon_chassis import db
from flagon_{service}.__main__ import MIGRATIONS
from flagon_{service}.settings import Settings
url = Settings().owner_database_url.get_secret_value()
command.downgrade(db.config(url, MIGRATIONS), sys.argv[1])
"""


# -- Releases -------------------------------------------------------------------------------


def patched(stack: Stack, name: str, patches: Path) -> Path:
    """Return a tree with the checkout's code and some patches on it, made anew.

    :param patches: a folder of `*.patch` files, taken in the order of their names.
    :raises Problem: one of them does not fit the code any more.
    """
    tree = _empty(stack, name)
    for pattern in _SOURCES:
        for source in stack.root.glob(pattern):
            shutil.copytree(
                source,
                tree / source.relative_to(stack.root),
                ignore=shutil.ignore_patterns("__pycache__"),
            )
    for patch in sorted(patches.glob("*.patch")):
        _patch(tree, patch)
    return _readable(stack, tree)


def released(stack: Stack, name: str, reference: str) -> Path:
    """Return a tree with the code of a commit, made anew.

    :param reference: a tag, a branch or a commit of the repository.
    :raises Problem: git knows none of this name.
    """
    tree = _empty(stack, name)
    packed = subprocess.run(
        ["git", "archive", "--format=tar", reference, "libs", "services"],
        check=False,
        capture_output=True,
        cwd=stack.root,
    )
    if packed.returncode != 0:
        said = packed.stderr.decode(errors="replace").strip()
        raise Problem(f"There is no release {reference}: {said}", "git tag")
    unpack = ["tar", "--extract", "--directory", str(tree)]
    subprocess.run(unpack, input=packed.stdout, check=True)
    return _readable(stack, tree)


def _empty(stack: Stack, name: str) -> Path:
    tree = stack.state / "releases" / name
    if tree.exists():
        shutil.rmtree(tree)
    tree.mkdir(parents=True)
    return tree


def _patch(tree: Path, patch: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "-C1", str(patch.resolve())],
        check=False,
        capture_output=True,
        text=True,
        cwd=tree,
        # Inside a repository git would look for the files at its top.
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)},
    )
    if done.returncode != 0:
        message = f"{patch.name} does not fit the code: {done.stderr.strip()}"
        raise Problem(message, f"write {patch} anew (see README.md beside it)")


def _readable(stack: Stack, tree: Path) -> Path:
    reach.give(stack.state / "releases", reach.runner())
    return tree


# -- Tables ---------------------------------------------------------------------------------


def migrate(stack: Stack, service: str, code: Path | None) -> None:
    """Bring the tables of a service to where a release wants them."""
    local.migrate(stack, Vault(stack.secrets), reach.runner(), [service], code)


def take_back(stack: Stack, service: str, code: Path, revision: str) -> None:
    """Bring the tables of a service back to an earlier revision.

    :param code: the release that knows the way.
    """
    keeper = Vault(stack.secrets)
    variables = local.python_environment(stack, keeper, BY_NAME[service], code)
    variables |= environment.migration(service, stack, keeper)
    program = _TAKE_BACK.format(service=service)
    command = [sys.executable, "-c", program, revision]
    local.run(command, variables, reach.runner(), stack.state)


# -- Processes ------------------------------------------------------------------------------


def serving(stack: Stack, service: str) -> list[Process]:
    """Return which of the two that can serve for a service run now."""
    states = Supervisor(stack).states()
    return [
        one
        for one in (*PROCESSES, *TWINS)
        if one.service == service
        and one.own_offset
        and one.name in states
        and states[one.name].pid
    ]


def roll(
    stack: Stack,
    service: str,
    code: Path | None,
    *,
    beside: Callable[[], None] = lambda: None,
    behind: Callable[[], None] = lambda: None,
) -> None:
    """Let a service run other code without refusing anybody.

    :param code: the release's tree; None is the checkout itself.
    :param beside: called while old and new both serve.
    :param behind: called when the new one serves alone, before all else is restarted.
    :raises Problem: the new one does not become ready; it is stopped, and the old one
        serves as before.
    """
    running = serving(stack, service)
    if len(running) != 1:
        message = f"{len(running)} processes serve for {service}, one should."
        raise Problem(message, "make down; make up")
    [old] = running
    twins = {one.name: one for one in TWINS}
    new = twins.get(f"{old.name}-next") or BY_NAME[service]
    supervisor = Supervisor(stack)
    _specify(stack, new, code)
    try:
        # All that it needs runs: it has no reason to end even once.
        local.start(stack, new, crashing_seconds=0)
    except Problem:
        supervisor.stop_process(new.name)
        raise
    beside()
    # Its `/readyz` fails, it accepts no more, ends what it began, and is gone.
    supervisor.stop_process(old.name)
    behind()
    others = [
        one for one in stack.processes if one.service == service and not one.own_offset
    ]

    def again(process: Process) -> None:
        _specify(stack, process, code)
        supervisor.stop_process(process.name)
        local.start(stack, process)

    with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
        list(pool.map(again, others))


def _specify(stack: Stack, process: Process, code: Path | None) -> None:
    found = local.specification(stack, Vault(stack.secrets), process, code)
    write_specification(stack, process.name, found)
    reach.give(stack.config / "programs", reach.runner())
