import gzip
import http.client
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flagon_chassis import otlp, sink
from flagon_chassis.testing import free_port

from .test_otlp import LINE, SPAN, TRACE, request

NOW = 1_800_000_000.0
LIMITS = sink.Limits()
# By the last half of its id a trace stays or goes; see `Limits.ratio`.
GOES, STAYS = "a" * 18 + "f" * 14, "a" * 18 + "0" * 14


def span(number=1, *, trace_id=GOES, ms=1, **members):
    started = int(NOW * 1e6)
    fields = {
        "trace_id": trace_id,
        "span_id": f"{number:016x}",
        "parent_id": None,
        "service": "things",
        "name": "work",
        "kind": "server",
        "started_us": started + number,
        "ended_us": started + number + int(ms * 1000),
        "failed": False,
    }
    return otlp.Span(**(fields | members))


@pytest.fixture
def make(tmp_path):
    made = []

    def store(**limits):
        made.append(sink.Store(tmp_path, replace(LIMITS, **limits)))
        return made[-1]

    yield store
    for one in made:
        one.close()


class TestStore:
    def test_tells_a_trace_by_its_id(self, make):
        store = make()
        store.add([span(2), span(1)])

        (trace,) = store.find(GOES)

        assert trace["complete"]
        assert [one["span_id"][-1] for one in trace["spans"]] == ["1", "2"]

    def test_tells_every_trace_of_a_request(self, make):
        store = make()
        store.add([span(request_id="order-66-x"), span(2)])
        store.add([span(3, trace_id=STAYS, request_id="order-66-x")])

        found = store.find("order-66-x")

        assert {one["trace_id"] for one in found} == {GOES, STAYS}
        assert [len(one["spans"]) for one in found] == [1, 2]

    def test_knows_nothing_of_others(self, make):
        assert make().find("order-66-x") == []

    def test_keeps_what_a_service_says_of_a_span_that_the_gateway_names(self, make):
        store = make()
        store.add([span(name="caller")])
        store.add([span(name="GET /", service="gateway")])

        assert store.find(GOES)[0]["spans"][0]["name"] == "caller"

    def test_keeps_no_more_spans_of_a_trace_than_allowed(self, make):
        store = make(spans=3)

        kept = store.add([span(1), span(2)]) + store.add([span(3), span(4)])

        (trace,) = store.find(GOES)
        assert (kept, len(trace["spans"]), trace["complete"]) == (3, 3, False)

    def test_remembers_after_a_restart(self, make):
        store = make()
        store.add([span()])
        store.close()

        assert make().find(GOES)

    @pytest.mark.parametrize("left", [b"no database at all" * 500, None])
    def test_begins_anew_after_what_it_cannot_read(self, make, tmp_path, left):
        file = tmp_path / "traces.db"
        if left is None:
            with closing(sqlite3.connect(file)) as other:
                other.executescript("create table trace (a); pragma user_version = 99;")
        else:
            file.write_bytes(left)

        store = make()
        store.add([span()])

        assert store.find(GOES)


