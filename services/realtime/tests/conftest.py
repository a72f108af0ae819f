"""A realtime app, real processes of it, and a client that reads streams byte by byte."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from types import SimpleNamespace
from typing import ClassVar

import psutil
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.serving import make_server

from flagon_chassis.testing import ISSUER, free_port
from flagon_realtime import wire
from flagon_realtime.app import create_app
from flagon_realtime.clients import EventLog
from flagon_realtime.ring import Entry, Interest, Ring
from flagon_realtime.roster import Grant, Roster, Ticket
from flagon_realtime.settings import Settings
from flagon_realtime.source import Source
from flagon_realtime.telemetry import Deliveries

TYPE = "market.flagon.product.changed.v1"
PATIENCE = 30.0
"""Seconds for what surely happens, on the busiest machine; no promise of ours."""

Event = namedtuple("Event", "id kind data")  # noqa: PYI024 (read in tests alone)


class Stream:
    """One connection to `GET /api/v1/events`, read as an EventSource reads it."""

    opened: ClassVar = []

    def __init__(self, port, *topics, after=None, headers=None, method="GET"):
        query = "&".join(f"topic={topic}" for topic in topics)
        lines = [f"{method} /api/v1/events?{query} HTTP/1.1", "Host: test"]
        given = dict(headers or {})
        if after:
            given["Last-Event-ID"] = after
        lines += [f"{name}: {value}" for name, value in given.items()]
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.opened.append(self)
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        self.raw = self.body = b""
        self.last_id = after
        self.comments = []
        self.retries = []
        self.ended = False
        while b"\r\n\r\n" not in self.raw:
            if not self._receive(PATIENCE):
                raise ConnectionError(self.raw)
        head, _, self.raw = self.raw.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (x.partition(": ") for x in rest)
        }
        self.chunked = self.headers.get("transfer-encoding") == "chunked"
        self._take()

    def _receive(self, seconds):
        self.sock.settimeout(max(seconds, 0.001))
        try:
            found = self.sock.recv(1 << 16)
        except TimeoutError:
            return False
        except ConnectionError:
            found = b""
        if not found:
            self.ended = True
            return False
        self.raw += found
        return True

    def _take(self):
        """Move what has come from the wire into the body, without its framing."""
        if not self.chunked:
            self.body, self.raw = self.body + self.raw, b""
            return
        while b"\r\n" in self.raw:
            size, _, rest = self.raw.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self.body += rest[:length]
            self.raw = rest[length + 2 :]

    def problem(self):
        length = int(self.headers["content-length"])
        while len(self.body) < length and self._receive(PATIENCE):
            self._take()
        return json.loads(self.body)

    def next(self, seconds=PATIENCE):
        """Return the next event; None when none comes or the stream ends."""
        end = time.monotonic() + seconds
        while True:
            block, found, rest = self.body.partition(b"\n\n")
            if found:
                self.body = rest
                event = self._event(block.decode())
                if event:
                    return event
            elif not self._receive(end - time.monotonic()):
                return None
            else:
                self._take()

    def _event(self, block):
        kind, data = "message", []
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "":
                self.comments.append(value)
            elif name == "id":
                self.last_id = value
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "retry":
                self.retries.append(int(value))
        return Event(self.last_id, kind, "\n".join(data)) if data else None

    def read_until(self, condition):
        """Read on, past events too, until something has been seen."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it was not sent in time"
            assert not self.ended, "the stream ended before"
            self.next(0.05)

    def take(self, count, seconds=PATIENCE):
        """Return so many events; fewer when the time is over or the stream ends."""
        end = time.monotonic() + seconds
        found = []
        while len(found) < count:
            event = self.next(end - time.monotonic())
            if event is None:
                break
            found.append(event)
        return found

    def wait_for_end(self, seconds=PATIENCE):
        """Return the events up to the end of the stream."""
        found = self.take(1_000_000, seconds)
        assert self.ended, "the stream is still open"
        return found

    def close(self):
        self.sock.close()


