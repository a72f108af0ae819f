"""One JSON object a line on standard output, tied to the request and the trace."""

import logging
import re
import sys
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog
from structlog.contextvars import (
    bind_contextvars,
    clear_contextvars,
    get_contextvars,
)

# The gateway makes 32 hexadecimal digits; other callers may bring their own form.
_REQUEST_ID = re.compile(r"\A[A-Za-z0-9._-]{8,64}\Z")
_TRACEPARENT = re.compile(r"\A00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")

SPAN_REQUEST_ID = "flagon.request_id"
"""The attribute that ties a span to the request id that people know."""

if TYPE_CHECKING:
    from flask import Flask, Response

Event = MutableMapping[str, Any]


def configure(service: str, level: str = "INFO") -> None:
    """Send every log line of the process, libraries' too, to standard output as JSON."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_trace,
        _TimeAndService(service),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("authlib", "httpx2", "httpcore2", "werkzeug", "asyncio"):
        # Authlib logs tokens at DEBUG; the others repeat what our own lines say.
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    # Celery tells every step of every task and tick at INFO; `queue` logs one line each.
    celery = ("celery.app.trace", "celery.beat", "celery.worker")
    for name in ("httpx2", "httpcore2", *celery):
        logging.getLogger(name).setLevel(logging.WARNING)


class _TimeAndService:
    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        event["time"] = f"{stamp}.{int(now % 1 * 1000):03d}Z"
        event["service"] = self.service
        return event


def _add_trace(_logger: object, _method: str, event: Event) -> Event:
    if "opentelemetry.sdk.trace" in sys.modules and "span_id" not in event:
        from opentelemetry import trace  # noqa: PLC0415 (only where traces are on)

        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
            event["span_id"] = f"{context.span_id:016x}"
    return event


def request_id() -> str:
    """Return the id of the request (or message) at hand; a new one when there is none."""
    return str(get_contextvars().get("request_id") or new_request_id())


def new_request_id() -> str:
    """Return 32 hexadecimal digits, which fit a trace id as well."""
    return uuid4().hex


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id in a W3C traceparent header, None when it is malformed."""
    found = _TRACEPARENT.match(traceparent or "")
    return found[1] if found else None


def init_app(app: "Flask") -> None:
    """Give each request an id, echo it, and log one line when it ends."""
    from flask import g, request  # noqa: PLC0415 (relays have no Flask in memory)

    log = structlog.get_logger("flagon.access")

    @app.before_request
    def begin() -> None:
        clear_contextvars()
        given = request.headers.get("X-Request-ID", "")
        known = given if _REQUEST_ID.match(given) else new_request_id()
        bind_contextvars(request_id=known)
        trace = trace_id_of(request.headers.get("traceparent"))
        if trace:
            bind_contextvars(trace_id=trace)
        g.flagon_request_id = known
        g.flagon_started = time.perf_counter()

    @app.after_request
    def end(response: "Response") -> "Response":
        # Without `begin` (it is skipped when an earlier hook answers) there is no id.
        known = g.get("flagon_request_id") or new_request_id()
        response.headers["X-Request-ID"] = known
        rule = request.url_rule.rule if request.url_rule else None
        if rule not in {"/livez", "/readyz", "/metrics"}:
            started = g.get("flagon_started", time.perf_counter())
            log.info(
                "request",
                method=request.method,
                route=rule,
                status=response.status_code,
                duration_ms=round((time.perf_counter() - started) * 1000, 2),
            )
        return response
