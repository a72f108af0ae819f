"""Two of a service at once, for as long as one takes the place of the other.

In local mode they share a listening socket (sockets.py); in containers they share a name,
and the gateway asks each of them whether it is ready (gateway/resolve.sh).
"""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from . import compose, environment, local, reach
from .problem import Problem
from .processes import BY_NAME, NGINX, PROCESSES, TWINS, Process
from .stack import Stack
from .supervisor import Supervisor
from .vault import Vault

_TAKE_BACK = """
import sys
from alembic import command
from flagon_chassis import db
from flagon_{service}.__main__ import MIGRATIONS
from flagon_{service}.settings import Settings
url = Settings().owner_database_url.get_secret_value()
command.downgrade(db.config(url, MIGRATIONS), sys.argv[1])
"""
_FOUND_SECONDS = 60


class Way(Protocol):
    """How a service of a stack comes to run other code.

    `code` is a release's tree; None is the checkout itself.
    """

    def build(self, services: Sequence[str], code: Path | None) -> None:
        """Make what processes of these services are started from."""

    def migrate(self, service: str, code: Path | None) -> None:
        """Bring the tables of a service to where a release wants them."""

    def take_back(self, service: str, code: Path, revision: str) -> None:
        """Bring them back to an earlier revision, as this release knows how."""

    def serving(self, service: str) -> dict[str, int]:
        """Return the ids of the processes that serve now, by their names."""

    def add(self, service: str, code: Path | None) -> None:
        """Start a second one; returns when both get requests.

        :raises Problem: it does not become ready; it is gone, the old one serves.
        """

    def take_out(self, name: str) -> None:
        """Let one get no more requests, end what it has begun, and be gone."""

    def renew(self, service: str, code: Path | None) -> None:
        """Start all else of the service again: nobody calls it."""


def of(stack: Stack) -> Way:
    """Return how it is done in a stack's mode.

    :raises Problem: it cannot be done behind this gateway.
    """
    if stack.mode != "docker":
        return Processes(stack)
    if stack.gateway != NGINX:
        message = f"{stack.gateway} asks no container whether it is ready."
        raise Problem(message, "make down; make up GATEWAY=nginx")
    return Containers(stack)


def _both(service: str) -> list[Process]:
    return [
        one for one in (*PROCESSES, *TWINS) if one.service == service and one.own_offset
    ]


def _others(stack: Stack, service: str) -> list[Process]:
    return [
        one for one in stack.processes if one.service == service and not one.own_offset
    ]


class Processes:
    """Local mode: the supervisor hands one socket down to both."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._supervisor = stack, Supervisor(stack)

    def build(self, services: Sequence[str], code: Path | None) -> None:
        """Do nothing: Python reads the tree itself."""

    def migrate(self, service: str, code: Path | None) -> None:
        """Run the revisions of the tree."""
        keeper = Vault(self._stack.secrets)
        local.migrate(self._stack, keeper, reach.runner(), [service], code)

    def take_back(self, service: str, code: Path, revision: str) -> None:
        """Run the tree's revisions backwards."""
        stack = self._stack
        keeper = Vault(stack.secrets)
        variables = local.python_environment(stack, keeper, BY_NAME[service], code)
        variables |= environment.migration(service, stack, keeper)
        program = _TAKE_BACK.format(service=service)
        command = [sys.executable, "-c", program, revision]
        local.run(command, variables, reach.runner(), stack.state)

    def serving(self, service: str) -> dict[str, int]:
        """Return those of the two that run."""
        states = self._supervisor.states()
        return {
            one.name: states[one.name].pid
            for one in _both(service)
            if one.name in states and states[one.name].pid
        }

    def add(self, service: str, code: Path | None) -> None:
        """Start the one of the two that does not run."""
        running = self.serving(service)
        [new] = [one for one in _both(service) if one.name not in running]
        local.specify(self._stack, new, code)
        try:
            # All that it needs runs: it has no reason to end even once.
            local.start(self._stack, new, crashing_seconds=0)
        except Problem:
            self._supervisor.stop_process(new.name)
            raise

    def take_out(self, name: str) -> None:
        """Stop it: what waits in the socket's queue is the other's."""
        self._supervisor.stop_process(name)

    def renew(self, service: str, code: Path | None) -> None:
        """Start them again, all at once."""

        def again(process: Process) -> None:
            local.specify(self._stack, process, code)
            self._supervisor.stop_process(process.name)
            local.start(self._stack, process)

        others = _others(self._stack, service)
        with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
            list(pool.map(again, others))


