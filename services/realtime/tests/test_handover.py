"""Which way a response goes, and the worker that lets go of sockets."""

import re
import socket
import ssl
from types import SimpleNamespace

import gevent
import pytest
from gunicorn.workers.base_async import ALREADY_HANDLED

from flagon_realtime import __main__ as command
from flagon_realtime.hub import Hub
from flagon_realtime.stream import StreamResponse
from flagon_realtime.worker import StreamWorker, Waiting

OPENING = re.compile(rb"retry: (1[5-9]|2[0-5])\d\d\n\nid: 0-0\n\n")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def respond(make_source, helpers):
    """Answers a request for a stream; returns what the server is given."""
    hubs = []

    def answer(sock, *, hub=True, **environ):
        source = make_source()
        if hub:
            hubs.append(Hub(source))
        response = StreamResponse(
            source, helpers.ticket("a"), hubs[-1] if hub else None
        )
        response.headers["X-Request-ID"] = "r1"
        environ = {"REQUEST_METHOD": "GET", "gunicorn.socket": sock, **environ}
        return response(environ, lambda *_: None)

    yield answer
    for hub in hubs:
        for client in list(hub._clients.values()):
            hub._drop(client)
        hub._epoll.close()


class TestStreamResponse:
    def test_hands_a_plain_socket_over(self, respond, pair):
        ours, theirs = pair

        assert respond(theirs) is ALREADY_HANDLED

        assert theirs.fileno() == -1
        head, _, body = ours.recv(1000).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert b"X-Request-ID: r1" in lines
        assert lines[-1] == b"Connection: close"
        assert not any(line.startswith(b"Content-Length") for line in lines)
        assert OPENING.fullmatch(body)

    def test_keeps_a_socket_where_the_server_does_not_let_go(self, respond, pair):
        blocks = respond(pair[1], hub=False)

        assert OPENING.fullmatch(next(iter(blocks)))
        assert pair[1].fileno() >= 0

    def test_keeps_a_socket_under_tls(self, respond, pair):
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(
            pair[1], server_hostname="x", do_handshake_on_connect=False
        )

        blocks = respond(wrapped)

        assert next(iter(blocks)).startswith(b"retry")
        assert wrapped.fileno() >= 0
        wrapped.close()

    def test_keeps_a_socket_that_other_requests_share(self, respond, pair):
        blocks = respond(pair[1], HTTP_VERSION="2")

        assert next(iter(blocks)).startswith(b"retry")
        assert pair[1].fileno() >= 0

    def test_answers_head_without_a_body(self, respond, pair):
        assert list(respond(pair[1], REQUEST_METHOD="HEAD")) == []
        assert pair[1].fileno() >= 0


@pytest.fixture
def worker():
    made = object.__new__(StreamWorker)
    made.cfg = SimpleNamespace(keepalive=0.01)
    made.idle = set()
    made.station = None
    made.closing = made.closed = False
    made.alive = True
    made.notified = 0
    return made


class TestStreamWorker:
    def test_is_made_with_nothing_to_close(self, monkeypatch):
        monkeypatch.setattr(
            "gunicorn.workers.ggevent.GeventWorker.__init__", lambda self: None
        )

        made = StreamWorker()

        assert (made.idle, made.closing, made.closed) == (set(), False, False)

    def test_starts_the_station_with_the_app(self, worker, monkeypatch):
        started = []
        station = SimpleNamespace(start=lambda **options: started.append(options))
        app = SimpleNamespace(extensions={"flagon.station": station})
        monkeypatch.setattr(
            "gunicorn.workers.ggevent.GeventWorker.load_wsgi",
            lambda self: setattr(self, "wsgi", app),
        )

        worker.load_wsgi()

        assert started == [{"hands_over": True}]

    def test_leaves_a_connection_whose_socket_is_gone(self, worker):
        with pytest.raises(StopIteration):
            worker.is_already_handled(ALREADY_HANDLED)

        assert not worker.is_already_handled([b"body"])

    def test_closes_streams_then_connections_that_wait(self, worker, monkeypatch):
        closed = []
        worker.station = SimpleNamespace(close=lambda: closed.append("streams"))
        worker.cfg.keepalive = 60
        worker.notify = lambda: None
        monkeypatch.setattr(
            "gunicorn.workers.ggevent.GeventWorker.run", lambda self: gevent.sleep(0)
        )

        def wait_for_a_request():
            try:
                with worker.timeout_ctx():
                    gevent.sleep(60)
            except StopIteration:
                closed.append("connection")

        connection = gevent.spawn(wait_for_a_request)
        gevent.sleep(0)
        worker.handle_exit(15, None)
        worker.handle_exit(15, None)
        worker.run()
        connection.join(5)

        assert closed == ["streams", "connection"]
        assert not worker.alive
        assert not worker.idle

    def test_stops_before_the_app_is_loaded(self, worker):
        worker.handle_exit(15, None)

        assert not worker.alive
        assert not worker.closing


class TestWaiting:
    def test_ends_quietly_after_the_keepalive(self, worker):
        with Waiting(worker):
            gevent.sleep(5)

        assert not worker.idle

    def test_lets_errors_through(self, worker):
        with pytest.raises(ZeroDivisionError), Waiting(worker):
            raise ZeroDivisionError


class TestMain:
    def test_serves_with_the_worker_that_lets_go(self, monkeypatch):
        monkeypatch.setenv("REALTIME_SECRET_KEY", "s" * 32)
        served = {}
        monkeypatch.setattr(
            "flagon_chassis.server.serve",
            lambda settings, app, **options: served.update(app=app, **options),
        )

        command.main(["serve"])

        assert served["app"] == "flagon_realtime.app:create_app()"
        needed = served["gunicorn"]
        assert needed["worker_class"] == "flagon_realtime.worker.StreamWorker"
        assert needed["preload_app"] is False

    @pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "now"]])
    def test_refuses_other_commands(self, arguments):
        with pytest.raises(SystemExit):
            command.main(arguments)
