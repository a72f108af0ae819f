"""Server-sent events as bytes (https://html.spec.whatwg.org/#server-sent-events)."""

from json import dumps

CONTENT_TYPE = "text/event-stream"
HEARTBEAT = b":\n\n"
"""A comment alone: it keeps the connection and tells the client nothing."""

StreamId = tuple[int, int]
"""Two numbers that grow together: Redis' id of a stream entry, milliseconds since the
epoch and a number; on another bus, when the stream began and the entry's place in it."""

FOREIGN: StreamId = (-1, 0)
"""Stands for an id of another stream: of what came since, nothing is known."""


def parse_id(text: bytes) -> StreamId:
    """Return the two numbers of a stream id."""
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number or 0)


def format_id(stream_id: StreamId) -> bytes:
    """Return a stream id as Redis and clients write it."""
    return b"%d-%d" % stream_id


def before(stream_id: StreamId) -> StreamId:
    """Return the greatest id that is less than this one."""
    milliseconds, number = stream_id
    if number:
        return milliseconds, number - 1
    return (milliseconds - 1, 2**64 - 1) if milliseconds else (0, 0)


def event(identity: bytes, kind: bytes, body: bytes) -> bytes:
    """Return one event.

    :param identity: what the client sends back to resume after this event.
    :param kind: the event's type, one line.
    :param body: any text; each of its lines becomes a `data` line.
    """
    if b"\n" in body or b"\r" in body:
        body = b"\ndata: ".join(body.splitlines())
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (identity, kind, body)


def comment(text: str) -> bytes:
    """Return a line for people who watch the stream; programs skip it."""
    return b": %b\n\n" % text.encode()


def position(stream_id: StreamId) -> bytes:
    """Return a block that moves the client's resume point and dispatches nothing.

    A client that follows a quiet topic would else come back with an id that left the
    log long ago.
    """
    return b"id: %b\n\n" % format_id(stream_id)


def opening(retry_milliseconds: int) -> bytes:
    """Return what every stream starts with: when to come back."""
    return b"retry: %d\n\n" % retry_milliseconds


def gap() -> bytes:
    """Return the event that says: something in between is lost, load your state anew."""
    return b"event: gap\ndata: {}\n\n"


def snapshot(floor: StreamId, last: StreamId) -> bytes:
    """Return the event that says: from here on you know the newest of everything.

    :param floor: of what was not told of since this id, nothing was sent.
    :param last: id up to which the client knows everything now.
    """
    told = dumps({"from": format_id(floor).decode()}).encode()
    return b"id: %b\nevent: snapshot\ndata: %b\n\n" % (format_id(last), told)


def skipped(count: int) -> bytes:
    """Return the event that says: so many were left out, each older than one you have."""
    return b'event: skipped\ndata: {"count": %d}\n\n' % count


def close(reason: str, retry_milliseconds: int | None = None) -> bytes:
    """Return the last event of a stream.

    :param reason: a constant word for programs.
    :param retry_milliseconds: when to come back, where that differs from the opening.
    """
    hint = b"" if retry_milliseconds is None else b"retry: %d\n" % retry_milliseconds
    return b"%bevent: close\ndata: %b\n\n" % (hint, dumps({"reason": reason}).encode())
