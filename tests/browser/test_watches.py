"""Prices that people watch, in a real browser."""

import pytest
from axe import judge
from harness.people import Person as Program
from playwright.sync_api import expect
from steps import a_product


@pytest.fixture
def seller(stack, accounts):
    """A program that makes products and changes their prices."""
    with Program(stack, accounts["merchandiser"]) as program:
        yield program


@pytest.fixture
def product(seller):
    """A product that no other test knows, for 9.00 EUR."""
    with seller.client() as client:
        return a_product(client)


@pytest.fixture
def cheaper(seller, product):
    """Change its price."""

    def change(price_minor):
        path = f"/api/v1/products/{product['id']}"
        with seller.client() as client:
            tag = {"If-Match": client.get(path).headers["ETag"]}
            changed = client.patch(path, json={"price_minor": price_minor}, headers=tag)
            assert changed.status_code == 200, changed.text

    return change


def watch(page, product, limit=""):
    page.goto(f"/products/{product['slug']}")
    page.fill("#limit", limit)
    page.click("button:text-is('Watch the price')")
    expect(page.locator("[data-watched]")).to_be_visible()


class TestWatch:
    @pytest.mark.parametrize("scripts", [True, False])
    def test_is_begun_changed_ended_and_brought_back(
        self, person, accounts, product, scripts
    ):
        phone = {"viewport": {"width": 390, "height": 844}}
        somebody = person(java_script_enabled=scripts, **({} if scripts else phone))
        somebody.sign_in(accounts["customer"])
        page = somebody.page
        watch(page, product)
        expect(page.locator("[data-watched]")).to_contain_text("each lower price.")

        page.fill("#limit", "7,50")
        page.click("button:text-is('Save the limit')")
        expect(page.locator("[data-watched]")).to_contain_text("below €7.50")
        page.click("[data-watched] a")
        row = page.locator(f"[data-watch='{product['id']}']")
        expect(row).to_contain_text(product["name"])
        expect(row).to_contain_text("€9.00")
        expect(row).to_contain_text("below €7.50")
        row.get_by_role("button").click()
        expect(row).to_have_count(0)
        page.click("button:text-is('Undo')")
        expect(row).to_contain_text("below €7.50")

        row.get_by_role("link").click()
        page.click("button:text-is('Stop watching')")
        expect(page.locator("button:text-is('Watch the price')")).to_be_visible()
        page.click("button:text-is('Undo')")
        expect(page.locator("[data-watched]")).to_contain_text("below €7.50")

    def test_is_told_live_on_every_page_of_the_shop(
        self, person, accounts, product, cheaper
    ):
        somebody = person()
        somebody.sign_in(accounts["customer"])
        page, list_ = somebody.page, somebody.tab()
        watch(page, product, "8")
        page.goto("/")
        list_.goto("/watches")
        for one in (page, list_):
            expect(one.locator("[data-live]").first).to_have_attribute(
                "data-state", "on"
            )
        row = list_.locator(f"[data-watch='{product['id']}']")
        expect(row).to_contain_text("not yet")

        # Not low enough yet.
        cheaper(850)
        cheaper(799)

        for one in (page, list_):
            told = one.locator("[data-drops] .note")
            expect(told).to_contain_text("now €7.99 instead of €8.50")
            judge(one)
        expect(row).to_contain_text("€7.99")
        expect(row).not_to_contain_text("not yet")
        page.click("[data-drops] button")
        expect(page.locator("[data-drops] .note")).to_have_count(0)
        list_.click("[data-drops] a")
        list_.wait_for_url(f"**/products/{product['slug']}")

    def test_has_nothing_that_axe_finds(self, person, accounts, product):
        somebody = person(locale="de-DE")
        page = somebody.page
        page.goto(f"/products/{product['slug']}")
        judge(page)
        somebody.sign_in(accounts["customer"], then=f"/products/{product['slug']}")
        page.fill("#limit", "billig")
        page.click("button:text-is('Preis beobachten')")
        expect(page.locator("#limit-error")).to_be_visible()
        judge(page)
        page.fill("#limit", "8")
        page.click("button:text-is('Preis beobachten')")
        expect(page.locator("[data-watched]")).to_be_visible()
        judge(page)
        page.goto("/watches")
        judge(page)
        row = page.locator(f"[data-watch='{product['id']}']")
        row.get_by_role("button").click()
        expect(page.locator("button:text-is('Rückgängig machen')")).to_be_visible()
        judge(page)
        somebody.forgive(422)
