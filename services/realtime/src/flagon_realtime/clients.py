"""The event stream, which is added to, and the denylist, which Redis has in any case."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flagon_chassis import buses, stores
from flagon_chassis.errors import Unavailable

from . import wire
from .domain import EventIdReused
from .ring import Entry
from .settings import Settings
from .wire import StreamId

Row = tuple[bytes, Mapping[bytes, bytes]]

PAGE = 500
"""Entries that one command asks for: Redis serves nobody else meanwhile."""


_LATEST_MILLISECONDS = 10**14
"""No Redis counts so far before the year 5138; other streams count microseconds."""
_KEPT_ENTRIES = 100_000
"""Most entries of the stream, as the relays have it: they may have nothing to send."""
_REMEMBERED_SECONDS = 24 * 3600
_PUBLISHED = "realtime:published:"
_ALONE_SECONDS = 20

# A script, because both must happen or none: an entry that is not remembered would be
# added twice. The stream is not among its keys: those are checked against the rights to
# read and write, and we may only add.
_APPEND = """
for number, key in ipairs(KEYS) do
  local known = redis.call("get", key)
  if known then
    local digest, position = string.match(known, "^(%S+) (%S+)$")
    if digest == ARGV[2] then return {0, position} end
    return {-1, ""}
  end
end
local position = redis.call("xadd", ARGV[1], "maxlen", "~", ARGV[4], "*", unpack(ARGV, 5))
for number, key in ipairs(KEYS) do
  redis.call("set", key, ARGV[2] .. " " .. position, "ex", ARGV[3])
end
return {1, position}
"""


def connect(url: str, *, max_connections: int) -> redis.Redis:
    """Return a client for single questions, which gives up rather than wait for long.

    Whoever waits for a connection longer than that is better off coming back.
    """
    return stores.client(
        url,
        max_connections=max_connections,
        queue_seconds=5,
        socket_timeout=2,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), 0),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of the stream."""

    entries: list[Entry]
    last: StreamId
    """Id of the last entry, understood or not."""
    scanned: int
    """Entries in the run, understood or not."""
    missing_until: StreamId | None = None
    """Set when entries up to this id were deleted before they were read."""
    at: float = 0.0
    """When the last entry came into the stream, in seconds since the epoch."""
    marks: int = 0
    """Entries that are no events and are not meant to be."""

    @property
    def malformed(self) -> int:
        """Entries that lack a field, and so were left out."""
        return self.scanned - len(self.entries) - self.marks


def event_log(settings: Settings) -> "EventLog":
    """Return the platform's event stream, wherever it is."""
    url = settings.redis_store_url.get_secret_value()
    journal = buses.journal(settings)
    return (
        EventLog(url, settings.stream) if journal is None else Journaled(url, journal)
    )


