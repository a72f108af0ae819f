"""The newest events of the platform, encoded once and kept for clients behind."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from .wire import StreamId

Found = list[tuple[int, "Entry"]]
"""Entries with their positions, oldest first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, ready to be written to any client."""

    id: StreamId
    topics: tuple[bytes, ...]
    payload: bytes
    """The event as server-sent bytes."""
    traceparent: bytes = b""
    """The W3C trace context it was made in; empty when there is none."""
    type: bytes = b""
    """The CloudEvents type."""
    about: int | None = None
    """The same for events of one type about one subject in the same topics: a later one
    makes those before it old. None: nobody can tell."""
    at: float = 0.0
    """When it entered the stream, in seconds since the epoch."""
    made_at: float = 0.0
    """When it happened, in seconds since the epoch; 0.0 where no service of ours says."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a stream asks for: entries that have one of the topics and one of the types."""

    topics: frozenset[bytes]
    """Topics of the event stream; `<topic>/*` is all that is below one."""
    types: frozenset[bytes] = frozenset()
    """Types; with no prefixes either, every type is wanted."""
    prefixes: tuple[bytes, ...] = ()
    """Beginnings of types."""

    def wants(self, entry: Entry) -> bool:
        """Say whether an entry is part of the stream."""
        return not self.topics.isdisjoint(entry.topics) and self.wants_type(entry.type)

    def wants_type(self, type_: bytes) -> bool:
        """Say whether events of a type are part of the stream, in the right topic."""
        if not self.types and not self.prefixes:
            return True
        return type_ in self.types or type_.startswith(self.prefixes)


class FellBehind(Exception):
    """The position is older than everything that is kept."""


class Ring:
    """A bounded run of entries without holes, each at a position that never changes.

    Positions count from zero at the start of the process; ids are the bus'. Safe to use
    from several threads. `changed` is notified whenever entries come.

    :param capacity: most entries.
    :param max_bytes: most bytes of payload; the newest entry stays, however large.
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.changed = threading.Condition()
        self.first = 0
        """Position of the oldest entry."""
        self.end = 0
        """Position that the next entry will have."""
        self.last: StreamId = (0, 0)
        """Id up to which the stream has been read."""
        self.bytes = 0
        self.floor: StreamId = (0, 0)
        """Id after which nothing is missing here."""
        self._newest: dict[int, int] = {}
        """Position of the newest entry about something."""
        self._max_bytes = max_bytes
        # Not a deque, which walks to the middle: clients read everywhere in here.
        self._slots: list[Entry | None] = [None] * capacity

    def start_at(self, floor: StreamId) -> None:
        """Say that entries up to this id are not kept here and all later ones will be."""
        with self.changed:
            self.floor = self.last = floor

    def extend(self, entries: Iterable[Entry], last: StreamId) -> int:
        """Add entries, drop the oldest over the bounds, and return the first's position.

        :param entries: in the order of their ids, all newer than what is here; where
            there are more than fit, the first of them are gone at once.
        :param last: id up to which the stream has been read; entries that could not be
            understood count too.
        """
        with self.changed:
            start = self.end
            for entry in entries:
                if self.end - self.first == len(self._slots):
                    self._drop_oldest()
                self._slots[self.end % len(self._slots)] = entry
                if entry.about is not None:
                    self._newest[entry.about] = self.end
                self.end += 1
                self.bytes += len(entry.payload)
            while self.bytes > self._max_bytes and self.end - self.first > 1:
                self._drop_oldest()
            self.last = last
            self.changed.notify_all()
            return start

    def seek(self, stream_id: StreamId) -> int | None:
        """Return the position right after this id, None when that is kept no longer.

        An id that is newer than everything here stands right before the next entry.
        """
        with self.changed:
            if stream_id < self.floor:
                return None
            low, high = self.first, self.end
            while low < high:
                middle = (low + high) // 2
                if self._at(middle).id <= stream_id:
                    low = middle + 1
                else:
                    high = middle
            return low

    def read(
        self,
        cursor: int,
        interest: Interest,
        *,
        after: StreamId = (0, 0),
        newest_from: int | None = None,
        max_bytes: int = 128 * 1024,
        max_events: int = 256,
    ) -> tuple[Found, int]:
        """Return entries from a position on, and the position to go on from.

        :param interest: entries that are no part of it are left out.
        :param after: entries up to this id are left out too.
        :param newest_from: from this position on, entries that a later one makes old are
            left out as well; the later one comes in their stead.
        :param max_bytes: stop once there are so many; at least one entry is returned.
        :raises FellBehind: entries from this position on are no longer here.
        """
        with self.changed:
            if cursor < self.first:
                raise FellBehind
            found: Found = []
            size = 0
            while cursor < self.end and size < max_bytes and len(found) < max_events:
                entry = self._at(cursor)
                old = (
                    newest_from is not None
                    and cursor >= newest_from
                    and entry.about is not None
                    and self._newest[entry.about] != cursor
                )
                if not old and entry.id > after and interest.wants(entry):
                    found.append((cursor, entry))
                    size += len(entry.payload)
                cursor += 1
            return found, cursor

    def count(self, first: int, end: int, interest: Interest, after: StreamId) -> int:
        """Return how many entries between two positions `read` may give, old or not."""
        with self.changed:
            return sum(
                entry.id > after and interest.wants(entry)
                for entry in map(self._at, range(first, end))
            )

    def _at(self, position: int) -> Entry:
        entry = self._slots[position % len(self._slots)]
        assert entry is not None  # noqa: S101 (positions from first to end are filled)
        return entry

    def _drop_oldest(self) -> None:
        slot = self.first % len(self._slots)
        entry = self._at(self.first)
        self._slots[slot] = None
        if entry.about is not None and self._newest[entry.about] == self.first:
            del self._newest[entry.about]
        self.first += 1
        self.bytes -= len(entry.payload)
        self.floor = entry.id
