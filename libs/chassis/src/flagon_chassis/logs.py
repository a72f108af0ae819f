"""One JSON object a line on standard output, tied to the request and the trace.

What each `event` means is in docs/events-log.md.
"""

import atexit
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from json import JSONEncoder
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
TRACEPARENT = re.compile(r"\A00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
"""W3C Trace Context, version 00: ids of the trace and of the caller's span, flags."""

SPAN_REQUEST_ID = "flagon.request_id"
"""The attribute that ties a span to the request id that people know."""
_BEGUN = "flagon.begun"
"""What a request is called and when it began, in its environment."""

HIDDEN = "[hidden]"
"""Stands where a secret was."""
SAID_ALIKE = 10
"""Of lines that say the same, so many are written in `ALIKE_SECONDS`."""
ALIKE_SECONDS = 60.0

_SECRET_NAME = re.compile(
    r"passw|passphrase|secret|token|authorization|cookie|api_?key|private_?key|credential",
    re.IGNORECASE,
)
_SECRETS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (mark, re.compile(pattern, re.IGNORECASE), left)
    for marks, pattern, left in (
        # Looking for a mark first is a tenth of the time. Texts are as JSON writes them, and
        # nothing goes beyond the end of one.
        (["eyJ"], r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)*", HIDDEN),
        (["flg_"], r"flg_[a-z2-7]{12}_[\w-]{20,}", HIDDEN),
        (["earer ", "EARER "], r"(bearer )[\w.~+/=-]{8,}", rf"\1{HIDDEN}"),
        (["asic ", "ASIC "], r"(basic )[\w+/=-]{8,}", rf"\1{HIDDEN}"),
        (["://"], r"(://[^:/@\s\"\\]*:)[^@/\s\"\\]+(?=@)", rf"\1{HIDDEN}"),
        (
            ["="],
            r"\b((?:code|\w*(?:token|password|secret|assertion|verifier))=)[^&;\s\"\\]{8,}",
            rf"\1{HIDDEN}",
        ),
        # Postgres quotes the row that offends, to the next line of its own.
        (
            ["DETAIL: "],
            r"(detail: )(?:[^\"\\]|\\(?!n(?:CONTEXT|HINT|QUERY|\[SQL)).)+",
            rf"\1{HIDDEN}",
        ),
        # In `//ada@db` it is a name at a host.
        (["@"], r"(?<!//)(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]*\w", HIDDEN),
        (
            ["PRIVATE KEY-"],
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^\"\\]|\\.)*",
            HIDDEN,
        ),
    )
    for mark in marks
)
_OF_ONE_LINE = frozenset({"time", "request_id", "trace_id", "span_id", "duration_ms"})
"""Members that differ between lines that say the same, as do those of the request or task
at hand."""
_KINDS_MAX = 500

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Flask, Response

Event = MutableMapping[str, Any]


def configure(service: str, level: str = "INFO") -> None:
    """Send every log line of the process, libraries' too, to standard output as JSON.

    Secrets and mail addresses are hidden, by the names of members and by looks. Warnings and
    errors that say the same are written ten times a minute and then counted: the last is
    written with the first line after the minute, or at the end, and says in `repeated` how
    many were left out.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_trace,
            _TimeAndService(service),
            structlog.processors.format_exc_info,
            _alike,
            _render,
        ],
        logger_factory=_Output,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    _alike.forget()
    root = logging.getLogger()
    root.handlers[:] = [_Libraries()]
    root.setLevel(level)
    for name in ("authlib", "httpx2", "httpcore2", "werkzeug", "asyncio"):
        # Authlib logs tokens at DEBUG; the others repeat what our own lines say.
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    # Celery tells every step of every task and tick at INFO; `queue` logs one line each.
    celery = ("celery.app.trace", "celery.beat", "celery.worker")
    for name in ("httpx2", "httpcore2", *celery):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Output:
    """Standard output; what it does not take is lost, and nothing else is."""

    def __init__(self, *_name: str) -> None:
        """Take the name of a logger, which lines do not have."""

    def msg(self, line: str) -> None:
        """Write one line at once."""
        # A full disk or a reader that is gone must not become the answer to a request.
        with suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    debug = info = warning = error = critical = msg


class _Libraries(logging.Handler):
    """Writes what libraries log, with the name of their logger."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            said = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Arguments that do not fit are no reason to fail.
            said = str(record.msg)
        structlog.get_logger().log(
            level, said, logger=record.name, exc_info=record.exc_info
        )


@dataclass
class _Said:
    """What was said of late."""

    until: float
    times: int = 1
    last: Event | None = None
    """The last one that was left out."""


