"""The shop in German, as a browser shows it, and what lies between it and the shop."""

import pytest
from playwright.sync_api import expect


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
