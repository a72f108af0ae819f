"""Requests per account, counted in the cache Redis and, without it, in the process."""

import time
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits.storage import RedisStorage

from . import auth
from .settings import ServiceSettings

_SCHEME = "once+"
_PROBES = {"/livez", "/readyz", "/metrics"}


class _AskedOnce(RedisStorage):
    """Counters in Redis, asked once a request.

    The library counts, and then asks for the number and for its end to write them into
    the answer's headers: three round trips. Here the first brings all of it.
    """

    STORAGE_SCHEME = ["once+redis", "once+rediss", "once+redis+unix"]  # noqa: RUF012 (as there)

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
        super().__init__(uri.removeprefix(_SCHEME), **options)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count, and remember what the headers will say."""
        script = self.lua_incr_expire
        count, left = script([self.prefixed_key(key)], [expiry, amount])
        g.setdefault("flagon_counted", {})[key] = (count, time.time() + left)
        return int(count)

    def get(self, key: str) -> int:
        """Return how much was counted, without asking if that was in this request."""
        counted = g.get("flagon_counted", {}).get(key)
        return int(counted[0]) if counted else super().get(key)

    def get_expiry(self, key: str) -> float:
        """Return when the count starts anew, in seconds since the epoch."""
        counted = g.get("flagon_counted", {}).get(key)
        return float(counted[1]) if counted else super().get_expiry(key)


def init_app(app: Flask, settings: ServiceSettings) -> Limiter:
    """Limit every route by account, or by address where no token proves one.

    The limiter is returned so that a service can add narrower limits to its routes. The
    answer beyond a limit is a 429 problem with `Retry-After` and `RateLimit` headers.
    """
    limiter = Limiter(
        account_or_address,
        storage_uri=_SCHEME + settings.redis_cache_url.get_secret_value(),
        storage_options={
            # A counter is not worth waiting for.
            "socket_timeout": 0.3,  # type: ignore[dict-item]
            "socket_connect_timeout": 0.3,  # type: ignore[dict-item]
            # Redis' access rules give each service the keys below its own name.
            "key_prefix": f"{app.name}:limits",
        },
        strategy="fixed-window",
        default_limits=[settings.rate_limit],
        default_limits_exempt_when=lambda: request.path in _PROBES,
        headers_enabled=True,
        # Without Redis each process counts for itself: a limit that is too generous for
        # a while, and never an open door.
        in_memory_fallback_enabled=True,
    )
    # Hooks run in reverse order: this one after the limiter's, the other one before.
    app.after_request(_restore_retry_after)
    limiter.init_app(app)
    app.after_request(_remember_retry_after)
    return limiter


def _remember_retry_after(response: Response) -> Response:
    g.flagon_retry_after = response.headers.get("Retry-After")
    return response


def _restore_retry_after(response: Response) -> Response:
    # The limiter writes its window's end into every answer, over a 503's own advice and
    # into a 200, where it means nothing. It is right where the limiter itself refuses.
    own = g.get("flagon_retry_after")
    if own is not None:
        response.headers["Retry-After"] = own
    elif response.status_code != HTTPStatus.TOO_MANY_REQUESTS:
        response.headers.pop("Retry-After", None)
    return response


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
