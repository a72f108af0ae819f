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
from urllib.parse import unquote

import psutil
import pytest

from flagon_chassis.testing import free_port

from .conftest import eventually

SERVERS = ("gunicorn", "waitress", "uwsgi")
OTHERS = SERVERS[1:]
WORKERS = 2
ONE = 1
"""Thread of a process: in those that uWSGI makes itself nobody sees what is tested."""
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


def refused(process):
    try:
        process.get("/pid")
    except ConnectionRefusedError:
        return True
    return False


def is_closed(connection, more):
    """Say whether nobody takes any more on a connection."""
    try:
        connection.sendall(more)
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


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
            *((other, "", WORKERS) for other in OTHERS),
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

    @pytest.mark.parametrize("server", ["gunicorn", "waitress"])
    def test_keeps_no_connection(self, start, server):
        process = start(server)
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

    @pytest.mark.parametrize("server", OTHERS)
    def test_that_cannot_start_is_tried_again(self, start, server):
        process = start(
            server, serve="started=lambda app: 1 / 0", wait=False, workers=1
        )

        eventually(lambda: process.output().count("worker_ended") == 2)

        assert "ZeroDivisionError" in process.output()
        assert process.stop() == 0

    @pytest.mark.parametrize("server", SERVERS)
    def test_does_first_what_it_is_given(self, start, server):
        process = start(server, serve="started=lambda app: print(f'first {app.name}')")
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
        [
            ("gunicorn", "text/html"),
            *((other, "application/problem+json") for other in OTHERS),
        ],
    )
    def test_that_is_malformed_is_refused(self, start, server, kind, request_):
        top, _, body = ask(start(server, threads=ONE), request_).partition("\r\n\r\n")

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

    @pytest.mark.parametrize("server", SERVERS)
    def test_that_asks_first_is_told_to_go_on(self, start, server):
        with connect(start(server, threads=ONE)) as connection:
            asked = ["Content-Length: 5", "Expect: 100-continue", "Connection: close"]
            connection.sendall(head("/size", *asked, method="POST"))
            first = connection.recv(65536)
            connection.sendall(b"abcde")

            assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert received(connection).endswith("\r\n\r\n5")

    def test_may_have_the_headers_of_the_gateway(self, process):
        told = ask(
            process,
            head("/nowhere", "X-Request-ID: of-the-gateway", "Connection: close"),
        )

        assert "x-request-id: of-the-gateway" in told.lower()

    @pytest.mark.parametrize("path", ["a%2Fb//c/../d", "%zz/%25/x", "./e"])
    def test_reaches_the_same_route_under_all(self, start, path):
        seen = {
            ask(
                start(server, workers=1), head(f"/seen/{path}?q", "Connection: close")
            ).rpartition("\r\n\r\n")[2]
            for server in SERVERS
        }

        assert seen == {f"{unquote(path)} http"}


class TestAnswer:
    @pytest.fixture(params=SERVERS)
    def process(self, request, start):
        return start(request.param, threads=ONE)

    def test_of_unknown_length_says_where_it_ends(self, process):
        told = ask(process, head("/parts", "Connection: close"))

        assert "transfer-encoding: chunked" in told.lower()
        assert told.endswith("\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")

    def test_that_breaks_off_has_no_end(self, process):
        told = ask(process, head("/parts?break", "Connection: close"))

        assert told.partition("\r\n\r\n")[2] == "4\r\none \r\n"

    def test_to_head_has_no_chunks(self, process):
        told = ask(process, head("/parts", "Connection: close", method="HEAD"))

        assert told.endswith("\r\n\r\n")

    def test_to_the_first_version_ends_with_the_connection(self, process):
        told = ask(process, b"GET /parts HTTP/1.0\r\n\r\n")

        assert told.endswith("\r\n\r\none two")


