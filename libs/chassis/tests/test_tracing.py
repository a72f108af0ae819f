import importlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest
import redis
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from structlog.contextvars import bound_contextvars, clear_contextvars

from flagon_chassis import logs, otlp, tracing
from flagon_chassis.logs import SPAN_REQUEST_ID
from flagon_chassis.settings import DatabaseSettings, ServiceSettings
from flagon_chassis.testing import free_port

from .conftest import SECRET

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class TestWithoutTraces:
    def test_nothing_of_opentelemetry_is_loaded(self):
        code = (
            "import sys; from flagon_chassis import tracing;"
            "from flagon_chassis.settings import ServiceSettings;"
            f"tracing.init(ServiceSettings(secret_key='{SECRET}'), 'things');"
            "tracing.span('a').__enter__();"
            "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
        )

        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_the_callers_trace_is_passed_on(self):
        app = Flask("things")
        tracing.instrument_flask(app)
        app.add_url_rule("/", view_func=lambda: tracing.current_traceparent() or "-")
        client = app.test_client()

        given = client.get("/", headers={"traceparent": TRACEPARENT}).text
        malformed = client.get("/", headers={"traceparent": "hostile"}).text

        assert (given, malformed) == (TRACEPARENT, "-")

    def test_a_messages_trace_is_passed_on(self, logged):
        headers = {}
        with tracing.continue_from(TRACEPARENT, "work") as span:
            span.set_attribute("a", 1)
            span.record_exception(ValueError())
            span.end()
            tracing.inject(headers)

        assert headers == {"traceparent": TRACEPARENT}
        assert tracing.current_traceparent() is None

    def test_a_message_without_a_trace_has_none(self):
        headers = {}
        with tracing.continue_from(None, "work"), tracing.span("part"):
            tracing.inject(headers)

        assert headers == {}

    def test_messages_handled_together_pass_on_the_chosen_trace(self):
        span = tracing.start(TRACEPARENT, "consume")

        with tracing.use(span, TRACEPARENT):
            assert tracing.current_traceparent() == TRACEPARENT

    def test_ending_it_does_nothing(self):
        tracing.flush()
        tracing.shutdown()


class TestLog:
    def test_writes_a_line_for_each_ended_span(self, traced):
        with tracing.continue_from(
            TRACEPARENT, "work", kind="consumer", attributes={"a": 1, "empty": ""}
        ):
            pass

        (line,) = traced()
        assert (line["name"], line["kind"]) == ("work", "consumer")
        assert (line["trace_id"], line["parent_span_id"]) == (TRACE, PARENT)
        assert (line["attributes"], line["status"]) == ({"a": 1}, "unset")
        assert line["duration_ms"] >= 0

    def test_a_message_without_a_trace_starts_one(self, traced):
        with tracing.continue_from(None, "work"):
            pass

        assert traced()[0]["parent_span_id"] is None

    def test_spans_lie_within_each_other(self, traced):
        with tracing.span("outer"):
            headers = {}
            tracing.inject(headers)
            with tracing.span("inner", kind="client"):
                pass

        inner, outer = traced()
        assert inner["parent_span_id"] == outer["span_id"]
        assert headers["traceparent"].split("-")[2] == outer["span_id"]

    def test_long_values_are_cut_without_a_word(self, traced, caplog):
        with tracing.span("work") as span:
            span.set_attribute("db.query.text", "x" * 10_000)

        assert len(traced()[0]["attributes"]["db.query.text"]) == 300
        assert "truncating" not in caplog.text

    def test_an_error_marks_the_span(self, traced):
        with pytest.raises(ValueError, match="no"), tracing.span("work"):
            raise ValueError("no")

        assert traced()[0]["status"] == "error"

    def test_a_trace_that_the_caller_does_not_record_is_not_recorded(self, traced):
        with tracing.continue_from(f"00-{TRACE}-{PARENT}-00", "work"):
            pass

        assert traced() == []

    def test_spans_of_many_messages_at_once(self, traced):
        span = tracing.start(TRACEPARENT, "consume", kind="consumer")
        with tracing.use(span, TRACEPARENT), tracing.span("effect"):
            pass
        span.end()

        effect, consume = traced()
        assert effect["parent_span_id"] == consume["span_id"]
        assert consume["trace_id"] == TRACE

    def test_outside_a_trace_there_is_none(self, traced):
        assert tracing.current_traceparent() is None
        tracing.flush()

    def test_a_second_start_changes_nothing(self, traced):
        tracing.init(ServiceSettings(secret_key=SECRET, traces="log"), "others")

        with tracing.span("work"):
            pass
        assert len(traced()) == 1


