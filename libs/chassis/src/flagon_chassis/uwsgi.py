"""uWSGI in one worker process, and what it leaves to others of a server's work.

It reads requests with much patience: two lengths, a length beside chunks, line breaks in a
header. What follows such a request on its connection would be another one for whoever
stands before us. So a connection has one request, and what is wrong with that is refused
before the app is asked.
"""

import atexit
import io
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote_to_bytes

import pyuwsgi
import structlog
from werkzeug.wsgi import ClosingIterator

from . import health, problems
from .settings import ServiceSettings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Flask

    from .wsgi import Started

log = structlog.get_logger()

_HEAD_BYTES = 65535
"""Of a request without its body, and of what uWSGI makes of it: more it cannot take."""
_CHUNK_BYTES = 16 << 20
"""Of one chunk of a body, which is held in memory."""
_SILENCE_SECONDS = 30
"""How long a client may neither send nor take anything."""
_LOOK_SECONDS = 1
_LENGTH = re.compile(r"[0-9]{1,18}")
_BREAK = re.compile(r"[\r\n\0]")
_OPTIONS = (
    "--strict",
    "--need-app",
    "--single-interpreter",
    "--enable-threads",
    f"--module={__name__}:_load()",
    f"--buffer-size={_HEAD_BYTES}",
    f"--chunked-input-limit={_CHUNK_BYTES}",
    f"--socket-timeout={_SILENCE_SECONDS}",
    # The access line is written by `logs`, with the request id and the trace.
    "--disable-logging",
    # A client that is gone is no failure.
    "--ignore-sigpipe",
    "--ignore-write-errors",
    "--disable-write-exception",
)

_load: "Callable[[], WSGIApplication]"
"""Gives uWSGI what it serves; found by its name."""


def work(
    app: "Flask",
    listeners: list[socket.socket],
    settings: ServiceSettings,
    started: "Started | None",
    master: int,
) -> NoReturn:
    """Serve in this process until it is told to stop or its master is gone, and end it."""
    stdout = sys.stdout

    def load() -> "WSGIApplication":
        import uwsgi  # noqa: PLC0415 (there is none before)

        # Where our lines go is not where uWSGI wants everything to go.
        sys.stdout = stdout
        # It has let them through, and will end the process when they come.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        _start(_stop, listeners, settings, master)
        # Its own end has a status of its own.
        uwsgi.atexit = _end
        return _strict(app, uwsgi)

    global _load  # noqa: PLW0603 (a process serves one app)
    _load = load
    if started:
        started(app)
    _start(_tell, _overheard())
    for listener in listeners:
        # Who takes a connection waits for what it says: may it come with its request.
        listener.setsockopt(socket.SOL_TCP, socket.TCP_DEFER_ACCEPT, _SILENCE_SECONDS)
    sys.exit(
        pyuwsgi.run(
            *(f"--http-socket=fd://{listener.fileno()}" for listener in listeners),
            f"--threads={settings.threads}",
            *_OPTIONS,
        )
    )


