import gzip
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import sentry_sdk
from flask import Flask

from flagon_chassis import logs, queue, sentry, tracing
from flagon_chassis.errors import Conflict
from flagon_chassis.settings import ServiceSettings

from .conftest import SECRET

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLW9mLWl0"


class Sentry:
    """A server that keeps the error reports that it gets."""

    def __init__(self):
        self.events = []
        kept = self.events

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for line in body.splitlines():
                    item = json.loads(line)
                    if "exception" in item:
                        kept.append(item)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://key@127.0.0.1:{self.server.server_port}/1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,)).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    server = Sentry()
    yield server
    server.close()


@pytest.fixture
def settings(server):
    def make(**values):
        return ServiceSettings(secret_key=SECRET, sentry_dsn=server.dsn, **values)

    yield make
    sentry_sdk.flush(5)
    sentry_sdk.init(default_integrations=False)


def flush():
    sentry_sdk.flush(5)


def fresh(call, dsn, *libraries):
    """Return which libraries a new process has loaded after a call of `sentry`."""
    code = (
        "import sys; from flagon_chassis import sentry;"
        "from flagon_chassis.settings import ServiceSettings;"
        f"settings = ServiceSettings(secret_key='{SECRET}', sentry_dsn='{dsn}');"
        f"{call}; print(*sorted({set(libraries)} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return done.stdout.split()


class TestWithoutDsn:
    def test_is_off_and_not_loaded(self):
        call = (
            "from flask import Flask; sentry.init_app(Flask('a'), settings, 'a');"
            "sentry.report(ValueError())"
        )

        assert fresh(call, "", "flask", "sentry_sdk") == ["flask"]


class TestReport:
    def test_sends_the_unexpected(self, settings, server):
        assert sentry.init(settings(), "things") is True

        sentry.report(ValueError("surprise"))
        flush()

        (event,) = server.events
        assert event["exception"]["values"][0]["value"] == "surprise"
        assert event["tags"]["service"] == "things"

    def test_loads_no_library_that_nobody_uses(self, server):
        """RQ reads once below which prefix its keys are: when it is loaded."""
        loaded = fresh(
            "sentry.init(settings, 'a')", server.dsn, "celery", "rq", "sentry_sdk"
        )

        assert loaded == ["sentry_sdk"]

    def test_keeps_expected_failures_to_itself(self, settings, server):
        sentry.init(settings(), "things")

        sentry.report(Conflict("taken"))
        flush()

        assert server.events == []

    def test_an_apps_crash_handler_can_report(self, settings, server):
        app = Flask("things")
        sentry.init_app(app, settings(), "things")

        app.extensions["flagon.report"](ValueError("crash"))
        flush()

        assert len(server.events) == 1

    def test_bears_the_trace_of_the_request(self, server):
        code = (
            "from flagon_chassis import sentry, tracing;"
            "from flagon_chassis.settings import ServiceSettings;"
            f"s = ServiceSettings(secret_key='{SECRET}', sentry_dsn='{server.dsn}',"
            " traces='log'); tracing.init(s, 't'); sentry.init(s, 't');\n"
            f"with tracing.continue_from('00-{'a' * 32}-{'b' * 16}-01', 'work'):"
            " sentry.report(ValueError())\n"
            "import sentry_sdk; sentry_sdk.flush(5)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

        (event,) = server.events
        assert event["contexts"]["trace"]["trace_id"] == "a" * 32

    def test_can_be_on_together_with_traces(self, settings, server):
        sentry.init(settings(traces="log"), "things")

        sentry.report(ValueError())
        flush()

        assert len(server.events) == 1

    def test_says_which_request_it_was_and_nothing_of_who_asked(self, settings, server):
        app = Flask("things")
        logs.init_app(app)
        tracing.instrument_flask(app)
        sentry.init_app(
            app, settings(environment="production", release="1.2"), "things"
        )

        @app.post("/people/<name>")
        def fail(name):
            person = f"{name} <ada@example.org>"
            row = (
                f'DETAIL:  Failing row contains (7, {{"street": "Main\n1"}}, {person}).'
            )
            app.extensions["flagon.report"](ValueError(f"token={TOKEN}\n{row}"))
            return ""

        app.test_client().post(
            "/people/ada?code=0123456789abcdef",
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Cookie": f"session={TOKEN}",
                "X-Request-ID": "request-66",
                "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
            },
            json={"email": "ada@example.org"},
            environ_overrides={"REMOTE_ADDR": "192.0.2.66"},
        )
        flush()

        (event,) = server.events
        assert (event["environment"], event["release"]) == ("production", "1.2")
        assert event["server_name"] == event["tags"]["service"] == "things"
        assert event["tags"]["request_id"] == "request-66"
        assert event["transaction"] == "POST /people/<name>"
        assert event["contexts"]["trace"] == {"trace_id": "a" * 32, "span_id": "b" * 16}
        told = json.dumps(event)
        for secret in (TOKEN, "ada@example", "Main", "0123456789abcdef", "192.0.2.66"):
            assert secret not in told

    def test_says_so_where_no_route_was_found(self, settings, server):
        app = Flask("things")
        sentry.init_app(app, settings(), "things")
        app.register_error_handler(
            404, lambda error: app.extensions["flagon.report"](error) or ("", 404)
        )

        app.test_client().get("/nowhere")
        flush()

        assert server.events[0]["transaction"] == "GET None"

    def test_says_which_task_it_was(self, settings, server):
        sentry.init(settings(), "things")
        task = SimpleNamespace(
            name="things.polish",
            request=SimpleNamespace(
                id="task-66", retries=0, delivery_info={}, request_id="request-66"
            ),
        )

        with pytest.raises(ValueError, match="no"), queue.message_at_hand(task):
            raise ValueError("no")
        flush()

        (event,) = server.events
        assert event["tags"] == {
            "service": "things",
            "request_id": "request-66",
            "task": "things.polish",
            "task_id": "task-66",
        }

    @pytest.mark.parametrize(
        "ending",
        [
            "raise ValueError('surprise')",
            "from threading import Thread; Thread(target=int, args=('surprise',)).start()",
        ],
        ids=["process", "thread"],
    )
    def test_comes_of_what_nobody_catches(self, server, ending):
        code = (
            "from flagon_chassis import sentry;"
            "from flagon_chassis.settings import ServiceSettings;"
            f"s = ServiceSettings(secret_key='{SECRET}', sentry_dsn='{server.dsn}');"
            f"sentry.init(s, 'things'); {ending}"
        )
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)

        (event,) = server.events
        assert "surprise" in event["exception"]["values"][0]["value"]