class TestInstrumentFlask:
    @pytest.fixture
    def client(self, traced):
        app = Flask("things")
        tracing.instrument_flask(app)
        app.add_url_rule("/things/<name>", "thing", lambda name: name)
        app.add_url_rule("/readyz", "readyz", lambda: "ok")
        app.add_url_rule("/broken", "broken", lambda: 1 // 0)
        return app.test_client()

    def test_makes_a_span_of_a_request_in_the_callers_trace(self, client, traced):
        client.get("/things/7", headers={"traceparent": TRACEPARENT})

        (line,) = traced()
        assert (line["name"], line["kind"]) == ("GET /things/<name>", "server")
        assert line["trace_id"] == TRACE
        assert line["attributes"]["http.route"] == "/things/<name>"

    def test_keeps_queries_to_itself(self, client, traced):
        client.get(
            "/things/7?code=secret",
            environ_overrides={"RAW_URI": "/things/7?code=secret"},
        )

        assert "secret" not in json.dumps(traced())

    def test_leaves_probes_out(self, client, traced):
        client.get("/readyz")

        assert traced() == []

    def test_tells_how_it_was_answered(self, client, traced):
        client.get("/things/7", headers={"traceparent": TRACEPARENT})
        client.get("/nowhere")
        client.application.config["PROPAGATE_EXCEPTIONS"] = False
        client.get("/broken")

        answers = [
            (
                line["name"],
                line["attributes"]["http.response.status_code"],
                line["status"],
            )
            for line in traced()
        ]
        assert answers == [
            ("GET /things/<name>", 200, "unset"),
            ("GET", 404, "unset"),
            ("GET /broken", 500, "error"),
        ]


class TestShare:
    """Of traces that the gateway begins, so many are kept."""

    @pytest.fixture
    def client(self, monkeypatch, logged):
        """A client of an app that keeps half of the traces; its view makes a span."""
        monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _: None)
        settings = ServiceSettings(secret_key=SECRET, traces="log", trace_ratio=0.5)
        tracing.init(settings, "things")
        app = Flask("things")
        tracing.instrument_flask(app)

        @app.get("/")
        def view():
            with tracing.span("part"):
                return tracing.current_traceparent()

        yield app.test_client()
        tracing.shutdown()

    @pytest.fixture
    def names(self, logged):
        """A function that returns the names of spans that were kept."""
        return lambda: [line["name"] for line in logged if line["event"] == "span"]

    def test_is_kept_whole_by_its_id(self, client, names):
        kept = f"{'a' * 16}0fffffffffffffff"

        client.get("/", headers={"traceparent": f"00-{kept}-{PARENT}-01"})

        assert names() == ["part", "GET /"]

    def test_goes_on_unrecorded_otherwise(self, client, names):
        unkept = f"{'0' * 16}ffffffffffffffff"

        passed_on = client.get("/", headers={"traceparent": f"00-{unkept}-{PARENT}-01"})

        assert names() == []
        assert passed_on.text == f"00-{unkept}-{PARENT}-00"

    def test_does_not_hold_for_the_next_request(self, client, names):
        for start in "f0":
            trace = f"{'a' * 16}{start}000000000000000"
            client.get("/", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

        assert names() == ["part", "GET /"]

    def test_has_nothing_that_the_caller_does_not_record(self, client, names):
        trace = f"{'a' * 16}0fffffffffffffff"

        client.get("/", headers={"traceparent": f"00-{trace}-{PARENT}-00"})

        assert names() == []


class TestRedis:
    @pytest.fixture
    def store(self, redis_url, traced):
        client = redis.Redis.from_url(redis_url)
        yield client
        client.close()

    def test_makes_a_span_of_a_command_without_its_values(self, traced, store):
        with tracing.span("work"):
            store.set("key of ada", "value")

        command, work = traced()
        assert (command["name"], command["kind"]) == ("SET", "client")
        assert command["parent_span_id"] == work["span_id"]
        assert "of ada" not in json.dumps(command)

    def test_makes_one_span_of_many_commands_at_once(self, traced, store):
        with tracing.span("work"), store.pipeline() as pipeline:
            pipeline.set("a", 1).set("b", 2).execute()

        command, _work = traced()
        assert command["name"] == "PIPELINE"
        assert command["attributes"]["db.operation.batch.size"] == 2

    def test_leaves_commands_alone_that_are_part_of_nothing(self, traced, store):
        store.set("a", 1)

        assert traced() == []

    def test_leaves_the_client_as_it_was(self, monkeypatch):
        monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _: None)
        before = redis.Redis.execute_command
        tracing.init(ServiceSettings(secret_key=SECRET, traces="log"), "things")
        during = redis.Redis.execute_command
        tracing.shutdown()

        assert during is not before
        assert redis.Redis.execute_command is before


