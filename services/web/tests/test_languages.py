"""Pages in English and German: how the language is chosen, and what it changes."""

import json
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from babel.numbers import format_currency, format_decimal

from flagon_chassis.languages import COOKIE
from flagon_web import i18n
from flagon_web.domain import money, terms
from flagon_web.i18n import LANGUAGES, speaking

from .conftest import ISSUER

GERMAN = {"Accept-Language": "de-CH,de;q=0.9,en;q=0.5"}
OURS = {"Origin": ISSUER}


class TestPages:
    def test_speak_english_where_nothing_fits(self, browser):
        answer = browser.get("/", headers={"Accept-Language": "tlh"})

        assert '<html lang="en" dir="ltr">' in answer.text
        assert answer.headers["Content-Language"] == "en"

    def test_follow_the_browser(self, browser, platform, product_with):
        platform.add(product_with(price_minor=123_456, stock=2))

        answer = browser.get("/", headers=GERMAN)

        assert '<html lang="de" dir="ltr">' in answer.text
        assert answer.headers["Content-Language"] == "de"
        assert "Gute Bücher, frei ausgeschenkt." in answer.text
        assert "1.234,56\N{NO-BREAK SPACE}€" in answer.text
        assert "Nur noch 2 da" in answer.text
        assert "words.de.js?v=" in answer.text

    def test_tell_caches_what_they_depend_on(self, browser):
        for path in ("/", "/status", "/search?q=x", "/nothing-like-this"):
            headers = browser.get(path, headers={"Accept": "text/html"}).headers
            assert {"Accept-Language", "Cookie"} <= set(headers["Vary"].split(", "))
            kept = headers["Cache-Control"]
            assert "private" in kept or "no-store" in kept, path

    def test_have_the_same_address_in_each_language(self, browser, platform):
        def links(headers):
            text = browser.get("/", headers=headers).text
            found = [part.split('"')[0] for part in text.split('href="')[1:]]
            return [link for link in found if not link.startswith("/static/")]

        assert links({}) == links(GERMAN)

    def test_of_errors_are_translated(self, browser):
        answer = browser.get(
            "/nothing-like-this", headers={**GERMAN, "Accept": "text/html"}
        )

        assert "Diese Seite gibt es nicht" in answer.text

    def test_of_the_back_office_are_translated(
        self, operator, platform, a_job, a_schedule
    ):
        job = a_job("succeeded", result={"created": 1234})
        platform.jobs[job["id"]] = job
        a_schedule(cron=None, interval_seconds=300)

        jobs = operator.get("/jobs", headers=GERMAN).text
        assert "Import von books.csv" in jobs
        assert "Gelungen" in jobs
        assert "1.234 angelegt" in jobs
        assert "2. Jan. 2026, 03:04 UTC" in jobs
        schedules = operator.get("/back-office/schedules", headers=GERMAN).text
        assert "alle 5 Minuten" in schedules

    def test_of_forms_say_in_german_what_is_wrong(self, operator):
        answer = operator.post(
            "/back-office/schedules/new",
            {"csrf_token": operator.csrf(), "timing": "cron", "params": "{"},
            headers=GERMAN,
        )

        assert answer.status_code == 422
        assert "Dieses Feld wird benötigt." in answer.text
        assert "Das ist kein JSON." in answer.text
        assert "Sieh dir die markierten Felder an." in answer.text

    def test_say_what_was_done_in_german(self, operator, a_schedule):
        found = a_schedule()
        path = f"/back-office/schedules/{found['id']}"

        operator.post(f"{path}/pause", {"csrf_token": operator.csrf()}, headers=GERMAN)

        assert "Er ruht." in operator.get(path, headers=GERMAN).text


