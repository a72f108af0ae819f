"""RabbitMQ as the bus that events travel on.

One exchange takes all events. A stream, of which nothing is taken away, keeps them for who
follows and comes back; a quorum queue for each consumer group keeps them until they are
handled. All of them are the broker's own (deploy/rabbitmq): no service may make any.

Who uses a connection that broke is told so and opens another by its next use.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from amqp.exceptions import AMQPError

from .buses import BusAway, Row
from .streams import EVENTS, Entry

VHOST = "events"
DEAD = "dead"
"""Exchange and stream of the events that a consumer group failed at."""
ORIGIN = "origin"
"""The stream whose first entry says when the events' began."""
_MARK = "mark"
"""Routing key of what is sent to both streams, so that neither is empty."""

_HEARTBEAT_SECONDS = 10
_TAKING_HEARTBEAT_SECONDS = 30
"""For who handles what he took meanwhile; what he has is given out again after two."""
_PATIENCE_SECONDS = 5.0
_BLOCK_SECONDS = 1.0
_PAGE = 500
"""Entries that are under way from the broker, about."""
_GRANT = 100


class Restarted(Exception):
    """The stream is another than before, or has lost what was not read yet."""


class _Line:
    """A connection with one channel, closed by whatever goes wrong with it.

    :param heartbeat_seconds: after two of these without a sign of life it is broken, for
        both sides; 0 for who has nothing to say for long.
    """

    def __init__(self, url: str, *, heartbeat_seconds: int = 0) -> None:
        self._url = urlsplit(url)
        self._heartbeat_seconds = heartbeat_seconds
        self._connection: Any = None
        self._channel: Any = None
        self.opened = 0
        """How often it was: each time it may be another broker, or one with less."""
        self._sent = 0
        self._awaited: set[int] = set()
        """Numbers of messages whose confirmation has not come."""

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """Give the channel; open it where there is none.

        :raises BusAway: RabbitMQ does not answer, or refuses.
        """
        try:
            if self._connection is None:
                self._open()
            yield self._channel
        except (AMQPError, OSError) as error:
            self.close()
            # The library has errors without a word.
            raise BusAway(f"{type(error).__name__}: {error}") from error

    @property
    def is_open(self) -> bool:
        """Whether nothing has gone wrong since it was opened."""
        return self._connection is not None

    def close(self) -> None:
        """Hang up; the broker gives others what was taken and not acknowledged."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Without a farewell, whose answer could be long in coming.
            connection.collect()

    def pump(self, seconds: float) -> bool:
        """Take in what comes next, and tell both sides that the other lives.

        :returns: whether anything came.
        """
        with self.channel():
            self._connection.heartbeat_tick()
            try:
                self._connection.drain_events(timeout=seconds)
            except TimeoutError:
                return False
            return True

    def refresh(self) -> None:
        """Hang up if the other side has: who sends seldom hears of it late."""
        if self._connection is not None:
            try:
                self.pump(0)
            except BusAway:
                # The connection is closed by that; the next use opens another.
                return

    def publish(self, exchange: str, sent: Sequence[tuple[str, amqp.Message]]) -> None:
        """Return when these messages are on disk, sent in this order.

        :param sent: each with its routing key.
        """
        with self.channel() as channel:
            if not self._sent:
                channel.confirm_select()
                channel.events["basic_ack"].add(self._note_confirmed)
                channel.events["basic_nack"].add(_refuse)
            for key, message in sent:
                self._sent += 1
                self._awaited.add(self._sent)
                # A message for no queue comes back, as an error, instead of being forgotten.
                channel.basic_publish(message, exchange, key, mandatory=True)
            end = time.monotonic() + _PATIENCE_SECONDS
            while self._awaited:
                # After one that does not come the connection is closed: a late one would
                # count for the next message.
                left = max(0.0, end - time.monotonic())
                self._connection.drain_events(timeout=left)

    def _open(self) -> None:
        url = self._url
        self._connection = amqp.Connection(
            host=f"{url.hostname}:{url.port}",
            userid=unquote(url.username or ""),
            password=unquote(url.password or ""),
            virtual_host=VHOST,
            connect_timeout=2.0,
            heartbeat=self._heartbeat_seconds,
        )
        self._connection.connect()
        # The library's own limits are the kernel's, which gevent does not hear of.
        self._connection.transport.sock.settimeout(_PATIENCE_SECONDS)
        self._channel = self._connection.channel()
        # A broker that has just started listens before its streams are back. What it is
        # sent meanwhile it gives to the groups alone, and confirms it.
        self._channel.queue_declare(EVENTS, passive=True)
        self._sent, self._awaited = 0, set()
        self.opened += 1

    def _note_confirmed(self, number: int, multiple: bool) -> None:
        if multiple:
            self._awaited = {one for one in self._awaited if one > number}
        else:
            self._awaited.discard(number)


def _refuse(*_: object) -> None:
    raise AMQPError("not taken")


def _message(entry: Mapping[Any, Any]) -> amqp.Message:
    """Return an entry of `streams.encode`, or one like it, as it is sent."""
    headers = {_text(name): _text(value) for name, value in entry.items()}
    body = headers.pop("event", "")
    headers["at"] = str(time.time_ns() // 1000)
    return amqp.Message(
        body.encode(),
        delivery_mode=2,
        content_type="application/cloudevents+json",
        application_headers=headers,
    )


def _text(value: Any) -> str:  # noqa: ANN401 (as Redis takes them)
    return value.decode() if isinstance(value, bytes) else str(value)


def _fields(message: Any) -> dict[bytes, bytes]:  # noqa: ANN401 (the library has no types)
    """Return what was sent as Redis would have it: everywhere else it is one kind."""
    fields = {
        name.encode(): str(value).encode() for name, value in message.headers.items()
    }
    body = message.body
    fields[b"event"] = body if isinstance(body, bytes) else body.encode()
    return fields


class Sender:
    """Sends events with their type as routing key, which rights are given by."""

    name = "rabbitmq"

    def __init__(self, url: str) -> None:
        self._url = url
        self._line = _Line(url)
        self._began, self._seen = 0.0, 0

    def send(self, entries: Mapping[int, Mapping[Any, Any]]) -> None:
        """Return when the stream and every group have all of them on disk."""
        # Before the first: what is sent must not be older than the stream seems to be.
        self.beginning()
        sent = [(entry["type"], _message(entry)) for entry in entries.values()]
        self._line.publish(EVENTS, sent)

    def beginning(self) -> float:
        """Ask the stream, which may have lost its disk, for each connection once."""
        self._line.refresh()
        with self._line.channel():
            if self._seen != self._line.opened:
                self._began = _origin(self._url) / 1e6
                self._seen = self._line.opened
        return self._began

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._line.close()


class Group:
    """A quorum queue of the group's name.

    It counts how often a message was given out, and a connection that breaks counts like
    a process that dies.
    """

    name = "rabbitmq"
    spare = 15

    def __init__(self, url: str, group: str) -> None:
        self._line = _Line(url, heartbeat_seconds=_TAKING_HEARTBEAT_SECONDS)
        self._queue = group
        self._came: deque[Any] = deque()
        self._consumes = False

    def join(self) -> None:
        """Open a connection of which the broker knows nothing yet."""
        self._line.close()
        self._came.clear()
        self._consumes = False
        with self._line.channel():
            """Opened."""

    def begun(self) -> Iterator[tuple[Entry, int]]:
        """Yield what was given out before; the queue has it in front.

        The first that was not ends it, and is yielded as well: it is taken by now.
        """
        delivered = 2
        while delivered > 1:
            with self._line.channel() as channel:
                message = channel.basic_get(self._queue)
            if message is None:
                return
            delivered = 1 + int(message.headers.get("x-delivery-count", 0))
            yield _entry(message), delivered

    def left(self) -> Iterator[tuple[Entry, int]]:
        """Yield nothing: the broker gives to others at once what a member has left."""
        yield from ()

    def take(self, most: int) -> list[Entry]:
        """Return what the broker has handed out, which is no more than this."""
        self._still_ours()
        if not self._consumes:
            with self._line.channel() as channel:
                channel.basic_qos(0, most, a_global=False)
                channel.basic_consume(self._queue, callback=self._came.append)
            self._consumes = True
        self._line.pump(0 if self._came else _BLOCK_SECONDS)
        while len(self._came) < most and self._line.pump(0):
            """More of it."""
        found = [self._came.popleft() for _ in range(min(most, len(self._came)))]
        return [_entry(message) for message in found]

    def done(self, entry_ids: Sequence[str]) -> None:
        """Acknowledge messages, if the connection is the one that they came by."""
        self._still_ours()
        with self._line.channel() as channel:
            for entry_id in entry_ids:
                channel.basic_ack(int(entry_id))

    def bury(self, entry_id: str, fields: Mapping[Any, Any]) -> None:
        """Keep it first: the other way round a crash in between would lose it."""
        self._still_ours()
        self._line.publish(DEAD, [(self._queue, _message(fields))])
        self.done([entry_id])

    def rest(self) -> None:
        """Let the broker know, and hear from it."""
        self._still_ours()
        self._line.pump(0)

    def close(self) -> None:
        """Close the connection; what was not acknowledged is given out again."""
        self._line.close()

    def _still_ours(self) -> None:
        """Raise when what was taken is the broker's again, who numbers it anew."""
        if not self._line.is_open:
            raise BusAway("the connection has broken")