class TestUwsgi:
    @pytest.fixture
    def process(self, start):
        code = "import os; os.environ['LOG_LEVEL'] = 'DEBUG'"
        return start("uwsgi", code=code, workers=1, threads=ONE)

    def test_answers_one_request_on_a_connection(self, process):
        told = ask(process, head("/pid") * 2)

        assert told.count("HTTP/1.1 ") == 1
        assert "connection: close" in told.lower()

    @pytest.mark.parametrize(
        "lines",
        [
            ["Content-Length: 1", "Content-Length: 3"],
            ["Content-Length: +3"],
            ["Content-Length: 3x"],
            ["Transfer-Encoding: gzip"],
            ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            ["X-One: 1\r\n two"],
            ["X-One: 1\ntwo: 2"],
            ["X-One: 1\0two"],
            ["X-One\n: 1"],
        ],
    )
    def test_lets_nothing_through_that_may_be_read_in_two_ways(self, process, lines):
        told = ask(process, head("/size", *lines, method="POST") + b"abc")

        assert told.startswith("HTTP/1.1 400 ")
        assert json.loads(told.rpartition("\r\n\r\n")[2])["status"] == 400

    @pytest.mark.parametrize("wrong", [b"!\r\n", b"5\r\nab", b"2000000\r\n"])
    def test_refuses_chunks_that_are_none(self, process, wrong):
        with connect(process) as connection:
            connection.sendall(head("/size", CHUNKED, method="POST") + wrong)
            connection.shutdown(socket.SHUT_WR)
            told = received(connection)

        assert told.startswith("HTTP/1.1 400 ")

    def test_reads_many_chunks(self, process):
        sent = head("/size", CHUNKED, method="POST") + CHUNKS[:10] * 9999 + CHUNKS

        assert ask(process, sent).endswith("\r\n\r\n50000")

    def test_hangs_up_on_a_head_above_its_limit(self, process):
        assert ask(process, head("/pid", f"X-Long: {'a' * 60000}"))
        with connect(process) as connection:
            eventually(lambda: is_closed(connection, head("/" + "a" * 70000)))
        eventually(lambda: "invalid HTTP request size" in process.output())

    def test_believes_nobody_about_the_scheme(self, process):
        told = ask(process, head("/seen/it", "X-Forwarded-SSL: on"))

        assert told.endswith("it http")

    def test_takes_an_underscore_for_a_hyphen(self, process):
        told = ask(process, head("/pid", "X_Request_ID: of-somebody"))

        assert "x-request-id: of-somebody" in told.lower()

    def test_has_no_thread_for_who_says_nothing(self, start):
        process = start("uwsgi", workers=1, threads=1)
        with connect(process):
            assert process.get("/pid")[0] == 200
        assert process.stop() == 0

    def test_takes_no_connection_any_more_when_it_stops(self, start):
        process = start("uwsgi", workers=1)
        thread, answer = asking_slowly(process, seconds=3)

        process.process.send_signal(signal.SIGTERM)

        eventually(lambda: refused(process))
        assert answer == []
        thread.join(10)
        assert answer == [(200, "done")]

    def test_says_all_in_our_log(self, process):
        ask(process, b"GET / HTTP/1.1\r\nnothing\r\n\r\n")
        eventually(lambda: "invalid HTTP request" in process.output())
        assert process.stop() == 0

        told = [json.loads(line) for line in process.output().splitlines()]
        levels = {x["level"]: x["said"] for x in told if x["event"] == "uwsgi"}
        assert levels.keys() == {"debug", "info"}


class TestStays:
    @pytest.mark.parametrize("server", OTHERS)
    def test_with_gunicorn_where_only_gunicorn_will_do(self, start, server):
        process = start(server, serve="gunicorn={'workers': 1}")

        assert process.stop() == 0

        told = [json.loads(x) for x in process.output().splitlines() if "kept" in x]
        assert [(x["server"], x["asked"]) for x in told] == [("gunicorn", server)]
