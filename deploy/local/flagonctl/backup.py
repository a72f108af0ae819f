"""Base backups with the log between them, and going back to a moment."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import compose, databases, invariants, local, programs, reach
from .local import Clock
from .problem import Problem
from .stack import Stack
from .vault import Vault

KEPT = 3
"""Base backups that stay when another is made; the log goes back to the oldest."""

_NEXT = "make backup"
# Revocations are true of later times too; all else is of a history that is left.
_EMPTY = """
local kept, gone, cursor = 0, 0, '0'
repeat
  local found = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = found[1]
  for _, key in ipairs(found[2]) do
    if string.sub(key, 1, 9) == 'denylist:' then kept = kept + 1
    else redis.call('UNLINK', key); gone = gone + 1 end
  end
until cursor == '0'
return gone .. ' ' .. kept
"""


@dataclass(frozen=True)
class Base:
    """One base backup."""

    name: str
    whole_at: datetime
    """From this moment on the platform can be restored from it."""
    left: bool = False
    """Whether it is of a history that a restore has left."""


@dataclass(frozen=True)
class Restore:
    """One restore to a moment: what happened after that moment is of a left history."""

    at: datetime
    done_at: datetime


@dataclass(frozen=True)
class Kept:
    """What there is to restore from, each oldest first."""

    bases: list[Base]
    restores: list[Restore]


def moment(text: str) -> datetime | None:
    """Return the moment that somebody asked for; None is the latest there is.

    :raises Problem: it is no moment, or one without a zone.
    """
    if text in {"", "latest"}:
        return None
    example = "make restore AT=2026-11-21T22:00:00Z"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Problem(f"{text} is no moment.", example) from None
    if at.tzinfo is None:
        raise Problem(f"Of which time zone is {text}?", f"{example}   (Z is UTC)")
    return at.astimezone(UTC)


def choose(kept: Kept, at: datetime | None, now: datetime) -> Base:
    """Return the base backup to begin with: the newest that was whole by then.

    :raises Problem: there is none, or the moment is in the future or in a left history.
    """
    bases = [base for base in kept.bases if not base.left]
    if not bases:
        raise Problem("There is no backup yet.", _NEXT)
    if at is None:
        return bases[-1]
    if at > now:
        message = f"{_written(at)} is in the future: it is {_written(now)} now."
        raise Problem(message, "make restore   (the latest there is)")
    for restore in kept.restores:
        if restore.at < at < restore.done_at:
            message = (
                f"{_written(at)} is in a history that was left: at"
                f" {_written(restore.done_at)} all went back to {_written(restore.at)}."
            )
            raise Problem(message, f"make restore AT={_written(restore.at)}")
    found = [base for base in bases if base.whole_at <= at]
    if not found:
        first = _written(bases[0].whole_at)
        message = f"{_written(at)} is before the first backup, which is of {first}."
        raise Problem(message, f"make restore AT={first}")
    return found[-1]


def _written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


# -- The two commands -----------------------------------------------------------------------


def backup(stack: Stack) -> None:
    """Make a verified base backup of a running stack; from the first on, keep the log.

    :raises Problem: Postgres does not run, or there is no room.
    """
    clock = Clock()
    server = _Server(stack)
    server.prepare()
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    said = server.run("base", name, str(KEPT)).split()
    clock.say(f"{name} is whole and verified: {_megabytes(said[0])}")
    print(f"  {server.folder}: {_megabytes(said[1])} in all")
    print("  Keep copies elsewhere, and a copy of the secrets beside them:")
    print(f"    {stack.secrets.relative_to(stack.root)}")


def _megabytes(kilobytes: str) -> str:
    return f"{int(kilobytes) / 1024:.0f} MB"


def restore(stack: Stack, text: str) -> None:
    """Bring the stack back to a moment, stop and start included.

    What is there now is kept beside until the next restore. Safe to repeat when it was
    cut off.

    :raises Problem: there is nothing to restore from, the moment is none that can be
        reached, a step failed (all is as before, and stopped) or a promise is broken.
    """
    clock = Clock()
    server = _Server(stack)
    at = moment(text)
    if not stack.state.exists():
        raise Problem(f"There is no {stack.name}, and no backup of it.", "make up")
    kept = server.kept()
    base = choose(kept, at, datetime.now(UTC))
    if server.answers():
        server.run("flush")
        clock.say("the log is kept up to now")
    else:
        clock.say(
            "Postgres is away: what its log has not kept is taken from its folder"
        )
    _stop(stack)
    clock.say("everything is stopped")
    try:
        _replace(server, kept, base, at, clock)
    except Problem:
        # As `make down` leaves it.
        reach.release(stack.state)
        raise
    gone, marks = _empty_redis(stack)
    clock.say(f"Redis forgot {gone} keys and keeps {marks} revocations")
    if stack.has_rabbitmq:
        _empty_rabbitmq(stack)
        clock.say("RabbitMQ forgot everything")
    _start(stack)
    clock.say("everything runs")
    found = invariants.check(stack)
    print(invariants.table(found))
    if any(one.broken for one in found):
        raise Problem("Promises are broken by what was restored.", "see above")
    clock.say("what must be true is true")
    print("  Everybody has to sign in again.")


def _replace(
    server: "_Server", kept: Kept, base: Base, at: datetime | None, clock: Clock
) -> None:
    """Put what was at a moment in the place of what is there now."""
    goal = [] if at is None else [_written(at)]
    try:
        length, _, reached = server.run("recover", base.name, *goal).partition(" ")
    except Problem as problem:
        message = f"{problem.what}\n  Nothing was changed, and everything is stopped."
        raise Problem(message, "make up   (as it was before)") from problem
    last = reached.strip() or "then"
    clock.say(f"recovered from {base.name}; the last commit is of {last}")
    if length == "short":
        print(
            "  The log that was kept ends before that moment: what was committed"
            " between the two is lost."
        )
    left = [one.name for one in kept.bases if at is not None and one.whole_at > at]
    clock.say(server.run("swap", *goal, *left).strip())


def _stop(stack: Stack) -> None:
    """Stop everything, in order; the caches of processes go with them."""
    if stack.mode == "docker":
        compose.run(stack, "stop")
        return
    local.down(stack)
    # Notes of what was done to the data, and answers that were made of it.
    for folder in (stack.state / "done", stack.state / "gateway"):
        if folder.exists():
            shutil.rmtree(folder)


def _start(stack: Stack) -> None:
    if stack.mode == "docker":
        compose.up(stack)
    else:
        local.up(stack)


def _empty_rabbitmq(stack: Stack) -> None:
    """Take its disk: the relays find a younger stream and tell the last hour again."""
    if stack.mode == "docker":
        compose.run(stack, "rm", "--stop", "--force", "rabbitmq")
        volume = f"flagon-{stack.port_base}_rabbitmq"
        words = ["docker", "volume", "rm", "--force", volume]
        done = databases.finished(words, stack.root, dict(os.environ))
        if done.returncode != 0:
            message = f"RabbitMQ could not be emptied: {done.stderr.strip()}"
            raise Problem(message, "make restore   (again)")
        return
    folder = stack.state / "rabbitmq"
    if folder.exists():
        shutil.rmtree(folder)


def _empty_redis(stack: Stack) -> tuple[int, int]:
    """Start the store and forget all in it but revocations; return both numbers."""
    port = stack.port("redis-store")
    words = ["redis-cli", "--user", "admin", "-p", str(port), "eval", _EMPTY, "0"]
    variables = dict(os.environ)
    if stack.mode == "docker":
        compose.run(stack, "up", "--detach", "--wait", "--no-deps", "redis-store")
        script = 'REDISCLI_AUTH=$(cat /run/secrets/redis_admin_password) exec "$@"'
        words = [
            *("docker", "compose", "--env-file", str(stack.state / "compose.env")),
            *("exec", "--no-TTY", "redis-store", "sh", "-c", script, "sh", *words),
        ]
    else:
        local.up(stack, ["redis-store"])
        variables["REDISCLI_AUTH"] = Vault(stack.secrets)["redis_admin_password"]
    done = databases.finished(words, stack.root, variables)
    said = done.stdout.strip().strip('"').split()
    if done.returncode != 0 or len(said) != 2:  # noqa: PLR2004 (both numbers)
        message = f"Redis could not be emptied: {done.stdout}{done.stderr}"
        raise Problem(message.strip(), "make restore   (again)")
    return int(said[0]), int(said[1])


# -- Where Postgres is ----------------------------------------------------------------------


class _Server:
    """The script `deploy/postgres/backup.sh` where Postgres' files are."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.folder = (
            f"volume flagon-{stack.port_base}_backups"
            if stack.mode == "docker"
            else str((stack.state / "backups").relative_to(stack.root))
        )

    def answers(self) -> bool:
        """Say whether Postgres accepts connections."""
        try:
            databases.ask(self.stack, "catalog_owner", "catalog", "select 1")
        except Problem:
            return False
        return True

    def prepare(self) -> None:
        """Make sure that there is a server, and a role that may copy it.

        :raises Problem: it does not run.
        """
        if not self.answers():
            raise Problem(f"Postgres of {self.stack.name} does not run.", "make up")
        if self.stack.mode == "docker":
            # A volume from before the role has none: the image runs this once.
            roles = "/docker-entrypoint-initdb.d/roles.sh"
            login = "PGPASSWORD=$(cat /run/secrets/postgres_password)"
            compose.run(
                self.stack,
                *("exec", "--no-TTY", "postgres", "sh", "-c"),
                f"{login} PGHOST=127.0.0.1 sh {roles}",
            )

    def kept(self) -> Kept:
        """Return what there is to restore from."""
        bases, restores = [], []
        for line in self.run("list").splitlines():
            kind, first, second, *left = line.split()
            if kind == "base":
                at = datetime.fromisoformat(second)
                bases.append(Base(first, at, left=bool(left)))
            else:
                restores.append(
                    Restore(
                        datetime.fromisoformat(first), datetime.fromisoformat(second)
                    )
                )
        return Kept(bases, restores)

    def run(self, *words: str) -> str:
        """Run one command of the script and return what it printed.

        :raises Problem: it failed, with its own words.
        """
        if self.stack.mode == "docker":
            return self._in_container(*words)
        stack = self.stack
        keeper = Vault(stack.secrets)
        who = reach.runner()
        postgres = programs.postgres_for(_version_folder(stack))
        variables = local.base_environment(stack) | self.variables()
        variables |= {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(stack.port("postgres")),
            "SECRETS_DIR": str(keeper.folder),
        }
        variables["PATH"] = f"{postgres.folder}:{variables['PATH']}"
        script = stack.root / "deploy" / "postgres" / "backup.sh"
        command = ["/bin/sh", str(script), *words]
        # It is not the stack that runs it alone: the way in may be closed by now.
        reach.grant(stack.root, stack.state, who)
        return self._done(
            databases.finished(command, stack.state, variables, **who.options)
        )

    def variables(self) -> dict[str, str]:
        """Return where the script finds what (local mode)."""
        stack = self.stack
        return {
            "BACKUPS": str(stack.state / "backups"),
            "DATA": str(stack.state / "postgres"),
            "CONFIG": str(stack.root / "deploy" / "postgres" / "postgresql.conf"),
        }

    def _in_container(self, *words: str) -> str:
        # Where nothing runs, in a container of its own with the same volumes.
        running = words[0] in {"base", "flush"}
        how = ["exec", "--no-TTY"] if running else ["run", "--rm", "--no-deps", "-T"]
        entry = [] if running else ["--entrypoint", "sh"]
        script = ["sh"] if running else []
        command = [
            *("docker", "compose", "--env-file", str(self.stack.state / "compose.env")),
            *(*how, *entry, "postgres", *script, "/etc/flagon/backup.sh", *words),
        ]
        return self._done(databases.finished(command, self.stack.root))

    @staticmethod
    def _done(done: subprocess.CompletedProcess[str]) -> str:
        if done.returncode != 0:
            said = "\n    ".join(done.stderr.strip().splitlines()[-5:])
            raise Problem(f"It did not work:\n    {said}", "make doctor")
        return done.stdout


def _version_folder(stack: Stack) -> Path:
    """Return a folder that says which Postgres made the data, also after it is lost."""
    data = stack.state / "postgres"
    bases = sorted((stack.state / "backups" / "base").glob("*/PG_VERSION"))
    return bases[-1].parent if bases and not (data / "PG_VERSION").exists() else data