class TestSweep:
    @pytest.mark.parametrize(
        ("kept", "members"),
        [
            (False, {}),
            (False, {"ms": 10_000, "kind": "client"}),
            (False, {"ms": 10_000, "service": "gateway"}),
            (True, {"ms": 501}),
            (True, {"ms": 501, "kind": "consumer"}),
            (True, {"failed": True}),
            (True, {"failed": True, "service": "gateway"}),
            (True, {"trace_id": STAYS}),
        ],
    )
    def test_decides_after_a_while_what_stays(self, make, kept, members):
        store = make()
        store.add([span(**members)], now=NOW)
        found = members.get("trace_id", GOES)

        store.sweep(now=NOW + LIMITS.whole_seconds - 1)
        before = store.find(found)
        gone = store.sweep(now=NOW + LIMITS.whole_seconds + 1)

        assert before
        assert bool(store.find(found)) == kept
        assert gone == (not kept)

    def test_a_late_span_keeps_its_whole_trace(self, make):
        store = make()
        store.add([span(1)], now=NOW)
        store.add([span(2, failed=True)], now=NOW + LIMITS.whole_seconds - 1)

        store.sweep(now=NOW + LIMITS.whole_seconds * 3)

        assert len(store.find(GOES)[0]["spans"]) == 2

    def test_keeps_the_share_that_it_was_told(self, make):
        store = make(ratio=0.5)
        ids = [f"{number << 48:032x}" for number in range(0, 256, 8)]
        store.add([span(trace_id=one) for one in ids], now=NOW)

        store.sweep(now=NOW + LIMITS.whole_seconds + 1)

        assert sum(bool(store.find(one)) for one in ids) == len(ids) / 2

    def test_keeps_nothing_for_longer_than_allowed(self, make):
        store = make()
        store.add([span(failed=True)], now=NOW)

        store.sweep(now=NOW + LIMITS.seconds + 1)

        assert store.find(GOES) == []

    def test_stays_within_its_size_and_keeps_what_matters(self, make, tmp_path):
        size = 1_000_000
        store = make(size_bytes=size)
        store.add([span(failed=True, trace_id=STAYS)], now=NOW)
        for start in range(0, 3000, 100):
            some = [
                span(trace_id=f"{number + 1:018x}{'f' * 14}", name="n" * 500)
                for number in range(start, start + 100)
            ]
            store.add(some, now=NOW + start / 100)
            store.sweep(now=NOW + start / 100)

        assert (tmp_path / "traces.db").stat().st_size <= size
        assert store.find(STAYS)
        assert store.find(f"{3000:018x}{'f' * 14}")
        assert not store.find(f"{2:018x}{'f' * 14}")

    def test_refuses_what_finds_no_room_and_makes_some(self, make):
        store = make(size_bytes=300_000)

        def fill(start):
            some = range(start, start + 150)
            store.add(
                [span(trace_id=f"{n + 1:032x}", name="n" * 500) for n in some], now=NOW
            )

        fill(0)
        with pytest.raises(sqlite3.OperationalError):
            fill(1000)
        fill(2000)

        assert store.find(f"{2001:032x}")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    stop = threading.Event()
    bind = f"127.0.0.1:{free_port()}"
    thread = threading.Thread(
        target=sink.run,
        args=(bind, tmp_path_factory.mktemp("sink") / "traces", LIMITS, stop),
    )
    thread.start()
    ready(bind)
    yield bind
    stop.set()
    thread.join()


def ready(bind):
    host, port = bind.split(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), 1).close()
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
        else:
            return
    pytest.fail("The sink never listened.")


