import gzip
import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from flagon_chassis import otlp
from flagon_chassis.logs import SPAN_REQUEST_ID

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "c" * 16
BEGUN = 1_800_000_000_000_000_000
LINE = {
    "time": "2026-11-21T10:00:00.500Z",
    "service": "gateway",
    "request_id": TRACE,
    "trace_id": TRACE,
    "span_id": SPAN,
    "method": "GET",
    "path": "/api/v1/products",
    "status": 200,
    "duration_seconds": 0.25,
    "cache": "HIT",
}


def request(*spans, service="things"):
    """Return an OTLP request of one process; each span as a mapping of its fields."""
    sent = ExportTraceServiceRequest()
    resource = sent.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    for fields in spans:
        span = resource.scope_spans.add().spans.add(
            trace_id=bytes.fromhex(fields.get("trace_id", TRACE)),
            span_id=bytes.fromhex(fields.get("span_id", SPAN)),
            parent_span_id=bytes.fromhex(fields.get("parent_id", "")),
            name=fields.get("name", "work"),
            kind=fields.get("kind", 2),
            start_time_unix_nano=BEGUN,
            end_time_unix_nano=BEGUN + int(fields.get("ms", 1) * 1e6),
        )
        span.status.code = 2 if fields.get("failed") else 0
        for key, value in fields.get("attributes", {}).items():
            put(span.attributes.add(key=key).value, value)
        for link in fields.get("links", ()):
            trace_id, span_id = link.split("-")
            span.links.add(
                trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id)
            )
        for kind, message in fields.get("exceptions", ()):
            event = span.events.add(name="exception")
            put(event.attributes.add(key="exception.type").value, kind)
            put(event.attributes.add(key="exception.message").value, message)
    return sent.SerializeToString()


def put(place, value):
    if isinstance(value, bool):
        place.bool_value = value
    elif isinstance(value, int):
        place.int_value = value
    elif isinstance(value, float):
        place.double_value = value
    elif isinstance(value, list):
        for one in value:
            put(place.array_value.values.add(), one)
    else:
        place.string_value = value


class TestRead:
    def test_tells_what_a_span_is(self):
        (span,) = otlp.read(request({"parent_id": PARENT, "ms": 2, "kind": 5}))

        assert (span.trace_id, span.span_id, span.parent_id) == (TRACE, SPAN, PARENT)
        assert (span.service, span.name, span.kind) == ("things", "work", "consumer")
        assert span.ended_us - span.started_us == 2000
        assert not span.failed

    def test_a_span_without_a_parent_is_a_root(self):
        assert otlp.read(request({}))[0].parent_id is None

    def test_knows_the_request(self):
        (span,) = otlp.read(request({"attributes": {SPAN_REQUEST_ID: "order-66-x"}}))

        assert span.request_id == "order-66-x"
        assert span.attributes == {}

    def test_takes_no_request_id_that_is_none(self):
        hostile = {"attributes": {SPAN_REQUEST_ID: "<script>"}}

        assert otlp.read(request(hostile))[0].request_id == ""

    def test_keeps_values_as_they_are(self):
        values = {"a": "x", "b": True, "c": 3, "d": 0.5, "e": ["y", 1]}

        (span,) = otlp.read(request({"attributes": values}))

        assert span.attributes == values | {"e": ["y", "1"]}

    def test_cuts_what_is_long_and_leaves_out_what_is_many(self):
        many = {f"key-{number}": "v" * 10_000 for number in range(1000)}

        (span,) = otlp.read(request({"name": "n" * 10_000, "attributes": many}))

        assert len(span.name) == 500
        assert len(span.attributes) == 48
        assert len(span.attributes["key-0"]) == 500

    def test_names_what_it_has_to_do_with(self):
        link = f"{'d' * 32}-{'e' * 16}"

        assert otlp.read(request({"links": [link] * 100}))[0].links == (link,) * 32

    def test_tells_the_first_error(self):
        failed = {"failed": True, "exceptions": [("ValueError", "no"), ("b", "c")]}

        (span,) = otlp.read(request(failed))

        assert (span.failed, span.error) == (True, "ValueError: no")

    def test_an_answer_that_blames_the_server_is_a_failure(self):
        status = {"attributes": {"http.response.status_code": 503}}

        assert otlp.read(request(status))[0].failed

    def test_an_unknown_kind_is_internal(self):
        assert otlp.read(request({"kind": 77}))[0].kind == "internal"

    @pytest.mark.parametrize(
        "ids",
        [
            {"trace_id": "0" * 32},
            {"trace_id": "ab"},
            {"span_id": "0" * 16},
            {"span_id": "a" * 30},
        ],
    )
    def test_leaves_out_what_has_no_id(self, ids):
        assert otlp.read(request(ids)) == []

    def test_refuses_what_is_no_request(self):
        with pytest.raises(otlp.Malformed):
            otlp.read(b"\xff\xffnonsense")


class TestUnpack:
    def test_leaves_what_is_not_packed(self):
        assert otlp.unpack(b"abc", "", 10) == b"abc"

    def test_unpacks_gzip(self):
        assert otlp.unpack(gzip.compress(b"abc"), "gzip", 10) == b"abc"

    def test_refuses_what_would_be_too_long(self):
        with pytest.raises(otlp.TooLarge):
            otlp.unpack(gzip.compress(b"a" * 1_000_000), "gzip", 1000)

    @pytest.mark.parametrize(
        ("body", "encoding"),
        [
            (b"abc", "br"),
            (b"abc", "gzip"),
            (gzip.compress(b"abcdef")[:-9], "gzip"),
        ],
    )
    def test_refuses_what_is_not_what_it_says(self, body, encoding):
        with pytest.raises(otlp.Malformed):
            otlp.unpack(body, encoding, 10)


class TestReadGateway:
    def read(self, **members):
        line = json.dumps(LINE | members).encode()
        return otlp.read_gateway(b"<190>Nov 21 10:00:00 nginx: " + line)

    def test_tells_the_gateways_own_span(self):
        span = self.read()

        assert (span.trace_id, span.span_id, span.request_id) == (TRACE, SPAN, TRACE)
        assert (span.service, span.name) == ("gateway", "GET /api/v1/products")
        assert span.ended_us == 1_795_255_200_500_000
        assert span.ended_us - span.started_us == 250_000
        assert span.attributes["flagon.cache"] == "HIT"
        assert not span.failed

    def test_a_server_error_is_a_failure(self):
        assert self.read(status=502).failed

    @pytest.mark.parametrize(
        "members",
        [
            {"trace_id": "short"},
            {"span_id": "G" * 16},
            {"time": "yesterday"},
            {"time": None},
            {"status": "none"},
            {"duration_seconds": float("inf")},
        ],
    )
    def test_is_none_where_something_is_wrong(self, members):
        assert self.read(**members) is None

    @pytest.mark.parametrize("datagram", [b"", b"\xff{", b"{}", b"{[1]}"])
    def test_is_none_for_what_is_no_line(self, datagram):
        assert otlp.read_gateway(datagram) is None
