"""Prometheus metrics that are right under several worker processes."""

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .settings import ServiceSettings

if TYPE_CHECKING:
    from flask import Flask, Response

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The media type of `exposition`."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)
"""Histogram buckets that hold the objectives of 100 ms, 500 ms and 2 s."""

REGISTRY = CollectorRegistry()
"""Every metric of the process; not the library's default one, which adds its own."""


def multiprocess() -> bool:
    """Say whether this process shares its metrics with others through files."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ  # noqa: TID251 (as the library)


def collect() -> CollectorRegistry:
    """Return a registry that, when scraped, sums over all processes of the service."""
    if not multiprocess():
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


@lru_cache
def counter(name: str, help_: str, *labels: str) -> Counter:
    """Return the counter of this name, made at the first call."""
    return Counter(name, help_, labels, registry=REGISTRY)


@lru_cache
def gauge(name: str, help_: str, *labels: str, mode: str = "livesum") -> Gauge:
    """Return the gauge of this name, made at the first call.

    :param mode: how processes add up; only live modes forget a process that is gone.
    """
    return Gauge(name, help_, labels, registry=REGISTRY, multiprocess_mode=mode)  # type: ignore[arg-type]


@lru_cache
def histogram(
    name: str, help_: str, *labels: str, buckets: tuple[float, ...] = SECONDS
) -> Histogram:
    """Return the histogram of this name, made at the first call."""
    return Histogram(name, help_, labels, registry=REGISTRY, buckets=buckets)


def exposition(*registries: CollectorRegistry) -> bytes:
    """Return what a scrape of this process answers, in the text format.

    :param registries: further ones of this process; unused where files are shared,
        because those hold every metric of every process already.
    """
    found = (collect(),) if multiprocess() else (REGISTRY, *registries)
    return b"".join(generate_latest(registry) for registry in (*found, _TARGET))


class _Target(Collector):
    """What is said once for all processes that are scraped together, by the one asked."""

    def __init__(self) -> None:
        self.build: dict[str, str] | None = None

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        # Whoever scrapes has a clock to compare it with.
        yield GaugeMetricFamily(
            "flagon_clock_seconds",
            "Now, in seconds since the epoch.",
            value=time.time(),
        )
        if self.build is not None:
            yield InfoMetricFamily("flagon_build", "What runs here.", value=self.build)


_SAID = _Target()
_TARGET = CollectorRegistry()
_TARGET.register(_SAID)


def say_build(settings: ServiceSettings, service: str) -> None:
    """Have every scrape of this process say which release of which service it is.

    Queries join it to what they compare:
    `… * on (instance, job) group_left (release) flagon_build_info`.
    """
    release = settings.release or "unknown"
    _SAID.build = {"service": service, "release": release}


def before_scrape(app: "Flask", measure: Callable[[], object]) -> None:
    """Have `measure` called before `/metrics` answers: what is to be shown is looked up.

    It must not raise: what else there is to show should be shown.
    """
    app.extensions.setdefault("flagon.measures", []).append(measure)


def init_app(app: "Flask", service: str) -> None:
    """Measure every request by route template and serve `/metrics`.

    Gives `flask_http_request_duration_seconds` and `flask_http_request_total` with the
    labels `service`, `method`, `url_rule` and `status`; an unknown path has the rule
    `None`, so no caller can invent label values. The app knows its settings already.
    """
    # Relays have no Flask in memory.
    from flask import Response  # noqa: PLC0415
    from prometheus_flask_exporter import PrometheusMetrics  # noqa: PLC0415

    from .auth import open_route  # noqa: PLC0415

    say_build(app.extensions["flagon.settings"], service)
    # A registry for each app: two apps in one process (tests) must not collide.
    registry = CollectorRegistry()
    PrometheusMetrics(
        app,
        path=None,
        registry=registry,
        group_by="url_rule",
        default_labels={"service": service},
        buckets=SECONDS,
        excluded_paths=["/livez", "/readyz", "/metrics"],
        default_latency_as_histogram=True,
    )

    @app.get("/metrics")
    @open_route
    def metrics() -> "Response":
        for measure in app.extensions.get("flagon.measures", ()):
            measure()
        return Response(exposition(registry), content_type=CONTENT_TYPE)