class TestBeginnings:
    def test_what_only_looks_for_work_is_no_trace(self, traced):
        with tracing.span("select", kind="client"):
            pass

        assert traced() == []

    def test_a_call_to_another_service_is_one(self, traced):
        with tracing.span("GET", kind="client", attributes={"peer.service": "catalog"}):
            pass

        assert traced()

    def test_a_share_is_recorded(self, monkeypatch, logged):
        monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _: None)
        settings = ServiceSettings(secret_key=SECRET, traces="log", trace_ratio=0)
        tracing.init(settings, "things")
        with tracing.span("work"):
            pass
        tracing.shutdown()

        assert not [line for line in logged if line["event"] == "span"]

    def test_says_what_it_is(self):
        assert tracing._beginnings(0.5).get_description() == "Beginnings(0.5)"


class TestRequestId:
    def test_is_told_by_every_span(self, traced):
        with bound_contextvars(request_id="order-66-x"), tracing.span("work"):
            pass

        assert traced()[0]["attributes"] == {SPAN_REQUEST_ID: "order-66-x"}

    def test_is_told_by_the_span_of_a_request(self, traced):
        app = Flask("things")
        logs.init_app(app)
        tracing.instrument_flask(app)
        app.add_url_rule("/", view_func=lambda: "here")
        with bound_contextvars(request_id="stale-from-before"):
            app.test_client().get("/", headers={"X-Request-ID": "order-66-x"})

        assert traced()[0]["attributes"][SPAN_REQUEST_ID] == "order-66-x"

    def test_is_known_when_flask_opens_the_session(self, traced):
        class Sessions(SecureCookieSessionInterface):
            def open_session(self, app, request):
                with tracing.span("open"):
                    return super().open_session(app, request)

        app = Flask("things")
        app.session_interface = Sessions()
        logs.init_app(app)
        tracing.instrument_flask(app)
        app.add_url_rule("/", view_func=lambda: "here")
        client = app.test_client()
        for known in ("order-66-x", "order-67-x"):
            client.get("/", headers={"X-Request-ID": known})

        told = [one["attributes"][SPAN_REQUEST_ID] for one in traced()]
        assert told == 2 * ["order-66-x"] + 2 * ["order-67-x"]

    def test_is_left_out_where_there_is_none(self, traced):
        app = Flask("things")
        tracing.instrument_flask(app)
        clear_contextvars()
        app.test_client().get("/")

        assert SPAN_REQUEST_ID not in traced()[0]["attributes"]


class TestLinks:
    def test_name_what_a_span_has_to_do_with(self, start, collector):
        start(collector.url)
        with tracing.continue_from(None, "work", links=[TRACEPARENT, None, "hostile"]):
            pass
        span = tracing.start(None, "part", links=[TRACEPARENT])
        span.end()
        tracing.flush()

        kept = [one for _, body in collector.bodies for one in otlp.read(body)]
        assert [one.links for one in kept] == [(f"{TRACE}-{PARENT}",)] * 2

    def test_a_span_can_be_named(self, traced):
        span = tracing.start(TRACEPARENT, "work")

        assert tracing.traceparent_of(span).startswith(f"00-{TRACE}-")

    def test_what_stands_in_for_a_span_cannot(self):
        assert tracing.traceparent_of(tracing.start(TRACEPARENT, "work")) is None


