"""The token endpoint: codes, refresh tokens and clients' own credentials."""

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from flagon_auth.domain import tokens
from flagon_auth.models import Account, TokenGrant
from flagon_chassis import db

from .conftest import (
    CALLBACK,
    ISSUER,
    WEB_SECRET,
    Browser,
    basic,
    claims_of,
    header_of,
    me,
    query_of,
    redeem,
    refresh,
    token_request,
)


def change(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        session.execute(text(statement), values)


def in_parallel(times, call):
    with ThreadPoolExecutor(times) as pool:
        return [found.result() for found in [pool.submit(call) for _ in range(times)]]


class TestRedeemCode:
    def test_gives_tokens(self, ada, app):
        answer = redeem(app, ada.code())

        assert answer.status_code == 200
        assert answer.json["token_type"] == "Bearer"
        assert answer.json["expires_in"] == 300
        assert answer.headers["Cache-Control"] == "no-store"
        assert me(app, answer.json).json["email"] == "ada@flagon.test"

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"code": "x" * 48}, "invalid_grant"),
            ({"code": None}, "invalid_request"),
            ({"code": "ü"}, "invalid_grant"),
            ({"code_verifier": None}, "invalid_request"),
            ({"code_verifier": "w" * 64}, "invalid_grant"),
            ({"code_verifier": "short"}, "invalid_request"),
            ({"redirect_uri": CALLBACK + "/"}, "invalid_grant"),
            ({"redirect_uri": None}, "invalid_grant"),
        ],
    )
    def test_refuses_what_does_not_belong_together(self, ada, app, changes, error):
        code = ada.code()

        answer = redeem(app, **{"code": code, **changes})

        assert answer.status_code == 400
        assert answer.json["error"] == error

    def test_refuses_another_clients_code(self, ada, app):
        code = ada.code()

        assert redeem(app, code, "other").json["error"] == "invalid_grant"
        assert redeem(app, code, "cli").json["error"] == "invalid_grant"
        assert redeem(app, code).status_code == 200

    def test_refuses_a_code_after_a_minute(self, ada, app):
        code = ada.code()
        change(app, "update authorization_code set expires_at = now()")

        assert redeem(app, code).json["error"] == "invalid_grant"

    def test_keeps_a_code_no_longer_than_a_minute(self, ada, app):
        ada.code()
        with app.app_context(), db.transaction() as session:
            ends = session.scalar(text("select expires_at from authorization_code"))

        assert ends <= datetime.now(UTC) + timedelta(seconds=60)

    def test_refuses_a_disabled_account(self, ada, app):
        code = ada.code()
        change(app, "update account set disabled = true")

        assert redeem(app, code).json["error"] == "invalid_grant"

    def test_refuses_when_no_role_is_left_for_the_scope(self, ada, app):
        code = ada.code(scope="reviews:write")
        change(app, "delete from account_role")

        assert redeem(app, code).json["error"] == "invalid_scope"

    def test_replay_revokes_every_token_of_the_grant(self, ada, app):
        code = ada.code()
        first = redeem(app, code).json

        again = redeem(app, code)

        assert again.json["error"] == "invalid_grant"
        assert me(app, first).status_code == 401
        assert refresh(app, first["refresh_token"]).status_code == 400

    def test_replay_leaves_other_grants_alone(self, ada, app):
        mine = ada.tokens()
        code = ada.code()
        redeem(app, code)
        redeem(app, code)

        assert me(app, mine).status_code == 200

    def test_succeeds_once_of_eight_at_once(self, ada, app):
        code = ada.code()

        answers = in_parallel(8, lambda: redeem(app, code).status_code)

        assert sorted(answers) == [200] + [400] * 7


class TestAccessToken:
    def test_is_as_rfc_9068_says(self, ada):
        answer = ada.tokens()
        claims = claims_of(answer["access_token"])

        assert header_of(answer["access_token"])["typ"] == "at+jwt"
        assert header_of(answer["access_token"])["alg"] == "ES256"
        assert claims["iss"] == ISSUER
        assert claims["aud"] == "flagon-api"
        assert claims["sub"] == str(ada.account.id)
        assert claims["client_id"] == "web"
        assert claims["roles"] == ["customer"]
        assert claims["scope"] == answer["scope"]
        assert claims["exp"] - claims["iat"] == 300
        assert {"sid", "jti", "auth_time"} <= set(claims)

    def test_ids_are_never_the_same(self, ada):
        ids = {claims_of(ada.tokens()["access_token"])["jti"] for _ in range(3)}

        assert len(ids) == 3


