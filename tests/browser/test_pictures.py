"""Pictures of products in the shop, in a real browser."""

import pytest
from axe import judge
from harness.people import Person as Program
from playwright.sync_api import expect
from steps import illustrated

SIZES = [(1400, 1000), (900, 1300), (1300, 1300)]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def product(browser, stack, accounts):
    """A product that no other test knows, with three pictures."""
    with Program(stack, accounts["admin"]) as program, program.client() as client:
        return illustrated(client, browser, SIZES)


def widths(product):
    """Return the widths of all renditions by their addresses."""
    return {
        one["url"]: one["width"]
        for picture in product["images"]
        for one in [picture, *picture["thumbnails"]]
    }


def chosen(page, selector, known):
    """Return the width of what the browser loaded into a picture."""
    picture = page.locator(selector).first
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("complete", value=True)
    return known[picture.evaluate("(one) => new URL(one.currentSrc).pathname")]


class TestChoice:
    @pytest.mark.parametrize(
        ("viewport", "density", "listed", "large", "small"),
        [
            (PHONE, 1, 480, 480, 160),
            (PHONE, 3, 960, 960, 160),
            (DESK, 1, 480, 480, 160),
            (DESK, 2, 480, 960, 160),
        ],
    )
    def test_is_no_wider_than_the_screen_can_show(
        self, person, product, viewport, density, listed, large, small
    ):
        somebody = person(viewport=viewport, device_scale_factor=density)
        page, known = somebody.page, widths(product)

        page.goto(f"/search?q={product['sku']}")
        assert chosen(page, ".book .picture", known) == listed
        page.goto(f"/products/{product['slug']}")
        assert chosen(page, ".product__cover .picture", known) == large
        assert chosen(page, ".gallery__small img", known) == small

    def test_lets_browsers_load_all_but_the_first_when_it_is_near(
        self, person, product
    ):
        somebody = person(viewport=PHONE)
        somebody.page.goto(f"/products/{product['slug']}")
        first, *others = somebody.page.locator(".product__cover .picture").all()

        assert first.get_attribute("loading") is None
        assert {one.get_attribute("loading") for one in others} == {"lazy"}


class TestGallery:
    @pytest.mark.parametrize("scripts", [True, False])
    def test_shows_every_picture(self, person, product, scripts):
        somebody = person(viewport=PHONE, java_script_enabled=scripts)
        page = somebody.page
        page.goto(f"/products/{product['slug']}")
        links = page.locator(".gallery__small a")
        expect(links).to_have_count(3)
        expect(page.locator("#picture-1")).to_be_in_viewport(ratio=0.5)
        expect(page.locator("#picture-2")).not_to_be_in_viewport()

        links.nth(1).focus()
        page.keyboard.press("Enter")

        expect(page.locator("#picture-2")).to_be_in_viewport(ratio=0.5)
        expect(page.locator("#picture-1")).not_to_be_in_viewport()
        links.nth(2).click()
        expect(page.locator("#picture-3")).to_be_in_viewport(ratio=0.5)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_has_nothing_that_axe_finds(self, person, product, scheme):
        somebody = person(color_scheme=scheme)
        somebody.page.goto(f"/products/{product['slug']}")

        judge(somebody.page)
