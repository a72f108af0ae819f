"""Celery's ways to Redis: kombu's own, with what they lack.

Celery loads them by their names, where `brokers` says so.
"""

from typing import Any

import redis
from kombu.transport import redis as kombus
from redis.exceptions import ConnectionError as Unreachable

from .stores import PrimaryConnection, Watched, primary_pool


class Channel(kombus.Channel):
    """A channel that can be closed once its connection is gone.

    A worker that loses Redis closes its channel twice, the second time with nothing left
    to connect to; kombu then fails with an `AttributeError` when a task is running, which
    ends the worker and its tasks. A message that cannot be given back stays where it is,
    and is given out again when nobody has finished it in time.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        channel: Any = self
        if channel.connection.client is None:
            message = "The connection of this channel was given up."
            raise Unreachable(message)
        kombus_own: Any = super()
        return dict(kombus_own._connparams(asynchronous))  # noqa: SLF001 (our own, inherited)


class Transport(kombus.Transport):
    """What Celery is told to use for one server."""

    Channel = Channel


class SentinelChannel(Channel, kombus.SentinelChannel):
    """To whichever server is the primary, with connections as everything else has them."""

    from_transport_options = (*kombus.SentinelChannel.from_transport_options, "watched")
    connection_class = PrimaryConnection
    watched: Watched

    def _sentinel_managed_pool(
        self, asynchronous: bool = False
    ) -> redis.ConnectionPool:
        options = self._connparams(asynchronous)
        # The address has these.
        for name in ("host", "port", "db", "username", "password"):
            options.pop(name, None)
        return primary_pool(self.watched, **options)


class SentinelTransport(kombus.SentinelTransport):
    """What Celery is told to use for servers that Sentinels watch."""

    Channel = SentinelChannel
