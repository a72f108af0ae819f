"""The metadata documents: true to the last member."""

import base64
import json

import pytest
from sqlalchemy import text

from flagon_chassis import db

from .conftest import (
    CALLBACK,
    ISSUER,
    basic,
    claims_of,
    header_of,
    query_of,
)

PATHS = ("openid-configuration", "oauth-authorization-server")
# What each member means, said where it is tested; a new one must be added to a test.
HELD = {
    *("issuer", "jwks_uri", "scopes_supported", "response_types_supported"),
    *("response_modes_supported", "grant_types_supported"),
    *(
        f"{name}_endpoint_auth_{what}_supported"
        for name in ("token", "revocation", "introspection")
        for what in ("methods", "signing_alg_values")
    ),
    *("code_challenge_methods_supported", "dpop_signing_alg_values_supported"),
    *("require_pushed_authorization_requests", "ui_locales_supported"),
    *("authorization_response_iss_parameter_supported", "subject_types_supported"),
    *("id_token_signing_alg_values_supported", "acr_values_supported"),
    *("display_values_supported", "prompt_values_supported", "claim_types_supported"),
    *("claims_supported", "claims_parameter_supported"),
    *("request_parameter_supported", "request_uri_parameter_supported"),
    *("backchannel_logout_supported", "backchannel_logout_session_supported"),
}


@pytest.fixture
def found(app):
    return app.test_client().get("/.well-known/openid-configuration").json


