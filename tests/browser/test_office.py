"""What operators do in the back office, in a real browser."""

import json
import re
import uuid

from axe import judge
from playwright.sync_api import expect
from steps import forget, plan, press, run_now


def reached(page, words):
    """Wait until the job on the page is in the state with these words."""
    expect(page.locator("[data-state-badge]")).to_have_text(
        re.compile(f"^{re.escape(words)}$", re.IGNORECASE)
    )


class TestJobs:
    def test_are_cancelled_while_they_run_and_tried_again(self, speaking):
        somebody, say = speaking()
        page = somebody.page
        plan(page, f"long-{uuid.uuid4().hex[:8]}", {"seconds": 60}, say)
        planned = page.url
        run_now(page, say)

        reached(page, say("running"))
        press(page, say("Cancel the job"))
        # Without a reload: the job says itself when it has stopped.
        reached(page, say("cancelled"))
        press(page, say("Try again"))
        reached(page, say("running"))
        expect(page.locator("#history tbody tr")).to_have_count(2)
        press(page, say("Cancel the job"))
        reached(page, say("cancelled"))
        forget(page, say)
        page.wait_for_url("**/jobs")
        page.goto(planned)
        forget(page, say)
        page.wait_for_url("**/schedules")


class TestSchedules:
    def test_pause_and_go_on(self, speaking):
        somebody, say = speaking()
        page = somebody.page
        plan(page, f"rest-{uuid.uuid4().hex[:8]}", {"seconds": 0}, say)

        press(page, say("Pause"))
        expect(page.locator("h1 + .badge")).to_have_text(say("Paused"))
        expect(page.locator(".facts")).to_contain_text(say("not while it is paused"))
        press(page, say("Resume"))
        expect(page.locator("h1 + .badge")).to_have_text(say("On"))
        expect(page.locator(".facts")).not_to_contain_text(
            say("not while it is paused")
        )
        forget(page, say)
        page.wait_for_url("**/schedules")

    def test_are_made_run_and_changed_by_two_at_once(self, operator):
        somebody = operator()
        page, name = somebody.page, f"day-{uuid.uuid4().hex[:8]}"

        page.goto("/back-office/schedules/new")
        page.fill("#name", name)
        page.select_option("#kind", "probe")
        page.fill("#cron", "61 * * * *")
        page.click("main button:text-is('Make it')")
        expect(page.locator("#cron-error")).to_be_visible()
        expect(page.locator("#name")).to_have_value(name)

        plan(page, name, {"seconds": 1})
        run_now(page)
        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")
        expect(page.locator("#history tbody tr")).to_have_count(1)
        expect(page.locator(".log__line").first).to_be_visible()

        page.goto("/back-office/schedules")
        page.click(f"main a:has-text('{name}')")
        expect(page.locator("h1")).to_have_text(name)
        other = somebody.tab()
        other.goto(page.url)
        other.fill("#cron", "0 5 29 2 *")
        other.click("main button:text-is('Save')")
        expect(other.locator("main .note--success")).to_be_visible()
        page.fill("#cron", "0 6 29 2 *")
        page.click("main button:text-is('Save')")
        expect(page.locator(".theirs")).to_contain_text("0 5 29 2 *")
        page.click("main button:text-is('Save')")
        expect(page.locator("main .note--success")).to_be_visible()
        forget(page)
        page.wait_for_url("**/schedules")
        # The wrong time and the conflict.
        somebody.forgive(422, 409)


class TestWebhooks:
    def test_show_their_secret_once_and_what_was_sent(self, operator):
        page = operator().page
        page.goto("/back-office/webhooks/new")
        page.fill("#url", f"https://shop.example.com/{uuid.uuid4().hex}")
        page.fill("#event_types", "market.flagon.webhook.never.v1")
        page.click("main button:text-is('Make it')")
        secret = page.locator("#secret").inner_text()
        assert re.fullmatch(r"whsec_\S{20,}", secret)
        page.click("main a:text-is('I have it')")
        expect(page.locator("#deliveries-head")).to_be_visible()
        assert secret not in page.content()

        page.click("main button:text-is('Send a test')")
        expect(page.locator(".delivery")).to_contain_text("webhook.test.v1")
        # Without a reload: the list looks again by itself.
        expect(page.locator(".delivery summary")).to_contain_text("attempt")
        forget(page)
        page.wait_for_url("**/webhooks")

    def test_send_again_what_did_not_arrive(self, speaking):
        somebody, say = speaking()
        page = somebody.page
        page.goto("/back-office/webhooks/new")
        page.fill("#url", f"https://shop.example.com/{uuid.uuid4().hex}")
        page.fill("#event_types", "market.flagon.webhook.never.v1")
        press(page, say("Make it"))
        page.click(f"main a:text-is('{say('I have it')}')")
        press(page, say("Send a test"))
        expect(page.locator(".delivery summary")).to_have_count(1)

        press(page, say("Send again"))
        expect(page.locator("main .note--success")).to_have_text(
            say("It is on its way again.")
        )
        # The same delivery, with one more line in its log.
        expect(page.locator(".delivery")).to_have_count(1)
        expect(page.locator(".delivery ol li").nth(1)).to_be_attached()
        forget(page, say)
        page.wait_for_url("**/webhooks")


class TestDeadLetters:
    def test_are_judged_and_discarded(self, operator):
        page, name = operator().page, f"bad-{uuid.uuid4().hex[:8]}"
        plan(page, name, {"crash": True})
        forget_at = page.url
        run_now(page)
        bad = page.url.rpartition("/")[2]

        expect(page.locator("[data-state-badge]")).to_have_text("Failed")
        page.goto("/back-office/dead-letters")
        page.click(f"main a[href$='{bad}']")
        expect(page.locator("h1 + .badge")).to_have_text("Poison")
        expect(page.locator("tbody tr")).to_have_count(3)
        judge(page)
        page.goto("/back-office/dead-letters")
        judge(page)
        page.go_back()
        page.click("main summary:has-text('Discard')")
        page.click("main button:text-is('Discard for good')")
        page.wait_for_url("**/dead-letters")
        page.goto(forget_at)
        forget(page)
        page.wait_for_url("**/schedules")


class TestExport:
    def test_exports_without_scripts_on_a_phone(self, operator):
        somebody = operator(
            java_script_enabled=False, viewport={"width": 390, "height": 844}
        )
        page = somebody.page
        page.goto("/back-office/export")
        page.select_option("#format", "ndjson")
        page.click("main button:text-is('Export')")
        page.wait_for_url("**/jobs/*")

        # The page reads itself again until the job is done.
        link = page.locator("main a:has-text('Download')")
        expect(link).to_have_text("Download products.ndjson")
        with page.expect_download() as download:
            link.click()
        lines = download.value.path().read_text().splitlines()
        assert all("sku" in json.loads(line) for line in lines)
