import hmac
import json
import time

import jwt as pyjwt
import pytest
import redis
from jwt.utils import base64url_encode

from flagon_chassis import auth, limits, web
from flagon_chassis.denylist import Denylist
from flagon_chassis.testing import ISSUER, ProofMaker, TokenMaker

from .conftest import eventually


@pytest.fixture
def app(make_settings, bearer, redis_url):
    app = web.create_app(__name__, make_settings(), name="things", openapi=False)
    auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks, redis_url=redis_url)

    @app.route("/things", methods=["GET", "POST"])
    @auth.requires("things:read")
    def things():
        caller = auth.caller()
        return {"sub": caller.sub, "roles": sorted(caller.roles), "sid": caller.sid}

    @app.post("/strict")
    @auth.requires(when_redis_down="refuse")
    def strict():
        return {}

    @app.post("/lenient")
    @auth.requires(when_redis_down="allow")
    def lenient():
        return {}

    @app.get("/open")
    @auth.open_route
    def everyone():
        caller = auth.caller_if_any()
        again = auth.caller_if_any()
        assert caller is again
        return {"sub": caller.sub if caller else None}

    @app.get("/proven")
    @auth.open_route
    def proven():
        caller = auth.caller_if_proven()
        return {"sub": caller.sub if caller else None}

    yield app
    app.extensions["flagon.denylist"].close()


@pytest.fixture
def client(app):
    return app.test_client()


def forge(bearer, *, header=None, claims=None, sign=None):
    """Return a token that no library would make; what is None is left out."""

    def encode(value):
        kept = {name: one for name, one in value.items() if one is not None}
        return base64url_encode(json.dumps(kept).encode())

    good = pyjwt.decode(
        bearer.token("things:read"), options={"verify_signature": False}
    )
    signed = b".".join(
        [
            encode(
                {"typ": "at+jwt", "alg": "ES256", "kid": bearer.kid} | (header or {})
            ),
            encode(good | (claims or {})),
        ]
    )
    es256 = pyjwt.get_algorithm_by_name("ES256")
    signature = sign(signed) if sign else es256.sign(signed, bearer.key)
    return b".".join([signed, base64url_encode(signature)]).decode()


class TestForge:
    def test_makes_a_good_token_unless_told_otherwise(self, client, bearer):
        headers = {"Authorization": f"Bearer {forge(bearer)}"}

        assert client.get("/things", headers=headers).status_code == 200


class TestRequires:
    def test_lets_a_token_with_the_scope_in(self, client, bearer):
        headers = bearer("things:read", "other", sub="me", roles=["admin"], sid="s")

        response = client.get("/things", headers=headers)

        assert response.json == {"sub": "me", "roles": ["admin"], "sid": "s"}

    def test_refuses_a_token_without_it(self, client, bearer):
        response = client.get("/things", headers=bearer("things:write"))

        assert response.status_code == 403
        assert response.json["scopes"] == ["things:read"]
        challenge = response.headers["WWW-Authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="things:read"' in challenge

    def test_asks_for_a_token(self, client):
        response = client.get("/things")

        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="flagon-api"'
        assert response.json["type"].endswith("#token-missing")

    def test_marks_the_view_with_its_scopes(self, app):
        assert app.view_functions["things"].flagon_scopes == ("things:read",)

    @pytest.mark.parametrize(
        "header",
        [
            "Bearer",
            "Bearer x",
            "Bearer a.b.c",
            "Bearer a.b.c d",
            f"Bearer {'a' * 9000}.b.c",
            "Basic YTpi",
            "Bearer ..",
        ],
    )
    def test_refuses_what_is_no_token(self, client, header):
        response = client.get("/things", headers={"Authorization": header})

        assert response.status_code == 401
        assert response.mimetype == "application/problem+json"

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": 1_000_000_000},
            {"exp": None},
            {"iat": None},
            {"jti": None},
            {"client_id": None},
            {"sub": None},
            {"sub": 7},
            {"iss": "http://else.test"},
            {"aud": "another"},
            {"aud": None},
            {"nbf": 9_000_000_000},
        ],
    )
    def test_refuses_tokens_with_wrong_claims(self, client, bearer, claims):
        claims = {"sub": "me", "jti": "1", **claims}
        token = forge(bearer, claims=claims)

        response = client.get("/things", headers={"Authorization": f"Bearer {token}"})

        assert response.status_code == 401
        assert "invalid_token" in response.headers["WWW-Authenticate"]

    @pytest.mark.parametrize(
        "header",
        [{"typ": "JWT"}, {"typ": None}, {"kid": None}, {"kid": 7}, {"kid": "unknown"}],
    )
    def test_refuses_tokens_with_a_wrong_header(self, client, bearer, header):
        token = forge(bearer, header=header)

        response = client.get("/things", headers={"Authorization": f"Bearer {token}"})

        assert response.status_code == 401

    def test_takes_the_long_form_of_the_type(self, client, bearer):
        headers = bearer("things:read", header={"typ": "application/at+jwt"})

        assert client.get("/things", headers=headers).status_code == 200

    def test_refuses_another_signer(self, client, bearer):
        forger = TokenMaker()
        forger.kid = bearer.kid

        assert client.get("/things", headers=forger("things:read")).status_code == 401

    @pytest.mark.parametrize("algorithm", ["HS256", "none"])
    def test_refuses_other_algorithms(self, client, bearer, algorithm):
        # The classical attack: the public key, known to all, as a shared secret.
        token = forge(
            bearer,
            header={"alg": algorithm},
            sign=lambda text: (
                hmac.digest(
                    json.dumps(bearer.jwks()["keys"][0]).encode(), text, "sha256"
                )
                if algorithm == "HS256"
                else b""
            ),
        )

        response = client.get("/things", headers={"Authorization": f"Bearer {token}"})

        assert response.status_code == 401

    def test_does_not_read_tokens_from_elsewhere(self, client, bearer):
        token = bearer.token("things:read")
        client.set_cookie("access_token_cookie", token)

        assert client.get(f"/things?jwt={token}").status_code == 401


