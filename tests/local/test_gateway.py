"""What the gateway promises, with a real nginx and stand-ins for the services."""

import gzip
import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from uuid import uuid4

import httpx2
import pytest
from flagonctl import gateway as promises

from flagon_chassis import otlp

from .conftest import Upstream, free_port, stand_in, start_gateway, wait_for


def unique(path: str) -> str:
    return f"{path}?n={uuid4().hex}"


class TestRequestId:
    def test_makes_one_and_a_trace_of_the_same_digits(self, gateway):
        path = unique("/api/v1/products")

        reply = gateway.client.get(path)

        got = gateway.upstream.last(path)["headers"]
        assert reply.headers["x-request-id"] == got["x-request-id"]
        assert got["traceparent"].split("-")[1] == got["x-request-id"]
        assert len(got["traceparent"]) == 55

    def test_takes_a_harmless_one(self, gateway):
        path = unique("/api/v1/products")

        reply = gateway.client.get(path, headers={"X-Request-ID": "order-66.retry_1"})

        assert reply.headers["x-request-id"] == "order-66.retry_1"
        assert (
            gateway.upstream.last(path)["headers"]["x-request-id"] == "order-66.retry_1"
        )

    @pytest.mark.parametrize(
        "given",
        ["short", "x" * 65, 'quo"te-in-it', "back\\slash-in-it", "sp ace-in-it"],
    )
    def test_replaces_any_other(self, gateway, given):
        reply = gateway.client.get("/nothing", headers={"X-Request-ID": given})

        assert len(reply.headers["x-request-id"]) == 32

    def test_makes_it_the_trace_id_when_it_has_the_form(self, gateway):
        path, known = unique("/api/v1/jobs"), uuid4().hex

        gateway.client.get(path, headers={"X-Request-ID": known})

        assert gateway.upstream.last(path)["headers"]["traceparent"].startswith(
            f"00-{known}-"
        )

    def test_passes_a_trace_on(self, gateway):
        path, trace = unique("/api/v1/jobs"), f"00-{uuid4().hex}-00f067aa0ba902b7-01"

        gateway.client.get(path, headers={"traceparent": trace, "tracestate": "a=1"})

        got = gateway.upstream.last(path)["headers"]
        assert (got["traceparent"], got["tracestate"]) == (trace, "a=1")

    @pytest.mark.parametrize(
        "given",
        [
            "rubbish",
            f"00-{'0' * 32}-00f067aa0ba902b7-01",
            f"00-{'a' * 32}-{'0' * 16}-01",
        ],
    )
    def test_replaces_a_malformed_trace_and_its_state(self, gateway, given):
        path = unique("/api/v1/jobs")

        gateway.client.get(path, headers={"traceparent": given, "tracestate": "a=1"})

        got = gateway.upstream.last(path)["headers"]
        assert got["traceparent"] != given
        assert "tracestate" not in got

    def test_logs_both_without_the_query(self, gateway):
        reply = gateway.client.get("/callback?code=topsecret")

        known = reply.headers["x-request-id"]
        wait_for(lambda: known in gateway.lines())
        line = next(
            json.loads(line) for line in gateway.lines().splitlines() if known in line
        )
        assert line["trace_id"] == known
        assert line["path"] == "/callback"
        assert line["time"].endswith("Z")
        assert line["upstream_status"] == "200"
        assert "topsecret" not in gateway.lines()


class TestInsideMatters:
    @pytest.mark.parametrize(
        "path",
        [
            "/livez",
            "/readyz",
            "/metrics",
            "/metrics/",
            "//metrics",
            "/x/../metrics",
            "/%6detrics",
            "/internal/session",
            "/internal/alerts",
            "/internal/api-key",
            "/internal/logout-notices/x",
            "/internal/mails/x",
            "/backchannel-logout",
            "/internal",
            "/_session",
            "/_api_key",
            "/api/v1/unknown",
            "/api/v1/productsandmore",
            "/.well-known/other",
        ],
    )
    def test_are_not_found_from_outside(self, gateway, path):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
        known = uuid4().hex
        connection.request("GET", path, headers={"X-Request-ID": known})
        reply = connection.getresponse()
        reply.read()

        # Other well-known documents are web's to answer, or not.
        if path.startswith("/.well-known"):
            assert gateway.upstream.count(path) == 1
        else:
            assert reply.status == 404
            # What another test has broken off may still arrive.
            seen = [one["headers"].get("x-request-id") for one in gateway.upstream.seen]
            assert known not in seen
        connection.close()

    def test_client_cannot_speak_as_the_gateway(self, gateway):
        path = unique("/api/v1/jobs")

        gateway.client.get(
            path,
            headers={
                "X-Access-Token": "forged",
                "X-Original-Method": "GET",
                "X-Forwarded-For": "10.1.1.1",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "evil.test",
                "Forwarded": "for=10.1.1.1",
                "X-Real-IP": "10.1.1.1",
                # Some servers tell these from those with hyphens no more.
                "X_Access_Token": "forged",
                "X_Forwarded_For": "10.1.1.1",
            },
        )

        got = gateway.upstream.last(path)["headers"]
        assert not {
            "x-access-token",
            "x-original-method",
            "forwarded",
            "x-real-ip",
        } & {name.replace("_", "-") for name in got}
        assert "x_forwarded_for" not in got
        assert got["x-forwarded-for"] == "127.0.0.1"
        assert got["x-forwarded-proto"] == "http"
        assert got["x-forwarded-host"] == f"127.0.0.1:{gateway.port}"
        assert "authorization" not in got

    def test_services_cannot_leak_a_token(self, gateway):
        gateway.upstream.answer = lambda h: h.reply(200, b"{}", x_access_token="secret")

        reply = gateway.client.get(unique("/api/v1/jobs"))

        assert "x-access-token" not in reply.headers

    def test_unknown_host_names_are_refused(self, gateway):
        reply = gateway.client.get("/", headers={"Host": "rebound.example"})

        assert reply.status_code == 421
        assert gateway.upstream.seen == []


