"""Ending things: signing out, RP-initiated logout, revocation."""

import pytest

from .conftest import (
    Browser,
    basic,
    claims_of,
    fields,
    me,
    query_of,
    refresh,
    revoke,
    token_request,
)

HOME = "http://localhost/"


class TestSignOut:
    def test_ends_the_session_and_its_tokens(self, ada, app, store):
        answer = ada.tokens()
        other = ada.tokens("cli")

        page = ada.post("/account/sign-out", fields(ada.get("/account")))

        assert "You are signed out" in page.get_data(as_text=True)
        assert ada.cookies() == {}
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
    def test_with_the_sessions_id_token_needs_no_question(self, ada, app):
        tokens = ada.tokens()

        answer = ada.get(
            "/logout",
            query_string={
                "id_token_hint": tokens["id_token"],
                "post_logout_redirect_uri": HOME,
                "state": "s 1",
            },
        )

        assert answer.status_code == 303
        assert answer.location.startswith(HOME + "?")
        assert query_of(answer) == {"state": "s 1"}
        assert me(app, tokens).status_code == 401
        assert ada.get("/account").status_code == 303

    def test_by_post_works_without_the_cookie(self, ada, app):
        hint = ada.tokens()["id_token"]

        answer = Browser(app).post("/logout", {"id_token_hint": hint})

        assert answer.status_code == 200
        assert ada.get("/account").status_code == 303

    def test_without_a_hint_asks_first(self, ada):
        page = ada.get("/logout")

        assert "Sign out?" in page.get_data(as_text=True)
        assert ada.get("/account").status_code == 200

    def test_without_a_hint_goes_on_after_the_question(self, ada):
        asked = {"client_id": "web", "post_logout_redirect_uri": HOME, "state": "x"}
        page = ada.get("/logout", query_string=asked)

        answer = ada.post("/account/sign-out", fields(page))

        assert answer.location == HOME + "?state=x"
        assert (
            "form-action 'self' http://localhost;"
            in (page.headers["Content-Security-Policy"])
        )

    def test_with_another_sessions_hint_asks_first(self, ada, app):
        elsewhere = Browser(app)
        elsewhere.sign_in()

        page = ada.get(
            "/logout", query_string={"id_token_hint": elsewhere.tokens()["id_token"]}
        )

        assert "Sign out?" in page.get_data(as_text=True)
        assert ada.get("/account").status_code == 200
        assert elsewhere.get("/account").status_code == 200

    @pytest.mark.parametrize(
        "kind", ["access_token", "refresh_token", "rubbish", "alg"]
    )
    def test_with_anything_else_as_hint_asks_first(self, ada, kind):
        tokens = {
            "rubbish": "a.b.c",
            # {"alg":"none"}.{"sub":"x"}.
            "alg": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
            **ada.tokens(),
        }

        page = ada.get("/logout", query_string={"id_token_hint": tokens[kind]})

        assert "Sign out?" in page.get_data(as_text=True)

    @pytest.mark.parametrize(
        "target",
        [
            "https://evil.test/",
            "http://localhost",
            "http://localhost/?x=1",
            "//evil.test",
            "https://other.test/bye",
        ],
    )
    def test_never_goes_where_the_client_is_not_registered(self, ada, target):
        hint = ada.tokens()["id_token"]

        answer = ada.get(
            "/logout",
            query_string={"id_token_hint": hint, "post_logout_redirect_uri": target},
        )

        assert answer.status_code == 200
        assert "Location" not in answer.headers

    def test_with_a_client_id_that_is_not_the_hints_goes_nowhere(self, ada):
        answer = ada.get(
            "/logout",
            query_string={
                "id_token_hint": ada.tokens()["id_token"],
                "client_id": "other",
                "post_logout_redirect_uri": "https://other.test/bye",
            },
        )

        assert "Location" not in answer.headers

    def test_of_a_stranger_goes_on_or_says_so(self, browser):
        asked = {"client_id": "web", "post_logout_redirect_uri": HOME}

        assert browser.get("/logout", query_string=asked).location == HOME
        assert browser.get("/logout").status_code == 200


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
