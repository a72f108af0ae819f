"""The name of a service's present content, in the cache Redis: what answers are kept by.

Apart from the cache itself, because the relay renames the content without a web framework
in memory.
"""

import secrets
from typing import Any, cast

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import stores

log = structlog.get_logger()

OPTIONS: dict[str, Any] = {
    # The library would repeat each command; an answer is not worth that.
    "retry": Retry(NoBackoff(), 0),
    "socket_connect_timeout": 0.3,
    "socket_timeout": 0.3,
}
"""Of connections to the cache: what it holds can be made anew in less time."""


class Content:
    """What a service shows, as a random word that is another one after each change."""

    def __init__(self, url: str, service: str) -> None:
        self.key = f"{service}:answers:content"
        self._redis = stores.client(url, **OPTIONS)

    def name(self) -> bytes:
        """Return the name; give one when Redis has none, or has forgotten it.

        :raises redis.RedisError: Redis does not answer.
        """
        # Random, because a number that starts anew could be that of an older answer.
        self._redis.set(self.key, secrets.token_hex(8), nx=True)
        return cast("bytes", self._redis.get(self.key) or b"")

    def changed(self) -> None:
        """Make all answers so far worthless, if Redis is there to be told."""
        try:
            self._redis.set(self.key, secrets.token_hex(8))
        except redis.RedisError as error:
            log.warning("content_not_renamed", error=type(error).__name__)