class TestErrors:
    def test_are_problems_for_programs(self, gateway):
        reply = gateway.client.get("/api/v1/nothing")

        assert reply.status_code == 404
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json() == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "Nothing is found at this address.",
            "instance": reply.headers["x-request-id"],
        }

    def test_are_pages_for_people(self, gateway):
        reply = gateway.client.get("/metrics", headers={"Accept": "text/html"})

        assert reply.status_code == 404
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Not Found</h1>" in reply.text

    def test_are_problems_below_the_api_even_for_browsers(self, gateway):
        reply = gateway.client.get("/api/v1/nothing", headers={"Accept": "text/html"})

        assert reply.headers["content-type"] == "application/problem+json"

    def test_of_services_pass_untouched(self, gateway):
        gateway.upstream.answer = lambda h: h.reply(
            404, b'{"title":"Mine"}', content_type="application/problem+json"
        )

        assert gateway.client.get(unique("/api/v1/jobs")).json() == {"title": "Mine"}

    def test_of_large_bodies_look_the_same(self, gateway):
        def die(handler):
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

        gateway.upstream.answer = die

        reply = gateway.client.post(unique("/api/v1/jobs"), content=b"a" * 2_000_000)

        assert reply.status_code == 502
        assert reply.headers["content-type"] == "application/problem+json"

    def test_a_dead_service_is_a_502_that_says_when_to_retry(self, start, tmp_path):
        nobody = Upstream(port=1)

        with start(tmp_path, nobody) as gateway:
            reply = gateway.client.get("/api/v1/jobs")

        assert reply.status_code == 502
        assert reply.headers["retry-after"] == "2"
        assert reply.json()["title"] == "Bad Gateway"


class WithoutListener:
    """For gateways that call a service that nobody listens for unavailable."""

    def test_a_dead_service_is_a_502_that_says_when_to_retry(self, start, tmp_path):
        """No connection at all: that is a 503 here."""
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


class TestBodies:
    def upload(self, gateway, path, length):
        """Announce a body, send none of it, and return the answer."""
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            return connection.recv(4096).decode()

    def test_two_gigabytes_are_refused_before_they_are_sent(self, gateway):
        path = unique("/api/v1/jobs")

        # Waiting for the body would end in a 408.
        reply = self.upload(gateway, path, 2 * 1024**3)

        assert reply.startswith("HTTP/1.1 413 ")
        assert "application/problem+json" in reply
        assert gateway.upstream.count(path) == 0

    def test_an_upload_may_be_large(self, gateway):
        reply = self.upload(gateway, "/api/v1/jobs", 200 * 1024**2)

        assert reply.startswith("HTTP/1.1 100 ")

    def test_the_form_for_a_picture_may_be_as_large_as_one(self, gateway):
        path = "/back-office/products/1/images"

        assert self.upload(gateway, path, 8 * 1024**2).startswith("HTTP/1.1 100 ")
        assert self.upload(gateway, path, 10 * 1024**2).startswith("HTTP/1.1 413 ")
        other = self.upload(gateway, "/back-office/products/1", 2 * 1024**2)
        assert other.startswith("HTTP/1.1 413 ")

    def test_other_bodies_may_not(self, gateway):
        reply = self.upload(gateway, "/api/v1/products", 2 * 1024**2)

        assert reply.startswith("HTTP/1.1 413 ")

    def test_a_body_without_a_length_is_cut_off(self, gateway):
        def endless():
            for _ in range(40):
                yield b"x" * 65536

        try:
            reply = gateway.client.post("/api/v1/products", content=endless())
        except (httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError):
            return
        assert reply.status_code == 413


