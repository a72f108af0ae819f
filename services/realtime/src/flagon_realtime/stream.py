"""The response that is a stream: its socket goes to the hub, or a generator feeds it."""

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from flask import Response
from gunicorn.workers.base_async import ALREADY_HANDLED

from . import wire
from .generated import Generated
from .hub import Hub
from .roster import Ticket
from .source import Source


class StreamResponse(Response):
    """An endless `text/event-stream`.

    Under a worker that can let go of a socket, the socket goes to the hub and the
    request ends. Under any other server (the test client, threads, TLS in the server)
    the same stream is a generator that holds on to its thread. Clients cannot tell.

    :param hub: takes sockets; None where the server keeps them.
    """

    def __init__(self, source: Source, ticket: Ticket, hub: Hub | None) -> None:
        super().__init__(content_type=wire.CONTENT_TYPE)
        self.headers["Cache-Control"] = "no-store"
        # A proxy that gathers bytes first would keep events to itself.
        self.headers["X-Accel-Buffering"] = "no"
        self._source = source
        self._ticket = ticket
        self._hub = hub

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request as WSGI has it."""
        sock = connection_of(environ)
        if environ["REQUEST_METHOD"] == "HEAD":
            self.response = []
        elif self._hub is not None and sock is not None and _plain(sock, environ):
            self._hub.add(sock, self._ticket, self._head(environ))
            # Compared by identity: the worker knows it as "do nothing more".
            handled: Iterable[bytes] = ALREADY_HANDLED
            return handled
        else:
            self.response = Generated(self._source, self._ticket, sock).blocks()
        return super().__call__(environ, start_response)

    def _head(self, environ: dict[str, Any]) -> bytes:
        """Return what the server would have sent before the body.

        Without a length or chunks: the bytes are the same for all clients, and the
        stream ends with the connection.
        """
        lines = ["HTTP/1.1 200 OK"]
        lines += [
            f"{name}: {value}"
            for name, value in self.get_wsgi_headers(environ)
            if name.lower() not in {"content-length", "connection"}
        ]
        lines += ["Connection: close", "", ""]
        opening = wire.opening(self._source.retry())
        return "\r\n".join(lines).encode("latin-1") + opening


def handed_socket(environ: dict[str, Any]) -> socket.socket | None:
    """Return the connection of a request, where the server lets go of it."""
    sock: socket.socket | None = environ.get("gunicorn.socket")
    return sock if sock is not None and _plain(sock, environ) else None


def connection_of(environ: dict[str, Any]) -> socket.socket | None:
    """Return the connection of a request, where the server tells."""
    for name in ("gunicorn.socket", "werkzeug.socket"):
        if name in environ:
            found: socket.socket = environ[name]
            return found
    return None


def _plain(sock: socket.socket, environ: dict[str, Any]) -> bool:
    """Say whether what is written to the socket is what the client reads."""
    # gunicorn marks requests that share their connection with others (HTTP/2) so.
    return not isinstance(sock, ssl.SSLSocket) and "HTTP_VERSION" not in environ
