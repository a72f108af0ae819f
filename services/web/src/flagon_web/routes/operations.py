"""How the platform does: measurements, promises, alerts, and how to see one request."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Blueprint, current_app, render_template, request
from flask.typing import ResponseReturnValue

from flagon_web.clients import backends
from flagon_web.domain.charts import Unit, Window, latest
from flagon_web.domain.operations import (
    PLATFORM,
    PRESENT,
    RANGES,
    ROUTES,
    RUNNING,
    SERVICE,
    SERVICES,
    USUAL_RANGE,
    Measure,
    budgets,
    chart,
    find_hint,
    rows,
    service_map,
    sorted_alerts,
)
from flagon_web.domain.releases import marks, releases
from flagon_web.domain.waterfall import draw
from flagon_web.settings import Settings

from . import access
from .status import services_now

bp = Blueprint("operations", __name__, url_prefix="/back-office/operations")

T = TypeVar("T")
Questions = dict[str, Callable[[], Any]]


@bp.get("")
@access.needs("ops:read")
def operations() -> ResponseReturnValue:
    """Show requests, queues, events, objectives, alerts and the health of all parts."""
    name, window = _range()
    api = backends()
    ask: Questions = {}
    if api.prometheus.known:
        ask = {key: partial(api.prometheus.values, one) for key, one in PRESENT.items()}
        ask["alerts"] = api.prometheus.alerts
        ask["releases"] = partial(api.prometheus.tracks, RUNNING, window)
        ask |= _over_time(PLATFORM, window)
    found = api.gather_aside(ask)
    services = services_now()
    told = _settings().alerts_token is not None
    ran = _both(releases, found.get("releases"))
    return _page(
        "operations.html",
        name,
        away=_away(found),
        charts=_charts(PLATFORM, found, window),
        budgets=_both(budgets, found.get("budget"), found.get("burn") or {}),
        alerts=_both(sorted_alerts, found.get("alerts")),
        releases=ran,
        marks=marks(ran or (), window),
        notices=api.notices.list_notices() if told else [],
        processes=found.get("processes"),
        services=services,
        map=service_map(
            {one.name: one.looks for one in services},
            {one.name: one.checks for one in services},
        ),
        rows=_rows(found, window),
    )


@bp.get(f"/<any({', '.join(SERVICES)}):service>")
@access.needs("ops:read")
def service(service: str) -> ResponseReturnValue:
    """Show one service and its routes."""
    name, window = _range()
    api = backends()
    measures, ask = SERVICE[service], dict[str, Callable[[], Any]]()
    if api.prometheus.known:
        ask = {
            f"route {key}": partial(api.prometheus.values, one)
            for key, one in ROUTES[service].items()
        }
        ask |= _over_time(measures, window)
    found = api.gather_aside(ask)
    own = {key: found.get(f"route {key}") for key in ROUTES[service]}
    return _page(
        "operations_service.html",
        name,
        service=service,
        away=_away(found),
        charts=_charts(measures, found, window),
        routes=None
        if own["rate"] is None
        else rows(own, {"rate": "rate", "errors": "rate", "p95": "seconds"}),
    )


@bp.get("/request")
@access.needs("ops:read")
def find_request() -> ResponseReturnValue:
    """Show how to see what all processes did for one request."""
    settings = _settings()
    wanted = request.args.get("id", "")[:200]
    hint = find_hint(
        wanted,
        public_url=settings.public_url,
        traces_page=settings.traces_page if settings.traces == "otlp" else "",
    )
    wrong = bool(wanted.strip()) and hint is None
    api = backends()
    found: dict[str, Any] = {}
    if hint is not None and api.traces.known:
        found = api.gather_aside({"traces": partial(api.traces.find, hint.request)})
    page = render_template(
        "operations_request.html",
        wanted=wanted,
        wrong=wrong,
        hint=hint,
        known=api.traces.known,
        traces=_both(lambda some: [draw(one) for one in some], found.get("traces")),
        traced=settings.traces == "log",
        clustered=settings.environment == "production",
    )
    return page, HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK


def _page(template: str, name: str, **parts: object) -> str:
    """Return a page of measurements over the stretch of time with this name."""
    settings = _settings()
    return render_template(
        template,
        range=name,
        ranges=RANGES,
        looked_at=datetime.now(UTC),
        known=backends().prometheus.known,
        docs=settings.docs_url or f"{settings.public_url}/docs",
        **parts,
    )


def _settings() -> Settings:
    found: Settings = current_app.extensions["flagon.settings"]
    return found


def _range() -> tuple[str, Window]:
    """Return the chosen stretch of time; the usual one for a name that is none."""
    name = request.args.get("range", "")
    if name not in RANGES:
        name = USUAL_RANGE
    return name, RANGES[name].until(time.time())


def _over_time(measures: Mapping[str, Measure], window: Window) -> Questions:
    api = backends().prometheus
    return {
        f"chart {key} {line}": partial(api.tracks, question, window)
        for key, measure in measures.items()
        for line, question in measure.ask.items()
    }


def _charts(
    measures: Mapping[str, Measure], found: Mapping[str, Any], window: Window
) -> list[dict[str, Any]]:
    """Return each measure with its chart, or with None where an answer is missing."""
    drawn = []
    for key, measure in measures.items():
        answers = {line: found.get(f"chart {key} {line}") for line in measure.ask}
        there = {line: one for line, one in answers.items() if one is not None}
        whole = len(there) == len(answers)
        drawn.append(
            {
                "key": key,
                "measure": measure,
                "chart": chart(measure, there, window) if whole else None,
            }
        )
    return drawn


def _rows(found: Mapping[str, Any], window: Window) -> dict[str, dict[str, str]]:
    """Return what each service does now, in words; empty without an answer."""
    units: dict[str, Unit] = {
        "rate": "rate",
        "errors": "ratio",
        "p50": "seconds",
        "latency": "seconds",
        "p99": "seconds",
    }
    present = {
        key: {
            track.metric.get("service", ""): latest(track.values, window)
            for track in found.get(f"chart {key} ") or ()
        }
        for key in ("rate", "errors", "latency")
    }
    present |= {key: found.get(key) or {} for key in ("p50", "p99")}
    return {row.name: row.values for row in rows(present, units)}


def _both(make: Callable[..., T], found: object, *more: object) -> T | None:
    """Return what is made of an answer; None where there is no answer."""
    return None if found is None else make(found, *more)


def _away(found: Mapping[str, Any]) -> bool:
    """Say whether nothing that was asked got an answer."""
    return all(one is None for one in found.values())