class TestRetry:
    def test_a_read_survives_a_killed_worker(self, gateway):
        def die_once(handler):
            if gateway.upstream.count(handler.path) == 1:
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
                return True
            return False

        gateway.upstream.answer = die_once
        path = unique("/api/v1/jobs")

        reply = gateway.client.get(path)

        assert reply.status_code == 200
        assert gateway.upstream.count(path) == 2

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    def test_a_write_is_never_sent_twice(self, gateway, method):
        def die(handler):
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

        gateway.upstream.answer = die
        path = unique("/api/v1/products")

        reply = gateway.client.request(method, path, json={})

        assert reply.status_code == 502
        assert gateway.upstream.count(path) == 1

    def test_writes_use_a_fresh_connection_each(self, gateway):
        ports = []
        gateway.upstream.answer = lambda h: ports.append(h.client_address[1]) or False

        for _ in range(3):
            gateway.client.post("/api/v1/products", json={})

        assert len(set(ports)) == 3

    def test_reads_keep_theirs(self, gateway):
        ports = []
        gateway.upstream.answer = lambda h: ports.append(h.client_address[1]) or False

        for _ in range(3):
            gateway.client.get(unique("/api/v1/jobs"))

        assert len(set(ports)) == 1


def within_a_second(ask):
    """Ask for a new path, until the answers came before the first of them grew old."""
    while True:
        path = unique("/api/v1/products")
        started = time.monotonic()
        replies = ask(path)
        if time.monotonic() - started < 1:
            return path, replies


class TestMicroCache:
    def test_strangers_share_an_answer_for_a_second(self, gateway):
        path, replies = within_a_second(
            lambda path: [gateway.client.get(path) for _ in range(5)]
        )

        assert gateway.upstream.count(path) == 1
        assert [r.headers["x-cache"] for r in replies] == ["MISS", *["HIT"] * 4]
        assert len({r.headers["x-request-id"] for r in replies}) == 5

    def test_is_fresh_after_that_second(self, gateway):
        path = unique("/api/v1/products")
        gateway.client.get(path)
        time.sleep(2.1)
        gateway.upstream.answer = lambda h: h.reply(200, b'{"new":true}')

        # Also the second of two at the same time: no stale answer while updating.
        assert gateway.client.get(path).json() == {"new": True}

    def test_forgets_the_file_of_an_answer_that_was_replaced(self, gateway):
        path = unique("/api/v1/products")
        said = {"cache_control": "public, s-maxage=1"}
        gateway.upstream.answer = lambda h: h.reply(200, b'{"new":false}', **said)
        for _ in range(3):
            gateway.client.get(path)
        time.sleep(2.1)
        said["cache_control"] = "public, s-maxage=3600"
        gateway.upstream.answer = lambda h: h.reply(200, b'{"new":true}', **said)

        replies = [gateway.client.get(path) for _ in range(3)]

        assert [reply.json() for reply in replies] == [{"new": True}] * 3
        assert replies[-1].headers["x-cache"] == "HIT"

    def test_is_stale_while_it_asks_again_where_the_service_says_so(self, gateway):
        path = unique("/api/v1/categories")
        said = {"cache_control": "public, s-maxage=1, stale-while-revalidate=60"}
        gateway.upstream.answer = lambda h: h.reply(200, b'{"new":false}', **said)
        gateway.client.get(path)
        time.sleep(2.1)
        asked, go_on = threading.Event(), threading.Event()

        def slow(handler):
            asked.set()
            assert go_on.wait(20)
            return handler.reply(200, b'{"new":true}', **said)

        gateway.upstream.answer = slow
        try:
            # Nobody waits for the service, neither who makes it ask nor who comes next;
            # on another connection: nginx keeps the first until the service has answered.
            assert gateway.client.get(path).json() == {"new": False}
            assert asked.wait(20)
            another = httpx2.get(gateway.client.base_url.join(path))
            assert another.json() == {"new": False}
            assert gateway.upstream.count(path) == 2
        finally:
            go_on.set()
        wait_for(lambda: gateway.client.get(path).json() == {"new": True})

    def test_is_as_fresh_as_the_service_says(self, gateway):
        path = unique("/api/v1/products")
        gateway.upstream.answer = lambda h: h.reply(
            200, b"{}", cache_control="public, max-age=0, s-maxage=3600"
        )
        gateway.client.get(path)
        time.sleep(2.1)

        assert gateway.client.get(path).headers["x-cache"] == "HIT"

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer x"},
            {"Cookie": "a=b; flagon_session=abc"},
            {"Cache-Control": "no-cache"},
        ],
    )
    def test_others_are_always_answered_by_the_service(self, gateway, headers):
        path = unique("/api/v1/products")
        gateway.client.get(path)

        for _ in range(2):
            gateway.client.get(path, headers=headers)

        assert gateway.upstream.count(path) == 3

    def test_what_a_signed_in_person_gets_is_not_kept(self, gateway):
        path = unique("/api/v1/products")
        gateway.upstream.answer = lambda h: (
            h.reply(200, b'{"draft":1}') if "authorization" in h.headers else False
        )
        gateway.client.get(path, headers={"Authorization": "Bearer x"})

        assert gateway.client.get(path).json() == {"ok": True}

    def test_other_cookies_do_not_matter(self, gateway):
        path, _replies = within_a_second(
            lambda path: [
                gateway.client.get(path, headers={"Cookie": f"theme={number}"})
                for number in range(3)
            ]
        )

        assert gateway.upstream.count(path) == 1
        assert "cookie" not in gateway.upstream.last(path)["headers"]

    def test_accept_tells_answers_apart(self, gateway):
        path = unique("/api/v1/products")

        gateway.client.get(path, headers={"Accept": "text/html"})
        gateway.client.get(path, headers={"Accept": "application/json"})

        assert gateway.upstream.count(path) == 2

    def test_keeps_the_shop_open_when_the_catalog_fails(self, gateway):
        path = unique("/api/v1/products")
        gateway.client.get(path)
        time.sleep(2.1)
        gateway.upstream.answer = lambda h: h.reply(503, b"{}")

        reply = gateway.client.get(path)

        assert (reply.status_code, reply.headers["x-cache"]) == (200, "STALE")

    def test_answers_conditional_requests(self, gateway):
        path = unique("/api/v1/products")
        gateway.upstream.answer = lambda h: h.reply(200, b"{}", ETag='"7"')
        gateway.client.get(path)

        reply = gateway.client.get(path, headers={"If-None-Match": '"7"'})

        assert reply.status_code == 304

    @pytest.mark.parametrize("said", ["private", "no-store"])
    def test_obeys_private(self, gateway, said):
        path = unique("/api/v1/products")
        gateway.upstream.answer = lambda h: h.reply(200, b"{}", Cache_Control=said)

        gateway.client.get(path)
        gateway.client.get(path)

        assert gateway.upstream.count(path) == 2


