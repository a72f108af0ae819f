"""Clients of Redis: the one place that makes them, whether it is one server or several.

    redis://user:password@host:6379/0
    redis+sentinel://user:password@host:26379,host:26379/name/0

The second names Sentinels; they say which of the servers that they call `name` is the
primary at the moment. The user and the password are for both kinds of servers.
"""

from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import ResponseError
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)

SCHEME = "redis+sentinel"
_PORT = 26379


@dataclass(frozen=True)
class Watched:
    """Servers that Sentinels watch, as an address names them."""

    sentinels: tuple[tuple[str, int], ...]
    name: str
    """What Sentinels call the servers together."""
    username: str
    password: str = field(repr=False)
    db: int

    @property
    def sign_in(self) -> dict[str, str]:
        """The user and the password, as the library calls them."""
        return {"username": self.username, "password": self.password}


def watched(url: str) -> Watched | None:
    """Return what an address says of servers that Sentinels watch; None for one server.

    :raises ValueError: it is not of the form above; the text holds no password.
    """
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        return None
    account, _, hosts = parts.netloc.rpartition("@")
    username, _, password = account.partition(":")
    name, _, db = parts.path.strip("/").partition("/")
    if not hosts or not name or not (db or "0").isdecimal():
        message = f"{SCHEME}:// needs hosts, a name and perhaps a number after it"
        raise ValueError(message)
    return Watched(
        tuple(_place(each) for each in hosts.split(",")),
        name,
        unquote(username),
        unquote(password),
        int(db or 0),
    )


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    if not host or not (port or "0").isdecimal():
        message = f"{SCHEME}:// needs hosts with or without a port"
        raise ValueError(message)
    return host, int(port or _PORT)


class PrimaryConnection(SentinelManagedConnection):
    """A connection that is left when its server turns out not to be the primary.

    The library does that for a server that says it is a replica. One that was cut off from
    its replicas says that it has too few of them: the primary may be another by now.
    """

    def read_response(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (as the library's)
        """Return an answer.

        :raises redis.ConnectionError: the server must not be written to; the next command
            asks the Sentinels anew.
        """
        try:
            return super().read_response(*arguments, **options)
        except ResponseError as error:
            if not str(error).startswith("NOREPLICAS"):
                raise
            connection: Any = self
            connection.disconnect()
            message = "The primary has too few replicas to take writes."
            raise Unreachable(message) from error


class _WaitingPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """A pool in which who finds no connection waits for one."""


# Untyped in the library.
_SENTINEL: Any = Sentinel
_POOL: Any = SentinelConnectionPool
_WAITING_POOL: Any = _WaitingPool


def primary_pool(
    address: Watched,
    *,
    queue_seconds: float | None = None,
    **options: Any,  # noqa: ANN401 (as the library's)
) -> redis.ConnectionPool:
    """Return connections to whichever server is the primary.

    :param options: of each connection; `connection_class` is one like the above.
    """
    # A Sentinel answers at once or is asked no more: there are others. A connection that
    # blocks for long must not wait as long for one that is frozen.
    limit = options.get("socket_connect_timeout") or 2.0
    sentinels = _SENTINEL(
        address.sentinels,
        sentinel_kwargs={
            "socket_timeout": limit,
            "socket_connect_timeout": limit,
            "retry": None,
            **address.sign_in,
        },
    )
    options = {"connection_class": PrimaryConnection, **options}
    if queue_seconds is not None:
        options["timeout"] = queue_seconds
    kind = _POOL if queue_seconds is None else _WAITING_POOL
    return cast(
        "redis.ConnectionPool",
        kind(address.name, sentinels, db=address.db, **address.sign_in, **options),
    )


def copy(client: redis.Redis, mark: str, seconds: float = 1.0) -> None:
    """Wait until a replica has what anybody has written so far.

    :param mark: a key to write to: a replica that has this has all that was before it.
    :raises redis.ConnectionError: no replica said so in time.
    """
    pipeline: Any
    with client.pipeline(transaction=False) as pipeline:
        pipeline.set(mark, "")
        pipeline.execute_command("WAIT", 1, int(seconds * 1000))
        copies = pipeline.execute()[-1]
    if not copies:
        message = "No replica has it yet."
        raise Unreachable(message)


def client(
    url: str,
    *,
    queue_seconds: float | None = None,
    **options: Any,  # noqa: ANN401 (as the library's)
) -> redis.Redis:
    """Return a client of the Redis at an address.

    :param queue_seconds: how long to wait for one of `max_connections`; None: not at all.
    :param options: of redis-py, for each connection.
    """
    address = watched(url)
    if address:
        pool = primary_pool(address, queue_seconds=queue_seconds, **options)
    elif queue_seconds is None:
        return redis.Redis.from_url(url, **options)
    else:
        pool = redis.BlockingConnectionPool.from_url(
            url, timeout=queue_seconds, **options
        )
    return redis.Redis.from_pool(pool)