class Publisher:
    """Adds entries to the stream as the relays do."""

    def __init__(self, url):
        self.redis = redis.Redis.from_url(url)

    def __call__(self, *topics, data=None, **fields):
        entry = {
            "id": "e",
            "type": TYPE,
            "topics": " ".join(topics),
            "event": json.dumps(data if data is not None else {}),
            **fields,
        }
        return self.redis.xadd("events", entry).decode()

    def many(self, count, *topics, first=0, size=0, **fields):
        """Add numbered entries; `size` bytes of ballast in each."""
        pipeline = self.redis.pipeline(transaction=False)
        for number in range(first, first + count):
            entry = {
                "id": str(number),
                "type": TYPE,
                "topics": " ".join(topics),
                "event": json.dumps({"n": number, "x": "x" * size}),
                **fields,
            }
            pipeline.xadd("events", entry)
        return [identity.decode() for identity in pipeline.execute()]


def numbers(events):
    return [json.loads(event.data)["n"] for event in events if event.kind == TYPE]


def runs(found):
    """Say in short which numbers were found in which order, as in `0-7 9 10-12`."""
    parts = []
    for number in found:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(
        f"{first}-{last}" if first < last else f"{first}" for first, last in parts
    )


def story(events):
    """Say in short what was sent in which order, as in `gap 0-7 close`."""
    parts = []
    for plain, group in itertools.groupby(events, lambda event: event.kind == TYPE):
        if plain:
            parts.append(runs(numbers(group)))
        else:
            parts += [event.kind for event in group]
    return " ".join(parts)


@pytest.fixture
def publish(redis_url):
    publisher = Publisher(redis_url)
    yield publisher
    publisher.redis.close()


@pytest.fixture
def make_settings(redis_url):
    def make(**changes):
        return Settings(
            **{
                "environment": "testing",
                "secret_key": "s" * 32,
                "redis_store_url": redis_url,
                "redis_cache_url": redis_url,
                "public_url": ISSUER,
                "rate_limit": "1000000 per minute",
                "check_seconds": 0.1,
                **changes,
            }
        )

    return make


@pytest.fixture
def make_app(make_settings, bearer):
    apps = []

    def make(**changes):
        app = create_app(make_settings(**changes))
        app.extensions["flagon.keys"]._fetch = bearer.jwks
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["flagon.station"].stop()


@pytest.fixture
def make_source(redis_url):
    """Makes what serves streams, without threads: tests take each step themselves."""
    made = []

    def make(capacity=1000, max_bytes=1 << 20, **changes):
        source = Source(
            **{
                "ring": Ring(capacity, max_bytes),
                "event_log": EventLog(redis_url, "events", block_seconds=0.05),
                "roster": Roster(1000),
                "deliveries": Deliveries(20),
                "retry_milliseconds": 2000,
                "heartbeat_seconds": 0.05,
                "stall_seconds": 30.0,
                "rotate_seconds": 600.0,
                "replay_events": 20_000,
                **changes,
            }
        )
        made.append(source)
        return source

    yield make
    for source in made:
        source.event_log.close()


def wait_for_reader(server, last):
    """Wait until the server knows an event: a new client is told where it starts."""
    end = time.monotonic() + PATIENCE
    position = None
    while position != last:
        assert time.monotonic() < end, "it was not read in time"
        newcomer = server.open("categories")
        newcomer.read_until(lambda one=newcomer: one.last_id)
        position = newcomer.last_id
        newcomer.close()


def ticket(*topics, holder="tests", limit=100, **options):
    interest = Interest(frozenset(topic.encode() for topic in topics))
    return Ticket(interest, holder, limit, **options)


def grant(
    sub="ada",
    jti="j",
    sid="s",
    gid="g",
    kid="k",
    issued_at=100,
    expires_at=2_000_000_000,
):
    return Grant(sub, jti, sid, gid, kid, issued_at, expires_at)


def entry(number, *topics, size=0, traceparent=b"", about=None):
    """An entry whose id is its number."""
    payload = wire.event(b"%d-0" % number, TYPE.encode(), b'{"n": %d}' % number)
    if size:
        payload += b":" + b"x" * size + b"\n\n"
    names = tuple(topic.encode() for topic in topics)
    return Entry(
        (number, 0), names, payload, traceparent, TYPE.encode(), about, number / 1000
    )


@pytest.fixture
def helpers():
    return SimpleNamespace(
        TYPE=TYPE,
        Publisher=Publisher,
        Stream=Stream,
        ticket=ticket,
        grant=grant,
        entry=entry,
        numbers=numbers,
        runs=runs,
        story=story,
        wait_for_reader=wait_for_reader,
    )


