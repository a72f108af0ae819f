import gzip
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from structlog.contextvars import bound_contextvars

from flagon_chassis import http, tracing
from flagon_chassis.errors import Unavailable
from flagon_chassis.http import Client, Refused, Unreachable

from .conftest import eventually, sample

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Other:
    """A real HTTP service that answers as it is told and remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.answers = []
        self.before_answer = lambda: None
        other = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length) if length else self._chunks()
                other.asked.append((self.command, self.path, self.headers, body))
                other.before_answer()
                planned = other.answers.pop(0) if other.answers else {}
                self.send_response(planned.get("status", 200))
                content = planned.get("body", b"{}")
                for name, value in planned.get("headers", {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                pieces = planned.get("pieces", 1)
                size = max(1, len(content) // pieces)
                for start in range(0, len(content), size):
                    self.wfile.write(content[start : start + size])
                    self.wfile.flush()
                    if pieces > 1 and other.closing.wait(0.1):
                        return

            def _chunks(self):
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return b""
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_args):
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,)).start()

    def answer(self, status=200, body=b"{}", times=1, **options):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers += [{"status": status, "body": body, **options}] * times

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def other():
    other = Other()
    yield other
    other.close()


@pytest.fixture
def make_client(other, make_settings):
    made = []

    def make(url=None, *, settings=None, **options):
        options.setdefault("name", "other")
        client = Client(url or other.url, settings or make_settings(), **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()


class TestStream:
    def test_gives_an_answer_of_any_length_in_pieces(self, make_client, other):
        body = b"x" * 300_000
        other.answer(body=body)
        client = make_client(response_bytes=1000)

        with client.stream("/long", params={"a": "b"}) as pieces:
            assert b"".join(pieces) == body

        assert other.asked[0][1] == "/long?a=b"

    def test_tells_refusals_with_their_problem(self, client, other):
        problem = {"title": "no", "detail": "not this"}
        other.answer(422, problem, headers={"Content-Type": "application/problem+json"})

        with pytest.raises(Refused, match="not this"), client.stream("/"):
            pass

    def test_tells_trouble_of_the_other_side(self, client, other):
        other.answer(503)

        with pytest.raises(Unreachable), client.stream("/"):
            pass

    def test_tells_that_nobody_is_there(self, make_client):
        client = make_client("http://127.0.0.1:1")

        with pytest.raises(Unreachable), client.stream("/"):
            pass

    def test_tells_an_end_in_the_middle(self, make_client):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer():
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    connection.sendall(head + b"3\r\nabc\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            client = make_client(f"http://127.0.0.1:{server.getsockname()[1]}")
            with (
                client.stream("/") as pieces,
                pytest.raises(Unreachable, match="broke off"),
            ):
                list(pieces)
            thread.join()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Make the waits between attempts short; how long they are has its own test."""
    waits = []
    plan = http.backoff_seconds

    def wait(attempt, least):
        waits.append(plan(attempt, least))
        return (least or 0) + 0.001

    monkeypatch.setattr(http, "backoff_seconds", wait)
    return waits


class TestRequest:
    @pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
    def test_asks_and_returns_the_answer(self, client, other, method):
        other.answer(201, {"a": 1}, headers={"ETag": '"1"'})

        response = getattr(client, method)("/things", params={"q": "ä"})

        assert (response.status_code, response.json()) == (201, {"a": 1})
        assert response.headers["ETag"] == '"1"'
        assert other.asked[0][:2] == (method.upper(), "/things?q=%C3%A4")

    def test_passes_request_id_and_trace_on(self, client, other):
        with (
            bound_contextvars(request_id="request-1"),
            tracing.continue_from(TRACEPARENT, "test"),
        ):
            client.get("/")

        headers = other.asked[0][2]
        assert headers["X-Request-ID"] == "request-1"
        assert headers["traceparent"] == TRACEPARENT

    def test_sends_no_token_unless_told_to(self, client, other):
        client.get("/")

        assert "Authorization" not in other.asked[0][2]

    def test_sends_the_token_of_the_caller(self, client, other):
        client.get("/", token="theirs")

        assert other.asked[0][2]["Authorization"] == "Bearer theirs"

    def test_does_not_follow_redirects(self, client, other):
        other.answer(302, headers={"Location": "http://elsewhere.test/"})

        assert client.get("/").headers["Location"] == "http://elsewhere.test/"

    def test_decodes_compressed_answers(self, client, other):
        other.answer(
            200, gzip.compress(b'{"a": 2}'), headers={"Content-Encoding": "gzip"}
        )

        assert client.get("/").json() == {"a": 2}

    def test_measures_calls_by_outcome(self, client, other):
        name = "flagon_client_request_duration_seconds_count"
        before = sample(name, client="other", outcome="2xx") or 0

        client.get("/")

        assert sample(name, client="other", outcome="2xx") == before + 1

    def test_knows_https(self, make_client):
        with pytest.raises(Unreachable):
            make_client("https://127.0.0.1:1", retries=0).get("/")


