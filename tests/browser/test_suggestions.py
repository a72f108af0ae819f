"""Search as you type, with a keyboard, and without it."""

import json

from axe import judge
from playwright.sync_api import expect
from steps import imported

API = "**/api/v1/products?*"


def opened(merchandiser, folder):
    """Import two products and return their mark, on the home page."""
    mark = imported(merchandiser, folder, 2)
    page = merchandiser.page
    expect(page.locator("[data-state-badge]")).to_have_text("Succeeded")
    page.goto("/")
    return page, mark


class TestSuggestions:
    def test_lead_to_a_product_by_keyboard(self, merchandiser, tmp_path):
        page, mark = opened(merchandiser, tmp_path)
        field = page.get_by_role("combobox")
        # The beginning of a word is enough.
        field.press_sequentially(mark[:5])
        options = page.get_by_role("option")

        expect(options).to_have_count(2)
        expect(field).to_have_attribute("aria-expanded", "true")
        expect(options.first.locator("mark")).to_have_text(mark[:5])
        expect(page.locator("[data-suggestions-told]")).to_contain_text("2 suggestions")
        judge(page)
        field.press("ArrowDown")
        field.press("ArrowDown")
        expect(field).to_have_attribute("aria-activedescendant", "suggestion-1")
        expect(options.nth(1)).to_have_attribute("aria-selected", "true")
        field.press("ArrowDown")
        expect(page.locator("[aria-selected=true]")).to_have_count(0)
        field.press("Escape")
        expect(options).to_have_count(0)
        expect(field).to_have_value(mark[:5])
        field.press("ArrowDown")
        expect(options).to_have_count(2)
        field.press("ArrowUp")
        wanted = options.nth(1).locator("span").first.inner_text()
        field.press("Enter")
        page.wait_for_url("**/products/*")
        assert page.locator("h1").inner_text() in wanted

    def test_leave_the_form_as_it_is(self, merchandiser, tmp_path):
        page, mark = opened(merchandiser, tmp_path)
        field = page.get_by_role("combobox")
        field.press_sequentially(mark)
        expect(page.get_by_role("option")).to_have_count(2)
        field.press("Enter")

        page.wait_for_url(f"**/search?q={mark}")
        expect(page.locator(".book")).to_have_count(2)

    def test_of_earlier_words_are_cancelled(self, person):
        """The first answer comes last, and must not be shown."""
        page = person().page
        held = []

        def answer(route):
            if "q=ab&" in route.request.url:
                held.append(route)
                return
            route.fulfill(json={"items": [], "next_cursor": None})

        page.route(API, answer)
        page.goto("/")
        field = page.get_by_role("combobox")
        with page.expect_event("requestfailed", lambda one: "q=ab&" in one.url):
            with page.expect_request(lambda one: "q=ab&" in one.url):
                field.press_sequentially("ab")
            field.press_sequentially("c")

        expect(page.locator("[data-suggestions-told]")).to_have_text("No suggestions")
        assert held

    def test_show_text_and_marks_and_nothing_else(self, person):
        hostile = "<img src=x onerror=alert(1)>Téapot &amp; <script>1</script>"
        product = {
            "id": "1",
            "slug": '../"><img src=x>',
            "name": hostile,
            "price_minor": 1,
            "currency": "EUR",
        }
        found = {"items": [product]}
        page = person().page
        page.route(API, lambda route: route.fulfill(body=json.dumps(found)))
        page.goto("/")
        page.get_by_role("combobox").press_sequentially("tea")

        option = page.get_by_role("option")
        expect(option.locator("mark")).to_have_text("Téa")
        expect(option.locator("span").first).to_have_text(hostile)
        inside = option.evaluate(
            "(one) => [...one.querySelectorAll('*')].map((e) => e.localName)"
        )
        assert inside == ["span", "mark", "span"]
        link = option.get_attribute("data-href")
        assert link.startswith("/products/..%2F%22%3E%3Cimg")

    def test_are_left_out_where_nobody_answers(self, person):
        somebody = person()
        page = somebody.page
        page.route(API, lambda route: route.fulfill(status=503, body="{}"))
        page.goto("/")
        field = page.get_by_role("combobox")
        with page.expect_response(API):
            field.press_sequentially("tea")
        field.press("Enter")

        page.wait_for_url("**/search?q=tea")
        somebody.forgive(503)


class TestWithoutScripts:
    def test_the_field_is_a_form_and_results_can_be_narrowed(self, person):
        plain = person(java_script_enabled=False)
        page = plain.page
        page.goto("/")
        page.get_by_role("searchbox").fill("zz-nothing")
        page.get_by_role("searchbox").press("Enter")
        page.wait_for_url("**/search?q=zz-nothing")
        page.goto("/search?q=zz-nothing&in_stock=1")
        page.get_by_role("link", name="Only what is in stock").click()
        page.wait_for_url("**/search?q=zz-nothing")
