"""Who is in which room, in the Redis that forgets: every process writes its own part.

An entry lives for some seconds and is renewed by the process that holds the connection.
So what a killed process leaves behind goes away by itself, whoever is left, and nothing
has to be counted down.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flagon_chassis import stores

from .clients import connect

_CHANNEL = "realtime:rooms"
_LISTEN_SECONDS = 5.0

# One script for all: it is one round trip, and what it counts is true at one moment. Time
# is Redis', so that processes need not agree on theirs.
_UPDATE = """
local strangers, accounts, people, lock = unpack(KEYS)
local asked, lives = cjson.decode(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call("time")
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local changed = false
for _, key in ipairs({strangers, accounts}) do
  for _, seat in ipairs(redis.call("zrangebyscore", key, "-inf", now)) do
    redis.call("zrem", key, seat)
    redis.call("hdel", people, seat)
    changed = true
  end
end
for _, seat in ipairs(asked.gone) do
  if redis.call("zrem", strangers, seat) + redis.call("zrem", accounts, seat) > 0 then
    redis.call("hdel", people, seat)
    changed = true
  end
end
for _, seat in ipairs(asked.strangers) do
  if redis.call("zadd", strangers, now + lives, seat) > 0 then changed = true end
end
for _, seat in ipairs(asked.accounts) do
  if redis.call("zadd", accounts, now + lives, seat) > 0 then changed = true end
end
for seat, person in pairs(asked.people) do
  if redis.call("hget", people, seat) ~= person then
    redis.call("hset", people, seat, person)
    changed = true
  end
end
for _, key in ipairs({strangers, accounts, people}) do
  redis.call("pexpire", key, lives * 2)
end
if changed then redis.call("publish", ARGV[3], ARGV[4]) end
local count, known = redis.call("zcard", strangers), {}
for _, seat in ipairs(redis.call("zrange", accounts, 0, -1)) do
  local account = string.match(seat, "^%S+")
  if not known[account] then
    known[account] = true
    count = count + 1
  end
end
return {count, redis.call("hvals", people), redis.call("get", lock), redis.call("pttl", lock)}
"""
_LOCK = """
local held = redis.call("get", KEYS[1])
if held and cjson.decode(held).token ~= ARGV[1] then
  return {0, held, redis.call("pttl", KEYS[1])}
end
redis.call("set", KEYS[1], ARGV[2], "px", ARGV[3])
if not held then redis.call("publish", ARGV[4], ARGV[5]) end
return {1, ARGV[2], tonumber(ARGV[3])}
"""
_UNLOCK = """
local held = redis.call("get", KEYS[1])
if not held or cjson.decode(held).token ~= ARGV[1] then return 0 end
redis.call("del", KEYS[1])
redis.call("publish", ARGV[2], ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class Lock:
    """Who keeps others from editing, and for how long."""

    id: str
    """The account's."""
    name: str | None
    expires_in_seconds: float = field(compare=False)


@dataclass(frozen=True, slots=True)
class State:
    """Who is in a room, over all processes."""

    count: int
    """People: an account counts once, a stranger once for each connection."""
    people: tuple[tuple[str, str | None, str], ...] = ()
    """Account, name and activity of those who are named, sorted by account."""
    lock: Lock | None = None


@dataclass(slots=True)
class Seats:
    """The part of a room that one process tells about."""

    strangers: list[str] = field(default_factory=list)
    """Ids of connections."""
    accounts: list[str] = field(default_factory=list)
    """`<account> <connection>`."""
    people: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)
    """What is shown of some of those accounts, by the same."""
    gone: list[str] = field(default_factory=list)
    """Connections of either kind that have left."""


class Rooms:
    """The rooms of the platform.

    :param url: of the Redis cache.
    :param entry_seconds: how long an entry lives when nobody renews it.
    :param lock_seconds: how long a lock lives when its holder does not renew it.
    """

    def __init__(self, url: str, *, entry_seconds: float, lock_seconds: float) -> None:
        self._url = url
        self._entry_milliseconds = int(entry_seconds * 1000)
        self._lock_milliseconds = int(lock_seconds * 1000)
        self._redis = connect(url, max_connections=2)
        self._update = self._redis.register_script(_UPDATE)
        self._lock = self._redis.register_script(_LOCK)
        self._unlock = self._redis.register_script(_UNLOCK)

    def update(self, room: str, seats: Seats) -> State:
        """Enter or renew who is here, take out who has left; return who is there now.

        :raises redis.RedisError: nobody knows.
        """
        asked = json.dumps(
            {
                "strangers": seats.strangers,
                "accounts": seats.accounts,
                "people": {s: json.dumps(p) for s, p in seats.people.items()},
                "gone": seats.gone,
            }
        )
        count, people, lock, milliseconds = cast(
            "tuple[int, list[bytes], bytes | None, int]",
            self._update(
                [
                    _key(room, part)
                    for part in ("strangers", "accounts", "people", "lock")
                ],
                [asked, self._entry_milliseconds, _CHANNEL, room],
            ),
        )
        return State(count, _people(people), _holder(lock, milliseconds))

    def look(self, room: str) -> State:
        """Return who is in a room.

        :raises redis.RedisError: nobody knows.
        """
        return self.update(room, Seats())

    def take_lock(
        self, room: str, *, token: str, account: str, name: str | None
    ) -> tuple[bool, Lock]:
        """Take a lock, or renew it; say whether that worked, and who holds it now.

        :param token: a new one, or the one with which it was taken.
        :raises redis.RedisError: nobody knows.
        """
        mine = json.dumps({"token": token, "id": account, "name": name})
        taken, held, milliseconds = cast(
            "tuple[int, bytes, int]",
            self._lock(
                [_key(room, "lock")],
                [token, mine, self._lock_milliseconds, _CHANNEL, room],
            ),
        )
        lock = _holder(held, milliseconds)
        assert lock is not None  # noqa: S101 (for the type: there was one a moment ago)
        return taken > 0, lock

    def free_lock(self, room: str, token: str) -> bool:
        """Give a lock back; False when it was not held with this token any more.

        :raises redis.RedisError: nobody knows.
        """
        freed = self._unlock([_key(room, "lock")], [token, _CHANNEL, room])
        return cast("int", freed) > 0

    def changes(self) -> Iterator[str | None]:
        """Return the rooms that change, whoever changes them, as they do.

        None first, and after each time at which changes may have been missed.
        """
        while True:
            # A connection of its own: it waits for ever, and is made again when it breaks.
            with stores.client(
                self._url,
                socket_connect_timeout=2,
                retry=Retry(NoBackoff(), 0),
                # A Redis that vanished without a word would be waited for as well.
                health_check_interval=10,
            ) as connection:
                try:
                    with connection.pubsub(ignore_subscribe_messages=True) as told:
                        told.subscribe(_CHANNEL)
                        yield None
                        while True:
                            message = told.get_message(timeout=_LISTEN_SECONDS)
                            if message is not None:
                                yield message["data"].decode()
                except redis.RedisError:
                    time.sleep(1)

    def close(self) -> None:
        """Close every connection but that of `changes`; a later call opens them again."""
        self._redis.connection_pool.disconnect()


def shown(name: str, state: State, *, names: bool) -> dict[str, Any]:
    """Return a room as clients see it.

    :param names: whether this one may know who is there.
    """
    found: dict[str, Any] = {"room": name, "count": state.count}
    if names:
        keys = ("id", "name", "activity")
        found["people"] = [dict(zip(keys, one, strict=True)) for one in state.people]
        lock = state.lock
        found["lock"] = lock and {
            "id": lock.id,
            "name": lock.name,
            "expires_in_seconds": lock.expires_in_seconds,
        }
    return found


def _key(room: str, part: str) -> str:
    return f"realtime:room:{part}:{room}"


def _people(values: list[bytes]) -> tuple[tuple[str, str | None, str], ...]:
    found: dict[str, tuple[str, str | None, str]] = {}
    for value in values:
        account, name, activity = json.loads(value)
        # Whoever edits in one window edits, whatever the other windows show.
        if account not in found or activity == "editing":
            found[account] = (account, name, activity)
    return tuple(found[account] for account in sorted(found))


def _holder(value: bytes | None, milliseconds: int) -> Lock | None:
    if value is None:
        return None
    told: Mapping[str, Any] = json.loads(value)
    return Lock(told["id"], told["name"], max(0.0, milliseconds / 1000))
