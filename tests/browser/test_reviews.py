"""Reviews, as people write them in a real browser."""

import pytest
from playwright.sync_api import expect
from steps import find, imported


class TestReview:
    @pytest.mark.parametrize("scripts", [True, False])
    def test_is_written_changed_deleted_and_brought_back(
        self, person, accounts, tmp_path, scripts
    ):
        somebody = person(java_script_enabled=scripts)
        somebody.sign_in(accounts["merchandiser"])
        page = somebody.page
        mark = imported(somebody, tmp_path, 2)
        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")
        find(page, mark, 1)

        page.fill("#author", "Ada <b>L.</b>")
        page.fill("#title", "Reads *well*")
        page.fill("#body", "Two **nights**. <img src=x onerror=alert(1)>")
        page.select_option("#rating", "4")
        page.click("button:text-is('Save the review')")
        review = page.locator(".review")
        expect(review.locator("h3")).to_have_text("Reads *well*")
        expect(review).to_contain_text("Ada <b>L.</b>")
        expect(review.locator("strong")).to_have_text("nights")
        expect(review.locator("img")).to_have_count(0)

        page.click("text=Edit your review")
        expect(page.locator("#title")).to_have_value("Reads *well*")
        page.fill("#title", "Reads better")
        page.click("button:text-is('Save the review')")
        expect(review.locator("h3")).to_have_text("Reads better")

        page.click("button:text-is('Delete your review')")
        expect(review).to_have_count(0)
        page.click("button:text-is('Undo')")
        expect(review.locator("h3")).to_have_text("Reads better")
        expect(page.locator("[aria-label='4 stars of 5']")).to_have_count(1)
