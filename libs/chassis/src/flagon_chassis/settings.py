"""The settings every service has, read from its environment."""

import os
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings

_SECRETS = Path("/run/secrets")


class ServiceSettings(
    BaseSettings,
    frozen=True,
    extra="ignore",
    # Containers mount secrets as files; pydantic warns when the folder is missing, so it
    # is named only where it exists. A file's name is the variable's, in lower case.
    secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
):
    """Settings shared by all services; each service subclasses this once.

    The subclass gives the prefix: `class Settings(ServiceSettings, env_prefix="WEB_")`.
    """

    environment: Literal["development", "testing", "production"] = "production"
    """Only `development` shows debugging aids to people."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is written to standard output."""
    release: str = Field(default_factory=lambda: os.environ.get("FLAGON_RELEASE", ""))  # noqa: TID251 (an image's own, the same for each service)
    """What runs here, as metrics and reports name it: a version or a commit."""
    secret_key: SecretStr = Field(min_length=32)
    """Signs what a client carries for us (cursors, forms); the same in all processes."""

    bind: str = "127.0.0.1:8000"
    """Address and port that the process listens on; of a service also several, or sockets
    that it was handed down (`fd://3`), with commas between."""
    server: Literal["gunicorn", "uwsgi", "waitress"] = "gunicorn"
    """What serves the API and the pages."""
    workers: PositiveInt = 2
    """Processes that serve."""
    threads: PositiveInt = 8
    """Threads of each process that serves, and so its database connections."""
    grace_seconds: PositiveFloat = 10.0
    """Time that requests in flight have to finish after SIGTERM."""
    drain_seconds: float = Field(default=1.0, ge=0)
    """Time between a failing `/readyz` and the closed listener after SIGTERM."""
    metrics_dir: Path | None = None
    """Folder for the metrics of several processes; emptied at start. None: one process."""

    public_url: str = "http://localhost:8080"
    """The platform as people see it, without a slash at the end; the tokens' issuer."""
    docs_url: str = ""
    """Where problem types are explained; `<public_url>/docs` when empty."""
    jwks_url: str = "http://127.0.0.1:8000/.well-known/jwks.json"
    """Where the public keys of access tokens are fetched."""
    token_url: str = ""
    """Where service tokens come from; empty in a service that calls no other."""
    client_id: str = ""
    """This service's own OAuth client."""
    client_secret: SecretStr = SecretStr("")
    """The secret of that client."""

    redis_store_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """The Redis that keeps what it is given: streams, queues, sessions, denylist. With
    `redis+sentinel://user:password@host:26379,host:26379/name` the primary of several."""
    redis_cache_url: SecretStr = SecretStr("redis://127.0.0.1:6379/1")
    """The Redis that may forget: caches and counters."""
    rate_limit: str = "1200 per minute"
    """Requests that one account (or address, without a token) may make."""

    traces: Literal["none", "log", "otlp"] = "none"
    """Where ended spans go: nowhere, to the log as JSON lines, or to a collector."""
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of new traces that are recorded; a caller's decision is followed."""
    otlp_url: str = "http://127.0.0.1:4318"
    """OTLP over HTTP collector, without `/v1/traces`."""
    sentry_dsn: SecretStr = SecretStr("")
    """Where unexpected errors are reported; empty: nowhere."""

    @field_validator("redis_store_url", "redis_cache_url")
    @classmethod
    def _known_redis(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        url = value.get_secret_value()
        if url.startswith("redis+"):
            # The client of Redis loads much that not every process needs.
            from . import stores  # noqa: PLC0415 (as said above)

            several = stores.watched(url)
            if several and info.field_name == "redis_cache_url":
                message = "the cache is one Redis: it may forget, so nothing is gained"
                raise ValueError(message)
        return value

    @property
    def problems_url(self) -> str:
        """The page that explains every problem type."""
        return (self.docs_url or f"{self.public_url}/docs") + "/problems"


class EventSettings(ServiceSettings, frozen=True):
    """Settings of a service that tells or follows events."""

    event_bus_url: SecretStr = SecretStr("")
    """Where events travel: `amqp://user:password@host:port` for RabbitMQ; empty: in the
    Redis that keeps what it is given."""

    @property
    def event_bus(self) -> str:
        """What events travel on, by name: `redis` or `rabbitmq`."""
        return _by_scheme(self.event_bus_url)


class DatabaseSettings(EventSettings, frozen=True):
    """Settings of a service that owns a database."""

    database_url: SecretStr
    """The service's login, which can change rows but no tables."""
    owner_database_url: SecretStr | None = None
    """The role that owns the tables; given to `migrate` alone."""
    broker_url: SecretStr = SecretStr("")
    """Where tasks wait: `amqp://user:password@host:port` for RabbitMQ; empty: in the
    Redis that keeps what it is given."""

    mail_queue: Literal["celery", "rq"] = "celery"
    """What takes the tasks of the queue `mail`: Celery, from the broker, or RQ, from the
    Redis that keeps what it is given."""

    @property
    def rq_queues(self) -> tuple[str, ...]:
        """The queues that RQ has."""
        return ("mail",) if self.mail_queue == "rq" else ()

    @property
    def broker(self) -> str:
        """What tasks wait in, by name: `redis` or `rabbitmq`."""
        return _by_scheme(self.broker_url)


def _by_scheme(address: SecretStr) -> str:
    return "rabbitmq" if address.get_secret_value().startswith("amqp") else "redis"
