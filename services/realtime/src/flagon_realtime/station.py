"""What one process needs to send events, put together and started once."""

import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask
from prometheus_client import Counter

from flagon_chassis import health
from flagon_chassis.auth import Caller
from flagon_chassis.errors import Unavailable

from . import clients, presence, telemetry
from .hub import Hub
from .reader import Reader
from .ring import Entry, Ring
from .rooms import Rooms
from .roster import Roster, Subscriber, Ticket
from .settings import Settings
from .source import Source
from .stream import StreamResponse
from .telemetry import Deliveries
from .warden import Warden

if TYPE_CHECKING:
    from .people import Names
    from .sockets import Sockets

log = structlog.get_logger()

_DRAIN_SLICES = 20
_SPARE_FILES = 100
"""Open files that a process needs besides its streams."""
_SOCKETS_PART = 8
"""One of so many files may be a WebSocket."""


class NotReadyYet(Unavailable):
    """This process does not know yet where the event stream is."""


class Closing(Unavailable):
    """This process is about to stop."""


class Station:
    """The events of the platform, on their way to the clients of one process."""

    def __init__(self, settings: Settings, app: Flask) -> None:
        self._app = app
        self.source = Source(
            ring=Ring(settings.ring_events, settings.ring_bytes),
            event_log=clients.event_log(settings),
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
        # Files are the streams' and the WebSockets'.
        self._peers = Roster(
            min(settings.sockets_max, _files() // _SOCKETS_PART),
            telemetry.SOCKETS,
            telemetry.SOCKETS_REFUSED,
        )
        self.rooms = Rooms(
            settings.redis_cache_url.get_secret_value(),
            entry_seconds=settings.presence_seconds,
            lock_seconds=settings.lock_seconds,
        )
        self._settings = settings
        self._sockets: Sockets | None = None
        self._names: Names | None = None
        self._building = threading.Lock()
        self._wardens = [
            Warden(roster, self.source.event_log)
            for roster in (self._roster, self._peers)
        ]
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
        self._check_open(telemetry.REFUSED)
        if not self._reader.ready.is_set():
            telemetry.REFUSED.labels("not-ready").inc()
            raise NotReadyYet("Try again in a second.", retry_after_seconds=1)
        self._roster.check(ticket)
        if ticket.after is not None:
            after = self.source.event_log.place(ticket.after)
            ticket = replace(ticket, after=after)
        return StreamResponse(self.source, ticket, self._hub)

    def check_socket(self, ticket: Ticket) -> None:
        """Make sure that one more WebSocket is within the limits.

        :raises Closing: the process has been told to stop.
        :raises roster.ProcessFull: there is no room for one more.
        :raises roster.TooManyStreams: the holder has as many as it may.
        """
        self.start()
        self._check_open(telemetry.SOCKETS_REFUSED)
        self._peers.check(ticket)

    def take_socket(
        self,
        environ: dict[str, Any],
        ticket: Ticket,
        caller: Caller | None,
        key: str,
        request_id: str,
    ) -> None:
        """Take the connection of a request, and go on with it as a WebSocket.

        :param environ: of the request, whose server lets go of the connection.
        """
        from .sockets import Visitor  # noqa: PLC0415 (as `_build_sockets` says)

        sockets = self._build_sockets()
        scopes = caller.scopes if caller else frozenset[str]()
        named = not scopes.isdisjoint(presence.NAMED.values())
        visitor = Visitor(
            account=caller.sub if caller else None,
            scopes=scopes,
            name=self._names.find(caller) if caller and named and self._names else None,
        )
        connection = environ["gunicorn.socket"]
        sock = socket.socket(fileno=connection.detach())
        sockets.take(sock, ticket, visitor, key=key, request_id=request_id)

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
        everyone = self._everyone()
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

    def _check_open(self, refused: Counter) -> None:
        if self._closing or health.draining():
            refused.labels("closing").inc()
            raise Closing("Connect again at once.", retry_after_seconds=1)

    def _everyone(self) -> list[Subscriber]:
        return self._roster.everyone() + self._peers.everyone()

    def _build_sockets(self) -> "Sockets":
        """Return what serves WebSockets, made for the first of them.

        The library takes 10 MB, which a process without WebSockets need not have.
        """
        from .people import Names  # noqa: PLC0415 (10 MB, as this says)
        from .sockets import Sockets  # noqa: PLC0415 (10 MB, as this says)

        with self._building:
            if self._sockets is None:
                self._names = Names(self._settings)
                self._sockets = Sockets(
                    self._app, self._settings, self._peers, self.rooms
                )
        return self._sockets

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
            for warden in self._wardens:
                warden.look(time.time(), now)
            for subscriber in self._everyone():
                subscriber.check_stall(now)


def _files() -> int:
    """Return how many files the process may have open, after asking for as many as may be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _stop_process() -> None:
    """Let the process end as if it was told to, so that its server starts another."""
    os.kill(os.getpid(), signal.SIGTERM)
