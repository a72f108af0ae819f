"""`make watch`: events in a terminal, told by a stand-in for the gateway."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from flagonctl import watch

from flagon_chassis.sse import Event

from .conftest import ROOT


def event(number, **data):
    envelope = {
        "subject": f"product-{number}",
        "time": "2026-11-21T10:00:00.123Z",
        "topics": ["products", f"products/{number}"],
        "data": data,
    }
    kind = "market.flagon.product.changed.v1"
    return f"id: {number}-0\nevent: {kind}\ndata: {json.dumps(envelope)}\n\n".encode()


class Gateway:
    def __init__(self):
        self.asked = []
        self.answers = []
        self.hold = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, self.headers.get("Last-Event-ID")))
                status, blocks = outer.answers.pop(0)
                self.send_response(status)
                kind = "text/event-stream" if status == 200 else "application/json"
                self.send_header("Content-Type", kind)
                self.end_headers()
                for block in blocks:
                    if block is None:
                        outer.hold.wait(60)
                    else:
                        self.wfile.write(block)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("localhost", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,)).start()

    def command(self, *values):
        port = str(self.http.server_port)
        options = ["--mode", "local", "--port-base", port]
        return [sys.executable, "-m", "flagonctl", *options, "watch", *values]

    def run(self, *values):
        return subprocess.run(
            self.command(*values),
            env=environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def watched(self):
        return subprocess.Popen(
            self.command(),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "PYTHONPATH": str(ROOT / "deploy" / "local"), **more}


@pytest.fixture
def gateway():
    found = Gateway()
    yield found
    found.hold.set()
    found.http.shutdown()
    found.http.server_close()


class TestWatch:
    def test_prints_a_line_for_each_event(self, gateway):
        gateway.answers = [
            (200, [event(1, changed=["price_minor"], price_minor=950, name="Mug")]),
        ]

        done = gateway.run("N=1")

        assert done.returncode == 0
        [line] = done.stdout.splitlines()
        assert "product.changed.v1  product-1  price_minor=950" in line
        assert "\033" not in done.stdout
        assert gateway.asked[0][0] == "/api/v1/events?topic=products"

    def test_asks_for_what_was_typed(self, gateway):
        gateway.answers = [(200, [event(1)])]

        gateway.run(
            "N=1", "TOPIC=products/* tags", "TYPE=a.*,b", "SNAPSHOT=1", "ID=7-0"
        )

        [(path, last)] = gateway.asked
        assert path.endswith(
            "?topic=products%2F%2A&topic=tags&type=a.%2A&type=b&snapshot=1"
        )
        assert last == "7-0"

    def test_prints_the_envelopes_for_programs(self, gateway):
        gateway.answers = [(200, [b"event: gap\ndata: {}\n\n", event(1, name="ä")])]

        done = gateway.run("N=1", "--format", "json")

        [line] = done.stdout.splitlines()
        assert json.loads(line)["data"] == {"name": "ä"}

    def test_resumes_and_says_what_is_missing(self, gateway):
        gateway.answers = [
            (200, [b"retry: 10\n\n", event(1)]),
            (503, []),
            (200, [b"event: gap\ndata: {}\n\n", event(5)]),
        ]

        done = gateway.run("N=2")

        assert [last for _path, last in gateway.asked] == [None, "1-0", "1-0"]
        assert len(done.stdout.splitlines()) == 2
        assert "-- 503" in done.stderr
        assert "events are missing here" in done.stderr

    def test_says_why_it_was_refused(self, gateway):
        gateway.answers = [(422, [b'{"detail": "It is not a topic."}'])]

        done = gateway.run("TOPIC=nope")

        assert done.returncode == 1
        assert "It is not a topic." in done.stderr
        assert "Traceback" not in done.stderr

    def test_ends_quietly_by_ctrl_c(self, gateway):
        gateway.answers = [(200, [event(1), None])]
        with gateway.watched() as watching:
            assert "product-1" in watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            _out, said = watching.communicate(timeout=60)

        assert watching.returncode == 0
        assert "Traceback" not in said

    def test_ends_quietly_when_nobody_reads(self, gateway):
        gateway.answers = [(200, [event(1), None, *[event(n) for n in range(2, 2000)]])]
        with gateway.watched() as watching:
            watching.stdout.readline()
            watching.stdout.close()
            gateway.hold.set()
            said = watching.stderr.read()
            watching.wait(60)

        assert watching.returncode == 0
        assert "Traceback" not in said
        assert "BrokenPipe" not in said

    @pytest.mark.parametrize(
        ("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)]
    )
    def test_is_coloured_on_a_terminal(self, gateway, more, coloured):
        gateway.answers = [(200, [event(1)])]
        ours, theirs = pty.openpty()

        subprocess.run(
            gateway.command("N=1"),
            env=environment(**more),
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        shown = os.read(ours, 1 << 16).decode()
        os.close(theirs)
        os.close(ours)

        assert ("\033[36m" in shown) is coloured
        assert "product-1" in shown


class TestLine:
    def line(self, raw):
        return watch.line(Event("1-0", "custom.x", raw), lambda text, _colour: text)

    def test_cannot_steer_the_terminal(self):
        evil = "\033]0;owned\a\r\n"
        envelope = {"subject": evil, "time": evil, "data": {"a": evil}}

        line = self.line(json.dumps(envelope))

        assert "owned" in line
        assert line.isprintable()

    def test_shows_what_is_no_envelope(self):
        assert self.line("[1") == "[1"
        assert "custom.x" in self.line('{"data": [1]}')

    def test_is_one_line_wide(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")

        assert len(self.line(json.dumps({"data": {"a": "x" * 500}}))) <= 80
