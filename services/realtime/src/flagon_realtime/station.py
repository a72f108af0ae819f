"""What one process needs to send events, put together and started once."""

import os
import random
import resource
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from flagon_chassis import health
from flagon_chassis.errors import Unavailable

from . import telemetry
from .clients import EventLog
from .hub import Hub
from .reader import Reader
from .ring import Entry, Ring
from .roster import Roster, Ticket
from .settings import Settings
from .source import Source
from .stream import StreamResponse
from .telemetry import Deliveries
from .warden import Warden

log = structlog.get_logger()

_DRAIN_SLICES = 20
_SPARE_FILES = 100
"""Open files that a process needs besides its streams."""


class NotReadyYet(Unavailable):
    """This process does not know yet where the event stream is."""


class Closing(Unavailable):
    """This process is about to stop."""


class Station:
    """The events of the platform, on their way to the clients of one process."""

    def __init__(self, settings: Settings) -> None:
        self.source = Source(
            ring=Ring(settings.ring_events, settings.ring_bytes),
            event_log=EventLog(
                settings.redis_store_url.get_secret_value(), settings.stream
            ),
            roster=Roster(min(settings.connections_max, _files() - _SPARE_FILES)),
            deliveries=Deliveries(settings.delivery_spans_per_second),
            retry_milliseconds=settings.retry_milliseconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=settings.stall_seconds,
            rotate_seconds=settings.rotate_seconds,
            replay_events=settings.replay_events,
        )
        self._roster = self.source.roster
        self._hub: Hub | None = None
        self._reader = Reader(
            self.source.event_log,
            self.source.ring,
            max_events=settings.ring_events,
            max_bytes=settings.ring_bytes,
            on_entries=self._publish,
            on_outage=self._tell_outage,
            on_crash=_stop_process,
        )
        self._warden = Warden(self._roster, self.source.event_log)
        self._check_seconds = settings.check_seconds
        self._close_seconds = settings.close_seconds
        self._started = threading.Lock()
        self._stopping = threading.Event()
        self._closing = False

    def start(self, *, hands_over: bool = False) -> None:
        """Begin to read and to serve; further calls do nothing.

        Never before a fork: threads do not survive it.

        :param hands_over: whether the server lets go of its sockets.
        """
        if not self._started.acquire(blocking=False):
            return
        if hands_over:
            self._hub = Hub(self.source)
            self._hub.start()
        self._reader.start()
        threading.Thread(target=self._watch, name="warden", daemon=True).start()

    def open(self, ticket: Ticket) -> StreamResponse:
        """Return the response that is the stream for this ticket.

        :raises NotReadyYet: an event could be missed now.
        :raises Closing: the process has been told to stop.
        :raises roster.ProcessFull: there is no room for one more.
        :raises roster.TooManyStreams: the holder has as many as it may.
        """
        self.start()
        if self._closing or health.draining():
            telemetry.REFUSED.labels("closing").inc()
            raise Closing("Connect again at once.", retry_after_seconds=1)
        if not self._reader.ready.is_set():
            telemetry.REFUSED.labels("not-ready").inc()
            raise NotReadyYet("Try again in a second.", retry_after_seconds=1)
        self._roster.check(ticket)
        return StreamResponse(self.source, ticket, self._hub)

    def append(
        self, fields: Mapping[str, Any], *, names: Sequence[str], digest: str
    ) -> tuple[bool, str]:
        """Add an entry to the stream; see `EventLog.append`."""
        return self.source.event_log.append(fields, names=names, digest=digest)

    def check_reader(self) -> None:
        """Raise when events do not come in."""
        self.start()
        if not self._reader.connected:
            raise ConnectionError

    def check_room(self) -> None:
        """Raise when no more clients can be served."""
        if self._roster.full:
            raise BlockingIOError

    def close(self) -> None:
        """End every stream in slices, each client with its own time to come back."""
        self._closing = True
        everyone = self._roster.everyone()
        log.info("draining", streams=len(everyone))
        size = max(1, -(-len(everyone) // _DRAIN_SLICES))
        for start in range(0, len(everyone), size):
            for subscriber in everyone[start : start + size]:
                # All at once would meet the next process in one wave.
                subscriber.end("restart", random.randint(100, 3000))  # noqa: S311
            time.sleep(self._close_seconds / _DRAIN_SLICES)

    def stop(self) -> None:
        """Read and check no more; for tests, which make several in one process."""
        self._stopping.set()
        self._reader.stop()

    def _publish(self, start: int, entries: list[Entry]) -> None:
        # Generators look into the ring themselves.
        if self._hub is not None:
            self._hub.publish(start, entries)

    def _tell_outage(self, away: bool) -> None:
        text = "events are late" if away else "events come again"
        for subscriber in self._roster.everyone():
            subscriber.tell(text)

    def _watch(self) -> None:
        while not self._stopping.wait(self._check_seconds):
            self._reader.measure()
            now = time.monotonic()
            self._warden.look(time.time(), now)
            for subscriber in self._roster.everyone():
                subscriber.check_stall(now)


def _files() -> int:
    """Return how many files the process may have open, after asking for as many as may be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _stop_process() -> None:
    """Let the process end as if it was told to, so that its server starts another."""
    os.kill(os.getpid(), signal.SIGTERM)
