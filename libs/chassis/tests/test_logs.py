import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog
from flask import Flask
from structlog.contextvars import bound_contextvars

from flagon_chassis import logs, tracing
from flagon_chassis.settings import ServiceSettings

from .conftest import SECRET

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines(capsys):
    """A function that returns the lines written so far, parsed."""

    def read():
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return read


@pytest.fixture
def client():
    app = Flask("things")
    logs.init_app(app)
    app.add_url_rule("/things/<name>", "thing", lambda name: logs.request_id())
    app.add_url_rule("/readyz", "readyz", lambda: "ok")
    return app.test_client()


class TestConfigure:
    def test_writes_json_with_time_service_and_level(self, lines):
        logs.configure("things")

        structlog.get_logger().info("done", count=1)

        (line,) = lines()
        assert (
            line.items()
            >= {
                "event": "done",
                "count": 1,
                "service": "things",
                "level": "info",
            }.items()
        )
        assert line["time"].endswith("Z")

    def test_writes_what_libraries_log_in_the_same_form(self, lines):
        logs.configure("things")

        logging.getLogger("library").warning("odd %s", 1)

        (line,) = lines()
        assert (line["event"], line["logger"]) == ("odd 1", "library")

    @pytest.mark.parametrize(("level", "written"), [(25, "info"), (60, "critical")])
    def test_writes_levels_of_libraries_own(self, lines, level, written):
        logs.configure("things")

        logging.getLogger("library").log(level, "odd")

        assert lines()[0]["level"] == written

    def test_writes_what_libraries_log_with_wrong_arguments(self, lines):
        logs.configure("things")

        logging.getLogger("library").warning("odd %d", "one")

        assert lines()[0]["event"] == "odd %d"

    def test_leaves_out_what_is_below_the_level(self, lines):
        logs.configure("things", "WARNING")

        structlog.get_logger().info("chatter")

        assert lines() == []

    def test_writes_exceptions_on_one_line(self, lines):
        logs.configure("things")

        try:
            int("no")
        except ValueError:
            structlog.get_logger().exception("crash")

        assert "ValueError" in lines()[0]["exception"]

    def test_ties_lines_to_the_span(self, lines, monkeypatch):
        monkeypatch.setattr(
            "opentelemetry.trace.set_tracer_provider", lambda _made: None
        )
        tracing.init(ServiceSettings(secret_key=SECRET, traces="log"), "things")
        logs.configure("things")
        with tracing.continue_from(f"00-{TRACE}-{'b' * 16}-01", "work"):
            structlog.get_logger().info("inside")
        structlog.get_logger().info("outside")
        tracing.shutdown()

        inside, span, outside = lines()
        assert (inside["trace_id"], inside["span_id"]) == (TRACE, span["span_id"])
        assert "trace_id" not in outside

    def test_loses_a_line_that_nothing_takes_and_nothing_else(self):
        code = (
            "import sys; from flagon_chassis import logs; import structlog;"
            "logs.configure('things'); structlog.get_logger().info('x' * 100_000);"
            "sys.stderr.write('alive')"
        )
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code],
                check=False,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )

        assert done.stderr.startswith("alive")


TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLW9mLWl0"
API_KEY = f"flg_{'a' * 12}_{'Zx9-' * 10}abc"


