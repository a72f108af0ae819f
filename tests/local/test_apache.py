"""Apache in nginx's place: the same promises, and those that it keeps otherwise."""

import http.client
import os
import re
import signal
import socket
from functools import partial
from pathlib import Path

import httpx2
import pytest
from flagonctl import apache
from flagonctl import gateway as promises

from . import test_gateway
from .conftest import ROOT, render, stand_in, start_gateway, wait_for
from .test_gateway import KEPT_BY_ALL, unique

globals().update(KEPT_BY_ALL)


@pytest.fixture(scope="module")
def start(installed_apache):
    return partial(start_gateway, program="apache")


class TestErrors(test_gateway.WithoutListener, test_gateway.TestErrors):
    """Also of a service of which nobody listens."""


class TestBodies(test_gateway.TestBodies):
    def test_a_body_without_a_length_is_cut_off(self, gateway):
        """What comes after the limit is no body any more for who passes it on."""
        body = [b"x" * 65536] * 40

        reply = gateway.client.post("/api/v1/products", content=iter(body))

        assert reply.status_code == 400
        assert reply.headers["content-type"] == "application/problem+json"


class TestHeaders(test_gateway.TestHeaders):
    server = "Apache"
    """It does not let its name be taken away."""

    def test_cannot_be_taken_away_from_what_the_gateway_says(self, gateway):
        path = unique("/api/v1/jobs")
        ours = "Authorization, X-Request-ID, X-Forwarded-For, X-Forwarded-Proto"

        gateway.client.get(path, headers={"Connection": f"{ours}, close"})

        got = gateway.upstream.last(path)["headers"]
        assert got["x-forwarded-for"] == "127.0.0.1"
        assert got["x-forwarded-proto"] == "http"
        assert len(got["x-request-id"]) == 32

    def test_ask_for_no_other_protocol_than_websockets(self, gateway):
        for path in ("/socket.io/", "/api/v1/jobs"):
            gateway.client.get(
                path,
                headers={"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"},
            )

        asked = [one["headers"].get("upgrade") for one in gateway.upstream.seen]
        assert asked == ["websocket", None]

    def test_of_files_say_when_they_change(self, gateway):
        path = "/static/app.3f9a1c77.css"
        (gateway.folder / "static" / "app.3f9a1c77.css").write_text("a{}" * 1000)
        asks = {"Accept-Encoding": "gzip"}

        whole = gateway.client.get(path, headers=asks)
        tag = whole.headers["etag"]
        again = gateway.client.get(path, headers=asks | {"If-None-Match": tag})
        part = gateway.client.get(
            path, headers={"Accept-Encoding": "identity", "Range": "bytes=0-5"}
        )
        sent = gateway.client.post(path)

        assert whole.headers["content-encoding"] == "gzip"
        assert whole.headers["vary"] == "Accept-Encoding"
        assert again.status_code == 304
        assert (part.status_code, part.text) == (206, "a{}a{}")
        assert sent.status_code == 405


class TestRetry(test_gateway.TestRetry):
    def test_a_read_survives_a_killed_worker(self, gateway):
        """The client asks again: of itself on a kept connection, else told by a 502."""
        gateway.upstream.answer = lambda h: h.connection.shutdown(socket.SHUT_RDWR)
        path = unique("/api/v1/jobs")

        with httpx2.Client(base_url=gateway.url, trust_env=False) as client:
            first = client.get(path)
            gateway.upstream.answer = None
            assert client.get(path).status_code == 200
            gateway.upstream.answer = lambda h: h.connection.shutdown(socket.SHUT_RDWR)
            with pytest.raises(httpx2.RemoteProtocolError):
                client.get(path)

        assert first.status_code == 502
        assert first.headers["retry-after"] == "2"
        assert gateway.upstream.count(path) == 3


class TestReload(test_gateway.Reloads):
    def reload(self, gateway):
        def workers():
            said = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text()
            return set(said.split())

        before = workers()
        os.kill(gateway.pid, signal.SIGUSR1)
        wait_for(lambda: workers() - before)


class TestSlowness(test_gateway.Slowness):
    said, wait = 502, "2"
    """It does not tell a service that is late from one that broke off."""


class TestTraces(test_gateway.Spans):
    """Told by its own log."""


