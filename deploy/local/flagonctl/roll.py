"""Other code for a service of a running stack: the old beside the new, nobody waits.

What serves is there twice for a while (beside.py): the new one starts, both answer, the
old one stops. All else is called by nobody and starts again.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import reach
from .beside import of
from .problem import Problem
from .stack import Stack

_SOURCES = (
    "libs/chassis/src",
    "services/*/src",
    # An image is built from these as well.
    "libs/*/pyproject.toml",
    "services/*/pyproject.toml",
    "deploy/locks",
    "requirements.lock",
    "Dockerfile",
    ".dockerignore",
)


# -- Releases -------------------------------------------------------------------------------


def patched(stack: Stack, name: str, patches: Path) -> Path:
    """Return a tree with the checkout's code and some patches on it, made anew.

    :param patches: a folder of `*.patch` files, taken in the order of their names.
    :raises Problem: one of them does not fit the code any more.
    """
    tree = _empty(stack, name)
    for pattern in _SOURCES:
        for source in stack.root.glob(pattern):
            target = tree / source.relative_to(stack.root)
            if source.is_dir():
                left = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, ignore=left)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
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
        ["git", "archive", "--format=tar", reference],
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


# -- Processes ------------------------------------------------------------------------------


def roll(
    stack: Stack,
    service: str,
    code: Path | None,
    *,
    beside: Callable[[], None] = lambda: None,
    behind: Callable[[], None] = lambda: None,
) -> None:
    """Let a service run other code without refusing anybody.

    What it is started from has been built (`Way.build`), its tables are there.

    :param code: the release's tree; None is the checkout itself.
    :param beside: called while old and new both serve.
    :param behind: called when the new one serves alone, before all else is restarted.
    :raises Problem: the new one does not become ready; it is stopped, and the old one
        serves as before.
    """
    way = of(stack)
    running = list(way.serving(service))
    if len(running) != 1:
        message = f"{len(running)} processes serve for {service}, one should."
        raise Problem(message, "make down; make up")
    [old] = running
    way.add(service, code)
    beside()
    # Its `/readyz` fails, it accepts no more, ends what it began, and is gone.
    way.take_out(old)
    behind()
    way.renew(service, code)