class Process:
    """A running realtime server and its workers."""

    def __init__(self, port, popen):
        self.port = port
        self.popen = popen

    def open(self, *topics, **options):
        return Stream(self.port, *topics, **options)

    def get(self, path):
        """Return status and body of a plain request."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
            request = f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
            sock.sendall(request.encode())
            found = b""
            while part := sock.recv(1 << 16):
                found += part
        if not found:
            raise ConnectionError("closed without an answer")
        head, _, body = found.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def metric(self, name, **labels):
        _status, text = self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
            and all(sample.labels.get(k) == v for k, v in labels.items())
        )

    def wait_for(self, condition, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)

    def workers(self):
        return psutil.Process(self.popen.pid).children()

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait(5)


@pytest.fixture(autouse=True)
def close_streams():
    yield
    while Stream.opened:
        Stream.opened.pop().close()


@pytest.fixture(scope="session")
def launch(redis_server, jwks_url, tmp_path_factory):
    """Starts the server as it runs in production; whoever calls it stops it."""

    def start(*, wait=True, **settings):
        port = free_port()
        folder = tmp_path_factory.mktemp("realtime")
        given = {
            "environment": "testing",
            "secret_key": "s" * 32,
            "redis_store_url": redis_server.url,
            "redis_cache_url": redis_server.url,
            "public_url": ISSUER,
            "jwks_url": jwks_url,
            "rate_limit": "1000000 per minute",
            "bind": f"127.0.0.1:{port}",
            "workers": 1,
            "drain_seconds": 0,
            "close_seconds": 0.3,
            "check_seconds": 0.1,
            "connections_per_address": 5000,
            "metrics_dir": folder / "metrics",
            **settings,
        }
        environment = {f"REALTIME_{k.upper()}": str(v) for k, v in given.items()}
        log = folder / "out"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", "flagon_realtime", "serve"],
                env={**os.environ, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        process = Process(port, popen)
        process.log = log
        if wait:
            try:
                process.wait_for(lambda: _ready(process), 2 * PATIENCE)
            except AssertionError:
                process.stop()
                raise AssertionError(log.read_text()) from None
        return process

    return start


@pytest.fixture
def start_process(redis_url, launch):
    """Starts a server of the test's own, with other settings if given."""
    started = []

    def start(**settings):
        started.append(launch(**settings))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def shared_processes(launch):
    """Servers by their settings: starting one for each test would take minutes."""
    started = {}

    def find(**settings):
        key = tuple(sorted(settings.items()))
        if key not in started:
            started[key] = launch(**settings)
        return started[key]

    yield find
    for process in started.values():
        process.popen.send_signal(signal.SIGTERM)
    for process in started.values():
        process.stop()


def _ready(process):
    assert process.popen.poll() is None, process.log.read_text()
    try:
        return process.get("/readyz")[0] == 200
    except OSError:
        return False


class Threaded:
    """The same app under a server that keeps its sockets: streams are generators."""

    def __init__(self, app):
        self.app = app
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def open(self, *topics, **options):
        return Stream(self.port, *topics, **options)


@pytest.fixture
def start_threaded(make_app):
    started = []

    def start(**settings):
        app = make_app(**settings)
        station = app.extensions["flagon.station"]
        station.start()
        assert station._reader.ready.wait(PATIENCE)
        started.append(Threaded(app))
        return started[-1]

    yield start
    for one in started:
        station = one.app.extensions["flagon.station"]
        for subscriber in station.source.roster.everyone():
            subscriber.end("restart")
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture(params=["handed-over", "generated"])
def start_server(request, redis_url):
    """Gives a server of either kind: what a client sees must not differ."""
    if request.param == "handed-over":
        return request.getfixturevalue("shared_processes")
    return request.getfixturevalue("start_threaded")


@pytest.fixture(params=["handed-over", "generated"])
def start_fresh_server(request):
    """Gives a server that has not seen the events of other tests."""
    kind = "process" if request.param == "handed-over" else "threaded"
    return request.getfixturevalue(f"start_{kind}")


@pytest.fixture
def client_token(bearer):
    """A token as the client credentials grant gives it."""

    def make(client_id="robot", scope="events:write", **claims):
        return bearer(
            scope, sub=client_id, **{"client_id": client_id, "sid": None, **claims}
        )

    return make