def ask(bind, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(bind, timeout=5)
    connection.request(
        method,
        path,
        body,
        {name.replace("_", "-"): value for name, value in headers.items()},
    )
    reply = connection.getresponse()
    found = reply.read()
    connection.close()
    return reply, found


def send(bind, body, **headers):
    headers.setdefault("Content_Type", "application/x-protobuf")
    return ask(bind, "POST", "/v1/traces", body, **headers)[0].status


class TestServe:
    def test_tells_what_it_was_sent(self, served):
        assert send(served, request({"name": "one"})) == 200

        reply, body = ask(served, "GET", f"/traces/{TRACE}")

        assert reply.status == 200
        (trace,) = json.loads(body)["traces"]
        assert trace["spans"][0]["name"] == "one"

    @pytest.mark.parametrize("path", [f"/traces/{'b' * 32}", "/traces/..", "/", "/x"])
    def test_has_nothing_else_to_tell(self, served, path):
        assert ask(served, "GET", path)[0].status == 404

    def test_says_that_it_lives_and_what_it_did(self, served):
        assert ask(served, "GET", "/readyz")[0].status == 200
        assert b"flagon_trace_spans_total" in ask(served, "GET", "/metrics")[1]

    @pytest.mark.parametrize(
        ("status", "body", "headers"),
        [
            (400, b"\xff\xffnonsense", {}),
            (400, b"abc", {"Content_Encoding": "gzip"}),
            (413, b"", {"Content_Length": "999999999"}),
            (411, b"", {"Content_Length": "minus one"}),
            (415, b"{}", {"Content_Type": "application/json"}),
        ],
    )
    def test_refuses_what_it_cannot_take(self, served, status, body, headers):
        assert send(served, body, **headers) == status

    def test_refuses_what_grows_too_large(self, served):
        packed = gzip.compress(b"\0" * 8_000_000)

        assert send(served, packed, Content_Encoding="gzip") == 413

    def test_refuses_other_paths(self, served):
        assert ask(served, "POST", "/v1/logs", b"")[0].status == 404

    def test_asks_for_patience_when_the_disk_is_full(self, served, monkeypatch):
        def full(*_given, **_named):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(sink.Store, "add", full)

        reply, _ = ask(
            served,
            "POST",
            "/v1/traces",
            request({}),
            Content_Type="application/x-protobuf",
        )
        datagram(served, json.dumps(LINE).encode())

        assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
        assert ask(served, "GET", "/readyz")[0].status == 200

    def test_serves_no_more_connections_than_it_can(self, served, monkeypatch):
        host, port = served.split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(64)]
        # Each is served: the next one comes too many.
        for one in held:
            one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 200"
        with socket.create_connection((host, int(port)), 5) as refused:
            refused.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                said = refused.recv(12)
            except ConnectionResetError:
                said = b""
        for one in held:
            one.close()

        assert said == b""

    def test_logs_a_connection_that_breaks(self, served, logged):
        host, port = served.split(":")
        broken = socket.create_connection((host, int(port)))
        # Without a farewell: the other side's next read fails.
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broken.sendall(b"POST /v1/traces HTTP/1.1\r\n")
        broken.close()

        for _ in range(200):
            if any(line["event"] == "connection_failed" for line in logged):
                return
            threading.Event().wait(0.02)
        pytest.fail("Nothing was logged.")

    def test_takes_the_gateways_lines(self, served):
        datagram(served, b"nonsense")
        line = LINE | {"trace_id": "e" * 32, "request_id": "e" * 32}
        datagram(served, b"<190>nginx: " + json.dumps(line).encode())

        for _ in range(200):
            reply, body = ask(served, "GET", f"/traces/{'e' * 32}")
            if reply.status == 200:
                break
        (trace,) = json.loads(body)["traces"]

        assert trace["spans"][0]["span_id"] == SPAN


def datagram(bind, line):
    host, port = bind.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.sendto(line, (host, int(port)))


class TestSweeps:
    def test_by_itself(self, tmp_path, monkeypatch):
        swept = threading.Event()
        monkeypatch.setattr(sink, "_SWEEP_SECONDS", 0.01)
        monkeypatch.setattr(sink.Store, "sweep", lambda _store: swept.set())
        stop = threading.Event()
        thread = threading.Thread(
            target=sink.run, args=(f"127.0.0.1:{free_port()}", tmp_path, LIMITS, stop)
        )
        thread.start()

        assert swept.wait(5)
        stop.set()
        thread.join()


class TestMain:
    def test_runs_what_the_command_line_says(self, tmp_path, monkeypatch):
        given = []
        monkeypatch.setattr(sink, "run", lambda *values: given.extend(values))
        monkeypatch.setattr(sink, "stop_at_signals", lambda _stop: None)

        sink.main(["--folder", str(tmp_path), "--ratio", "0.5", "--slow-ms", "100"])

        assert given[:3] == [
            "127.0.0.1:4318",
            tmp_path,
            replace(LIMITS, ratio=0.5, slow_ms=100.0),
        ]

    def test_ends_when_told(self, tmp_path):
        bind = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "flagon_chassis.sink", "--bind", bind]
        with subprocess.Popen(
            [*command, "--folder", str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            assert b"sink_started" in process.stdout.readline()
            os.kill(process.pid, signal.SIGTERM)
            said, _ = process.communicate(timeout=10)

        assert process.returncode == 0
        assert b"sink_stopped" in said


class TestCollector:
    def test_decides_as_the_sink_does(self):
        file = Path(__file__).parents[3] / "deploy/observability/collector.yaml"
        collector = yaml.safe_load(file.read_text())

        policies = {
            one["type"]: one[one["type"]]
            for one in collector["processors"]["tail_sampling"]["policies"]
        }
        (pipeline,) = collector["service"]["pipelines"].values()
        assert policies == {
            "status_code": {"status_codes": ["ERROR"]},
            "latency": {"threshold_ms": LIMITS.slow_ms},
            "probabilistic": {"sampling_percentage": LIMITS.ratio * 100},
        }
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) == set(collector[kind])