class TestDiscovery:
    def test_both_documents_agree(self, app, found):
        oauth = app.test_client().get("/.well-known/oauth-authorization-server").json

        assert oauth.items() <= found.items()
        assert found["issuer"] == ISSUER

    def test_may_be_cached_for_a_minute(self, app):
        for path in (*PATHS, "jwks.json"):
            answer = app.test_client().get(f"/.well-known/{path}")
            assert answer.headers["Cache-Control"] == (
                "public, max-age=60, stale-while-revalidate=60, stale-if-error=86400"
            )
            assert answer.mimetype == "application/json"

    def test_every_member_is_an_endpoint_or_held_by_a_test_here(self, found):
        others = {name for name in found if not name.endswith("_endpoint")}

        assert others == HELD

    def test_has_what_the_specifications_require(self, found):
        assert found.keys() >= {
            *("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"),
            *("response_types_supported", "subject_types_supported"),
            *("id_token_signing_alg_values_supported", "userinfo_endpoint"),
            *("scopes_supported", "claims_supported"),
        }

    def test_endpoints_exist(self, app, found):
        rules = {rule.rule for rule in app.url_map.iter_rules()}
        named = {
            value.removeprefix(ISSUER)
            for name, value in found.items()
            if name.endswith(("_endpoint", "_uri"))
        }

        assert named <= rules
        # And the other way round: what clients call is promised.
        calls = {
            rule
            for rule in rules
            if rule.startswith("/oauth/") and rule != "/oauth/consent"
        }
        assert calls <= named

    def test_response_types_and_modes_are_the_only_ones(self, ada, found):
        assert found["response_types_supported"] == ["code"]
        assert found["response_modes_supported"] == ["query"]
        assert "code" in query_of(ada.authorize(response_mode="query"))
        for changes in (
            {"response_type": "id_token"},
            {"response_type": "code token"},
            {"response_mode": "fragment"},
            {"response_mode": "form_post"},
        ):
            assert "error" in query_of(ada.authorize(**changes))

    def test_grant_types_are_the_registered_ones(self, app, found):
        registered = [
            grant.GRANT_TYPE
            for grant, _ in app.extensions["flagon.oauth"]._token_grants
        ]

        assert sorted(found["grant_types_supported"]) == sorted(registered)

    def test_pkce_is_s256_alone(self, ada, found):
        assert found["code_challenge_methods_supported"] == ["S256"]
        assert "error" in query_of(ada.authorize(code_challenge_method="plain"))

    def test_scopes_can_be_had(self, ada, found):
        scope = ada.tokens(scope=" ".join(found["scopes_supported"]))["scope"]

        assert set(scope.split()) <= set(found["scopes_supported"])
        assert {"openid", "profile", "email", "offline_access"} <= set(scope.split())

    def test_claims_are_those_of_a_token_with_everything(self, ada, app, found):
        change_locale(app)
        claims = claims_of(ada.tokens()["id_token"])

        assert set(claims) == set(found["claims_supported"])
        assert found["claim_types_supported"] == ["normal"]

    def test_subjects_are_public(self, ada, app, found):
        assert found["subject_types_supported"] == ["public"]
        web, cli = (
            claims_of(ada.tokens(client)["id_token"]) for client in ("web", "cli")
        )
        assert web["sub"] == cli["sub"]

    def test_id_tokens_are_signed_as_promised(self, ada, app, found):
        assert found["id_token_signing_alg_values_supported"] == ["RS256", "ES256"]
        assert header_of(ada.tokens()["id_token"])["alg"] == "RS256"

    def test_every_language_is_spoken(self, browser, found):
        for language in found["ui_locales_supported"]:
            page = browser.get(browser.authorize(ui_locales=language).location)
            assert page.headers["Content-Language"] == language

    def test_every_prompt_is_known(self, ada, found):
        for prompt in found["prompt_values_supported"]:
            answer = ada.authorize(prompt=prompt)
            assert not (answer.location or "").startswith(f"{CALLBACK}?error")
        assert "error" in query_of(ada.authorize(prompt="create"))

    def test_display_is_a_page(self, ada, found):
        assert found["display_values_supported"] == ["page"]
        assert "code" in query_of(ada.authorize(display="page"))

    def test_acr_values_are_what_tokens_say(self, ada, found):
        assert found["acr_values_supported"] == ["aal1", "aal2"]
        assert claims_of(ada.tokens()["id_token"])["acr"] == "aal1"

    def test_claims_parameter_is_read(self, ada, app, found):
        assert found["claims_parameter_supported"] is True
        wanted = json.dumps({"id_token": {"email": None}})
        claims = claims_of(ada.tokens(scope="openid", claims=wanted)["id_token"])
        assert claims["email"] == "ada@flagon.test"

    def test_request_objects_are_refused_as_promised(self, ada, found):
        for name in ("request", "request_uri"):
            assert found[f"{name}_parameter_supported"] is False
            answer = query_of(ada.authorize(**{name: "https://x.test/r"}))
            assert answer["error"] == f"{name}_not_supported"

    def test_pushing_is_possible_and_not_required(self, ada, found):
        assert found["require_pushed_authorization_requests"] is False
        assert "code" in query_of(ada.authorize())

    def test_issuer_is_in_every_response(self, ada, found):
        assert found["authorization_response_iss_parameter_supported"] is True
        assert query_of(ada.authorize())["iss"] == ISSUER
        assert query_of(ada.authorize(scope="none"))["iss"] == ISSUER

    @pytest.mark.parametrize("name", ["token", "revocation", "introspection"])
    def test_authentication_methods_are_those_of_the_endpoint(self, app, found, name):
        methods = found[f"{name}_endpoint_auth_methods_supported"]
        path = found[f"{name}_endpoint"].removeprefix(ISSUER)
        form = {"token": "x", "grant_type": "refresh_token", "refresh_token": "x"}

        by_header = app.test_client().post(path, data=form, headers=basic("web"))
        by_nothing = app.test_client().post(path, data={**form, "client_id": "cli"})

        assert "client_secret_basic" in methods
        assert by_header.status_code != 401
        assert (by_nothing.status_code != 401) is ("none" in methods)
        assert found[f"{name}_endpoint_auth_signing_alg_values_supported"] == [
            *("ES256", "PS256", "RS256")
        ]

    def test_dpop_algorithms_are_told_and_others_refused(self, app, found):
        header = {"typ": "dpop+jwt", "alg": "HS256", "jwk": {"kty": "oct"}}
        head = (
            base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
        )
        answer = app.test_client().post(
            "/oauth/token",
            data={"grant_type": "client_credentials"},
            headers={**basic("worker"), "DPoP": f"{head}.e30.AA"},
        )

        assert found["dpop_signing_alg_values_supported"] == [
            *("ES256", "Ed25519", "EdDSA", "PS256", "RS256")
        ]
        assert answer.json["error"] == "invalid_dpop_proof"

    def test_back_channel_logout_names_the_session(self, ada, found):
        assert found["backchannel_logout_supported"] is True
        assert found["backchannel_logout_session_supported"] is True
        assert claims_of(ada.tokens()["id_token"])["sid"]


def change_locale(app):
    with app.app_context(), db.transaction() as session:
        session.execute(text("update account set locale = 'de'"))
