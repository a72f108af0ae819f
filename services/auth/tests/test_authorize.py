"""The authorization endpoint, as browsers bring requests to it."""

import pytest
from sqlalchemy import text

from flagon_chassis import db

from .conftest import (
    CALLBACK,
    CHALLENGE,
    ISSUER,
    Browser,
    fields,
    query_of,
    redeem,
    request_for,
)

OTHER = {
    "client_id": "other",
    "redirect_uri": "https://other.test/cb",
    "scope": "openid email",
}


def error_of(response):
    assert response.status_code == 302, response.get_data(as_text=True)
    assert response.location.startswith(CALLBACK + "?")
    return query_of(response)["error"]


class TestAuthorize:
    def test_sends_a_stranger_to_sign_in_and_back(self, browser, person):
        person()

        first = browser.authorize()
        answer = browser.sign_in(path=first.location)
        back = browser.get(answer.location)

        assert first.status_code == 303
        assert first.location.startswith("/login?next=%2Foauth%2Fauthorize")
        assert back.location.startswith(CALLBACK + "?code=")

    def test_names_the_issuer_and_returns_the_state(self, ada):
        answer = query_of(ada.authorize(state="a b&c"))

        assert answer["iss"] == ISSUER
        assert answer["state"] == "a b&c"

    def test_needs_no_state(self, ada):
        assert "state" not in query_of(ada.authorize(state=None))

    def test_accepts_a_posted_request(self, ada):
        answer = ada.post("/oauth/authorize", request_for())

        assert answer.status_code == 303
        assert answer.location.startswith("/oauth/authorize?")
        assert "code" in query_of(ada.get(answer.location))

    def test_refuses_a_posted_request_with_a_parameter_twice(self, ada):
        answer = ada.post(
            "/oauth/authorize", request_for(), query_string={"client_id": "cli"}
        )

        assert answer.status_code == 400

    def test_is_not_cached(self, ada):
        assert ada.authorize().headers["Cache-Control"] == "no-store"


class TestPkce:
    @pytest.mark.parametrize(
        "changes",
        [
            {"code_challenge": None, "code_challenge_method": None},
            {"code_challenge_method": None},
            {"code_challenge_method": "plain"},
            {"code_challenge_method": "s256"},
            {"code_challenge": None},
            {"code_challenge": "short"},
            {"code_challenge": CHALLENGE + "A"},
            {"code_challenge": CHALLENGE[:-1] + "!"},
        ],
    )
    @pytest.mark.parametrize("client", ["web", "cli"])
    def test_is_required_with_s256_of_every_client(self, ada, changes, client):
        uri = {"web": CALLBACK, "cli": "http://127.0.0.1/callback"}[client]

        answer = ada.authorize(client_id=client, redirect_uri=uri, **changes)

        assert query_of(answer)["error"] == "invalid_request"
        assert query_of(answer)["iss"] == ISSUER