class _Alike:
    """Leaves out warnings and errors that say the same as many just before."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)
        atexit.register(self.end)

    def end(self) -> None:
        """Write what was left out so far: the process ends."""
        output = _Output()
        for line in self._over(float("inf")):
            output.msg(_render(output, "", line))

    def forget(self) -> None:
        """Begin anew."""
        self._lock = threading.Lock()
        self._said: dict[str, _Said] = {}
        self._next = float("inf")

    def __call__(self, output: _Output, method: str, event: Event) -> Event:
        now = time.monotonic()
        if now >= self._next:
            for line in self._over(now):
                output.msg(_render(output, method, line))
        if method in {"debug", "info"}:
            return event
        left_out = _OF_ONE_LINE | get_contextvars().keys()
        kind = _json({key: event[key] for key in event if key not in left_out})
        with self._lock:
            said = self._said.get(kind)
            if said is None or now >= said.until:
                if len(self._said) >= _KINDS_MAX:
                    # The oldest kind is over before its time.
                    self._said[next(iter(self._said))].until = self._next = now
                self._said[kind] = _Said(now + ALIKE_SECONDS)
                self._next = min(self._next, now + ALIKE_SECONDS)
                return event
            said.times += 1
            if said.times <= SAID_ALIKE:
                return event
            said.last = event
        raise structlog.DropEvent

    def _over(self, now: float) -> Iterator[Event]:
        """Yield the last line of each kind that was left out and whose time is over."""
        with self._lock:
            over = [kind for kind, said in self._said.items() if now >= said.until]
            ended = [self._said.pop(kind) for kind in over]
            self._next = min(
                (one.until for one in self._said.values()), default=float("inf")
            )
        for one in ended:
            if one.last is not None:
                yield {**one.last, "repeated": one.times - SAID_ALIKE}


_alike = _Alike()
_json = JSONEncoder(default=str).encode


def _render(_output: object, _method: str, event: Event) -> str:
    return hide(_json(_hidden(event)))


def hide(text: str) -> str:
    """Return the text without what looks like a secret or a mail address.

    :param text: as JSON, which has no bare line breaks.
    """
    for mark, pattern, left in _SECRETS:
        if mark in text:
            text = pattern.sub(left, text)
    return text


def _hidden(value: Any) -> Any:  # noqa: ANN401 (whatever a line holds)
    """Return members without those whose name says that they are secret."""
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    if not isinstance(value, dict):
        return value
    for key, item in value.items():
        if isinstance(item, dict | list | tuple) or _is_secret(key):
            break
    else:
        # As good as always.
        return value
    return {
        key: HIDDEN if item and _is_secret(key) else _hidden(item)
        for key, item in value.items()
    }


@lru_cache(maxsize=4096)
def _is_secret(name: object) -> bool:
    return _SECRET_NAME.search(str(name)) is not None


class _TimeAndService:
    def __init__(self, service: str) -> None:
        self.service = service
        self._second = 0, ""

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        now = time.time()
        second, stamp = self._second
        if second != int(now):
            second = int(now)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second, stamp
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
    found = TRACEPARENT.match(traceparent or "")
    return found[1] if found else None


def init_app(app: "Flask") -> None:
    """Give each request an id, echo it, and log one line when it ends."""
    from flask import request  # noqa: PLC0415 (relays have no Flask in memory)

    log = structlog.get_logger("flagon.access")
    plain = app.wsgi_app

    # Not `before_request`: Flask opens the session before, which asks Redis, and a thread
    # still has what its last request was called.
    def known(environ: "WSGIEnvironment", respond: "StartResponse") -> Iterable[bytes]:
        clear_contextvars()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        name = given if _REQUEST_ID.match(given) else new_request_id()
        trace = trace_id_of(environ.get("HTTP_TRACEPARENT"))
        bind_contextvars(request_id=name, **({"trace_id": trace} if trace else {}))
        environ[_BEGUN] = name, time.perf_counter()
        return plain(environ, respond)

    app.wsgi_app = known  # type: ignore[assignment, method-assign]  # as Flask says

    @app.after_request
    def end(response: "Response") -> "Response":
        name, started = request.environ[_BEGUN]
        response.headers["X-Request-ID"] = name
        rule = request.url_rule.rule if request.url_rule else None
        if rule not in {"/livez", "/readyz", "/metrics"}:
            log.info(
                "request",
                method=request.method,
                route=rule,
                status=response.status_code,
                duration_ms=round((time.perf_counter() - started) * 1000, 2),
            )
        return response
