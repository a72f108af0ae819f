"""Requests per account, counted in the cache Redis and, without it, in the process."""

import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, cast

import structlog
from flask import Flask, Response, g, request
from flask_limiter import Limit, Limiter, RequestLimit
from flask_limiter.util import get_remote_address
from limits.storage import MemoryStorage, RedisStorage
from redis import BlockingConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from . import auth, metrics
from .settings import ServiceSettings

log = structlog.get_logger()

_SCHEME = "portions+"
_PORTIONS_MAX = 10_000
"""Accounts and addresses that a process takes places for."""
_WAIT_SECONDS = 0.3
"""A counter is not worth waiting for."""
_AWAY_SECONDS = 1.0
"""How long Redis is left alone once it did not answer."""
_CONNECTIONS = 16
"""A worker that serves everybody at once would open one for each of them."""
_ALL = "all"
"""What the limit that every route has is called."""
_PROBES = {"/livez", "/readyz", "/metrics"}


class _Portion:
    """Places in a limit's window that this process has taken and not yet given out."""

    def __init__(self) -> None:
        self._places = iter(range(0))
        self._until = 0.0
        self.refilling = threading.Lock()

    def fill(self, places: range, until: float) -> None:
        """Put in places that hold until then, in seconds since the epoch."""
        # In this order: nobody takes places of a window that is over for the new one's.
        self._places = iter(places)
        self._until = until

    def take(self) -> tuple[int, float] | None:
        """Return the next place and its end, None if there is none."""
        until = self._until
        place = next(self._places, None) if until > time.time() else None
        return None if place is None else (place, until)


