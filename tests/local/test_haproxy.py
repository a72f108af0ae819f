"""HAProxy in nginx's place: the same promises, and those that it keeps otherwise."""

import os
import re
import signal
import socket
import threading
from functools import partial

import httpx2
import pytest
from flagonctl import gateway as promises
from flagonctl import haproxy

from flagon_chassis import otlp

from . import test_gateway
from .conftest import ROOT, Upstream, render, stand_in, start_gateway, wait_for
from .test_gateway import (  # noqa: F401 (the same tests, with another gateway)
    TestApiKeys,
    TestCompression,
    TestDocuments,
    TestInsideMatters,
    TestLimits,
    TestRequestId,
    TestRetry,
    TestSessions,
    TestStreams,
    TestTls,
    unique,
)


@pytest.fixture(scope="module")
def start(installed_haproxy):
    return partial(start_gateway, program="haproxy")


class TestErrors(test_gateway.TestErrors):
    def test_a_dead_service_is_a_502_that_says_when_to_retry(self, start, tmp_path):
        """No connection at all: HAProxy calls that 503."""
        with start(tmp_path, Upstream(port=1)) as gateway:
            read = gateway.client.get("/api/v1/jobs")
            write = gateway.client.post("/api/v1/jobs")
            page = gateway.client.post("/import", headers={"Accept": "text/html"})

        for reply in (read, write, page):
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "2"
        assert read.json()["title"] == write.json()["title"] == "Service Unavailable"
        assert write.json()["instance"] == write.headers["x-request-id"]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Service Unavailable</h1>" in page.text


class TestBodies(test_gateway.TestBodies):
    def test_a_body_without_a_length_is_cut_off(self, gateway):
        """By the service, which counts what it reads."""
        body = [b"x" * 65536] * 40

        gateway.client.post("/api/v1/products", content=iter(body))

        got = gateway.upstream.last("/api/v1/products")
        assert got["headers"]["transfer-encoding"] == "chunked"
        assert len(got["body"]) == 40 * 65536


class TestHeaders(test_gateway.TestHeaders):
    def test_files_with_a_hash_in_their_name_never_change(self, gateway):
        """The files are web's to send; how long they hold is said here."""
        for path, said in {
            "/static/app.3f9a1c77.css": "public, max-age=31536000, immutable",
            "/static/app.css?v=3f9a1c77": "public, max-age=31536000, immutable",
            "/static/app.css": "no-cache",
        }.items():
            headers = {"Cookie": "flagon_session=abc"}
            reply = gateway.client.get(path, headers=headers)
            assert reply.headers["cache-control"] == said
            assert "cookie" not in gateway.upstream.last(path)["headers"]


class TestRoutes:
    """One table of routes: nginx's, read for HAProxy."""

    @pytest.fixture
    def lines(self, tmp_path):
        variables = render(tmp_path, 1)
        text = (ROOT / "gateway" / "routes.conf.template").read_text()
        places = re.findall(r"^location (?:[=~^]+ )?([/^]\S*) \{", text, re.MULTILINE)
        found = haproxy.route_lines(text, variables)
        assert len(found) == len(places)
        return [line.split(" ", 1) for line in found]

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("/", "web:page:1048576:35000:none:plain"),
            ("/metrics", "nowhere:page:1048576:35000:none:plain"),
            ("/api/v1/products/1/images", "catalog:api:9437184:35000:api:plain"),
            ("/api/v1/products/1", "catalog:api:1048576:35000:api:plain"),
            ("/api/v1/jobs", "worker:api:268435456:120000:api:plain"),
            ("/api/v1/jobs/1", "worker:api:1048576:35000:api:plain"),
            ("/api/v1/events", "realtime:api:1048576:60000:api:stream"),
            ("/socket.io/", "realtime:api:1048576:60000:api:upgrade"),
            ("/oauth/token", "auth:page:1048576:35000:token:plain"),
            ("/oauth/authorize", "auth:page:1048576:35000:sign_in+api:plain"),
            ("/media/a/b", "catalog:open:1048576:35000:api:plain"),
            ("/static/a", "web:file:1048576:35000:none:plain"),
            ("/docs/", "documents:page:1048576:35000:none:plain"),
            ("/api/v1/other", "nowhere:page:1048576:35000:none:plain"),
        ],
    )
    def test_say_what_nginx_does(self, lines, path, value):
        assert next(said for place, said in lines if re.match(place, path)) == value

    def test_that_nobody_thought_of_are_refused(self, tmp_path):
        odd = "location /odd {\n    fastcgi_pass elsewhere;\n}\n"

        with pytest.raises(ValueError, match="/odd"):
            haproxy.route_lines(odd, render(tmp_path, 1))

    def test_count_a_limit_as_long_as_a_burst_is_paid_back(self, tmp_path):
        wide = {"GATEWAY_API_RATE": "50r/s", "GATEWAY_API_BURST": "100"}
        slow = {"GATEWAY_SIGN_IN_RATE": "2r/m", "GATEWAY_SIGN_IN_BURST": "3"}
        render(tmp_path, 1, "haproxy", **wide, **slow)

        text = (tmp_path / "conf" / "haproxy.cfg").read_text()

        assert "gpc0_rate ge 101 }" in text
        assert "gpc0_rate(2020ms)" in text
        assert "gpc0_rate(120000ms)" in text


