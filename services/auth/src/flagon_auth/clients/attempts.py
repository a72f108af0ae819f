"""Counters that slow down guessing: in the cache Redis and, without it, in the process."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import redis
import structlog

log = structlog.get_logger()

# All limits are looked at and all counters raised in one step, before the password is
# checked: with a check first and a count afterwards, parallel guesses all pass.
_TAKE = """
local wait = 0
for i, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2 * i - 1]) then
    wait = math.max(wait, redis.call('PTTL', key), 1000)
  end
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
  if redis.call('INCR', key) == 1 then
    redis.call('PEXPIRE', key, tonumber(ARGV[2 * i]) * 1000)
  end
end
return 0
"""
_GIVE_BACK = """
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') > 0 then redis.call('DECR', key) end
end
"""
_KEPT_MAX = 10_000


@dataclass(frozen=True)
class Limit:
    """So many attempts in so many seconds."""

    key: str
    """What is counted, such as an address; unique among all counters."""
    times: int
    seconds: int


class Attempts:
    """Counts attempts against limits, and takes back those that turned out well.

    While Redis is away every process counts for itself: a limit that is too generous
    for a while, and never an open door.

    :param prefix: begins every key; the Redis user may use no other.
    """

    def __init__(
        self,
        cache: redis.Redis,
        *,
        prefix: str = "auth:attempts:",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix = prefix
        self._take = cache.register_script(_TAKE)
        self._give_back = cache.register_script(_GIVE_BACK)
        self._own = _OwnCounters(clock)

    def take(self, limits: list[Limit]) -> int:
        """Count one attempt, or return how many seconds to wait before the next.

        :return: 0 if the attempt may go on.
        """
        arguments = [
            number for limit in limits for number in (limit.times, limit.seconds)
        ]
        try:
            wait = cast("int", self._take(keys=self._keys(limits), args=arguments))
        except redis.RedisError as error:
            log.warning("attempts_counted_locally", error=type(error).__name__)
            return self._own.take(limits)
        return -(-wait // 1000)

    def give_back(self, limits: list[Limit]) -> None:
        """Take back one attempt that was not a wrong guess."""
        try:
            self._give_back(keys=self._keys(limits))
        except redis.RedisError:
            self._own.give_back(limits)

    def _keys(self, limits: list[Limit]) -> list[str]:
        return [self._prefix + limit.key for limit in limits]


class _OwnCounters:
    """The same in the memory of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, float]] = {}

    def take(self, limits: list[Limit]) -> int:
        now = self._clock()
        with self._lock:
            self._forget(now)
            waits = [
                ends - now
                for limit in limits
                for count, ends in [self._counts.get(limit.key, (0, 0.0))]
                if count >= limit.times
            ]
            if waits:
                return max(1, int(max(waits)))
            for limit in limits:
                count, ends = self._counts.get(limit.key, (0, now + limit.seconds))
                self._counts[limit.key] = (count + 1, ends)
        return 0

    def give_back(self, limits: list[Limit]) -> None:
        with self._lock:
            for limit in limits:
                count, ends = self._counts.get(limit.key, (0, 0.0))
                if count > 0:
                    self._counts[limit.key] = (count - 1, ends)

    def _forget(self, now: float) -> None:
        # Run out ones first; then the oldest, so that a flood of names costs no memory.
        for key in [key for key, (_, ends) in self._counts.items() if ends <= now]:
            del self._counts[key]
        while len(self._counts) > _KEPT_MAX:
            del self._counts[next(iter(self._counts))]
