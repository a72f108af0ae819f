"""Objectives: from one YAML file to recording rules, burn-rate alerts and a page."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EVERY_SECONDS = 15
"""How often the rules are evaluated: what turns a sum of rates into a count."""

_SPANS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21_600, "1d": 86_400}
_SPANS |= {"3d": 3 * _SPANS["1d"]}


@dataclass(frozen=True)
class Burn:
    """A pair of windows: the long one says that it matters, the short that it goes on.

    Google, The Site Reliability Workbook, chapter 5,
    https://sre.google/workbook/alerting-on-slos/.
    """

    long: str
    short: str
    factor: float
    """How many times faster than allowed the budget of the whole window is spent."""


SEVERITIES = {
    # 2 % of a budget of 30 days in an hour, 5 % in six hours.
    "page": (Burn("1h", "5m", 14.4), Burn("6h", "30m", 6)),
    # 10 % in a day, 10 % in three days.
    "ticket": (Burn("1d", "2h", 3), Burn("3d", "6h", 1)),
}


@dataclass(frozen=True)
class Objective:
    """One promise; `slos.yml` says what the fields mean."""

    name: str
    title: str
    objective: float
    window: str
    owner: str
    runbook: str
    minimum: int
    means: str
    events: str
    bad: str

    @property
    def budget(self) -> float:
        """The part of the events that may be bad."""
        return round(1 - self.objective, 6)

    def alert(self, severity: str) -> str:
        """Return the name of an alert, e.g. `ReadLatencyBurnsFast`."""
        words = "".join(word.capitalize() for word in self.name.split("-"))
        return words + ("BurnsFast" if severity == "page" else "BurnsSlowly")


def load(path: Path) -> list[Objective]:
    """Return the objectives of a file.

    :raises TypeError: one lacks a field or has one that is unknown.
    """
    return [Objective(**one) for one in yaml.safe_load(path.read_text())]


def rules(
    objectives: list[Objective], *, every_seconds: int = EVERY_SECONDS
) -> dict[str, Any]:
    """Return the content of `rules/slo.yml`.

    :param every_seconds: how often the rules are evaluated; tests of whole days take
        longer steps.
    """
    recorded = [rule for one in objectives for rule in _recorded(one, every_seconds)]
    return {
        "groups": [
            {
                "name": "slo",
                "interval": f"{every_seconds}s",
                "rules": recorded,
            },
            {
                "name": "slo-budget",
                "interval": f"{every_seconds}s",
                "rules": [rule for one in objectives for rule in _budget(one)],
            },
            {
                "name": "slo-alerts",
                "rules": [
                    _alert(one, severity)
                    for one in objectives
                    for severity in SEVERITIES
                ],
            },
        ]
    }


def _recorded(one: Objective, every_seconds: int) -> list[dict[str, Any]]:
    label = f'{{slo="{one.name}"}}'
    found = [
        _record(one, "slo:events:rate5m", one.events),
        # Without one bad event there is no series of them: that is zero, not nothing.
        _record(one, "slo:bad:rate5m", f"({one.bad}) or 0 * ({one.events})"),
    ]
    # Sums of the recorded rates: a window of three days reads two series, not hundreds.
    found += [
        _record(one, f"slo:errors:ratio_rate{span}", _ratio(label, span))
        for span in _SPANS
    ]
    found += [
        _record(
            one,
            f"slo:events:increase{burn.long}",
            f"sum_over_time(slo:events:rate5m{label}[{burn.long}]) * {every_seconds}",
        )
        for burns in SEVERITIES.values()
        for burn in burns
    ]
    return found


def _ratio(label: str, span: str) -> str:
    if span == "5m":
        return f"slo:bad:rate5m{label} / (slo:events:rate5m{label} > 0)"
    return (
        f"sum_over_time(slo:bad:rate5m{label}[{span}])"
        f" / (sum_over_time(slo:events:rate5m{label}[{span}]) > 0)"
    )


def _budget(one: Objective) -> list[dict[str, Any]]:
    label = f'{{slo="{one.name}"}}'
    return [
        _record(one, "slo:objective:ratio", f"vector({one.objective})"),
        _record(
            one,
            "slo:budget_remaining:ratio",
            f"1 - {_ratio(label, one.window)} / {one.budget}",
        ),
    ]


def _record(one: Objective, name: str, expression: str) -> dict[str, Any]:
    return {"record": name, "expr": expression, "labels": {"slo": one.name}}


def _alert(one: Objective, severity: str) -> dict[str, Any]:
    label = f'{{slo="{one.name}"}}'
    parts = [
        f"(slo:errors:ratio_rate{burn.long}{label} > {_limit(one, burn)}"
        f" and slo:errors:ratio_rate{burn.short}{label} > {_limit(one, burn)}"
        f" and slo:events:increase{burn.long}{label} > {one.minimum})"
        for burn in SEVERITIES[severity]
    ]
    longest = SEVERITIES[severity][0].long
    return {
        "alert": one.alert(severity),
        "expr": " or ".join(parts),
        "labels": {"severity": severity, "owner": one.owner, "slo": one.name},
        "annotations": {
            "summary": f"{one.title}: the budget of {one.window} is spent too fast.",
            "description": "{{ $value | humanizePercentage }} of the events were bad in"
            f" the last {longest} or longer; {_percent(one.budget)} may be.",
            "runbook": f"docs/runbooks/{one.runbook}.md",
        },
    }


def _limit(one: Objective, burn: Burn) -> float:
    return round(burn.factor * one.budget, 6)


def _percent(ratio: float) -> str:
    return f"{round(100 * ratio, 4):g} %"


def rules_text(objectives: list[Objective]) -> str:
    """Return `rules/slo.yml` as it is kept."""
    head = "# Made by `make slo` from slos.yml; change that.\n"
    return head + yaml.safe_dump(rules(objectives), sort_keys=False, width=90)


def objects(files: dict[str, str]) -> str:
    """Return rule files as objects of the Prometheus operator.

    :param files: by name, the text of a rule file.
    """
    made = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"flagon-{name}"},
            "spec": yaml.safe_load(text),
        }
        for name, text in files.items()
    ]
    text = yaml.safe_dump_all(made, sort_keys=False, width=100, allow_unicode=True)
    return f"# Made by `make slo` of deploy/observability/rules.\n{text}"


_REQUESTS = re.compile(r"(flask_http_request_duration_seconds_\w+)(?:\{([^}]*)\})?")
_OF_CANARY = 'service="{{args.service}}", instance=~"{{args.service}}-{{args.hash}}-.*"'


def analysis(objectives: list[Objective]) -> str:
    """Return the judgement of a canary as an object of Argo Rollouts.

    Objectives about requests are asked of the new pods alone, and must not be spent as
    fast as would wake somebody. Without requests there is nothing to judge by.
    """
    burn = SEVERITIES["page"][0]
    made = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "objectives"},
        "spec": {
            "args": [{"name": "service"}, {"name": "hash"}],
            "metrics": [
                {
                    "name": one.name,
                    # The rates are over five minutes: all of them after the release.
                    "initialDelay": "60s",
                    "interval": "60s",
                    "count": 5,
                    "failureLimit": 1,
                    "successCondition": "len(result) == 0 || isNaN(result[0])"
                    f" || result[0] <= {_limit(one, burn)}",
                    "provider": {
                        "prometheus": {
                            "address": "http://prometheus-operated.monitoring:9090",
                            "query": f"({_of_canary(one.bad)}) / ({_of_canary(one.events)})",
                        }
                    },
                }
                for one in objectives
                if _REQUESTS.search(one.events)
            ],
        },
    }
    text = yaml.safe_dump(made, sort_keys=False, width=100, allow_unicode=True)
    return f"# Made by `make slo` of deploy/observability/slos.yml.\n{text}"


def _of_canary(expression: str) -> str:
    return _REQUESTS.sub(
        lambda found: (
            f"{found[1]}{{{', '.join(part for part in (found[2], _OF_CANARY) if part)}}}"
        ),
        expression,
    )


def page(objectives: list[Objective]) -> str:
    """Return `docs/slos.md`."""
    lines = [
        "# Service level objectives",
        "",
        "Made by `make slo` from [slos.yml](../deploy/observability/slos.yml).",
        "How alerts come of them: [SLO and burn rate](patterns/slo-burn-rate.md).",
        "",
        "| Objective | Promise | Over | Budget | Owner | Runbook |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.title} | {_percent(one.objective)} | {one.window} | {_percent(one.budget)}"
        f" | {one.owner} | [{one.runbook}](runbooks/{one.runbook}.md) |"
        for one in objectives
    ]
    lines += [
        "",
        (
            "Somebody is woken (`page`) when the budget of the window would last two days"
            " (14.4 times too fast for an hour) or five (6 times, six hours);"
            " a `ticket` is written at 3 times for a day, and at just the allowed for three."
        ),
        "A second, shorter window ends the alert soon after the trouble ends.",
    ]
    for one in objectives:
        lines += [
            "",
            f"## {one.name}",
            "",
            one.means.strip(),
            "",
            "| Alert | Bad events, long and short window | At least |",
            "|---|---|---|",
        ]
        lines += [
            f"| `{one.alert(severity)}` | over {_percent(_limit(one, burn))} in"
            f" {burn.long} and {burn.short} | {one.minimum} events in {burn.long} |"
            for severity, burns in SEVERITIES.items()
            for burn in burns
        ]
    return "\n".join([*lines, ""])
