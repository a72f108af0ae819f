"""The own account: sessions, activity, profile, export and deletion."""

import ast
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

import flagon_auth
from flagon_auth.domain import audit
from flagon_auth.domain.actions import WORDS, spoken_action
from flagon_auth.domain.browsers import named
from flagon_chassis import db

from .conftest import PASSWORD, Browser, claims_of, fields, me, refresh
from .factors import age_session

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)


def run(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        session.execute(text(statement), values)


def rows(app, statement):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(statement)).all()


def browser_with(app, agent, address="203.0.113.7"):
    browser = Browser(app)
    browser.http.environ_base.update(HTTP_USER_AGENT=agent, REMOTE_ADDR=address)
    return browser


class TestPages:
    @pytest.mark.parametrize(
        "path",
        [
            "/account",
            "/account/profile",
            "/account/email",
            "/account/email/change",
            "/account/password",
            "/account/sessions",
            "/account/activity",
            "/account/data",
            "/account/delete",
        ],
    )
    def test_are_for_people_who_are_signed_in(self, browser, person, path):
        there = browser.get(path)
        person()
        browser.sign_in(path=there.location)

        assert there.status_code == 303
        assert there.location.startswith("/login?next=%2Faccount")
        shown = browser.get(path)
        assert shown.status_code == 200
        assert 'aria-label="Your account"' in shown.text

    def test_menu_marks_where_one_is(self, ada):
        shown = ada.get("/account/profile").text

        assert '<a href="/account/profile" aria-current="page">' in shown
        assert shown.count("aria-current=") == 3

    @pytest.mark.parametrize(
        "path",
        [
            "/account/sessions/end",
            "/account/sessions/end-others",
            "/account/profile",
            "/account/export",
            "/account/delete",
        ],
    )
    def test_posts_are_for_people_who_are_signed_in(self, browser, path):
        hidden = browser.form("/login")

        assert browser.post(path, hidden).location.startswith("/login?")

    @pytest.mark.parametrize(
        "path", ["/account/sessions/end-others", "/account/delete", "/account/export"]
    )
    def test_cross_site_request_forgery_is_refused(self, ada, path):
        assert ada.post(path, {"email": "ada@flagon.test"}).status_code == 400
        assert ada.get("/account").status_code == 200


