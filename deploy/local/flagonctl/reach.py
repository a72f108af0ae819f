"""The user that the processes run as, and the folders it must be able to pass through.

Nothing of the platform runs as root. Started by root, it runs as the system user
`flagon`, which may not even see a checkout or an interpreter below a 0700 folder such as
`/root`. Such folders get one access-control entry that lets this one user pass (`--x`,
not read); `release` takes it back when the last stack is down.
"""

import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .problem import Problem

USER = "flagon"
# Which stack needs which folder; shared by all checkouts, gone after a reboot together
# with every process that needed it (the entries are made again when still there).
# Ends the entries of folders that are open with all they hold, not only to pass.
_WHOLE = "/**"
_SOURCES = ("libs", "services", "deploy", "gateway", "docs")
_LEDGER = Path("/run/flagon/grants.json")


@dataclass(frozen=True)
class Runner:
    """Who the processes run as."""

    name: str
    uid: int
    gid: int
    switched: bool
    """Whether that is another user than the one who typed the command."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of `subprocess` that start a child as this user."""
        if not self.switched:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def runner() -> Runner:
    """Return who the processes run as; makes the system user when root asks first."""
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid())
        return Runner(own.pw_name, own.pw_uid, own.pw_gid, switched=False)
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        _make_user()
        user = pwd.getpwnam(USER)
    return Runner(user.pw_name, user.pw_uid, user.pw_gid, switched=True)