class TestReload:
    def test_drops_no_connection_and_ends_no_stream(self, start, tmp_path):
        go_on = threading.Event()

        def answer(handler):
            if not handler.path.startswith("/api/v1/events"):
                return False
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(b"data: 1\n\n")
            handler.wfile.flush()
            go_on.wait(60)
            handler.wfile.write(b"data: 2\n\n")
            handler.close_connection = True
            return True

        statuses, ended = set(), threading.Event()

        def ask(url):
            # A connection each: those that are being accepted are what could be lost.
            while not ended.is_set():
                statuses.add(httpx2.get(f"{url}/?n=1", trust_env=False).status_code)

        with stand_in() as upstream, start(tmp_path, upstream) as gateway:
            upstream.answer = answer
            asking = threading.Thread(target=ask, args=(gateway.url,))
            asking.start()
            try:
                with gateway.client.stream("GET", "/api/v1/events") as stream:
                    parts = stream.iter_raw()
                    assert next(parts) == b"data: 1\n\n"
                    reload(gateway)
                    go_on.set()
                    assert b"".join(parts) == b"data: 2\n\n"
            finally:
                ended.set()
                asking.join()

        assert statuses == {200}


def reload(gateway):
    """Have HAProxy read its configuration anew, and await that."""
    said = gateway.folder / "errors.log"

    def loaded():
        return said.read_text().count("Loading success.")

    # It listens before it is done with its start, and then hears no signal.
    wait_for(loaded)
    before = loaded()
    os.kill(gateway.pid, signal.SIGUSR2)
    wait_for(lambda: loaded() > before)


class TestSlowness:
    def test_of_a_service_is_a_504(self, start, tmp_path, monkeypatch):
        monkeypatch.setattr(promises, "SERVICE_SECONDS", 1)
        go_on = threading.Event()

        with stand_in() as upstream, start(tmp_path, upstream) as gateway:
            upstream.answer = lambda _handler: go_on.wait(60)
            replies = [
                gateway.client.get(unique("/api/v1/me")),
                gateway.client.post("/api/v1/me", json={}),
            ]
            go_on.set()

        for reply in replies:
            assert reply.status_code == 504
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.headers["retry-after"] == "5"
        assert upstream.count("/api/v1/me") == 1

    def test_of_a_sender_takes_no_thread_of_a_service(self, gateway):
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
            connection.sendall(
                b"POST /api/v1/me HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 10\r\n\r\nhalf"
            )
            reply = connection.recv(4096)

        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in reply
        assert gateway.upstream.count("/api/v1/me") == 0


class TestTraces:
    def test_its_line_is_a_span_of_the_request(self, start, tmp_path):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind(("127.0.0.1", 0))
            sink.settimeout(60)
            address = f"127.0.0.1:{sink.getsockname()[1]}"
            # As where nginx sends its spans.
            log = f"/dev/stdout json; access_log syslog:server={address},nohostname"
            with (
                stand_in() as upstream,
                start(tmp_path, upstream, GATEWAY_ACCESS_LOG=log) as gateway,
            ):
                reply = gateway.client.get("/api/v1/me?code=topsecret")
                datagram = sink.recv(65536)

        span = otlp.read_gateway(datagram)
        assert span.name == "GET /api/v1/me"
        assert span.request_id == span.trace_id == reply.headers["x-request-id"]
        assert span.attributes["http.response.status_code"] == 200
        assert span.span_id == upstream.seen[-1]["headers"]["traceparent"].split("-")[2]
        assert 0 <= span.ended_us - span.started_us < 60e6
        assert b"topsecret" not in datagram


class TestInside:
    def test_answers_probes_and_tells_its_own_metrics(self, gateway):
        gateway.client.get(unique("/api/v1/jobs"))

        with httpx2.Client(
            base_url=f"http://127.0.0.1:{gateway.port + 28}", trust_env=False
        ) as inside:
            assert inside.get("/healthz").json() == {"status": "alive"}
            assert inside.get("/stub_status").status_code == 404
            told = inside.get("/metrics").text

        requests = 'haproxy_frontend_http_requests_total{proxy="gateway"} '
        assert int(told.split(requests)[1].split("\n")[0]) > 0
        assert gateway.client.get("/metrics").status_code == 404
