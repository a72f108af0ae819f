"""Metadata, keys and what a token must be to be believed."""

import json
import time
from datetime import UTC, datetime

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from flagon_auth.domain import keys, tokens
from flagon_chassis import db
from flagon_chassis.auth import KeyRing

from .conftest import (
    ISSUER,
    basic,
    claims_of,
    header_of,
)


def get(app, path, **options):
    return app.test_client().get(path, **options)


class TestJwks:
    def test_holds_public_halves_alone(self, app):
        found = get(app, "/.well-known/jwks.json").json["keys"]

        assert sorted(key["alg"] for key in found) == [
            *("ES256", "ES256"),
            *("RS256", "RS256"),
        ]
        for key in found:
            assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key)
            assert key["use"] == "sig"
            assert key["kid"]

    def test_may_be_kept_for_a_minute_and_a_day_while_auth_is_away(self, app):
        found = get(app, "/.well-known/jwks.json").headers["Cache-Control"]

        assert found == (
            "public, max-age=60, stale-while-revalidate=60, stale-if-error=86400"
        )

    def test_tells_metrics_since_when_its_keys_sign(self, app):
        before = time.time()
        get(app, "/.well-known/jwks.json")
        # The first asking makes the keys, the second finds them.
        get(app, "/.well-known/jwks.json")

        found = get(app, "/metrics").text
        for alg in ("ES256", "RS256"):
            name = f'flagon_signing_key_since_timestamp_seconds{{alg="{alg}"}} '
            since = float(found.partition(name)[2].split()[0])
            assert 0 < since <= before + 60

    def test_is_not_sent_again_to_who_has_it(self, app):
        etag = get(app, "/.well-known/jwks.json").headers["ETag"]

        same = get(app, "/.well-known/jwks.json", headers={"If-None-Match": etag})

        assert (same.status_code, same.data) == (304, b"")
        assert same.headers["ETag"] == etag
        assert "max-age=60" in same.headers["Cache-Control"]

    def test_verifies_both_kinds_of_tokens(self, ada, app):
        answer = ada.tokens()
        ring = {
            key["kid"]: pyjwt.PyJWK(key)
            for key in get(app, "/.well-known/jwks.json").json["keys"]
        }

        for token, audience in (
            (answer["access_token"], "flagon-api"),
            (answer["id_token"], "web"),
        ):
            key = ring[header_of(token)["kid"]]
            claims = pyjwt.decode(token, key, audience=audience, issuer=ISSUER)
            assert claims["sub"] == str(ada.account.id)


class TestTokenConfusion:
    """Only access tokens of ours open anything here."""

    def forge(self, app, key_alg="ES256", header=None, **claims):
        issuer = app.extensions["flagon.auth"].issuer
        with app.app_context(), db.transaction() as session:
            kid, key = keys.signing_key(
                session, issuer.sealer, key_alg, now=datetime.now(UTC)
            )
        now = int(time.time())
        base = {
            "iss": ISSUER,
            "aud": "flagon-api",
            "sub": "x",
            "client_id": "web",
            "jti": "6f1d1c7e-0b52-4d6e-9a49-0c9c1b0f3b8a",
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        return pyjwt.encode(
            {name: value for name, value in base.items() if value is not None},
            key.raw_value,
            key_alg,
            headers={"typ": "at+jwt", "kid": kid, **(header or {})},
        )

    def ask(self, app, token):
        return get(app, "/api/v1/me", headers={"Authorization": f"Bearer {token}"})

    def test_id_token_is_refused(self, ada, app):
        assert self.ask(app, ada.tokens()["id_token"]).status_code == 401

    def test_refresh_token_is_refused(self, ada, app):
        assert self.ask(app, ada.tokens()["refresh_token"]).status_code == 401

    @pytest.mark.parametrize(
        ("header", "claims"),
        [
            ({"typ": "JWT"}, {}),
            ({"typ": "logout+jwt"}, {}),
            ({"typ": None}, {}),
            ({"kid": "nobody"}, {}),
            ({}, {"aud": "web"}),
            ({}, {"iss": "https://evil.test"}),
            ({}, {"exp": 1}),
            ({}, {"exp": None}),
            ({}, {"client_id": None}),
        ],
    )
    def test_wrong_type_key_or_claims_are_refused(self, app, header, claims):
        token = self.forge(app, header=header, **claims)

        assert self.ask(app, token).status_code == 401

    def test_key_of_somebody_else_is_refused(self, ada, app):
        good = ada.tokens()["access_token"]
        forged = pyjwt.encode(
            claims_of(good),
            ec.generate_private_key(ec.SECP256R1()),
            "ES256",
            headers=header_of(good),
        )

        assert self.ask(app, forged).status_code == 401

    def test_id_key_signs_no_access_token(self, app):
        token = self.forge(app, "RS256")

        assert self.ask(app, token).status_code == 401

    def test_reading_one_for_revocation_is_as_strict(self, ada, app):
        issuer = app.extensions["flagon.auth"].issuer
        bad = [
            self.forge(app, header={"typ": "JWT"}),
            self.forge(app, iss="https://evil.test"),
            self.forge(app, "RS256"),
        ]
        with app.app_context(), db.transaction() as session:
            for token in bad:
                with pytest.raises(tokens.TokenUnreadable):
                    tokens.read_access_token(session, issuer, token)

    def test_logout_token_is_no_hint(self, app):
        token = self.forge(app, "RS256", header={"typ": "logout+jwt"})
        issuer = app.extensions["flagon.auth"].issuer

        with (
            app.app_context(),
            db.transaction() as session,
            pytest.raises(tokens.TokenUnreadable),
        ):
            tokens.read_hint(session, issuer, token)

    def test_own_keys_come_from_the_database(self, app):
        assert isinstance(app.extensions["flagon.keys"], KeyRing)


class TestUserinfo:
    def ask(self, app, answer, method="get"):
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        return getattr(app.test_client(), method)("/oauth/userinfo", headers=headers)

    @pytest.mark.parametrize("method", ["get", "post"])
    def test_tells_what_the_scopes_allow(self, ada, app, method):
        found = self.ask(app, ada.tokens(scope="openid email"), method)

        assert found.json == {
            "sub": str(ada.account.id),
            "email": "ada@flagon.test",
            "email_verified": False,
        }
        assert found.headers["Cache-Control"] == "no-store"

    def test_names_the_person_with_profile(self, ada, app):
        found = self.ask(app, ada.tokens(scope="openid profile")).json

        assert found["name"] == "Ada Example"
        assert "email" not in found

    def test_needs_openid(self, ada, app):
        assert self.ask(app, ada.tokens(scope="email")).status_code == 403

    def test_needs_a_token(self, app):
        answer = get(app, "/oauth/userinfo")

        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")

    def test_of_a_disabled_account_is_refused(self, ada, app):
        token = ada.tokens()
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set disabled = true"))

        assert self.ask(app, token).status_code == 401

    def test_is_not_the_basic_credentials_page(self, app):
        assert get(app, "/oauth/userinfo", headers=basic()).status_code == 401


class TestDocument:
    def test_describes_the_accounts_api(self, app):
        found = json.loads(get(app, "/openapi.json").data)

        assert {"/api/v1/me", "/api/v1/users", "/api/v1/users/{account_id}"} <= set(
            found["paths"]
        )
        assert not [path for path in found["paths"] if path.startswith("/oauth")]
