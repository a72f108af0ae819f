"""The load program, as `make load` runs it: every journey, and nothing is lost."""

import json

import pytest
from harness.engine import ROOT

REPORTS = ROOT / ".run" / "reports"


@pytest.fixture(scope="module")
def smoke(stack):
    """What a run of the smallest profile said, and its report."""
    before = set(REPORTS.glob("*"))
    said = stack.make("load", seconds=900, PROFILE="smoke")
    [folder] = set(REPORTS.glob("*")) - before
    return said, folder, json.loads((folder / "report.json").read_text())


class TestSmoke:
    def test_loses_no_write_and_shows_nobody_an_error(self, smoke):
        said, _folder, report = smoke

        verdicts = {one["name"]: one["ok"] for one in report["verdicts"]}
        assert verdicts["graceful"] is verdicts["ledger"] is True, said
        assert verdicts["invariants"] is True, said
        # Products of the run, a review, a price, an import and a probe at least.
        assert report["acknowledged writes"] >= 44

    def test_is_everything_that_people_do(self, smoke):
        _said, _folder, report = smoke

        assert {
            "GET home page",
            "GET list",
            "GET search",
            "GET product page",
            "GET events",
            "POST password",
            "POST review",
            "PATCH product",
            "POST job (import)",
            "POST job (probe)",
        } <= set(report["requests"])

    def test_leaves_a_page_with_pictures(self, smoke):
        _said, folder, _report = smoke

        page = (folder / "report.html").read_text()
        for name in ("rate.png", "reads.png", "people.png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
            assert f'src="{name}"' in page
        assert "Locust" in (folder / "locust.html").read_text()
