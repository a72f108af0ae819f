"""Writes events straight to the sockets of clients: no thread, queue or buffer for each.

A client is a file descriptor and a position. Whoever keeps up gets each batch of events
as it comes, joined once for all clients with the same topics and written with one system
call. Whoever does not take all of it gets the rest from the ring, and what the ring no
longer has from Redis, as its socket has room; so a slow client costs a few numbers.

Nothing here is used by a process whose server does not hand its sockets over. Where it
is, gevent has patched the standard library: between two waits no other code runs, which
is why there are no locks. The steps (`publish`, `poll`, `beat`, `replay`) may also be
called one by one from a single thread.
"""

import os
import queue
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from gevent import monkey
from gevent.socket import wait_read

from flagon_chassis.buses import AWAY

from . import telemetry, wire
from .ring import Entry, FellBehind, Interest
from .roster import Subscriber, Ticket
from .source import Source
from .wire import StreamId

if TYPE_CHECKING:
    import select

log = structlog.get_logger()

# gevent takes epoll and its constants out of `select`, because waiting in it would stop
# every greenlet. Here gevent waits for the epoll object itself.
_WRITABLE = 0x004
_GONE = 0x008 | 0x010 | 0x2000
"""Error, hang-up, and the other side has closed (EPOLLRDHUP)."""
_EVENTS_PER_POLL = 256

_LIVE = -1
"""Cursor of a client that has everything."""
_DEEP = -2
"""Cursor of a client that has everything up to an id; who has the rest is not known yet."""

_WRITES_IN_A_ROW = 256
"""Sockets written before anybody else has a turn."""
_BEATS = 16
"""Parts of the heartbeat interval over which the clients are spread."""
_DEEP_READERS = 2

_TCP_NOTSENT_LOWAT = 25
_UNSENT_BYTES = 64 * 1024
"""Bytes that the kernel takes for a client before it calls its socket full.

By default it hides up to 4 MiB of a stalled client's events. A small send buffer instead
would slow healthy clients down.
"""


class Client(Subscriber):
    """A stream whose socket is the hub's."""

    __slots__ = (
        "after",
        "cursor",
        "fd",
        "group",
        "hub",
        "offset",
        "pending",
        "progress_at",
        "scanned",
        "served",
        "skipped",
        "snapshot",
        "waiting",
    )

    def __init__(self, hub: "Hub", ticket: Ticket, group: "Group", fd: int) -> None:
        super().__init__(ticket, hub.source.rotate_seconds)
        self.hub = hub
        self.group = group
        self.fd = fd
        """The socket; -1 once it is closed. Numbers come back: never an identity."""
        self.cursor = _LIVE
        """Position of the next event in the ring, or one of the marks above."""
        self.offset = 0
        """Bytes of the next event that the client has already."""
        self.after: StreamId = (0, 0)
        """Events up to this id are not the client's to get any more."""
        self.served = hub.ring.end
        """Position up to which a live client has everything."""
        self.pending = b""
        """Bytes to be written before the next event."""
        self.snapshot = ticket.snapshot
        """Whether the client has yet to hear that it knows the newest of everything."""
        self.skipped = 0
        """Events that were left out, which the client has yet to hear."""
        self.waiting = False
        """Whether the socket is watched for room."""
        self.progress_at = self.opened_at
        """When the socket last took something."""
        self.scanned = 0
        """Events that Redis was asked for on behalf of this client."""

    def tell(self, text: str) -> None:
        """Send a comment, unless the client is behind and would not read it in time."""
        self.hub.tell(self, wire.comment(text))

    def end(self, reason: str, retry_milliseconds: int | None = None) -> None:
        """Close the stream and, where the client still reads, tell it why."""
        self.hub.end(self, reason, retry_milliseconds)


class Group:
    """The clients that follow exactly the same topics and types."""

    __slots__ = ("batch", "clients", "interest", "positions")

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.clients: set[Client] = set()
        self.batch: list[bytes] = []
        """Events of the batch that is being published."""
        self.positions: list[int] = []
        """Their positions in the ring."""


