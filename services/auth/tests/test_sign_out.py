"""Ending things: signing out, RP-initiated logout, revocation."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from werkzeug.datastructures import MultiDict

from flagon_auth import keeper
from flagon_auth.domain import clients
from flagon_chassis import db

from .conftest import (
    Browser,
    basic,
    claims_of,
    fields,
    header_of,
    me,
    query_of,
    refresh,
    revoke,
    token_request,
)

HOME = "http://localhost/"


def end_session(browser, path="/oauth/end_session", **asked):
    given = {name: value for name, value in asked.items() if value is not None}
    return browser.get(path, query_string=given)


class TestSignOut:
    def test_ends_the_session_and_its_tokens(self, ada, app, store):
        answer = ada.tokens()
        other = ada.tokens("cli")

        page = ada.post("/account/sign-out", fields(ada.get("/account")))

        assert "You are signed out" in page.get_data(as_text=True)
        assert "flagon_login" not in ada.cookies()
        assert ada.authorize(prompt="none").location.count("login_required") == 1
        for tokens in (answer, other):
            assert me(app, tokens).status_code == 401
            assert refresh(app, tokens["refresh_token"]).status_code == 400
        sid = claims_of(answer["access_token"])["sid"]
        assert 300 < store.ttl(f"denylist:sid:{sid}") <= 360

    def test_leaves_another_browsers_session_alone(self, ada, app):
        elsewhere = Browser(app)
        elsewhere.sign_in()
        tokens = elsewhere.tokens()

        ada.post("/account/sign-out", fields(ada.get("/account")))

        assert me(app, tokens).status_code == 200
        assert elsewhere.get("/account").status_code == 200

    def test_of_a_stranger_is_no_failure(self, browser):
        form = browser.form("/login")

        assert browser.post("/account/sign-out", form).status_code == 200


class TestLogout:
    @pytest.mark.parametrize("path", ["/logout", "/oauth/end_session"])
    def test_with_the_sessions_id_token_needs_no_question(self, ada, app, path):
        tokens = ada.tokens()

        answer = end_session(
            ada,
            path,
            id_token_hint=tokens["id_token"],
            post_logout_redirect_uri=HOME,
            state="s 1",
        )

        assert answer.status_code == 303
        assert answer.location.startswith(HOME + "?")
        assert query_of(answer) == {"state": "s 1"}
        assert me(app, tokens).status_code == 401
        assert ada.get("/account").status_code == 303

    def test_takes_an_id_token_that_expired(self, ada, make_app):
        soon = Browser(make_app(id_token_seconds=1))
        soon.sign_in()
        hint = soon.tokens()["id_token"]
        while claims_of(hint)["exp"] >= time.time():
            time.sleep(0.1)

        answer = end_session(soon, id_token_hint=hint, post_logout_redirect_uri=HOME)

        assert answer.location == HOME
        assert soon.get("/account").status_code == 303

    def test_takes_an_id_token_of_either_algorithm(self, ada, app):
        with app.app_context(), db.transaction() as session:
            clients.find_client(session, "web").id_token_signed_response_alg = "ES256"
        try:
            hint = ada.tokens()["id_token"]
        finally:
            with app.app_context(), db.transaction() as session:
                web = clients.find_client(session, "web")
                web.id_token_signed_response_alg = "RS256"

        assert header_of(hint)["alg"] == "ES256"
        answer = end_session(ada, id_token_hint=hint, post_logout_redirect_uri=HOME)
        assert answer.location == HOME

    def test_takes_an_id_token_of_a_key_that_is_retired(self, fresh_app, person):
        person(where=fresh_app)
        browser = Browser(fresh_app)
        browser.sign_in()
        hint = browser.tokens()["id_token"]
        with fresh_app.app_context():
            keeper.rotate_keys(
                actor="test", at_once=True, now=datetime.now(UTC) + timedelta(hours=1)
            )

        answer = end_session(browser, id_token_hint=hint, post_logout_redirect_uri=HOME)

        assert answer.location == HOME

    def test_by_post_ends_the_session_of_the_cookie(self, ada):
        hint = ada.tokens()["id_token"]

        answer = ada.post("/oauth/end_session", {"id_token_hint": hint})

        assert answer.status_code == 200
        assert ada.get("/account").status_code == 303

    def test_by_post_from_another_site_becomes_a_get_that_brings_the_cookie(self, ada):
        hint = ada.tokens()["id_token"]
        asked = {"id_token_hint": hint, "post_logout_redirect_uri": HOME, "x": "y"}

        moved = Browser(ada.app).post("/logout", asked)

        assert moved.status_code == 303
        assert query_of(moved) == {
            "id_token_hint": hint,
            "post_logout_redirect_uri": HOME,
        }
        assert "Set-Cookie" not in moved.headers
        assert ada.get("/account").status_code == 200
        assert ada.get(moved.location).location == HOME
        assert ada.get("/account").status_code == 303

    def test_without_a_hint_asks_first(self, ada):
        page = ada.get("/logout").get_data(as_text=True)

        assert "Sign out?" in page
        assert "You are signed in as ada@flagon.test." in page
        assert ada.get("/account").status_code == 200

    def test_without_a_hint_goes_on_after_the_question(self, ada):
        page = end_session(
            ada, client_id="web", post_logout_redirect_uri=HOME, state="x"
        )

        answer = ada.post("/account/sign-out", fields(page))

        assert answer.location == HOME + "?state=x"
        assert (
            "form-action 'self' http://localhost;"
            in (page.headers["Content-Security-Policy"])
        )

    def test_that_was_not_answered_leads_nowhere_later(self, ada):
        end_session(ada, client_id="web", post_logout_redirect_uri=HOME)

        answer = ada.post("/account/sign-out", fields(ada.get("/account")))

        assert answer.status_code == 200

    def test_asks_when_the_client_means_somebody_else(self, ada):
        hint = ada.tokens()["id_token"]

        page = end_session(ada, id_token_hint=hint, logout_hint="eve@flagon.test")

        assert "Sign out?" in page.get_data(as_text=True)
        assert ada.get("/account").status_code == 200

    @pytest.mark.parametrize("kind", ["email", "sub", "sid"])
    def test_knows_whom_the_client_means(self, ada, kind):
        hint = ada.tokens()["id_token"]
        meant = claims_of(hint)[kind]

        end_session(ada, id_token_hint=hint, logout_hint=meant.upper())
        if kind != "sid":
            assert ada.get("/account").status_code == 303
        else:
            assert end_session(ada, id_token_hint=hint, logout_hint=meant)

    def test_speaks_the_language_that_the_client_asks_for(self, ada):
        page = end_session(ada, ui_locales="fr de").get_data(as_text=True)

        assert '<html lang="de">' in page
        assert "Abmelden?" in page

    def test_of_a_stranger_goes_on_or_says_so(self, browser):
        asked = {"client_id": "web", "post_logout_redirect_uri": HOME}

        assert browser.get("/logout", query_string=asked).location == HOME
        assert browser.get("/logout").status_code == 200

    def test_ends_what_is_left_of_a_session_that_ran_out(self, ada, app, parts):
        tokens = ada.tokens()
        parts.sessions.end(claims_of(tokens["id_token"])["sid"])

        answer = end_session(
            Browser(app),
            id_token_hint=tokens["id_token"],
            post_logout_redirect_uri=HOME,
        )

        assert answer.location == HOME
        assert refresh(app, tokens["refresh_token"]).status_code == 400
        assert me(app, tokens).status_code == 401

    def test_waits_for_a_store_that_is_away(self, ada, make_app):
        hint = ada.tokens()["id_token"]
        down = Browser(make_app(redis_store_url=SecretStr("redis://127.0.0.1:1/0")))

        assert end_session(down, id_token_hint=hint).status_code == 503

    def test_takes_nothing_from_a_disabled_client(self, ada, app):
        with app.app_context(), db.transaction() as session:
            clients.find_client(session, "other").disabled = True
        asked = {
            "client_id": "other",
            "post_logout_redirect_uri": "https://other.test/bye",
        }

        try:
            assert end_session(ada, **asked).status_code == 400
        finally:
            with app.app_context(), db.transaction() as session:
                clients.find_client(session, "other").disabled = False


class TestThreatForcedLogout:
    def test_by_a_link_only_asks(self, ada):
        for method in (ada.get, ada.post):
            page = method("/logout").get_data(as_text=True)

            assert "Sign out?" in page
        assert ada.get("/account").status_code == 200

    def test_by_a_form_elsewhere_lacks_the_token(self, ada):
        assert ada.post("/account/sign-out", {"choice": "yes"}).status_code == 400
        assert ada.get("/account").status_code == 200

    def test_by_another_sessions_id_token_only_asks(self, ada, app):
        elsewhere = Browser(app)
        elsewhere.sign_in()

        page = end_session(ada, id_token_hint=elsewhere.tokens()["id_token"])

        assert "Sign out?" in page.get_data(as_text=True)
        assert ada.get("/account").status_code == 200
        assert elsewhere.get("/account").status_code == 200

    def test_by_an_id_token_that_leaked_ends_nothing_in_another_browser(self, ada, app):
        tokens = ada.tokens()

        answer = end_session(Browser(app), id_token_hint=tokens["id_token"])

        assert answer.status_code == 200
        assert ada.get("/account").status_code == 200
        assert refresh(app, tokens["refresh_token"]).status_code == 200

    @pytest.mark.parametrize(
        "kind", ["access_token", "refresh_token", "rubbish", "alg"]
    )
    def test_by_anything_else_as_hint_is_a_mistake(self, ada, kind):
        tokens = {
            "rubbish": "a.b.c",
            # {"alg":"none"}.{"sub":"x"}.
            "alg": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
            **ada.tokens(),
        }

        page = end_session(
            ada, id_token_hint=tokens[kind], post_logout_redirect_uri=HOME
        )

        assert page.status_code == 400
        assert "Sign out?" in page.get_data(as_text=True)
        assert ada.get("/account").status_code == 200


class TestThreatOpenRedirect:
    @pytest.mark.parametrize(
        "target",
        [
            "https://evil.test/",
            "http://localhost",
            "http://localhost/?x=1",
            "http://localhost/#",
            "http://localhost//",
            "HTTP://LOCALHOST/",
            "http://localhost@evil.test/",
            "//evil.test",
            "https://other.test/bye",
            "javascript:alert(1)",
            "http://localhost/\0",
        ],
    )
    def test_never_goes_where_the_client_is_not_registered(self, ada, app, target):
        hint = ada.tokens()["id_token"]
        for browser in (ada, Browser(app)):
            answer = end_session(
                browser, id_token_hint=hint, post_logout_redirect_uri=target
            )

            assert answer.status_code == 400
            assert "Location" not in answer.headers
        pressed = ada.post("/account/sign-out", fields(ada.get("/logout")))
        assert "Location" not in pressed.headers

    def test_with_a_client_id_that_is_not_the_hints_goes_nowhere(self, ada):
        answer = end_session(
            ada,
            id_token_hint=ada.tokens()["id_token"],
            client_id="other",
            post_logout_redirect_uri="https://other.test/bye",
        )

        assert answer.status_code == 400
        assert ada.get("/account").status_code == 200

    def test_with_two_values_goes_nowhere(self, ada):
        hint = ada.tokens()["id_token"]
        twice = MultiDict(
            [
                ("id_token_hint", hint),
                ("post_logout_redirect_uri", HOME),
                ("post_logout_redirect_uri", "https://evil.test/"),
            ]
        )

        answer = ada.get("/logout", query_string=twice)

        assert answer.status_code == 200
        assert "Location" not in answer.headers

    @pytest.mark.parametrize("client_id", ["nobody", "\0", "x" * 5000, ""])
    def test_of_an_unknown_client_goes_nowhere(self, ada, client_id):
        answer = end_session(ada, client_id=client_id, post_logout_redirect_uri=HOME)

        assert answer.status_code == 400


class TestConformance:
    """The modules of the OpenID Foundation's RP-initiated logout plan, by name."""

    def test_oidcc_discovery_endpoint_verification(self, app):
        found = app.test_client().get("/.well-known/openid-configuration").json

        assert found["end_session_endpoint"] == "http://localhost/oauth/end_session"

    def test_oidcc_rp_initiated_logout(self, ada):
        answer = self.ask(ada)

        assert answer.location == HOME + "?state=abc"
        self.signed_out(ada)

    def test_oidcc_rp_initiated_logout_bad_id_token_hint(self, ada):
        answer = self.ask(ada, id_token_hint="not.an.idtoken")

        assert answer.status_code == 400
        self.pressing_leads_nowhere(ada, answer)

    def test_oidcc_rp_initiated_logout_modified_id_token_hint(self, ada):
        head, body, signature = ada.tokens()["id_token"].split(".")
        changed = ("A" if signature[9] != "A" else "B").join(
            [signature[:9], signature[10:]]
        )

        answer = self.ask(ada, id_token_hint=f"{head}.{body}.{changed}")

        assert answer.status_code == 400
        self.pressing_leads_nowhere(ada, answer)

    def test_oidcc_rp_initiated_logout_no_id_token_hint(self, ada):
        answer = self.ask(ada, id_token_hint=None)

        assert answer.status_code == 400
        self.pressing_leads_nowhere(ada, answer)

    def test_oidcc_rp_initiated_logout_no_params(self, ada):
        answer = end_session(ada)

        assert answer.status_code == 200
        self.pressing_leads_nowhere(ada, answer)

    def test_oidcc_rp_initiated_logout_no_post_logout_redirect_uri(self, ada):
        answer = self.ask(ada, post_logout_redirect_uri=None)

        assert answer.status_code == 200
        assert "You are signed out" in answer.get_data(as_text=True)
        self.signed_out(ada)

    def test_oidcc_rp_initiated_logout_no_state(self, ada):
        answer = self.ask(ada, state=None)

        assert answer.location == HOME
        self.signed_out(ada)

    def test_oidcc_rp_initiated_logout_only_state(self, ada):
        answer = end_session(ada, state="abc")

        assert answer.status_code == 200
        self.pressing_leads_nowhere(ada, answer)

    def test_oidcc_rp_initiated_logout_bad_post_logout_redirect_uri(self, ada):
        answer = self.ask(ada, post_logout_redirect_uri="https://evil.test/")

        assert answer.status_code == 400
        self.pressing_leads_nowhere(ada, answer)

    def test_oidcc_rp_initiated_logout_query_added_to_post_logout_redirect_uri(
        self, ada
    ):
        answer = self.ask(ada, post_logout_redirect_uri=HOME + "?foo=bar")

        assert answer.status_code == 400
        self.pressing_leads_nowhere(ada, answer)

    @staticmethod
    def ask(browser, **changes):
        asked = {
            "id_token_hint": browser.tokens()["id_token"],
            "post_logout_redirect_uri": HOME,
            "state": "abc",
            **changes,
        }
        return end_session(browser, **asked)

    @staticmethod
    def signed_out(browser):
        answer = browser.authorize(prompt="none")
        assert query_of(answer)["error"] == "login_required"

    def pressing_leads_nowhere(self, browser, page):
        assert "Location" not in page.headers
        pressed = browser.post("/account/sign-out", fields(page))
        assert "Location" not in pressed.headers
        self.signed_out(browser)