class TestSessions:
    def test_show_browser_place_and_this_one(self, app, person):
        person()
        phone = browser_with(app, IPHONE, "203.0.113.9")
        desk = browser_with(app, FIREFOX)
        phone.sign_in()
        desk.sign_in()

        shown = desk.get("/account/sessions").text

        assert shown.index("Firefox on Linux") < shown.index("Safari on iOS")
        assert shown.count("this one") == 1
        assert "203.0.113.9" in shown
        assert shown.count("<time datetime=") == 4

    def test_one_is_ended_with_its_tokens_within_a_second(self, app, ada):
        other = Browser(app)
        other.sign_in()
        token = other.tokens()
        sid = claims_of(token["access_token"])["sid"]
        hidden = ada.form("/account/sessions")

        answer = ada.post("/account/sessions/end", {**hidden, "choice": sid})

        assert answer.status_code == 303
        assert other.get("/account").status_code == 303
        assert me(app, token).status_code == 401
        assert refresh(app, token["refresh_token"]).status_code == 400
        assert ada.get("/account").status_code == 200

    def test_somebody_elses_session_cannot_be_ended(self, app, ada, person):
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        sid = claims_of(bob.tokens()["access_token"])["sid"]
        hidden = ada.form("/account/sessions")

        ada.post("/account/sessions/end", {**hidden, "choice": sid})

        assert bob.get("/account").status_code == 200

    def test_this_one_is_a_sign_out(self, ada, parts):
        (sid,) = parts.sessions.sids(ada.account.id)
        hidden = ada.form("/account/sessions")

        answer = ada.post("/account/sessions/end", {**hidden, "choice": sid})

        assert answer.location == "/login"
        assert ada.get("/account").status_code == 303

    def test_all_others_are_ended_at_once(self, app, ada):
        others = [Browser(app) for _ in range(3)]
        for other in others:
            other.sign_in()
        hidden = ada.form("/account/sessions")

        ada.post("/account/sessions/end-others", hidden)

        assert [other.get("/account").status_code for other in others] == [303] * 3
        assert ada.get("/account").status_code == 200
        assert ada.get("/account/sessions").text.count("/account/sessions/end") == 1

    def test_ones_that_have_run_out_are_not_shown(self, app, ada, parts, store):
        other = Browser(app)
        other.sign_in()
        for key in store.keys("auth:session:*"):
            content = json.loads(store.get(key))
            if content["data"].get("sid") != parts.sessions.sids(ada.account.id)[0]:
                content["created"] -= 13 * 3600
                store.set(key, json.dumps(content), keepttl=True)

        assert len(parts.sessions.list_active(ada.account.id)) == 1

    @pytest.mark.parametrize(
        ("agent", "said"),
        [
            (FIREFOX, "Firefox on Linux"),
            (IPHONE, "Safari on iOS"),
            (
                "Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36 Edg/140.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            ("curl/8.5.0", "curl"),
            ("<script>", "Unknown browser"),
            ("", "Unknown browser"),
        ],
    )
    def test_browsers_have_names(self, agent, said):
        assert named(agent) == said

    def test_a_browsers_own_words_are_escaped(self, app, person):
        person()
        evil = browser_with(app, '"><script>alert(1)</script>')
        evil.sign_in()

        assert "<script>alert" not in evil.get("/account/sessions").text


class TestSessionStore:
    def test_anonymous_session_is_short(self, app, browser, store):
        browser.get("/login")
        (key,) = store.keys("auth:session:*")

        assert 0 < store.ttl(key) <= 900

    def test_signed_in_session_is_as_long_as_the_idle_limit(self, ada, store):
        ages = sorted(store.ttl(key) for key in store.keys("auth:session:*"))

        assert 1790 < ages[-1] <= 1800

    @pytest.mark.parametrize(
        "path",
        [
            "/account",
            "/password/sent",
            "/password/done",
            "/account/deleted",
            "/account/language/de",
            "/nothing",
            "/verify-email?code=x",
            "/.well-known/openid-configuration",
        ],
    )
    def test_an_anonymous_get_writes_no_session(self, app, browser, store, path):
        answer = browser.get(path)

        assert answer.status_code < 500
        assert store.keys("auth:session:*") == []

    def test_cookie_has_the_host_prefix_over_https(self, app, person):
        person()
        browser = Browser(app, "https")
        told = browser.sign_in().headers.getlist("Set-Cookie")
        (cookie,) = [one for one in told if one.startswith("__Host-flagon_login=")]

        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(
            cookie.split("; ")
        )
        assert "Domain" not in cookie


class TestActivity:
    def test_says_what_happened_in_words_and_where(self, app, person):
        person()
        browser = browser_with(app, FIREFOX, "203.0.113.77")
        browser.sign_in()

        english = browser.get("/account/activity").text
        browser.get("/account/language/de")
        german = browser.get("/account/activity").text

        assert "Signed in." in english
        assert "203.0.113.77" in english
        assert "Angemeldet." in german

    def test_goes_back_page_by_page(self, app, ada):
        with app.app_context(), db.transaction() as session:
            for _ in range(60):
                audit.record(
                    session,
                    "profile_changed",
                    account_id=ada.account.id,
                    now=datetime.now(UTC),
                )
        first = ada.get("/account/activity").text
        older = first.split('href="/account/activity?before=')[1].split('"')[0]
        second = ada.get(f"/account/activity?before={older}").text

        assert first.count("Name or language") == 50
        assert second.count("Name or language") == 10
        assert "?before=" not in second
        assert ada.get("/account/activity?before=1").status_code == 200
        assert ada.get("/account/activity?before=x").status_code == 200

    def test_shows_nothing_of_others(self, app, ada, person):
        other = person("bob@flagon.test")
        with app.app_context(), db.transaction() as session:
            audit.record(
                session, "totp_enabled", account_id=other.id, now=datetime.now(UTC)
            )

        assert "authenticator" not in ada.get("/account/activity").text

    def test_every_action_that_is_recorded_has_words(self):
        # What concerns clients and keys only has no account to be shown to.
        elsewhere = ("client_", "key_", "keys_", "service_", "signing_")
        found = set()
        for path in Path(flagon_auth.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name not in {"record", "record_and_tell"}:
                    continue
                found |= {
                    argument.value
                    for argument in node.args
                    if isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str)
                }

        nameless = {one for one in found - set(WORDS) if not one.startswith(elsewhere)}
        assert nameless == set()

    def test_action_without_words_is_shown_by_its_name(self):
        assert spoken_action("moon_landed") == "moon landed"


class TestProfile:
    def save(self, browser, **changes):
        hidden = browser.form("/account/profile")
        given = {"name": "Ada Lovelace", "locale": "de", **changes}
        return browser.post("/account/profile", {**hidden, **given})

    def test_changes_name_and_language(self, app, ada):
        assert self.save(ada).status_code == 303

        assert rows(app, "select name, locale, version from account") == [
            ("Ada Lovelace", "de", 2)
        ]
        shown = ada.get("/account/profile").text
        assert '<html lang="de">' in shown
        assert 'value="Ada Lovelace"' in shown

    def test_what_is_the_same_is_no_event(self, app, ada):
        self.save(ada)
        self.save(ada)

        found = rows(
            app,
            "select details from audit_event where action = 'profile_changed'"
            " and account_id in (select id from account)",
        )
        assert found == [({"changed": ["name", "locale"]},)]

    @pytest.mark.parametrize(
        "changes",
        [{"name": ""}, {"name": "a\u202eb"}, {"locale": "xx"}, {"locale": ""}],
    )
    def test_refuses_what_is_none(self, app, ada, changes):
        assert self.save(ada, **changes).status_code == 422
        assert rows(app, "select name from account") == [("Ada Example",)]

    def test_mails_come_in_the_language_of_the_account(self, app, ada, post):
        self.save(ada)
        Browser(app).post(
            "/password/forgot",
            {**Browser(app).form("/password/forgot"), "email": "x@x.test"},
        )
        browser = Browser(app)
        hidden = browser.form("/password/forgot")
        browser.post("/password/forgot", {**hidden, "email": "ada@flagon.test"})

        assert post.last("ada@flagon.test")["subject"] == "Neues Passwort wählen"


class TestExport:
    def export(self, browser):
        return browser.post("/account/export", browser.form("/account/data"))

    def test_holds_everything_about_the_person(self, ada):
        ada.tokens()

        answer = self.export(ada)

        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["Cache-Control"] == "no-store"
        assert set(answer.json) == {
            "profile",
            "consents",
            "grants",
            "sessions",
            "identities",
            "passkeys",
            "authenticator_apps",
            "recovery_codes",
            "api_keys",
            "events",
        }
        assert answer.json["profile"]["email"] == "ada@flagon.test"
        assert answer.json["grants"][0]["client_id"] == "web"
        assert answer.json["sessions"][0]["this_one"] is True
        assert "signed_in" in [one["action"] for one in answer.json["events"]]

    def test_holds_no_secret(self, app, ada, store):
        tokens = ada.tokens()
        cookie = ada.cookies()["flagon_login"].value
        ((phc,),) = rows(app, "select password_hash from account")

        exported = self.export(ada).text

        for secret in (
            PASSWORD,
            phc,
            cookie,
            *(str(value) for value in tokens.values()),
        ):
            if len(secret) > 12:
                assert secret not in exported or secret == tokens["scope"]

    def test_asks_for_a_fresh_sign_in(self, ada, store):
        hidden = ada.form("/account/data")
        age_session(store, 601)

        assert ada.post("/account/export", hidden).location.startswith("/login/again?")

    def test_is_limited(self, ada):
        assert [self.export(ada).status_code for _ in range(6)] == [200] * 5 + [429]


class TestDelete:
    def delete(self, browser, typed="ada@flagon.test"):
        hidden = browser.form("/account/delete")
        return browser.post("/account/delete", {**hidden, "email": typed})

    def test_leaves_no_row_but_the_audit_log(self, app, ada):
        ada.tokens()
        found = ada.account.id

        answer = self.delete(ada, " ADA@flagon.test ")

        assert (answer.status_code, answer.location) == (303, "/account/deleted")
        for table in ("account", "account_role", "token_grant", "refresh_token"):
            assert rows(app, f"select 1 from {table}") == []
        ((actor, address, details),) = rows(
            app,
            "select actor, address, details from audit_event"
            " where action = 'account_deleted'"
            f" and account_id = '{found}'",
        )
        assert (actor, address, details) == (str(found), None, {})

    def test_leaves_the_last_administrator(self, app, person):
        person("root@flagon.test", "admin")
        root = Browser(app)
        root.sign_in("root@flagon.test")

        answer = self.delete(root, "root@flagon.test")

        assert answer.status_code == 409
        assert "Nobody else may change accounts." in answer.get_data(as_text=True)
        assert len(rows(app, "select 1 from account_role")) == 1
        person("other@flagon.test", "admin")
        assert self.delete(root, "root@flagon.test").status_code == 303

    def test_ends_sessions_and_tokens_within_a_second(self, app, ada):
        other = Browser(app)
        other.sign_in()
        tokens = [ada.tokens(), other.tokens()]

        self.delete(ada)

        assert ada.get("/account").status_code == 303
        assert other.get("/account").status_code == 303
        assert [me(app, token).status_code for token in tokens] == [401, 401]
        assert refresh(app, tokens[0]["refresh_token"]).status_code == 400

    def test_tells_the_platform_without_naming_anybody(self, app, ada):
        found = str(ada.account.id)
        self.delete(ada)

        ((subject, body),) = rows(
            app,
            "select subject, body from outbox"
            " where name = 'market.flagon.user.deleted.v1'",
        )
        assert subject == found
        assert body["data"] == {"id": found}
        assert "@" not in str(body)

    def test_says_good_bye_and_keeps_no_address(self, app, ada, post):
        self.delete(ada)

        assert [mail["subject"] for mail in post.deliver()] == [
            "Your account was deleted"
        ]
        assert rows(app, "select 1 from mail") == []

    @pytest.mark.parametrize("typed", ["", "delete", "bob@flagon.test", "ada"])
    def test_asks_for_the_address(self, app, ada, typed):
        assert self.delete(ada, typed).status_code == 422
        assert rows(app, "select 1 from account") == [(1,)]

    def test_asks_for_a_fresh_sign_in(self, ada, store):
        hidden = ada.form("/account/delete")
        age_session(store, 601)

        answer = ada.post("/account/delete", {**hidden, "email": "ada@flagon.test"})

        assert answer.location.startswith("/login/again?")
        assert ada.get("/account").status_code == 200

    def test_the_address_can_be_registered_anew(self, app, ada):
        self.delete(ada)
        browser = Browser(app)
        hidden = browser.form("/register")
        given = {"name": "Ada", "email": "ada@flagon.test", "password": PASSWORD}
        browser.post("/register", {**hidden, **given})

        assert Browser(app).sign_in().status_code == 303
        assert fields(browser.get("/login"))
