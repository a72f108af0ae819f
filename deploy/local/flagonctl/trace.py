"""Collects what all processes wrote about one request and shows it as a tree."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from typing import Any

from .problem import Problem
from .processes import SINK
from .stack import Stack

Line = dict[str, Any]
_FIRST_FAILURE = 400
_SINK_SECONDS = 5.0
_ID = re.compile(r"\A[A-Za-z0-9._-]{8,64}\Z")


@dataclass
class Span:
    """One piece of work in a trace."""

    span_id: str
    parent_id: str | None
    service: str
    name: str
    started: datetime
    duration_ms: float
    status: str
    line: Line
    children: list["Span"] = field(default_factory=list)


def lines_of(stack: Stack, wanted: str) -> list[Line]:
    """Return every log line of a request or trace, in the order of time.

    :param wanted: a request id or a trace id. A request id finds its trace as well.
    """
    if not _ID.match(wanted):
        raise Problem(f"{wanted!r} is neither a request id nor a trace id.")
    found = list(_matching(_raw(stack, {wanted}), {wanted}))
    spans = _from_sink(stack, wanted) if stack.traced else []
    ids = {wanted} | {
        line["trace_id"] for line in (*found, *spans) if line.get("trace_id")
    }
    if ids != {wanted}:
        found = list(_matching(_raw(stack, ids), ids))
    return sorted((*found, *spans), key=lambda line: str(line.get("time", "")))


def _from_sink(stack: Stack, wanted: str) -> list[Line]:
    """Return the spans that were sent instead of logged, as the lines that they replace.

    A sink that does not answer has none: the logs tell what they can.
    """
    connection = HTTPConnection(
        "127.0.0.1", stack.port_base + SINK.offset, timeout=_SINK_SECONDS
    )
    try:
        connection.request("GET", f"/traces/{wanted}")
        traces = json.loads(connection.getresponse().read())["traces"]
    except (OSError, HTTPException, ValueError):
        return []
    finally:
        connection.close()
    return [
        {
            "event": "span",
            "time": datetime.fromtimestamp(span["ended_us"] / 1e6, UTC).isoformat(),
            "service": span["service"],
            "name": span["name"],
            "kind": span["kind"],
            "trace_id": span["trace_id"],
            "span_id": span["span_id"],
            "parent_span_id": span["parent_id"],
            "duration_ms": (span["ended_us"] - span["started_us"]) / 1000,
            "status": "error" if span["failed"] else "unset",
            "attributes": span.get("attributes", {}),
            "links": span.get("links", []),
            **({"request_id": one} if (one := span.get("request_id")) else {}),
        }
        for trace in traces
        for span in trace["spans"]
        # Its log line says more.
        if span["service"] != "gateway"
    ]


def log_of(stack: Stack, request: str, process: str = "") -> list[Line]:
    """Return what was logged about one request, in the order of time, without spans.

    A job that the request began, and an event that it caused, keep its id.

    :param process: only what this process wrote; all without.
    :raises Problem: the id is none, or nobody wrote anything about it.
    """
    if not _ID.match(request):
        raise Problem(
            f"{request!r} is no request id.", "make logs REQUEST=<X-Request-ID>"
        )
    found = [
        line
        for line in _matching(_raw(stack, {request}, process), {request})
        if line.get("request_id") == request and line.get("event") != "span"
    ]
    if not found:
        where = process or "any process"
        raise Problem(
            f"The logs of {where} say nothing about {request}.",
            f"make trace ID={request}",
        )
    return sorted(found, key=lambda line: str(line.get("time", "")))


def _raw(stack: Stack, ids: set[str], process: str = "") -> Iterator[str]:
    """Return the raw lines that hold one of the ids."""
    if stack.mode == "docker":
        command = [
            *("docker", "compose", "--project-name", f"flagon-{stack.port_base}"),
            *("logs", "--no-log-prefix", "--no-color"),
            *([process] if process else []),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, errors="replace", cwd=stack.root
        ) as running:
            for line in running.stdout or ():
                if any(one in line for one in ids):
                    yield line
        return
    for path in sorted(stack.logs.glob(f"{process or '*'}.log*")):
        with path.open(errors="replace") as file:
            for line in file:
                if any(one in line for one in ids):
                    yield line


def _matching(raw: Iterable[str], ids: set[str]) -> Iterator[Line]:
    for text in raw:
        try:
            line = json.loads(text[text.index("{") :])
        except ValueError:
            continue
        if isinstance(line, dict) and (
            line.get("trace_id") in ids or line.get("request_id") in ids
        ):
            yield line


def tree(lines: list[Line]) -> list[Span]:
    """Return the roots of the trace; spans whose parent is unknown are roots too."""
    spans: dict[str, Span] = {}
    for line in lines:
        span = _span(line)
        # The gateway's line may name the span of a caller who brought a traceparent.
        if span is not None:
            spans.setdefault(span.span_id, span)
    roots: list[Span] = []
    for span in sorted(spans.values(), key=lambda one: one.started):
        parent = spans.get(span.parent_id or "")
        (parent.children if parent and parent is not span else roots).append(span)
    return roots


def _span(line: Line) -> Span | None:
    ended = _time(line.get("time"))
    if line.get("event") == "span":
        duration = float(line.get("duration_ms", 0))
        parent, name = line.get("parent_span_id"), str(line.get("name"))
        status = str(line.get("status", ""))
    elif line.get("service") == "gateway" and line.get("event") == "request":
        duration = float(line.get("duration_seconds", 0)) * 1000
        parent, name = None, f"{line.get('method')} {line.get('path')}"
        status = str(line.get("status"))
    else:
        return None
    return Span(
        span_id=str(line.get("span_id")),
        parent_id=parent,
        service=str(line.get("service")),
        name=name,
        started=ended - timedelta(milliseconds=duration),
        duration_ms=duration,
        status=status,
        line=line,
    )


def _time(text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _failed(status: str) -> bool:
    """Say whether a span's status, or the gateway's HTTP status, is a failure."""
    return status == "error" or (status.isdecimal() and int(status) >= _FIRST_FAILURE)


def render(roots: list[Span], lines: list[Line]) -> str:
    """Return the tree as people read it, then the lines that are no spans."""
    if not lines:
        return "Nothing is known about this id."
    out: list[str] = []
    start = min((root.started for root in roots), default=_time(lines[0].get("time")))

    def show(span: Span, branch: str, indent: str) -> None:
        offset = (span.started - start).total_seconds() * 1000
        bad = f"  [{span.status}]" if _failed(span.status) else ""
        label = f"{branch}{span.service}: {span.name}"
        out.append(f"{label:<70} +{offset:9.1f} ms {span.duration_ms:9.1f} ms{bad}")
        for child in span.children:
            last = child is span.children[-1]
            show(
                child,
                indent + ("└─ " if last else "├─ "),
                indent + ("   " if last else "│  "),
            )

    for root in roots:
        show(root, "", "")
    others = [line for line in lines if _span(line) is None]
    if others:
        out.append("")
    for line in others:
        known = {
            "time",
            "level",
            "service",
            "event",
            "trace_id",
            "span_id",
            "request_id",
        }
        rest = {name: value for name, value in line.items() if name not in known}
        details = " ".join(f"{name}={value}" for name, value in rest.items())
        out.append(
            f"{line.get('time', '')}  {line.get('service', ''):<12} "
            f"{line.get('event', '')}  {details}"[:220]
        )
    return "\n".join(out)


def as_json(roots: list[Span], lines: list[Line]) -> dict[str, object]:
    """Return the same for programs."""

    def one(span: Span) -> dict[str, object]:
        return {
            "span_id": span.span_id,
            "parent_span_id": span.parent_id,
            "service": span.service,
            "name": span.name,
            "started_at": span.started.isoformat(),
            "duration_ms": round(span.duration_ms, 3),
            "status": span.status,
            "attributes": span.line.get("attributes", {}),
            "children": [one(child) for child in span.children],
        }

    return {
        "trace_ids": sorted(
            {line["trace_id"] for line in lines if line.get("trace_id")}
        ),
        "request_ids": sorted(
            {line["request_id"] for line in lines if line.get("request_id")}
        ),
        "services": sorted({str(line.get("service")) for line in lines}),
        "roots": [one(root) for root in roots],
        "lines": lines,
    }