class TestRoutes:
    """One table of routes: nginx's, read for Apache."""

    def test_have_a_rule_each(self, tmp_path):
        text = (ROOT / "gateway" / "routes.conf.template").read_text()
        places = re.findall(r"^location (?:[=~^]+ )?([/^]\S*) \{", text, re.MULTILINE)

        found = promises.routes(text, render(tmp_path, 1))

        assert len(list(apache.route_lines(found))) == len(places)

    @pytest.mark.parametrize(
        ("path", "passed_on"),
        [
            ("/api/v1/products/a%2Fb?c=%2Fd&e", True),
            ("/api/v1/products/caf%C3%A9%3F%20x", True),
            ("/search//twice?q=a+b", True),
            # Decided by what they mean, however they are written.
            ("/api/v1/../../internal/session", False),
            ("/api/v1/products/%2e%2e/%2e%2e/%2e%2e/internal/session", False),
            ("/x/..%2finternal/session", False),
            ("/%2e%2e/internal/session", False),
            ("//internal/session", False),
            ("/./internal/session", False),
            ("/internal%2fsession", False),
            ("/metrics%00", False),
            ("/met%zzrics", False),
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_see_what_a_path_means_and_pass_it_on_as_it_came(
        self, gateway, method, path, passed_on
    ):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
        connection.request(method, path)
        reply = connection.getresponse()
        reply.read()
        connection.close()

        assert [one["path"] for one in gateway.upstream.seen] == [path] * passed_on
        assert (reply.status == 200) is passed_on

    def test_hear_of_the_host_in_the_address_only_from_the_host(self, gateway):
        """A request line with a whole address names the host that counts (RFC 9112)."""
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
            connection.sendall(
                b"GET http://evil.test/api/v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            reply = connection.recv(4096)

        assert reply.startswith(b"HTTP/1.1 421 ")
        assert gateway.upstream.seen == []


class TestSmuggling:
    @pytest.mark.parametrize(
        ("head", "status"),
        [
            # The length is for nobody any more, and the connection ends with the request.
            (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", 200),
            (b"Content-Length: 4\r\nContent-Length: 5\r\n", 400),
            (b"Transfer-Encoding: xchunked\r\n", 400),
            (b"Transfer-Encoding : chunked\r\n", 400),
            (b"Content-Length: +4\r\n", 400),
            (b"X-Header: a\rTransfer-Encoding: chunked\r\n", 400),
            (b"X-Header\r\n", 400),
        ],
    )
    def test_finds_one_request_and_no_second(self, gateway, head, status):
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
            connection.sendall(
                b"POST /api/v1/me HTTP/1.1\r\nHost: localhost\r\n"
                + head
                + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            connection.shutdown(socket.SHUT_WR)
            got = b""
            while part := connection.recv(65536):
                got += part

        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert got.count(b"HTTP/1.1 ") == 1
        seen = [(one["path"], len(one["body"])) for one in gateway.upstream.seen]
        assert seen == [("/api/v1/me", 0)] * (status == 200)


class TestLimitsEnd:
    @pytest.mark.parametrize(
        ("rate", "burst"), [("32767r/s", "1"), ("1r/s", "40000"), ("1r/m", "600")]
    )
    def test_where_mod_qos_cannot_count(self, tmp_path, rate, burst):
        wide = {"GATEWAY_API_RATE": rate, "GATEWAY_API_BURST": burst}

        with pytest.raises(ValueError, match="GATEWAY_API_RATE exceeds"):
            render(tmp_path, 1, "apache", **wide)

    def test_for_somebody_impatient_too(self, start, tmp_path):
        """Who is refused does not count, or would stay outside for ever."""
        slow = {"GATEWAY_SIGN_IN_RATE": "1r/s", "GATEWAY_SIGN_IN_BURST": "1"}
        statuses = []

        with stand_in() as upstream, start(tmp_path, upstream, **slow) as gateway:

            def ask():
                statuses.append(gateway.client.post("/login").status_code)
                return statuses.count(200) > 2

            wait_for(ask)
            pages = gateway.client.get("/").status_code

        assert statuses[:3] == [200, 200, 429]
        assert pages == 200


class TestInside:
    def test_answers_probes(self, gateway):
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{gateway.port + 28}", trust_env=False
        ) as inside:
            assert inside.get("/healthz").json() == {"status": "alive"}
            assert inside.get("/api/v1/jobs").status_code == 404
            assert "BusyWorkers: " in inside.get("/server-status?auto").text

        assert gateway.client.get("/healthz").json() == {"status": "alive"}
        assert gateway.client.get("/server-status").json() == {"ok": True}

    def test_hears_nothing_from_outside(self, gateway):
        headers = {"X-Gateway-Pool": "auth-35"}

        gateway.client.get(unique("/api/v1/jobs"), headers=headers)

        got = gateway.upstream.seen[-1]["headers"]
        assert not {name for name in got if name.startswith("x-gateway")}
