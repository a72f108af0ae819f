"""Signing in: the page, the session and what slows guessing down."""

import re
from unittest.mock import patch

import pytest
from sqlalchemy import text

from flagon_auth.domain.addresses import HOME, safe_next
from flagon_auth.domain.passwords import Hasher
from flagon_chassis import db

from .conftest import PASSWORD, Browser, fields, login_path, me

WRONG = "not the password at all"


def body_without_tokens(response):
    page = response.get_data(as_text=True)
    hidden = fields(response)
    nonce = page.split('nonce="')[1].split('"')[0]
    # The challenge of passkeys is random as well.
    page = re.sub(r'data-options="[^"]*"', "", page)
    return page.replace(hidden["csrf_token"], "-").replace(nonce, "-")


class TestLogin:
    def test_leads_to_the_account(self, browser, person):
        person()

        answer = browser.sign_in()
        page = browser.get(answer.location).get_data(as_text=True)

        assert answer.status_code == 303
        assert "ada@flagon.test" in page
        assert "customer" in page

    def test_reads_the_address_however_it_is_written(self, browser, person):
        person()

        assert browser.sign_in(" ADA@Flagon.test ").status_code == 303

    def test_who_is_signed_in_goes_straight_on(self, ada):
        answer = ada.get("/login?next=/products/x")

        assert (answer.status_code, answer.location) == (303, "/products/x")

    def test_account_page_asks_a_stranger_to_sign_in(self, browser):
        assert browser.get("/account").location == "/login?next=%2Faccount"

    def test_rehashes_an_outdated_hash(self, app, parts, person):
        person()
        with patch.object(parts.hasher, "_argon2", Hasher()._argon2):
            Browser(app).sign_in()

        with app.app_context(), db.transaction() as session:
            new = session.scalar(text("select password_hash from account"))
        assert new.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert Browser(app).sign_in().status_code == 303

    def test_keeps_the_page_of_a_field_that_is_missing(self, browser):
        answer = browser.post("/login", {**browser.form("/login"), "email": "a@b.c"})

        assert answer.status_code == 422
        assert 'value="a@b.c"' in answer.get_data(as_text=True)

    def test_never_shows_the_password_again(self, browser):
        answer = browser.sign_in(password=WRONG)

        assert WRONG not in answer.get_data(as_text=True)

    def test_gives_up_when_too_many_hash(self, make_app, person, store):
        person()
        other = make_app()
        parts = other.extensions["flagon.auth"]
        browser = Browser(other)
        with (
            patch.object(parts.hasher, "_wait_seconds", 0.01),
            patch.object(parts.hasher._turns, "acquire", return_value=False),
        ):
            answer = browser.sign_in()

        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "2"
        # It was not the caller's fault, so it does not count against them.
        counters = [store.hget(key, "n") for key in store.keys("auth:attempts:*")]
        assert set(counters) == {"0"}


class TestEnumeration:
    """Nobody learns which addresses have an account."""

    def test_unknown_wrong_and_disabled_look_alike(self, browser, person):
        person()
        person("gone@flagon.test", disabled=True)

        answers = [
            browser.sign_in("ada@flagon.test", WRONG),
            browser.sign_in("eve@flagon.test", WRONG),
            browser.sign_in("gone@flagon.test", PASSWORD),
            browser.sign_in("no address", WRONG),
            browser.sign_in("ada@flagon.test", PASSWORD + "x" * 200),
        ]
        pages = {
            body_without_tokens(answer).replace(email, "-")
            for answer, email in zip(
                answers,
                [
                    "ada@flagon.test",
                    "eve@flagon.test",
                    "gone@flagon.test",
                    "no address",
                    "ada@flagon.test",
                ],
                strict=True,
            )
        }

        assert {answer.status_code for answer in answers} == {422}
        assert len(pages) == 1

    @pytest.mark.parametrize("email", ["ada@flagon.test", "eve@flagon.test", "rubbish"])
    def test_every_attempt_costs_one_hash(self, browser, person, parts, email):
        person()
        real = Hasher.matches
        with patch.object(Hasher, "matches", autospec=True, side_effect=real) as spy:
            browser.sign_in(email, WRONG)

        assert spy.call_count == 1

    def test_a_dummy_hash_is_as_dear_as_a_real_one(self):
        hasher = Hasher()

        assert not hasher.outdated(hasher._dummy)
        assert not hasher.matches(None, "no account has this password")

    @pytest.mark.parametrize("value", ["a\0b@c.test", "x" * 300, "", "a@b", "@"])
    def test_hostile_addresses_are_just_wrong(self, browser, value):
        assert browser.sign_in(value, WRONG).status_code == 422