class TestInstrumentPsycopg:
    def test_makes_a_span_of_a_statement(self, database_url):
        # In a process of its own: the instrumentation patches the driver for good.
        code = (
            "import psycopg; from flagon_chassis import logs, tracing;"
            "from flagon_chassis.settings import DatabaseSettings;"
            "from sqlalchemy import create_engine, text;"
            "logs.configure('things');"
            f"settings = DatabaseSettings(secret_key='{SECRET}', traces='log',"
            f" database_url='{database_url}');"
            "tracing.init(settings, 't');"
            f"engine = create_engine('{database_url}');\n"
            "with tracing.span('work'), engine.connect() as c:"
            " c.execute(text('select :secret as told'), {'secret': 'of ada'})"
        )

        output = subprocess.check_output([sys.executable, "-c", code], text=True)

        spans = [json.loads(line) for line in output.splitlines()]
        work = next(span for span in spans if span["name"] == "work")
        statement = next(
            span for span in spans if "as told" in json.dumps(span["attributes"])
        )
        assert statement["trace_id"] == work["trace_id"]
        assert "of ada" not in output

    def test_leaves_the_driver_as_it_was(self, monkeypatch):
        monkeypatch.setattr(
            "opentelemetry.trace.set_tracer_provider", lambda _made: None
        )
        before = psycopg.connect
        settings = DatabaseSettings(secret_key=SECRET, traces="log", database_url="-")

        tracing.init(settings, "things")
        during = psycopg.connect
        tracing.shutdown()

        assert during is not before
        assert psycopg.connect is before

    def test_leaves_a_driver_alone_that_it_did_not_patch(self, monkeypatch, caplog):
        monkeypatch.setattr(
            "opentelemetry.trace.set_tracer_provider", lambda _made: None
        )
        importlib.import_module("opentelemetry.instrumentation.psycopg")

        tracing.init(ServiceSettings(secret_key=SECRET, traces="log"), "things")
        tracing.shutdown()

        assert caplog.messages == []


class Collector:
    """An OTLP collector that keeps the raw bytes it gets."""

    def __init__(self):
        self.bodies = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                collector.bodies.append((self.path, self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,)).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def start(monkeypatch):
    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _made: None)

    def start(url):
        settings = ServiceSettings(secret_key=SECRET, traces="otlp", otlp_url=url)
        tracing.init(settings, "things")

    yield start
    tracing.shutdown()


class TestOtlp:
    def test_complains_once_a_minute_of_a_sink_that_is_away(
        self, start, caplog, monkeypatch
    ):
        monkeypatch.setattr(tracing._seldom, "_until", 0.0)
        start(f"http://127.0.0.1:{free_port()}")
        told = []
        for minutes in (0, 0, 1):
            if minutes:
                tracing._seldom._until -= 60 * minutes
            with tracing.span("some work"):
                pass
            tracing.flush()
            told.append(len(caplog.records))

        assert told == [1, 1, 2]
        assert "Connection refused" in caplog.text

    def test_sends_spans_to_the_collector(self, start, collector):
        start(collector.url)
        with tracing.span("some work"), tracing.span("a part of it"):
            pass

        tracing.flush()

        ((path, body),) = collector.bodies
        assert path == "/v1/traces"
        assert b"some work" in body
        assert b"things" in body

    def test_each_fork_sends_its_own(self, start, collector):
        start(collector.url)
        with tracing.span("of the parent"):
            pass
        tracing.flush()

        child = os.fork()
        if not child:
            status = 1
            try:
                with tracing.span("of the child"):
                    pass
                tracing.shutdown()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

        bodies = [body for _, body in collector.bodies]
        assert len(bodies) == 2
        assert b"of the child" in bodies[1]
        assert b"of the parent" not in bodies[1]

    def test_a_fork_without_spans_has_nothing_to_send(self, start, collector):
        start(collector.url)
        with tracing.span("of the parent"):
            pass
        child = os.fork()
        if not child:
            status = 1
            try:
                tracing.flush()
                tracing.shutdown()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

        tracing.flush()
        assert len(collector.bodies) == 1

    def test_a_service_without_a_database_loads_no_driver(self):
        code = (
            "import sys; from flagon_chassis import tracing;"
            "from flagon_chassis.settings import ServiceSettings;"
            f"settings = ServiceSettings(secret_key='{SECRET}', traces='log');"
            "tracing.init(settings, 'things');"
            "tracing.shutdown();"
            "sys.exit('psycopg' in sys.modules)"
        )

        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_a_collector_that_is_down_harms_nobody(self, start):
        start("http://127.0.0.1:1")

        with tracing.span("lost"):
            pass
        tracing.flush()
