"""What Lighthouse says of the shop: https://github.com/GoogleChrome/lighthouse.

As of a phone: it loads a page as fast as the machine can and reckons from that how long
a slow phone on a slow network would take (simulated throttling), so that neighbours on
the machine count less. What they take of the processor only lowers the score, so it is
the best of a few runs that counts; what a page does wrong lowers all of them.
"""

import json
import os
import subprocess
import uuid

import pytest
from axe import ROOT
from harness.people import Person as Program
from people import ARGUMENTS, chromium_path
from steps import a_product

from flagon_chassis.testing import lacking

LIGHTHOUSE = ROOT / ".venv/lighthouse/node_modules/lighthouse/cli/index.js"
WANTED = 0.95
CATEGORIES = ("performance", "accessibility", "best-practices")
RUNS_MAX = 5
LIMIT_SECONDS = 180


@pytest.fixture(scope="module")
def pages(stack, accounts):
    """A shop with something on its shelves: the addresses of its pages by name."""
    if not LIGHTHOUSE.exists():
        lacking("Lighthouse", "BROWSER=1 make setup")
    with (
        Program(stack, accounts["merchandiser"]) as program,
        program.client() as client,
    ):
        made = client.post("/api/v1/categories", json={"name": uuid.uuid4().hex})
        assert made.status_code == 201, made.text
        slug = made.json()["slug"]
        text = "What there is to say about it. " * 20
        products = [
            a_product(client, category=slug, description=text, stock=number)
            for number in range(18)
        ]
    return {
        "home": "/",
        "category": f"/categories/{slug}",
        "product": f"/products/{products[0]['slug']}",
    }


@pytest.fixture
def scores(browser, stack, tmp_path):
    """Return what Lighthouse gives a page, and what it finds wrong."""
    program = chromium_path() or browser.browser_type.executable_path

    def scores(path):
        report = tmp_path / f"{uuid.uuid4().hex}.json"
        flags = " ".join(["--headless=new", *ARGUMENTS])
        subprocess.run(
            [
                *("node", LIGHTHOUSE, f"{stack.url}{path}", "--quiet"),
                *("--output=json", f"--output-path={report}"),
                f"--only-categories={','.join(CATEGORIES)}",
                *("--form-factor=mobile", "--throttling-method=simulate"),
                f"--chrome-flags={flags}",
            ],
            env={**os.environ, "CHROME_PATH": str(program)},
            timeout=LIMIT_SECONDS,
            check=True,
        )
        found = json.loads(report.read_text())
        wrong = {
            name: one.get("displayValue", "")
            for name, one in found["audits"].items()
            if one["score"] is not None and one["score"] < WANTED
        }
        return {name: found["categories"][name]["score"] for name in CATEGORIES}, wrong

    return scores


class TestLighthouse:
    @pytest.mark.parametrize("page", ["home", "category", "product"])
    def test_gives_pages_of_the_shop_95_of_100(self, pages, scores, page):
        runs = []
        while len(runs) < RUNS_MAX:
            found, wrong = scores(pages[page])
            runs.append((found, wrong))
            # Only time depends on what else the machine does.
            assert found["accessibility"] >= WANTED, wrong
            assert found["best-practices"] >= WANTED, wrong
            if found["performance"] >= WANTED:
                return
        pytest.fail(f"{page}: {runs}")