def _make_user() -> None:
    command = [
        "useradd",
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir=/nonexistent",
        "--shell=/usr/sbin/nologin",
        USER,
    ]
    program = shutil.which("useradd") or "/usr/sbin/useradd"
    try:
        subprocess.run([program, *command[1:]], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Problem(
            f"The system user {USER} could not be made: {error}", " ".join(command)
        ) from error


def give(path: Path, who: Runner) -> None:
    """Make a folder and all in it the runner's own."""
    if not who.switched:
        return
    for folder, _folders, files in os.walk(path):
        for name in (folder, *(os.path.join(folder, file) for file in files)):  # noqa: PTH118 (walk gives text)
            try:
                status = os.lstat(name)
                if (status.st_uid, status.st_gid) != (who.uid, who.gid):
                    os.lchown(name, who.uid, who.gid)
            except FileNotFoundError:
                # A running process removed a file of its own.
                continue


def needed_paths(root: Path, state: Path) -> list[Path]:
    """Return the files and folders that a process must be able to reach."""
    interpreter = Path(sys.executable)
    found = [root / "libs", root / "services", root / "deploy", root / "gateway", state]
    # Each link on the way to the interpreter counts, then its library.
    while True:
        found.append(interpreter)
        if not interpreter.is_symlink():
            break
        interpreter = interpreter.parent / interpreter.readlink()
    found.append(Path(os.__file__).parent)
    return found


def blocking(paths: list[Path], who: Runner) -> list[Path]:
    """Return the folders on the way to the paths that keep the runner out."""
    ways: set[Path] = set()
    for path in paths:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 (links count as they are)
        ways |= set(absolute.parents) | set(absolute.resolve().parents)
        if absolute.is_dir():
            ways.add(absolute.resolve())
    return [way for way in sorted(ways) if not _passes(way, who)]


def _passes(folder: Path, who: Runner) -> bool:
    """Say whether a user may pass through a folder, asked of the kernel itself."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
        check=False,
        capture_output=True,
        cwd="/",
        **who.options,
    )
    return bool(done.returncode == 0)


def unreadable(root: Path, who: Runner) -> list[Path]:
    """Return the folders in which the runner cannot read something it needs.

    Happens where root works with a umask such as 077.
    """
    found = []
    folders = [root / name for name in _SOURCES] + [Path(sys.prefix)]
    for folder in folders:
        search = [
            *("find", str(folder), "!", "-type", "l"),
            *("(", "!", "-readable", "-o", "-type", "d", "!", "-executable", ")"),
            *("-print", "-quit"),
        ]
        said = subprocess.run(
            search, check=False, capture_output=True, text=True, cwd="/", **who.options
        )
        if said.stdout:
            found.append(folder)
    return found


def grant(root: Path, state: Path, who: Runner) -> list[Path]:
    """Let the runner through to all it needs and return the folders that were opened.

    :raises Problem: the file system has no access-control lists, or a file itself cannot
        be read.
    """
    if not who.switched:
        return []
    opened = []
    with _ledger() as grants:
        # Opening one folder may show the next closed one below it.
        while closed := blocking(needed_paths(root, state), who):
            folder = closed[0]
            if folder in opened:
                message = f"{who.name} may not pass through {folder}."
                raise Problem(message, f"chmod o+x {folder}")
            _setfacl("-m", f"u:{who.name}:--x", folder)
            opened.append(folder)
            grants.setdefault(str(folder), [])
        # An entry made for another stack serves this one as well: count all that matter.
        for folder in unreadable(root, who):
            _setfacl("-m", f"u:{who.name}:rX", folder, whole=True)
            opened.append(folder)
            grants.setdefault(f"{folder}{_WHOLE}", [])
        for folder_name, holders in grants.items():
            if _leads_to(
                Path(folder_name.removesuffix(_WHOLE)), needed_paths(root, state)
            ):
                grants[folder_name] = sorted({*holders, str(state)})
    return opened


def _leads_to(folder: Path, paths: list[Path]) -> bool:
    return any(
        path.is_relative_to(folder) or path.resolve().is_relative_to(folder)
        for path in paths
    )


def release(state: Path) -> list[Path]:
    """Take back what only this stack needed and return the folders that were closed."""
    if os.geteuid() != 0 or not _LEDGER.exists():
        return []
    closed = []
    with _ledger() as grants:
        for folder, holders in list(grants.items()):
            # A stack that vanished with its folder holds nothing any more.
            left = [h for h in holders if h != str(state) and Path(h).exists()]
            if left:
                grants[folder] = left
                continue
            path = Path(folder.removesuffix(_WHOLE))
            if path.exists():
                whole = folder.endswith(_WHOLE)
                _setfacl("-x", f"u:{USER}", path, whole=whole)
            del grants[folder]
            closed.append(path)
    return closed


def _setfacl(option: str, entry: str, folder: Path, *, whole: bool = False) -> None:
    program = shutil.which("setfacl")
    if program is None:
        raise Problem("setfacl is not installed.", "apt-get install -y acl")
    # -P: what a link leads to is not ours to change.
    recursive = ["-R", "-P"] if whole else []
    done = subprocess.run(
        [program, *recursive, option, entry, str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        message = (
            f"{folder} keeps the user {USER} out and takes no access-control entry "
            f"({done.stderr.strip()})."
        )
        raise Problem(
            message, f"chmod o+x {folder}   (or a checkout below another folder)"
        )
    if option == "-x" and _is_plain(folder):
        # Without this an empty mask entry stays behind and shows as "+" in `ls -l`.
        subprocess.run(
            [program, *recursive, "-b", str(folder)], check=True, capture_output=True
        )


def _is_plain(folder: Path) -> bool:
    """Say whether a folder's list has no named users or groups left."""
    program = shutil.which("getfacl")
    if program is None:
        return False
    said = subprocess.run(
        [program, "--absolute-names", "--omit-header", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    names = [line.split(":")[1] for line in said.split() if line.count(":") >= 2]  # noqa: PLR2004 (kind:name:rights)
    return not any(names) and "default:" not in said


@contextmanager
def _ledger() -> Iterator[dict[str, list[str]]]:
    _LEDGER.parent.mkdir(parents=True, exist_ok=True)
    with _LEDGER.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        grants: dict[str, list[str]] = json.loads(file.read() or "{}")
        try:
            yield grants
        finally:
            file.seek(0)
            file.truncate()
            json.dump(grants, file)
