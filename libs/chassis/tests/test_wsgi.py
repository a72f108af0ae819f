"""Real processes of each server: what they promise is the same."""

import json
import os
import re
import signal
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from flagon_chassis.testing import free_port

from .conftest import eventually

SERVERS = ("gunicorn", "waitress")
WORKERS = 2
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"5\r\nabcde\r\n0\r\n\r\n"


@pytest.fixture
def start(make_settings, service_process, tmp_path):
    """A function that serves the slow app in a process of its own."""

    def start(server, *, code="", serve="", wait=True, **values):
        settings = make_settings(
            **{
                "server": server,
                "metrics_dir": str(tmp_path / "metrics"),
                "grace_seconds": 5,
                "drain_seconds": 0.5,
                "workers": WORKERS,
                **values,
            }
        )
        return service_process(
            f"from flagon_chassis import server; {code}\n"
            f"server.serve(settings, 'slow_app:create_app()', {serve})",
            settings,
            wait=wait,
            PYTHONPATH=str(Path(__file__).parent),
        )

    return start


@pytest.fixture(params=SERVERS)
def process(request, start):
    return start(request.param)


def workers(process):
    return [child.pid for child in psutil.Process(process.process.pid).children()]


def answering(process, number=WORKERS):
    """Return the ids of the workers, once so many have answered."""

    def all_of_them():
        found = {int(process.get("/pid")[1]) for _ in range(20)}
        return found if len(found) == number else None

    return eventually(all_of_them)


def connect(process):
    return socket.create_connection(process.bind.split(":"), 10)


def ask(process, request):
    """Send bytes and return all that comes back."""
    with connect(process) as connection:
        connection.sendall(request)
        return received(connection)