class TestRedirectUri:
    @pytest.mark.parametrize(
        "uri",
        [
            None,
            "",
            CALLBACK + "/",
            CALLBACK + "?a=b",
            CALLBACK + "#f",
            CALLBACK.upper(),
            "http://localhost:8080/callback",
            "http://localhost.evil.test/callback",
            "http://localhost@evil.test/callback",
            "//localhost/callback",
            "https://evil.test/",
            'http://localhost/"quoted"',
            "http://localhost/ü",
            "javascript:alert(1)",
        ],
    )
    def test_that_is_not_registered_is_never_followed(self, ada, uri):
        answer = ada.authorize(redirect_uri=uri)

        assert answer.status_code == 400
        assert "Location" not in answer.headers
        assert answer.mimetype == "text/html"

    @pytest.mark.parametrize(
        ("language", "said"), [("en", "made a mistake"), ("de", "einen Fehler gemacht")]
    )
    def test_that_is_wrong_is_told_to_the_person(self, ada, language, said):
        page = ada.authorize(
            redirect_uri="https://evil.test/", ui_locales=language
        ).get_data(as_text=True)

        assert said in page
        assert "The redirect_uri is not registered." in page
        assert "evil.test" not in page.split("<main")[1].split("</main")[0]

    def test_of_an_unknown_client_is_never_followed(self, ada):
        answer = ada.authorize(client_id="nobody")

        assert answer.status_code == 400
        assert "Location" not in answer.headers

    @pytest.mark.parametrize(
        ("uri", "good"),
        [
            ("http://127.0.0.1:53211/callback", True),
            ("http://127.0.0.1/callback", True),
            ("http://127.0.0.1:53211/other", False),
            ("http://localhost:53211/callback", False),
            ("https://127.0.0.1:53211/callback", False),
            ("http://127.0.0.1:99999/callback", False),
            ("http://127.0.0.1:5a/callback", False),
            ("http://127.0.0.1:80@evil.test/callback", False),
            ("http://[::1/callback", False),
        ],
    )
    def test_of_a_native_app_may_have_any_loopback_port(self, ada, uri, good):
        answer = ada.authorize(client_id="cli", redirect_uri=uri)

        assert answer.status_code == (302 if good else 400)

    def test_of_a_confidential_client_may_not(self, ada, app):
        assert ada.authorize(redirect_uri="http://127.0.0.1:1/x").status_code == 400


class TestHostileRequests:
    @pytest.mark.parametrize("name", ["client_id", "state", "scope", "redirect_uri"])
    def test_parameter_twice_is_refused_without_a_redirect(self, ada, name):
        asked = [*request_for().items(), (name, "again")]

        answer = ada.get("/oauth/authorize", query_string=asked)

        assert answer.status_code == 400
        assert "Location" not in answer.headers

    def test_nul_in_client_id_is_a_400(self, ada):
        assert ada.authorize(client_id="we\0b").status_code == 400

    @pytest.mark.parametrize("value", ["a\nb", "a\x7fb", "x" * 5000])
    def test_control_character_or_endless_value_is_a_400(self, ada, value):
        assert ada.authorize(state=value).status_code == 400

    def test_bytes_that_are_no_text_are_a_400(self, ada):
        answer = ada.get("/oauth/authorize?client_id=%ff%fe&redirect_uri=x")

        assert answer.status_code == 400

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"response_type": 'co"de'}, "unsupported_response_type"),
            ({"response_type": None}, "unsupported_response_type"),
            ({"response_type": "code id_token"}, "unsupported_response_type"),
            ({"response_mode": "fragment"}, "invalid_request"),
            ({"request": "e30.e30."}, "request_not_supported"),
            ({"request_uri": "https://x.test"}, "request_uri_not_supported"),
            ({"registration": "{}"}, "registration_not_supported"),
            ({"prompt": "dance"}, "invalid_request"),
            ({"prompt": "none login"}, "invalid_request"),
            ({"max_age": "-1"}, "invalid_request"),
            ({"max_age": "soon"}, "invalid_request"),
            ({"scope": "nothing known"}, "invalid_scope"),
            ({"scope": 'quo"te'}, "invalid_scope"),
            ({"id_token_hint": "rubbish"}, "invalid_request"),
        ],
    )
    def test_others_are_told_to_the_client(self, ada, changes, error):
        answer = ada.authorize(**changes)

        assert error_of(answer) == error
        assert query_of(answer)["iss"] == ISSUER
        assert query_of(answer)["state"] == "st"

    def test_client_that_signs_nobody_in_is_refused(self, ada, app):
        with app.app_context(), db.transaction() as session:
            session.execute(
                text(
                    "update client set redirect_uris = '{http://localhost/w}'"
                    " where id = 'worker'"
                )
            )

        answer = ada.authorize(client_id="worker", redirect_uri="http://localhost/w")

        assert query_of(answer)["error"] == "unauthorized_client"


