"""axe-core finds nothing on any page, and a keyboard is enough.

Dead letters are judged in test_office.py, where there is one, and what administrators
see in test_administration.py.
"""

import uuid
from functools import partial

from axe import judge
from playwright.sync_api import expect
from steps import a_file, find, forget, imported, plan, run_now

SHOP = ["/", "/search", "/search?q=no-such-words-zzz", "/status", "/categories/none"]
OFFICE = [
    "/back-office",
    "/back-office/dead-letters?kind=nothing",
    "/back-office/schedules",
    "/back-office/schedules/new",
    "/back-office/webhooks",
    "/back-office/webhooks/new",
    "/back-office/export",
    "/back-office/operations",
    "/back-office/operations/catalog?range=24h",
    "/back-office/operations/request",
    "/jobs",
    "/jobs?state=cancelled&kind=nothing",
    "/import",
]


# Some show the focus around the whole that they lead to.
FOCUS = """() => [document.activeElement, document.activeElement.closest("li")]
  .filter(Boolean)
  .flatMap((one) => [null, "::before", "::after"].map((part) => getComputedStyle(one, part)))
  .some((style) => style.outlineStyle !== "none" || style.boxShadow !== "none")"""


def tab_on(page, selector):
    """Press the tab key until something is reached, and see that it shows the focus."""
    for _ in range(90):
        page.keyboard.press("Tab")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            assert page.evaluate(FOCUS), f"no focus is shown on {selector}"
            return
    raise AssertionError(f"the keyboard does not reach {selector}")


class TestShop:
    def test_has_nothing_that_axe_finds(self, person):
        # German words are the longer ones.
        stranger = person(locale="de-DE")
        for path in SHOP:
            stranger.page.goto(path)
            judge(stranger.page)
        # One of them is no page.
        stranger.forgive(404)

    def test_of_a_person_has_nothing_that_axe_finds(self, merchandiser, tmp_path):
        page = merchandiser.page
        mark = imported(merchandiser, tmp_path, 9, broken=1)
        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")
        judge(page)
        page.goto(f"/search?q={mark}")
        judge(page)
        page.click(".menu summary")
        judge(page)
        find(page, mark, 1)
        judge(page)
        page.click("button:text-is('Save the review')")
        expect(page.locator("#title-error")).to_be_visible()
        judge(page)
        page.fill("#title", "Reads well")
        page.select_option("#rating", "4")
        page.click("button:text-is('Save the review')")
        expect(page.locator(".review")).to_have_count(1)
        judge(page)
        page.fill("#price", "nothing")
        page.click("button:text-is('Save')")
        expect(page.locator("[role=alert]")).to_be_visible()
        judge(page)
        page.click(".crumbs a >> nth=1")
        judge(page)
        page.goto("/import")
        page.set_input_files("#file", tmp_path / "lieferung.csv")
        page.click("main button[type=submit]")
        page.wait_for_url("**/import/columns")
        judge(page)
        # The review without a title and the price that is none.
        merchandiser.forgive(422, 422)


class TestOffice:
    def test_has_nothing_that_axe_finds(self, operator):
        somebody = operator()
        page, name = somebody.page, f"axe-{uuid.uuid4().hex[:8]}"
        plan(page, name, {"seconds": 1})
        judge(page)
        schedule = page.url
        run_now(page)
        expect(page.locator(".log__line").first).to_be_visible()
        judge(page)
        page.goto("/back-office/webhooks/new")
        page.fill("#url", f"https://shop.example.com/{name}")
        page.fill("#event_types", "market.flagon.webhook.never.v1")
        page.click("main button:text-is('Make it')")
        judge(page)
        page.click("main a:text-is('I have it')")
        page.click("main button:text-is('Send a test')")
        expect(page.locator(".delivery")).to_be_visible()
        judge(page)
        webhook = page.url
        for path in OFFICE:
            page.goto(path)
            judge(page)
        page.goto("/back-office/schedules/new")
        page.click("main button:text-is('Make it')")
        expect(page.locator("#name-error")).to_be_visible()
        judge(page)
        for mine in (webhook, schedule):
            page.goto(mine)
            forget(page)
            page.wait_for_url("**/back-office/*s")
        # Two lists with filters that fit nothing there is, and the form.
        somebody.forgive(422, 422, 422)


class TestKeyboard:
    def test_is_enough_from_the_search_to_the_product(self, merchandiser, tmp_path):
        page = merchandiser.page
        mark = imported(merchandiser, tmp_path, 2)
        expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")
        page.goto("/")
        tab_to = partial(tab_on, page)

        tab_to("#q")
        page.keyboard.type(f"{mark} Band 1")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search?q=*")
        tab_to(".book__link")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text(mark)
        tab_to("#price")
        page.keyboard.press("Control+A")
        page.keyboard.type("6.66")
        page.keyboard.press("Enter")
        expect(page.locator(".note--success")).to_contain_text("€6.66")
        tab_to(".languages [value=de]")
        page.keyboard.press("Enter")
        expect(page.locator("html")).to_have_attribute("lang", "de")

    def test_is_enough_to_import_a_file(self, merchandiser, tmp_path):
        page, (path, mark) = merchandiser.page, a_file(tmp_path, 9, broken=1)
        tab_to, badge = partial(tab_on, page), page.locator("[data-state-badge]")
        # From the beginning: a listener takes its time to reach the browser.
        page.on("filechooser", lambda chooser: chooser.set_files(path))
        page.goto("/")
        tab_to("nav a[href='/import']")
        page.keyboard.press("Enter")
        page.wait_for_url("**/import")

        tab_to("#file")
        page.keyboard.press("Enter")
        expect(page.locator("#file")).not_to_have_value("")
        tab_to("main button[type=submit]")
        page.keyboard.press("Enter")
        page.wait_for_url("**/import/columns")

        # What the column of the authors becomes, which is an attribute at first.
        tab_to("[name=targets-2]")
        page.keyboard.press("Home")
        expect(page.locator("[name=targets-2]")).to_have_value("")
        tab_to("#category")
        page.keyboard.type("Browser tests")
        tab_to("#dry_run")
        page.keyboard.press("Space")
        tab_to("main button[type=submit]")
        page.keyboard.press("Enter")
        page.wait_for_url("**/jobs/*")
        expect(badge).to_have_text("Succeeded")
        checked = page.url

        tab_to("form[action*='/import/run/'] button")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/jobs/" in url and url != checked)
        expect(badge).to_have_text("Succeeded")
        tab_to("main a[download]")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert mark in download.value.path().read_text()
        tab_to("main a.button[href='/']")
        page.keyboard.press("Enter")
        expect(page.locator(".hero")).to_be_visible()