class TestIdToken:
    def test_says_who_and_when_to_whom(self, ada):
        answer = ada.tokens(nonce="n-1")
        claims = claims_of(answer["id_token"])

        assert header_of(answer["id_token"])["alg"] == "RS256"
        assert header_of(answer["id_token"])["kid"]
        assert claims["aud"] == "web"
        assert claims["nonce"] == "n-1"
        assert claims["amr"] == ["pwd"]
        assert claims["name"] == "Ada Example"
        assert claims["email"] == "ada@flagon.test"
        assert claims["email_verified"] is False
        assert claims["sid"] == claims_of(answer["access_token"])["sid"]

    def test_needs_no_nonce_and_says_only_what_is_asked(self, ada):
        claims = claims_of(ada.tokens(scope="openid", nonce=None)["id_token"])

        assert not {"nonce", "name", "email"} & set(claims)

    def test_comes_only_with_openid(self, ada):
        assert "id_token" not in ada.tokens(scope="reviews:write")


class TestRefresh:
    def test_gives_new_tokens(self, ada, app):
        first = ada.tokens()

        answer = refresh(app, first["refresh_token"])

        assert answer.status_code == 200
        assert answer.json["refresh_token"] != first["refresh_token"]
        assert me(app, answer.json).status_code == 200
        old, new = claims_of(first["id_token"]), claims_of(answer.json["id_token"])
        assert (old["sub"], old["auth_time"]) == (new["sub"], new["auth_time"])
        assert "nonce" not in new

    def test_reuse_kills_the_family(self, ada, app):
        first = ada.tokens()
        second = refresh(app, first["refresh_token"]).json
        third = refresh(app, second["refresh_token"]).json

        stolen = refresh(app, first["refresh_token"])

        assert stolen.json["error"] == "invalid_grant"
        assert refresh(app, third["refresh_token"]).status_code == 400
        for answer in (first, second, third):
            assert me(app, answer).status_code == 401

    def test_reuse_is_in_the_audit_log_once(self, ada, app):
        first = ada.tokens()
        refresh(app, first["refresh_token"])
        for _ in range(3):
            refresh(app, first["refresh_token"])

        with app.app_context(), db.transaction() as session:
            found = session.execute(
                text(
                    "select actor, details from audit_event"
                    " where action = 'token_replayed' and account_id = :id"
                ),
                {"id": ada.account.id},
            ).all()
        ((actor, details),) = found
        assert actor == "web"
        assert details["sid"] == claims_of(first["id_token"])["sid"]

    def test_reuse_kills_a_token_that_is_being_made_meanwhile(self, ada, app, parts):
        first = ada.tokens()
        refresh(app, first["refresh_token"])
        now = datetime.now(UTC)
        with (
            ThreadPoolExecutor(1) as pool,
            app.app_context(),
            db.transaction() as session,
        ):
            grant = session.scalars(select(TokenGrant)).one()
            account = session.scalars(select(Account)).one()
            token = tokens.account_token(
                session,
                parts.issuer,
                account=account,
                grant=grant,
                scope="openid",
                now=now,
            )
            session.flush()
            # Not committed when the thief's request looks for tokens to refuse.
            pool.submit(refresh, app, first["refresh_token"])

        assert me(app, {"access_token": token}).status_code == 401

    def test_succeeds_once_of_eight_at_once(self, ada, app):
        token = ada.tokens()["refresh_token"]

        answers = in_parallel(8, lambda: refresh(app, token).status_code)

        assert sorted(answers) == [200] + [400] * 7

    def test_refuses_another_clients_token(self, ada, app):
        token = ada.tokens()["refresh_token"]

        assert refresh(app, token, "other").json["error"] == "invalid_grant"
        assert refresh(app, token, "cli").json["error"] == "invalid_grant"
        assert refresh(app, token).status_code == 200

    @pytest.mark.parametrize("token", [None, "x" * 43, "a.b.c", "ü"])
    def test_refuses_what_is_no_refresh_token(self, app, token):
        assert refresh(app, token).status_code == 400

    def test_refuses_an_access_token(self, ada, app):
        assert refresh(app, ada.tokens()["access_token"]).status_code == 400

    def test_may_ask_for_less_and_gets_no_more_for_good(self, ada, app):
        first = ada.tokens(scope="openid reviews:write jobs:read")

        less = refresh(app, first["refresh_token"], scope="jobs:read").json
        more = refresh(app, less["refresh_token"], scope="openid email")

        assert less["scope"] == "jobs:read"
        assert more.json["error"] == "invalid_scope"

    def test_drops_what_the_roles_do_not_allow_any_more(self, browser, app, person):
        person("m@flagon.test", "merchandiser")
        browser.sign_in("m@flagon.test")
        token = browser.tokens(scope="openid catalog:write")["refresh_token"]
        change(app, "update account_role set role = 'customer'")

        assert refresh(app, token).json["scope"] == "openid"

    def test_refuses_a_disabled_account(self, ada, app):
        token = ada.tokens()["refresh_token"]
        change(app, "update account set disabled = true")

        assert refresh(app, token).json["error"] == "invalid_grant"

    @pytest.mark.parametrize("table", ["refresh_token", "token_grant"])
    def test_refuses_an_expired_one(self, ada, app, table):
        token = ada.tokens()["refresh_token"]
        change(app, f"update {table} set expires_at = now()")

        assert refresh(app, token).json["error"] == "invalid_grant"

    def test_without_offline_access_ends_with_the_longest_session(self, ada, app):
        ada.tokens(scope="openid")
        with app.app_context(), db.transaction() as session:
            ends = session.scalar(text("select expires_at from token_grant"))

        assert ends <= datetime.now(UTC) + timedelta(hours=12)

    def test_never_outlives_the_grant(self, ada, app):
        token = ada.tokens()["refresh_token"]
        change(app, "update token_grant set expires_at = now() + interval '1 hour'")

        refresh(app, token)

        with app.app_context(), db.transaction() as session:
            latest = session.scalar(text("select min(expires_at) from refresh_token"))
        assert latest <= datetime.now(UTC) + timedelta(hours=1)