class EventLog:
    """The platform's event stream.

    One connection tails it; everything else shares a few more, so a process holds the
    same small number of connections whatever the number of its clients.

    :param url: of the Redis store.
    :param stream: key of the stream.
    :param block_seconds: how long one read waits for the next event.
    """

    def __init__(self, url: str, stream: str, *, block_seconds: float = 4.0) -> None:
        self._stream = stream
        self._block_milliseconds = int(block_seconds * 1000)
        # A blocking read must end before the socket gives up, else an idle stream looks
        # like a dead Redis. Retries are the reader's own, which says so to the clients.
        self._tail = stores.client(
            url,
            socket_timeout=block_seconds + 4,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )
        self._queries = connect(url, max_connections=3)

    def place(self, after: StreamId) -> StreamId:
        """Return an id that a client has come back with, `FOREIGN` if it is not ours."""
        return after if after[0] < _LATEST_MILLISECONDS else wire.FOREIGN

    def newest(self, max_events: int, max_bytes: int) -> tuple[StreamId, Batch]:
        """Return the newest entries, and the id after which nothing is missing in them.

        :raises redis.RedisError: Redis does not answer.
        """
        edge, last, untouched = self._bounds()
        found: list[Entry] = []
        size = scanned = 0
        upto = wire.format_id(last)
        while scanned < max_events and size < max_bytes:
            rows = _rows(self._tail.xrevrange(self._stream, max=upto, count=PAGE))
            scanned += len(rows)
            page = _entries(rows)
            found += page
            size += sum(len(entry.payload) for entry in page)
            if len(rows) < PAGE:
                floor = (0, 0) if untouched else edge
                break
            floor = wire.before(wire.parse_id(rows[-1][0]))
            upto = b"(" + rows[-1][0]
        return floor, Batch(found[::-1], last, scanned)

    def follow(self, after: StreamId) -> Batch:
        """Return the entries after an id; waits for the next one when there is none.

        :raises redis.RedisError: Redis does not answer.
        """
        reply = self._tail.xread(
            {self._stream: wire.format_id(after)},
            count=PAGE,
            block=self._block_milliseconds,
        )
        return _batch(_tail_rows(reply), after)

    def page(self, after: StreamId) -> Batch:
        """Return some of the entries after an id, fewer than `PAGE` at the end.

        :raises redis.RedisError: Redis does not answer.
        """
        if after == wire.FOREIGN:
            return Batch([], after, 0)
        start = b"(" + wire.format_id(after)
        rows = _rows(self._queries.xrange(self._stream, min=start, count=PAGE))
        # Asked after the read: what is trimmed in between must not go unnoticed.
        edge, _last, untouched = self._bounds()
        if not untouched and after < edge:
            return Batch([], after, 0, missing_until=edge)
        return _batch(rows, after)

    def marks(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the denylist's keys that exist, with their values.

        :raises redis.RedisError: Redis does not answer.
        """
        values = cast("list[bytes | None]", self._queries.mget(names))
        return {
            name: value
            for name, value in zip(names, values, strict=True)
            if value is not None
        }

    def append(
        self, fields: Mapping[str, Any], *, names: Sequence[str], digest: str
    ) -> tuple[bool, str]:
        """Add an entry unless that was done before; say if it was added, and its id.

        :param fields: of the entry.
        :param names: under each of which the entry is remembered for a day.
        :param digest: of what was asked for; no spaces.
        :raises EventIdReused: something else was added under one of the names.
        :raises redis.RedisError: nobody knows; the same call may be made again.
        """
        pairs = [part for pair in fields.items() for part in pair]
        state, position = cast(
            "tuple[int, bytes]",
            self._queries.eval(
                _APPEND,
                len(names),
                *(f"{_PUBLISHED}{name}" for name in names),
                self._stream,
                digest,
                _REMEMBERED_SECONDS,
                _KEPT_ENTRIES,
                *pairs,
            ),
        )
        if state < 0:
            raise EventIdReused("Use a new id and key for a new event.")
        return state > 0, position.decode()

    def close(self) -> None:
        """Close every connection; a later call opens them again."""
        self._tail.close()
        self._queries.connection_pool.disconnect()

    def _bounds(self) -> tuple[StreamId, StreamId, bool]:
        """Return the id after which all is there, the newest, and if none was deleted.

        :raises redis.RedisError: Redis does not answer.
        """
        try:
            told = cast("dict[Any, Any]", self._queries.xinfo_stream(self._stream))
        except redis.ResponseError as error:
            if "no such key" not in str(error):
                raise
            # Nobody has ever published: everything is still to come.
            return (0, 0), (0, 0), True
        last = wire.parse_id(told["last-generated-id"])
        oldest = told["first-entry"]
        edge = wire.before(wire.parse_id(oldest[0])) if oldest else last
        # Older servers do not count what was ever added: then something may be gone.
        return edge, last, told.get("entries-added") == told["length"]


class Journaled(EventLog):
    """The platform's event stream where it is no part of Redis.

    An id is when the stream began, and a place in it: a stream that begins anew has others.
    """

    def __init__(self, url: str, journal: buses.Journal) -> None:
        super().__init__(url, "")
        self._journal = journal

    def place(self, after: StreamId) -> StreamId:
        """Return an id that a client has come back with, `FOREIGN` if it is not ours."""
        return after if after[0] == self._journal.origin else wire.FOREIGN

    def newest(self, max_events: int, max_bytes: int) -> tuple[StreamId, Batch]:
        """Return the newest entries, and the id after which nothing is missing in them.

        :raises buses.BusAway: the bus does not answer.
        """
        floor, rows = self._journal.newest(max_events, max_bytes)
        return self._id(floor), self._batch(rows, self._id(self._journal.last))

    def follow(self, after: StreamId) -> Batch:
        """Return the entries after an id; waits for the next one when there is none.

        :raises buses.BusAway: the bus does not answer.
        """
        return self._batch(self._journal.follow(after[1]), after)

    def page(self, after: StreamId) -> Batch:
        """Return some of the entries after an id, none where `follow` has not been.

        :raises buses.BusAway: the bus does not answer.
        """
        if after == wire.FOREIGN:
            return Batch([], after, 0)
        rows, missing = self._journal.page(after[1])
        if missing is not None:
            return Batch([], after, 0, missing_until=self._id(missing))
        return self._batch(rows, after)

    def append(
        self, fields: Mapping[str, Any], *, names: Sequence[str], digest: str
    ) -> tuple[bool, str]:
        """Add an entry unless that was done before; say if it was added, and its id.

        What was done before stands in Redis. Should this process die in between, the
        entry is added once more, with the same event's id.

        :raises EventIdReused: something else was added under one of the names.
        :raises Unavailable: the same is being added at the moment.
        :raises buses.BusAway: nobody knows; the same call may be made again.
        :raises redis.RedisError: likewise.
        """
        keys = [f"{_PUBLISHED}{name}" for name in names]
        with self._alone(keys):
            for known in cast("list[bytes | None]", self._queries.mget(keys)):
                if known:
                    was, _, position = known.decode().partition(" ")
                    if was != digest:
                        raise EventIdReused("Use a new id and key for a new event.")
                    return False, position
            position = wire.format_id(self._id(self._journal.append(fields))).decode()
            for key in keys:
                self._queries.set(key, f"{digest} {position}", ex=_REMEMBERED_SECONDS)
        return True, position

    def close(self) -> None:
        """Close every connection; a later call opens them again."""
        super().close()
        self._journal.close()

    @contextmanager
    def _alone(self, keys: Sequence[str]) -> Iterator[None]:
        # All of them or none, so that no two wait for each other.
        locks = dict.fromkeys((f"{key}:now" for key in keys), "1")
        if not self._queries.msetnx(locks):
            raise Unavailable("Send it again in a second.", retry_after_seconds=1)
        try:
            for lock in locks:
                # For who is killed before the end.
                self._queries.expire(lock, _ALONE_SECONDS)
            yield
        finally:
            self._queries.delete(*locks)

    def _id(self, offset: int) -> StreamId:
        return self._journal.origin, offset

    def _batch(self, rows: Sequence[buses.Row], last: StreamId) -> Batch:
        found = []
        marks = 0
        for row in rows:
            identity = wire.format_id(self._id(row.offset))
            if entry := _event(identity, row.fields, row.at):
                found.append(entry)
            elif not row.is_event:
                marks += 1
        if rows:
            last = self._id(rows[-1].offset)
        at = rows[-1].at if rows else 0.0
        return Batch(found, last, len(rows), at=at, marks=marks)


def _rows(reply: object) -> list[Row]:
    return cast("list[Row]", reply or [])


def _tail_rows(reply: Any) -> list[Row]:  # noqa: ANN401 (three shapes, told apart here)
    """Return the entries in an answer to XREAD for one stream.

    RESP2 answers a list of pairs; RESP3 answers a map, whose value is the list of
    entries or, from redis-py 8 on, a list of such lists.
    """
    if not reply:
        return []
    rows = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
    if rows and isinstance(rows[0], list):
        return [row for part in rows for row in part]
    return cast("list[Row]", rows)


def _batch(rows: list[Row], after: StreamId) -> Batch:
    last = wire.parse_id(rows[-1][0]) if rows else after
    return Batch(_entries(rows), last, len(rows), at=last[0] / 1000)


def _entries(rows: list[Row]) -> list[Entry]:
    """Return the entries that have every field that delivery needs."""
    return [
        entry
        for identity, fields in rows
        if (entry := _event(identity, fields, wire.parse_id(identity)[0] / 1000))
    ]


def _event(identity: bytes, fields: Mapping[bytes, bytes], at: float) -> Entry | None:
    kind, body = fields.get(b"type"), fields.get(b"event")
    topics = tuple(fields.get(b"topics", b"").split())
    if not kind or not body or not topics or kind.split()[1:]:
        return None
    type_, subject = kind.strip(), fields.get(b"subject")
    return Entry(
        wire.parse_id(identity),
        _with_subtrees(topics),
        wire.event(identity, type_, body),
        fields.get(b"traceparent", b""),
        type_,
        # A number instead of three texts, for each of thousands of entries.
        hash((type_, subject, topics)) if subject else None,
        at,
        _seconds(fields.get(b"time", b"")),
    )


def _seconds(moment: bytes) -> float:
    """Return a time of RFC 3339 in seconds since the epoch, 0.0 if it is none."""
    try:
        return datetime.fromisoformat(moment.decode()).timestamp()
    except ValueError:
        return 0.0


def _with_subtrees(topics: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return topics and the patterns they fall under: `a/b/c` is in `a/*` and `a/b/*`.

    So a pattern is found like any topic, and costs no more than one.
    """
    found = dict.fromkeys(topics)
    for topic in topics:
        parent = topic.rpartition(b"/")[0]
        while parent:
            found[parent + b"/*"] = None
            parent = parent.rpartition(b"/")[0]
    return tuple(found)