class TestSecrets:
    @pytest.fixture
    def say(self, lines):
        """A function that logs and returns the line."""
        logs.configure("things")

        def say(event, **members):
            structlog.get_logger().info(event, **members)
            return lines()[0]

        return say

    @pytest.mark.parametrize(
        "name",
        [
            "password",
            "client_secret",
            "Authorization",
            "refresh_token",
            "apikey",
            "Cookie",
        ],
    )
    def test_are_hidden_by_the_name_of_a_member(self, say, name):
        line = say("done", **{name: "hunter2", "deep": {name: "hunter2", "kept": 1}})

        assert line[name] == line["deep"][name] == logs.HIDDEN
        assert line["deep"]["kept"] == 1

    def test_are_hidden_in_lists(self, say):
        line = say("done", errors=[{"password": "hunter2", "kept": 1}], pair=(1, "a"))

        assert line["errors"] == [{"password": logs.HIDDEN, "kept": 1}]
        assert line["pair"] == [1, "a"]

    def test_are_looked_for_in_a_time_that_grows_with_the_text_alone(self):
        """Tried from each of its beginnings, a text of 64 KB took two seconds."""

        def steps(size):
            began = time.thread_time()
            logs.hide("eyJ" * size)
            return time.thread_time() - began

        assert min(steps(20_000) for _ in range(3)) < 0.1

    @pytest.mark.parametrize(
        ("said", "written"),
        [
            (f"sent {TOKEN} away", f"sent {logs.HIDDEN} away"),
            (f"key {API_KEY}!", f"key {logs.HIDDEN}!"),
            (
                "Authorization: Bearer abcdefgh12",
                f"Authorization: Bearer {logs.HIDDEN}",
            ),
            ("BEARER abcdefgh12", f"BEARER {logs.HIDDEN}"),
            ("basic YWRhOnB3ZDEy", f"basic {logs.HIDDEN}"),
            ("GET /accounts/ada@mail.example.org/x", f"GET /accounts/{logs.HIDDEN}/x"),
            (
                'DETAIL:  Failing row contains (7, {"name": "Ada"}, two\nlines).',
                f"DETAIL: {logs.HIDDEN}",
            ),
            (
                "at postgresql://ada:hun%40ter@db:5432/x",
                f"at postgresql://ada:{logs.HIDDEN}@db:5432/x",
            ),
            ("redis://:hunter2@store", f"redis://:{logs.HIDDEN}@store"),
            (
                "GET /oauth/callback?code=0123456789&lang=de",
                f"GET /oauth/callback?code={logs.HIDDEN}&lang=de",
            ),
            ("asked ada.l+x@mail.example.org, twice", f"asked {logs.HIDDEN}, twice"),
            (
                'duplicate key\nDETAIL:  Key (name)=("Ada") exists.\nCONTEXT: x',
                f"duplicate key\nDETAIL: {logs.HIDDEN}\nCONTEXT: x",
            ),
            ('say "client_secret=0123456789"', f'say "client_secret={logs.HIDDEN}"'),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n",
                logs.HIDDEN,
            ),
        ],
    )
    def test_are_hidden_by_how_they_look(self, say, said, written):
        line = say(said, error=said)

        assert line["event"] == line["error"] == written

    @pytest.mark.parametrize(
        "said",
        [
            "postgresql://ada@db/x",
            "postgresql://ada@db.flagon.market/x",
            "a decorator: @app.get",
            "https://flagon.market/products?q=basic+bearer",
            "answered with code=404",
            "a bearer of bad news",
        ],
    )
    def test_alone_are_hidden(self, say, said):
        assert say(said)["event"] == said

    def test_are_hidden_in_what_a_crash_quotes(self, lines):
        logs.configure("things")
        try:
            int(f"token={TOKEN}")
        except ValueError:
            structlog.get_logger().exception("crash")

        (line,) = lines()
        assert TOKEN not in json.dumps(line)
        assert "ValueError" in line["exception"]


