"""What operators see of the platform at work, in a real browser."""

import json
import re
import uuid
from datetime import UTC, datetime

from axe import judge
from harness.waiting import until
from playwright.sync_api import expect
from steps import stopped

PAGE = "/back-office/operations"


TOLD = """
import httpx2
port = settings.bind.rpartition(":")[2]
token = settings.alerts_token.get_secret_value()
answer = httpx2.post(
    f"http://127.0.0.1:{port}/internal/alerts",
    headers={"Authorization": f"Bearer {token}"},
    json=json.load(sys.stdin),
)
print(answer.status_code)
"""


def drawn(page, key):
    """Wait until a chart has lines; a flat one has no height and so is never visible."""
    lines = page.locator(f"svg[aria-labelledby='chart-{key}-title'] polyline")
    expect(lines).not_to_have_count(0)


class TestOperations:
    def test_show_what_happens_and_bear_the_loss_of_prometheus(self, operator, stack):
        somebody = operator()
        page = somebody.page
        page.goto("/back-office")
        page.click(".tabs a:text-is('Operations')")
        page.click(".ranges a:text-is('15 minutes')")
        expect(page.locator("h1")).to_have_text("Operations")

        # By itself, while somebody looks: rules are evaluated every few seconds.
        drawn(page, "rate")
        drawn(page, "streams")
        expect(page.locator(".services-now tbody tr")).to_have_count(6)
        expect(page.locator(".node--ready")).to_have_count(9)
        expect(page.locator(".budgets progress").first).to_be_visible()
        release = page.locator(".releases tr").filter(has_text="catalog").first
        expect(release.locator(".badge")).to_have_text(re.compile(r"^\d of \d$"))
        judge(page)

        page.click(".services-now a:text-is('web')")
        expect(page.locator("h1")).to_have_text("web")
        drawn(page, "latency")
        page.click("summary:text-is('Values as a table') >> nth=2")
        expect(page.locator(".values >> nth=2").locator("tbody tr")).to_have_count(3)

        page.goto(f"{PAGE}?range=15m")
        with stopped(stack, "prometheus"):
            expect(page.locator("[data-away]")).to_contain_text(
                "make restart P=prometheus"
            )
            expect(page.locator(".services-now tbody tr")).to_have_count(6)
            judge(page)
        drawn(page, "streams")
        expect(page.locator("[data-away]")).to_have_count(0)

    def test_work_without_scripts_on_a_phone(self, operator):
        somebody = operator(
            java_script_enabled=False, viewport={"width": 390, "height": 844}
        )
        page = somebody.page
        page.goto(PAGE)
        page.click(".ranges a:text-is('6 hours')")
        expect(page.locator(".ranges [aria-current]")).to_have_text("6 hours")
        page.click("main a:text-is('Look again')")
        expect(page).to_have_url(re.compile(r"range=6h$"))
        wide = page.locator("html").evaluate("(html) => html.scrollWidth")
        assert wide == 390


class TestNotifications:
    def test_come_and_end_while_somebody_looks(self, operator, stack):
        """Told as Alertmanager does, of which a stack has one only if it is asked for."""
        name = f"Trial{uuid.uuid4().hex[:8]}"
        page = operator(viewport={"width": 390, "height": 844}).page
        page.goto(PAGE)
        told = page.locator(".notices tr").filter(has_text=name)
        expect(told).to_have_count(0)

        for status, words in (("firing", "fires"), ("resolved", "is over")):
            alert = {
                "status": status,
                "labels": {"alertname": name, "severity": "page"},
                "annotations": {"runbook": "docs/runbooks/redis-down.md"},
                "startsAt": datetime.now(UTC).isoformat(),
            }
            message = {
                "version": "4",
                "groupKey": name,
                "receiver": "pager",
                "status": status,
                "groupLabels": {"alertname": name, "service": "x" * 40},
                "alerts": [alert] * 3,
            }
            assert stack.inside("web", TOLD, given=json.dumps(message)) == 204

            # By itself: the page renews its parts.
            expect(told.locator(".badge")).to_have_text(words)
            assert told.locator("a").get_attribute("href").endswith("/redis-down")
            judge(page)
            wide = page.locator("html").evaluate("(html) => html.scrollWidth")
            assert wide == 390


class TestWaterfall:
    def test_shows_what_every_process_did(self, operator):
        """Needs a stack with a sink: `make up WITH=traces`."""
        somebody = operator()
        page = somebody.page
        wanted = somebody.context.request.get("/").headers["x-request-id"]

        # Each sender waits a second for more, and the page does not ask again by itself.
        def seen():
            page.goto(f"{PAGE}/request?id={wanted}")
            steps = page.locator(".fall__step").all_inner_texts()
            return all(
                any(one in step for step in steps) for one in ("catalog", "web: GET")
            )

        until(seen, 60, pause=0.5, what="the spans of web and catalog")
        expect(page.locator(".fall__rows caption")).to_contain_text(wanted)
        bars = page.locator(".fall__bar rect")
        assert bars.count() == page.locator(".fall__step").count()
        assert bars.first.bounding_box()["width"] > 1
        judge(page)


class TestRequest:
    def test_is_followed_through_every_process(self, operator, stack):
        somebody = operator()
        page = somebody.page
        answer = somebody.context.request.get("/")
        wanted = answer.headers["x-request-id"]
        page.goto(PAGE)
        page.fill("#request-id", wanted)
        page.press("#request-id", "Enter")

        expect(page.locator("main pre")).to_contain_text(f"REQUEST={wanted}")
        judge(page)
        command = page.locator("main pre").inner_text().split()
        assert command[:2] == ["make", "logs"]
        values = dict(word.split("=", 1) for word in command[2:])
        values.pop("PORT_BASE", None)
        said = stack.followed(values["REQUEST"], {"gateway", "web", "catalog"})

        times = [line["time"] for line in said]
        assert times == sorted(times)
        assert {line["request_id"] for line in said} == {wanted}
        page.fill("#request-id", "no id; at all")
        page.press("#request-id", "Enter")
        expect(page.locator("#request-id-error")).to_be_visible()
        judge(page)
        somebody.forgive(422)
