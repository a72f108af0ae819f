"""Lines over time, as the pages draw them: places in a picture, and the same in words."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

from flagon_web.i18n import number

Unit = Literal["rate", "ratio", "seconds", "count"]
Points = Sequence[tuple[float, float]]
"""Pairs of (seconds since 1970, value), by time; a value that is not finite is a gap."""

WIDTH, HEIGHT = 360, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 354, 8, 144
"""The edges of what is drawn into, within the picture."""
STYLES = 8
"""Kinds of lines that the style sheet knows."""
_ROWS = 3
_LONGEST_GAP = 1.5
"""In steps: a longer one is drawn as what it is."""
_SPACE = "\N{NO-BREAK SPACE}"
_MINUTE, _HOUR, _LONG = 60, 3600, 120


@dataclass(frozen=True)
class Window:
    """From when to when is drawn; all in seconds, the ends since 1970."""

    start: float
    end: float
    step: float
    """Between two points."""
    mark: float
    """Between two marks below."""


@dataclass(frozen=True)
class Line:
    """One line: how it runs, and what is to be said of it."""

    name: str
    style: int
    """From 1 to `STYLES`."""
    runs: list[str]
    """Its pieces between gaps, each as the points of a `polyline`."""
    now: str
    least: str
    mean: str
    most: str
    most_at: datetime | None


@dataclass(frozen=True)
class Chart:
    """Some lines with their axes."""

    lines: list[Line]
    rows: list[tuple[float, str]]
    """Height and words of each mark at the side."""
    columns: list[tuple[float, str]]
    """Place and words of each mark below: times in UTC."""
    limit: tuple[float, str] | None
    """Height and words of the value that is too much, where it can be seen."""


def draw(
    series: Mapping[str, Points],
    window: Window,
    *,
    unit: Unit,
    limit: float | None = None,
    order: Sequence[str] = (),
) -> Chart:
    """Return the picture of some series.

    :param series: by name; those in `order` always have the same style.
    :param limit: from here on it is too much.
    """
    known = [name for name in order if name in series]
    others = sorted(set(series) - set(known))
    names = [*known, *others]
    places = {name: place for place, name in enumerate([*order, *others])}
    seen = [v for points in series.values() for _at, v in points if math.isfinite(v)]
    marks, words = _marks(max(seen, default=0.0), unit)
    top = marks[-1]

    def height(value: float) -> float:
        part = min(max(value / top, 0.0), 1.0)
        return round(BOTTOM - part * (BOTTOM - TOP), 1)

    lines = [
        _line(name, places[name] % STYLES + 1, series[name], window, unit, height)
        for name in names
    ]
    drawn = limit is not None and limit <= top
    return Chart(
        lines,
        rows=[(height(mark), text) for mark, text in zip(marks, words, strict=True)],
        columns=_columns(window),
        limit=(height(limit), in_words(limit, unit)) if drawn and limit else None,
    )


def latest(points: Points, window: Window) -> float:
    """Return the value at the end of the window; not a number where there is none.

    What ended before has no present value, however recent its last one is.
    """
    if not points or window.end - points[-1][0] > _LONGEST_GAP * window.step:
        return math.nan
    return points[-1][1]


def place(at: float, window: Window) -> float:
    """Return where a time stands in the picture, from the left."""
    across = (RIGHT - LEFT) / (window.end - window.start)
    return round(LEFT + (at - window.start) * across, 1)


def in_words(value: float, unit: Unit) -> str:
    """Return a value as people read it: `1.2 s`, `0.3 %`, `4.5/s`."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if unit == "seconds":
        return _duration(value)
    if unit == "ratio":
        percent = 100 * value
        return f"{number(percent, _places(percent))}{_SPACE}%"
    if unit == "rate":
        return f"{number(value, _places(value))}/s"
    return number(value)


def _places(value: float) -> int:
    """Return how many decimals are worth reading."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 (three digits say enough)
        return 0
    return 1 if abs(value) >= 1 else 2


def _duration(seconds: float) -> str:
    factor, sign = _scale(seconds, "seconds")
    shown = seconds * factor
    return f"{number(shown, _places(shown))}{sign}"


def _line(
    name: str,
    style: int,
    points: Points,
    window: Window,
    unit: Unit,
    height: Callable[[float], float],
) -> Line:
    there = [(at, value) for at, value in points if math.isfinite(value)]
    values = [value for _at, value in there]
    peak = max(there, key=lambda one: one[1], default=None)
    return Line(
        name,
        style,
        runs=[_run(piece, window, height) for piece in _pieces(there, window)],
        now=in_words(latest(points, window), unit),
        least=in_words(min(values, default=math.nan), unit),
        mean=in_words(math.fsum(values) / len(values) if values else math.nan, unit),
        most=in_words(peak[1] if peak else math.nan, unit),
        most_at=datetime.fromtimestamp(peak[0], UTC) if peak else None,
    )


def _pieces(points: Points, window: Window) -> list[list[tuple[float, float]]]:
    """Return a line cut where nothing was measured for a while."""
    if not points:
        return []
    pieces = [[points[0]]]
    for before, after in pairwise(points):
        if after[0] - before[0] > _LONGEST_GAP * window.step:
            pieces.append([])
        pieces[-1].append(after)
    return pieces


def _run(points: Points, window: Window, height: Callable[[float], float]) -> str:
    places = [f"{place(at, window)},{height(value)}" for at, value in points]
    # A line from a place to itself is a dot.
    return " ".join(places if len(places) > 1 else places * 2)


def _columns(window: Window) -> list[tuple[float, str]]:
    first = math.ceil(window.start / window.mark) * window.mark
    count = int((window.end - first) // window.mark) + 1
    times = [first + each * window.mark for each in range(count)]
    return [
        (place(at, window), f"{datetime.fromtimestamp(at, UTC):%H:%M}") for at in times
    ]


def _marks(most: float, unit: Unit) -> tuple[list[float], list[str]]:
    """Return round values from zero to just above the largest one, and their words."""
    factor, sign = _scale(most, unit)
    top = most * factor or 1.0
    raw = top / _ROWS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(each * size for each in (1, 2, 5, 10) if each * size >= raw * 0.999)
    if unit == "count":
        step = max(step, 1.0)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    rows = range(math.ceil(top / step - 1e-9) + 1)
    marks = [each * step / factor for each in rows]
    words = [f"{number(each * step, places if each else 0)}{sign}" for each in rows]
    return marks, words


def _scale(most: float, unit: Unit) -> tuple[float, str]:
    """Return what values are multiplied with to be shown, and what stands after them."""
    if unit == "ratio":
        return 100.0, f"{_SPACE}%"
    if unit == "rate":
        return 1.0, "/s"
    if unit == "count":
        return 1.0, ""
    if most < 1:
        return 1000.0, f"{_SPACE}ms"
    if most < _LONG:
        return 1.0, f"{_SPACE}s"
    if most < _LONG * _MINUTE:
        return 1 / _MINUTE, f"{_SPACE}min"
    return 1 / _HOUR, f"{_SPACE}h"
