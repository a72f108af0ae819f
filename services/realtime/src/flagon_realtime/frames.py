"""One WebSocket (RFC 6455) over a connected socket: text in, text out, within limits.

Engine.IO's own (simple-websocket) reads ahead of who handles the messages, into a list
without an end, has no limit for a message that Engine.IO could set, inflates what clients
have compressed, and takes a part of a frame that was sent for all of it.
"""

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_READ_BYTES = 4096

TAKEN, GOODBYE, MALFORMED = "taken", "goodbye", "malformed"


class Pace:
    """How often something may happen: so many at once, so many a second after that."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Count one; say whether it is within the pace."""
        self._fill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def rested(self) -> bool:
        """Say whether a new one would be the same."""
        self._fill()
        return self._left >= self._burst

    def _fill(self) -> None:
        now = time.monotonic()
        grown = self._left + (now - self._at) * self._per_second
        self._left, self._at = min(float(self._burst), grown), now


def accept(key: str) -> str:
    """Return what proves to a client that its handshake was understood."""
    digest = hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


class WebSocket:
    """The server's end of one connection, in the form in which Engine.IO uses it.

    Nothing is read before somebody waits for it, so a client that sends faster than it is
    served fills its own buffers. Extensions are never agreed on: no frame is compressed.

    :param sock: after the handshake; it waits no longer than its timeout.
    :param message_bytes_max: largest message, whole or in parts.
    :param pace: of frames of any kind; who is faster is closed.
    :param verdict: says of a message whether it may be handed on (`TAKEN`), is the last one
        (`GOODBYE`), or none that anybody could make sense of (`MALFORMED`).
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        message_bytes_max: int,
        pace: Pace,
        verdict: Callable[[str], str],
    ) -> None:
        self.socket = sock
        self.reason = ""
        """Why we have closed it; empty when the client did, or has not yet."""
        self._bytes_max = message_bytes_max
        self._pace = pace
        self._verdict = verdict
        self._protocol = Connection(ConnectionType.SERVER)
        self._events: Iterator[Event] = iter(())
        self._parts: list[str] = []
        self._size = 0
        self._writing = threading.Lock()
        self.closed_at: float | None = None
        """When we have said that this is the end, by `time.monotonic`."""

    def wait(self) -> str | None:
        """Return the client's next message, None when there will be no more.

        :raises OSError: the client is gone, or was silent for too long.
        """
        # A client that always has sent more already must not keep others from their turn,
        # nor the answers to itself from being written.
        time.sleep(0)
        while True:
            for event in self._events:
                if isinstance(event, CloseConnection):
                    self.close(event.code)
                    return None
                # Afterwards: it has not read yet that nobody listens any more.
                text = self._handle(event) if self.closed_at is None else None
                verdict = "" if text is None else self._verdict(text)
                if verdict == TAKEN:
                    return text
                if verdict == GOODBYE:
                    self.close()
                    return None
                if verdict:
                    self._refuse(verdict, CloseReason.POLICY_VIOLATION)
            received = self.socket.recv(_READ_BYTES)
            if not received:
                return None
            # A frame that breaks the protocol becomes an event: that it was closed.
            self._protocol.receive_data(received)
            self._events = self._protocol.events()

    def send(self, text: str) -> None:
        """Write one message, all of it.

        :raises OSError: the connection is closed, or the client takes nothing.
        """
        self._write(TextMessage(data=text))

    def close(self, code: int = CloseReason.NORMAL_CLOSURE) -> None:
        """Say that this is the end, and write nothing after it; safe to call twice."""
        if self.closed_at is None:
            self.closed_at = time.monotonic()
        # Who went before us hears no farewell, and has nothing to shut: both are done.
        with suppress(OSError):
            self._write(CloseConnection(code=code))
        with suppress(OSError):
            # Not both ways: a reset would overtake what the client has yet to read.
            self.socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Break the connection; whoever waits in a call is woken."""
        self.closed_at = time.monotonic()
        # What the other side has broken already needs no breaking.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _handle(self, event: Event) -> str | None:
        """Take in one frame, or a part of one; return the message that it ends."""
        if not self._pace.take():
            self._refuse("flooding", CloseReason.POLICY_VIOLATION)
        elif isinstance(event, BytesMessage):
            self._refuse("binary", CloseReason.UNSUPPORTED_DATA)
        elif isinstance(event, Ping):
            self._write(event.response())
        elif isinstance(event, TextMessage):
            self._parts.append(event.data)
            self._size += len(event.data.encode())
            if self._size > self._bytes_max:
                self._refuse("too-large", CloseReason.MESSAGE_TOO_BIG)
            elif event.message_finished:
                text = "".join(self._parts)
                self._parts, self._size = [], 0
                return text
        return None

    def _refuse(self, reason: str, code: int) -> None:
        self.reason = reason
        self.close(code)

    def _write(self, event: Event) -> None:
        with self._writing:
            try:
                block = self._protocol.send(event)
            except LocalProtocolError as error:
                raise OSError(str(error)) from error
            self.socket.sendall(block)