class TestSession:
    def test_fixation_is_impossible(self, app, person):
        person()
        victim, attacker = Browser(app), Browser(app)
        attacker.get("/login")
        planted = attacker.cookies()["flagon_login"].value
        victim.http.set_cookie("flagon_login", planted)

        victim.sign_in()

        assert victim.cookies()["flagon_login"].value != planted
        assert attacker.get("/account").status_code == 303

    def test_unknown_id_is_not_adopted(self, app, person):
        person()
        browser = Browser(app)
        browser.http.set_cookie("flagon_login", "A" * 43)

        browser.get("/login")

        assert browser.cookies()["flagon_login"].value != "A" * 43

    @pytest.mark.parametrize("value", ["", "short", "A" * 44, "ü" * 43, "a b"])
    def test_malformed_id_is_ignored(self, app, value):
        browser = Browser(app)
        browser.http.set_cookie("flagon_login", value)

        assert browser.get("/login").status_code == 200

    def test_cookie_over_http_is_for_us_and_not_for_scripts(self, browser):
        header = browser.get("/login").headers["Set-Cookie"]

        assert header.startswith("flagon_login=")
        assert "HttpOnly" in header
        assert "SameSite=Lax" in header
        assert "Path=/" in header
        assert "Secure" not in header
        assert "Domain" not in header

    def test_cookie_over_https_is_bound_to_the_host(self, app):
        header = Browser(app, "https").get("/login").headers["Set-Cookie"]

        assert header.startswith("__Host-flagon_login=")
        assert "Secure" in header
        assert "Path=/" in header
        assert "Domain" not in header

    def test_over_https_signs_in_and_out(self, app, person):
        person()
        browser = Browser(app, "https")
        browser.sign_in()

        page = browser.get("/account")
        browser.post("/account/sign-out", fields(page))

        assert page.status_code == 200
        assert set(browser.cookies()) == {"__Host-flagon_login_device"}

    def test_name_is_a_setting(self, make_app):
        other = make_app(session_cookie="flagon_login_9000")

        header = Browser(other).get("/login").headers["Set-Cookie"]

        assert header.startswith("flagon_login_9000=")

    def test_is_stored_under_a_hash(self, ada, store):
        cookie = ada.cookies()["flagon_login"].value
        stored = [key + str(dump(store, key)) for key in store.keys("*")]

        assert stored
        assert not any(cookie in entry for entry in stored)

    def test_ends_when_it_is_idle(self, ada, store):
        key = session_key(store)

        assert 0 < store.ttl(key) <= 1800

    def test_ends_after_twelve_hours_whatever_happens(self, ada, parts):
        clock = parts.sessions._clock
        with patch.object(parts.sessions, "_clock", lambda: clock() + 12 * 3600 + 1):
            assert ada.get("/account").status_code == 303

    def test_is_kept_while_it_is_used(self, ada, parts, store):
        clock = parts.sessions._clock
        key = session_key(store)
        ada.get("/account")
        store.expire(key, 100)
        ada.get("/account")
        untouched = store.ttl(key)

        with patch.object(parts.sessions, "_clock", lambda: clock() + 120):
            ada.get("/account")

        assert untouched <= 100
        assert store.ttl(key) > 1700

    def test_that_was_ended_elsewhere_is_not_brought_back(self, ada, parts, store):
        store.delete(session_key(store))
        with ada.http.session_transaction(base_url="http://localhost") as session:
            session["x"] = 1

        assert ada.get("/account").status_code == 303

    def test_is_not_revived_by_a_request_that_was_under_way(self, ada, parts, store):
        with ada.http.session_transaction(base_url="http://localhost") as session:
            assert session["sid"]
            store.delete(session_key(store))
            session["x"] = 1

        assert ada.get("/account").status_code == 303

    def test_of_a_disabled_account_counts_for_nothing(self, ada, app):
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set disabled = true"))

        assert ada.get("/account").status_code == 303
        assert ada.authorize().status_code == 303

    def test_of_somebody_else_in_the_same_browser_ends(self, ada, app, person):
        person("bob@flagon.test")
        hers = ada.tokens()
        first = ada.authorize(prompt="login")

        ada.sign_in("bob@flagon.test", path=first.location)

        assert me(app, hers).status_code == 401

    def test_of_the_same_person_keeps_its_tokens(self, ada, app):
        mine = ada.tokens()

        ada.sign_in(path=ada.authorize(prompt="login").location)

        assert me(app, mine).status_code == 200

    def test_is_not_looked_at_for_a_request_with_a_token(self, ada, app, parts):
        answer = ada.tokens()
        with patch.object(parts.sessions, "read", side_effect=AssertionError):
            found = ada.get(
                "/api/v1/me",
                headers={"Authorization": f"Bearer {answer['access_token']}"},
            )

        assert found.status_code == 200
        assert "Set-Cookie" not in found.headers


