"""One trace through requests, outbox, queue, stream and browser (W3C trace context).

With `traces=none` nothing of OpenTelemetry is loaded; the trace context that a caller
sent is still passed on, so logs of all services and the traces of others stay tied.
"""

import logging
import os
import sys
import time
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import structlog
from structlog.contextvars import bound_contextvars, get_contextvars

from .logs import SPAN_REQUEST_ID, TRACEPARENT, trace_id_of
from .settings import DatabaseSettings, ServiceSettings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Flask, Response
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace import Span as MadeSpan
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Link, SpanContext

Kind = Literal["internal", "server", "client", "producer", "consumer"]

_LONGEST_VALUE = 300
_EXPORT_SECONDS = 2.0
_TOLD_SECONDS = 60.0
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})
_SPAN = "flagon.span"
"""Where in a request's environment its span is."""

# What the caller sent, where this process makes no spans of its own.
_passed_on: ContextVar[str | None] = ContextVar("flagon_traceparent", default=None)
_provider: "TracerProvider | None" = None
_ratio = 1.0
# Methods of the Redis client as they were: class, name, function.
_untimed: list[tuple[type, str, Callable[..., Any]]] = []


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
    global _provider, _ratio  # noqa: PLW0603 (OpenTelemetry has one provider per process, too)
    if settings.traces == "none" or _provider is not None:
        return
    # The instrumentations still write the names of before 2023 unless told so.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")  # noqa: TID251

    from opentelemetry import trace  # noqa: PLC0415 (loaded only where traces are on)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (as `init`)
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415 (as `init`)
    from opentelemetry.sdk.trace.sampling import ParentBased  # noqa: PLC0415 (as `init`)

    # Long statements are cut as told below; that is no news for the log.
    logging.getLogger("opentelemetry.attributes").setLevel(logging.ERROR)
    _ratio = settings.trace_ratio
    _provider = TracerProvider(
        # Without a parent by ratio, else as the parent decided: traces stay whole.
        sampler=ParentBased(_beginnings(_ratio)),
        resource=Resource.create({"service.name": service}),
        span_limits=SpanLimits(max_attribute_length=_LONGEST_VALUE),
    )
    _provider.add_span_processor(_processor(settings))
    trace.set_tracer_provider(_provider)
    # Who has no database need not have its driver in memory.
    if isinstance(settings, DatabaseSettings):
        from opentelemetry.instrumentation.psycopg import (  # noqa: PLC0415 (as `init`)
            PsycopgInstrumentor,
        )

        # Not the SQLAlchemy instrumentation: on 2.1 it makes no spans at all.
        PsycopgInstrumentor().instrument(tracer_provider=_provider)
    _time_redis()


def shutdown() -> None:
    """Send the spans that wait and stop; for processes that skip `atexit`."""
    global _provider  # noqa: PLW0603
    if _provider is None:
        return
    _provider.shutdown()
    _provider = None
    while _untimed:
        owner, name, plain = _untimed.pop()
        setattr(owner, name, plain)
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


def _beginnings(ratio: float) -> "Sampler":
    """Return what decides about spans that have no parent."""
    from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415 (as `init`)
        Decision,
        Sampler,
        SamplingResult,
        TraceIdRatioBased,
    )
    from opentelemetry.trace import Link, SpanKind, TraceState  # noqa: PLC0415 (as `init`)
    from opentelemetry.util.types import Attributes  # noqa: PLC0415 (as `init`)

    share = TraceIdRatioBased(ratio)

    class Beginnings(Sampler):
        """Records a share of all, and nothing that only looks whether there is work.

        Relays and workers ask their database every second: a statement that is part of
        nothing would be a trace of its own.
        """

        def should_sample(
            self,
            parent_context: "Context | None",
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> SamplingResult:
            if kind is SpanKind.CLIENT and "peer.service" not in (attributes or {}):
                return SamplingResult(Decision.DROP)
            return share.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )

        def get_description(self) -> str:
            return f"Beginnings({ratio})"

    return Beginnings()