class TestPrompt:
    def test_none_succeeds_with_a_session(self, ada):
        assert "code" in query_of(ada.authorize(prompt="none"))

    def test_none_fails_without_one(self, browser):
        assert error_of(browser.authorize(prompt="none")) == "login_required"

    @pytest.mark.parametrize("prompt", ["login", "select_account"])
    def test_login_asks_for_the_password_again_but_once(self, ada, prompt):
        first = ada.authorize(prompt=prompt)
        page = ada.get(first.location)
        again = ada.get("/oauth/authorize?" + first.request.query_string.decode())
        answer = ada.sign_in(path=first.location)

        back = ada.get(answer.location)

        assert first.location.startswith("/login?")
        assert 'value="ada@flagon.test"' in page.get_data(as_text=True)
        assert again.location.startswith("/login?")
        assert "code" in query_of(back)

    def test_login_is_asked_for_anew_next_time(self, ada):
        first = ada.authorize(prompt="login")
        ada.get(ada.sign_in(path=first.location).location)

        assert ada.authorize(prompt="login").location.startswith("/login?")

    def test_consent_asks_even_for_a_first_party_client(self, ada):
        page = ada.authorize(prompt="consent")

        assert page.status_code == 200
        assert "Allow Shop?" in page.get_data(as_text=True)

    def test_max_age_asks_again_only_when_too_long_ago(self, ada):
        assert "code" in query_of(ada.authorize(max_age="600"))
        assert ada.authorize(max_age="0").location.startswith("/login?")

    def test_max_age_zero_ends_after_one_sign_in(self, ada):
        first = ada.authorize(max_age="0")

        back = ada.get(ada.sign_in(path=first.location).location)

        assert "code" in query_of(back)

    def test_hint_of_the_same_person_is_no_obstacle(self, ada):
        hint = ada.tokens()["id_token"]

        assert "code" in query_of(ada.authorize(id_token_hint=hint, prompt="none"))

    def test_hint_of_another_person_asks_them_to_sign_in(self, ada, app, person):
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        hint = bob.tokens()["id_token"]

        silent = ada.authorize(id_token_hint=hint, prompt="none")
        first = ada.authorize(id_token_hint=hint)
        as_bob = ada.get(ada.sign_in("bob@flagon.test", path=first.location).location)

        assert error_of(silent) == "login_required"
        assert "code" in query_of(as_bob)

    def test_hint_of_another_person_than_signs_in_is_an_error(self, ada, app, person):
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        first = ada.authorize(id_token_hint=bob.tokens()["id_token"])

        answer = ada.get(ada.sign_in(path=first.location).location)

        assert error_of(answer) == "login_required"

    def test_login_hint_fills_the_page_in(self, browser):
        first = browser.authorize(login_hint="eve@flagon.test")

        page = browser.get(first.location).get_data(as_text=True)

        assert 'value="eve@flagon.test"' in page


class TestScope:
    def test_is_asked_for_and_allowed_to_client_and_person(self, ada, app):
        answer = ada.tokens(scope="openid catalog:write reviews:write madeup:scope")

        assert answer["scope"] == "openid reviews:write"

    def test_left_out_is_all_that_is_allowed(self, ada):
        assert ada.tokens(scope=None)["scope"] == (
            "openid profile email offline_access reviews:write jobs:read"
        )

    @pytest.mark.parametrize(
        ("role", "scope"),
        [
            ("customer", "reviews:write jobs:read"),
            ("merchandiser", "reviews:write jobs:read catalog:write jobs:write"),
            (
                "operator",
                "reviews:write jobs:read catalog:write jobs:write ops:read jobs:manage",
            ),
            (
                "admin",
                (
                    "reviews:write jobs:read catalog:write jobs:write ops:read jobs:manage"
                    " users:read users:write catalog:purge"
                ),
            ),
        ],
    )
    def test_grows_with_the_role(self, browser, person, role, scope):
        person("r@flagon.test", role)
        browser.sign_in("r@flagon.test")

        assert browser.tokens(scope=scope)["scope"] == scope
        assert browser.tokens(scope=None)["scope"].endswith(scope)

    def test_of_an_account_without_roles_is_who_it_is(self, browser, app, person):
        account = person()
        with app.app_context(), db.transaction() as session:
            session.execute(text("delete from account_role"))
        browser.sign_in(account.email)

        assert browser.tokens(scope=None)["scope"] == (
            "openid profile email offline_access"
        )