def session_key(store):
    (key,) = [
        key for key in store.keys("auth:session:*") if '"sid"' in (store.get(key) or "")
    ]
    return key


def dump(store, key):
    read = {"string": store.get, "hash": store.hgetall}.get(store.type(key))
    return read(key) if read else store.zrange(key, 0, -1)


class TestCsrf:
    @pytest.mark.parametrize(
        "path", ["/login", "/register", "/oauth/consent", "/account/sign-out"]
    )
    def test_guards_every_form(self, ada, path):
        assert ada.post(path, {"email": "a@b.test"}).status_code == 400
        assert ada.post(path, {"csrf_token": "x"}).status_code == 400

    def test_token_of_another_session_is_no_good(self, ada, app):
        stolen = Browser(app).form("/login")["csrf_token"]

        answer = ada.post("/account/sign-out", {"csrf_token": stolen})

        assert answer.status_code == 400
        assert ada.get("/account").status_code == 200

    def test_failure_is_told_to_people(self, browser):
        page = browser.post("/login", {}).get_data(as_text=True)

        assert "open for too long" in page


class TestOpenRedirect:
    @pytest.mark.parametrize(
        "hostile",
        [
            "https://evil.test/",
            "//evil.test/",
            "///evil.test/",
            "/\\evil.test",
            "\\/evil.test",
            "/\t/evil.test",
            "/\n/evil.test",
            "/%0d\r\nLocation:x",
            "/path\\..",
            "javascript:alert(1)",
            "evil.test",
            " /account",
            "/ü",
            "/a b",
            "",
            "/" + "x" * 9000,
        ],
    )
    def test_next_leads_nowhere_else(self, browser, person, hostile):
        person()
        hidden = browser.form("/login")

        answer = browser.post(
            "/login",
            {
                **hidden,
                "next": hostile,
                "email": "ada@flagon.test",
                "password": PASSWORD,
            },
        )

        assert safe_next(hostile) == HOME
        assert answer.location == HOME

    @pytest.mark.parametrize("own", ["/", "/account", "/oauth/authorize?a=b&c=%2F%2Fd"])
    def test_next_leads_to_our_own_pages(self, own):
        assert safe_next(own) == own

    def test_nothing_asked_for_leads_home(self):
        assert safe_next(None) == HOME


