"""The servers that a service may run under: a function each, `settings.server` chooses.

What callers may notice of the choice: docs/patterns/swapping-the-server.md.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from . import health
from .server import forget_metrics, make_app, share_memory, warm_up
from .settings import ServiceSettings

if TYPE_CHECKING:
    from flask import Flask

Started = Callable[["Flask"], object]
"""What is to be done in each worker process before it serves."""
Work = Callable[
    ["Flask", list[socket.socket], ServiceSettings, Started | None, int], NoReturn
]
"""A worker process: serves an app on sockets until it is told to stop or its master, whose
id comes last, is gone."""

log = structlog.get_logger()

_IDLE_SECONDS = 75
"""How long a connection may wait for its next request: longer than the gateway keeps it."""
_BACKLOG = 2048
_CONNECTIONS = 1000
_PAUSE_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_TOLD = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def gunicorn(
    settings: ServiceSettings,
    app: str,
    started: Started | None,
    options: Mapping[str, Any],
) -> None:
    """Serve with gunicorn until SIGTERM.

    :param options: further settings of gunicorn.
    """
    from gunicorn.app.base import BaseApplication  # noqa: PLC0415 (not under others)
    from gunicorn.arbiter import Arbiter  # noqa: PLC0415 (as above)

    class Server(BaseApplication):
        def load_config(self) -> None:
            for name, value in (_gunicorn(settings, started) | {**options}).items():
                self.cfg.set(name, value)

        def load(self) -> "Flask":
            loaded: Flask = make_app(app)
            if settings.server != "gunicorn":
                # The service has options that only gunicorn knows.
                log.warning("server_kept", server="gunicorn", asked=settings.server)
            if self.cfg.preload_app:
                warm_up(loaded)
            return loaded

    class DrainingArbiter(Arbiter):
        def handle_term(self) -> None:
            _drain(settings)
            super().handle_term()

    DrainingArbiter(Server()).run()


def _gunicorn(settings: ServiceSettings, started: Started | None) -> dict[str, Any]:
    return {
        "bind": settings.bind.split(","),
        "worker_class": "gthread",
        "workers": settings.workers,
        "threads": settings.threads,
        "worker_connections": _CONNECTIONS,
        "backlog": _BACKLOG,
        "timeout": 30,
        "graceful_timeout": round(settings.grace_seconds),
        "keepalive": _IDLE_SECONDS,
        # The gateway takes addresses and headers of 16 KiB, and what is longer it refuses
        # in our words; gunicorn's own refusal would be a page of HTML.
        "limit_request_line": 0,
        "limit_request_field_size": 0,
        # The heartbeat file must not wait for a disk.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108 (made by gunicorn, unnamed)
        # Its default path is one for all services of a user, below a home that a
        # read-only container does not have.
        "control_socket_disable": True,
        # The access line is written by `logs`, with the request id and the trace.
        "accesslog": None,
        "loglevel": "warning",
        "pre_fork": lambda _arbiter, _worker: share_memory(),
        "post_worker_init": lambda worker: started and started(worker.wsgi),
        "child_exit": lambda _arbiter, worker: forget_metrics(worker.pid),
        "pre_request": _let_go,
    }


def _let_go(_worker: object, request: Any) -> None:  # noqa: ANN401 (gunicorn's)
    """Keep no connection of a server that drains: its next request goes elsewhere."""
    if health.draining():
        request.force_close()


def waitress(
    settings: ServiceSettings, app: str, started: Started | None, *, preload: bool
) -> None:
    """Serve with waitress until SIGTERM."""
    _supervise(_with_waitress, settings, app, started, preload=preload)


def uwsgi(
    settings: ServiceSettings, app: str, started: Started | None, *, preload: bool
) -> None:
    """Serve with uWSGI until SIGTERM."""
    # Here and not in each worker: an image without it says so at once.
    from .uwsgi import work  # noqa: PLC0415 (not under others)

    _supervise(work, settings, app, started, preload=preload)


def _supervise(
    work: Work,
    settings: ServiceSettings,
    app: str,
    started: Started | None,
    *,
    preload: bool,
) -> None:
    """Do the same work in several processes until SIGTERM.

    waitress has no other processes; uWSGI would have a master, but one that ends them in
    its own way and does not say which has died. That they are replaced when they die and
    that none drops a request is done here.
    """
    # Before there are threads: one that let them through would end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
    listeners = [_listen(place) for place in settings.bind.split(",")]
    loaded = None
    if preload:
        loaded = make_app(app)
        warm_up(loaded)
    master = os.getpid()

    def fork() -> int:
        share_memory()
        return os.fork() or work(
            loaded or make_app(app), listeners, settings, started, master
        )

    workers = {fork() for _ in range(settings.workers)}
    while signal.sigwait(_TOLD) == signal.SIGCHLD:
        for pid, status in _ended(workers):
            log.warning("worker_ended", worker=pid, status=status)
            forget_metrics(pid)
            if status > 0:
                # It failed, and the next may as well: not as fast as it can.
                time.sleep(_PAUSE_SECONDS)
            workers.add(fork())
    _drain(settings)
    for listener in listeners:
        listener.close()
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    # Who is still there a second after the end of its time does not answer.
    end = time.monotonic() + settings.grace_seconds + 1
    while workers and (left := end - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
        _ended(workers)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _listen(place: str) -> socket.socket:
    """Return the listening socket of an address, or the one that was handed down."""
    if place.startswith("fd://"):
        return socket.socket(fileno=int(place.removeprefix("fd://")))
    host, _, port = place.rpartition(":")
    return socket.create_server((host, int(port)), backlog=_BACKLOG)


def _ended(workers: set[int]) -> list[tuple[int, int]]:
    """Take those that are gone from the set; return them with how they ended.

    :returns: the id and the exit status, or below 0 the signal.
    """
    found = [os.waitpid(pid, os.WNOHANG) for pid in workers]
    gone = [(pid, os.waitstatus_to_exitcode(status)) for pid, status in found if pid]
    workers.difference_update(pid for pid, _status in gone)
    return gone


def _with_waitress(
    app: "Flask",
    listeners: list[socket.socket],
    settings: ServiceSettings,
    started: Started | None,
    master: int,
) -> NoReturn:
    """Serve in one process until it is told to stop or its master is gone, and end it."""
    from waitress import create_server, wasyncore  # noqa: PLC0415 (not under others)
    from waitress.server import BaseWSGIServer  # noqa: PLC0415 (as above)

    # That requests wait for a thread is measured by who sends them.
    logging.getLogger("waitress").setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # By their files: what listens, a pipe that wakes each of those, and connections.
    parts: dict[int, Any] = {}
    create_server(
        app,
        map=parts,
        sockets=listeners,
        threads=settings.threads,
        backlog=_BACKLOG,
        connection_limit=_CONNECTIONS,
        channel_timeout=_IDLE_SECONDS,
        # What a thread has made waits here for a slow client, but not without a limit.
        outbuf_high_watermark=1 << 20,
        # The gateway's headers, which it sets anew, are read by the app.
        clear_untrusted_proxy_headers=False,
        log_socket_errors=False,
        ident=None,
    )
    doors = [part for part in parts.values() if isinstance(part, BaseWSGIServer)]
    connection_class = _connection_class()
    for door in doors:
        door.channel_class = connection_class
    stopping = False

    def stop(*_signal: object) -> None:
        nonlocal stopping
        stopping = True
        doors[0].pull_trigger()

    def turn(seconds: float) -> None:
        # `poll`, since `select` knows no file above 1024.
        wasyncore.loop(timeout=seconds, use_poll=True, map=parts, count=1)

    signal.signal(signal.SIGTERM, stop)
    # From a terminal it comes to all processes; the master says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
    if started:
        started(app)
    while not stopping and os.getppid() == master:
        turn(1)
    for door in doors:
        door.del_channel()
        door.socket.close()
    end = time.monotonic() + settings.grace_seconds
    connections = True
    while connections and time.monotonic() < end:
        # What has come is read before anything is closed.
        turn(_LOOK_SECONDS)
        connections = False
        for part in list(parts.values()):
            if isinstance(part, connection_class):
                if part.busy:
                    connections = True
                else:
                    part.handle_close()
    sys.exit()


def _connection_class() -> Any:  # noqa: ANN401 (of a library without types)
    """Return waitress' connection with our refusals and our way to stop."""
    from waitress.channel import HTTPChannel  # noqa: PLC0415 (not under others)
    from waitress.parser import HTTPRequestParser, ParsingError  # noqa: PLC0415 (as above)
    from waitress.task import ErrorTask  # noqa: PLC0415 (as above)

    from . import problems  # noqa: PLC0415 (never before gevent has patched)

    class Parser(HTTPRequestParser):
        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            # Whoever stands before us may have believed the other one (RFC 9112 6.1).
            if self.chunked and "CONTENT_LENGTH" in self.headers:
                raise ParsingError("Send a length or chunks, not both.")

    class Refusal(ErrorTask):
        def execute(self) -> None:
            error = self.request.error
            self.status = f"{error.code} {error.reason}"
            body = problems.bare(error.code, error.body)
            self.response_headers = [("Content-Type", problems.CONTENT_TYPE)]
            self.set_close_on_finish()
            self.content_length = len(body)
            self.write(body)

    class Connection(HTTPChannel):
        parser_class = Parser
        error_task_class = Refusal

        @property
        def busy(self) -> bool:
            """Whether a request is being read, answered or written."""
            return bool(self.request or self.requests or self.total_outbufs_len)

        def service(self) -> None:
            if health.draining():
                self.requests[0].headers["CONNECTION"] = "close"
            super().service()

    return Connection


def _drain(settings: ServiceSettings) -> None:
    """Let load balancers see the failing readiness, while the workers go on serving."""
    health.drain()
    time.sleep(settings.drain_seconds)