def received(connection):
    """Return all that comes until the connection is closed."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def head(path, *lines, method="GET"):
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]
    ).encode()


def asking_slowly(process, seconds=1.5):
    """Begin a slow request in a thread; return it and the list of its answer."""
    answer = []

    def call():
        try:
            answer.append(process.get(f"/slow?seconds={seconds}"))
        except OSError as error:
            answer.append(type(error).__name__)

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: "slow_begun" in process.output())
    return thread, answer


class TestStop:
    @pytest.mark.parametrize(
        ("server", "serve", "number"),
        [
            ("gunicorn", "", WORKERS),
            ("gunicorn", "gunicorn={'preload_app': False, 'workers': 1}", 1),
            ("waitress", "", WORKERS),
        ],
    )
    def test_comes_after_the_requests_in_flight(self, start, server, serve, number):
        process = start(server, serve=serve)
        answering(process, number)
        thread, answer = asking_slowly(process)

        process.process.send_signal(signal.SIGTERM)

        # Readiness fails while requests are still taken; those in flight finish.
        _, body = eventually(
            lambda: found if (found := process.get("/readyz"))[0] == 503 else None
        )
        assert '"draining"' in body
        assert process.get("/pid")[0] == 200
        thread.join(10)
        assert answer == [(200, "done")]
        assert process.process.wait(15) == 0
        with pytest.raises(ConnectionRefusedError):
            process.get("/pid")

    def test_keeps_no_connection(self, process):
        with closing(HTTPConnection(*process.bind.split(":"), timeout=5)) as kept:
            kept.request("GET", "/pid")
            before = kept.getresponse()
            before.read()
            process.process.send_signal(signal.SIGTERM)
            eventually(lambda: process.get("/readyz")[0] == 503)
            kept.request("GET", "/pid")
            after = kept.getresponse()
            after.read()

        assert before.getheader("Connection") != "close"
        assert after.getheader("Connection") == "close"

    def test_does_not_wait_for_connections_that_say_nothing(self, process):
        with connect(process):
            answering(process)

            assert process.stop() == 0

    @pytest.mark.parametrize("server", SERVERS)
    def test_breaks_off_what_takes_longer_than_its_grace(self, start, server):
        process = start(server, grace_seconds=1)
        thread, answer = asking_slowly(process, seconds=60)

        assert process.stop() == 0

        thread.join(10)
        assert answer == ["RemoteDisconnected"]

    @pytest.mark.parametrize("server", SERVERS)
    def test_does_not_wait_for_a_frozen_worker(self, start, server):
        process = start(server, grace_seconds=1)
        frozen = min(answering(process))
        os.kill(frozen, signal.SIGSTOP)

        assert process.stop() == 0

        eventually(lambda: not psutil.pid_exists(frozen))

    def test_comes_when_the_master_is_gone(self, process):
        left = workers(process)

        process.process.kill()

        eventually(lambda: not any(map(psutil.pid_exists, left)))


class TestWorker:
    def test_that_is_killed_is_replaced(self, process, tmp_path):
        first, *_ = before = answering(process)
        counted = tmp_path / "metrics" / f"counter_{first}.db"
        gauge = tmp_path / "metrics" / f"gauge_livesum_{first}.db"
        gauge.touch()

        os.kill(first, signal.SIGKILL)

        after = eventually(
            lambda: found if first not in (found := answering(process)) else None
        )
        assert len(after & before) == WORKERS - 1
        # What it counted stays, what it showed of itself does not.
        assert counted.exists()
        eventually(lambda: not gauge.exists())
        assert process.stop() == 0

    def test_that_is_told_to_stop_ends_its_request(self, process):
        # One that was only just forked has not set its handlers yet.
        before = answering(process)
        thread, answer = asking_slowly(process)

        for pid in before:
            os.kill(pid, signal.SIGTERM)

        thread.join(10)
        assert answer == [(200, "done")]
        eventually(lambda: not answering(process) & before)
        assert process.get("/readyz")[0] == 200

    def test_that_cannot_start_is_tried_again(self, start):
        process = start(
            "waitress", serve="started=lambda app: 1 / 0", wait=False, workers=1
        )

        eventually(lambda: process.output().count("worker_ended") == 2)

        assert "ZeroDivisionError" in process.output()
        assert process.stop() == 0

    @pytest.mark.parametrize("server", SERVERS)
    def test_does_first_what_it_is_given(self, start, server):
        process = start(server, serve="started=lambda app: print('first', app.name)")
        answering(process)

        assert process.output().count("first slow") == WORKERS

    @pytest.mark.parametrize("preload", [True, False])
    @pytest.mark.parametrize("server", SERVERS)
    def test_makes_the_app_itself_where_that_does_not_survive_a_fork(
        self, start, server, preload
    ):
        process = start(server, serve=f"preload={preload}")

        maker, pid = process.get("/maker")[1].split()

        assert (maker == pid) is not preload
        assert process.stop() == 0

    def test_adds_its_metrics_to_those_of_others(self, process):
        answering(process)
        before = counted(process)
        for _ in range(20):
            process.get("/pid")

        assert counted(process) - before == 20


def counted(process):
    shown = process.get("/metrics")[1]
    found = re.search(
        r'flask_http_request_total\{.*service="slow".*status="200".*\} (\d+)', shown
    )
    assert found, shown
    return int(found[1])


class TestBind:
    @pytest.mark.parametrize("server", SERVERS)
    def test_may_be_sockets_that_were_handed_down(self, start, server):
        places = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        process = start(
            server,
            code="import socket; given = [socket.create_server(('127.0.0.1', port))"
            f".detach() for port in {[int(place[10:]) for place in places]}];"
            "settings = settings.model_copy(update={'bind':"
            "','.join(f'fd://{one}' for one in given)})",
            wait=False,
        )

        for process.bind in places:
            assert eventually(lambda: process.get("/pid"))[0] == 200
        assert process.stop() == 0


class TestRequest:
    @pytest.mark.parametrize(
        "request_",
        [
            head(
                "/size",
                f"Content-Length: {2 << 20}",
                "Connection: close",
                method="POST",
            )
            + b"a" * (2 << 20),
            # Nobody waits for what is announced.
            head(
                "/size",
                f"Content-Length: {2 << 30}",
                "Connection: close",
                method="POST",
            ),
        ],
        ids=["sent", "announced"],
    )
    def test_that_is_too_large_is_a_problem(self, process, request_):
        top, _, body = ask(process, request_).partition("\r\n\r\n")

        assert top.startswith("HTTP/1.1 413 ")
        assert "content-type: application/problem+json" in top.lower()
        assert json.loads(body)["status"] == 413

    def test_that_comes_in_chunks_is_read(self, process):
        begun = head("/size", CHUNKED, "Connection: close", method="POST")

        assert ask(process, begun + CHUNKS).endswith("\r\n\r\n5")

    @pytest.mark.parametrize(
        "request_",
        [
            b"what is this\r\n\r\n",
            # One of two servers in a row may believe the first, the other the second.
            head("/size", "Content-Length: 3", CHUNKED, method="POST") + CHUNKS,
        ],
        ids=["no request", "two lengths"],
    )
    @pytest.mark.parametrize(
        ("server", "kind"),
        [("gunicorn", "text/html"), ("waitress", "application/problem+json")],
    )
    def test_that_is_malformed_is_refused(self, start, server, kind, request_):
        top, _, body = ask(start(server), request_).partition("\r\n\r\n")

        assert " 400 " in top.splitlines()[0]
        assert f"content-type: {kind}" in top.lower()
        assert server not in body

    def test_that_comes_slowly_is_answered(self, process):
        with connect(process) as slow:
            begun = head(
                "/size", "Content-Length: 5", "Connection: close", method="POST"
            )
            slow.sendall(begun + b"ab")
            answering(process)
            slow.sendall(b"cde")

            assert received(slow).endswith("5")

    def test_that_comes_slowly_holds_no_thread_of_waitress(self, start):
        process = start("waitress", workers=1, threads=1)
        with connect(process) as slow:
            slow.sendall(b"GET /pid HTTP/1.1\r\n")

            assert process.get("/pid")[0] == 200

    def test_may_have_the_headers_of_the_gateway(self, process):
        told = ask(
            process,
            head("/nowhere", "X-Request-ID: of-the-gateway", "Connection: close"),
        )

        assert "x-request-id: of-the-gateway" in told.lower()


class TestStays:
    def test_with_gunicorn_where_only_gunicorn_will_do(self, start):
        process = start("waitress", serve="gunicorn={'workers': 1}")

        assert process.stop() == 0

        told = [json.loads(x) for x in process.output().splitlines() if "kept" in x]
        assert [(x["server"], x["asked"]) for x in told] == [("gunicorn", "waitress")]