def _entry(message: Any) -> Entry:  # noqa: ANN401 (the library has no types)
    return str(message.delivery_tag), _fields(message)


class _Run:
    """Rows of a stream from somewhere on, by a connection of their own.

    :param start: an offset, `first`, or `last` for the last few.
    """

    def __init__(self, url: str, stream: str, start: int | str) -> None:
        self._line = _Line(url, heartbeat_seconds=_HEARTBEAT_SECONDS)
        self._came: deque[Any] = deque()
        with self._line.channel() as channel:
            channel.basic_qos(0, _PAGE, a_global=False)
            channel.basic_consume(
                stream,
                callback=self._came.append,
                arguments={"x-stream-offset": start},
            )

    def read(self, seconds: float) -> list[Row]:
        """Return the next rows; wait for the first as long as this, and no longer."""
        self._line.pump(0 if self._came else seconds)
        while len(self._came) < _PAGE and self._line.pump(0):
            """More of it."""
        return [self._next() for _ in range(len(self._came))]

    def until(self, enough: Callable[[Row], bool]) -> Iterator[Row]:
        """Yield rows up to the first that is enough.

        :raises BusAway: it does not come.
        """
        while True:
            if not self._came and not self._line.pump(_PATIENCE_SECONDS):
                raise BusAway("the stream is silent")
            while self._came:
                row = self._next()
                yield row
                if enough(row):
                    return

    def _next(self) -> Row:
        message = self._came.popleft()
        if not self._came or message.delivery_tag % _GRANT == 0:
            with self._line.channel() as channel:
                # The broker sends as many again.
                channel.basic_ack(message.delivery_tag, multiple=True)
        return Row(int(message.headers["x-stream-offset"]), _fields(message))

    def close(self) -> None:
        """Close the connection."""
        self._line.close()


