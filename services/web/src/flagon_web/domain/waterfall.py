"""What all processes did for one request, as rows: what called what, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from .charts import in_words
from .products import Shown

ROWS = 400
"""Most rows that a page shows of one trace."""
DEEPEST = 12
"""Further in the rows are not moved."""
WIDTH = 1000
"""Of the picture beside each row."""
_THINNEST = 4.0
_STYLES = {
    name: number
    for number, name in enumerate(
        ("gateway", "web", "catalog", "auth", "worker", "realtime"), 1
    )
}
_OTHERS = 8


class Span(Shown):
    """One piece of work, as the sink tells it."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    service: str
    name: str
    kind: str = "internal"
    started_us: int
    """Microseconds since 1970, as is `ended_us`."""
    ended_us: int
    failed: bool = False
    error: str = ""
    links: list[str] = Field(default_factory=list)
    """`<trace id>-<span id>` of what it has to do with."""


class Trace(Shown):
    """The spans of one trace, in the order in which they began."""

    trace_id: str
    complete: bool
    spans: list[Span]


@dataclass(frozen=True)
class Row:
    """One span in its place."""

    depth: int
    """From 0 to `DEEPEST`."""
    service: str
    name: str
    kind: str
    style: int
    """A kind of line that the style sheet knows."""
    x: float
    """Where it begins in the picture, and how wide it is there."""
    width: float
    after: str
    """Time since the trace began, in words, as is `took`."""
    took: str
    failed: bool
    error: str
    links: list[str]
    """Other traces that it has to do with."""


@dataclass(frozen=True)
class Waterfall:
    """One trace as it is drawn."""

    trace_id: str
    rows: list[Row]
    took: str
    services: int
    hidden: int
    """Spans that are known and not shown."""
    complete: bool
    """Whether the sink kept all that it was sent."""


def draw(trace: Trace) -> Waterfall:
    """Return the picture of a trace.

    A span whose parent is not known stands at the beginning of its own tree.
    """
    begun = min((span.started_us for span in trace.spans), default=0)
    length = max((span.ended_us for span in trace.spans), default=0) - begun
    ordered = _tree(trace.spans)
    return Waterfall(
        trace.trace_id,
        [_row(span, depth, begun, length) for span, depth in ordered[:ROWS]],
        took=in_words(length / 1e6, "seconds"),
        services=len({span.service for span in trace.spans}),
        hidden=max(0, len(ordered) - ROWS),
        complete=trace.complete,
    )


def _tree(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Return every span once with its depth, each before what it caused."""
    known = {span.span_id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in sorted(spans, key=lambda one: one.started_us):
        parent = span.parent_id if span.parent_id in known else None
        children.setdefault(parent, []).append(span)
    ordered: list[tuple[Span, int]] = []
    waiting = [(span, 0) for span in reversed(children.pop(None, []))]
    while waiting:
        span, depth = waiting.pop()
        ordered.append((span, depth))
        # Taken away, so that who names itself as its cause has no end of places.
        below = children.pop(span.span_id, [])
        waiting += [(one, depth + 1) for one in reversed(below)]
    return ordered


def _row(span: Span, depth: int, begun: int, length: int) -> Row:
    scale = WIDTH / max(length, 1)
    width = max(_THINNEST, (span.ended_us - span.started_us) * scale)
    others = {link.partition("-")[0] for link in span.links} - {span.trace_id}
    return Row(
        depth=min(depth, DEEPEST),
        service=span.service,
        name=span.name,
        kind=span.kind,
        style=_STYLES.get(span.service, _OTHERS),
        x=round(min((span.started_us - begun) * scale, WIDTH - width), 1),
        width=round(width, 1),
        after=in_words((span.started_us - begun) / 1e6, "seconds"),
        took=in_words((span.ended_us - span.started_us) / 1e6, "seconds"),
        failed=span.failed,
        error=span.error,
        links=sorted(others),
    )
