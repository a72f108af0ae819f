"""auth ends sessions here (OpenID Connect Back-Channel Logout 1.0)."""

import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from json import dumps
from uuid import uuid4

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, RSAKey

EVENT = "http://schemas.openid.net/event/backchannel-logout"
HEADER = {"typ": "logout+jwt", "alg": "RS256"}


def logout_token(platform, header=None, key=None, algs=("RS256",), **changes):
    now = int(time.time())
    claims = {
        "iss": platform.issuer,
        "aud": "web",
        "sub": "user-1",
        "sid": "session-1",
        "iat": now,
        "exp": now + 120,
        "jti": str(uuid4()),
        "events": {EVENT: {}},
        **changes,
    }
    key = key or platform.id_token_key
    return jwt.encode(
        {**HEADER, "kid": key.kid, **(header or {})},
        {name: value for name, value in claims.items() if value is not None},
        key,
        algorithms=list(algs),
    )


def b64e(raw):
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def b64d(text):
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def tell(app, token):
    # As the worker does it: no cookie, no CSRF token, no Referer.
    return app.test_client().post("/backchannel-logout", data={"logout_token": token})


@pytest.fixture
def here(make_browser, platform):
    """A browser that is signed in, out of the session `session-1` at auth."""
    platform.id_token_claims["sid"] = "session-1"
    browser = make_browser()
    browser.sign_in(platform)
    return browser


def alive(browser):
    return "Mira Merchandiser" in browser.get("/").text


class TestLogoutToken:
    def test_ends_the_session_it_names(self, app, platform, here):
        answer = tell(app, logout_token(platform))

        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers
        assert not alive(here)

    def test_ends_the_access_token_for_the_gateway(self, app, platform, here):
        tell(app, logout_token(platform))

        assert "X-Access-Token" not in here.get("/internal/session").headers

    def test_leaves_other_sessions_alone(self, app, platform, here, make_browser):
        platform.id_token_claims["sid"] = "session-2"
        other = make_browser()
        other.sign_in(platform)

        tell(app, logout_token(platform))

        assert alive(other)
        assert not alive(here)

    def test_ends_every_session_that_came_out_of_one(
        self, app, platform, here, make_browser
    ):
        other = make_browser()
        other.sign_in(platform)

        tell(app, logout_token(platform))

        assert not alive(other)
        assert not alive(here)

    def test_without_a_session_ends_all_of_the_person(
        self, app, platform, here, make_browser
    ):
        platform.id_token_claims["sid"] = "session-2"
        other = make_browser()
        other.sign_in(platform)

        tell(app, logout_token(platform, sid=None))

        assert not alive(other)
        assert not alive(here)

    def test_without_a_person_ends_the_session(self, app, platform, here):
        assert tell(app, logout_token(platform, sub=None)).status_code == 200
        assert not alive(here)

    def test_of_another_person_ends_nothing(self, app, platform, here):
        assert tell(app, logout_token(platform, sub="user-2")).status_code == 200
        assert alive(here)

    def test_of_a_session_that_is_not_here_is_no_failure(self, app, platform, here):
        assert tell(app, logout_token(platform, sid="session-9")).status_code == 200
        assert alive(here)

    def test_signing_in_again_works(self, app, platform, here):
        tell(app, logout_token(platform))

        here.sign_in(platform)

        assert alive(here)

    def test_for_several_audiences_counts(self, app, platform, here):
        token = logout_token(platform, aud=["other", "web"])

        assert tell(app, token).status_code == 200
        assert not alive(here)

    def test_of_a_key_that_is_new_counts(self, app, platform, here):
        platform.id_token_key = platform.published_key = RSAKey.generate_key(
            2048, {"kid": "new", "alg": "RS256", "use": "sig"}
        )

        assert tell(app, logout_token(platform)).status_code == 200

    def test_waits_for_a_store_that_is_away(self, make_app, platform):
        down = make_app(redis_store_url="redis://127.0.0.1:1/0")

        assert tell(down, logout_token(platform)).status_code == 503

    def test_waits_for_keys_that_cannot_be_fetched(self, app, platform):
        platform.down.add("auth")

        assert tell(app, logout_token(platform)).status_code == 503