class TestUpload:
    def test_streams_a_file(self, client, other):
        client.put("/", content=io.BytesIO(b"x" * 200_000))

        assert len(other.asked[0][3]) == 200_000

    def test_streams_pieces_and_does_not_repeat_them(self, client, other):
        other.answer(503)

        with pytest.raises(Unreachable):
            client.put("/", content=iter([b"a", b"b"]))

        assert [asked[3] for asked in other.asked] == [b"ab"]

    def test_sends_forms_with_files(self, client, other):
        client.post(
            "/",
            data={"kind": "import"},
            files={"file": ("a.csv", io.BytesIO(b"1;2"), "text/csv")},
        )

        assert b'filename="a.csv"' in other.asked[0][3]
        assert b"1;2" in other.asked[0][3]

    def test_repeats_a_file_from_where_it_began(self, client, other):
        file = io.BytesIO(b"skipped, sent")
        file.read(9)
        other.answer(503)

        client.put("/", content=file)

        assert [asked[3] for asked in other.asked] == [b"sent", b"sent"]

    def test_does_not_repeat_what_cannot_be_rewound(self, client, other):
        class Pipe(io.BytesIO):
            def seekable(self):
                return False

        other.answer(503)

        with pytest.raises(Unreachable):
            client.put("/", content=Pipe(b"once"))

        assert [asked[3] for asked in other.asked] == [b"once"]


class TestRetries:
    @pytest.mark.parametrize("status", [502, 503, 504, 429])
    def test_repeat_idempotent_calls(self, client, other, status):
        other.answer(status, times=2)

        assert client.get("/").status_code == 200
        assert len(other.asked) == 3

    def test_never_repeat_other_calls(self, client, other):
        other.answer(503)

        with pytest.raises(Unreachable, match="other answered 503"):
            client.post("/")
        assert len(other.asked) == 1

    @pytest.mark.parametrize(
        "options",
        [
            {"idempotency_key": "k"},
            {"headers": {"idempotency-key": "k"}},
            {"idempotent": True},
        ],
    )
    def test_repeat_calls_that_may_be_repeated(self, client, other, options):
        other.answer(503)

        assert client.post("/", json={}, **options).status_code == 200

    def test_do_not_repeat_a_crash_of_the_other_side(self, client, other):
        other.answer(500)

        with pytest.raises(Unreachable, match="answered 500"):
            client.get("/")
        assert len(other.asked) == 1

    def test_end_after_some_attempts(self, client, other):
        other.answer(503, times=9)

        with pytest.raises(Unreachable) as caught:
            client.get("/")

        assert len(other.asked) == 3
        assert isinstance(caught.value, Unavailable)
        assert caught.value.retry_after_seconds == 2

    def test_wait_as_long_as_the_server_asks(self, client, other):
        other.answer(503, headers={"Retry-After": "1"})
        started = time.monotonic()

        client.get("/")

        assert time.monotonic() - started >= 1

    def test_do_not_wait_beyond_the_deadline(self, client, other):
        other.answer(503, headers={"Retry-After": "30"})
        started = time.monotonic()

        with pytest.raises(Unreachable) as caught:
            client.get("/")

        assert time.monotonic() - started < 10
        assert caught.value.retry_after_seconds == 30

    def test_a_throttled_call_that_is_not_repeated_is_refused(self, client, other):
        other.answer(429)

        with pytest.raises(Refused) as caught:
            client.post("/")
        assert caught.value.status == 429


class TestBackoff:
    def test_grows_with_full_jitter(self, no_waits):
        for _ in range(200):
            http.backoff_seconds(0, None)
        for _ in range(200):
            http.backoff_seconds(9, None)

        assert 0.05 < max(no_waits[:200]) <= 0.1
        assert 1 < max(no_waits[200:]) <= 2
        assert min(no_waits[200:]) < 1

    @pytest.mark.parametrize(
        ("value", "low", "high"),
        [
            ("7", 7, 7),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
            ("Wed, 21 Oct 2115 07:28:00 GMT", 1e9, 1e10),
        ],
    )
    def test_reads_both_forms_of_retry_after(self, value, low, high):
        seconds = http.retry_after_seconds(httpx2.Headers({"Retry-After": value}))

        assert low <= seconds <= high

    def test_knows_no_other_form(self):
        headers = httpx2.Headers({"Retry-After": "soon"})

        assert http.retry_after_seconds(headers) is None


