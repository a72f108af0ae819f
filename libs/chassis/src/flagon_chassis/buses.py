"""What differs between the buses that events travel on: which one, and Redis.

Redis is the default; the scheme of `*_EVENT_BUS_URL` says which one it is. Of RabbitMQ is
`rabbitmq`, which is loaded where it is used alone.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from . import streams
from .settings import EventSettings
from .streams import Entry

_KEPT_MILLISECONDS = 24 * 3600 * 1000
_FORGOTTEN_CONSUMER_SECONDS = 3600
_DEAD_ENTRIES = 10_000
_BLOCK_SECONDS = 1.0


class BusAway(OSError):
    """RabbitMQ does not answer, or does not take what it is given."""


AWAY = (redis.RedisError, BusAway)
"""What is raised when a bus cannot be used at the moment."""


class Sender(Protocol):
    """What the relay needs to know of its bus."""

    name: str
    """As readiness, logs and traces call it."""

    def send(self, entries: Mapping[int, Mapping[Any, Any]]) -> None:
        """Return when the bus has these entries, in this order and after all before.

        :param entries: of `streams.encode`, by numbers that grow.
        :raises AWAY: nobody knows how many it has.
        """
        ...

    def beginning(self) -> float:
        """Return since when no event is missing there, in seconds since the epoch.

        Zero where none is but those that were let go, infinity where there is none.

        :raises AWAY: the bus does not answer.
        """
        ...

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        ...


class Group(Protocol):
    """What one member of a consumer group needs to know of its bus.

    Everything raises `AWAY`; then `join` comes first again.
    """

    name: str
    """As readiness, logs and traces call it."""
    spare: int
    """Deliveries that are no sign of a crash: the first one, and others where the bus
    counts connections that broke."""

    def join(self) -> None:
        """Become a member; safe to repeat."""
        ...

    def begun(self) -> Iterator[tuple[Entry, int]]:
        """Yield what was delivered before, one by one, each with how often it was.

        Should one of them kill the process, its own count alone grows.
        """
        ...

    def left(self) -> Iterator[tuple[Entry, int]]:
        """Yield in the same way what members have left that are gone."""
        ...

    def take(self, most: int) -> list[Entry]:
        """Return the next entries; wait up to a second for the first."""
        ...

    def done(self, entry_ids: Sequence[str]) -> None:
        """Let entries be delivered no more."""
        ...

    def bury(self, entry_id: str, fields: Mapping[Any, Any]) -> None:
        """Keep this among the dead, and let the entry be delivered no more."""
        ...

    def rest(self) -> None:
        """Say that this member lives; call it every few seconds where `take` is not."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True)
class Row:
    """One entry of a journal."""

    offset: int
    """Its place; they grow, and some are left out."""
    fields: dict[bytes, bytes]

    @property
    def is_event(self) -> bool:
        """Whether it is more than a reader's mark."""
        return b"id" in self.fields

    @property
    def at(self) -> float:
        """When it was sent, in seconds since the epoch."""
        return int(self.fields[b"at"]) / 1e6


class Journal(Protocol):
    """The events in one order, as one process follows them and reads them again."""

    origin: int
    """When it began, in microseconds since the epoch; 0: not known yet."""
    last: int
    """Offset of the last entry that was read."""

    def newest(self, most: int, max_bytes: int) -> tuple[int, Sequence[Row]]:
        """Return the newest entries, and the offset after which none is missing in them.

        :raises BusAway: the bus does not answer.
        """
        ...

    def follow(self, after: int) -> Sequence[Row]:
        """Return the entries after an offset; wait for the next when there is none.

        :raises BusAway: the bus does not answer.
        """
        ...

    def page(self, after: int) -> tuple[Sequence[Row], int | None]:
        """Return some entries after an offset, as far as `follow` has come.

        :returns: the entries, or, where some are gone, the offset of the last of those.
        :raises BusAway: the bus does not answer.
        """
        ...

    def append(self, fields: Mapping[str, Any]) -> int:
        """Add an event and return its offset.

        :raises BusAway: nobody knows whether it was added.
        """
        ...

    def close(self) -> None:
        """Close every connection; a later call opens them again."""
        ...


def url(settings: EventSettings) -> str:
    """Return where events travel."""
    own = settings.event_bus_url.get_secret_value()
    return own or settings.redis_store_url.get_secret_value()


def sender(settings: EventSettings, kept_entries: int, kept_bytes: int) -> Sender:
    """Return what hands events to the bus.

    :param kept_entries: most that the bus keeps, where the sender decides.
    :param kept_bytes: most memory that they take, likewise.
    """
    if settings.event_bus == "redis":
        return RedisSender(url(settings), kept_entries, kept_bytes)
    from . import rabbitmq  # noqa: PLC0415 (memory, as said above)

    return rabbitmq.Sender(url(settings))


def group(
    settings: EventSettings, name: str, member: str, claim_seconds: float
) -> Group:
    """Return a member of a consumer group.

    :param claim_seconds: after which it takes over what another has not handled, where
        the bus does not know that the other is gone.
    """
    if settings.event_bus == "redis":
        return RedisGroup(url(settings), name, member, claim_seconds)
    from . import rabbitmq  # noqa: PLC0415 (memory, as said above)

    return rabbitmq.Group(url(settings), name)