class Containers:
    """Compose: a second container of another image, with the name of the first."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def build(self, services: Sequence[str], code: Path | None) -> None:
        """Build the images of the tree, each with the tree's own Dockerfile."""
        compose.run(self._stack, "build", "--quiet", *services, code=code)

    def migrate(self, service: str, code: Path | None) -> None:
        """Run the revisions that are in the image."""
        compose.run(
            self._stack, "run", "--rm", "--no-deps", f"{service}-migrate", code=code
        )

    def take_back(self, service: str, code: Path, revision: str) -> None:
        """Run the image's revisions backwards."""
        program = _TAKE_BACK.format(service=service)
        compose.run(
            self._stack,
            *("run", "--rm", "--no-deps", "--entrypoint", "python"),
            *(f"{service}-migrate", "-c", program, revision),
            code=code,
        )

    def serving(self, service: str) -> dict[str, int]:
        """Return the containers of the service that run."""
        found = self._ids(service)
        if not found:
            return {}
        said = _docker("inspect", "--format", "{{.Id}} {{.State.Pid}}", *found)
        pairs = [line.split() for line in said.splitlines()]
        return {name: int(pid) for name, pid in pairs if int(pid)}

    def add(self, service: str, code: Path | None) -> None:
        """Start one more, see it become healthy, and see the gateway find it."""
        before = self._ids(service)
        with self._health(service) as told:
            try:
                compose.run(
                    self._stack,
                    *("up", "--detach", "--no-deps", "--no-recreate"),
                    *("--scale", f"{service}={len(before) + 1}", service),
                    code=code,
                )
                [new] = self._ids(service) - before
                self._become_healthy(service, new, told)
                self._found(new)
            except Problem:
                for one in self._ids(service) - before:
                    _docker("rm", "--force", one)
                raise
            finally:
                told.terminate()

    def take_out(self, name: str) -> None:
        """Stop it: it says that it drains, and the gateway leaves it out meanwhile."""
        _docker("stop", name)
        _docker("rm", name)

    def renew(self, service: str, code: Path | None) -> None:
        """Let Compose replace them, all at once."""
        names = [one.name for one in _others(self._stack, service)]
        if names:
            compose.run(
                self._stack, "up", "--detach", "--no-deps", "--wait", *names, code=code
            )

    def _ids(self, service: str) -> set[str]:
        said = compose.run(
            self._stack, "ps", "--all", "--no-trunc", "--quiet", service, capture=True
        )
        return set(said.split())

    def _health(self, service: str) -> subprocess.Popen[str]:
        """Begin to hear what becomes of the containers of a service."""
        project = f"com.docker.compose.project=flagon-{self._stack.port_base}"
        now = _docker("info", "--format", "{{.SystemTime}}").strip()
        return subprocess.Popen(
            [
                *("docker", "events", "--since", now),
                *("--filter", f"label={project}"),
                *("--filter", f"label=com.docker.compose.service={service}"),
                *("--filter", "event=health_status", "--filter", "event=die"),
                *("--format", "{{.ID}} {{.Status}}"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    def _become_healthy(
        self, service: str, container: str, told: subprocess.Popen[str]
    ) -> None:
        for line in told.stdout or ():
            name, _, status = line.strip().partition(" ")
            if name == container and status == "health_status: healthy":
                return
            if name == container:
                said = _docker("logs", "--tail", "20", container)
                message = f"The new container of {service} says {status!r}.\n{said}"
                raise Problem(message, f"make logs S={service} MODE=docker")
        raise Problem("The engine tells nothing any more.", "docker info")

    def _found(self, container: str) -> None:
        """Wait until the gateway knows all addresses that a container may have for it."""
        edge = f"flagon-{self._stack.port_base}_edge"
        shown = f'{{{{(index .NetworkSettings.Networks "{edge}").IPAddress}}}}'
        address = _docker("inspect", "--format", shown, container).strip()
        script = f"until grep -q ' {address}:' /tmp/upstreams.conf; do sleep 0.1; done"
        compose.run(
            self._stack,
            *("exec", "-T", "gateway"),
            *("timeout", str(_FOUND_SECONDS), "sh", "-c", script),
        )


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = done.stderr.strip()
        raise Problem(f"`docker {arguments[0]}` failed: {said}", "docker ps --all")
    return done.stdout