class TestDeadline:
    def test_ends_a_call_that_gets_no_answer(self, client, other):
        other.before_answer = lambda: other.closing.wait(5)
        started = time.monotonic()

        with pytest.raises(Unreachable, match="took too long"):
            client.get("/", deadline_seconds=0.2)

        assert time.monotonic() - started < 2

    def test_holds_for_all_pieces_of_an_answer_together(self, client, other):
        other.answer(200, b"x" * 1_000_000, pieces=50)
        started = time.monotonic()

        with pytest.raises(Unreachable, match="took too long"):
            client.get("/", deadline_seconds=0.5)

        assert time.monotonic() - started < 2


class TestSize:
    def test_an_answer_without_end_is_not_read(self, make_client, other):
        other.answer(200, b"x" * 100_000, times=3)

        with pytest.raises(Unreachable):
            make_client(response_bytes=1000).get("/")


class TestRefused:
    def test_brings_the_problem_along(self, client, other):
        problem = {"title": "SKU taken", "status": 409, "detail": "In use.", "sku": "1"}
        other.answer(
            409, problem, headers={"Content-Type": "application/problem+json; a=b"}
        )

        with pytest.raises(Refused, match="In use") as caught:
            client.post("/")

        assert caught.value.status == 409
        assert caught.value.problem == problem

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("text/html", b"<h1>no</h1>"),
            ("application/problem+json", b"{"),
            ("application/problem+json", b"[]"),
        ],
    )
    def test_has_no_problem_without_one(self, client, other, kind, body):
        other.answer(404, body, headers={"Content-Type": kind})

        with pytest.raises(Refused) as caught:
            client.get("/")
        assert caught.value.problem == {}


class TestCircuit:
    def test_opens_after_failures_and_closes_after_a_success(self, make_client, other):
        client = make_client(retries=0, open_after=2, open_seconds=1, name="breaking")
        other.answer(503, times=2)
        for _ in range(2):
            with pytest.raises(Unreachable, match="answered"):
                client.get("/")

        with pytest.raises(Unreachable, match="for a while"):
            client.get("/")
        assert len(other.asked) == 2
        assert sample("flagon_circuit_state", client="breaking") == 2

        assert eventually(lambda: _ok(client)).status_code == 200
        assert sample("flagon_circuit_state", client="breaking") == 0

    def test_one_call_alone_tries_whether_it_may_close(self, make_client, other):
        client = make_client(retries=0, open_after=1, open_seconds=0, name="trial")
        other.answer(503)
        with pytest.raises(Unreachable):
            client.get("/")
        let_go, arrived = threading.Event(), threading.Event()
        other.before_answer = lambda: (arrived.set(), let_go.wait(5))
        with in_background(lambda: client.get("/first")):
            assert arrived.wait(5)
            with pytest.raises(Unreachable, match="for a while"):
                client.get("/second")
            let_go.set()

        assert [asked[1] for asked in other.asked] == ["/", "/first"]

    def test_refusals_do_not_open_it(self, make_client, other):
        client = make_client(retries=0, open_after=1)
        other.answer(404, times=2)
        other.answer(429, times=2)

        for _ in range(4):
            with pytest.raises(Refused):
                client.get("/")

    def test_throttling_does_not_open_it(self, make_client, other):
        client = make_client(retries=1, open_after=1)
        other.answer(429, times=3)

        with pytest.raises(Unreachable, match="answered 429"):
            client.get("/")
        assert client.get("/").status_code == 200

    def test_calls_do_not_wait_for_each_other(self, client, other):
        together = threading.Barrier(2, timeout=5)
        other.before_answer = together.wait

        with in_background(lambda: client.get("/")):
            assert client.get("/").status_code == 200

    def test_late_failures_do_not_count_once_it_is_open(self, make_client, other):
        client = make_client(retries=0, open_after=1, open_seconds=60)
        arrived, let_go = threading.Event(), threading.Event()
        turns = [lambda: (arrived.set(), let_go.wait(5)), lambda: None]
        other.before_answer = lambda: turns.pop(0)()  # noqa: PLW0108 (each turn has its own)
        other.answer(503, times=2)

        with in_background(lambda: _ok(client)):
            assert arrived.wait(5)
            with pytest.raises(Unreachable, match="answered"):
                client.get("/")
            let_go.set()

        with pytest.raises(Unreachable, match="for a while"):
            client.get("/")


def _ok(client):
    try:
        return client.get("/")
    except Unreachable:
        return None


@contextmanager
def in_background(call):
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(call)
        yield
        # Raises what the call has raised.
        ended.result(10)