class TestChooseLanguage:
    def test_remembers_it_and_makes_no_session(self, browser):
        answer = browser.post(
            "/language", {"language": "de", "back": "/search?q=a"}, headers=OURS
        )

        assert (answer.status_code, answer.location) == (303, "/search?q=a")
        cookies = answer.headers.getlist("Set-Cookie")
        assert [cookie.split("=")[0] for cookie in cookies] == [COOKIE]
        assert "HttpOnly" in cookies[0]
        text = browser.get("/", headers={"Accept-Language": "en"}).text
        assert '<html lang="de"' in text

    def test_is_offered_on_each_page_for_the_same_page(self, browser):
        text = browser.get("/search?q=a%20b").text

        assert '<input type="hidden" name="back" value="/search?q=a%20b">' in text
        assert 'value="en" lang="en" aria-pressed="true">English' in text
        assert 'value="de" lang="de" aria-pressed="false">Deutsch' in text
        # A form of strangers begins no session.
        assert "Set-Cookie" not in browser.get("/").headers

    @pytest.mark.parametrize(
        "back",
        [
            "//evil.example",
            "https://evil.example/",
            "/\\evil.example",
            "javascript:alert(1)",
            "/\t/evil.example",
            "",
        ],
    )
    def test_leads_to_no_other_site(self, browser, back):
        answer = browser.post(
            "/language", {"language": "de", "back": back}, headers=OURS
        )

        assert answer.location == "/"

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Referer": "https://evil.example/http://localhost/"},
            {"Origin": "http://localhost.evil.example"},
            {"Origin": "https://localhost"},
            {"Origin": "http://localhost:81"},
        ],
    )
    def test_refuses_forms_of_others(self, browser, headers):
        answer = browser.post("/language", {"language": "de"}, headers=headers)

        assert answer.status_code == 400
        assert COOKIE not in str(answer.headers.getlist("Set-Cookie"))

    def test_takes_our_referrer_where_no_origin_is_sent(self, browser):
        sent = {"Referer": f"{ISSUER}/search"}

        assert (
            browser.post("/language", {"language": "de"}, headers=sent).status_code
            == 303
        )

    def test_of_a_person_needs_the_token_of_the_session(self, operator):
        refused = operator.post("/language", {"language": "de"}, headers=OURS)
        data = {"language": "de", "csrf_token": operator.csrf()}

        assert refused.status_code == 400
        assert operator.post("/language", data, headers=OURS).status_code == 303

    @pytest.mark.parametrize("code", ["xx", "../../etc", "", "de\r\nSet-Cookie: a=b"])
    def test_knows_only_the_languages_there_are(self, browser, code):
        answer = browser.post("/language", {"language": code}, headers=OURS)

        assert answer.status_code == 400
        assert "Set-Cookie" not in answer.headers


class TestNumbers:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_are_written_as_cldr_says(self, language):
        chance = random.Random(5)
        with speaking(language):
            for _ in range(200):
                count = chance.randrange(10 ** chance.randrange(1, 12))
                assert i18n.number(count) == format_decimal(count, locale=language)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_of_money_are_written_as_cldr_says(self, language):
        chance = random.Random(6)
        with speaking(language):
            for currency in (*money.CURRENCIES, "KRW", "INR", "KWD", "CAD", "BRL"):
                minor = chance.randrange(10**8)
                value = Decimal(minor).scaleb(-money.decimals(currency))
                told = format_currency(value, currency, locale=language)
                # CLDR also wants a space after a symbol of letters, which Babel leaves
                # out and browsers write.
                ours = money.readable(minor, currency)
                assert ours.replace("\xa0", "") == told.replace("\xa0", "")
                symbol = told.rstrip("0123456789.,")
                assert ("\xa0" in ours) == (language == "de" or symbol[-1].isalpha())

    def test_of_files_have_few_digits(self):
        with speaking("de"):
            told = [i18n.size(count) for count in (9, 1234, 5_600_000, 7 * 10**12)]

        assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in told] == [
            "9 B",
            "1,2 kB",
            "5,6 MB",
            "7.000,0 GB",
        ]

    def test_come_back_as_people_write_them(self):
        with speaking("de"):
            assert money.writable(123_456, "EUR") == "1234,56"
            assert money.minor_units("1234,56", "EUR") == 123_456

    def test_of_a_form_escape_what_they_show(self):
        shown = i18n.ngettext_html("%(num)s %(x)s", "%(num)s %(x)s", 1234, x="<b>")

        assert shown == "1,234 &lt;b&gt;"


class TestTimes:
    def test_are_in_the_order_of_the_language(self):
        at = datetime(2026, 3, 2, 3, 4, tzinfo=UTC)

        assert i18n.date_time(at) == "2 Mar 2026, 03:04 UTC"
        with speaking("de"):
            assert i18n.date_time(at) == "2. März 2026, 03:04 UTC"


class TestTerms:
    def test_of_other_services_are_translated(self):
        with speaking("de"):
            assert terms.term("handed_back") == "zurückgegeben"
            assert terms.term("Something new") == "Something new"
            assert terms.term("_") == "_"
            assert terms.term("") == ""

    def test_of_failures_are_known(self, app):
        """A failure's title is shown on the page of the error."""
        from flagon_web.clients import identity, sessions, spool
        from flagon_web.domain import imports
        from flagon_web.routes import access

        for failure in (
            identity.SignInUnavailable,
            identity.SignInRefused,
            identity.ProviderUntrusted,
            sessions.SessionStoreDown,
            sessions.RefreshBusy,
            spool.UploadGone,
            money.AmountUnreadable,
            imports.FileUnreadable,
            imports.MappingIncomplete,
            access.ScopeMissing,
        ):
            assert failure.__doc__ in terms.TERMS


class TestScripts:
    def test_get_their_words_by_language(self, browser):
        answer = browser.get("/static/js/words.de.js")
        words = json.loads(answer.text.partition("export default ")[2].rstrip(";\n"))
        answer.close()

        assert words["Only %(num)s left"] == ["Nur noch %(num)s da"] * 2
        assert words["Live"] == "Live"