class TestSessions:
    def exchange(self, gateway, status=204, **reply):
        """Let web answer the exchange; everything else is answered with 200."""

        def answer(handler):
            if handler.path != "/internal/session":
                return False
            return handler.reply(status, **reply)

        gateway.upstream.answer = answer

    def test_a_cookie_becomes_a_token(self, gateway):
        self.exchange(gateway, x_access_token="jwt")
        path, cookie = unique("/api/v1/jobs"), uuid4().hex

        gateway.client.get(path, headers={"Cookie": f"a=b; flagon_session={cookie}"})

        assert gateway.upstream.last(path)["headers"]["authorization"] == "Bearer jwt"
        asked = gateway.upstream.last("/internal/session")
        assert asked["headers"]["cookie"] == f"flagon_session={cookie}"
        assert asked["headers"]["x-original-method"] == "GET"

    def test_is_asked_once_in_a_while_per_session(self, gateway):
        self.exchange(gateway, x_access_token="jwt")

        def four(_path):
            gateway.upstream.seen.clear()
            headers = {"Cookie": f"flagon_session={uuid4().hex}"}
            for _ in range(4):
                path = unique("/api/v1/jobs")
                gateway.client.get(path, headers=headers)
                got = gateway.upstream.last(path)["headers"]
                assert got["authorization"] == "Bearer jwt"

        within_a_second(four)

        assert gateway.upstream.count("/internal/session") == 1

    def test_unsafe_methods_ask_again_with_their_csrf_token(self, gateway):
        self.exchange(gateway, x_access_token="jwt")
        headers = {"Cookie": f"flagon_session={uuid4().hex}"}
        gateway.client.get("/api/v1/jobs", headers=headers)

        gateway.client.post(
            "/api/v1/jobs",
            headers=headers | {"X-CSRF-Token": "t", "Origin": "http://a"},
        )

        asked = gateway.upstream.last("/internal/session")["headers"]
        assert gateway.upstream.count("/internal/session") == 2
        assert asked["x-original-method"] == "POST"
        assert (asked["x-csrf-token"], asked["origin"]) == ("t", "http://a")

    def test_a_refusal_is_a_problem(self, gateway):
        self.exchange(gateway, status=403)

        reply = gateway.client.post(
            "/api/v1/jobs", headers={"Cookie": f"flagon_session={uuid4().hex}"}
        )

        assert reply.status_code == 403
        assert "X-CSRF-Token" in reply.json()["detail"]
        assert gateway.upstream.count("/api/v1/jobs") == 0

    def test_an_ended_session_goes_on_as_a_stranger(self, gateway):
        self.exchange(gateway)
        path = unique("/api/v1/jobs")

        gateway.client.get(path, headers={"Cookie": f"flagon_session={uuid4().hex}"})

        assert "authorization" not in gateway.upstream.last(path)["headers"]

    def test_a_token_of_ones_own_comes_first(self, gateway):
        path = unique("/api/v1/jobs")

        gateway.client.get(
            path,
            headers={"Authorization": "Bearer own", "Cookie": "flagon_session=abc"},
        )

        assert gateway.upstream.last(path)["headers"]["authorization"] == "Bearer own"
        assert gateway.upstream.count("/internal/session") == 0

    def test_without_web_reading_goes_on_and_writing_does_not(self, gateway):
        self.exchange(gateway, status=500)
        headers = {"Cookie": f"flagon_session={uuid4().hex}"}
        path = unique("/api/v1/products")

        read = gateway.client.get(path, headers=headers)
        write = gateway.client.post("/api/v1/products", headers=headers)

        assert read.status_code == 200
        assert "authorization" not in gateway.upstream.last(path)["headers"]
        assert write.status_code == 503
        assert write.headers["retry-after"] == "2"

    def test_the_cookie_of_the_other_scheme_is_not_looked_at(self, gateway):
        path = unique("/api/v1/jobs")

        gateway.client.get(path, headers={"Cookie": "__Host-flagon_session=abc"})

        assert gateway.upstream.count("/internal/session") == 0


