"""What operators see of the platform: fixed questions to Prometheus and what they mean.

Every expression is a recording rule, or part of a dashboard or an alert; what comes from
a browser chooses among them and is never part of one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from flagon_web.i18n import LazyText as _
from flagon_web.i18n import number

from .charts import Chart, Points, Unit, Window, draw, in_words
from .products import Shown

SERVICES = ("auth", "catalog", "realtime", "worker", "web")
"""Those that answer requests, as Prometheus and addresses call them."""

_RUNBOOK = re.compile(r"\Adocs/runbooks/([a-z0-9-]{1,64})\.md\Z")
_REQUEST = re.compile(r"\A(?:urn:request:)?([A-Za-z0-9._-]{8,64})\Z")
_TRACE = re.compile(r"\A(?!0{32})[0-9a-f]{32}\Z")
_MOST_LINES = 12
_USUAL_PORT = 8080


@dataclass(frozen=True)
class Question:
    """One question to Prometheus."""

    expr: str
    by: str = ""
    """The label that tells the series of the answer apart."""


@dataclass(frozen=True)
class Measure:
    """A question whose answer over time is drawn."""

    title: _
    what: _
    unit: Unit
    ask: Mapping[str, Question]
    """By the name of the line; the only one has none: its label names its lines."""
    limit: float | None = None
    """From here on there is an alert, or a promise is broken."""


@dataclass(frozen=True)
class Range:
    """A stretch of time that people may choose."""

    words: _
    seconds: int
    step_seconds: int
    mark_seconds: int
    """Between two times below a chart."""

    def until(self, now: float) -> Window:
        """Return it as it ends now."""
        return Window(now - self.seconds, now, self.step_seconds, self.mark_seconds)


RANGES = {
    "15m": Range(_("15 minutes"), 900, 15, 300),
    "1h": Range(_("1 hour"), 3600, 30, 900),
    "6h": Range(_("6 hours"), 21_600, 180, 7200),
    "24h": Range(_("24 hours"), 86_400, 360, 21_600),
}
USUAL_RANGE = "1h"

_RED_ERRORS, _RED_SECONDS = 0.001, 0.1


def _one(expr: str, by: str) -> dict[str, Question]:
    return {"": Question(expr, by)}


PLATFORM = {
    "rate": Measure(
        _("Requests"),
        _("A second, by service. A sudden drop is as bad a sign as a sudden rise."),
        "rate",
        _one("service:http_requests:rate5m", "service"),
    ),
    "errors": Measure(
        _("Errors"),
        _("Part of the requests answered with 500 or more."),
        "ratio",
        _one("service:http_errors:ratio_rate5m", "service"),
        _RED_ERRORS,
    ),
    "latency": Measure(
        _("Duration, p95"),
        _("Of 100 requests 95 took less, as the service measures it."),
        "seconds",
        _one("service:http_request_duration_seconds:p95_rate5m", "service"),
        _RED_SECONDS,
    ),
    "depth": Measure(
        _("Tasks that wait"),
        _("By queue."),
        "count",
        _one("max by (queue) (flagon_queue_depth)", "queue"),
    ),
    "age": Measure(
        _("Age of the next task"),
        _("How long the task that is next in each queue has waited."),
        "seconds",
        _one("max by (queue) (flagon_queue_oldest_seconds)", "queue"),
        60,
    ),
    "outbox": Measure(
        _("Age of what waits to be sent"),
        _("The oldest row of each outbox."),
        "seconds",
        _one("max by (service) (flagon_outbox_oldest_seconds)", "service"),
        60,
    ),
    "events": Measure(
        _("From event to effect, p95"),
        _("By consumer. What one does after an outage counts in full."),
        "seconds",
        _one(
            "histogram_quantile(0.95, sum by (consumer, le)"
            " (rate(flagon_event_consume_seconds_bucket[5m])))",
            "consumer",
        ),
        30,
    ),
    "screens": Measure(
        _("Lag of open pages"),
        _("Age of the newest event when it was read for them."),
        "seconds",
        {"realtime": Question("max(flagon_sse_reader_lag_seconds)")},
        10,
    ),
    "streams": Measure(
        _("Open streams"),
        _("Pages that are told of changes as they happen."),
        "count",
        {"realtime": Question("sum(flagon_sse_connections)")},
    ),
}
"""The charts of the page, in order."""

PRESENT = {
    "p50": Question("service:http_request_duration_seconds:p50_rate5m", "service"),
    "p99": Question("service:http_request_duration_seconds:p99_rate5m", "service"),
    "budget": Question("slo:budget_remaining:ratio", "slo"),
    "burn": Question(
        "slo:errors:ratio_rate1h / on (slo) (1 - slo:objective:ratio)", "slo"
    ),
    "processes": Question('up{job="flagon"}', "process"),
}
"""What is shown as it is now."""

RUNNING = Question("count by (service, release) (flagon_build_info)", "release")
"""How many processes of each service run which release; asked over time."""


def _of_service(service: str) -> dict[str, Measure]:
    chosen = f'{{service="{service}"}}'

    def single(name: str) -> Measure:
        found = PLATFORM[name]
        expr = found.ask[""].expr
        ask = {service: Question(f"{expr}{chosen}")}
        return Measure(found.title, found.what, found.unit, ask, found.limit)

    return {
        "rate": single("rate"),
        "errors": single("errors"),
        "latency": Measure(
            _("Duration"),
            _("Of 100 requests 50 took less than p50, and 99 less than p99."),
            "seconds",
            {
                name: Question(
                    f"service:http_request_duration_seconds:{name}_rate5m{chosen}"
                )
                for name in ("p50", "p95", "p99")
            },
            _RED_SECONDS,
        ),
    }


SERVICE = {service: _of_service(service) for service in SERVICES}
"""The charts of each service's page."""

