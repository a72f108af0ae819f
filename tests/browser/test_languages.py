"""The shop in German, as a browser shows it, and what lies between it and the shop."""

import re
import uuid

import pytest
from axe import judge
from playwright.sync_api import expect
from steps import forget, press


class TestGateway:
    @pytest.mark.parametrize("path", ["/", "/search?q=zebra", "/status"])
    def test_gives_each_language_to_who_asks_for_it(self, person, path):
        """In turns, so that an answer that was kept would show."""
        for _ in range(3):
            for wanted in ("en", "de"):
                answer = person().context.request.get(
                    path, headers={"Accept-Language": wanted, "Accept": "text/html"}
                )
                assert f'<html lang="{wanted}"' in answer.text()
                assert answer.headers["content-language"] == wanted
                assert "Accept-Language" in answer.headers["vary"]
                assert "x-cache" not in answer.headers


class TestChoosing:
    @pytest.mark.parametrize("scripts", [True, False])
    def test_a_language_holds_for_the_pages_that_follow(self, person, scripts):
        reader = person(java_script_enabled=scripts)
        page = reader.page
        page.goto("/search?q=zebra")
        page.get_by_role("button", name="Deutsch").click()

        expect(page.locator("html")).to_have_attribute("lang", "de")
        assert page.url.endswith("/search?q=zebra")
        expect(page.locator("#q")).to_have_attribute(
            "placeholder", "Titel, Autor oder Reihe"
        )
        page.goto("/login")
        expect(page.locator("html")).to_have_attribute("lang", "de")
        page.goto("/")
        page.get_by_role("button", name="English").click()
        expect(page.locator("html")).to_have_attribute("lang", "en")


class TestBackOffice:
    """What its own tests do in English, in German: each button by what stands on it."""

    @pytest.fixture
    def administrator(self, german):
        somebody, say = german("admin")
        expect(somebody.page.locator("html")).to_have_attribute("lang", "de")
        return somebody, say

    def test_has_no_english_in_its_tabs(self, administrator):
        somebody, say = administrator
        page = somebody.page
        page.goto("/back-office/products")
        tabs = page.locator(".tabs a")
        expect(tabs).to_have_text(
            [
                say(words)
                for words in (
                    "Products",
                    "Categories",
                    "Jobs",
                    "Dead letters",
                    "Schedules",
                    "Webhooks",
                    "Export",
                    "Users",
                    "Clients",
                    "Keys",
                    "Audit",
                    "Operations",
                )
            ]
        )
        for address in [tab.get_attribute("href") for tab in tabs.all()]:
            page.goto(address)
            expect(page.locator("html")).to_have_attribute("lang", "de")
            expect(page.locator("[aria-current=page]").first).to_be_visible()

    def test_keeps_products(self, administrator):
        somebody, say = administrator
        page, word = somebody.page, f"t{uuid.uuid4().hex[:10]}"
        page.goto("/back-office/products/new")
        page.fill("#name", word)
        page.fill("#sku", word)
        page.fill("#price", "viel")
        press(page, say("Make it"))
        expect(page.locator("#price-error")).to_contain_text("12,99")
        page.fill("#price", "1234,50")
        press(page, say("Make it"))
        expect(page.locator("h1")).to_have_text(word)
        expect(page.locator("#price")).to_have_value("1234,50")
        press(page, say("Archive it"))
        press(page, say("Undo"))
        expect(page.locator("main .note--success")).to_have_text(
            say("The product is back.")
        )
        page.fill("#words", word)
        press(page, say("Filter"))
        expect(page.locator("tbody tr")).to_contain_text("1.234,50\N{NO-BREAK SPACE}€")
        somebody.forgive(422)

    def test_keeps_categories(self, administrator):
        somebody, say = administrator
        page, word = somebody.page, f"c{uuid.uuid4().hex[:10]}"
        page.goto("/back-office/categories/new")
        page.fill("#name", word)
        press(page, say("Make it"))
        page.click(f"main a:has-text('{word}')")
        page.fill("#name", f"{word} neu")
        press(page, say("Save"))
        page.click(f"main a:has-text('{word} neu')")
        forget(page, say)
        page.wait_for_url("**/categories")
        expect(page.locator(f"main a:has-text('{word}')")).to_have_count(0)

    def test_gives_roles_and_takes_them(self, administrator, accounts):
        somebody, say = administrator
        page, customer = somebody.page, accounts["customer"]
        page.goto("/back-office/users")
        page.fill("#email", customer["email"])
        press(page, say("Filter"))
        expect(page.locator("main tbody tr")).to_have_count(1)
        page.click("main tbody a")
        role = page.locator("[name=roles][value=merchandiser]")
        for held in (True, False):
            role.set_checked(held)
            with page.expect_navigation():
                press(page, say("Save"))
            expect(page.locator("main .note--success")).to_be_visible()
            expect(role).to_be_checked(checked=held)
        judge(page)

    def test_registers_clients(self, administrator):
        somebody, say = administrator
        page, name = somebody.page, f"axe-{uuid.uuid4().hex[:8]}"
        page.goto("/back-office/clients")
        page.click(f"main a:text-is('{say('New client')}')")
        page.fill("#name", name)
        page.fill("#redirect_uris", "https://app.example.com/callback")
        press(page, say("Register it"))
        expect(page.locator("#secret")).to_be_visible()
        page.click(f"main a:text-is('{say('I have it')}')")
        page.click(f"main summary:has-text('{say('New secret')}')")
        press(page, say("Make a new secret"))
        page.click(f"main a:text-is('{say('I have it')}')")
        page.click(f"main a:has-text('{say('Delete')}')")
        press(page, say("Delete for good"))
        expect(page.locator("main .note--success")).to_be_visible()

    def test_exports_and_shows_who_did_what(self, administrator):
        somebody, say = administrator
        page = somebody.page
        page.goto("/back-office/export")
        press(page, say("Export"))
        page.wait_for_url("**/jobs/*")
        expect(page.locator("[data-state-badge]")).to_have_text(
            re.compile(say("succeeded"), re.IGNORECASE)
        )
        forget(page, say)
        page.wait_for_url("**/jobs")
        page.goto("/back-office/audit?entity=product")
        press(page, say("Filter"))
        expect(page.locator(".delivery").first).to_be_visible()


class TestScripts:
    def test_speak_the_language_of_the_page(self, person):
        page = person(locale="de-DE").page
        page.goto("/status")

        told = page.evaluate(
            """async () => {
              const texts = await import("flagon/texts");
              const { stockWords } = await import("flagon/page");
              return [
                texts._("Live"),
                texts.money(123456, "EUR"),
                texts.number(1234.5),
                stockWords({ stock: 2 })[1],
                stockWords({ stock: 1234 })[1],
              ];
            }"""
        )
        assert told == [
            "Live",
            "1.234,56\N{NO-BREAK SPACE}€",
            "1.234,5",
            "Nur noch 2 da",
            "1.234 vorrätig",
        ]