class TestServiceToken:
    @pytest.fixture
    def auth(self):
        auth = Other()
        yield auth
        auth.close()

    @pytest.fixture
    def client(self, make_client, make_settings, auth):
        settings = make_settings(
            token_url=f"{auth.url}/oauth/token", client_id="me", client_secret="s"
        )
        return make_client(settings=settings, scope="things:write")

    def grant(self, auth, token, seconds=300):
        auth.answer(200, {"access_token": token, "expires_in": seconds})

    def sent(self, other):
        return [asked[2]["Authorization"] for asked in other.asked]

    def test_comes_from_auth_by_client_credentials(self, client, other, auth):
        self.grant(auth, "one")

        client.get("/")

        method, path, headers, body = auth.asked[0]
        assert (method, path) == ("POST", "/oauth/token")
        assert headers["Authorization"] == "Basic bWU6cw=="
        assert b"grant_type=client_credentials&scope=things%3Awrite" in body
        assert self.sent(other) == ["Bearer one"]

    def test_is_sent_for_a_stream_and_forgotten_when_refused(self, client, other, auth):
        self.grant(auth, "one")
        self.grant(auth, "two")
        other.answer(401)

        with pytest.raises(Refused), client.stream("/"):
            pass
        with client.stream("/") as pieces:
            assert b"".join(pieces) == b"{}"

        assert self.sent(other) == ["Bearer one", "Bearer two"]

    def test_is_used_again(self, client, other, auth):
        self.grant(auth, "one")

        client.get("/")
        client.get("/")

        assert len(auth.asked) == 1
        assert self.sent(other) == ["Bearer one"] * 2

    def test_gives_way_to_the_token_of_the_caller(self, client, other, auth):
        client.get("/", token="theirs")

        assert auth.asked == []
        assert self.sent(other) == ["Bearer theirs"]

    def test_is_renewed_before_it_expires(self, client, other, auth, monkeypatch):
        monkeypatch.setattr(http.ServiceToken, "renew_share", 1.0)
        self.grant(auth, "one")
        self.grant(auth, "two")

        client.get("/")
        client.get("/")

        assert self.sent(other) == ["Bearer one", "Bearer two"]

    def test_serves_until_it_expires_while_auth_is_away(
        self, client, other, auth, monkeypatch, logged
    ):
        monkeypatch.setattr(http.ServiceToken, "renew_share", 1.0)
        self.grant(auth, "one")
        client.get("/")
        auth.answer(503, times=9)

        client.get("/")
        client.get("/")

        assert self.sent(other) == ["Bearer one"] * 3
        # After a failure auth is left alone for a while.
        assert (
            len([line for line in logged if line["event"] == "token_not_renewed"]) == 1
        )

    def test_without_one_there_is_no_call(self, client, other, auth):
        auth.answer(503, times=9)

        with pytest.raises(Unreachable, match="no service token"):
            client.get("/")
        assert other.asked == []

    def test_is_not_used_after_it_expired(self, client, other, auth):
        self.grant(auth, "one", seconds=1)
        client.get("/")
        auth.answer(400, times=9)

        with pytest.raises(Unreachable, match="no service token"):
            client.get("/")

    def test_that_was_revoked_is_replaced(self, client, other, auth):
        self.grant(auth, "one")
        self.grant(auth, "two")
        other.answer(401)

        assert client.post("/", json={}).status_code == 200
        assert self.sent(other) == ["Bearer one", "Bearer two"]

    def test_is_not_replaced_when_another_call_did_that(self, client, auth):
        self.grant(auth, "one")
        client.get("/")

        client.own_token.forget("older")
        client.get("/")

        assert len(auth.asked) == 1

    def test_is_fetched_once_by_many_threads(self, client, other, auth):
        arrived = threading.Event()
        auth.before_answer = lambda: (arrived.set(), time.sleep(0.1))
        self.grant(auth, "one")

        with in_background(lambda: client.get("/")):
            assert arrived.wait(5)
            client.get("/")

        assert len(auth.asked) == 1
        assert self.sent(other) == ["Bearer one"] * 2

    def test_present_one_serves_while_a_thread_fetches_the_next(
        self, client, other, auth, monkeypatch
    ):
        monkeypatch.setattr(http.ServiceToken, "renew_share", 1.0)
        self.grant(auth, "one")
        client.get("/")
        arrived, let_go = threading.Event(), threading.Event()
        auth.before_answer = lambda: (arrived.set(), let_go.wait(5))
        self.grant(auth, "two")
        with in_background(lambda: client.get("/slow")):
            assert arrived.wait(5)
            client.get("/fast")
            let_go.set()

        assert self.sent(other) == ["Bearer one", "Bearer one", "Bearer two"]

    def test_needs_settings(self, make_client):
        with pytest.raises(ValueError, match="TOKEN_URL"):
            make_client(scope="things:write")