class TestRevoke:
    def test_refresh_token_ends_the_whole_grant(self, ada, app):
        tokens = ada.tokens()

        answer = revoke(app, tokens["refresh_token"])

        assert answer.status_code == 200
        assert refresh(app, tokens["refresh_token"]).status_code == 400
        assert me(app, tokens).status_code == 401

    def test_access_token_ends_it_alone(self, ada, app, store):
        tokens = ada.tokens()

        revoke(app, tokens["access_token"], token_type_hint="access_token")

        jti = claims_of(tokens["access_token"])["jti"]
        assert 0 < store.ttl(f"denylist:jti:{jti}") <= 360
        assert me(app, tokens).status_code == 401
        assert refresh(app, tokens["refresh_token"]).status_code == 200

    def test_works_for_a_public_client(self, ada, app):
        tokens = ada.tokens("cli")

        assert revoke(app, tokens["refresh_token"], "cli").status_code == 200
        assert me(app, tokens).status_code == 401

    def test_twice_is_no_failure(self, ada, app):
        token = ada.tokens()["refresh_token"]

        assert [revoke(app, token).status_code for _ in range(2)] == [200, 200]

    @pytest.mark.parametrize("hint", [None, "refresh_token", "something_else"])
    @pytest.mark.parametrize(
        "token", ["unknown", "a.b.c", "ü", "eyJhbGciOiJub25lIn0.e30."]
    )
    def test_unknown_token_is_no_failure(self, app, token, hint):
        assert revoke(app, token, token_type_hint=hint).status_code == 200

    def test_id_token_is_no_access_token(self, ada, app):
        tokens = ada.tokens()

        assert revoke(app, tokens["id_token"]).status_code == 200
        assert me(app, tokens).status_code == 200

    @pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
    def test_of_another_clients_token_is_refused(self, ada, app, kind):
        tokens = ada.tokens()

        answer = revoke(app, tokens[kind], "other")

        assert answer.json["error"] == "invalid_grant"
        assert me(app, tokens).status_code == 200

    def test_without_a_token_is_refused(self, app):
        assert revoke(app, None).json["error"] == "invalid_request"

    def test_of_an_unauthenticated_client_is_refused(self, ada, app):
        token = ada.tokens()["refresh_token"]

        answer = app.test_client().post(
            "/oauth/revoke", data={"token": token}, headers=basic("web", "x" * 40)
        )

        assert answer.status_code == 401
        assert refresh(app, token).status_code == 200

    def test_works_for_a_services_own_token(self, app):
        token = token_request(app, "worker", grant_type="client_credentials").json

        revoke(app, token["access_token"], "worker")

        assert me(app, token).status_code == 401


class TestPrompt:
    def test_none_after_signing_out_says_login_required(self, ada):
        ada.post("/account/sign-out", fields(ada.get("/account")))

        assert query_of(ada.authorize(prompt="none"))["error"] == "login_required"
