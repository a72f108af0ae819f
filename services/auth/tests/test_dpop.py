"""Tokens bound to a key (DPoP, RFC 9449), from the request to the resource."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import text

from flagon_chassis import db
from flagon_chassis.testing import ProofMaker

from .conftest import (
    CALLBACK,
    ISSUER,
    VERIFIER,
    basic,
    claims_of,
    fields,
    query_of,
    request_for,
)
from .registering import SECRET, post, register

TOKEN = "/oauth/token"
LOOPBACK = "http://127.0.0.1/callback"


@pytest.fixture(autouse=True)
def clean(app):
    yield
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from used_proof"))
        session.execute(text("delete from client where name = 'Test'"))


def proven(prover, path=TOKEN, method="POST", **changes):
    return {"DPoP": prover(method, ISSUER + path, **changes)} if prover else {}


def redeem(app, code, prover, client="web", **proof):
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": LOOPBACK if client == "cli" else CALLBACK,
        "code_verifier": VERIFIER,
    }
    return _ask(app, client, form, prover, **proof)


def refresh(app, token, prover, client="web"):
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return _ask(app, client, form, prover)


def _ask(app, client, form, prover, **proof):
    headers = proven(prover, **proof)
    if client == "cli":
        form = {"client_id": "cli", **form}
    else:
        headers |= basic(client, None if client == "web" else SECRET)
    return post(app, TOKEN, headers, **form)


def tokens(app, ada, prover, client="web"):
    changes = {"redirect_uri": LOOPBACK} if client == "cli" else {}
    answer = redeem(app, ada.code(client_id=client, **changes), prover, client)
    assert answer.status_code == 200, answer.json
    return answer.json


def call(app, path, token, prover, scheme="DPoP", method="GET", **changes):
    proof = {"DPoP": prover(method, ISSUER + path, token, **changes)} if prover else {}
    return app.test_client().open(
        path, method=method, headers={"Authorization": f"{scheme} {token}", **proof}
    )


class TestTokenRequest:
    def test_binds_the_tokens_to_the_key(self, app, ada, prover):
        answer = tokens(app, ada, prover)

        assert answer["token_type"] == "DPoP"
        assert claims_of(answer["access_token"])["cnf"] == {"jkt": prover.jkt}
        assert "cnf" not in claims_of(answer["id_token"])

    def test_without_a_proof_gives_bearer_tokens(self, app, ada):
        answer = tokens(app, ada, None)

        assert answer["token_type"] == "Bearer"
        assert "cnf" not in claims_of(answer["access_token"])

    def test_binds_the_tokens_of_services_too(self, app, prover):
        answer = post(
            app,
            TOKEN,
            {**basic("worker"), **proven(prover)},
            grant_type="client_credentials",
        )

        assert answer.json["token_type"] == "DPoP"
        assert claims_of(answer.json["access_token"])["cnf"] == {"jkt": prover.jkt}

    @pytest.mark.parametrize(
        "changes",
        [
            {"method": "GET"},
            {"path": "/oauth/par"},
            {"htu": "https://other.test/oauth/token"},
            {"iat": int(time.time()) - 3600},
            {"iat": int(time.time()) + 3600},
            {"jti": None},
            {"header": {"typ": "JWT"}},
            {"header": {"jwk": ProofMaker().jwk}},
        ],
    )
    def test_with_a_bad_proof_is_refused(self, app, ada, prover, changes):
        code = ada.code()

        answer = redeem(app, code, prover, **changes)

        assert answer.status_code == 400
        assert answer.json["error"] == "invalid_dpop_proof"
        # Nothing was used up by it.
        assert redeem(app, code, prover).status_code == 200

    @pytest.mark.parametrize(
        "proof", ["", "x", "a.b.c", "ü.ü.ü", "x" * 9000, "a.b.c, a.b.c"]
    )
    def test_with_rubbish_for_a_proof_is_refused(self, app, proof):
        answer = post(
            app,
            TOKEN,
            {**basic("worker"), "DPoP": proof.encode().decode("latin-1")},
            grant_type="client_credentials",
        )

        assert answer.status_code == 400
        assert answer.json["error"] == "invalid_dpop_proof"

    def test_replayed_is_refused(self, app, prover):
        headers = {**basic("worker"), **proven(prover)}

        first = post(app, TOKEN, headers, grant_type="client_credentials")
        again = post(app, TOKEN, headers, grant_type="client_credentials")

        assert first.status_code == 200
        assert again.json["error"] == "invalid_dpop_proof"

    def test_replayed_eight_times_at_once_succeeds_once(self, app, prover):
        headers = {**basic("worker"), **proven(prover)}

        with ThreadPoolExecutor(8) as pool:
            found = pool.map(
                lambda _: (
                    post(
                        app, TOKEN, headers, grant_type="client_credentials"
                    ).status_code
                ),
                range(8),
            )

            assert sorted(found) == [200] + [400] * 7


class TestCode:
    """A code that was bound to a key when it was asked for (section 10)."""

    def test_needs_the_key(self, app, ada, prover):
        code = ada.code(dpop_jkt=prover.jkt)

        assert redeem(app, code, None).json["error"] == "invalid_grant"
        assert redeem(app, code, ProofMaker()).json["error"] == "invalid_grant"
        assert redeem(app, code, prover).status_code == 200

    def test_is_bound_by_a_pushed_request(self, app, ada, prover):
        headers = {**basic("web"), **proven(prover, "/oauth/par")}
        uri = post(app, "/oauth/par", headers, **request_for()).json["request_uri"]
        asked = {"client_id": "web", "request_uri": uri}
        code = query_of(ada.get("/oauth/authorize", query_string=asked))["code"]

        assert redeem(app, code, ProofMaker()).json["error"] == "invalid_grant"
        assert redeem(app, code, prover).status_code == 200

    def test_is_bound_by_the_proof_through_sign_in_and_consent(
        self, app, person, browser, prover
    ):
        person()
        register(app, "asks", first_party=False)
        headers = {**basic("asks", SECRET), **proven(prover, "/oauth/par")}
        asked = request_for(client_id="asks", scope="openid")
        uri = post(app, "/oauth/par", headers, **asked).json["request_uri"]
        brought = {"client_id": "asks", "request_uri": uri}
        first = browser.get("/oauth/authorize", query_string=brought)
        page = browser.get(browser.sign_in(path=first.location).location)
        answer = browser.post("/oauth/consent", {**fields(page), "choice": "allow"})
        code = query_of(answer)["code"]

        assert redeem(app, code, None, "asks").json["error"] == "invalid_grant"
        assert redeem(app, code, prover, "asks").status_code == 200

    def test_contradicted_by_the_pushed_proof_is_refused(self, app, prover):
        headers = {**basic("web"), **proven(prover, "/oauth/par")}

        answer = post(
            app, "/oauth/par", headers, **request_for(dpop_jkt=ProofMaker().jkt)
        )

        assert answer.json["error"] == "invalid_dpop_proof"

    def test_that_no_thumbprint_fits_is_refused(self, ada):
        for jkt in ("", "short", "x" * 44, "ü" * 43):
            answer = query_of(ada.authorize(dpop_jkt=jkt))
            assert answer["error"] == "invalid_request"


class TestRefresh:
    def test_of_a_public_client_needs_the_very_key(self, app, ada, prover):
        token = tokens(app, ada, prover, "cli")["refresh_token"]

        without = refresh(app, token, None, "cli")
        other = refresh(app, token, ProofMaker(), "cli")
        good = refresh(app, token, prover, "cli")

        assert without.json["error"] == "invalid_dpop_proof"
        assert other.json["error"] == "invalid_grant"
        assert good.json["token_type"] == "DPoP"

    def test_of_a_confidential_client_may_change_the_key(self, app, ada, prover):
        token = tokens(app, ada, prover)["refresh_token"]
        new = ProofMaker()

        answer = refresh(app, token, new).json

        assert claims_of(answer["access_token"])["cnf"] == {"jkt": new.jkt}

    def test_never_turns_a_bound_grant_into_bearer_tokens(self, app, ada, prover):
        token = tokens(app, ada, prover)["refresh_token"]

        assert refresh(app, token, None).json["error"] == "invalid_dpop_proof"

    def test_can_begin_to_bind(self, app, ada, prover):
        token = tokens(app, ada, None, "cli")["refresh_token"]

        bound = refresh(app, token, prover, "cli").json
        stolen = refresh(app, bound["refresh_token"], ProofMaker(), "cli")

        assert bound["token_type"] == "DPoP"
        assert stolen.json["error"] == "invalid_grant"

    def test_with_a_wrong_key_does_not_use_the_token_up(self, app, ada, prover):
        token = tokens(app, ada, prover, "cli")["refresh_token"]
        refresh(app, token, ProofMaker(), "cli")

        assert refresh(app, token, prover, "cli").status_code == 200


class TestBoundClient:
    def test_gets_nothing_without_a_proof(self, app, ada, prover):
        register(app, "bound", dpop_bound_access_tokens=True)
        code = ada.code(client_id="bound")

        without = redeem(app, code, None, "bound")
        service = post(
            app, TOKEN, basic("bound", SECRET), grant_type="client_credentials"
        )

        assert without.json["error"] == "invalid_dpop_proof"
        assert service.json["error"] == "invalid_dpop_proof"
        assert redeem(app, code, prover, "bound").json["token_type"] == "DPoP"


class TestResource:
    def test_takes_the_token_with_a_proof(self, app, ada, prover):
        token = tokens(app, ada, prover)["access_token"]

        answer = call(app, "/api/v1/me", token, prover)
        user = call(app, "/oauth/userinfo", token, prover)
        posted = call(app, "/oauth/userinfo", token, prover, method="POST")

        assert answer.status_code == 200
        assert user.json["email"] == posted.json["email"] == "ada@flagon.test"

    def test_refuses_a_bound_token_as_bearer(self, app, ada, prover):
        token = tokens(app, ada, prover)["access_token"]

        answer = call(app, "/api/v1/me", token, None, scheme="Bearer")
        with_proof = call(app, "/api/v1/me", token, prover, scheme="Bearer")
        in_body = post(app, "/oauth/userinfo", access_token=token)

        for refused in (answer, with_proof, in_body):
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"].startswith("DPoP ")

    def test_refuses_an_unbound_token_as_dpop(self, app, ada, prover):
        token = tokens(app, ada, None)["access_token"]

        assert call(app, "/api/v1/me", token, prover).status_code == 401

    def test_refuses_another_key(self, app, ada, prover):
        token = tokens(app, ada, prover)["access_token"]

        assert call(app, "/api/v1/me", token, ProofMaker()).status_code == 401
        assert call(app, "/api/v1/me", token, None).status_code == 401

    @pytest.mark.parametrize(
        "changes",
        [
            {"htm": "POST"},
            {"htu": f"{ISSUER}/api/v1/users"},
            {"htu": "https://other.test/api/v1/me"},
            {"ath": None},
            {"ath": "x" * 43},
            {"iat": 1},
        ],
    )
    def test_refuses_a_proof_for_something_else(self, app, ada, prover, changes):
        token = tokens(app, ada, prover)["access_token"]

        answer = call(app, "/api/v1/me", token, prover, **changes)

        assert answer.status_code == 401
        assert 'error="invalid_dpop_proof"' in answer.headers["WWW-Authenticate"]

    def test_refuses_a_proof_that_was_made_for_another_host(self, app, ada, prover):
        # A server that the client trusts too little passes on what it got.
        token = tokens(app, ada, prover)["access_token"]
        proof = prover("GET", "http://evil.test/api/v1/me", token)

        answer = app.test_client().get(
            "/api/v1/me",
            base_url="http://evil.test",
            headers={"Authorization": f"DPoP {token}", "DPoP": proof},
        )

        assert answer.status_code == 401

    def test_refuses_a_replayed_proof(self, app, ada, prover):
        token = tokens(app, ada, prover)["access_token"]
        jti = uuid4().hex

        assert call(app, "/api/v1/me", token, prover, jti=jti).status_code == 200
        again = call(app, "/api/v1/me", token, prover, jti=jti)

        assert again.status_code == 401
        assert 'error="invalid_dpop_proof"' in again.headers["WWW-Authenticate"]

    def test_ends_with_its_family(self, app, ada, prover):
        first = tokens(app, ada, prover)
        refresh(app, first["refresh_token"], prover)
        refresh(app, first["refresh_token"], prover)

        assert call(app, "/api/v1/me", first["access_token"], prover).status_code == 401

    def test_is_told_about_the_key_by_introspection(self, app, ada, prover):
        answer = tokens(app, ada, prover)

        found = post(
            app, "/oauth/introspect", basic("web"), token=answer["access_token"]
        ).json

        assert found["cnf"] == {"jkt": prover.jkt}
        assert found["token_type"] == "DPoP"
