"""The modules of the OpenID Connect Basic OP and Config OP certification, by name.

The foundation's suite needs a browser and its own server; here each of its modules is a
test of ours that asks for the same.
"""

import base64
import hashlib
import json
import time

import jwt as pyjwt
import pytest
from sqlalchemy import text

from flagon_chassis import db

from .conftest import (
    CALLBACK,
    ISSUER,
    bearer_of,
    claims_of,
    header_of,
    me,
    query_of,
    redeem,
    refresh,
    request_for,
)
from .registering import SECRET, post, register


@pytest.fixture
def check(app):
    """Check an ID token as a relying party must (Core 3.1.3.7), and return its claims."""

    def checked(answer, nonce="no", audience="web"):
        keys = app.test_client().get("/.well-known/jwks.json").json["keys"]
        ring = {key["kid"]: pyjwt.PyJWK(key) for key in keys}
        token = answer["id_token"]
        claims = pyjwt.decode(
            token, ring[header_of(token)["kid"]], audience=audience, issuer=ISSUER
        )
        digest = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
        assert (
            claims["at_hash"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        )
        assert claims["iat"] <= time.time() < claims["exp"]
        assert claims.get("nonce") == nonce
        assert 0 < len(claims["sub"]) <= 255
        return claims

    return checked


def sign_in(browser, answer):
    """Give the password where the answer leads, and follow back to the client."""
    return browser.get(browser.sign_in(path=answer.location).location)


def tokens_of(app, answer):
    found = redeem(app, query_of(answer)["code"])
    assert found.status_code == 200, found.json
    return found.json


def userinfo(app, answer, method="GET"):
    return app.test_client().open(
        "/oauth/userinfo", method=method, headers=bearer_of(answer)
    )


def age(browser, seconds):
    """Let the person have signed in some time ago."""
    with browser.http.session_transaction(base_url=browser.base) as session:
        session["auth_time"] -= seconds


class TestBasicPlan:
    def test_oidcc_server(self, app, browser, person, check):
        person()

        answer = sign_in(browser, browser.authorize())
        found = tokens_of(app, answer)

        assert query_of(answer)["state"] == "st"
        assert query_of(answer)["iss"] == ISSUER
        assert found["token_type"] == "Bearer"
        assert check(found)["sub"] == userinfo(app, found).json["sub"]

    def test_oidcc_response_type_missing(self, ada):
        answer = query_of(ada.authorize(response_type=None))

        assert answer["error"] in {"unsupported_response_type", "invalid_request"}
        assert answer["state"] == "st"

    def test_oidcc_idtoken_signature(self, ada, check):
        answer = ada.tokens()

        check(answer)
        assert header_of(answer["id_token"])["alg"] == "RS256"
        assert header_of(answer["id_token"])["kid"]

    def test_oidcc_idtoken_unsigned(self, app):
        found = app.test_client().get("/.well-known/openid-configuration").json

        assert "none" not in found["id_token_signing_alg_values_supported"]

    def test_oidcc_userinfo_get(self, ada, app):
        answer = ada.tokens()

        found = userinfo(app, answer)

        assert found.status_code == 200
        assert found.mimetype == "application/json"
        assert found.json["sub"] == claims_of(answer["id_token"])["sub"]

    def test_oidcc_userinfo_post_header(self, ada, app):
        answer = ada.tokens()

        found = userinfo(app, answer, "POST")

        assert found.json["sub"] == claims_of(answer["id_token"])["sub"]

    def test_oidcc_userinfo_post_body(self, ada, app):
        answer = ada.tokens()

        found = post(app, "/oauth/userinfo", access_token=answer["access_token"])

        assert found.json["sub"] == claims_of(answer["id_token"])["sub"]

    def test_oidcc_ensure_request_without_nonce_succeeds_for_code_flow(
        self, ada, check
    ):
        check(ada.tokens(nonce=None), nonce=None)

    def test_oidcc_scope_profile(self, ada, app):
        found = userinfo(app, ada.tokens(scope="openid profile")).json

        assert found["name"] == "Ada Example"
        assert isinstance(found["updated_at"], int)
        assert "email" not in found

    def test_oidcc_scope_email(self, ada, app):
        found = userinfo(app, ada.tokens(scope="openid email")).json

        assert found["email"] == "ada@flagon.test"
        assert found["email_verified"] is False
        assert "name" not in found

    def test_oidcc_scope_email_of_a_proven_address(self, ada, app):
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set email_verified_at = now()"))

        found = ada.tokens(scope="openid email")

        assert userinfo(app, found).json["email_verified"] is True
        assert claims_of(found["id_token"])["email_verified"] is True

    def test_oidcc_scope_address(self, ada, app):
        assert userinfo(app, ada.tokens(scope="openid address")).status_code == 200

    def test_oidcc_scope_phone(self, ada, app):
        assert userinfo(app, ada.tokens(scope="openid phone")).status_code == 200

    def test_oidcc_scope_all(self, ada, app):
        found = userinfo(app, ada.tokens(scope="openid profile email address phone"))

        assert {"sub", "name", "email"} <= set(found.json)

    def test_oidcc_ensure_other_scope_order_succeeds(self, ada, check):
        check(ada.tokens(scope="email openid"))

    def test_oidcc_display_page(self, app, browser, person, check):
        person()
        answer = sign_in(browser, browser.authorize(display="page"))

        check(tokens_of(app, answer))

    def test_oidcc_display_popup(self, app, browser, person, check):
        person()
        answer = sign_in(browser, browser.authorize(display="popup"))

        check(tokens_of(app, answer))

    def test_oidcc_prompt_login(self, app, ada, check):
        before = check(ada.tokens())
        age(ada, 5)

        first = ada.authorize(prompt="login")
        after = check(tokens_of(app, sign_in(ada, first)))

        assert first.location.startswith("/login?")
        assert after["auth_time"] >= before["auth_time"]
        assert after["sub"] == before["sub"]

    def test_oidcc_prompt_none_not_logged_in(self, browser):
        answer = query_of(browser.authorize(prompt="none"))

        assert answer["error"] == "login_required"
        assert answer["state"] == "st"

    def test_oidcc_prompt_none_logged_in(self, ada, check, app):
        first = check(ada.tokens())
        second = check(tokens_of(app, ada.authorize(prompt="none")))

        assert first["sub"] == second["sub"]
        assert first["auth_time"] == second["auth_time"]

    def test_oidcc_max_age_1(self, ada, app, check):
        age(ada, 5)
        before = check(ada.tokens())

        first = ada.authorize(max_age="1")
        after = check(tokens_of(app, sign_in(ada, first)))

        assert first.location.startswith("/login?")
        assert after["auth_time"] > before["auth_time"]

    def test_oidcc_max_age_10000(self, ada, check, app):
        first = check(ada.tokens())
        second = check(tokens_of(app, ada.authorize(max_age="10000")))

        assert first["auth_time"] == second["auth_time"]

    def test_oidcc_ensure_request_with_unknown_parameter_succeeds(
        self, ada, check, app
    ):
        check(tokens_of(app, ada.authorize(extra="foobar")))

    def test_oidcc_id_token_hint(self, ada, check, app):
        hint = ada.tokens()["id_token"]

        answer = ada.authorize(prompt="none", id_token_hint=hint)

        assert check(tokens_of(app, answer))["sub"] == claims_of(hint)["sub"]

    def test_oidcc_login_hint(self, app, browser, person, check):
        person()
        answer = sign_in(browser, browser.authorize(login_hint="buffy@example.com"))

        check(tokens_of(app, answer))

    def test_oidcc_ui_locales(self, app, browser, person, check):
        person()
        answer = sign_in(browser, browser.authorize(ui_locales="se de en"))

        check(tokens_of(app, answer))

    def test_oidcc_claims_locales(self, ada, app, check):
        check(tokens_of(app, ada.authorize(claims_locales="se")))

    def test_oidcc_ensure_request_with_acr_values_succeeds(self, ada, app, check):
        check(tokens_of(app, ada.authorize(acr_values="1 2")))

    def test_oidcc_codereuse(self, ada, app):
        code = ada.code()
        first = redeem(app, code)

        again = redeem(app, code)

        assert first.status_code == 200
        assert again.status_code == 400
        assert again.json["error"] == "invalid_grant"

    def test_oidcc_codereuse_30seconds(self, ada, app):
        code = ada.code()
        first = redeem(app, code).json
        with app.app_context(), db.transaction() as session:
            session.execute(
                text(
                    "update authorization_code"
                    " set used_at = used_at - interval '30 seconds'"
                )
            )

        again = redeem(app, code)

        assert again.json["error"] == "invalid_grant"
        assert userinfo(app, first).status_code == 401
        assert me(app, first).status_code == 401

    def test_oidcc_ensure_registered_redirect_uri(self, ada):
        answer = ada.authorize(redirect_uri=CALLBACK + "/xyz")

        assert answer.status_code == 400
        assert "Location" not in answer.headers
        assert answer.mimetype == "text/html"

    def test_oidcc_ensure_post_request_succeeds(self, app, browser, person, check):
        person()
        sent = browser.post("/oauth/authorize", request_for())
        answer = sign_in(browser, browser.get(sent.location))

        check(tokens_of(app, answer))

    def test_oidcc_server_client_secret_post(self, ada, app, check):
        register(app, "poster", token_endpoint_auth_method="client_secret_post")
        code = ada.code(client_id="poster")

        answer = post(
            app,
            "/oauth/token",
            grant_type="authorization_code",
            code=code,
            redirect_uri=CALLBACK,
            code_verifier="v" * 64,
            client_id="poster",
            client_secret=SECRET,
        )

        check(answer.json, audience="poster")

    def test_oidcc_request_uri_unsigned_supported_correctly_or_rejected_as_unsupported(
        self, ada
    ):
        answer = query_of(ada.authorize(request_uri="https://example.com/request"))

        assert answer["error"] == "request_uri_not_supported"
        assert answer["state"] == "st"

    def test_oidcc_unsigned_request_object_supported_correctly_or_rejected_as_unsupported(
        self, ada
    ):
        answer = query_of(ada.authorize(request=request_object()))

        assert answer["error"] == "request_not_supported"
        assert answer["state"] == "st"

    def test_oidcc_claims_essential(self, ada, app, check):
        wanted = json.dumps({"userinfo": {"name": {"essential": True}}})

        found = tokens_of(app, ada.authorize(scope="openid", claims=wanted))

        assert userinfo(app, found).json["name"] == "Ada Example"
        assert "name" not in check(found)
        assert "email" not in userinfo(app, found).json

    def test_oidcc_ensure_request_object_with_redirect_uri(self, ada):
        answer = ada.authorize(
            request=request_object(redirect_uri=CALLBACK),
            redirect_uri=CALLBACK + "/other",
        )

        # Which address would be right is in an object that we do not read.
        assert answer.status_code == 400
        assert "Location" not in answer.headers

    def test_oidcc_refresh_token(self, ada, app, check):
        first = ada.tokens()
        before = check(first)

        answer = refresh(app, first["refresh_token"])
        after = check(answer.json, nonce=None)
        stranger = refresh(app, answer.json["refresh_token"], "other")

        assert answer.json["access_token"] != first["access_token"]
        for name in ("iss", "sub", "aud", "auth_time"):
            assert after[name] == before[name]
        assert answer.json["refresh_token"].isascii()
        assert stranger.status_code == 400
        assert stranger.json["error"] == "invalid_grant"

    def test_oidcc_ensure_request_with_valid_pkce_succeeds(self, ada, check):
        check(ada.tokens())


class TestConfigPlan:
    def test_oidcc_discovery_endpoint_verification(self, app):
        found = app.test_client().get("/.well-known/openid-configuration").json

        assert found["issuer"] == ISSUER
        for name, value in found.items():
            if name.endswith(("_endpoint", "_uri")):
                assert value.startswith(ISSUER + "/")
        assert found["claims_parameter_supported"] is True
        assert "RS256" in found["id_token_signing_alg_values_supported"]
        assert "code" in found["response_types_supported"]
        assert "openid" in found["scopes_supported"]
        assert found["subject_types_supported"] == ["public"]
        keys = app.test_client().get("/.well-known/jwks.json").json["keys"]
        assert len({key["kid"] for key in keys}) == len(keys)
        assert all(key["kty"] in {"RSA", "EC"} for key in keys)


def request_object(**claims):
    header, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none"}, {**request_for(), **claims})
    )
    return f"{header}.{body}."
