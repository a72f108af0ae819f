"""Who follows which topics, and how many streams one process and one caller may have."""

import collections
import random
import threading
import time
from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from flagon_chassis.errors import Throttled, Unavailable

from . import telemetry
from .ring import Interest
from .wire import StreamId


class ProcessFull(Unavailable):
    """This process serves as many streams as it can."""


class TooManyStreams(Throttled):
    """The caller has too many streams open."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The token that a stream was opened with, as far as it can end."""

    sub: str
    jti: str
    sid: str | None
    gid: str | None
    kid: str
    issued_at: int
    """Seconds since the epoch."""
    expires_at: int
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a caller was let in for."""

    interest: Interest
    """What the stream is about."""
    holder: str
    """The account or the address whose streams are counted together."""
    limit: int
    """Most streams of that holder in this process."""
    grant: Grant | None = None
    """None for a stranger, who follows open topics alone."""
    after: StreamId | None = None
    """Id of the event that the client saw last; None: it starts now."""
    snapshot: bool = False
    """Whether the client is first told the newest of what is kept, and that that was it."""
    latest: bool = False
    """Whether the client, once it is behind, is spared what a later event makes old."""


class Subscriber:
    """One open stream, whichever way its bytes travel."""

    __slots__ = ("opened_at", "rotate_at", "ticket")

    def __init__(self, ticket: Ticket, rotate_seconds: float) -> None:
        self.ticket = ticket
        self.opened_at = time.monotonic()
        # A fifth more or less: streams that came together must not go together.
        self.rotate_at = self.opened_at + rotate_seconds * random.uniform(0.8, 1.2)  # noqa: S311

    def tell(self, text: str) -> None:
        """Send a comment, unless the client is behind and would not read it in time."""
        raise NotImplementedError

    def end(self, reason: str, retry_milliseconds: int | None = None) -> None:
        """Close the stream and, where the client still reads, tell it why.

        :param retry_milliseconds: when the client may come back.
        """
        raise NotImplementedError

    def check_stall(self, now: float) -> None:
        """Break the connection if its client has taken nothing for too long.

        :param now: what `time.monotonic` says. The hub looks after its own clients.
        """


class Roster:
    """The open streams of one process.

    :param capacity: most streams.
    :param open_now: tells how many there are.
    :param refused: counts those that there was no room for.
    """

    def __init__(
        self,
        capacity: int,
        open_now: Gauge = telemetry.CONNECTIONS,
        refused: Counter = telemetry.REFUSED,
    ) -> None:
        self._capacity = capacity
        self._open_now = open_now
        self._refused = refused
        self._open: set[Subscriber] = set()
        self._held: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Say whether there is room for nobody else."""
        return len(self._open) >= self._capacity

    def check(self, ticket: Ticket) -> None:
        """Make sure that one more stream for this ticket is within the limits.

        :raises ProcessFull: the process has no room.
        :raises TooManyStreams: the holder has as many streams as it may.
        """
        if self.full:
            self._refused.labels("full").inc()
            raise ProcessFull("Try again in a few seconds.", retry_after_seconds=2)
        if self._held[ticket.holder] >= ticket.limit:
            self._refused.labels("holder").inc()
            raise TooManyStreams(
                f"At most {ticket.limit} streams may be open at once.",
                retry_after_seconds=10,
                limit=ticket.limit,
            )

    def enter(self, subscriber: Subscriber) -> None:
        """Count a stream that has just been opened."""
        with self._lock:
            self._open.add(subscriber)
            self._held[subscriber.ticket.holder] += 1
        self._open_now.inc()

    def leave(self, subscriber: Subscriber) -> None:
        """Count a stream no longer; safe to call twice."""
        with self._lock:
            if subscriber not in self._open:
                return
            self._open.remove(subscriber)
            holder = subscriber.ticket.holder
            self._held[holder] -= 1
            # Else every address that ever came would be remembered.
            if not self._held[holder]:
                del self._held[holder]
        self._open_now.dec()

    def everyone(self) -> list[Subscriber]:
        """Return the streams that are open right now."""
        with self._lock:
            return list(self._open)