class TestApiKeys:
    KEY = f"flg_{'a' * 12}_{'b' * 43}"

    def exchange(self, gateway, status=204, **reply):
        """Let auth answer the exchange; everything else is answered with 200."""

        def answer(handler):
            if handler.path != "/internal/api-key":
                return False
            return handler.reply(status, **reply)

        gateway.upstream.answer = answer

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
    def test_a_key_becomes_a_token(self, gateway, scheme):
        self.exchange(gateway, x_access_token="jwt")
        path = unique("/api/v1/jobs")
        sent = f"{scheme} {self.KEY}"

        gateway.client.get(path, headers={"Authorization": sent, "Cookie": "a=b"})

        assert gateway.upstream.last(path)["headers"]["authorization"] == "Bearer jwt"
        asked = gateway.upstream.last("/internal/api-key")["headers"]
        assert asked["authorization"] == sent
        assert "cookie" not in asked
        assert gateway.upstream.count("/internal/session") == 0

    def test_a_body_goes_to_the_service_alone(self, gateway):
        self.exchange(gateway, x_access_token="jwt")
        path = unique("/api/v1/jobs")

        gateway.client.post(
            path, content=b"x" * 2000, headers={"Authorization": f"Bearer {self.KEY}"}
        )

        assert gateway.upstream.last(path)["headers"]["content-length"] == "2000"
        assert (
            "content-length"
            not in (gateway.upstream.last("/internal/api-key")["headers"])
        )

    def test_a_refused_key_is_a_problem(self, gateway):
        challenge = 'Bearer realm="flagon-api"'
        self.exchange(gateway, status=401, www_authenticate=challenge)
        path = unique("/api/v1/jobs")

        reply = gateway.client.get(
            path, headers={"Authorization": f"Bearer {self.KEY}"}
        )

        assert reply.status_code == 401
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["www-authenticate"] == challenge
        assert gateway.upstream.count(path) == 0

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_nothing_goes_on_without_auth(self, gateway, method):
        self.exchange(gateway, status=503)
        path = unique("/api/v1/products")

        reply = gateway.client.request(
            method, path, headers={"Authorization": f"Bearer {self.KEY}"}
        )

        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "2"
        assert gateway.upstream.count(path) == 0


