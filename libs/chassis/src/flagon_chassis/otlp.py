"""What arrives by OTLP over HTTP, and the gateway's line about a request, as spans."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from .logs import SPAN_REQUEST_ID

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

Value = str | bool | int | float | list[str]

_KINDS = ("internal", "internal", "server", "client", "producer", "consumer")
_ERROR = 2
_SERVER_ERRORS = 500
_LONGEST = 500
_MOST_ATTRIBUTES = 48
_MOST_LINKS = 32
_ID = re.compile(r"\A[A-Za-z0-9._-]{8,64}\Z")
_HEX = {16: re.compile(r"\A[0-9a-f]{16}\Z"), 32: re.compile(r"\A[0-9a-f]{32}\Z")}


class Malformed(ValueError):
    """What was sent is no OTLP request."""


class TooLarge(ValueError):
    """What was sent is longer than is taken."""


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work, as far as it is kept."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    parent_id: str | None
    service: str
    name: str
    kind: str
    """`internal`, `server`, `client`, `producer` or `consumer`."""
    started_us: int
    """Microseconds since the epoch, as is `ended_us`."""
    ended_us: int
    failed: bool
    request_id: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    """Spans that this one has to do with, `<trace id>-<span id>`."""
    error: str = ""
    """Its first exception, in one line."""


def unpack(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """Return a body as it was before it was compressed.

    :param encoding: `gzip`, or empty or `identity` for none.
    :raises TooLarge: it would be longer than `most_bytes`; no more than that is unpacked.
    :raises Malformed: it is not what its encoding says.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding != "gzip":
        raise Malformed("The encoding is neither gzip nor identity.")
    unpacking = zlib.decompressobj(wbits=31)
    try:
        whole = unpacking.decompress(body, most_bytes)
    except zlib.error as error:
        raise Malformed("The body is no gzip.") from error
    if unpacking.unconsumed_tail:
        raise TooLarge
    if not unpacking.eof:
        raise Malformed("The body ends in its midst.")
    return whole


def read(body: bytes) -> list[Span]:
    """Return the spans of an `ExportTraceServiceRequest` in protobuf's own form.

    Spans without ids are left out. Long values are cut, and of very many attributes and
    links only the first are kept.

    :raises Malformed: it is none.
    """
    # Loaded by whoever receives: senders bring a library of their own.
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 (10 MB)
        ExportTraceServiceRequest,
    )

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise Malformed("The body is no OTLP request.") from error
    return [
        _span(span, str(_attributes(resource.resource.attributes).get("service.name")))
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if any(span.trace_id) and len(span.trace_id) * 2 == len(_EMPTY_TRACE)
        if any(span.span_id) and len(span.span_id) * 4 == len(_EMPTY_TRACE)
    ]


_EMPTY_TRACE = "0" * 32


def _span(span: "Sent", service: str) -> Span:
    attributes = _attributes(span.attributes)
    status = attributes.get("http.response.status_code")
    errors = [
        _attributes(event.attributes)
        for event in span.events
        if event.name == "exception"
    ]
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        service=service[:_LONGEST],
        name=span.name[:_LONGEST],
        kind=_KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else "internal",
        started_us=span.start_time_unix_nano // 1000,
        ended_us=max(span.start_time_unix_nano, span.end_time_unix_nano) // 1000,
        failed=span.status.code == _ERROR
        or (isinstance(status, int) and status >= _SERVER_ERRORS),
        request_id=_id(attributes.pop(SPAN_REQUEST_ID, "")),
        attributes=attributes,
        links=tuple(
            f"{link.trace_id.hex()}-{link.span_id.hex()}"
            for link in islice(span.links, _MOST_LINKS)
        ),
        error=": ".join(
            str(errors[0].get(f"exception.{part}", "")) for part in ("type", "message")
        )[:_LONGEST]
        if errors
        else "",
    )


def _id(value: object) -> str:
    return value if isinstance(value, str) and _ID.match(value) else ""


def _attributes(found: "Iterable[KeyValue]") -> dict[str, Value]:
    return {
        one.key[:_LONGEST]: _value(one.value) for one in islice(found, _MOST_ATTRIBUTES)
    }


def _value(value: "AnyValue") -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        some = islice(value.array_value.values, _MOST_LINKS)
        return [str(_value(one))[:_LONGEST] for one in some]
    if kind in {"bool_value", "int_value", "double_value"}:
        number: bool | float = getattr(value, kind)
        return number
    # Bytes and nested values are nothing that our senders have.
    return value.string_value[:_LONGEST]


def read_gateway(datagram: bytes) -> Span | None:
    """Return the gateway's own span from its access line, as it comes by syslog.

    None for what is none: anybody may send datagrams.
    """
    _, brace, rest = datagram.partition(b"{")
    try:
        line = json.loads(brace + rest)
        # nginx knows the end, to the millisecond, and how long it took.
        ended = int(datetime.fromisoformat(line["time"]).timestamp() * 1e6)
        took, status = int(float(line["duration_seconds"]) * 1e6), int(line["status"])
        ids = {size: str(line[name]) for name, size in _IDS}
        method, path = str(line["method"]), str(line["path"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    if not all(_HEX[size].match(id_) for size, id_ in ids.items()):
        return None
    return Span(
        trace_id=ids[32],
        span_id=ids[16],
        parent_id=None,
        service="gateway",
        name=f"{method} {path}"[:_LONGEST],
        kind="server",
        started_us=ended - max(0, took),
        ended_us=ended,
        failed=status >= _SERVER_ERRORS,
        request_id=_id(line.get("request_id")),
        attributes={
            "http.request.method": method[:_LONGEST],
            "http.response.status_code": status,
            "flagon.cache": str(line.get("cache", ""))[:_LONGEST],
        },
    )


_IDS = (("trace_id", 32), ("span_id", 16))