class TestDenylist:
    @pytest.mark.parametrize("kind", ["jti", "gid", "sid"])
    def test_refuses_revoked_tokens_grants_and_sessions(
        self, client, bearer, store, kind
    ):
        store.set(f"denylist:{kind}:gone", "1")

        response = client.get(
            "/things", headers=bearer("things:read", **{kind: "gone"})
        )

        assert response.status_code == 401
        assert "revoked" in response.json["detail"]

    def test_refuses_what_an_account_got_before_it_was_locked(
        self, client, bearer, store
    ):
        now = int(time.time())
        store.set("denylist:sub:me", str(now - 10))

        before = bearer("things:read", sub="me", iat=now - 20)
        after = bearer("things:read", sub="me", iat=now)

        assert client.get("/things", headers=before).status_code == 401
        assert client.get("/things", headers=after).status_code == 200

    def test_refuses_what_a_dropped_key_signed(self, client, bearer, store):
        headers = bearer("things:read")
        assert client.get("/things", headers=headers).status_code == 200

        store.set(f"denylist:kid:{bearer.kid}", "1")

        refused = eventually(
            lambda: (
                (answer := client.get("/things", headers=headers)).status_code == 401
                and answer
            ),
            seconds=1,
        )
        assert "revoked" in refused.json["detail"]

    @pytest.mark.parametrize("kind", ["jti", "gid", "sid", "sub"])
    def test_takes_effect_within_a_second_on_a_token_in_use(
        self, client, bearer, store, kind
    ):
        headers = bearer("things:read", iat=int(time.time()) - 5, **{kind: "it"})
        for _ in range(3):
            assert client.get("/things", headers=headers).status_code == 200

        store.set(f"denylist:{kind}:it", str(int(time.time())))

        eventually(
            lambda: client.get("/things", headers=headers).status_code == 401, seconds=1
        )

    def test_is_asked_once_a_request(self, app, bearer, store, monkeypatch):
        limits.init_app(app, app.extensions["flagon.settings"])
        asked = []
        denylist = app.extensions["flagon.denylist"]
        monkeypatch.setattr(denylist, "marks", lambda names: asked.append(names) or {})

        assert app.test_client().get("/things", headers=bearer("things:read")).json

        assert len(asked) == 1

    def test_a_refused_token_is_not_checked_twice_either(
        self, app, client, monkeypatch
    ):
        limits.init_app(app, app.extensions["flagon.settings"])
        checked = []
        prove = auth._prove
        monkeypatch.setattr(auth, "_prove", lambda t: checked.append(t) or prove(t))

        answer = client.get("/things", headers={"Authorization": "Bearer a.b.c"})

        assert answer.status_code == 401
        assert len(checked) == 1

    def test_a_service_token_has_no_session(self, client, bearer):
        headers = bearer("things:read", sid=None)

        assert client.get("/things", headers=headers).status_code == 200

    @pytest.fixture
    def without_redis(self, app, monkeypatch):
        broken = Denylist("redis://127.0.0.1:1/0")
        monkeypatch.setitem(app.extensions, "flagon.denylist", broken)
        yield
        broken.close()

    @pytest.mark.usefixtures("without_redis")
    def test_without_redis_reading_goes_on_and_changing_does_not(
        self, client, bearer, logged
    ):
        headers = bearer("things:read")

        assert client.get("/things", headers=headers).status_code == 200
        changed = client.post("/things", headers=headers)
        assert (changed.status_code, changed.headers["Retry-After"]) == (503, "2")

    @pytest.mark.usefixtures("without_redis")
    def test_without_redis_a_route_can_decide_otherwise(self, client, bearer):
        assert client.post("/lenient", headers=bearer()).status_code == 200
        assert client.post("/strict", headers=bearer()).status_code == 503

    def test_may_be_left_out(self, make_settings, bearer):
        app = web.create_app(__name__, make_settings(), name="things", openapi=False)
        auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks)
        app.add_url_rule("/", "thing", auth.requires()(dict))

        assert app.test_client().get("/", headers=bearer()).status_code == 200


