"""What containers say arrives at Loki, whatever is away for a while.

Loki itself is a stand-in with its interface for writers: no image of it is to be had
everywhere. All else is as `make up WITH=observability` starts it.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from uuid import uuid4

import pytest
from harness.engine import ROOT
from harness.waiting import until

sys.path.insert(0, str(ROOT / "deploy" / "local"))

from flagonctl.configuration import container_logs

LOKI = """
import http.server
found = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        found.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[%s]" % b",".join(found))
http.server.ThreadingHTTPServer(("0.0.0.0", 3100), Handler).serve_forever()
"""
ASK = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:3100').read().decode())"


def docker(*words, **options):
    done = subprocess.run(
        ["docker", *words], check=False, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, (words, done.stderr[-2000:])
    return done.stdout.strip()


def python(stack, program):
    """Return how a container of the stack's own image runs a program."""
    image = docker("inspect", "--format", "{{.Image}}", stack.container("web"))
    return ["--entrypoint", "python", image, "-c", program]


class Loki:
    """The stand-in, in a container beside the stack's."""

    def __init__(self, stack):
        self.network = f"flagon-{stack.port_base}_inside"
        where = ["--network", self.network, "--network-alias", "loki"]
        self.id = docker("run", "--detach", "--rm", *where, *python(stack, LOKI))

    def lines(self):
        """Return labels, time (ns) and line of each entry, in the order of arrival."""
        pushed = json.loads(docker("exec", self.id, "python", "-c", ASK))
        return [
            (stream["stream"], int(at), line)
            for one in pushed
            for stream in one["streams"]
            for at, line in stream["values"]
        ]

    def of(self, request):
        """Return the entries about a request."""
        return [one for one in self.lines() if request in one[2]]

    @contextmanager
    def away(self):
        """Take it out of the network for a while."""
        docker("network", "disconnect", self.network, self.id)
        try:
            yield
        finally:
            docker("network", "connect", "--alias", "loki", self.network, self.id)

    def close(self):
        docker("rm", "--force", self.id)


@pytest.fixture(scope="module")
def compose(stack):
    """Asks Compose for what watches, and takes it away at the end."""

    def ask(*words):
        return docker(
            *("compose", "--env-file", str(stack.state / "compose.env")),
            *("--profile", "observability", *words),
            cwd=ROOT,
            env={**os.environ, "FLAGON_CONTAINER_LOGS": container_logs()},
        )

    yield ask
    ask("rm", "--stop", "--force", "--volumes", "log-shipper")


@pytest.fixture(scope="module")
def loki(stack, compose):
    found = Loki(stack)
    compose("up", "--detach", "--build", "--wait", "--no-deps", "log-shipper")
    yield found
    found.close()


@pytest.fixture
def asked(stack):
    """Make a request that several services speak of, and return its id."""

    def ask():
        with stack.client() as client:
            answer = client.get("/")
        assert answer.is_success
        return answer.headers["x-request-id"]

    return ask


def services(entries):
    return {labels["service"] for labels, _at, _line in entries}


def arrived(loki, request):
    wanted = {"gateway", "web"}
    until(lambda: services(loki.of(request)) >= wanted, what="lines of the request")
    return loki.of(request)


class TestLines:
    def test_arrive_as_they_were_said_with_their_labels(self, stack, loki, asked):
        began = time.time_ns()
        found = arrived(loki, asked())

        [(labels, at, line)] = [
            one
            for one in found
            if one[0]["service"] == "web" and json.loads(one[2])["event"] == "request"
        ]
        assert labels == {
            "platform": f"flagon-{stack.port_base}",
            "service": "web",
            "level": "info",
        }
        assert began < at < time.time_ns()
        assert json.loads(line) in stack.logs("web")

    def test_are_of_this_platform_and_not_its_own(self, stack, loki, asked):
        arrived(loki, asked())
        labels = [labels for labels, _at, _line in loki.lines()]

        assert {one["platform"] for one in labels} == {f"flagon-{stack.port_base}"}
        assert "log-shipper" not in services(loki.lines())
        assert services(loki.lines()) >= {"postgres", "redis-store", "worker", "auth"}

    def test_are_not_lost_while_loki_is_away(self, loki, asked):
        with loki.away():
            request = asked()

        arrived(loki, request)

    def test_are_not_lost_when_the_shipper_is_killed(self, loki, compose, asked):
        before = len(loki.lines())
        compose("kill", "log-shipper")
        request = asked()
        compose("up", "--detach", "--wait", "--no-deps", "log-shipper")

        arrived(loki, request)
        # It went on where it was, and did not send all that there ever was.
        assert len(loki.lines()) < 2 * before

    def test_of_a_flood_arrive_though_files_are_turned_over(self, stack, loki):
        word, number = uuid4().hex, 30_000
        program = f"for n in range({number}): print('{word}', n)"
        name = f"flagon-{stack.port_base}-flood-1"
        files = ["tag={{.Name}}", "max-size=1m", "max-file=10"]
        options = [part for one in files for part in ("--log-opt", one)]
        try:
            docker("run", "--name", name, *options, *python(stack, program))
            until(
                lambda: len({line for _labels, _at, line in loki.of(word)}) == number,
                pause=1,
                what="every line of a flood",
            )
        finally:
            docker("rm", "--force", name)
