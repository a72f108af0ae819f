import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.utils import base64url_encode

from flagon_chassis import auth, web
from flagon_chassis.auth import KeyRing, KeysUnavailable
from flagon_chassis.denylist import Denylist
from flagon_chassis.testing import ISSUER, TokenMaker

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
    @pytest.mark.parametrize("kind", ["jti", "sid"])
    def test_refuses_revoked_tokens_and_sessions(self, client, bearer, store, kind):
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


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class TestKeyRing:
    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def source(self, bearer):
        """What auth publishes, how often it was asked, and whether it answers."""

        class Source:
            asked = 0
            keys = bearer.jwks()
            down = False

            def __call__(self):
                self.asked += 1
                if self.down:
                    raise OSError("down")
                return self.keys

        return Source()

    @pytest.fixture
    def ring(self, source, clock):
        return KeyRing(source, clock)

    def test_fetches_once(self, ring, source, bearer):
        ring.find(bearer.kid)
        ring.find(bearer.kid)

        assert source.asked == 1

    def test_has_nothing_before_auth_answered(self, ring, source, bearer, clock):
        source.down = True
        for _ in range(3):
            with pytest.raises(KeysUnavailable):
                ring.find(bearer.kid)
        assert source.asked == 1

        clock.now += 2
        source.down = False
        ring.find(bearer.kid)

    def test_finds_a_new_key_at_once_and_forged_ids_cost_nothing(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        for _ in range(5):
            with pytest.raises(pyjwt.InvalidTokenError):
                ring.find("forged")
        assert source.asked == 1

        clock.now += 31
        source.keys = {"keys": [*source.keys["keys"], *TokenMaker().jwks()["keys"]]}
        ring.find(source.keys["keys"][1]["kid"])
        assert source.asked == 2

    def test_refreshes_beside_the_requests(self, ring, source, bearer, clock):
        ring.find(bearer.kid)
        clock.now += 301

        ring.find(bearer.kid)

        eventually(lambda: source.asked == 2)

    def test_serves_for_a_day_while_auth_is_away(self, ring, source, bearer, clock):
        ring.find(bearer.kid)
        source.down = True
        clock.now += 86_000
        ring.find(bearer.kid)
        eventually(lambda: source.asked == 2)
        ring.find(bearer.kid)

        clock.now += 1000
        with pytest.raises(KeysUnavailable):
            ring.find(bearer.kid)

    def test_many_threads_fetch_once(self, ring, source, bearer):
        inside, go_on = threading.Event(), threading.Event()
        fetch = source.__call__

        def slowly():
            inside.set()
            go_on.wait(5)
            return fetch()

        ring._fetch = slowly
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(ring.find(bearer.kid)))
            for _ in range(3)
        ]
        threads[0].start()
        assert inside.wait(5)
        for thread in threads[1:]:
            thread.start()
        go_on.set()
        for thread in threads:
            thread.join(5)

        assert len(found) == 3
        assert source.asked == 1

    def test_leaves_out_keys_of_other_kinds(self, ring, source, bearer):
        rsa_key = rsa.generate_private_key(65537, 2048).public_key()
        other = pyjwt.algorithms.RSAAlgorithm.to_jwk(rsa_key, as_dict=True)
        source.keys = {
            "keys": [
                {**other, "kid": "rsa", "alg": "RS256"},
                {"kty": "unheard", "kid": "x"},
                {**source.keys["keys"][0], "kid": "enc", "use": "enc"},
                *source.keys["keys"],
            ]
        }

        ring.find(bearer.kid)

        for kid in ("rsa", "x", "enc"):
            with pytest.raises(pyjwt.InvalidTokenError):
                ring.find(kid)

    def test_a_set_without_usable_keys_does_not_replace_a_good_one(
        self, ring, source, bearer, clock
    ):
        ring.find(bearer.kid)
        source.keys = {"keys": []}
        clock.now += 301

        ring.find(bearer.kid)
        eventually(lambda: source.asked == 2)

        ring.find(bearer.kid)


class TestJwksUrl:
    def test_is_fetched_over_http(self, make_settings, bearer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(bearer.jwks()).encode())

            def log_message(self, *_args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        app = web.create_app(__name__, make_settings(), name="things", openapi=False)
        auth.init_app(
            app, issuer=ISSUER, jwks=f"http://127.0.0.1:{server.server_port}/"
        )
        app.add_url_rule("/", "thing", auth.requires()(dict))

        response = app.test_client().get("/", headers=bearer())
        server.shutdown()
        server.server_close()

        assert response.status_code == 200