ROUTES = {
    service: {
        name: Question(f'service_rule:{rule}{{service="{service}"}}', "url_rule")
        for name, rule in (
            ("rate", "http_requests:rate1m"),
            ("errors", "http_errors:rate1m"),
            ("p95", "http_request_duration_seconds:p95_rate5m"),
        )
    }
    for service in SERVICES
}
"""What is shown of each service's routes as they are now."""


def questions() -> list[Question]:
    """Return everything that Prometheus can be asked by these pages."""
    measures = [
        *PLATFORM.values(),
        *(m for own in SERVICE.values() for m in own.values()),
    ]
    routes = [one for own in ROUTES.values() for one in own.values()]
    asked = [one for measure in measures for one in measure.ask.values()]
    return [*asked, *PRESENT.values(), RUNNING, *routes]


# -- What Prometheus answers --------------------------------------------------------------


class Track(Shown):
    """A series over time."""

    metric: dict[str, str]
    values: list[tuple[float, float]]


class Sample(Shown):
    """A series at one moment."""

    metric: dict[str, str]
    value: tuple[float, float]


class Described(Shown):
    """An alert, as its rule describes it."""

    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.labels.get("alertname", "")

    @property
    def severity(self) -> str:
        """`page` wakes somebody, `ticket` waits for working hours."""
        return self.labels.get("severity", "")

    @property
    def summary(self) -> str:
        """What is the case, in a sentence."""
        return self.annotations.get("summary", "")

    @property
    def runbook(self) -> str:
        """The name of the page that says what to do; empty without one."""
        found = _RUNBOOK.match(self.annotations.get("runbook", ""))
        return found[1] if found else ""


class Alert(Described):
    """An alert that fires, or will if what it is about goes on."""

    state: str
    active_at: datetime | None = Field(default=None, alias="activeAt")

    @property
    def firing(self) -> bool:
        """Whether somebody is told."""
        return self.state == "firing"


def sorted_alerts(alerts: Sequence[Alert]) -> list[Alert]:
    """Return alerts, the most urgent ones first."""
    return sorted(
        alerts, key=lambda one: (not one.firing, one.severity != "page", one.name)
    )


# -- What pages show ----------------------------------------------------------------------


def chart(
    measure: Measure, answers: Mapping[str, Sequence[Track]], window: Window
) -> Chart:
    """Return the chart of a measure.

    :param answers: by the names of the measure's lines.
    """
    series: dict[str, Points] = {}
    by = {question.by for question in measure.ask.values()}
    for name, tracks in answers.items():
        for track in tracks:
            own = track.metric.get(measure.ask[name].by, "")
            series[name or own] = track.values
    # Of very many lines nobody sees one; the highest ones say what is wrong.
    highest = sorted(series, key=lambda name: -_peak(series[name]))[:_MOST_LINES]
    return draw(
        {name: series[name] for name in highest},
        window,
        unit=measure.unit,
        limit=measure.limit,
        # A service has the same line in every chart.
        order=SERVICES if by == {"service"} else [name for name in measure.ask if name],
    )


def _peak(points: Points) -> float:
    return max((value for _at, value in points if isfinite(value)), default=0.0)


@dataclass(frozen=True)
class Row:
    """A service or one of its routes, as it is now."""

    name: str
    values: dict[str, str]
    """By the names of the questions, in words."""


def rows(
    found: Mapping[str, Mapping[str, float] | None], units: Mapping[str, Unit]
) -> list[Row]:
    """Return what several questions say of the same things, the busiest first.

    :param found: by question, the present value of each thing.
    :param units: by question; the first one orders the rows.
    """
    lead = found[next(iter(units))] or {}
    names = sorted(lead, key=lambda name: (-lead[name], name))
    return [
        Row(
            name,
            {
                key: in_words((found[key] or {}).get(name, float("nan")), unit)
                for key, unit in units.items()
            },
        )
        for name in names
    ]


