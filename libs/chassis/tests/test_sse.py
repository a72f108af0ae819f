import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagon_chassis import sse
from flagon_chassis.testing import free_port

ENVELOPE = '{"data": {"n": %d}}'


def event(number, kind="thing"):
    return f"id: {number}-0\nevent: {kind}\ndata: {ENVELOPE % number}\n\n"


CLOSE = 'event: close\ndata: {"reason": "restart"}\n\n'
FAST = "retry: 10\n\n"


class Server:
    """Answers one connection after the other as the script says."""

    def __init__(self, script):
        self.script = script
        self.asked = []
        self.hold = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, dict(self.headers)))
                # The last answer is given from then on.
                answer = outer.script[min(len(outer.asked), len(outer.script)) - 1]
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in body:
                    if part is None:
                        outer.hold.wait(30)
                    else:
                        self.wfile.write(part.encode())
                        self.wfile.flush()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,)).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def close(self):
        self.hold.set()
        self.http.shutdown()
        self.http.server_close()


def streamed(*parts):
    return 200, {"Content-Type": "text/event-stream; charset=utf-8"}, parts


def refused(status, problem=None, **headers):
    body = json.dumps(problem) if problem is not None else "<html>"
    return status, headers, [body]


@pytest.fixture
def serve():
    servers = []

    def start(*script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def follow():
    """A stream that gives up neither quickly nor late."""
    opened = []

    def make(url, *topics, **options):
        words = []
        stream = sse.Stream(
            url,
            topics or ["things"],
            **{"first_pause_seconds": 0.01, "told": words.append, **options},
        )
        stream.words = words
        opened.append(stream)
        return stream

    yield make
    for stream in opened:
        stream.close()


def take(stream, count):
    found = []
    for one in stream:
        found.append(one)
        if len(found) == count:
            return found
    return found


def ids(found):
    return [one.id for one in found]


class TestParser:
    def parse(self, text, step=None):
        parser = sse.Parser()
        raw = text if isinstance(text, bytes) else text.encode()
        step = step or len(raw)
        parts = [raw[at : at + step] for at in range(0, len(raw), step)]
        return parser, [found for part in parts for found in parser.feed(part)]

    def test_reads_an_event(self):
        _parser, [found] = self.parse(event(1))

        assert (found.id, found.type, found.data) == ("1-0", "thing", {"n": 1})

    def test_joins_lines_of_data(self):
        _parser, [found] = self.parse("data: a\ndata:b\ndata\n\n")

        assert (found.type, found.raw) == ("message", "a\nb\n")

    def test_skips_comments_and_what_it_does_not_know(self):
        assert self.parse(": hello\nother: x\n:\n\n")[1] == []

    def test_moves_the_id_without_an_event(self):
        parser, found = self.parse("id: 7-0\n\nid: 8-0\n")

        assert found == []
        assert parser.last_id == "7-0"

    def test_refuses_an_id_with_a_null(self):
        assert self.parse("id: 7\0\ndata: x\n\n")[0].last_id == ""

    @pytest.mark.parametrize(
        ("value", "seconds"), [("1500", 1.5), ("x", None), ("-1", None), ("٣", None)]
    )
    def test_takes_the_time_to_wait(self, value, seconds):
        assert self.parse(f"retry: {value}\n")[0].retry_seconds == seconds

    def test_drops_what_is_not_ended(self):
        assert self.parse("data: x\n")[1] == []

    def test_skips_a_mark_at_the_start(self):
        assert len(self.parse(b"\xef\xbb\xbfdata: x\n\n", step=1)[1]) == 1

    def test_refuses_an_endless_line(self):
        with pytest.raises(ValueError, match="too long"):
            self.parse(b"x" * (sse.LINE_BYTES_MAX + 1))

    @given(st.integers(1, 40), st.sampled_from(["\n", "\r\n", "\r"]))
    def test_reads_the_same_however_it_is_cut(self, step, end):
        text = (event(1) + ": x\n\n" + event(2) + "data: ä\ndata: b\n\n:\n\n").replace(
            "\n", end
        )

        _parser, found = self.parse(text, step)

        assert [one.id for one in found] == ["1-0", "2-0", "2-0"]
        assert found[2].raw == "ä\nb"

    @given(st.binary(max_size=200))
    def test_takes_any_bytes(self, raw):
        self.parse(raw or b"\n", 7)


class TestStream:
    def test_asks_for_what_was_chosen(self, serve, follow):
        server = serve(streamed(event(1)))

        stream = follow(
            server.url + "/",
            *("a/*", "b"),
            types=["x.*"],
            snapshot=True,
            latest=True,
            last_id="9-9",
            token=lambda: "t",
        )
        take(stream, 1)

        path, headers = server.asked[0]
        asked = "topic=a%2F%2A&topic=b&type=x.%2A&snapshot=1&latest=1"
        assert path == f"/api/v1/events?{asked}"
        assert headers["Last-Event-ID"] == "9-9"
        assert headers["Authorization"] == "Bearer t"

    def test_resumes_after_the_last_event(self, serve, follow):
        server = serve(
            streamed(FAST, event(1), event(2)), streamed(FAST, event(3), None)
        )

        found = take(follow(server.url), 3)

        assert ids(found) == ["1-0", "2-0", "3-0"]
        assert "Last-Event-ID" not in server.asked[0][1]
        assert server.asked[1][1]["Last-Event-ID"] == "2-0"

    def test_resumes_after_a_position_without_an_event(self, serve, follow):
        server = serve(streamed(FAST, "id: 5-0\n\n"), streamed(event(6), None))

        take(follow(server.url), 1)

        assert server.asked[1][1]["Last-Event-ID"] == "5-0"

    def test_resumes_in_another_process(self, serve, follow):
        server = serve(streamed(event(1), event(2), None))
        first = follow(server.url)
        take(first, 1)

        take(follow(server.url, last_id=first.last_id), 1)

        assert server.asked[1][1]["Last-Event-ID"] == "1-0"

    def test_tells_of_gaps_and_snapshots(self, serve, follow):
        marker = 'id: 3-0\nevent: snapshot\ndata: {"from": "1-0"}\n\n'
        server = serve(streamed("event: gap\ndata: {}\n\n", event(2), marker, None))

        found = take(follow(server.url), 3)

        assert found[0] == sse.Gap()
        assert found[1].type == "thing"
        assert found[2] == sse.Snapshot("1-0")

    def test_says_how_many_were_skipped(self, serve, follow):
        server = serve(streamed('event: skipped\ndata: {"count": 7}\n\n', None))

        assert take(follow(server.url), 1) == [sse.Skipped(7)]

    def test_goes_on_after_the_server_closed(self, serve, follow):
        server = serve(streamed(FAST, event(1), CLOSE), streamed(event(2), None))
        stream = follow(server.url)

        assert ids(take(stream, 2)) == ["1-0", "2-0"]
        assert stream.words == ["open", "restart", "open"]

    def test_asks_for_a_token_each_time(self, serve, follow):
        server = serve(
            streamed(FAST, CLOSE.replace("restart", "token-expired")),
            streamed(event(1), None),
        )
        tokens = iter(["old", "new"])

        take(follow(server.url, token=lambda: next(tokens)), 1)

        sent = [headers["Authorization"] for _path, headers in server.asked]
        assert sent == ["Bearer old", "Bearer new"]

    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_tries_again_when_it_is_refused_for_now(self, serve, follow, status):
        server = serve(refused(status, {}), refused(status), streamed(event(1), None))
        stream = follow(server.url)

        assert ids(take(stream, 1)) == ["1-0"]
        assert stream.words == [str(status), str(status), "open"]

    @pytest.mark.parametrize(("given", "least"), [("1", 1), ("soon", 0)])
    def test_waits_as_long_as_it_is_told(self, serve, follow, given, least):
        server = serve((503, {"Retry-After": given}, []), streamed(event(1), None))
        started = time.monotonic()

        take(follow(server.url), 1)

        assert time.monotonic() - started >= least

    @pytest.mark.parametrize("status", [401, 403, 404, 422])
    def test_gives_up_when_it_is_refused_for_good(self, serve, follow, status):
        server = serve(refused(status, {"title": "No.", "detail": "Never."}))

        with pytest.raises(sse.Refused, match=f"{status} Never.") as caught:
            take(follow(server.url), 1)

        assert caught.value.status == status
        assert len(server.asked) == 1

    def test_gives_up_on_what_is_no_stream(self, serve, follow):
        server = serve((200, {"Content-Type": "text/html"}, ["<html>"]))

        with pytest.raises(sse.Refused) as caught:
            take(follow(server.url), 1)

        assert caught.value.problem == {}

    def test_outlives_a_server_that_is_away(self, serve, follow):
        stream = follow(f"http://127.0.0.1:{free_port()}")

        def stop(word):
            stream.words.append(word)
            if len(stream.words) == 3:
                stream.close()

        stream._told = stop
        assert take(stream, 1) == []
        assert stream.words == ["unreachable"] * 3

    def test_leaves_a_connection_that_went_silent(self, serve, follow):
        server = serve(streamed(FAST, event(1), None), streamed(event(2), None))
        stream = follow(server.url, silence_seconds=1.0)

        assert ids(take(stream, 2)) == ["1-0", "2-0"]
        assert stream.words == ["open", "silent", "open"]

    @pytest.mark.parametrize(
        "text", ["event: close\ndata: x\n\n", "event: snapshot\ndata: []x\n\n"]
    )
    def test_leaves_a_connection_that_makes_no_sense(self, serve, follow, text):
        server = serve(streamed(FAST, text), streamed(event(2), None))
        stream = follow(server.url)

        take(stream, 1)

        assert stream.words == ["open", "unreadable", "open"]

    def test_ends_when_it_is_closed_from_elsewhere(self, serve, follow):
        with httpx2.Client(trust_env=False) as client:
            server = serve(streamed(FAST, event(1), event(2), None))
            stream = follow(server.url, client=client)

            found = []
            for one in stream:
                found.append(one)
                stream.close()
                server.hold.set()

        assert ids(found)[0] == "1-0"
        assert len(server.asked) == 1

    def test_stops_at_the_next_block_once_it_is_closed(self, serve, follow):
        server = serve(streamed(event(1), None, event(2), event(3)))
        with httpx2.Client(trust_env=False) as client:
            with follow(server.url, client=client) as stream:
                everything = iter(stream)
                assert next(everything).id == "1-0"
            server.hold.set()

            assert list(everything) == []

    def test_checks_certificates(self):
        sse.Stream("https://localhost", ["a"]).close()


class TestPauses:
    def test_grow_to_a_limit_and_are_never_the_same(self, follow):
        stream = follow("http://x", first_pause_seconds=1, longest_pause_seconds=8)

        pauses = [stream._next_pause() for _ in range(40)]

        for number, pause in enumerate(pauses):
            longest = min(8, 2**number)
            assert longest / 2 <= pause <= longest
        assert len(set(pauses)) > 30

    def test_begin_anew_after_a_connection_that_served(self, serve, follow):
        server = serve(
            refused(503),
            refused(503),
            streamed("retry: 20\n\n", event(1)),
            refused(503),
        )
        stream = follow(server.url)

        take(stream, 1)

        assert stream._failures == 0
