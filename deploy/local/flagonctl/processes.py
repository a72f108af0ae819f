"""Every process of the platform: its name, its port, how it starts.

The names are the same everywhere: supervisor program, log file, Compose service.
"""

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal[
    "postgres",
    "redis",
    "rabbitmq",
    "gateway",
    "prometheus",
    "python",
    "alertmanager",
    "exporter",
    "sink",
]


@dataclass(frozen=True)
class Process:
    """One long-running process."""

    name: str
    kind: Kind
    offset: int
    """Its port in local mode is PORT_BASE plus this."""
    container_port: int
    """Its port inside its container."""
    service: str = ""
    """The service whose code and settings it runs; empty for bought programs."""
    arguments: tuple[str, ...] = ()
    """What follows `python -m flagon_<service>`."""
    own_offset: int = 0
    """Of a second port where this process alone answers (local mode); 0: it has none."""


_OWN = 50
_TWIN = 10


def _python(name: str, offset: int, service: str, *arguments: str) -> Process:
    own = offset + _OWN if arguments == ("serve",) else 0
    return Process(name, "python", offset, 8000, service, arguments, own)


PROCESSES = (
    Process("postgres", "postgres", 15, 5432),
    Process("redis-store", "redis", 16, 6379),
    Process("redis-cache", "redis", 17, 6379),
    Process("prometheus", "prometheus", 18, 9090),
    Process("gateway", "gateway", 0, 8080),
    _python("auth", 10, "auth", "serve"),
    _python("catalog", 11, "catalog", "serve"),
    _python("realtime", 12, "realtime", "serve"),
    _python("worker", 13, "worker", "serve"),
    _python("web", 14, "web", "serve"),
    _python("auth-relay", 20, "auth", "relay"),
    _python("catalog-relay", 21, "catalog", "relay"),
    _python("worker-relay", 22, "worker", "relay"),
    _python("worker-consumer", 23, "worker", "consumer"),
    _python(
        "worker-interactive", 24, "worker", "celery", "--queues", "interactive,mail"
    ),
    _python("worker-bulk", 25, "worker", "celery", "--queues", "bulk,maintenance"),
    _python("worker-beat", 26, "worker", "beat"),
    _python("catalog-consumer", 27, "catalog", "consumer"),
)
"""All of them, in the order in which people like to read them."""

RABBITMQ = Process("rabbitmq", "rabbitmq", 46, 5672)
"""What `BROKER=rabbitmq` adds, where tasks wait instead of in Redis, and
`EVENT_BUS=rabbitmq`, where events travel."""

BROKERS = ("redis", "rabbitmq")
"""What can take messages, be they tasks or events."""
SERVERS = ("gunicorn", "uwsgi", "waitress")
"""What the services can run under; realtime stays with the first."""

MAILER = _python("worker-mail", 30, "worker", "rq")
"""What `MAIL_QUEUE=rq` adds: mails wait for it instead of for Celery."""

MAIL_QUEUES = ("celery", "rq")

NGINX, HAPROXY, APACHE = "nginx", "haproxy", "apache"
GATEWAYS = (NGINX, HAPROXY, APACHE)
"""What can stand before the services, under the name `gateway`."""

WATCHERS = (
    Process("alertmanager", "alertmanager", 40, 9093),
    Process("postgres-exporter", "exporter", 41, 9187),
    Process("redis-exporter", "exporter", 42, 9121),
    Process("gateway-exporter", "exporter", 43, 9113),
    Process("probe-exporter", "exporter", 44, 9115),
    Process("machine-exporter", "exporter", 45, 9100),
)
"""What `WITH=observability` adds; nothing waits for them."""

SINK = Process("traces", "sink", 49, 8000)
"""Where spans are sent, with `WITH=traces` and `WITH=observability`."""

TWINS = tuple(
    replace(one, name=f"{one.name}-next", own_offset=one.own_offset + _TWIN)
    for one in PROCESSES
    if one.own_offset
)
"""Seconds of those that serve, which run while one takes the place of the other (local
mode): they listen where the first does, on the same socket (roll.py)."""

BY_NAME = {
    one.name: one for one in (*PROCESSES, RABBITMQ, MAILER, *WATCHERS, SINK, *TWINS)
}

HTTPS_OFFSET = 363
"""Of the gateway's https port: 8443 for 8080."""
INTERNAL_OFFSET = 28
"""Of the gateway's port for probes and `stub_status`; 8081 in its container."""
SUPERVISOR_OFFSET = 29
"""Of the supervisor's own control port (local mode)."""
NODES_OFFSET = 47
"""Of the port where RabbitMQ listens for other nodes (local mode)."""
NAMES_OFFSET = 48
"""Of the port of its name server (local mode)."""

SERVICES = ("auth", "catalog", "realtime", "worker", "web")
OWNERS = ("auth", "catalog", "worker")
"""Services with a database of their own."""
READABLE = ("catalog", "worker")
"""Those whose rows people may read; auth's are secrets."""


def ports(base: int) -> dict[str, int]:
    """Return every port that a local stack listens on, by what listens there."""
    others = (RABBITMQ, MAILER, *WATCHERS, SINK)
    taken = {one.name: base + one.offset for one in (*PROCESSES, *others)}
    taken |= {
        f"{one.name} (own)": base + one.own_offset
        for one in BY_NAME.values()
        if one.own_offset
    }
    return taken | {
        "gateway (https)": base + HTTPS_OFFSET,
        "gateway (internal)": base + INTERNAL_OFFSET,
        "supervisor": base + SUPERVISOR_OFFSET,
        "rabbitmq (nodes)": base + NODES_OFFSET,
        "rabbitmq (names)": base + NAMES_OFFSET,
    }
