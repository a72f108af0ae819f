"""Feeds a stream from a generator, for servers that keep their sockets to themselves."""

import socket
import time
from collections.abc import Generator, Iterator
from contextlib import suppress

import structlog

from flagon_chassis.buses import AWAY

from . import telemetry, wire
from .ring import Entry, FellBehind, Found
from .roster import Subscriber, Ticket
from .source import Source

log = structlog.get_logger()


class Generated(Subscriber):
    """A stream that a generator feeds while a thread of the server waits.

    It holds one bounded block of bytes at a time; what the server has not taken waits
    in the ring, and whoever falls off the ring is closed.

    :param sock: the connection, where the server tells; it can be broken by us.
    """

    __slots__ = (
        "_ending",
        "_handed_at",
        "_notes",
        "_scanned",
        "_socket",
        "_source",
    )

    def __init__(
        self, source: Source, ticket: Ticket, sock: socket.socket | None
    ) -> None:
        super().__init__(ticket, source.rotate_seconds)
        self._source = source
        self._socket = sock
        self._ending: bytes | None = None
        self._notes = b""
        self._scanned = 0
        """Events that Redis was asked for on behalf of this client."""
        self._handed_at: float | None = None

    def tell(self, text: str) -> None:
        """Send a comment with the next bytes."""
        with self._source.ring.changed:
            self._notes = wire.comment(text)
            self._source.ring.changed.notify_all()

    def end(self, reason: str, retry_milliseconds: int | None = None) -> None:
        """Let the generator say why and stop."""
        with self._source.ring.changed:
            if self._ending is not None:
                return
            telemetry.DROPPED.labels(reason).inc()
            self._ending = wire.close(reason, retry_milliseconds)
            self._source.ring.changed.notify_all()

    def check_stall(self, now: float) -> None:
        """Break the connection when the server has waited too long for the client.

        Nothing can be said to it: its socket has no room.
        """
        handed_at, limit = self._handed_at, self._source.stall_seconds
        if handed_at is None or now - handed_at < limit:
            return
        self.end("stalled")
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the stream, from the opening on."""
        self._source.roster.enter(self)
        try:
            for block in self._blocks():
                self._handed_at = time.monotonic()
                yield block
                self._handed_at = None
        finally:
            self._source.roster.leave(self)

    def _blocks(self) -> Iterator[bytes]:
        ring = self._source.ring
        opening = wire.opening(self._source.retry())
        cursor: int | None = None
        interest = self.ticket.interest
        snapshot = self.ticket.snapshot
        # Whoever comes back with an id saw a part of the newest, and gets all since.
        newest_alone = snapshot and self.ticket.after is None
        skipped = 0
        if newest_alone:
            yield opening
            with ring.changed:
                after = ring.floor
        elif self.ticket.after is None:
            with ring.changed:
                cursor, last, after = ring.end, ring.last, (0, 0)
            yield opening + wire.position(last)
        else:
            yield opening
            after = self.ticket.after
            source = "redis" if ring.seek(after) is None else "ring"
            telemetry.RESUMED.labels(source).inc()
        while self._ending is None:
            try:
                # As long as there is no cursor, the client has everything up to `after`.
                # Looked up and read in one go: the reader may fill the ring anew at any
                # other moment, and whoever only waited has not fallen behind.
                with ring.changed:
                    start = ring.seek(after) if cursor is None else cursor
                    entries: Found = []
                    if start is not None:
                        entries, end = ring.read(
                            start,
                            interest,
                            after=after,
                            newest_from=start
                            if newest_alone or self.ticket.latest
                            else None,
                        )
                        if self.ticket.latest:
                            wanted = ring.count(start, end, interest, after)
                            skipped += wanted - len(entries)
                    ahead = ring.last < after
                    level = start is not None and end == ring.end and not ahead
                    marker = wire.snapshot(ring.floor, ring.last)
            except FellBehind:
                self.end("behind")
                break
            if start is None:
                after = yield from self._replay(after)
                continue
            # Another process may have shown the client events that are on their way to
            # this one: until they are here, its place is not known.
            cursor = None if ahead else end
            if entries:
                yield self._deliver([entry for _position, entry in entries])
            if level and (skipped or snapshot):
                told = wire.skipped(skipped) if skipped else b""
                yield told + marker if snapshot else told
                snapshot, newest_alone, skipped = False, False, 0
            elif not entries:
                yield from self._wait(end, after)
        yield self._ending or b""

    def _replay(self, after: wire.StreamId) -> Generator[bytes, None, wire.StreamId]:
        """Yield a page of events from Redis; return the id that the client is at now."""
        try:
            batch = self._source.event_log.page(after)
        except AWAY as error:
            log.warning("replay_failed", error=repr(error))
            self.end("unavailable")
            return after
        self._scanned += batch.scanned
        if batch.missing_until is not None:
            telemetry.GAPS.inc()
            yield wire.gap()
            return batch.missing_until
        if not batch.scanned or self._scanned > self._source.replay_events:
            telemetry.GAPS.inc()
            yield wire.gap()
            return self._source.ring.floor
        found = [e for e in batch.entries if self.ticket.interest.wants(e)]
        if found:
            telemetry.DELIVERED.inc(len(found))
            yield b"".join(entry.payload for entry in found)
        return batch.last

    def _wait(self, cursor: int, after: wire.StreamId) -> Iterator[bytes]:
        """Wait for an entry, a comment or the end; yield a sign of life if none comes."""
        ring = self._source.ring
        with ring.changed:
            woken = ring.changed.wait_for(
                lambda: ring.end > cursor or self._ending or self._notes,
                self._source.heartbeat_seconds,
            )
            notes, self._notes = self._notes, b""
            # What came up to here was not this client's, or it would have been sent.
            last = ring.last if ring.end == cursor else None
        if notes:
            yield notes
        if not woken:
            behind = last is None or last < after
            yield wire.HEARTBEAT + (b"" if behind else wire.position(last or (0, 0)))

    def _deliver(self, entries: list[Entry]) -> bytes:
        reached = [(entry, 1) for entry in entries]
        deliveries = self._source.deliveries
        spans = deliveries.begin(reached)
        telemetry.DELIVERED.inc(len(entries))
        deliveries.finish(reached, spans)
        return b"".join(entry.payload for entry in entries)