class TestClientCredentials:
    def test_give_the_client_a_token_of_its_own(self, app):
        answer = token_request(app, "worker", grant_type="client_credentials")
        claims = claims_of(answer.json["access_token"])

        assert answer.json["scope"] == "catalog:read catalog:write"
        assert claims["sub"] == claims["client_id"] == "worker"
        assert claims["roles"] == []
        assert "sid" not in claims
        assert "refresh_token" not in answer.json
        assert "id_token" not in answer.json

    def test_give_less_when_less_is_asked(self, app):
        answer = token_request(
            app, "worker", grant_type="client_credentials", scope="catalog:read"
        )

        assert answer.json["scope"] == "catalog:read"

    @pytest.mark.parametrize("scope", ["users:write", "openid", 'quo"te'])
    def test_never_give_more(self, app, scope):
        answer = token_request(
            app, "worker", grant_type="client_credentials", scope=scope
        )

        assert answer.json["error"] == "invalid_scope"

    def test_are_refused_to_who_is_not_registered_for_them(self, app):
        answer = token_request(app, "web", grant_type="client_credentials")

        assert answer.json["error"] == "unauthorized_client"

    def test_are_refused_to_a_public_client(self, app):
        answer = token_request(app, "cli", grant_type="client_credentials")

        assert answer.status_code == 401
        assert answer.json["error"] == "invalid_client"


def ask(app, data=None, **options):
    form = {"grant_type": "client_credentials"} if data is None else data
    return app.test_client().post("/oauth/token", data=form, **options)


def header(text_):
    return {"Authorization": text_}


def encoded(raw):
    return "Basic " + base64.b64encode(raw).decode()