class TestCallerIfAny:
    def test_knows_strangers_and_callers(self, client, bearer):
        assert client.get("/open").json == {"sub": None}
        assert client.get("/open", headers=bearer(sub="me")).json == {"sub": "me"}

    def test_a_bad_token_is_no_stranger(self, client):
        response = client.get("/open", headers={"Authorization": "Bearer a.b.c"})

        assert response.status_code == 401


class TestCallerIfProven:
    def test_never_refuses(self, client, bearer):
        assert client.get("/proven").json == {"sub": None}
        assert client.get("/proven", headers=bearer(sub="me")).json == {"sub": "me"}
        bad = client.get("/proven", headers={"Authorization": "Bearer a.b.c"})
        assert bad.json == {"sub": None}

    def test_is_nobody_where_tokens_are_not_checked(self, make_settings):
        app = web.create_app(__name__, make_settings(), name="things", openapi=False)
        with app.test_request_context(headers={"Authorization": "Bearer a.b.c"}):
            assert auth.caller_if_proven() is None


class TestPossession:
    """Tokens that are bound to a key (RFC 9449 section 7)."""

    URL = f"{ISSUER}/things"

    @pytest.fixture
    def bound(self, bearer, prover):
        return bearer.token("things:read", cnf={"jkt": prover.jkt})

    def ask(self, client, token, proof=None, scheme="DPoP"):
        headers = {"Authorization": f"{scheme} {token}"}
        if proof:
            headers["DPoP"] = proof
        return client.get("/things", headers=headers)

    def test_a_bound_token_opens_with_its_proof(self, client, bound, prover):
        proof = prover("GET", self.URL, bound)

        assert self.ask(client, bound, proof).status_code == 200

    def test_and_not_as_a_bearer_token(self, client, bound, prover):
        proof = prover("GET", self.URL, bound)

        answer = self.ask(client, bound, proof, scheme="Bearer")

        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith(
            'DPoP realm="flagon-api", error="invalid_token"'
        )

    def test_and_not_without_a_proof(self, client, bound):
        answer = self.ask(client, bound)

        assert answer.status_code == 401
        challenge = answer.headers["WWW-Authenticate"]
        assert 'error="invalid_dpop_proof"' in challenge
        assert 'algs="ES256' in challenge

    def test_and_not_twice_with_one_proof(self, client, bound, prover):
        proof = prover("GET", self.URL, bound)
        self.ask(client, bound, proof)

        answer = self.ask(client, bound, proof)

        assert answer.status_code == 401
        assert "used before" in answer.json["detail"]

    def test_and_not_with_the_proof_of_another_key(self, client, bound):
        proof = ProofMaker()("GET", self.URL, bound)

        assert self.ask(client, bound, proof).status_code == 401

    @pytest.mark.parametrize(
        ("method", "url"),
        [
            ("POST", f"{ISSUER}/things"),
            ("GET", f"{ISSUER}/strict"),
            # What the Host header says is the sender's word.
            ("GET", "http://localhost/things"),
        ],
    )
    def test_and_not_with_a_proof_for_something_else(
        self, client, bound, prover, method, url
    ):
        assert self.ask(client, bound, prover(method, url, bound)).status_code == 401

    def test_a_free_token_goes_as_bearer_alone(self, client, bearer, prover):
        token = bearer.token("things:read")
        proof = prover("GET", self.URL, token)

        assert self.ask(client, token, proof).status_code == 401

    def test_while_nobody_knows_used_proofs_reading_goes_on(
        self, app, client, bound, prover, monkeypatch
    ):
        def away(*_args):
            raise redis.ConnectionError("away")

        monkeypatch.setattr(app.extensions["flagon.denylist"], "claim", away)

        assert (
            self.ask(client, bound, prover("GET", self.URL, bound)).status_code == 200
        )
        headers = {
            "Authorization": f"DPoP {bound}",
            "DPoP": prover("POST", f"{ISSUER}/strict", bound),
        }
        assert client.post("/strict", headers=headers).status_code == 503

    def test_without_a_store_a_proof_is_checked_and_not_remembered(
        self, make_settings, bearer, prover, bound
    ):
        app = web.create_app(__name__, make_settings(), name="things", openapi=False)
        auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks)
        app.add_url_rule("/things", "thing", auth.requires()(dict))

        answer = self.ask(app.test_client(), bound, prover("GET", self.URL, bound))

        assert answer.status_code == 200
