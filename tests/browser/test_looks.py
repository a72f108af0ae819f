"""Pages that stay where they are while they load and change, and on paper."""

import pytest
from harness.people import Person as Program
from playwright.sync_api import expect
from steps import illustrated

SHIFTS = """
window.__shifted = 0;
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) window.__shifted += one.value;
}).observe({type: "layout-shift", buffered: true});
"""
LIMIT = 0.1
"""What is good by https://web.dev/articles/cls."""
WIDTHS = (390, 1440)
KEPT = ("h1", "[data-price] >> nth=0", ".product__cover .picture >> nth=0", ".facts")
HIDDEN = (
    ".top",
    ".foot",
    ".live >> nth=0",
    ".gallery__small",
    ".watch",
    "#price",
    "#title",
)


@pytest.fixture(scope="module")
def shop(browser, stack, accounts):
    """A category with a product that has pictures, and a way to change its price."""
    with Program(stack, accounts["admin"]) as program, program.client() as client:
        made = client.post("/api/v1/categories", json={"name": "Layout shifts"})
        assert made.status_code in {201, 409}, made.text
        product = illustrated(
            client,
            browser,
            [(1400, 1000), (900, 1300)],
            category="layout-shifts",
            stock=9,
        )
        place = f"/api/v1/products/{product['id']}"

        def change(**members):
            tag = client.get(place).headers["ETag"]
            changed = client.patch(place, json=members, headers={"If-Match": tag})
            assert changed.status_code == 200, changed.text

        yield product, change


class TestShift:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("path", ["/", "/categories/layout-shifts", "/products/{}"])
    def test_is_next_to_nothing_also_when_prices_change(
        self, person, shop, path, width
    ):
        product, change = shop
        change(price_minor=900, stock=9)
        somebody = person(viewport={"width": width, "height": 900})
        somebody.context.add_init_script(SHIFTS)
        page = somebody.page
        page.goto(path.format(product["slug"]))
        expect(page.locator(".live").first).to_have_attribute("data-state", "on")
        shown = page.locator(f"[data-product='{product['id']}']").first

        for minor in (1, 99_999):
            change(price_minor=minor, stock=minor % 5)
            told = f"€{minor / 100:.2f}"
            expect(shown.locator("[data-price]").first).to_have_text(told)

        assert page.evaluate("window.__shifted") < LIMIT


class TestPaper:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_has_what_is_read_and_not_what_is_pressed(self, merchandiser, shop, scheme):
        page = merchandiser.page
        page.goto(f"/products/{shop[0]['slug']}")
        for selector in (*KEPT, *HIDDEN):
            expect(page.locator(selector)).to_be_visible()

        page.emulate_media(media="print", color_scheme=scheme)

        for selector in KEPT:
            expect(page.locator(selector)).to_be_visible()
        for selector in HIDDEN:
            expect(page.locator(selector)).to_be_hidden()
        # Paper is white whatever the screen was.
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
