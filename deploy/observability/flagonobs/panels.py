"""Panels as this platform draws them: each with a unit, a description and a way on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Unit = Literal[
    "s", "reqps", "ops", "percentunit", "bytes", "short", "cps", "dtdurations", "none"
]

_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="prometheus")
_WIDTH = 24
_PLATFORM = "${platform}"
"""Where the platform's own pages are; whoever looks can change it at the top."""


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    :param expr: with fixed ranges of 5 minutes, so that a test can ask the same.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel: a `stat` shows present values, a `table` too, a `graph` the way there."""

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    on: str
    """Where to look next: the name of a dashboard, or `traces:<service>`."""
    kind: Literal["graph", "stat", "table"] = "graph"
    span: int = 8
    red: float | None = None
    """From here on the value is drawn in red (below, when it is better high)."""
    better: Literal["low", "high"] = "low"
    runbook: str = ""
    """The page of docs/runbooks of the alert that is about what is drawn."""


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels, by the titles of the rows."""

    name: str
    title: str
    description: str
    rows: dict[str, list[Panel]]


def graph(
    title: str,
    description: str,
    unit: Unit,
    *queries: tuple[str, str],
    on: str,
    span: int = 8,
    red: float | None = None,
    runbook: str = "",
) -> Panel:
    """Return a panel of lines; queries are pairs of (expression, legend)."""
    found = tuple(Query(*one) for one in queries)
    return Panel(
        title, description, unit, found, on, span=span, red=red, runbook=runbook
    )


def lines(title: str, description: str, unit: Unit, expr: str, *, on: str) -> Panel:
    """Return a table over the whole width: of each series its labels and its value."""
    return Panel(title, description, unit, (Query(expr),), on, "table", _WIDTH)


def number(
    title: str,
    description: str,
    unit: Unit,
    expr: str,
    *,
    on: str,
    legend: str = "",
    span: int = 6,
    red: float | None = None,
    better: Literal["low", "high"] = "low",
    runbook: str = "",
) -> Panel:
    """Return a panel of one number for each series."""
    query = (Query(expr, legend),)
    return Panel(
        title, description, unit, query, on, "stat", span, red, better, runbook
    )


def text(board: Board) -> str:
    """Return the JSON of a dashboard as it is kept."""
    builder = (
        build.Dashboard(board.title)
        .uid(f"flagon-{board.name}")
        .description(board.description)
        .tags(["flagon"])
        .readonly()
        .timezone("utc")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("Flagon")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["flagon"])
            .as_dropdown(True)
            .keep_time(True)
        )
        .with_variable(
            build.TextBoxVariable("platform")
            .label("Pages of the platform")
            .default_value("http://localhost:8080")
        )
    )
    identity = 0
    top = 0
    for title, panels in board.rows.items():
        identity += 1
        place = dashboard.GridPos(h=1, w=_WIDTH, x=0, y=top)
        builder.with_row(build.Row(title).id(identity).grid_pos(place))
        top += 1
        left = height = 0
        for panel in panels:
            identity += 1
            if left + panel.span > _WIDTH:
                left, top, height = 0, top + height, 0
            tall = 4 if panel.kind == "stat" else 8
            height = max(height, tall)
            place = dashboard.GridPos(h=tall, w=panel.span, x=left, y=top)
            builder.with_panel(_built(panel).id(identity).grid_pos(place))
            left += panel.span
        top += height
    made = json.dumps(builder.build(), cls=JSONEncoder, sort_keys=True, indent=1)
    return made + "\n"


def _built(panel: Panel) -> timeseries.Panel | stat.Panel | table.Panel:
    """Return the builder of one panel."""
    drawn: timeseries.Panel | stat.Panel | table.Panel
    if panel.kind == "table":
        hidden = {"excludeByName": {"Time": True}, "renameByName": {"Value": "rate"}}
        drawn = (
            table.Panel()
            .transformations(
                [dashboard.DataTransformerConfig(id_val="organize", options=hidden)]
            )
            # Its defaults, which make what is read again the same.
            .align(common.FieldTextAlignment.AUTO)
            .inspect(False)
        )
    elif panel.kind == "stat":
        drawn = (
            stat.Panel()
            .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
            .graph_mode(common.BigValueGraphMode.AREA)
        )
    else:
        drawn = (
            timeseries.Panel()
            .fill_opacity(8)
            .legend(
                options.VizLegendOptions()
                .display_mode(common.LegendDisplayMode.LIST)
                .placement(common.LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            .tooltip(
                options.VizTooltipOptions()
                .mode(common.TooltipDisplayMode.MULTI)
                .sort(common.SortOrder.DESCENDING)
            )
        )
    drawn = (
        drawn.title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .thresholds(_limits(panel))
        .links([*_ways_on(panel)])
    )
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = (
            prometheus.Dataquery()
            .ref_id(letter)
            .expr(" ".join(query.expr.split()))
            .legend_format(query.legend or "__auto")
            .datasource(_SOURCE)
        )
        if panel.kind == "table":
            target = target.instant().format(PromQueryFormat.TABLE)
        drawn = drawn.with_target(target)
    return drawn


def _limits(panel: Panel) -> build.ThresholdsConfig:
    colours = ("green", "red") if panel.better == "low" else ("red", "green")
    steps = [dashboard.Threshold(color=colours[0], value=None)]
    if panel.red is None:
        steps = [dashboard.Threshold(color="blue", value=None)]
    else:
        steps.append(dashboard.Threshold(color=colours[1], value=panel.red))
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _ways_on(panel: Panel) -> Iterator[build.DashboardLink]:
    yield _way_on(panel.on)
    if panel.on.startswith("traces:"):
        # Of one request, named by its id, the spans and what processes logged with them.
        page = f"{_PLATFORM}/back-office/operations/request"
        yield build.DashboardLink("One request").url(page)
    if panel.runbook:
        page = f"{_PLATFORM}/docs/runbooks/{panel.runbook}"
        yield build.DashboardLink("Runbook").url(page)


def _way_on(where: str) -> build.DashboardLink:
    service = where.removeprefix("traces:")
    if service == where:
        return build.DashboardLink(where.capitalize()).url(f"/d/flagon-{where}")
    query = {"datasource": "jaeger", "queries": [{"refId": "A", "service": service}]}
    left = json.dumps(query, separators=(",", ":"))
    return build.DashboardLink(f"Traces of {service}").url(f"/explore?left={left}")