def send_stream(handler, go_on):
    """Answer with an event, and with another and the end when it may go on."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"data: 1\n\n")
    handler.wfile.flush()
    go_on.wait(60)
    handler.wfile.write(b"data: 2\n\n")
    handler.close_connection = True


class TestStreams:
    @pytest.fixture
    def go_on(self, gateway):
        """Lets a stream, which has sent one event, send another and end."""
        event = threading.Event()

        def stream(handler):
            send_stream(handler, event)

        gateway.upstream.answer = stream
        yield event
        event.set()

    def test_events_arrive_while_the_stream_is_open(self, gateway, go_on):
        with gateway.client.stream("GET", unique("/api/v1/events")) as reply:
            parts = reply.iter_raw()
            first = next(parts)
            go_on.set()
            rest = b"".join(parts)

        assert first == b"data: 1\n\n"
        assert rest == b"data: 2\n\n"
        assert "content-encoding" not in reply.headers

    @pytest.mark.parametrize("version", ["1.1", "2"])
    def test_events_arrive_over_each_version_of_http(self, gateway, go_on, version):
        # No Python client in the lock speaks HTTP/2.
        with subprocess.Popen(
            [
                *("curl", "--silent", "--no-buffer", "--max-time", "60", "--include"),
                *("--cacert", gateway.folder / "tls" / "ca.pem"),
                # As a browser would ask; events must not wait for a compressor.
                *("--header", "Accept-Encoding: gzip", f"--http{version}"),
                gateway.https_url + unique("/api/v1/events"),
            ],
            stdout=subprocess.PIPE,
        ) as curl:
            head = []
            while not head or head[-1].strip():
                head.append(curl.stdout.readline())
            first = curl.stdout.readline()
            go_on.set()
            rest = curl.stdout.read()

        assert head[0].startswith(f"HTTP/{version} 200".encode())
        assert b"content-encoding" not in b"".join(head).lower()
        assert (first, rest) == (b"data: 1\n", b"\ndata: 2\n\n")

    def test_one_address_may_not_take_them_all(self, gateway):
        go_on = threading.Event()

        def stream(handler):
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(b":\n\n")
            go_on.wait(60)
            handler.close_connection = True

        gateway.upstream.answer = stream
        opened = [
            socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(3)
        ]
        for connection in opened:
            connection.sendall(
                b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")

        refused = gateway.client.get("/api/v1/events")

        go_on.set()
        for connection in opened:
            connection.close()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"

    def test_websockets_are_upgraded(self, gateway):
        def upgrade(handler):
            handler.send_response(101)
            handler.send_header("Upgrade", "websocket")
            handler.send_header("Connection", "Upgrade")
            accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            handler.send_header("Sec-WebSocket-Accept", accept)
            handler.end_headers()
            handler.wfile.write(b"hello")
            handler.wfile.flush()
            handler.close_connection = True

        gateway.upstream.answer = upgrade
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
            connection.sendall(
                b"GET /socket.io/?EIO=4 HTTP/1.1\r\nHost: localhost\r\n"
                b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            got = b""
            while part := connection.recv(4096):
                got += part

        assert got.startswith(b"HTTP/1.1 101 ")
        assert got.endswith(b"hello")


class TestCompression:
    @pytest.mark.parametrize("kind", ["application/json", "application/problem+json"])
    def test_of_what_services_say(self, gateway, kind):
        body = json.dumps(["word"] * 1000).encode()
        gateway.upstream.answer = lambda h: h.reply(
            200, body, content_type=kind, ETag='"7"'
        )
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
        connection.request(
            "GET", unique("/api/v1/products"), headers={"Accept-Encoding": "gzip"}
        )
        reply = connection.getresponse()
        raw = reply.read()
        connection.close()

        assert reply.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == body
        # Compressed, the tag is a weak one…
        assert reply.headers["etag"] == 'W/"7"'

    def test_does_not_break_conditional_writes(self, gateway):
        path = unique("/api/v1/products")

        gateway.client.put(path, headers={"If-Match": 'W/"7"'})

        # … which comes back strong, as the service said it.
        assert gateway.upstream.last(path)["headers"]["if-match"] == '"7"'


class TestLimits:
    def test_guessing_is_slowed_down(self, start, tmp_path):
        slow = {"GATEWAY_SIGN_IN_RATE": "1r/m", "GATEWAY_SIGN_IN_BURST": "2"}

        with (
            stand_in() as upstream,
            start(tmp_path, upstream, **slow) as gateway,
        ):
            pages = [gateway.client.get("/login").status_code for _ in range(6)]
            tries = [gateway.client.post("/login") for _ in range(4)]

        assert set(pages) == {200}
        assert [reply.status_code for reply in tries] == [200, 200, 200, 429]
        assert tries[-1].headers["content-type"] == "application/problem+json"
        assert tries[-1].headers["retry-after"] == "1"

    @pytest.mark.parametrize(
        "path",
        ["/login", "/register", "/password/forgot", "/device", "/social/acme/start"],
    )
    def test_every_form_of_auth_counts(self, start, tmp_path, path):
        slow = {"GATEWAY_SIGN_IN_RATE": "1r/m", "GATEWAY_SIGN_IN_BURST": "1"}

        with (
            stand_in() as upstream,
            start(tmp_path, upstream, **slow) as gateway,
        ):
            gateway.client.post("/login")
            tries = [gateway.client.post(path).status_code for _ in range(2)]

        assert tries == [200, 429]

    def test_starts_of_device_sign_ins_are_limited(self, start, tmp_path):
        slow = {"GATEWAY_SIGN_IN_RATE": "1r/m", "GATEWAY_SIGN_IN_BURST": "1"}

        with (
            stand_in() as upstream,
            start(tmp_path, upstream, **slow) as gateway,
        ):
            tries = [
                gateway.client.post(
                    "/oauth/device_authorization", headers={"Accept": "text/html"}
                )
                for _ in range(3)
            ]

        assert [reply.status_code for reply in tries] == [200, 200, 429]
        assert tries[-1].headers["content-type"] == "application/problem+json"

    def test_programs_have_a_limit_of_their_own(self, start, tmp_path):
        slow = {
            "GATEWAY_SIGN_IN_RATE": "1r/m",
            "GATEWAY_SIGN_IN_BURST": "1",
            "GATEWAY_TOKEN_RATE": "1r/m",
            "GATEWAY_TOKEN_BURST": "3",
        }

        with (
            stand_in() as upstream,
            start(tmp_path, upstream, **slow) as gateway,
        ):
            tries = [
                gateway.client.post(f"/oauth/{name}")
                for name in ("token", "introspect", "revoke", "userinfo", "par")
            ]
            people = gateway.client.post("/login").status_code

        assert [reply.status_code for reply in tries] == [200] * 4 + [429]
        assert tries[-1].headers["content-type"] == "application/problem+json"
        assert people == 200

    def test_reading_pages_is_limited_as_the_apis_are(self, start, tmp_path):
        slow = {"GATEWAY_API_RATE": "1r/m", "GATEWAY_API_BURST": "2"}

        with (
            stand_in() as upstream,
            start(tmp_path, upstream, **slow) as gateway,
        ):
            pages = [gateway.client.get("/login").status_code for _ in range(4)]

        assert pages == [200] * 3 + [429]


class TestHeaders:
    server = "nginx"

    def test_are_safe_by_default(self, gateway):
        headers = gateway.client.get("/").headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
        assert headers.get("server", self.server) == self.server
        # Strict-Transport-Security for localhost would reach every other project there.
        assert "strict-transport-security" not in headers

    def test_of_a_service_come_first(self, gateway):
        gateway.upstream.answer = lambda h: h.reply(
            200, Referrer_Policy="no-referrer", X_Frame_Options="SAMEORIGIN"
        )

        headers = gateway.client.get("/").headers

        assert headers.get_list("referrer-policy") == ["no-referrer"]
        assert headers.get_list("x-frame-options") == ["SAMEORIGIN"]

    def test_files_with_a_hash_in_their_name_never_change(self, gateway):
        static = gateway.folder / "static"
        (static / "app.3f9a1c77.css").write_text("a{}")
        (static / "app.css").write_text("a{}")

        hashed = gateway.client.get("/static/app.3f9a1c77.css")
        asked = gateway.client.get("/static/app.css?v=3f9a1c77")
        plain = gateway.client.get("/static/app.css")

        assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert asked.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["cache-control"] == "no-cache"
        assert plain.headers["content-type"] == "text/css; charset=utf-8"

    def test_nothing_beside_the_static_files_is_given_away(self, gateway):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
        for path in ("/static/../conf/nginx.conf", "/static/%2e%2e/conf/nginx.conf"):
            connection.request("GET", path)
            assert b"worker_processes" not in connection.getresponse().read()
        connection.request("GET", "/static../conf/nginx.conf")
        assert b"worker_processes" not in connection.getresponse().read()
        connection.close()


class TestDocuments:
    def test_the_type_of_a_problem_leads_somewhere(self, gateway):
        (gateway.folder / "docs").mkdir(exist_ok=True)
        (gateway.folder / "docs" / "problems.md").write_text("# Problems · all\n")

        reply = gateway.client.get("/docs/problems")

        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.text == "# Problems · all\n"

    def test_of_alerts_are_the_runbooks_and_no_other_file(self, gateway):
        folder = gateway.folder / "docs"
        (folder / "runbooks").mkdir(parents=True, exist_ok=True)
        (folder / "runbooks" / "queue-old.md").write_text("# Tasks wait too long\n")
        (folder / "claims.md").write_text("# Claims\n")

        reply = gateway.client.get("/docs/runbooks/queue-old")
        others = [
            gateway.client.get(f"/docs/{path}").text
            for path in ("claims", "runbooks/../claims", "runbooks/%2e%2e/claims")
        ]

        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.text == "# Tasks wait too long\n"
        assert not any("# Claims" in text for text in others)

    def test_of_the_apis_are_the_services_own(self, gateway):
        gateway.client.get("/api/openapi/worker.json")

        assert gateway.upstream.count("/openapi.json") == 1


class TestTls:
    def test_is_1_3_with_a_certificate_of_the_local_authority(self, gateway):
        context = ssl.create_default_context(cafile=gateway.folder / "tls" / "ca.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])

        with (
            socket.create_connection(("127.0.0.1", gateway.port + 363)) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            assert connection.version() == "TLSv1.3"
            assert connection.selected_alpn_protocol() == "h2"

    def test_older_versions_are_refused(self, gateway):
        context = ssl.create_default_context(cafile=gateway.folder / "tls" / "ca.pem")
        context.maximum_version = ssl.TLSVersion.TLSv1_2

        with (
            socket.create_connection(("127.0.0.1", gateway.port + 363)) as raw,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(raw, server_hostname="localhost")

    def test_takes_the_cookie_with_the_host_prefix(self, gateway):
        context = ssl.create_default_context(cafile=gateway.folder / "tls" / "ca.pem")
        path, cookie = unique("/api/v1/jobs"), uuid4().hex

        with httpx2.Client(verify=context, trust_env=False) as client:
            client.get(
                gateway.https_url + path,
                headers={"Cookie": f"__Host-flagon_session={cookie}; flagon_session=x"},
            )

        asked = gateway.upstream.last("/internal/session")["headers"]
        assert asked["cookie"] == f"__Host-flagon_session={cookie}"
        assert gateway.upstream.last(path)["headers"]["x-forwarded-proto"] == "https"


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    changes = {
        "GATEWAY_SCHEME": "https",
        "GATEWAY_EDGE": "set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;",
        # Nobody speaks TLS to it, and there is no certificate.
        "GATEWAY_TLS_CERTIFICATE": "$ssl_server_name.pem",
        "GATEWAY_TLS_KEY": "$ssl_server_name.key",
        "GATEWAY_HTTPS_LISTEN": f"127.0.0.1:{free_port()}",
        "GATEWAY_HSTS": "max-age=31536000",
    }
    folder = tmp_path_factory.mktemp("behind")
    with stand_in() as upstream, start_gateway(folder, upstream, **changes) as one:
        yield one


def came_by(request):
    """Return whose request the gateway says it is, and how it came."""
    headers = request["headers"]
    return headers["x-forwarded-for"], headers["x-forwarded-proto"]


class TestRouterBeforeIt:
    """Somebody else ends TLS, as load balancers and platforms do."""

    def test_is_believed_about_the_client(self, behind):
        path = unique("/api/v1/jobs")

        behind.client.get(path, headers={"X-Forwarded-For": "10.9.9.9, 203.0.113.9"})

        assert came_by(behind.upstream.last(path)) == ("203.0.113.9", "https")

    def test_has_its_cookies_taken_for_those_of_tls(self, behind):
        path, cookie = unique("/api/v1/jobs"), uuid4().hex

        reply = behind.client.get(
            path, headers={"Cookie": f"__Host-flagon_session={cookie}"}
        )

        asked = behind.upstream.last("/internal/session")["headers"]
        assert asked["cookie"] == f"__Host-flagon_session={cookie}"
        assert reply.headers["strict-transport-security"] == "max-age=31536000"

    def test_nobody_is_believed_without_one(self, gateway):
        path = unique("/api/v1/jobs")

        gateway.client.get(path, headers={"X-Forwarded-For": "203.0.113.9"})

        assert came_by(gateway.upstream.last(path)) == ("127.0.0.1", "http")


class Reloads:
    """Of gateways that have a way of their own to do it, and to say that it is done."""

    def test_drops_no_connection_and_ends_no_stream(self, start, tmp_path):
        go_on = threading.Event()

        def answer(handler):
            if not handler.path.startswith("/api/v1/events"):
                return False
            send_stream(handler, go_on)
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
                    self.reload(gateway)
                    go_on.set()
                    assert b"".join(parts) == b"data: 2\n\n"
            finally:
                ended.set()
                asking.join()

        assert statuses == {200}


class Slowness:
    """Of gateways whose waits a test can shorten."""

    said, wait = 504, "5"

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
            assert reply.status_code == self.said
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.headers["retry-after"] == self.wait
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


class TestVanishedClient:
    def test_is_looked_for_between_two_heartbeats(self, gateway):
        with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
            connection.sendall(b"GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536)
            told = subprocess.run(
                [
                    *("ss", "--tcp", "--numeric", "--options", "--no-header"),
                    *("dst", f"127.0.0.1:{connection.getsockname()[1]}"),
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout

        # `ss` writes seconds and thousandths so; two hours would be `119min`.
        assert re.search(r"timer:\(keepalive,[0-6](?:\.\d+)?ms,0\)", told), told


class Spans:
    """Of gateways that send lines as nginx does."""

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


KEPT_BY_ALL = {
    one.__name__: one
    for one in (
        TestApiKeys,
        TestCompression,
        TestDocuments,
        TestInsideMatters,
        TestLimits,
        TestRequestId,
        TestSessions,
        TestStreams,
        TestTls,
    )
}
"""What another gateway in nginx's place keeps to the letter."""
