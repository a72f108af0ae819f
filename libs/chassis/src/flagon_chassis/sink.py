"""A small OTLP/HTTP receiver that keeps recent traces on disk.

`python -m flagon_chassis.sink` runs it, for machines without a collector. Each
trace is kept whole for a few minutes; then those with an error, those that were slow and a
share of all others stay, the rest goes. What is over the limits of age and size goes too,
the least interesting first.

Whoever sends is never made to wait: a sink in trouble refuses, and says when to try again.
"""

import argparse
import json
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, UDPServer
from typing import Any

import structlog

from . import logs, metrics, otlp, plain
from .plain import stop_at_signals

log = structlog.get_logger()

_VERSION = 1
_SCHEMA = """
create table trace (
  trace_id text primary key,
  touched real not null,
  interesting integer not null,
  chosen integer not null,
  spans integer not null
) without rowid;
create index trace_order on trace (interesting, chosen, touched);
create table span (
  trace_id text not null,
  span_id text not null,
  request_id text,
  started_us integer not null,
  told text not null,
  primary key (trace_id, span_id)
) without rowid;
create index span_request on span (request_id) where request_id is not null;
"""
_TOUCH = """
insert into trace values (?, ?, ?, ?, ?) on conflict (trace_id) do update set
touched = excluded.touched, interesting = max(interesting, excluded.interesting),
spans = spans + excluded.spans
"""
_KEPT = "insert or {} into span values (?, ?, ?, ?, ?)"
_DECIDED = """
select trace_id from trace
where (interesting = 0 and chosen = 0 and touched < ?) or touched < ? limit ?
"""
_LEAST = "select trace_id from trace order by interesting, chosen, touched limit ?"
_OF_REQUEST = """
select trace_id from span where request_id = ? group by trace_id
union select trace_id from trace where trace_id = ? limit ?
"""

_ID = re.compile(r"\A[A-Za-z0-9._-]{8,64}\Z")
_PAGE_BYTES = 4096
_STEP = 200
_MOST_TRACES = 10
_MOST_BODY_BYTES = 4 * 1024 * 1024
_MOST_CONNECTIONS = 64
_IDLE_SECONDS = 15
_SWEEP_SECONDS = 5.0
_RETRY_SECONDS = "5"


@dataclass(frozen=True)
class Limits:
    """What is kept, and for how long."""

    whole_seconds: float = 600.0
    """Every trace is kept whole for this long after its last span."""
    seconds: float = 86_400.0
    """No trace is kept for longer."""
    size_bytes: int = 64 * 1024 * 1024
    """Most that the file of traces may take."""
    slow_ms: float = 500.0
    """A request, an event or a task that takes longer makes its trace stay."""
    ratio: float = 0.05
    """Share of all other traces that stay, chosen by their ids."""
    spans: int = 2000
    """Most spans of one trace; further ones are counted and dropped."""


