"""The board of releases tells two of them apart that serve at once."""

import pytest
from flagonobs import dashboards

from .test_canary import BUCKET, COUNT, requests
from .test_rules import promtool, write

(BOARD,) = (one for one in dashboards.boards() if one.name == "releases")
OLD, NEW = ("a1", "1.0.0"), ("b2", "1.1.0")


def running(pod, release):
    return {
        f'flagon_build_info{{service="catalog",instance="{pod}",release="{release}"}}': "1x20"
    }


@pytest.fixture
def drawn(tmp_path):
    """Compare what a panel draws after ten minutes with values by release."""

    def drawn(row, title, series, expected):
        (panel,) = (one for one in BOARD.rows[row] if one.title == title)
        samples = [
            {"labels": f'{{service="catalog",release="{release}"}}', "value": value}
            for release, value in expected.items()
        ]
        (query,) = panel.queries
        question = {"expr": query.expr, "eval_time": "10m", "exp_samples": samples}
        series = running(*OLD) | running(*NEW) | series
        promtool("test", "rules", write(tmp_path, "release", [], series, [question]))

    return drawn


class TestReleases:
    def test_are_counted(self, drawn):
        drawn("What runs", "Processes by release", {}, {"1.0.0": 1, "1.1.0": 1})

    def test_have_requests_and_errors_of_their_own(self, drawn):
        series = requests(COUNT, "a1", "0+600x20") | requests(COUNT, "b2", "0+45x20")
        series |= requests(COUNT, "b2", "0+15x20", status="500")

        drawn("Requests", "Rate", series, {"1.0.0": 10, "1.1.0": 1})
        drawn("Requests", "Errors", series, {"1.0.0": 0, "1.1.0": 0.25})

    def test_have_times_of_their_own(self, drawn):
        series = requests(BUCKET, "a1", "0+60x20", le="0.1")
        series |= requests(BUCKET, "a1", "0+60x20", le="+Inf")
        series |= requests(BUCKET, "b2", "0+0x20", le="0.1")
        series |= requests(BUCKET, "b2", "0+60x20", le="0.2")
        series |= requests(BUCKET, "b2", "0+60x20", le="+Inf")

        drawn("Requests", "Duration, p95", series, {"1.0.0": 0.095, "1.1.0": 0.195})
