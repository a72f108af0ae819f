"""Introspection (RFC 7662): a token's worth, told to whom it concerns."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from flagon_auth.domain import introspection
from flagon_chassis import db

from .conftest import basic, refresh, revoke, token_request
from .registering import SECRET, asserted, post, register


@pytest.fixture(autouse=True)
def clean(app):
    yield
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from client where name = 'Test'"))
        session.execute(text("update client set disabled = false"))


def introspect(app, token, client="web", secret=None, **form):
    return post(app, "/oauth/introspect", basic(client, secret), token=token, **form)


def change(app, statement):
    with app.app_context(), db.transaction() as session:
        session.execute(text(statement))


class TestIntrospect:
    def test_tells_what_an_access_token_says(self, app, ada):
        answer = ada.tokens()

        found = introspect(app, answer["access_token"])

        assert found.status_code == 200
        assert found.headers["Cache-Control"] == "no-store"
        assert found.json["active"] is True
        assert found.json["client_id"] == "web"
        assert found.json["sub"] == str(ada.account.id)
        assert found.json["scope"] == answer["scope"]
        assert found.json["token_type"] == "Bearer"
        assert found.json["acr"] == "aal1"
        assert found.json.keys() >= {"iss", "aud", "iat", "exp", "jti", "auth_time"}

    def test_tells_what_a_refresh_token_is_worth(self, app, ada):
        answer = ada.tokens()

        found = introspect(app, answer["refresh_token"]).json

        assert found["active"] is True
        assert found["sub"] == str(ada.account.id)
        assert found["scope"] == answer["scope"]
        assert found["exp"] > found["iat"]

    def test_tells_about_the_token_of_a_service(self, app):
        token = token_request(app, "worker", grant_type="client_credentials").json

        found = introspect(app, token["access_token"], "worker").json

        assert found["active"] is True
        assert found["sub"] == "worker"

    @pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense"])
    @pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
    def test_finds_the_token_whatever_the_hint(self, app, ada, kind, hint):
        token = ada.tokens()[kind]

        assert introspect(app, token, token_type_hint=hint).json["active"] is True

    @pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
    def test_of_another_clients_token_says_nothing(self, app, ada, kind):
        token = ada.tokens()[kind]

        assert introspect(app, token, "other").json == {"active": False}

    @pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
    def test_of_every_token_is_for_who_is_registered_for_it(self, app, ada, kind):
        register(
            app,
            "resource",
            grant_types=["client_credentials"],
            scope="tokens:introspect",
            redirect_uris=[],
        )
        token = ada.tokens()[kind]

        assert introspect(app, token, "resource", SECRET).json["active"] is True

    @pytest.mark.parametrize(
        "token",
        [
            "x",
            "a.b.c",
            "ü",
            "x" * 4000,
            "e30.e30.",
            "W10.W10.AA",
            "W1tb" * 900 + ".e30.A",
        ],
    )
    def test_of_rubbish_says_nothing(self, app, token):
        assert introspect(app, token).json == {"active": False}

    def test_of_an_id_token_says_nothing(self, app, ada):
        assert introspect(app, ada.tokens()["id_token"]).json == {"active": False}

    @pytest.mark.parametrize("token", [None, ""])
    def test_needs_a_token(self, app, token):
        answer = introspect(app, token)

        assert answer.status_code == 400
        assert answer.json["error"] == "invalid_request"

    def test_is_not_for_strangers_and_public_clients(self, app, ada):
        token = ada.tokens("cli")["access_token"]

        public = post(app, "/oauth/introspect", client_id="cli", token=token)
        stranger = post(app, "/oauth/introspect", token=token)
        bearer = post(
            app,
            "/oauth/introspect",
            {"Authorization": f"Bearer {token}"},
            token=token,
        )

        for answer in (public, stranger, bearer):
            assert answer.status_code == 401
            assert answer.json["error"] == "invalid_client"

    def test_takes_assertions(self, app):
        register(app, "signer", token_endpoint_auth_method="private_key_jwt")
        token = post(
            app, "/oauth/token", grant_type="client_credentials", **asserted("signer")
        ).json["access_token"]

        answer = post(app, "/oauth/introspect", token=token, **asserted("signer"))

        assert answer.json["active"] is True

    def test_is_never_got(self, app):
        assert app.test_client().get("/oauth/introspect").status_code == 405


class TestInactive:
    """What has ended is dead, whatever its signature says."""

    def dead(self, app, answer):
        return [
            introspect(app, answer[kind]).json == {"active": False}
            for kind in ("access_token", "refresh_token")
        ]

    def test_after_it_expired(self, app, ada):
        answer = ada.tokens()
        change(app, "update refresh_token set expires_at = now()")

        with app.app_context(), db.transaction() as session:
            found = introspection.describe(
                session,
                app.extensions["flagon.auth"].issuer,
                answer["access_token"],
                now=datetime.now(UTC) + timedelta(seconds=301),
            )

        assert found is None
        assert introspect(app, answer["refresh_token"]).json == {"active": False}

    def test_after_it_was_revoked(self, app, ada):
        answer = ada.tokens()
        revoke(app, answer["access_token"])

        assert self.dead(app, answer)[0]

    def test_after_its_grant_was_revoked(self, app, ada):
        answer = ada.tokens()
        revoke(app, answer["refresh_token"])

        assert self.dead(app, answer) == [True, True]

    def test_after_a_refresh_token_was_used(self, app, ada):
        answer = ada.tokens()
        refresh(app, answer["refresh_token"])

        assert self.dead(app, answer) == [False, True]

    @pytest.mark.parametrize(
        "statement",
        [
            "update account set disabled = true",
            "update client set disabled = true where id = 'cli'",
            "delete from account",
            "update token_grant set revoked_at = now()",
        ],
    )
    def test_after_account_or_client_are_gone(self, app, ada, statement):
        register(
            app,
            "resource",
            grant_types=["client_credentials"],
            scope="tokens:introspect",
            redirect_uris=[],
        )
        answer = ada.tokens("cli")
        change(app, statement)

        for kind in ("access_token", "refresh_token"):
            found = introspect(app, answer[kind], "resource", SECRET)
            assert found.json == {"active": False}

    def test_after_sign_out(self, app, ada):
        answer = ada.tokens()
        ada.post("/account/sign-out", ada.form("/account"))

        assert self.dead(app, answer) == [True, True]

    def test_after_the_service_was_cut_off(self, app, parts):
        token = token_request(app, "worker", grant_type="client_credentials").json

        parts.denylist.refuse_client("worker", now=datetime.now(UTC))

        found = introspect(app, token["access_token"], "worker")
        assert found.json == {"active": False}

    def test_of_a_disabled_service(self, app):
        register(
            app,
            "resource",
            grant_types=["client_credentials"],
            scope="tokens:introspect",
            redirect_uris=[],
        )
        token = token_request(app, "worker", grant_type="client_credentials").json
        change(app, "update client set disabled = true where id = 'worker'")

        found = introspect(app, token["access_token"], "resource", SECRET)
        assert found.json == {"active": False}


class TestRevoke:
    def test_across_clients_is_refused_and_changes_nothing(self, app, ada):
        answer = ada.tokens()

        for kind in ("access_token", "refresh_token"):
            refused = revoke(app, answer[kind], "other")
            assert refused.status_code == 400
            assert refused.json["error"] == "invalid_grant"
            assert introspect(app, answer[kind]).json["active"] is True

    def test_of_a_refresh_token_ends_the_family(self, app, ada):
        first = ada.tokens()
        second = refresh(app, first["refresh_token"]).json

        assert revoke(app, second["refresh_token"]).status_code == 200

        for answer in (first, second):
            for kind in ("access_token", "refresh_token"):
                assert introspect(app, answer[kind]).json == {"active": False}