class TestClientAuthentication:
    @pytest.mark.parametrize(
        "value",
        [
            encoded(b"worker:wrong"),
            encoded(b"nobody:" + b"k" * 40),
            encoded(b"worker"),
            encoded(b"worker:"),
            encoded(b":"),
            encoded(b"\xff\xfe:\xff"),
            encoded(b"wor\0ker:x"),
            encoded("würker:x".encode("latin-1")),
            "Basic",
            "Basic !!!",
            "Basic d29ya2Vy\tx",
            "Bearer abc",
            "basic",
            "",
        ],
    )
    def test_that_fails_is_a_401_with_a_challenge(self, app, value):
        answer = ask(app, headers=header(value))

        assert answer.status_code == 401
        assert answer.json["error"] == "invalid_client"
        assert answer.headers["WWW-Authenticate"].startswith("Basic")

    def test_tells_no_difference_between_unknown_and_wrong(self, app):
        unknown = ask(app, headers=basic("nobody", "k" * 40))
        wrong = ask(app, headers=basic("worker", "x" * 40))

        assert unknown.json == wrong.json

    def test_in_the_body_is_refused_unless_registered_so(self, app):
        answer = ask(
            app,
            {
                "grant_type": "client_credentials",
                "client_id": "worker",
                "client_secret": "k" * 40,
            },
        )

        assert answer.status_code == 401

    def test_in_header_and_body_at_once_is_refused(self, app):
        answer = ask(
            app,
            {"grant_type": "client_credentials", "client_secret": "k" * 40},
            headers=basic("worker"),
        )

        assert answer.status_code == 400
        assert answer.json["error"] == "invalid_request"

    def test_with_another_client_id_in_the_body_is_refused(self, app):
        answer = ask(
            app,
            {"grant_type": "client_credentials", "client_id": "web"},
            headers=basic("worker"),
        )

        assert answer.json["error"] == "invalid_request"

    def test_of_a_confidential_client_is_required(self, ada, app):
        answer = ask(
            app,
            {
                "grant_type": "authorization_code",
                "client_id": "web",
                "code": ada.code(),
                "redirect_uri": CALLBACK,
            },
        )

        assert answer.status_code == 401

    def test_of_a_public_client_by_a_made_up_secret_is_refused(self, app):
        answer = ask(
            app,
            {"grant_type": "refresh_token", "client_id": "cli", "client_secret": "x"},
        )

        assert answer.status_code == 401

    def test_reads_form_encoded_credentials(self, app):
        answer = ask(app, headers=header(encoded(b"%77orker:" + b"%6B" * 40)))

        assert answer.status_code == 200


class TestHostileTokenRequests:
    def test_parameters_in_the_address_are_refused(self, app):
        answer = app.test_client().post(
            "/oauth/token?grant_type=client_credentials",
            headers=basic("worker"),
            content_type="application/x-www-form-urlencoded",
        )

        assert answer.json["error"] == "invalid_request"

    def test_parameter_twice_is_refused(self, app):
        answer = ask(
            app,
            "grant_type=client_credentials&grant_type=client_credentials",
            headers=basic("worker"),
            content_type="application/x-www-form-urlencoded",
        )

        assert answer.json["error"] == "invalid_request"

    def test_json_body_is_refused(self, app):
        answer = app.test_client().post(
            "/oauth/token",
            json={"grant_type": "client_credentials"},
            headers=basic("worker"),
        )

        assert answer.json["error"] == "invalid_request"

    @pytest.mark.parametrize(
        "name", ["grant_type", "scope", "client_id", "code", "refresh_token"]
    )
    @pytest.mark.parametrize("value", ["a\0b", "x" * 5000])
    def test_nul_and_endless_values_are_refused(self, app, name, value):
        form = {"grant_type": "client_credentials", name: value}

        answer = ask(app, form, headers=basic("worker"))

        assert answer.status_code == 400

    @pytest.mark.parametrize("grant", ["password", "implicit", "", 'quo"te', None])
    def test_other_grants_are_refused(self, app, grant):
        form = {"grant_type": grant} if grant is not None else {"scope": "x"}

        answer = ask(app, form, headers=basic("worker"))

        assert answer.status_code == 400
        assert answer.json["error"] == "unsupported_grant_type"

    def test_a_get_is_a_405(self, app):
        assert app.test_client().get("/oauth/token").status_code == 405

    def test_a_megabyte_is_a_413(self, app):
        answer = ask(app, {"grant_type": "x" * (1 << 20)}, headers=basic("worker"))

        assert answer.status_code == 413

    def test_need_no_csrf_token_and_set_no_cookie(self, app):
        answer = token_request(app, "worker", grant_type="client_credentials")

        assert "Set-Cookie" not in answer.headers


class TestResource:
    """Tokens are for our services alone (RFC 8707)."""

    @pytest.mark.parametrize("resource", [ISSUER, f"{ISSUER}/api/v1/products"])
    def test_of_ours_is_fine(self, app, ada, resource):
        answer = token_request(
            app, "worker", grant_type="client_credentials", resource=resource
        )

        assert answer.status_code == 200
        assert "code" in query_of(ada.authorize(resource=resource))

    @pytest.mark.parametrize(
        "resource", ["https://other.test", "x", "", f"{ISSUER}.evil.test/"]
    )
    def test_of_others_is_refused(self, app, ada, resource):
        answer = token_request(
            app, "worker", grant_type="client_credentials", resource=resource
        )

        assert answer.status_code == 400
        assert answer.json["error"] == "invalid_target"
        assert query_of(ada.authorize(resource=resource))["error"] == "invalid_target"


class TestSecretsOfTwoClients:
    def test_do_not_mix(self, app, ada):
        assert Browser(app).authorize().status_code == 303
        assert ask(app, headers=basic("worker", WEB_SECRET)).status_code == 401
