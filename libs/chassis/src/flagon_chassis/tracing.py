"""One trace through requests, outbox, queue, stream and browser (W3C trace context).

With `traces=none` nothing of OpenTelemetry is loaded; the trace context that a caller
sent is still passed on, so logs of all services and the traces of others stay tied.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import structlog
from structlog.contextvars import bound_contextvars

from .logs import trace_id_of
from .settings import DatabaseSettings, ServiceSettings

if TYPE_CHECKING:
    from flask import Flask
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

Kind = Literal["internal", "server", "client", "producer", "consumer"]

_LONGEST_VALUE = 300
_EXPORT_SECONDS = 2.0

# What the caller sent, where this process makes no spans of its own.
_passed_on: ContextVar[str | None] = ContextVar("flagon_traceparent", default=None)
_provider: "TracerProvider | None" = None


class Span(Protocol):
    """The part of an OpenTelemetry span that the chassis and services use."""

    def set_attribute(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Add one attribute: text, number, truth value or a list of one of them."""

    def record_exception(self, exception: BaseException) -> None:
        """Add an exception as an event of the span."""

    def end(self) -> None:
        """End the span; further calls do nothing."""


class _NoSpan:
    """Stands in for a span where none are made."""

    def set_attribute(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Do nothing."""

    def record_exception(self, exception: BaseException) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


_NO_SPAN = _NoSpan()


def init(settings: ServiceSettings, service: str) -> None:
    """Start to make spans as the settings say; a second call does nothing.

    Safe before and after a fork: what holds threads and sockets is made in each process
    at its first ended span. Call it before the database is connected.

    :param service: becomes the resource's `service.name`.
    """
    global _provider  # noqa: PLW0603 (OpenTelemetry has one provider per process, too)
    if settings.traces == "none" or _provider is not None:
        return
    # The instrumentations still write the names of before 2023 unless told so.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")  # noqa: TID251

    from opentelemetry import trace  # noqa: PLC0415 (loaded only where traces are on)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415
        ParentBased,
        TraceIdRatioBased,
    )

    # Long statements are cut as told below; that is no news for the log.
    logging.getLogger("opentelemetry.attributes").setLevel(logging.ERROR)
    _provider = TracerProvider(
        # Without a parent by ratio, else as the parent decided: traces stay whole.
        sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
        resource=Resource.create({"service.name": service}),
        span_limits=SpanLimits(max_attribute_length=_LONGEST_VALUE),
    )
    _provider.add_span_processor(_processor(settings))
    trace.set_tracer_provider(_provider)
    # Who has no database need not have its driver in memory.
    if isinstance(settings, DatabaseSettings):
        from opentelemetry.instrumentation.psycopg import (  # noqa: PLC0415
            PsycopgInstrumentor,
        )

        # Not the SQLAlchemy instrumentation: on 2.1 it makes no spans at all.
        PsycopgInstrumentor().instrument(tracer_provider=_provider)


def shutdown() -> None:
    """Send the spans that wait and stop; for processes that skip `atexit`."""
    global _provider  # noqa: PLW0603
    if _provider is None:
        return
    _provider.shutdown()
    _provider = None
    instrumentation = sys.modules.get("opentelemetry.instrumentation.psycopg")
    if instrumentation is not None:
        instrumentor = instrumentation.PsycopgInstrumentor()
        # Loaded is not yet used: `init` leaves the driver alone without a database.
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def flush() -> None:
    """Send the spans that wait."""
    if _provider is not None:
        _provider.force_flush()


def _processor(settings: ServiceSettings) -> "SpanProcessor":
    from opentelemetry.sdk.trace import SpanProcessor  # noqa: PLC0415

    class Log(SpanProcessor):
        """Write every ended span as one log line."""

        def on_end(self, span: "ReadableSpan") -> None:
            structlog.get_logger("flagon.span").info("span", **describe(span))

    class PerProcess(SpanProcessor):
        """Send spans in batches, by a thread and connections of this very process."""

        def __init__(self) -> None:
            self._batch: SpanProcessor | None = None
            self._pid = 0

        def on_end(self, span: "ReadableSpan") -> None:
            if self._pid != os.getpid():
                # A forked copy shares its parent's connection to the collector.
                self._batch, self._pid = _otlp(settings.otlp_url), os.getpid()
            cast("SpanProcessor", self._batch).on_end(span)

        def shutdown(self) -> None:
            if self._batch is not None and self._pid == os.getpid():
                self._batch.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            if self._batch is None or self._pid != os.getpid():
                return True
            return self._batch.force_flush(timeout_millis)

    return Log() if settings.traces == "log" else PerProcess()


def _otlp(url: str) -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # A collector that is down must not hold up the end of the process.
    exporter = OTLPSpanExporter(endpoint=f"{url}/v1/traces", timeout=_EXPORT_SECONDS)
    return BatchSpanProcessor(exporter, schedule_delay_millis=1000)


def describe(span: "ReadableSpan") -> dict[str, Any]:
    """Return an ended span as the members of its log line."""
    context = cast("Any", span.context)
    started, ended = cast("int", span.start_time), cast("int", span.end_time)
    return {
        "name": span.name,
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "kind": span.kind.name.lower(),
        "duration_ms": round((ended - started) / 1e6, 3),
        "status": span.status.status_code.name.lower(),
        "attributes": {
            key: value for key, value in (span.attributes or {}).items() if value != ""
        },
    }


def instrument_flask(app: "Flask") -> None:
    """Make a span of each request, except for probes; call it after `init`."""
    if _provider is None:
        _pass_on(app)
        return
    from opentelemetry.instrumentation.flask import (  # noqa: PLC0415
        FlaskInstrumentor,
    )

    FlaskInstrumentor().instrument_app(  # type: ignore[no-untyped-call]
        app,
        tracer_provider=_provider,
        excluded_urls="/livez$,/readyz$,/metrics$",
        response_hook=_hide_query,
        enable_commenter=False,
    )


def _hide_query(span: Span, _status: str, _headers: list[tuple[str, str]]) -> None:
    # Query strings carry authorization codes and search words; spans are kept longer
    # and read by more people than either should be.
    span.set_attribute("url.query", "")


def _pass_on(app: "Flask") -> None:
    from flask import request  # noqa: PLC0415 (relays have no Flask in memory)

    @app.before_request
    def remember() -> None:
        given = request.headers.get("traceparent")
        _passed_on.set(given if trace_id_of(given) else None)


def current_traceparent() -> str | None:
    """Return the W3C traceparent of what is being done now, None outside a trace."""
    if _provider is None:
        return _passed_on.get()
    from opentelemetry import trace  # noqa: PLC0415

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return (
        f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    )


def inject(headers: MutableMapping[str, str]) -> None:
    """Add the traceparent header, if there is a trace, to the headers of a message."""
    traceparent = current_traceparent()
    if traceparent:
        headers["traceparent"] = traceparent


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", attributes: Mapping[str, Any] | None = None
) -> Iterator[Span]:
    """Make a span around the block, a child of the current one; errors mark it."""
    if _provider is None:
        yield _NO_SPAN
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    with _provider.get_tracer("flagon").start_as_current_span(
        name, kind=SpanKind[kind.upper()], attributes=attributes
    ) as made:
        yield made


@contextmanager
def continue_from(
    traceparent: str | None,
    name: str,
    *,
    kind: Kind = "internal",
    attributes: Mapping[str, Any] | None = None,
) -> Iterator[Span]:
    """Make a span around the block in the trace that a message brought along.

    :param traceparent: as the sender wrote it; None or malformed starts a new trace.
    """
    if _provider is None:
        trace_id = trace_id_of(traceparent)
        token = _passed_on.set(traceparent if trace_id else None)
        try:
            if trace_id:
                with bound_contextvars(trace_id=trace_id):
                    yield _NO_SPAN
            else:
                yield _NO_SPAN
        finally:
            _passed_on.reset(token)
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    with _provider.get_tracer("flagon").start_as_current_span(
        name,
        context=_context(traceparent),
        kind=SpanKind[kind.upper()],
        attributes=attributes,
    ) as made:
        yield made


def start(
    traceparent: str | None,
    name: str,
    *,
    kind: Kind = "internal",
    attributes: Mapping[str, Any] | None = None,
) -> Span:
    """Return a span in a message's trace that is not current; the caller ends it.

    For work on many messages at once, each of which has a trace of its own.
    """
    if _provider is None:
        return _NO_SPAN
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    return _provider.get_tracer("flagon").start_span(
        name,
        context=_context(traceparent),
        kind=SpanKind[kind.upper()],
        attributes=attributes,
    )


@contextmanager
def use(span: Span, traceparent: str | None) -> Iterator[None]:
    """Make a span from `start` the current one in the block, without ending it.

    :param traceparent: what `start` was given; passed on where no spans are made.
    """
    if _provider is None:
        with continue_from(traceparent, ""):
            yield
        return
    from opentelemetry import trace  # noqa: PLC0415

    with trace.use_span(cast("Any", span)):
        yield


def _context(traceparent: str | None) -> "Context":
    from opentelemetry.context import Context  # noqa: PLC0415 (loaded only where traces are on)
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    carrier = {"traceparent": traceparent} if traceparent else {}
    return TraceContextTextMapPropagator().extract(carrier, context=Context())