def _time_redis() -> None:
    """Make spans of commands to Redis, within other spans alone, without their values."""
    from redis.client import Pipeline, Redis  # noqa: PLC0415 (where traces are on)

    def command(_client: object, name: object, *_rest: object) -> tuple[str, int]:
        return str(name).partition(" ")[0].upper(), 1

    def pipeline(client: "Pipeline", *_given: object) -> tuple[str, int]:
        return "PIPELINE", len(client.command_stack)

    for owner, method, describe_call in (
        (Redis, "execute_command", command),
        (Pipeline, "execute", pipeline),
    ):
        plain = cast("Callable[..., Any]", getattr(owner, method))
        _untimed.append((owner, method, plain))
        setattr(owner, method, _timed(plain, cast("Any", describe_call)))


def _timed(
    plain: Callable[..., Any], describe_call: Callable[..., tuple[str, int]]
) -> Callable[..., Any]:
    from opentelemetry import trace  # noqa: PLC0415 (where traces are on)

    @wraps(plain)
    def timed(client: object, *given: Any, **options: Any) -> Any:  # noqa: ANN401 (Redis')
        if not trace.get_current_span().is_recording():
            return plain(client, *given, **options)
        name, size = describe_call(client, *given)
        attributes = {"db.system.name": "redis", "db.operation.batch.size": size}
        with span(name, kind="client", attributes=attributes):
            return plain(client, *given, **options)

    return timed


def _processor(settings: ServiceSettings) -> "SpanProcessor":
    from opentelemetry.sdk.trace import SpanProcessor  # noqa: PLC0415 (as `init`)

    class Tied(SpanProcessor):
        """Tell every span of which request it is."""

        def on_start(
            self,
            span: "MadeSpan",
            parent_context: "Context | None" = None,  # noqa: ARG002 (the SDK's)
        ) -> None:
            # A server's span begins before it is known which request it is; see
            # `instrument_flask`.
            known = get_contextvars().get("request_id")
            if known and span.kind.name != "SERVER":
                span.set_attribute(SPAN_REQUEST_ID, known)

    class Log(Tied):
        """Write every ended span as one log line."""

        def on_end(self, span: "ReadableSpan") -> None:
            structlog.get_logger("flagon.span").info("span", **describe(span))

    class PerProcess(Tied):
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


class _Seldom(logging.Filter):
    """Lets one line through a minute: else every batch for a sink that is away has two."""

    _until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 (logging's)
        """Say whether a line is written."""
        if time.monotonic() < self._until:
            return False
        self._until = time.monotonic() + _TOLD_SECONDS
        return True


_seldom = _Seldom()


def _otlp(url: str) -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 (as `init`)
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 (as `init`)

    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_seldom)
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
        **(
            {"links": [_name(link.context) for link in links]}
            if (links := span.links)
            else {}
        ),
    }


def _name(context: Any) -> str:  # noqa: ANN401 (as elsewhere: the SDK is not loaded)
    return f"{context.trace_id:032x}-{context.span_id:016x}"


def instrument_flask(app: "Flask") -> None:
    """Make a span of each request that is kept, except for probes; call it after `init`.

    The gateway begins every trace and knows no share, so who is called keeps that share of
    them, by the trace's id: services with the same share keep the same traces whole. What
    is not kept costs next to nothing: its ids go on to the log and to whom it calls.
    """
    if _provider is None:
        _pass_on(app)
        return
    from opentelemetry import context, trace  # noqa: PLC0415 (as `init`)
    from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415 (as `init`)
        TraceIdRatioBased,
    )

    kept_below = TraceIdRatioBased.get_bound_for_rate(_ratio)
    plain = app.wsgi_app

    def watched(
        environ: "WSGIEnvironment", respond: "StartResponse"
    ) -> Iterable[bytes]:
        if environ["PATH_INFO"] in _PROBES:
            return plain(environ, respond)
        given = environ.get("HTTP_TRACEPARENT")
        caller = _caller(given)
        if caller is None or (
            caller.trace_flags.sampled
            and caller.trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < kept_below
        ):
            with continue_from(
                given,
                environ["REQUEST_METHOD"],
                kind="server",
                attributes={
                    "http.request.method": environ["REQUEST_METHOD"],
                    # Without the query: codes and search words.
                    "url.path": environ["PATH_INFO"],
                    "url.scheme": environ["wsgi.url_scheme"],
                    "server.address": environ.get("HTTP_HOST", ""),
                    "user_agent.original": environ.get("HTTP_USER_AGENT", ""),
                },
            ) as made:
                environ[_SPAN] = made
                return plain(environ, respond)
        unkept = trace.SpanContext(caller.trace_id, caller.span_id, is_remote=True)
        token = context.attach(
            trace.set_span_in_context(trace.NonRecordingSpan(unkept))
        )
        try:
            return plain(environ, respond)
        finally:
            context.detach(token)

    app.wsgi_app = watched  # type: ignore[assignment, method-assign]  # as Flask says
    app.after_request(_describe_request)