class Hub:
    """Every client of one process whose socket was handed over."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.ring = source.ring
        self._log = source.event_log
        self._roster = source.roster
        self._deliveries = source.deliveries
        self._epoll: select.epoll = monkey.get_original("select", "epoll")()
        self._clients: dict[int, Client] = {}
        self._groups: dict[Interest, Group] = {}
        self._by_topic: dict[bytes, list[Group]] = {}
        self._ahead: set[Client] = set()
        """Clients that know events which the reader of this process has yet to see."""
        self._deep: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._publishing = False

    def start(self) -> None:
        """Begin to serve; call it once, where gevent has patched the library."""
        loops = [self._poll_for_ever, self._beat_for_ever]
        loops += [self._replay_for_ever] * _DEEP_READERS
        for loop in loops:
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()

    def add(self, sock: socket.socket, ticket: Ticket, head: bytes) -> None:
        """Take a connected socket and serve its client until one of us leaves.

        :param sock: is detached; the caller has nothing left to close.
        :param head: what the client must get before anything else; written at once,
            so that it knows the stream is open before the first event.
        """
        tune(sock, self.source.stall_seconds)
        fd = sock.detach()
        os.set_blocking(fd, False)
        client = Client(self, ticket, self._group(ticket.interest), fd)
        client.group.clients.add(client)
        self._clients[fd] = client
        self._roster.enter(client)
        self._epoll.register(fd, _GONE)
        client.pending = head + self._place(client)
        self._advance(client)

    def publish(self, start: int, entries: list[Entry]) -> None:
        """Write new entries to every live client that follows one of their topics.

        Gives others a turn now and then; only the reader may call it.

        :param start: position of the first entry in the ring.
        """
        end = start + len(entries)
        groups = self._sort(start, entries)
        counts = [0] * len(entries)
        # Decided before the first turn of others: who comes later starts behind these.
        work = []
        for group in groups:
            work.append((group.batch, group.positions, list(group.clients)))
            for position in group.positions:
                counts[position - start] += len(group.clients)
            group.batch, group.positions = [], []
        reached = [pair for pair in zip(entries, counts, strict=True) if pair[1]]
        spans = self._deliveries.begin(reached)
        self._publishing = True
        writes = 0
        for batch, positions, clients in work:
            payload = b"".join(batch)
            delivered = 0
            for client in clients:
                # One that caught up during a turn of others has this batch already.
                if client.cursor != _LIVE or client.served >= end or client.fd < 0:
                    continue
                delivered += self._write_batch(client, payload, batch, positions)
                writes += 1
                if writes % _WRITES_IN_A_ROW == 0:
                    time.sleep(0)
            telemetry.DELIVERED.inc(delivered)
        self._publishing = False
        self._deliveries.finish(reached, spans)
        for client in list(self._ahead):
            self._ahead.discard(client)
            self._advance(client)

    def poll(self) -> None:
        """Serve the clients whose sockets have room again, and drop those that left."""
        for fd, happened in self._epoll.poll(0, _EVENTS_PER_POLL):
            client = self._clients.get(fd)
            if client is None:
                continue
            if happened & _GONE:
                self._drop(client)
            elif happened & _WRITABLE:
                self._advance(client)

    def beat(self, number: int) -> bool:
        """Give a part of the clients a sign of life and close the hopeless ones.

        :param number: chooses the part; counts up.
        :returns: False when it must be tried again in a moment.
        """
        if self._publishing:
            # A live client may wait for its batch: its resume point is not known now.
            return False
        # The resume point goes along: a quiet topic's client would else come back with
        # an id that left the log long ago.
        block = wire.HEARTBEAT + wire.position(self.ring.last)
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.waiting:
                if 0 <= client.cursor < self.ring.first:
                    self.end(client, "behind")
                elif now - client.progress_at > self.source.stall_seconds:
                    self.end(client, "stalled")
            elif client.fd % _BEATS == number % _BEATS:
                if client.cursor == _LIVE:
                    self._say(client, block)
                elif client in self._ahead:
                    self._say(client, wire.HEARTBEAT)
                # Else it is about to get a page of events from Redis: it is told no
                # resume point that is newer, and nothing in the middle of an event.
        return True

    def replay(self) -> None:
        """Serve the client that has waited longest for events from Redis one page."""
        client = self._deep.get()
        if client.fd < 0:
            return
        client.progress_at = time.monotonic()
        if client.scanned >= self.source.replay_events and not client.offset:
            self._skip_to_ring(client)
            return
        try:
            batch = self._log.page(client.after)
        except AWAY as error:
            log.warning("replay_failed", error=repr(error))
            self.end(client, "unavailable")
            return
        # It may have left while Redis was asked.
        if client.fd < 0:
            return
        client.scanned += batch.scanned
        if batch.missing_until is not None:
            self._tell_gap(client, batch.missing_until)
        elif not batch.scanned:
            self._skip_to_ring(client)
        else:
            found = [e for e in batch.entries if client.group.interest.wants(e)]
            self._write_page(client, found, batch.last)

    def tell(self, client: Client, block: bytes) -> None:
        """Write a comment to a client that keeps up."""
        if client.cursor == _LIVE and client.fd >= 0:
            self._say(client, block)

    def end(
        self, client: Client, reason: str, retry_milliseconds: int | None = None
    ) -> None:
        """Close a stream and, where its socket has room, tell the client why."""
        if client.fd < 0:
            return
        telemetry.DROPPED.labels(reason).inc()
        # In the middle of an event, the reason would become a part of it.
        if not client.pending and not client.offset:
            with suppress(OSError):
                os.write(client.fd, wire.close(reason, retry_milliseconds))
        self._drop(client, reason)

    def _group(self, interest: Interest) -> Group:
        group = self._groups.get(interest)
        if group is None:
            group = self._groups[interest] = Group(interest)
            for topic in interest.topics:
                self._by_topic.setdefault(topic, []).append(group)
        return group

    def _place(self, client: Client) -> bytes:
        """Put a new client where it left off; return what it must be told first."""
        after = client.ticket.after
        if after is None and client.snapshot:
            # What the ring holds is looked up when the head is written.
            client.cursor = _DEEP
            return b""
        if after is None:
            # From its first second on it can resume, events or not.
            return wire.position(self.ring.last)
        client.after = after
        # Looked up when the head is written: the ring may be another by then.
        client.cursor = _DEEP
        source = "redis" if self.ring.seek(after) is None else "ring"
        telemetry.RESUMED.labels(source).inc()
        return b""

    def _sort(self, start: int, entries: list[Entry]) -> list[Group]:
        """Give every group its part of a batch; return the groups that have one."""
        reached: list[Group] = []
        for position, entry in enumerate(entries, start):
            for topic in entry.topics:
                for group in self._by_topic.get(topic, ()):
                    if not group.interest.wants_type(entry.type):
                        continue
                    if not group.positions:
                        reached.append(group)
                    elif group.positions[-1] == position:
                        # It follows two topics of this event and gets it once.
                        continue
                    group.positions.append(position)
                    group.batch.append(entry.payload)
        return reached

    def _write_batch(
        self, client: Client, payload: bytes, batch: list[bytes], positions: list[int]
    ) -> int:
        """Write a batch to a live client; return how many events it has got whole."""
        try:
            written = os.write(client.fd, payload)
        except BlockingIOError:
            written = 0
        except OSError:
            self._drop(client)
            return 0
        if written == len(payload):
            return len(batch)
        done, client.offset = _progress(batch, written)
        client.cursor = positions[done]
        client.progress_at = time.monotonic()
        self._watch(client, room=True)
        return done

    def _advance(self, client: Client) -> None:
        """Write what the client is owed, as far as its socket takes it."""
        if client.pending and not self._flush(client):
            return
        if client.cursor == _LIVE:
            self._watch(client, room=False)
            return
        if client.cursor == _DEEP and not client.offset:
            if client.snapshot and client.ticket.after is None:
                client.after = max(client.after, self.ring.floor)
            cursor = self.ring.seek(client.after)
            client.cursor = _DEEP if cursor is None else cursor
        if client.cursor == _DEEP:
            self._watch(client, room=False)
            self._deep.put(client)
        else:
            self._catch_up(client)

    def _flush(self, client: Client) -> bool:
        """Write the pending bytes; say whether all of them are gone."""
        try:
            written = os.write(client.fd, client.pending)
        except BlockingIOError:
            written = 0
        except OSError:
            self._drop(client)
            return False
        client.pending = client.pending[written:]
        if written:
            client.progress_at = time.monotonic()
        if client.pending:
            if client.cursor == _LIVE:
                # Live means that nothing is owed. What comes now waits in the ring.
                client.cursor = self.ring.end
            self._watch(client, room=True)
        return not client.pending

    def _catch_up(self, client: Client) -> None:
        """Write a bounded part of what the ring has for this client."""
        start, interest = client.cursor, client.group.interest
        try:
            found, cursor = self.ring.read(
                start,
                interest,
                after=client.after,
                newest_from=self._newest_from(client),
            )
        except FellBehind:
            self.end(client, "behind")
            return
        done = self._send(client, [entry.payload for _position, entry in found])
        if client.fd < 0:
            return
        client.cursor = found[done][0] if done < len(found) else cursor
        if client.ticket.latest:
            wanted = self.ring.count(start, client.cursor, interest, client.after)
            client.skipped += wanted - done
        if done < len(found):
            self._watch(client, room=True)
            return
        if cursor < self.ring.end:
            # More of it when the others have had their turn.
            self._watch(client, room=True)
        elif client.after > self.ring.last:
            # Another process has shown it events that are on their way to this one. More
            # of them may come at once than the ring holds: its place is looked up again.
            client.cursor = _DEEP
            self._watch(client, room=False)
            self._ahead.add(client)
        else:
            client.cursor = _LIVE
            client.served = cursor
            client.pending = self._markers(client)
            if not client.pending or self._flush(client):
                self._watch(client, room=False)

    def _markers(self, client: Client) -> bytes:
        """Return what a client has to hear once it has everything."""
        told = wire.skipped(client.skipped) if client.skipped else b""
        if client.snapshot:
            told += wire.snapshot(self.ring.floor, self.ring.last)
        client.skipped, client.snapshot = 0, False
        return told

    def _newest_from(self, client: Client) -> int | None:
        """Return the position from which on a client needs the newest alone.

        Whoever comes back with an id saw a part of them, and gets all that came since,
        unless it asked for the latest.
        """
        begins = client.snapshot and client.ticket.after is None
        if not begins and not client.ticket.latest:
            return None
        # The event that it has a part of must be ended, whether it is old by now or not.
        return client.cursor + 1 if client.offset else client.cursor

    def _write_page(self, client: Client, found: list[Entry], last: StreamId) -> None:
        """Write events from Redis; what does not fit is asked for again later."""
        done = self._send(client, [entry.payload for entry in found])
        if client.fd < 0:
            return
        if done == len(found):
            client.after = last
        elif done:
            client.after = found[done - 1].id
        # More of it, from Redis or the ring, when the others have had their turn.
        self._watch(client, room=True)

    def _tell_gap(self, client: Client, missing_until: StreamId) -> None:
        if client.offset:
            # The rest of an event that it has begun to get is among the missing.
            self.end(client, "behind")
            return
        telemetry.GAPS.inc()
        client.after = missing_until
        client.pending = wire.gap()
        self._advance(client)

    def _skip_to_ring(self, client: Client) -> None:
        """Give up on events that are too far back, or gone, and go on with the ring."""
        self._tell_gap(client, self.ring.floor)

    def _send(self, client: Client, payloads: list[bytes]) -> int:
        """Write payloads from the client's offset on; return how many are now whole."""
        if not payloads:
            return 0
        parts = [payloads[0][client.offset :], *payloads[1:]]
        try:
            written = os.writev(client.fd, parts)
        except BlockingIOError:
            return 0
        except OSError:
            self._drop(client)
            return 0
        client.progress_at = time.monotonic()
        done, rest = _progress(parts, written)
        client.offset = rest if done else client.offset + rest
        telemetry.DELIVERED.inc(done)
        return done

    def _say(self, client: Client, block: bytes) -> None:
        """Write something that may be left out to a client that is owed nothing."""
        try:
            written = os.write(client.fd, block)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if written < len(block):
            client.pending = block[written:]
            if client.cursor == _LIVE:
                client.cursor = self.ring.end
            self._ahead.discard(client)
            client.progress_at = time.monotonic()
            self._watch(client, room=True)

    def _watch(self, client: Client, *, room: bool) -> None:
        if client.waiting != room:
            client.waiting = room
            self._epoll.modify(client.fd, _GONE | _WRITABLE if room else _GONE)

    def _drop(self, client: Client, reason: str = "left") -> None:
        """Forget a client and close its socket."""
        fd, client.fd = client.fd, -1
        del self._clients[fd]
        self._ahead.discard(client)
        self._roster.leave(client)
        group = client.group
        group.clients.discard(client)
        if not group.clients:
            del self._groups[group.interest]
            for topic in group.interest.topics:
                self._by_topic[topic].remove(group)
                if not self._by_topic[topic]:
                    del self._by_topic[topic]
        # Closing a socket with unread bytes resets it, and the reset overtakes what the
        # client has yet to read.
        with suppress(OSError):
            os.read(fd, _UNSENT_BYTES)
        # This also takes it out of the epoll object.
        os.close(fd)
        log.debug(
            "stream_closed",
            reason=reason,
            seconds=round(time.monotonic() - client.opened_at, 1),
        )

    def _poll_for_ever(self) -> None:
        while True:
            wait_read(self._epoll.fileno())
            self.poll()

    def _beat_for_ever(self) -> None:
        number = 0
        while True:
            time.sleep(self.source.heartbeat_seconds / _BEATS)
            while not self.beat(number):
                time.sleep(0.01)
            number += 1

    def _replay_for_ever(self) -> None:
        while True:
            self.replay()


def tune(sock: socket.socket, stall_seconds: float) -> None:
    """Let the kernel keep little for a client that takes nothing, and not for long.

    :param stall_seconds: after which a peer that vanished without a word is gone.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    # Without it that takes 15 minutes.
    milliseconds = int(stall_seconds * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _progress(parts: list[bytes], written: int) -> tuple[int, int]:
    """Return how many parts so many bytes cover, and the bytes of the next one."""
    done = 0
    for part in parts:
        if written < len(part):
            break
        written -= len(part)
        done += 1
    return done, written