class _InPortions(RedisStorage):
    """Counters in Redis, asked once for a hundredth of a limit.

    The library counts, and then asks for the number and for its end to write them into
    the answer's headers: three round trips. Here the first brings all of it, and of a
    limit of several hundred it takes places for the next requests as well, which then
    cost none. No limit is exceeded for that. What a process has taken and does not use
    is lost to the account until the window ends: a hundredth for each process at most.

    Without Redis each process counts for itself: a limit that is too generous for a while,
    and never an open door. The library could do that, but only for the first request that
    finds out: those that wait at the same moment would be shown the error.
    """

    STORAGE_SCHEME = ["portions+redis", "portions+rediss", "portions+redis+unix"]  # noqa: RUF012 (as there)

    SCRIPT_INCR_EXPIRE = b"""
    local count = redis.call("incrby", KEYS[1], ARGV[2])
    local left = redis.call("ttl", KEYS[1])
    if left < 0 then
      redis.call("expire", KEYS[1], ARGV[1])
      left = tonumber(ARGV[1])
    end
    return {count, left}
    """

    def __init__(self, uri: str, **options: Any) -> None:  # noqa: ANN401 (as there)
        url = uri.removeprefix(_SCHEME)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_WAIT_SECONDS,
            socket_timeout=_WAIT_SECONDS,
            socket_connect_timeout=_WAIT_SECONDS,
            # Once, since a connection that was left alone may have gone.
            retry=Retry(NoBackoff(), 1),
        )
        super().__init__(url, connection_pool=pool, **options)
        self._portions: dict[str, _Portion] = {}
        self._here = MemoryStorage()
        self._away_until = 0.0
        self._alone = metrics.counter(
            "flagon_limits_counted_alone_total",
            "Requests that a process counted for itself, without the Redis of the limits.",
        )

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count, and remember what the headers will say."""
        if time.monotonic() < self._away_until:
            counted = self._count_here(key, expiry, amount)
        else:
            try:
                places = self._next(key, expiry) if amount == 1 else None
                counted = places or self._count(key, expiry, amount)
            except RedisError as error:
                counted = self._count_here(key, expiry, amount)
                if time.monotonic() >= self._away_until:
                    # Those that waited with this one find out too, and say nothing.
                    log.warning("limits_unreachable", error=type(error).__name__)
                self._away_until = time.monotonic() + _AWAY_SECONDS
        g.setdefault("flagon_counted", {})[key] = counted
        return counted[0]

    def _next(self, key: str, expiry: int) -> tuple[int, float] | None:
        size = _portion_size(key)
        if size == 1:
            return None
        if key not in self._portions and len(self._portions) >= _PORTIONS_MAX:
            # Most are of accounts that are gone. Who is not asks Redis once more.
            self._portions = {}
        portion = self._portions.setdefault(key, _Portion())
        counted = portion.take()
        if counted is not None:
            return counted
        # Threads that find it empty wait for the one that refills it, and do not ask Redis
        # themselves when it takes too long: they would only make it slower.
        if not portion.refilling.acquire(timeout=_WAIT_SECONDS):
            raise RedisTimeout("the counter of this account does not answer")
        try:
            counted = portion.take()
            if counted is None:
                end, until = self._count(key, expiry, size)
                portion.fill(range(end - size + 2, end + 1), until)
                counted = end - size + 1, until
        finally:
            portion.refilling.release()
        return counted

    def _count(self, key: str, expiry: int, amount: int) -> tuple[int, float]:
        script = self.lua_incr_expire
        count, left = script([self.prefixed_key(key)], [expiry, amount])
        return int(count), time.time() + left

    def _count_here(self, key: str, expiry: int, amount: int) -> tuple[int, float]:
        self._alone.inc()
        return self._here.incr(key, expiry, amount), self._here.get_expiry(key)

    def get(self, key: str) -> int:
        """Return how much was counted, without asking if that was in this request."""
        counted = g.get("flagon_counted", {}).get(key)
        return int(counted[0]) if counted else super().get(key)

    def get_expiry(self, key: str) -> float:
        """Return when the count starts anew, in seconds since the epoch."""
        counted = g.get("flagon_counted", {}).get(key)
        return float(counted[1]) if counted else super().get_expiry(key)


def _portion_size(key: str) -> int:
    """Return how many places to take at once: one up to a limit of 199.

    :param key: as `limits.RateLimitItem.key_for` makes it: `…/<amount>/<n>/<unit>`.
    """
    return max(1, int(key.rsplit("/", 3)[1]) // 100)


class _ReadOnce(Limit):
    """A limit whose text is read once, and not for each request."""

    _read: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._read is None:
            self._read = list(super().__iter__())
        return iter(self._read)


def init_app(app: Flask, settings: ServiceSettings) -> Limiter:
    """Limit every route by account, or by address where no token proves one.

    The limiter is returned so that a service can add narrower limits to its routes. The
    answer beyond a limit is a 429 problem with `Retry-After` and `RateLimit` headers.
    """
    refused = metrics.counter(
        "flagon_limits_refused_total",
        "Requests that were refused, by the limit they went beyond.",
        "limit",
    )
    refused.labels(_ALL)

    every = _ReadOnce(settings.rate_limit, exempt_when=lambda: request.path in _PROBES)

    def count(breached: RequestLimit) -> None:
        # After whom it is counted for, the route or what several routes share.
        shared = any(breached.limit is one.limit for one in every)
        refused.labels(_ALL if shared else breached.request_args[1]).inc()

    limiter = Limiter(
        account_or_address,
        storage_uri=_SCHEME + settings.redis_cache_url.get_secret_value(),
        storage_options={
            # Redis' access rules give each service the keys below its own name.
            "key_prefix": f"{app.name}:limits",
        },
        strategy="fixed-window",
        on_breach=cast("Any", count),
        default_limits=[every],
    )
    limiter.init_app(app)

    # Not by the limiter, which writes the end of its window as `Retry-After` into every
    # answer: over a 503's own advice and into a 200, where it means nothing.
    @app.after_request
    def tell(response: Response) -> Response:
        limit = limiter.current_limit
        if limit is not None:
            headers = response.headers
            headers["X-RateLimit-Limit"] = str(limit.limit.amount)
            headers["X-RateLimit-Remaining"] = str(limit.remaining)
            headers["X-RateLimit-Reset"] = str(limit.reset_at)
            if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                wait = int(limit.reset_at - time.time())
                headers.setdefault("Retry-After", str(wait))
        return response

    return limiter


def account_or_address() -> str:
    """Return whom to count the request for.

    Only a token that was checked names an account: made-up tokens count for the address,
    or each would be a new account with a fresh allowance.
    """
    if "flagon_limit_key" not in g:
        g.flagon_limit_key = f"address:{get_remote_address()}"
        caller = auth.caller_if_proven()
        if caller:
            g.flagon_limit_key = f"account:{caller.sub}"
    return str(g.flagon_limit_key)