class TestConsent:
    def test_is_asked_for_a_program_of_somebody_else(self, ada):
        page = ada.authorize(**OTHER)
        text_ = page.get_data(as_text=True)

        assert page.status_code == 200
        assert "Somebody else" in text_
        assert "see your e-mail address" in text_

    def test_that_is_given_leads_to_a_code_and_is_remembered(self, ada, app):
        page = ada.authorize(**OTHER)

        answer = ada.post("/oauth/consent", {**fields(page), "choice": "allow"})
        again = ada.authorize(**OTHER)

        assert answer.location.startswith("https://other.test/cb?code=")
        assert again.location.startswith("https://other.test/cb?code=")
        redeemed = redeem(
            app, query_of(answer)["code"], "other", redirect_uri=OTHER["redirect_uri"]
        )
        assert redeemed.json["scope"] == "openid email"

    def test_for_more_is_asked_again(self, ada):
        page = ada.authorize(**OTHER)
        ada.post("/oauth/consent", {**fields(page), "choice": "allow"})

        more = ada.authorize(**{**OTHER, "scope": "openid email reviews:write"})
        ada.post("/oauth/consent", {**fields(more), "choice": "allow"})

        assert more.status_code == 200
        assert ada.authorize(**OTHER).status_code == 302

    def test_that_is_denied_is_told_to_the_client(self, ada):
        page = ada.authorize(**OTHER)

        answer = ada.post("/oauth/consent", {**fields(page), "choice": "deny"})

        assert query_of(answer) == {
            "error": "access_denied",
            "error_description": (
                "The resource owner or authorization server denied the request"
            ),
            "state": "st",
            "iss": ISSUER,
        }

    def test_cannot_be_given_by_another_site(self, ada):
        page = ada.authorize(**OTHER)
        forged = {**fields(page), "choice": "allow", "csrf_token": "guess"}

        answer = ada.post("/oauth/consent", forged)

        assert answer.status_code == 400
        assert ada.authorize(**OTHER).status_code == 200

    def test_counts_once(self, ada):
        page = ada.authorize(**OTHER)
        form = {**fields(page), "choice": "allow"}
        ada.post("/oauth/consent", form)

        assert ada.post("/oauth/consent", form).status_code == 400

    def test_with_prompt_none_is_an_error(self, ada):
        answer = ada.authorize(**OTHER, prompt="none")

        assert query_of(answer)["error"] == "consent_required"

    def test_after_the_session_has_ended_starts_again(self, ada, parts):
        page = ada.authorize(**OTHER)
        with ada.http.session_transaction(base_url="http://localhost") as session:
            del session["sid"]

        answer = ada.post("/oauth/consent", {**fields(page), "choice": "allow"})

        assert answer.location.startswith("/oauth/authorize?")

    def test_page_lets_the_form_reach_the_client_and_nobody_else(self, ada):
        policy = ada.authorize(**OTHER).headers["Content-Security-Policy"]

        assert "form-action 'self' https://other.test;" in policy

    def test_page_names_an_apps_own_scheme(self, ada):
        asked = {**OTHER, "redirect_uri": "com.other.app:/cb"}

        policy = ada.authorize(**asked).headers["Content-Security-Policy"]

        assert "form-action 'self' com.other.app:;" in policy
