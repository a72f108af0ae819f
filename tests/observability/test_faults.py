"""What the drill of faults expects is what rules and runbooks say."""

import re

import pytest
import yaml
from faults import FASTER, FAULTS, hastened

from .conftest import HOME, ROOT


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]


class TestFaults:
    def test_are_eleven(self):
        assert len({fault.name for fault in FAULTS}) == 11

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name)
    def test_have_an_alert_that_can_come_in_time(self, alerts, fault):
        waits = seconds(alerts[fault.alert].get("for", "0s")) / FASTER

        assert fault.within_seconds >= waits

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name)
    def test_have_a_runbook_that_begins_with_a_command(self, alerts, fault):
        runbook = ROOT / alerts[fault.alert]["annotations"]["runbook"]

        assert re.search(r"```sh\n\S", runbook.read_text())


class TestHastened:
    def test_changes_times_and_nothing_else(self):
        text = 'expr: rate(a_rate5m{le="1m"}[5m] offset 1h) > 60\nfor: 30s\ninterval: 15s\n'

        assert hastened(text) == (
            'expr: rate(a_rate5m{le="1m"}[25000ms] offset 300000ms) > 60\n'
            "for: 2500ms\ninterval: 1250ms\n"
        )

    def test_evaluates_each_second_at_most(self):
        assert hastened("interval: 5s\n") == "interval: 1000ms\n"

    @pytest.mark.parametrize(
        "path", sorted((HOME / "rules").glob("*.yml")), ids=lambda one: one.name
    )
    def test_leaves_the_same_rules_in_each_file(self, path):
        before, after = (
            yaml.safe_load(text)["groups"]
            for text in (path.read_text(), hastened(path.read_text()))
        )

        assert [
            [rule.get("alert", rule.get("record")) for rule in group["rules"]]
            for group in before
        ] == [
            [rule.get("alert", rule.get("record")) for rule in group["rules"]]
            for group in after
        ]
        waits = [r["for"] for group in after for r in group["rules"] if "for" in r]
        assert all(wait.endswith("ms") for wait in waits)
