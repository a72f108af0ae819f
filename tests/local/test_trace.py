"""One request, collected from the logs of all processes."""

import json
import threading

import pytest
from flagonctl import trace
from flagonctl.problem import Problem
from flagonctl.processes import SINK
from flagonctl.stack import Stack

from flagon_chassis import otlp
from flagon_chassis.sink import Limits, Sink, Store
from flagon_chassis.testing import free_port

TRACE = "a" * 32


@pytest.fixture
def stack(tmp_path):
    stack = Stack("local", free_port() - SINK.offset, tmp_path)
    stack.logs.mkdir(parents=True)
    return stack


def write(stack, name, *lines):
    text = "".join(
        (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
    )
    (stack.logs / f"{name}.log").write_text(text)


@pytest.fixture
def sink(stack):
    """A sink of traces beside the stack, which has one span to tell."""
    span = {
        "trace_id": TRACE,
        "span_id": "7" * 16,
        "parent_id": "1" * 16,
        "service": "worker",
        "name": "POST /api/v1/jobs",
        "kind": "server",
        "started_us": 1_767_225_600_010_000,
        "ended_us": 1_767_225_600_090_000,
        "failed": True,
        "request_id": "order-66-x",
    }
    (stack.config).mkdir(parents=True)
    (stack.config / "traced").touch()
    port = stack.port_base + SINK.offset
    store = Store(stack.state, Limits())
    with Sink(f"127.0.0.1:{port}", store) as sink:
        store.add([otlp.Span(**span), otlp.Span(**span | {"service": "gateway"})])
        thread = threading.Thread(target=sink.serve_forever)
        thread.start()
        yield
        sink.shutdown()
        thread.join()
    store.close()


class TestFromTheSink:
    def test_spans_are_asked_for_where_they_were_sent(self, logged, sink):
        lines = trace.lines_of(logged, "order-66-x")

        (root,) = trace.tree([one for one in lines if one.get("service") != "worker"])
        spans = [one for one in lines if one.get("span_id") == "7" * 16]
        assert root.service == "gateway"
        assert [(one["duration_ms"], one["status"]) for one in spans] == [
            (80.0, "error")
        ]

    def test_without_an_answer_the_logs_tell_what_they_can(self, logged):
        logged.config.mkdir(parents=True)
        (logged.config / "traced").touch()

        assert trace.lines_of(logged, "order-66-x")


@pytest.fixture
def logged(stack):
    gateway = {
        "time": "2026-01-01T00:00:00.100Z",
        "service": "gateway",
        "event": "request",
        "request_id": "order-66-x",
        "trace_id": TRACE,
        "span_id": "1" * 16,
        "method": "POST",
        "path": "/api/v1/jobs",
        "status": 202,
        "duration_seconds": 0.1,
    }
    server = {
        "time": "2026-01-01T00:00:00.090Z",
        "service": "worker",
        "event": "span",
        "name": "POST /api/v1/jobs",
        "trace_id": TRACE,
        "span_id": "2" * 16,
        "parent_span_id": "1" * 16,
        "duration_ms": 80.0,
        "status": "unset",
    }
    query = server | {
        "name": "insert",
        "span_id": "3" * 16,
        "parent_span_id": "2" * 16,
        "duration_ms": 5.0,
        "status": "error",
    }
    line = {
        "time": "2026-01-01T00:00:00.050Z",
        "service": "worker",
        "event": "job_created",
        "request_id": "order-66-x",
        "trace_id": TRACE,
        "kind": "import",
    }
    foreign = line | {"request_id": "another-one", "trace_id": "b" * 32}
    write(stack, "gateway", gateway, "2026/01/01 [crit] order-66-x not json")
    write(stack, "worker", server, query, line, foreign)
    return stack


class TestTrace:
    @pytest.mark.parametrize("wanted", ["order-66-x", TRACE])
    def test_is_found_by_either_id(self, logged, wanted):
        lines = trace.lines_of(logged, wanted)
        roots = trace.tree(lines)

        assert len(lines) == 4
        assert [root.service for root in roots] == ["gateway"]
        assert roots[0].children[0].children[0].name == "insert"

    def test_is_shown_as_a_tree(self, logged):
        lines = trace.lines_of(logged, TRACE)

        shown = trace.render(trace.tree(lines), lines)

        assert "└─ worker: POST /api/v1/jobs" in shown
        assert "[error]" in shown
        assert "job_created  kind=import" in shown
        assert "another-one" not in shown

    def test_is_there_for_programs(self, logged):
        lines = trace.lines_of(logged, TRACE)

        said = trace.as_json(trace.tree(lines), lines)

        assert said["services"] == ["gateway", "worker"]
        assert said["request_ids"] == ["order-66-x"]
        json.dumps(said)

    def test_an_unknown_id_is_said_to_be_unknown(self, logged):
        assert "Nothing is known" in trace.render([], trace.lines_of(logged, "c" * 32))

    def test_a_pattern_is_no_id(self, stack):
        with pytest.raises(Problem):
            trace.lines_of(stack, ".*")


class TestLog:
    def test_of_a_request_is_in_the_order_of_time(self, logged):
        found = trace.log_of(logged, "order-66-x")

        assert [(one["service"], one["event"]) for one in found] == [
            ("worker", "job_created"),
            ("gateway", "request"),
        ]

    def test_of_a_request_may_be_that_of_one_process(self, logged):
        found = trace.log_of(logged, "order-66-x", "worker")

        assert [one["event"] for one in found] == ["job_created"]

    def test_that_was_rotated_is_read_too(self, logged):
        (logged.logs / "worker.log").rename(logged.logs / "worker.log.1")

        assert len(trace.log_of(logged, "order-66-x", "worker")) == 1

    def test_is_not_that_of_another_request_that_names_it(self, logged):
        line = {"time": "2", "request_id": "another-one", "said": "order-66-x"}
        write(logged, "catalog", line)

        assert len(trace.log_of(logged, "order-66-x")) == 2

    @pytest.mark.parametrize("wanted", [".*", "short", "a b c d e f", "x" * 65])
    def test_a_pattern_is_no_id(self, logged, wanted):
        with pytest.raises(Problem, match="no request id"):
            trace.log_of(logged, wanted)

    def test_says_so_when_nobody_knows_it(self, logged):
        with pytest.raises(Problem, match="say nothing"):
            trace.log_of(logged, "order-66-x", "catalog")