class Store:
    """Recent traces in one file, safe to share between threads.

    :param folder: of the file; made anew when an older release or a broken disk left
        something that cannot be read.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._file = folder / "traces.db"
        self._database = self._open()
        self._spans = metrics.counter(
            "flagon_trace_spans_total", "Spans by what became of them.", "outcome"
        )

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            log.warning("traces_forgotten", reason=repr(error))
            for path in self._file.parent.glob(f"{self._file.name}*"):
                path.unlink()
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, check_same_thread=False)
        try:
            pages = max(64, self._limits.size_bytes // _PAGE_BYTES)
            database.executescript(
                f"pragma page_size = {_PAGE_BYTES};"
                "pragma journal_mode = wal;"
                # A machine that loses its power may lose the last traces with it.
                "pragma synchronous = off;"
                "pragma journal_size_limit = 1048576;"
                "pragma cache_size = -1024;"
                f"pragma max_page_count = {pages};"
            )
            (version,) = database.execute("pragma user_version").fetchone()
            if version != _VERSION:
                # The tables of another release are there already: an error as well.
                database.executescript(f"{_SCHEMA} pragma user_version = {_VERSION};")
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(self, spans: Sequence[otlp.Span], *, now: float | None = None) -> int:
        """Keep spans and return how many of them; one that is known is replaced.

        :param now: seconds since the epoch.
        :raises sqlite3.OperationalError: the disk is full.
        """
        now = time.time() if now is None else now
        by_trace: dict[str, list[otlp.Span]] = {}
        for span in spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        kept = 0
        with self._lock:
            try:
                with self._database:
                    kept = sum(
                        self._add(trace_id, some, now)
                        for trace_id, some in by_trace.items()
                    )
            except sqlite3.OperationalError:
                # Full to its limit: make room, and have the sender try again.
                self._forget(_LEAST, (_STEP,))
                self._spans.labels("refused").inc(len(spans))
                raise
        self._spans.labels("kept").inc(kept)
        self._spans.labels("over_limit").inc(len(spans) - kept)
        return kept

    def _add(self, trace_id: str, spans: list[otlp.Span], now: float) -> int:
        known = self._database.execute(
            "select spans from trace where trace_id = ?", [trace_id]
        ).fetchone()
        room = self._limits.spans - (known[0] if known else 0)
        kept = spans[: max(0, room)]
        interesting = any(span.failed or self._slow(span) for span in spans)
        chosen = int(trace_id[-14:], 16) < self._limits.ratio * 2**56
        self._database.execute(_TOUCH, (trace_id, now, interesting, chosen, len(kept)))
        for span in kept:
            # The gateway may name the span of a caller, who knows better what it was.
            kind = "ignore" if span.service == "gateway" else "replace"
            told = json.dumps(_told(span), separators=(",", ":"))
            self._database.execute(
                _KEPT.format(kind),
                (
                    trace_id,
                    span.span_id,
                    span.request_id or None,
                    span.started_us,
                    told,
                ),
            )
        return len(kept)

    def _slow(self, span: otlp.Span) -> bool:
        # A stream of events is open for as long as somebody listens; who waits for the
        # services' answers shows in their own spans.
        return (
            span.kind in {"server", "consumer"}
            and span.service != "gateway"
            and span.ended_us - span.started_us > self._limits.slow_ms * 1000
        )

    def find(self, wanted: str) -> list[dict[str, Any]]:
        """Return the traces of a request id, or the one with a trace id.

        Each has `trace_id`, `complete` (whether no span was dropped) and its `spans` in
        the order in which they began, as `Span` describes them.
        """
        with self._lock:
            ids = self._database.execute(_OF_REQUEST, [wanted, wanted, _MOST_TRACES])
            return [self._trace(one) for (one,) in ids.fetchall()]

    def _trace(self, trace_id: str) -> dict[str, Any]:
        rows = self._database.execute(
            "select told from span where trace_id = ? order by started_us", [trace_id]
        ).fetchall()
        (count,) = self._database.execute(
            "select spans from trace where trace_id = ?", [trace_id]
        ).fetchone()
        return {
            "trace_id": trace_id,
            "complete": count < self._limits.spans,
            "spans": [json.loads(told) for (told,) in rows],
        }

    def sweep(self, *, now: float | None = None) -> int:
        """Forget what need not, or may not, be kept; return how many traces.

        :param now: seconds since the epoch.
        """
        now = time.time() if now is None else now
        gone = 0
        decided = (now - self._limits.whole_seconds, now - self._limits.seconds, _STEP)
        with self._lock:
            while some := self._forget(_DECIDED, decided):
                gone += some
            # Nine tenths: there is room for what arrives before the next time.
            while self._used() > self._limits.size_bytes * 0.9:
                gone += self._forget(_LEAST, (_STEP,))
        return gone

    def _forget(self, which: str, values: tuple[float, ...]) -> int:
        with self._database:
            ids = self._database.execute(which, values).fetchall()
            self._database.executemany("delete from span where trace_id = ?", ids)
            self._database.executemany("delete from trace where trace_id = ?", ids)
        return len(ids)

    def _used(self) -> int:
        (pages,) = self._database.execute("pragma page_count").fetchone()
        (free,) = self._database.execute("pragma freelist_count").fetchone()
        return int(pages - free) * _PAGE_BYTES


def _told(span: otlp.Span) -> dict[str, Any]:
    """Return a span as it is kept and shown; what is empty is left out."""
    members = {name: getattr(span, name) for name in otlp.Span.__dataclass_fields__}
    always = {"parent_id", "started_us", "ended_us", "failed"}
    return {name: value for name, value in members.items() if name in always or value}


class Sink(ThreadingHTTPServer):
    """Takes spans at `/v1/traces` and tells traces at `/traces/<id>`.

    :param bind: address and port.
    """

    daemon_threads = True
    # All processes connect at once when the platform starts.
    request_queue_size = 128

    def __init__(self, bind: str, store: Store) -> None:
        self.store = store
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(_place(bind), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (socketserver's)
        """Serve a connection in a thread, unless there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            super().shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as above)
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:  # noqa: ANN401 (as above)
        """Log what ended a connection, in place of the library's lines on stderr."""
        log.warning("connection_failed", error=repr(sys.exception()))