class TestThreatForgedLogout:
    @pytest.mark.parametrize(
        "changes",
        [
            {"iss": "https://evil.test"},
            {"iss": None},
            {"aud": "other"},
            {"aud": ["other"]},
            {"aud": None},
            {"events": None},
            {"events": {}},
            {"events": {EVENT: None}},
            {"events": [EVENT]},
            {"events": EVENT},
            {"events": {"http://schemas.openid.net/event/other": {}}},
            {"nonce": "n"},
            {"nonce": ""},
            {"jti": None},
            {"jti": ""},
            {"jti": 5},
            {"sid": None, "sub": None},
            {"sid": 5},
            {"sub": ["user-1"]},
            {"iat": None},
            {"exp": None},
            {"iat": "now"},
            {"exp": True},
            {"exp": 1},
            {"iat": 1 << 40},
        ],
        ids=str,
    )
    def test_a_claim_that_is_wrong_ends_nothing(self, app, platform, here, changes):
        answer = tell(app, logout_token(platform, **changes))

        assert answer.status_code == 400
        assert answer.json["error"] == "invalid_request"
        assert answer.headers["Cache-Control"] == "no-store"
        assert alive(here)

    @pytest.mark.parametrize("kind", ["JWT", "at+jwt", "", "secevent+jwt"])
    def test_a_token_of_another_type_ends_nothing(self, app, platform, here, kind):
        token = logout_token(platform, {"typ": kind})

        assert tell(app, token).status_code == 400
        assert alive(here)

    def test_the_type_may_be_written_out(self, app, platform, here):
        token = logout_token(platform, {"typ": "application/Logout+JWT"})

        assert tell(app, token).status_code == 200

    def test_an_id_token_ends_nothing(self, app, platform, here):
        sessions = app.extensions["flagon.web"].sessions

        assert tell(app, sessions.tokens(here.cookie()).id_token).status_code == 400
        assert alive(here)

    @pytest.mark.parametrize("kid", ["same", "other"])
    def test_a_key_of_somebody_else_ends_nothing(self, app, platform, here, kid):
        known = platform.published_key.kid
        key = RSAKey.generate_key(2048, {"kid": known if kid == "same" else "x"})

        assert tell(app, logout_token(platform, key=key)).status_code == 400
        assert alive(here)

    def test_a_token_without_a_type_ends_nothing(self, app, platform, here):
        _, claims, _ = logout_token(platform).split(".")
        key = platform.id_token_key
        header = {"alg": "RS256", "kid": key.kid}

        token = jws.serialize_compact(header, b64d(claims), key, ["RS256"])

        assert tell(app, token).status_code == 400
        assert alive(here)

    def test_other_algorithms_end_nothing(self, app, platform, here):
        _, claims, _ = logout_token(platform).split(".")
        kid = platform.published_key.kid
        curve = ECKey.generate_key("P-256", {"kid": kid})
        confused = b64e(dumps({**HEADER, "alg": "HS256", "kid": kid}).encode())
        public = platform.published_key.as_pem(private=False)
        mac = hmac.digest(public, f"{confused}.{claims}".encode(), "sha256")
        bare = b64e(dumps({**HEADER, "alg": "none", "kid": kid}).encode())
        tokens = [
            f"{confused}.{claims}.{b64e(mac)}",
            f"{bare}.{claims}.",
            logout_token(platform, {"alg": "ES256"}, curve, ["ES256"]),
        ]

        assert [tell(app, token).status_code for token in tokens] == [400] * 3
        assert alive(here)

    def test_a_replay_ends_nothing(self, app, platform, here):
        token = logout_token(platform)
        tell(app, token)
        here.sign_in(platform)

        assert tell(app, token).status_code == 400
        assert alive(here)

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "ü.ü.ü", "a" * 9000, "\0"])
    def test_rubbish_is_refused(self, app, token):
        assert tell(app, token).status_code == 400

    def test_nothing_is_refused(self, app):
        assert app.test_client().post("/backchannel-logout").status_code == 400
        assert app.test_client().get("/backchannel-logout").status_code == 405

    def test_a_flood_does_not_fetch_keys_each_time(self, app, platform, here):
        key = RSAKey.generate_key(2048, {"kid": "forged"})
        tell(app, logout_token(platform, key=key))
        platform.calls.clear()

        for _ in range(20):
            tell(app, logout_token(platform, key=key))

        assert platform.calls == []
