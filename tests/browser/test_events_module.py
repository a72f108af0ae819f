"""`static/js/events.js` in Chromium, with a server that does to it what servers do."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import TimeoutError  # noqa: A004 (as it is called there)

MODULE = (
    Path(__file__).parents[2] / "services/web/src/flagon_web/static/js/events.js"
).read_bytes()
PRODUCT = "market.flagon.product.changed.v1"
JOB = "market.flagon.job.changed.v1"
PAGE = b"""<!doctype html><title>events</title><script type="module">
import { Channel } from "/events.js";
window.said = [];
window.make = (options = {}) => new Channel(
  { firstPauseMs: 20, longestPauseMs: 80, lostMs: 150, hiddenMs: 60, ...options });
window.listen = (channel, name, topics, types, more = {}) => channel.subscribe({
  topics, types,
  onEvent: (type, data) => said.push(`${name} ${data.n}`),
  onGap: () => said.push(`${name} gap`),
  onState: (state, reason) => said.push(`${name} is ${state}${reason && " " + reason}`),
  ...more,
});
window.ready = true;
</script>"""


def event(number, *topics, kind=PRODUCT):
    envelope = {"data": {"n": number}, "topics": topics or ("products", "products/1")}
    return f"id: {number}-0\nevent: {kind}\ndata: {json.dumps(envelope)}\n\n"


class Server:
    """Serves the page, and streams as the test says."""

    def __init__(self, port=0):
        self.lock = threading.Condition()
        self.page, self.scripts = PAGE, {"/events.js": MODULE}
        self.asked = []
        self.answers = []
        """For each coming question its status and headers; then streams are open."""
        self.open = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                url = urlsplit(self.path)
                if url.path != "/api/v1/events":
                    script = outer.scripts.get(url.path)
                    kind = "text/html" if script is None else "text/javascript"
                    self._send(200, kind, outer.page if script is None else script)
                    return
                outer.serve(self, parse_qs(url.query))

            do_HEAD = do_GET  # noqa: N815 (as the base class calls it)

            def _send(self, status, kind, body=b"", **headers):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                self.send_header("Connection", "close")
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.handler = Handler
        self.start(port)

    def start(self, port):
        ThreadingHTTPServer.allow_reuse_address = True
        self.http = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        self.http.daemon_threads = True
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.02,)).start()
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, handler, query):
        with self.lock:
            last = handler.headers.get("Last-Event-ID")
            last = last or query.get("last_event_id", [None])[0]
            if handler.command == "GET":
                self.asked.append((query, last))
            status, headers = self.answers.pop(0) if self.answers else (200, {})
            gone = threading.Event()
            self.lock.notify_all()
        if status != 200 or handler.command == "HEAD":
            handler._send(status, "application/json", b"{}", **headers)
            return
        with self.lock:
            # In one: a page that has its answer may have the next event at once.
            handler._send(200, "text/event-stream", b"retry: 30\n\n")
            self.open.append((handler, gone))
            self.lock.notify_all()
        gone.wait(60)

    def send(self, text):
        """Write to every stream that is open, and forget those that are gone."""
        with self.lock:
            for handler, gone in list(self.open):
                try:
                    handler.wfile.write(text.encode())
                except OSError:
                    self.open.remove((handler, gone))
                    gone.set()

    def cut(self):
        with self.lock:
            for _handler, gone in self.open:
                gone.set()
            self.open.clear()

    def wait_for(self, count):
        """Wait until so many streams have been asked for."""
        with self.lock:
            assert self.lock.wait_for(lambda: len(self.asked) >= count, 30), self.asked
            self.lock.wait_for(lambda: self.open or self.answers, 30)

    def stop(self):
        self.cut()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    found = Server()
    yield found
    found.stop()


@pytest.fixture
def page(browser, server):
    context = browser.new_context()
    context.set_default_timeout(30_000)
    found = context.new_page()
    found.goto(server.url)
    found.wait_for_function("window.ready")
    yield found
    context.close()


def wait(page, *words):
    for word in words:
        until(page, "word => said.includes(word)", word)


def until(page, condition, value=None):
    """Wait until something holds in the page, whether or not it is painted meanwhile."""
    try:
        page.wait_for_function(condition, arg=value, polling=50)
    except TimeoutError:
        pytest.fail(f"{condition} of {value!r}: {page.evaluate('said')}")


def listen(page, name="a", topics=("products/1",), types=(PRODUCT,), **more):
    page.evaluate(
        """([name, topics, types, more]) => {
          window.channel ??= make();
          (window.lines ??= {})[name] = listen(channel, name, topics, types, more);
        }""",
        [name, topics, types, more],
    )


class TestSharing:
    def test_one_connection_for_all_parts_of_a_page(self, page, server):
        page.evaluate(
            """([product, job]) => {
              window.channel = make();
              listen(channel, "a", ["products/1"], [product]);
              listen(channel, "b", ["jobs/7", "me"], [job]);
              listen(channel, "c", ["products/*"], [product]);
            }""",
            [PRODUCT, JOB],
        )
        wait(page, "a is on", "b is on", "c is on")

        server.send(event(1) + event(2, "products", "products/2"))
        server.send(event(3, "jobs", "users/u/jobs", "users/u/jobs/7", kind=JOB))
        wait(page, "b 3")

        assert len(server.asked) == 1
        query, _last = server.asked[0]
        assert query["topic"] == ["jobs/7", "me", "products/*", "products/1"]
        assert sorted(query["type"]) == sorted([PRODUCT, JOB])
        told = [one for one in page.evaluate("said") if " is " not in one]
        assert told == ["a 1", "c 1", "c 2", "b 3"]

    def test_scripts_that_load_one_after_another_share_it_from_the_start(
        self, page, server
    ):
        server.page = b"""<!doctype html><title>parts</title>
          <script>window.said = [];</script>
          <script type="module" src="/products.js"></script>
          <script type="module" src="/me.js"></script>"""
        for name in ("products", "me"):
            server.scripts[f"/{name}.js"] = f"""
              import {{ subscribe }} from "/events.js";
              subscribe({{ topics: ["{name}"], types: ["{PRODUCT}"], onEvent() {{}},
                onGap: () => said.push("{name} gap"),
                onState: (state) => said.push("{name} is " + state) }});
            """.encode()

        page.goto(server.url)
        wait(page, "products is on", "me is on")

        (query,) = [query for query, _last in server.asked]
        assert query["topic"] == ["me", "products"]
        assert not [one for one in page.evaluate("said") if "gap" in one]

    def test_goes_on_where_it_was_when_the_topics_change(self, page, server):
        listen(page)
        wait(page, "a is on")
        server.send(event(1))
        wait(page, "a 1")

        listen(page, "b", ["products/2"])
        server.wait_for(2)
        server.cut()

        assert server.asked[1][1] == "1-0"
        assert server.asked[1][0]["topic"] == ["products/1", "products/2"]

    def test_asks_for_a_family_where_there_are_too_many(self, page, server):
        listen(page, topics=[f"products/{n}" for n in range(21)])
        wait(page, "a is on")

        assert server.asked[0][0]["topic"] == ["products/*"]

    def test_a_part_that_fails_stops_no_other(self, page, server):
        page.evaluate(
            """(type) => {
              window.channel = make();
              channel.subscribe({ topics: ["products/1"], types: [type],
                onEvent() { throw new Error("mine"); } });
              listen(channel, "b", ["products/1"], [type]);
            }""",
            PRODUCT,
        )
        wait(page, "b is on")

        server.send(event(1) + "event: " + PRODUCT + "\ndata: no json\n\n" + event(2))

        wait(page, "b 1", "b 2")

    def test_ends_when_nobody_listens(self, page, server):
        listen(page)
        wait(page, "a is on")
        page.evaluate("lines.a.stop()")

        deadline = time.monotonic() + 30
        while server.open:
            assert time.monotonic() < deadline
            server.send(":\n\n")
            time.sleep(0.02)
        assert len(server.asked) == 1


class TestComingBack:
    def test_resumes_after_a_restart_of_the_server(self, page, server):
        listen(page)
        wait(page, "a is on")
        server.send(event(1) + 'event: close\ndata: {"reason": "restart"}\n\n')
        wait(page, "a 1")

        server.stop()
        wait(page, "a is lost restart")
        server.start(server.port)

        server.wait_for(2)
        server.send(event(2))
        wait(page, "a 2")
        assert server.asked[1][1] == "1-0"
        assert "a gap" not in page.evaluate("said")

    def test_tells_nobody_of_a_short_break(self, page, server):
        page.evaluate("window.channel = make({ lostMs: 20000 })")
        listen(page)
        wait(page, "a is on")

        server.cut()
        server.wait_for(2)
        server.send(event(1))
        wait(page, "a 1")

        assert not [one for one in page.evaluate("said") if "lost" in one]

    def test_tells_everybody_of_a_gap(self, page, server):
        listen(page)
        wait(page, "a is on")

        server.send("event: gap\ndata: {}\n\n" + event(9))

        wait(page, "a 9")
        told = [one for one in page.evaluate("said") if " is " not in one]
        assert told == ["a gap", "a 9"]

    @pytest.mark.parametrize("status", [503, 429])
    def test_asks_again_after_a_refusal_for_now(self, page, server, status):
        listen(page)
        wait(page, "a is on")
        server.send(event(1))
        wait(page, "a 1")

        server.answers = [
            *[(status, {})] * 6,
            (status, {"Retry_After": "1"}),
            (status, {"Retry_After": "1"}),
        ]
        server.cut()

        # Each attempt is one question and, refused, one more for the reason.
        wait(page, f"a is lost {status}")
        server.wait_for(5)
        until(page, "said.filter((one) => one === 'a is on').length === 2")
        server.send(event(2))
        wait(page, "a 2")
        assert {last for _query, last in server.asked[1:]} == {"1-0"}

    @pytest.mark.parametrize("status", [401, 403])
    def test_stops_when_it_may_not(self, page, server, status):
        listen(page)
        wait(page, "a is on")
        server.answers = [(status, {}), (status, {})]

        server.cut()

        wait(page, f"a is refused {status}")
        # Longer than any pause here.
        page.evaluate("new Promise((done) => setTimeout(done, 400))")
        assert len(server.asked) == 2
        assert not server.answers

    def test_asks_anew_when_a_page_that_was_refused_is_looked_at(self, page, server):
        listen(page)
        wait(page, "a is on")
        server.answers = [(401, {}), (401, {})]
        server.cut()
        wait(page, "a is refused 401")

        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

        until(page, "said.filter((one) => one === 'a is on').length === 2")

    def test_reads_anew_where_no_position_is_known(self, page, server):
        listen(page, fresh=False)
        wait(page, "a is on", "a gap")


class TestPages:
    def test_the_next_page_goes_on_from_the_last_one(self, page, server):
        listen(page)
        wait(page, "a is on")
        server.send(event(4))
        wait(page, "a 4")

        page.reload()
        page.wait_for_function("window.ready")
        listen(page, fresh=False)
        wait(page, "a is on")

        assert server.asked[1][1] == "4-0"
        # What the page shows is newer than that position: there is no hole.
        assert "a gap" not in page.evaluate("said")

    def test_an_old_position_is_forgotten(self, page, server):
        page.evaluate(
            """sessionStorage.setItem("flagon:events",
              JSON.stringify({ id: "4-0", at: Date.now() - 3600e3 }))"""
        )
        listen(page)
        wait(page, "a is on")

        assert server.asked[0][1] is None

    def test_a_position_that_nobody_knows_is_forgotten(self, page, server):
        page.evaluate(
            """sessionStorage.setItem("flagon:events",
              JSON.stringify({ id: "from elsewhere", at: Date.now() }))"""
        )
        server.answers = [(422, {}), (422, {})]

        listen(page)

        wait(page, "a is on", "a gap")
        assert [last for _query, last in server.asked] == ["from elsewhere", None]

    def test_a_hidden_page_gives_its_connection_back(self, page, server):
        listen(page)
        wait(page, "a is on")
        server.send(event(1))
        wait(page, "a 1")
        hide = """(state) => {
          Object.defineProperty(document, "visibilityState",
            { configurable: true, get: () => state });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""

        page.evaluate(hide, "hidden")
        wait(page, "a is paused")
        page.evaluate("window.dispatchEvent(new Event('online'))")
        assert len(server.asked) == 1
        page.evaluate(hide, "visible")

        server.wait_for(2)
        assert server.asked[1][1] == "1-0"
        until(page, "said.filter((one) => one === 'a is on').length === 2")
