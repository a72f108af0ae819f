"""Mappings of columns that people keep for the next file, in a real browser."""

import uuid

from axe import judge
from playwright.sync_api import expect
from steps import a_file


class TestMappings:
    def test_fill_in_the_next_file(self, merchandiser, tmp_path):
        page, name = merchandiser.page, f"Supplier {uuid.uuid4().hex[:8]}"
        path, _ = a_file(tmp_path, 3)
        merchandiser.upload(path)
        page.select_option("select >> nth=2", "attribute")
        page.fill("#category", "Mappings")
        page.fill("#keep_as", name)
        page.click("main button:text-is('Import')")
        page.wait_for_url("**/jobs/*")

        merchandiser.upload(path)

        expect(page.locator("main")).to_contain_text("Filled in as you did before.")
        expect(page.locator("select >> nth=2")).to_have_value("attribute")
        expect(page.locator("#category")).to_have_value("mappings")
        expect(page.locator("#keep_as")).to_have_value(name)
        judge(page)
        page.click("main a:text-is('the file suggests')")
        expect(page.locator("select >> nth=2")).to_have_value("")

        page.goto("/import")
        judge(page)
        page.click(f"main button[aria-label='Delete the mapping {name}']")
        expect(page.locator("[role=status]").filter(has_text="deleted")).to_be_visible()
        expect(page.locator("main")).not_to_contain_text(name)