def _describe_request(response: "Response") -> "Response":
    """Tell a request's span what it is only now known to be."""
    from flask import request  # noqa: PLC0415 (relays have no Flask in memory)

    made = request.environ.get(_SPAN)
    if made is not None and made.is_recording():
        if request.url_rule:
            made.update_name(f"{request.method} {request.url_rule.rule}")
            made.set_attribute("http.route", request.url_rule.rule)
        made.set_attribute("http.response.status_code", response.status_code)
        known = get_contextvars().get("request_id")
        if known:
            made.set_attribute(SPAN_REQUEST_ID, known)
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415 (as `init`)

            made.set_status(StatusCode.ERROR)
    return response


def _pass_on(app: "Flask") -> None:
    from flask import request  # noqa: PLC0415 (relays have no Flask in memory)

    @app.before_request
    def remember() -> None:
        given = request.headers.get("traceparent")
        _passed_on.set(given if trace_id_of(given) else None)

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        _passed_on.set(None)


def current_traceparent() -> str | None:
    """Return the W3C traceparent of what is being done now, None outside a trace."""
    if _provider is None:
        return _passed_on.get()
    from opentelemetry import trace  # noqa: PLC0415 (as `init`)

    return traceparent_of(cast("Span", trace.get_current_span()))


def traceparent_of(span: Span) -> str | None:
    """Return the W3C traceparent of a span, None for one that stands in for none."""
    if isinstance(span, _NoSpan):
        return None
    context = cast("Any", span).get_span_context()
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
    from opentelemetry.trace import SpanKind, get_current_span  # noqa: PLC0415 (as `init`)

    current = get_current_span()
    if not current.is_recording() and current.get_span_context().is_valid:
        # A part of what is not kept.
        yield current
        return
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
    links: Sequence[str | None] = (),
) -> Iterator[Span]:
    """Make a span around the block in the trace that a message brought along.

    :param traceparent: as the sender wrote it; None or malformed starts a new trace.
    :param links: traceparents of what else it has to do with: messages that are handled
        together, the attempt before.
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
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 (as `init`)

    with _provider.get_tracer("flagon").start_as_current_span(
        name,
        context=_context(traceparent),
        kind=SpanKind[kind.upper()],
        attributes=attributes,
        links=_links(links),
    ) as made:
        yield made


def start(
    traceparent: str | None,
    name: str,
    *,
    kind: Kind = "internal",
    attributes: Mapping[str, Any] | None = None,
    links: Sequence[str | None] = (),
) -> Span:
    """Return a span in a message's trace that is not current; the caller ends it.

    For work on many messages at once, each of which has a trace of its own.

    :param links: as `continue_from` takes them.
    """
    if _provider is None:
        return _NO_SPAN
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 (as `init`)

    return _provider.get_tracer("flagon").start_span(
        name,
        context=_context(traceparent),
        kind=SpanKind[kind.upper()],
        attributes=attributes,
        links=_links(links),
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
    from opentelemetry import trace  # noqa: PLC0415 (as `init`)

    with trace.use_span(cast("Any", span)):
        yield


def _links(traceparents: Sequence[str | None]) -> "list[Link]":
    from opentelemetry import trace  # noqa: PLC0415 (where traces are on)

    contexts = (
        trace.get_current_span(_context(one)).get_span_context()
        for one in traceparents
        if one
    )
    return [trace.Link(one) for one in contexts if one.is_valid]


def _caller(traceparent: str | None) -> "SpanContext | None":
    """Return whose span a W3C traceparent names, None when it is malformed."""
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 (as `init`)

    found = TRACEPARENT.match(traceparent or "")
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)
    )
    return context if context.is_valid else None


def _context(traceparent: str | None) -> "Context":
    from opentelemetry import trace  # noqa: PLC0415 (loaded only where traces are on)
    from opentelemetry.context import Context  # noqa: PLC0415 (as `init`)

    caller = _caller(traceparent)
    if caller is None:
        return Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(caller), Context())
