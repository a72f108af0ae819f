"""Pages in English and German, and a catalog that has neither gaps nor leftovers."""

import importlib.util
from pathlib import Path

import pytest

from flagon_auth import i18n
from flagon_auth.i18n import LazyText, gettext, ngettext, speaking

from .conftest import PASSWORD, Browser

ROOT = Path(__file__).parents[3]


def page(browser, path, **options):
    return browser.get(path, **options).get_data(as_text=True)


def german(browser):
    return {"headers": {"Accept-Language": "de-CH,de;q=0.9,en;q=0.5"}}


class TestChoosing:
    def test_speaks_english_where_nothing_fits(self, browser):
        options = {"headers": {"Accept-Language": "tlh"}}

        assert '<html lang="en">' in page(browser, "/login", **options)
        assert '<html lang="en">' in page(browser, "/login")

    def test_follows_the_browser(self, browser):
        answer = browser.get("/login", **german(browser))

        assert '<html lang="de">' in answer.get_data(as_text=True)
        assert "Willkommen zurück" in answer.get_data(as_text=True)
        assert answer.headers["Content-Language"] == "de"

    def test_follows_the_client_before_the_browser(self, browser):
        waiting = "/login?next=%2Foauth%2Fauthorize%3Fui_locales%3Dfr-CA%2Bde"

        assert '<html lang="de">' in page(browser, waiting)
        assert '<html lang="de">' in page(browser, "/login?ui_locales=de")
        assert '<html lang="en">' in page(
            browser, "/login?ui_locales=en", **german(browser)
        )

    def test_keeps_the_clients_language_when_the_form_comes_back(self, browser):
        hidden = browser.form("/login?next=%2Foauth%2Fauthorize%3Fui_locales%3Dde")
        given = {**hidden, "email": "ada@flagon.test", "password": "wrong-" + PASSWORD}

        answer = browser.post("/login", given)

        assert answer.status_code == 422
        assert "stimmt nicht" in answer.get_data(as_text=True)

    def test_a_choice_counts_most_and_makes_no_session(self, browser):
        answer = browser.get("/account/language/de?next=/register")

        assert (answer.status_code, answer.location) == (303, "/register")
        assert list(browser.cookies()) == [i18n.COOKIE]
        assert '<html lang="de">' in page(browser, "/login?ui_locales=en")

    def test_does_not_lead_to_strangers(self, browser):
        answer = browser.get("/account/language/de?next=//evil.test")

        assert answer.location == "/account"

    def test_knows_only_the_languages_there_are(self, browser):
        assert browser.get("/account/language/xx").status_code == 404
        browser.http.set_cookie(i18n.COOKIE, "../../etc")
        assert '<html lang="en">' in page(browser, "/login")

    def test_cookie_is_secure_over_https(self, app):
        browser = Browser(app, "https")
        told = browser.get("/account/language/de").headers["Set-Cookie"]

        assert "Secure" in told
        assert "HttpOnly" in told
        assert "SameSite=Lax" in told

    def test_offers_the_other_language_for_the_same_page(self, browser):
        shown = page(browser, "/login?next=/products")

        assert 'href="/account/language/de?next=%2Flogin%3Fnext%3D%2Fproducts"' in shown
        assert '<span lang="en" aria-current="true">English</span>' in shown

    def test_survives_a_form_that_is_too_long_to_read(self, browser):
        answer = browser.post("/login", {"email": "x" * (1 << 21)})

        assert answer.status_code in {400, 413}

    def test_errors_of_fields_are_translated(self, browser):
        browser.get("/account/language/de")
        hidden = browser.form("/register")

        answer = browser.post(
            "/register", {**hidden, "name": "", "email": "a@b.test", "password": "kurz"}
        )

        shown = answer.get_data(as_text=True)
        assert "Dieses Feld wird benötigt." in shown
        assert "zwischen 12 und 128 Zeichen" in shown

    @pytest.mark.parametrize(
        ("language", "words"),
        [
            ("en", "tell support the number of your request"),
            ("de", "nennen Sie dem Support die Nummer Ihrer Anfrage"),
        ],
    )
    def test_errors_say_what_to_do_with_the_id_as_it_was_accepted(
        self, browser, language, words
    ):
        for given in ("one-of-a-gateway", "<svg onload=alert(1)>", ""):
            answer = browser.get(
                "/account/language/xx",
                headers={
                    "Accept": "text/html",
                    "Accept-Language": language,
                    "X-Request-ID": given,
                },
            )

            accepted = answer.headers["X-Request-ID"]
            assert (accepted == given) is (given == "one-of-a-gateway")
            assert words in answer.text
            assert f'<code dir="ltr">{accepted}</code>' in answer.text
            assert "<svg onload" not in answer.text


class TestTexts:
    def test_for_somebody_else_are_in_their_language(self):
        with speaking("de"):
            assert gettext("Sign in") == "Anmelden"
            assert ngettext("a minute", "%(num)s minutes", 3) == "3 Minuten"
            with speaking("fr"):
                assert gettext("Sign in") == "Sign in"
            assert str(LazyText("Sign in")) == "Anmelden"

        assert gettext("Sign in") == "Sign in"
        assert gettext("") == ""
        assert gettext("100 %") == "100 %"


class TestCatalogs:
    @pytest.mark.parametrize(
        "language", [code for code in i18n.LANGUAGES if code != "en"]
    )
    def test_are_complete_compiled_and_without_leftovers(self, language):
        spec = importlib.util.spec_from_file_location(
            "translations", ROOT / "deploy" / "translations.py"
        )
        translations = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(translations)

        assert translations.complaints("auth", language) == []
        assert not translations.translated("auth", language).obsolete