def journal(settings: EventSettings) -> Journal | None:
    """Return the journal of events, None where it is a stream in Redis."""
    if settings.event_bus == "redis":
        return None
    from . import rabbitmq  # noqa: PLC0415 (memory, as said above)

    return rabbitmq.Journal(url(settings))


def dead(settings: EventSettings) -> Iterator[dict[bytes, bytes]]:
    """Yield the events that consumer groups failed at, each with its error, oldest first.

    :raises AWAY: the bus does not answer.
    """
    if settings.event_bus == "redis":
        with streams.connect(url(settings)) as client:
            yield from dict(streams.flat(client.xrange(streams.DEAD))).values()
        return
    from . import rabbitmq  # noqa: PLC0415 (memory, as said above)

    yield from rabbitmq.dead(url(settings))


class RedisSender:
    """Adds to the stream, and keeps it within its bounds."""

    name = "redis"

    def __init__(self, address: str, kept_entries: int, kept_bytes: int) -> None:
        self._redis = streams.connect(address)
        self._kept = (kept_entries, kept_bytes)
        self._mean_bytes = 1024.0

    def send(self, entries: Mapping[int, Mapping[Any, Any]]) -> None:
        """Add all or none."""
        oldest = int(time.time() * 1000) - _KEPT_MILLISECONDS
        # A moving average: what the stream holds resembles what was sent lately.
        mean = sum(len(entry["event"]) for entry in entries.values()) / len(entries)
        self._mean_bytes += (mean - self._mean_bytes) / 10
        kept = min(self._kept[0], int(self._kept[1] / self._mean_bytes))
        # With single commands Redis could refuse one for want of memory and take the next,
        # which would change the order.
        with self._redis.pipeline(transaction=True) as pipeline:
            for number, entry in entries.items():
                # `XADD` trims by number or by age, not by both: every sixteenth entry
                # keeps the number in bounds.
                by_age = number % 16 != 0
                pipeline.xadd(
                    streams.EVENTS,
                    dict(entry),
                    approximate=True,
                    maxlen=None if by_age else kept,
                    minid=f"{oldest}-0" if by_age else None,
                )
            pipeline.execute()

    def beginning(self) -> float:
        """Ask the stream, which may have been emptied."""
        return streams.beginning(self._redis)

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._redis.close()


class RedisGroup:
    """A consumer group of the stream."""

    name = "redis"
    spare = 1

    def __init__(
        self, address: str, group: str, member: str, claim_seconds: float
    ) -> None:
        self._redis = streams.connect(address, block_seconds=_BLOCK_SECONDS)
        self._group = group
        self._member = member
        self._claim_milliseconds = int(claim_seconds * 1000)

    def join(self) -> None:
        """Make the group if there is none."""
        try:
            # From the start of the stream: a new group sees what is still kept.
            self._redis.xgroup_create(streams.EVENTS, self._group, "0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def begun(self) -> Iterator[tuple[Entry, int]]:
        """Yield what a consumer of this name had begun before it ended."""
        after = "0-0"
        while True:
            reply = self._redis.xreadgroup(
                self._group, self._member, {streams.EVENTS: after}, count=1
            )
            found = list(streams.entries(reply))
            if not found:
                return
            after = found[0][0]
            yield found[0], self._delivered(after)

    def left(self) -> Iterator[tuple[Entry, int]]:
        """Yield what nobody has answered for in too long a time."""
        after = "0-0"
        while True:
            reply: Any = self._redis.xautoclaim(
                streams.EVENTS,
                self._group,
                self._member,
                self._claim_milliseconds,
                after,
                count=1,
            )
            for entry in streams.flat(reply[1]):
                yield entry, self._delivered(entry[0])
            after = reply[0].decode()
            if after == "0-0":
                break
        self._forget_members()

    def take(self, most: int) -> list[Entry]:
        """Read what nobody of the group has got yet."""
        reply = self._redis.xreadgroup(
            self._group,
            self._member,
            {streams.EVENTS: ">"},
            count=most,
            block=int(_BLOCK_SECONDS * 1000),
        )
        return list(streams.entries(reply))

    def done(self, entry_ids: Sequence[str]) -> None:
        """Acknowledge entries."""
        self._redis.xack(streams.EVENTS, self._group, *entry_ids)

    def bury(self, entry_id: str, fields: Mapping[Any, Any]) -> None:
        """Both or none."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(
                streams.DEAD, dict(fields), maxlen=_DEAD_ENTRIES, approximate=True
            )
            pipeline.xack(streams.EVENTS, self._group, entry_id)
            pipeline.execute()

    def rest(self) -> None:
        """Do nothing: Redis asks nobody whether he lives."""

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _delivered(self, entry_id: str) -> int:
        pending: Any = self._redis.xpending_range(
            streams.EVENTS, self._group, entry_id, entry_id, 1
        )
        return int(pending[0]["times_delivered"]) if pending else 1

    def _forget_members(self) -> None:
        # Containers have a new name at each start; the old ones would pile up.
        members: Any = self._redis.xinfo_consumers(streams.EVENTS, self._group)
        for member in members:
            idle = member["idle"] / 1000 > _FORGOTTEN_CONSUMER_SECONDS
            if idle and not member["pending"]:
                self._redis.xgroup_delconsumer(
                    streams.EVENTS, self._group, member["name"]
                )