def _origin(url: str) -> int:
    """Return when the stream began, in microseconds since the epoch.

    :raises BusAway: RabbitMQ does not answer.
    """
    line = _Line(url)
    # It is in both streams when it is confirmed; so neither is empty.
    line.publish(EVENTS, [(_MARK, _message({}))])
    line.close()
    run = _Run(url, ORIGIN, "first")
    try:
        return int(next(run.until(bool)).fields[b"at"])
    finally:
        run.close()


def dead(url: str) -> Iterator[dict[bytes, bytes]]:
    """Yield the events that consumer groups failed at, oldest first.

    :raises BusAway: RabbitMQ does not answer.
    """
    run = _Run(url, DEAD, "first")
    try:
        # Nobody knows how many there are: the end is when no more comes.
        while rows := run.read(_BLOCK_SECONDS):
            yield from (row.fields for row in rows)
    finally:
        run.close()


class Journal:
    """The stream as it is followed and read again, by one process.

    :param block_seconds: how long `follow` waits for the next event.
    """

    def __init__(self, url: str, *, block_seconds: float = 2.0) -> None:
        self._url = url
        self._block_seconds = block_seconds
        self._tail: _Run | None = None
        self._out = _Line(url)
        self._sending = threading.Lock()
        self.origin = 0
        """When the stream began, in microseconds since the epoch; 0: not known yet."""
        self.last = -1
        """Offset of the last row that was read."""

    def newest(self, most: int, max_bytes: int) -> tuple[int, list[Row]]:
        """Return the newest rows, and the offset after which none is missing in them.

        What comes after them is for `follow`.

        :raises BusAway: RabbitMQ does not answer.
        :raises Restarted: the stream is another.
        """
        self._check()
        first, end = self._one("first"), self._one("last")
        self._close_tail()
        self._tail = _Run(self._url, EVENTS, max(first, end - most + 1))
        found: deque[Row] = deque()
        size = 0
        for row in self._tail.until(lambda row: row.offset >= end):
            found.append(row)
            size += len(row.fields[b"event"])
            while len(found) > most or size > max_bytes:
                size -= len(found.popleft().fields[b"event"])
            self.last = row.offset
        floor = found[0].offset - 1 if found else self.last
        return floor, list(found)

    def follow(self, after: int) -> list[Row]:
        """Return the rows after an offset; wait for the next when there is none.

        :raises BusAway: RabbitMQ does not answer.
        :raises Restarted: some of the rows are gone, or the stream is another.
        """
        if self._tail is None:
            self._check()
            self._tail = _Run(self._url, EVENTS, after + 1)
        try:
            rows = self._tail.read(self._block_seconds)
            self._check_lost(after, rows)
        except BusAway:
            self._close_tail()
            raise
        if rows:
            self.last = rows[-1].offset
        return rows

    def page(self, after: int) -> tuple[list[Row], int | None]:
        """Return some rows after an offset, as far as `follow` has come.

        :returns: the rows, or, where some are gone, the offset of the last of those.
        :raises BusAway: RabbitMQ does not answer.
        """
        end = self.last
        if after >= end:
            return [], None
        run = _Run(self._url, EVENTS, after + 1)
        try:
            found: list[Row] = []
            for row in run.until(lambda row: row.offset >= end):
                found.append(row)
                if len(found) == _PAGE:
                    break
        finally:
            run.close()
        missing = self._missing(after, found)
        return ([], missing) if missing else (found, None)

    def append(self, fields: Mapping[str, Any]) -> int:
        """Add an event and return its offset.

        :raises BusAway: nobody knows whether it was added.
        """
        if not self.origin:
            raise BusAway("not known yet")
        start = self.last + 1
        with self._sending:
            self._out.refresh()
            self._out.publish(EVENTS, [(fields["type"], _message(fields))])
        sent = fields["id"].encode()
        run = _Run(self._url, EVENTS, start)
        try:
            # A confirmation does not say where.
            *_, row = run.until(lambda row: row.fields.get(b"id") == sent)
        finally:
            run.close()
        return row.offset

    def close(self) -> None:
        """Close every connection; a later call opens them again."""
        self._close_tail()
        self._out.close()

    def _check(self) -> None:
        """Find out where the stream began, and that it still is the same.

        Offsets begin anew when the broker has lost its disk: without this, who comes back
        would be taken for somebody who has seen other events.
        """
        found = _origin(self._url)
        if self.origin not in {0, found}:
            raise Restarted("this is another stream")
        self.origin = found

    def _one(self, where: str) -> int:
        """Return the offset of the first row, or of one of the last that are there."""
        run = _Run(self._url, EVENTS, where)
        try:
            return next(run.until(bool)).offset
        finally:
            run.close()

    def _missing(self, after: int, rows: Sequence[Row]) -> int | None:
        """Return the offset of the last row after one that is gone, if any is.

        A leap alone proves nothing: the broker leaves some offsets out.
        """
        if not rows or rows[0].offset == after + 1:
            return None
        first = self._one("first")
        return first - 1 if first > after + 1 else None

    def _check_lost(self, after: int, rows: Sequence[Row]) -> None:
        if self._missing(after, rows) is not None:
            raise Restarted("rows are gone that were not read yet")

    def _close_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()
