"""The one reader of a process: from the event stream into the ring, for ever."""

import threading
import time
from collections.abc import Callable

import redis
import structlog

from . import telemetry
from .clients import EventLog
from .ring import Entry, Ring

log = structlog.get_logger()

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Reader:
    """Follows the event stream and survives everything that the bus does.

    It keeps its place, so that after any outage it goes on with the very next event.

    :param on_entries: called once new entries are in the ring, with the position of the
        first and the entries.
    :param on_outage: called with True when the bus went away and with False when it is
        back.
    :param on_crash: called when the reader ends by an error that it does not know.
    """

    def __init__(
        self,
        event_log: EventLog,
        ring: Ring,
        *,
        max_events: int,
        max_bytes: int,
        on_entries: Callable[[int, list[Entry]], None],
        on_outage: Callable[[bool], None],
        on_crash: Callable[[], None],
    ) -> None:
        self.ready = threading.Event()
        """Set once the position is known: before that, a client could miss events."""
        self.connected = False
        """Whether the bus answered the last time it was asked."""
        self._log = event_log
        self._ring = ring
        self._bounds = (max_events, max_bytes)
        self._on_entries = on_entries
        self._on_outage = on_outage
        self._on_crash = on_crash
        self._stopping = threading.Event()
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        """Begin to read; call it once."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more; the read under way ends by itself."""
        self._stopping.set()

    def measure(self) -> None:
        """Let the lag grow while the bus does not answer; call it every second or so."""
        if not self.connected:
            telemetry.READER_LAG.set(time.monotonic() - self._answered_at)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                self._step()
                pause = _FIRST_PAUSE
            except (redis.RedisError, OSError) as error:
                self._lost(error)
                self._stopping.wait(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
            # Raised again: a process whose reader is dead looks well and tells nobody
            # anything, so it has to end.
            except Exception:
                log.exception("reader_crashed")
                self._on_crash()
                raise
        self._log.close()

    def _step(self) -> None:
        if not self.ready.is_set():
            self._begin()
        batch = self._log.follow(self._ring.last)
        self._found()
        if not batch.scanned:
            telemetry.READER_LAG.set(0)
            return
        telemetry.READER_LAG.set(max(0.0, time.time() - batch.at))
        if batch.malformed:
            telemetry.MALFORMED.inc(batch.malformed)
            log.warning("entries_malformed", count=batch.malformed)
        first = self._ring.extend(batch.entries, batch.last)
        if batch.entries:
            self._on_entries(first, batch.entries)

    def _begin(self) -> None:
        # The newest events are loaded too: after a restart everybody comes back at once
        # and is served from memory.
        floor, batch = self._log.newest(*self._bounds)
        self._ring.start_at(floor)
        self._ring.extend(batch.entries, batch.last)
        self.connected = True
        self.ready.set()
        log.info("reader_started", entries=len(batch.entries))

    def _found(self) -> None:
        self._answered_at = time.monotonic()
        if not self.connected:
            self.connected = True
            log.info("event_store_back")
            self._on_outage(False)

    def _lost(self, error: Exception) -> None:
        log.warning("event_store_away", error=repr(error))
        was_connected, self.connected = self.connected, False
        if was_connected:
            self._on_outage(True)
