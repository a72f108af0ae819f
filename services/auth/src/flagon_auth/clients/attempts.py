"""Counters that slow down guessing: in the cache Redis and, without it, in the process."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import redis
import structlog

log = structlog.get_logger()

# All limits are looked at and all counters raised in one step, before the secret is
# checked: with a check first and a count afterwards, parallel guesses all pass.
_TAKE = """
local now = tonumber(ARGV[1])
local function limit(i)
  return tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
end
local wait, refused_by = 0, 0
for i, key in ipairs(KEYS) do
  local free, seconds, delay = limit(i)
  local row = redis.call('HMGET', key, 'n', 'at')
  local over = tonumber(row[1] or '0') - free
  if over >= 0 then
    local left
    if delay > 0 then
      left = tonumber(row[2]) + math.min(2 ^ math.min(over, 30), delay) * 1000 - now
    else
      left = math.max(redis.call('PTTL', key), 1000)
    end
    if left > wait then wait, refused_by = left, i end
  end
end
if wait > 0 then return {math.ceil(wait), refused_by} end
for i, key in ipairs(KEYS) do
  local _, seconds, delay = limit(i)
  local count = redis.call('HINCRBY', key, 'n', 1)
  redis.call('HSET', key, 'at', ARGV[1])
  if delay > 0 or count == 1 then redis.call('PEXPIRE', key, seconds * 1000) end
end
return {0, 0}
"""
_GIVE_BACK = """
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('HGET', key, 'n') or '0') > 0 then
    redis.call('HINCRBY', key, 'n', -1)
  end
end
"""
_KEPT_MAX = 10_000
_EXPONENT_MAX = 30


@dataclass(frozen=True)
class Limit:
    """So many attempts in so many seconds, and then none or only slow ones."""

    key: str
    """What is counted, such as an address; unique among all counters."""
    times: int
    """Attempts that need not wait."""
    seconds: int
    """After so long without an attempt (with `delay_seconds`) or since the first
    (without) all is forgotten."""
    delay_seconds: int = 0
    """Further attempts must wait 1, 2, 4, … seconds since the last, at most so long;
    0: they must wait until the window ends."""


@dataclass(frozen=True)
class Refusal:
    """An attempt that was refused, and counted nowhere."""

    limit: Limit
    """The limit that lasts longest."""
    wait_seconds: int
    """1 or more."""


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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._prefix = prefix
        self._clock = clock
        self._take = cache.register_script(_TAKE)
        self._give_back = cache.register_script(_GIVE_BACK)
        self._own = _OwnCounters()

    def take(self, limits: Sequence[Limit]) -> Refusal | None:
        """Count one attempt, or return why it must wait; None if it may go on."""
        now = self._clock()
        arguments = [int(now * 1000)]
        for limit in limits:
            arguments += [limit.times, limit.seconds, limit.delay_seconds]
        try:
            wait, index = cast(
                "list[int]", self._take(keys=self._keys(limits), args=arguments)
            )
        except redis.RedisError as error:
            log.warning("attempts_counted_locally", error=type(error).__name__)
            return self._own.take(limits, now)
        return Refusal(limits[index - 1], -(-wait // 1000)) if wait else None

    def give_back(self, limits: Sequence[Limit]) -> None:
        """Take back one attempt that was not a wrong guess."""
        try:
            self._give_back(keys=self._keys(limits))
        except redis.RedisError:
            self._own.give_back(limits)

    def forget(self, limits: Sequence[Limit]) -> None:
        """Forget all attempts: who made them has proved to be the right one."""
        try:
            self._cache.delete(*self._keys(limits))
        except redis.RedisError:
            self._own.forget(limits)

    def _keys(self, limits: Sequence[Limit]) -> list[str]:
        return [self._prefix + limit.key for limit in limits]


@dataclass
class _Count:
    number: int
    at: float
    ends_at: float


class _OwnCounters:
    """The same in the memory of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, _Count] = {}

    def take(self, limits: Sequence[Limit], now: float) -> Refusal | None:
        with self._lock:
            self._make_room(now)
            waits = [(self._wait(limit, now), limit) for limit in limits]
            wait, limit = max(waits, key=lambda pair: pair[0])
            if wait > 0:
                return Refusal(limit, max(1, int(wait)))
            for limit in limits:
                count = self._counts.setdefault(
                    limit.key, _Count(0, now, now + limit.seconds)
                )
                count.number += 1
                count.at = now
                if limit.delay_seconds:
                    count.ends_at = now + limit.seconds
        return None

    def _wait(self, limit: Limit, now: float) -> float:
        count = self._counts.get(limit.key)
        if count is None or count.number < limit.times:
            return 0.0
        if not limit.delay_seconds:
            return count.ends_at - now
        over = min(count.number - limit.times, _EXPONENT_MAX)
        return count.at + min(1 << over, limit.delay_seconds) - now

    def give_back(self, limits: Sequence[Limit]) -> None:
        with self._lock:
            for limit in limits:
                count = self._counts.get(limit.key)
                if count and count.number > 0:
                    count.number -= 1

    def forget(self, limits: Sequence[Limit]) -> None:
        with self._lock:
            for limit in limits:
                self._counts.pop(limit.key, None)

    def _make_room(self, now: float) -> None:
        # Run out ones first; then the oldest, so that a flood of names costs no memory.
        for key in [key for key, row in self._counts.items() if row.ends_at <= now]:
            del self._counts[key]
        while len(self._counts) > _KEPT_MAX:
            del self._counts[next(iter(self._counts))]
