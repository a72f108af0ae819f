"""The pages of the API's document: what a person sees and does there."""

import re

import pytest
from playwright.sync_api import expect

SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
# ReDoc tries once whether it may compile code, and goes on without.
IGNORE_TRY = """
window.addEventListener("securitypolicyviolation", (event) => {
  if (event.blockedURI === "eval") event.stopImmediatePropagation();
}, true);
"""


class TestIndex:
    def test_leads_to_every_document(self, person):
        page = person().page
        page.goto("/docs/")
        for link in page.locator("main a").all():
            answer = page.request.get(link.evaluate("(a) => a.href"))
            assert answer.status == 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
class TestReading:
    def options(self, size, scheme):
        width, height = SIZES[size]
        return {
            "viewport": {"width": width, "height": height},
            "color_scheme": scheme,
        }

    def test_swagger_ui_shows_every_service(self, person, size, scheme):
        page = person(**self.options(size, scheme)).page
        page.goto("/docs/swagger")

        expect(page.locator(".opblock-tag")).not_to_have_count(0)
        for name in ("Products", "Jobs", "Events", "Accounts"):
            expect(page.locator(f"[data-tag='{name}']")).to_be_visible()

    def test_redoc_shows_every_service(self, person, size, scheme):
        somebody = person(**self.options(size, scheme))
        somebody.context.add_init_script(IGNORE_TRY)
        page = somebody.page
        page.goto("/docs/redoc")

        for name in ("products", "jobs", "events", "accounts"):
            expect(page.locator(f"a[href='#/{name}']").first).to_be_attached()


class TestTryingOut:
    def test_works_without_a_token_where_none_is_needed(self, person):
        page = person().page
        page.goto("/docs/swagger")
        page.locator("[data-tag='Tags']").click()
        operation = page.locator("#operations-Tags-list_tags")
        operation.locator(".opblock-summary-control").click()
        operation.locator("button.try-out__btn").click()
        operation.locator("button.execute").click()

        status = operation.locator(
            ".live-responses-table .response .response-col_status"
        )
        expect(status.first).to_contain_text("200")

    def test_signs_in_with_code_and_pkce(self, person, accounts):
        somebody = person()
        page = somebody.page
        page.goto("/docs/swagger")
        page.locator("button.authorize").first.click()
        ways = page.locator(".auth-container").filter(has_text="authorizationCode")
        ways.locator("label[for^='users:read']").first.click()
        with page.expect_popup() as opened:
            ways.locator("button.authorize").click()
        popup = opened.value
        popup.fill("input[name=email]", accounts["admin"]["email"])
        popup.fill("input[name=password]", accounts["admin"]["password"])
        with popup.expect_event("close"):
            popup.click("main button[type=submit]")
        page.locator("button.btn-done:visible").first.click()
        page.locator("[data-tag='Accounts']").click()
        operation = page.locator("#operations-Accounts-list_users")
        operation.locator(".opblock-summary-control").click()
        operation.locator("button.try-out__btn").click()
        operation.locator("button.execute").click()

        live = operation.locator(".live-responses-table")
        expect(live.locator(".response .response-col_status").first).to_contain_text(
            "200"
        )
        expect(live).to_contain_text(re.compile("merchandiser@"))