class TestThrottling:
    def settings(self, **changes):
        return {
            "login_pair_limit": 5,
            "login_account_limit": 8,
            "login_address_limit": 12,
            **changes,
        }

    def test_stops_guessing_after_the_limit(self, make_app, person):
        person()
        browser = Browser(make_app(**self.settings()))

        wrong = [browser.sign_in(password=WRONG).status_code for _ in range(7)]
        right = browser.sign_in()

        assert wrong == [422] * 5 + [429] * 2
        assert right.status_code == 429
        assert 0 < int(right.headers["Retry-After"]) <= 60
        assert "Too many attempts" in right.get_data(as_text=True)

    def test_does_not_count_success(self, make_app, person):
        person()
        other = make_app(**self.settings(login_pair_limit=2))

        found = [Browser(other).sign_in().status_code for _ in range(5)]

        assert found == [303] * 5

    def test_counts_an_account_from_everywhere(self, make_app, person):
        person()
        browser = Browser(make_app(**self.settings()))
        hidden = browser.form("/login")

        def attempt(address):
            return browser.post(
                "/login",
                {**hidden, "email": "ada@flagon.test", "password": WRONG},
                headers={"X-Forwarded-For": address},
            ).status_code

        found = [attempt(f"192.0.2.{number}") for number in range(10)]

        assert found == [422] * 8 + [429] * 2

    def test_counts_an_address_over_all_accounts(self, make_app):
        browser = Browser(make_app(**self.settings()))

        found = [
            browser.sign_in(f"nobody{number}@flagon.test", WRONG).status_code
            for number in range(14)
        ]

        assert found == [422] * 12 + [429] * 2

    def test_counts_an_ipv6_network_as_one_place(self, make_app, person):
        person()
        browser = Browser(make_app(**self.settings()))
        hidden = browser.form("/login")

        found = [
            browser.post(
                "/login",
                {**hidden, "email": "ada@flagon.test", "password": WRONG},
                headers={"X-Forwarded-For": f"2001:db8::{number}"},
            ).status_code
            for number in range(6)
        ]

        assert found == [422] * 5 + [429]

    def test_of_a_caller_without_an_address_counts_as_well(self, make_app, person):
        person()
        browser = Browser(make_app(**self.settings()))
        hidden = browser.form("/login")

        found = browser.post(
            "/login",
            {**hidden, "email": "ada@flagon.test", "password": WRONG},
            environ_overrides={"REMOTE_ADDR": "not an address"},
        )

        assert found.status_code == 422

    def test_counters_name_no_account(self, browser, store):
        browser.sign_in(password=WRONG)

        assert not [key for key in store.keys("auth:attempts:*") if "ada@" in key]


def foreign_scripts(answer):
    """Return the scripts and handlers of a page that its policy would not run."""
    page = answer.get_data(as_text=True)
    policy = answer.headers["Content-Security-Policy"]
    nonce = page.split('nonce="')[1].split('"')[0]
    own = f'<script nonce="{nonce}">'
    if own in page:
        assert f"script-src 'nonce-{nonce}'" in policy
    tags = re.findall(r"<script[^>]*>", page)
    return [tag for tag in tags if tag != own] + re.findall(r"\son[a-z]+=", page)


class TestPages:
    @pytest.mark.parametrize("path", ["/login", "/register", login_path()])
    def test_load_nothing_from_elsewhere(self, browser, path):
        answer = browser.get(path)
        policy = answer.headers["Content-Security-Policy"]

        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "unsafe" not in policy
        assert foreign_scripts(answer) == []
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"

    def test_style_carries_the_nonce_of_the_policy(self, browser):
        answer = browser.get("/login")
        page = answer.get_data(as_text=True)
        nonce = page.split('nonce="')[1].split('"')[0]

        assert f"style-src 'nonce-{nonce}'" in answer.headers["Content-Security-Policy"]

    def test_form_may_end_at_the_client_that_sent_the_person(self, browser):
        own = browser.get(login_path()).headers["Content-Security-Policy"]
        forged = browser.get(login_path(redirect_uri="https://evil.test")).headers

        assert "form-action 'self' http://localhost;" in own
        assert "evil" not in forged["Content-Security-Policy"]

    def test_escape_what_a_caller_writes(self, browser):
        answer = browser.get('/login?login_hint="><script>alert(1)</script>')

        assert "<script>" not in answer.get_data(as_text=True)
        assert foreign_scripts(answer) == []

    def test_unknown_page_is_a_page_for_people(self, browser):
        answer = browser.get("/account/nothing", headers={"Accept": "text/html"})

        assert answer.status_code == 404
        assert answer.mimetype == "text/html"

    def test_unknown_page_is_a_problem_for_programs(self, browser):
        answer = browser.get("/account/nothing")

        assert answer.mimetype == "application/problem+json"