def _place(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    return host, int(port)


class _Handler(plain.Handler):
    timeout = _IDLE_SECONDS
    server: Sink

    def do_GET(self) -> None:  # noqa: N802 (the library's name)
        known = self.path.removeprefix("/traces/")
        if self.path in {"/livez", "/readyz"}:
            self.answer(HTTPStatus.OK, {"status": "ready", "checks": {}})
        elif self.path == "/metrics":
            self.send(HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.exposition())
        elif known == self.path or not _ID.match(known):
            self.answer(HTTPStatus.NOT_FOUND, {"traces": []})
        else:
            traces = self.server.store.find(known)
            status = HTTPStatus.OK if traces else HTTPStatus.NOT_FOUND
            self.answer(status, {"traces": traces})

    def do_POST(self) -> None:  # noqa: N802 (the library's name)
        length = self.headers.get("Content-Length", "")
        if self.path != "/v1/traces":
            self._refuse(HTTPStatus.NOT_FOUND)
        elif self.headers.get_content_type() != "application/x-protobuf":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        elif not length.isascii() or not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > _MOST_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._take(int(length))

    def _take(self, length: int) -> None:
        encoding = self.headers.get("Content-Encoding", "")
        try:
            body = otlp.unpack(self.rfile.read(length), encoding, _MOST_BODY_BYTES)
            self.server.store.add(otlp.read(body))
        except otlp.Malformed as malformed:
            self._refuse(HTTPStatus.BAD_REQUEST, str(malformed))
        except otlp.TooLarge:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except sqlite3.OperationalError as error:
            log.warning("traces_refused", reason=str(error))
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            # An `ExportTraceServiceResponse` with nothing to say.
            self.send(HTTPStatus.OK, "application/x-protobuf", b"")

    def _refuse(self, status: HTTPStatus, detail: str = "") -> None:
        # What may be left of the body is not read as another request.
        self.answer(
            status,
            {"status": status, "detail": detail or status.phrase},
            {"Connection": "close", "Retry-After": _RETRY_SECONDS},
        )


class _Syslog(UDPServer):
    """Takes the gateway's access lines: it cannot send spans itself."""

    max_packet_size = 16_384

    def __init__(self, bind: str, store: Store) -> None:
        self.store = store
        super().__init__(_place(bind), _Line)


class _Line(BaseRequestHandler):
    server: _Syslog

    def handle(self) -> None:
        span = otlp.read_gateway(self.request[0])
        if span is None:
            return
        try:
            self.server.store.add([span])
        except sqlite3.OperationalError as error:
            log.warning("traces_refused", reason=str(error))


def run(bind: str, folder: Path, limits: Limits, stop: threading.Event) -> None:
    """Receive until `stop` is set.

    Listens at `bind` for OTLP over HTTP, and at the same port over UDP for the gateway.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        closing(Store(folder, limits)) as store,
        Sink(bind, store) as sink,
        _Syslog(bind, store) as syslog,
    ):
        servers = (sink, syslog)
        for one in servers:
            threading.Thread(target=one.serve_forever, daemon=True).start()
        log.info("sink_started", bind=bind)
        while not stop.wait(_SWEEP_SECONDS):
            store.sweep()
        for one in servers:
            one.shutdown()
    log.info("sink_stopped")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sink that a command line describes."""
    usual = Limits()
    parser = argparse.ArgumentParser(prog="flagon_chassis.sink", description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:4318", help="address and port")
    parser.add_argument("--folder", type=Path, required=True, help="of its one file")
    parser.add_argument("--whole-seconds", type=float, default=usual.whole_seconds)
    parser.add_argument("--seconds", type=float, default=usual.seconds)
    parser.add_argument("--size-bytes", type=int, default=usual.size_bytes)
    parser.add_argument("--slow-ms", type=float, default=usual.slow_ms)
    parser.add_argument("--ratio", type=float, default=usual.ratio)
    parser.add_argument("--spans", type=int, default=usual.spans)
    given = vars(parser.parse_args(arguments))
    logs.configure("traces")
    stop = threading.Event()
    stop_at_signals(stop)
    run(given.pop("bind"), given.pop("folder"), Limits(**given), stop)


if __name__ == "__main__":
    main()