def _start(function: Callable[..., object], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _overheard() -> io.TextIOWrapper:
    """Return what is written to standard error from now on: uWSGI knows no other log."""
    reader, writer = os.pipe()
    # Who reads needs the lock of Python, which a writer may hold.
    os.set_blocking(writer, False)
    os.dup2(writer, 2)
    os.close(writer)
    return os.fdopen(reader, encoding="utf-8", errors="backslashreplace")


def _tell(lines: Iterable[str]) -> None:
    """Log what uWSGI says; what it says at its start is of interest to few."""
    ready = False
    for line in lines:  # pragma: no branch (as long as the process)
        if ready:
            log.info("uwsgi", said=line.strip())
        else:
            log.debug("uwsgi", said=line.strip())
        ready = ready or line.startswith("spawned uWSGI worker")


def _stop(
    listeners: list[socket.socket], settings: ServiceSettings, master: int
) -> None:
    """Wait for the end, and let uWSGI finish what it has begun."""
    # A signal that came while uWSGI made itself is lost, the reason for it is not.
    told = health.draining()
    while not told and os.getppid() == master:
        told = signal.sigtimedwait({signal.SIGTERM}, _LOOK_SECONDS) is not None
    with socket.socket() as closed:
        for listener in listeners:
            # Others may listen there as well, so only our end of it is closed.
            os.dup2(closed.fileno(), listener.fileno())
    late = time.monotonic() + settings.grace_seconds
    while time.monotonic() < late:
        # To the one thread that may end the process; again, should it not listen yet.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
        time.sleep(_LOOK_SECONDS)
    _end()


def _end() -> NoReturn:
    """End the process as the interpreter would, but for threads that do not come back."""
    atexit._run_exitfuncs()  # noqa: SLF001 (nothing public does it)
    os._exit(0)  # pragma: no cover (what measures has just ended)


def _strict(app: "WSGIApplication", server: Any) -> "WSGIApplication":  # noqa: ANN401 (a module without types)
    """Return the app with HTTP's rules around it.

    :param server: uWSGI's own module.
    """

    def served(
        environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        fault = _fault(environ)
        if fault:
            return _refused(fault, start_response)
        # The address as it came: uWSGI takes more out of it than others do.
        path = environ["REQUEST_URI"].partition("?")[0]
        environ["PATH_INFO"] = unquote_to_bytes(path.encode("latin-1")).decode(
            "latin-1"
        )
        # It believes what anybody says of that; whom to believe is known to the app.
        environ["wsgi.url_scheme"] = "http"
        if "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"] = io.BufferedReader(_Chunks(server.chunked_read))
            environ["wsgi.input_terminated"] = True
        if environ.get("HTTP_EXPECT", "").lower() == "100-continue":
            # The first bytes on a connection: there is room for them.
            os.write(server.connection_fd(), b"HTTP/1.1 100 Continue\r\n\r\n")
        framed = False

        def begin(
            status: str,
            headers: list[tuple[str, str]],
            *failure: Any,  # noqa: ANN401 (as WSGI has it)
        ) -> Callable[[bytes], object]:
            nonlocal framed
            framed = _needs_chunks(environ, status, headers)
            more = [("Transfer-Encoding", "chunked")] if framed else []
            return start_response(
                status, [*headers, *more, ("Connection", "close")], *failure
            )

        parts = app(environ, begin)
        if framed:
            whole = ClosingIterator(parts)
            parts = ClosingIterator(_in_chunks(whole), whole.close)
        return parts

    return served


def _fault(environ: "WSGIEnvironment") -> str | None:
    """Say what is wrong with a request that uWSGI lets through (RFC 9112)."""
    length = environ.get("CONTENT_LENGTH")
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if environ.get("SERVER_PROTOCOL") not in {"HTTP/1.0", "HTTP/1.1"}:
        return "That is no request of a version of HTTP that is spoken here."
    if _BREAK.search("".join(_lines(environ))):
        return "A line of the head ends in its middle."
    if length is not None and coding is not None:
        return "Send a length or chunks, not both."
    if length is not None and not _LENGTH.fullmatch(length):
        return "The length of the body is no number."
    if coding is not None and coding.lower() != "chunked":
        return "The only coding of a transfer that is known here is chunked."
    return None


def _lines(environ: "WSGIEnvironment") -> Iterator[str]:
    for name, value in environ.items():
        # In an address that was decoded there may be anything.
        if isinstance(value, str) and name != "PATH_INFO":
            yield name
            yield value


def _refused(fault: str, start_response: "StartResponse") -> list[bytes]:
    body = problems.bare(400, fault)
    headers = [
        ("Content-Type", problems.CONTENT_TYPE),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    start_response("400 Bad Request", headers)
    return [body]


class _Chunks(io.RawIOBase):
    """A body that comes in chunks, as a file."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: "WriteableBuffer") -> int:
        self._left = self._left or memoryview(self._read())
        with memoryview(into) as place:
            taken = min(len(place), len(self._left))
            place[:taken] = self._left[:taken]
        self._left = self._left[taken:]
        return taken


def _needs_chunks(
    environ: "WSGIEnvironment", status: str, headers: list[tuple[str, str]]
) -> bool:
    """Say whether only chunks would tell a whole answer from one that broke off."""
    return (
        environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        and environ["REQUEST_METHOD"] != "HEAD"
        and status[:3] not in {"204", "304"}
        and all(name.lower() != "content-length" for name, _value in headers)
    )


def _in_chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        if part:
            yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"
