"""Where one stack keeps its things and where its processes answer."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from .files import write
from .processes import (
    BY_NAME,
    HTTPS_OFFSET,
    INTERNAL_OFFSET,
    MAILER,
    NGINX,
    PROCESSES,
    RABBITMQ,
    SUPERVISOR_OFFSET,
    WATCHERS,
    Process,
)

Mode = Literal["local", "docker"]

ROOT = Path(__file__).resolve().parents[3]
"""The checkout."""


@dataclass(frozen=True)
class Stack:
    """One running (or stopped) copy of the platform: a mode and a port base."""

    mode: Mode
    port_base: int
    root: Path = ROOT

    @property
    def name(self) -> str:
        """Name of the stack, e.g. `local-8080`: two with other names do not meet."""
        return f"{self.mode}-{self.port_base}"

    @property
    def state(self) -> Path:
        """Folder of everything that this stack writes."""
        return self.root / ".run" / self.name

    @property
    def secrets(self) -> Path:
        """Folder of one file per secret."""
        return self.state / "secrets"

    @property
    def config(self) -> Path:
        """Folder of rendered configuration; made anew at every start."""
        return self.state / "config"

    @property
    def traced(self) -> bool:
        """Whether spans are sent to the sink, as the last `make up` decided."""
        return (self.config / "traced").exists()

    @property
    def logs(self) -> Path:
        """Folder of one log file per process (local mode)."""
        return self.state / "logs"

    @property
    def tls(self) -> Path:
        """Folder of the local authority and the gateway's certificate."""
        return self.state / "tls"

    @property
    def release(self) -> str:
        """What its processes run, unless they are told: the checkout's commit."""
        return _commit(self.root)

    @property
    def broker(self) -> str:
        """What tasks wait in: `redis` or `rabbitmq`, as `up` was told."""
        return self._chosen("broker", "redis")

    @property
    def event_bus(self) -> str:
        """What events travel on: `redis` or `rabbitmq`, as `up` was told."""
        return self._chosen("event_bus", "redis")

    @property
    def has_rabbitmq(self) -> bool:
        """Whether RabbitMQ is a part of it."""
        return RABBITMQ.name in {self.broker, self.event_bus}

    @property
    def gateway(self) -> str:
        """What stands before the services, one of `GATEWAYS`, as `up` was told."""
        return self._chosen("gateway", NGINX)

    @property
    def mail_queue(self) -> str:
        """What mails wait for: `celery` or `rq`, as `up` was told."""
        return self._chosen("mail_queue", "celery")

    @property
    def server(self) -> str:
        """What the services run under, by name, as `up` was told."""
        return self._chosen("server", "gunicorn")

    def choose(self, what: str, chosen: str) -> None:
        """Note what was chosen of what there is a choice of, by its name here."""
        write(self._note(what), f"{chosen}\n")

    def _chosen(self, what: str, otherwise: str) -> str:
        note = self._note(what)
        return note.read_text().strip() if note.exists() else otherwise

    def _note(self, what: str) -> Path:
        # The gateway has a folder of its own.
        return self.state / ("front" if what == "gateway" else what)

    @property
    def processes(self) -> tuple[Process, ...]:
        """All that it consists of, without what only watches it."""
        return (
            *PROCESSES,
            *([RABBITMQ] if self.has_rabbitmq else []),
            *([MAILER] if self.mail_queue == "rq" else []),
        )

    @property
    def watchers(self) -> tuple[Process, ...]:
        """What watches it, where that is wanted; the exporter knows nginx alone."""
        exporter = "" if self.gateway == NGINX else "gateway-exporter"
        return tuple(one for one in WATCHERS if one.name != exporter)

    @property
    def http_url(self) -> str:
        """The platform as people see it."""
        return f"http://localhost:{self.port_base}"

    @property
    def https_url(self) -> str:
        """The same over TLS."""
        return f"https://localhost:{self.port_base + HTTPS_OFFSET}"

    @property
    def session_cookie(self) -> str:
        """Name of web's session cookie: browsers share cookies between ports."""
        return f"flagon_session_{self.port_base}"

    @property
    def supervisor_port(self) -> int:
        """Control port of the supervisor, on loopback."""
        return self.port_base + SUPERVISOR_OFFSET

    def port(self, name: str) -> int:
        """Return the port of a process, as its neighbours reach it."""
        process = BY_NAME[name]
        if self.mode == "docker":
            return process.container_port
        return self.port_base + process.offset

    def address(self, name: str) -> str:
        """Return host and port of a process, as its neighbours reach it."""
        host = name if self.mode == "docker" else "127.0.0.1"
        return f"{host}:{self.port(name)}"

    def own_address(self, name: str) -> str:
        """Return where a process can be asked for itself (local mode).

        Its address may be its twin's as well; whoever takes the connection answers.
        """
        process = BY_NAME[name]
        return f"127.0.0.1:{self.port_base + (process.own_offset or process.offset)}"

    @property
    def internal_address(self) -> str:
        """Host and port of the gateway's probes and `stub_status`."""
        if self.mode == "docker":
            return "gateway:8081"
        return f"127.0.0.1:{self.port_base + INTERNAL_OFFSET}"

    def bind(self, name: str) -> str:
        """Return the address that a Python process listens on."""
        host = "0.0.0.0" if self.mode == "docker" else "127.0.0.1"  # noqa: S104 (a container's own network)
        return f"{host}:{self.port(name)}"


@cache
def _commit(root: Path) -> str:
    """Return the commit of a checkout and whether it was changed, else `local`."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        check=False,
        capture_output=True,
        text=True,
        cwd=root,
    )
    return done.stdout.strip() or "local"
