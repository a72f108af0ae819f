"""Celery's way to the Redis that Sentinels call the primary.

Celery loads it by its name, where `brokers` says so.
"""

from typing import Any

import redis
from kombu.transport.redis import SentinelChannel, SentinelTransport

from .stores import PrimaryConnection, Watched, primary_pool


class Channel(SentinelChannel):
    """Kombu's channel for Sentinels, with connections as everything else has them."""

    from_transport_options = (*SentinelChannel.from_transport_options, "watched")
    connection_class = PrimaryConnection
    watched: Watched

    def _sentinel_managed_pool(
        self, asynchronous: bool = False
    ) -> redis.ConnectionPool:
        channel: Any = self
        options: dict[str, Any] = channel._connparams(asynchronous)  # noqa: SLF001 (its own)
        # The address has these.
        for name in ("host", "port", "db", "username", "password"):
            options.pop(name, None)
        return primary_pool(self.watched, **options)


class Transport(SentinelTransport):
    """What Celery is told to use."""

    Channel = Channel