@dataclass(frozen=True)
class Budget:
    """What is left of what may go wrong with one objective."""

    title: str
    left: float
    """Part of the budget; below zero the promise is broken."""
    burn: float | None
    """How many times faster than allowed it was spent in the last hour."""

    @property
    def words(self) -> str:
        """What is left, in words."""
        return in_words(self.left, "ratio")

    @property
    def looks(self) -> str:
        """The tone of its badge: `ready`, `degraded` or `down`."""
        if self.left <= 0:
            return "down"
        return "degraded" if self.left <= _SCARCE else "ready"

    @property
    def shown(self) -> float:
        """The part as a bar can show it."""
        return min(max(self.left, 0.0), 1.0)

    @property
    def burn_words(self) -> str:
        """How fast it was spent, in words; empty where nothing happened."""
        return "" if self.burn is None else number(self.burn, 1)


_SCARCE = 0.1
_OBJECTIVES = {
    "availability": _("Requests get an answer that is no fault of ours"),
    "read-latency": _("Reads take less than 100 ms"),
    "event-to-screen": _("Events reach the screen within 500 ms"),
    "job-start": _("Interactive jobs start within 2 s"),
}


def budgets(left: Mapping[str, float], burn: Mapping[str, float]) -> list[Budget]:
    """Return the budget of each objective that anything happened to."""
    order = [*_OBJECTIVES, *sorted(set(left) - set(_OBJECTIVES))]
    return [
        Budget(
            str(_OBJECTIVES.get(name, name)),
            left[name],
            burn[name] if isfinite(burn.get(name, float("nan"))) else None,
        )
        for name in order
        if isfinite(left.get(name, float("nan")))
    ]


# -- One request --------------------------------------------------------------------------


@dataclass(frozen=True)
class Hint:
    """How to see one request."""

    request: str
    make: str
    """The end of a `make` command for this platform: empty, or where it listens."""
    trace: str
    """Address of its trace; empty where there is none."""


def find_hint(wanted: str, *, public_url: str, traces_page: str) -> Hint | None:
    """Return how to see the request with an id; None when that is no id.

    :param wanted: an id, or the `instance` of a problem.
    :param public_url: the platform as people see it.
    :param traces_page: address of a trace, with `{id}` in the place of its id.
    """
    found = _REQUEST.match(wanted.strip())
    if found is None:
        return None
    place = urlsplit(public_url)
    here = place.hostname == "localhost" and place.port not in {None, _USUAL_PORT}
    # The gateway makes one of the other wherever it can.
    traced = traces_page and _TRACE.match(found[1])
    return Hint(
        request=found[1],
        make=f" PORT_BASE={place.port}" if here else "",
        trace=traces_page.replace("{id}", found[1]) if traced else "",
    )


# -- The map ------------------------------------------------------------------------------

STORES = ("postgres", "redis_store", "redis_cache")
_USES: dict[str, dict[str, str]] = {
    **{
        name: {store: store for store in STORES}
        for name in ("auth", "catalog", "worker")
    },
    "realtime": {"redis_store": "events", "redis_cache": "redis_cache"},
    "web": {"redis_store": "redis_store", "redis_cache": "redis_cache"},
}
"""By service, the stores that it uses, each with the name of its own check of it."""


@dataclass(frozen=True)
class Node:
    """A part of the platform on the map."""

    name: str
    looks: str
    """`ready`, `degraded`, `draining` or `down`; `unknown` when nobody could tell."""
    x: int
    y: int


@dataclass(frozen=True)
class Edge:
    """Who asks whom."""

    start: Node
    end: Node
    ok: bool


@dataclass(frozen=True)
class Map:
    """The services and what they stand on."""

    nodes: list[Node]
    edges: list[Edge]


def service_map(
    looks: Mapping[str, str], checks: Mapping[str, Mapping[str, Any]]
) -> Map:
    """Return the map of the platform.

    :param looks: by service, how it is.
    :param checks: by service, what it says of each of its dependencies.
    """
    said = {
        (name, store): checks.get(name, {})[check]
        for name, used in _USES.items()
        for store, check in used.items()
        if check in checks.get(name, {})
    }
    seen = {
        store: [ok for (_n, s), ok in said.items() if s == store] for store in STORES
    }
    gateway = Node("gateway", looks.get("gateway", "unknown"), 180, 26)
    services = {
        name: Node(name, looks.get(name, "unknown"), 36 + 72 * place, 112)
        for place, name in enumerate(SERVICES)
    }
    stores = {
        name: Node(name, _looks_of_store(seen[name]), 60 + 120 * place, 198)
        for place, name in enumerate(STORES)
    }
    asked = [
        # Most services check what they cannot be without; of the rest nobody tells.
        Edge(one, stores[store], bool(said.get((name, store), {"ok": True}).get("ok")))
        for name, one in services.items()
        for store in _USES[name]
    ]
    entered = [Edge(gateway, one, one.looks != "down") for one in services.values()]
    return Map([gateway, *services.values(), *stores.values()], [*entered, *asked])


def _looks_of_store(said: Sequence[Mapping[str, Any]]) -> str:
    if not said:
        return "unknown"
    good = [bool(one.get("ok")) for one in said]
    return "ready" if all(good) else "degraded" if any(good) else "down"
