import json
import logging

import pytest
import structlog
from flask import Flask

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

        assert lines()[0]["event"] == "odd 1"

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