class TestAlike:
    @pytest.fixture
    def clock(self, monkeypatch):
        """A list with the time in seconds that it is for the lines."""
        now = [0.0]
        monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
        return now

    @pytest.fixture
    def say(self, clock, lines):
        """A function that warns a number of times and returns what is written."""
        logs.configure("things")

        def say(times, event="store_away", **members):
            for number in range(times):
                structlog.get_logger().warning(event, request_id=str(number), **members)
            return [line for line in lines() if line["event"] == event]

        return say

    def test_lines_are_counted_after_ten_in_a_minute(self, say, clock):
        assert len(say(25)) == 10
        clock[0] = 59.9
        assert say(5) == []

        clock[0] = 60.1
        last, first = say(1)

        assert (last["repeated"], last["request_id"]) == (20, "4")
        assert "repeated" not in first

    def test_lines_are_told_of_by_whatever_is_said_next(self, say, clock, lines):
        say(12)
        clock[0] = 61

        structlog.get_logger().info("other")

        assert [line.get("repeated") for line in lines()] == [2, None]

    def test_lines_that_differ_in_anything_else_are_all_written(self, say):
        say(10)

        assert len(say(1, error="another")) == 1

    def test_lines_that_are_no_warnings_are_all_written(self, say, lines):
        for _ in range(50):
            structlog.get_logger().info("request")

        assert len(lines()) == 50

    def test_lines_of_different_tasks_say_the_same(self, lines, clock):
        logs.configure("things")
        for number in range(25):
            with bound_contextvars(task_id=str(number), sub=f"account-{number}"):
                structlog.get_logger().warning("store_away")

        assert len(lines()) == 10

    def test_lines_are_told_of_at_the_end_of_the_process(self):
        code = (
            "from flagon_chassis import logs; import structlog;"
            "logs.configure('things'); log = structlog.get_logger();"
            "[log.warning('store_away') for _ in range(15)]"
        )

        output = subprocess.check_output([sys.executable, "-c", code])

        assert json.loads(output.splitlines()[-1])["repeated"] == 5

    def test_lines_are_still_counted_after_very_many_kinds(self, say, lines):
        say(15, "first")
        for kind in range(600):
            say(1, f"kind{kind}")

        assert len(say(25, "last")) == 10

    def test_lines_of_a_kind_that_made_room_are_told_of(self, say, lines):
        say(15, "first")
        told = []
        for kind in range(600):
            structlog.get_logger().warning(f"kind{kind}")
            told += [line for line in lines() if line["event"] == "first"]

        assert [line["repeated"] for line in told] == [5]

    def test_few_lines_are_not_told_of_later(self, say, clock):
        say(10)
        clock[0] = 61

        assert len(say(1)) == 1

    def test_a_thousand_kinds_are_all_written(self, say):
        for kind in range(600):
            assert len(say(1, f"kind{kind}")) == 1

    def test_what_libraries_say_is_counted_too(self, clock, lines):
        logs.configure("things")
        for _ in range(25):
            logging.getLogger("library").error("away")

        assert len(lines()) == 10

    def test_a_forked_process_begins_anew(self):
        code = (
            "import os; from flagon_chassis import logs; import structlog;"
            "logs.configure('things'); log = structlog.get_logger();"
            "[log.warning('store_away') for _ in range(15)]; child = os.fork();"
            "os.waitpid(child, 0) if child else log.warning('store_away')"
        )

        output = subprocess.check_output([sys.executable, "-c", code])

        # Ten, one of the child, and at the end how many more.
        assert len(output.splitlines()) == 12


class TestRequestId:
    def test_of_the_caller_is_kept_and_echoed(self, client):
        response = client.get("/things/1", headers={"X-Request-ID": "request-1"})

        assert response.text == response.headers["X-Request-ID"] == "request-1"

    @pytest.mark.parametrize("given", ["short", "with space in it", "x" * 65, ""])
    def test_that_is_malformed_is_replaced(self, client, given):
        response = client.get("/things/1", headers={"X-Request-ID": given})

        assert len(response.headers["X-Request-ID"]) == 32

    def test_is_there_even_when_nothing_began(self, client):
        # A hook that answers first keeps ours from running.
        client.application.before_request_funcs[None].insert(0, lambda: "early")

        assert len(client.get("/things/1").headers["X-Request-ID"]) == 32

    def test_is_new_without_a_request(self):
        assert logs.request_id() != logs.request_id()


class TestAccessLine:
    def test_is_written_for_each_request(self, client, logged):
        client.get("/things/1?secret=1")

        (line,) = logged
        assert (
            line.items()
            >= {
                "event": "request",
                "method": "GET",
                "route": "/things/<name>",
                "status": 200,
            }.items()
        )
        assert line["duration_ms"] >= 0
        assert "secret" not in str(line)

    def test_has_no_route_for_unknown_paths(self, client, logged):
        client.get("/elsewhere")

        assert logged[0]["route"] is None

    def test_is_not_written_for_probes(self, client, logged):
        client.get("/readyz")

        assert logged == []

    def test_bears_the_trace_of_the_caller(self, client, lines):
        logs.configure("things")

        client.get("/things/1", headers={"traceparent": f"00-{TRACE}-{'b' * 16}-01"})

        assert lines()[0]["trace_id"] == TRACE
