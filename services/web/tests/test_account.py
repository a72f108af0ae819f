import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest
from joserfc.jwk import RSAKey

from flagon_web.clients.identity import SignedOut
from flagon_web.clients.sessions import Session


def come_back(browser, platform, **changes):
    """Follow auth's redirect back to us, with something about it changed."""
    asked = browser.begin_sign_in("/jobs")
    platform.codes["code-1"] = asked
    query = {"code": "code-1", "state": asked["state"], "iss": platform.issuer}
    query = {name: v for name, v in {**query, **changes}.items() if v is not None}
    return browser.get(f"/callback?{urlencode(query)}")


class TestSignIn:
    def test_asks_auth_by_code_with_pkce_state_and_nonce(self, browser):
        asked = browser.begin_sign_in()

        assert asked["response_type"] == "code"
        assert asked["client_id"] == "web"
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == "http://localhost/callback"
        assert len(asked["state"]) >= 32
        assert len(asked["nonce"]) >= 32
        assert "openid" in asked["scope"].split()

    def test_asks_something_else_each_time(self, browser):
        first, second = browser.begin_sign_in(), browser.begin_sign_in()

        for name in ("state", "nonce", "code_challenge"):
            assert first[name] != second[name]

    def test_comes_back_to_the_origin_that_the_person_uses(self, make_browser):
        asked = make_browser("https").begin_sign_in()

        assert asked["redirect_uri"] == "https://localhost/callback"

    def test_leads_to_the_page_that_was_wanted(self, browser, platform):
        answer = browser.sign_in(platform, "/jobs?after=x")

        assert (answer.status_code, answer.location) == (303, "/jobs?after=x")
        assert "Mira Merchandiser" in browser.get("/").text

    @pytest.mark.parametrize(
        "address",
        [
            "https://evil.example/",
            "//evil.example/",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "evil.example",
            "/ok\r\nSet-Cookie: a=b",
            "http:evil.example",
            "",
        ],
    )
    def test_leads_to_no_other_site(self, browser, platform, address):
        answer = browser.sign_in(platform, address)

        assert answer.location == "/"

    def test_is_skipped_by_who_is_signed_in(self, signed_in):
        assert signed_in.get("/sign-in?next=/jobs").location == "/jobs"

    def test_works_in_several_tabs_at_once(self, browser, platform):
        asked = [browser.begin_sign_in(f"/search?q={n}") for n in range(6)]
        codes = {}
        for n, one in enumerate(asked):
            codes[n] = f"c{n}"
            platform.codes[f"c{n}"] = one

        def callback(n):
            query = {
                "code": codes[n],
                "state": asked[n]["state"],
                "iss": platform.issuer,
            }
            return browser.get(f"/callback?{urlencode(query)}")

        # Four are remembered, and the fifth forgot the first.
        assert callback(0).status_code == 401
        assert callback(4).location == "/search?q=4"

    def test_says_so_when_auth_is_down(self, browser, platform):
        platform.down.add("auth")

        answer = browser.get("/sign-in")

        assert answer.status_code == 503
        assert "Signing in is not possible at the moment" in answer.text
        assert browser.get("/").status_code == 200

    def test_says_so_when_auth_is_down_that_was_there(
        self, browser, platform, app, monkeypatch
    ):
        identity = app.extensions["flagon.web"].identity
        assert browser.begin_sign_in()
        platform.down.add("auth")
        monkeypatch.setattr(identity, "_clock", lambda: time.time() + 1.5)

        assert browser.get("/sign-in").status_code == 503

    def test_refuses_a_provider_with_another_name(self, browser, platform):
        platform.issuer = "https://other.example"

        answer = browser.get("/sign-in")

        assert answer.status_code == 503
        assert "does not identify itself" in answer.text
        # And looks again as soon as it is put right.
        platform.issuer = "http://localhost"
        assert browser.get("/sign-in").status_code == 303

    def test_is_limited_per_address(self, make_app, make_browser):
        browser = make_browser(app=make_app(sign_in_limit="2 per minute"))

        answers = [browser.get("/sign-in").status_code for _ in range(3)]

        assert answers == [303, 303, 429]


class TestCallback:
    @pytest.mark.parametrize(
        "changes",
        [
            {"state": None},
            {"state": ""},
            {"state": "foreign"},
            {"iss": None},
            {"iss": "https://evil.example"},
            {"iss": "http://localhost/"},
            {"code": None},
            {"code": ""},
            {"code": "guessed"},
        ],
    )
    def test_refuses_what_is_not_the_answer_to_our_question(
        self, browser, platform, changes
    ):
        answer = come_back(browser, platform, **changes)

        assert answer.status_code == 401
        assert browser.csrf() == ""

    def test_never_redeems_a_code_from_a_foreign_issuer(self, browser, platform):
        come_back(browser, platform, iss="https://evil.example")

        assert ("POST", "/oauth/token") not in platform.calls

    def test_takes_an_answer_once(self, browser, platform):
        asked = browser.begin_sign_in()
        platform.codes["c"] = asked
        query = urlencode(
            {"code": "c", "state": asked["state"], "iss": platform.issuer}
        )
        browser.get(f"/callback?{query}")

        assert browser.get(f"/callback?{query}").status_code == 401

    def test_takes_no_answer_begun_in_another_browser(
        self, browser, make_browser, platform
    ):
        asked = browser.begin_sign_in()
        platform.codes["c"] = asked
        query = urlencode(
            {"code": "c", "state": asked["state"], "iss": platform.issuer}
        )

        assert make_browser().get(f"/callback?{query}").status_code == 401

    @pytest.mark.parametrize(
        "claims",
        [
            {"nonce": "foreign"},
            {"nonce": None},
            {"iss": "https://evil.example"},
            {"aud": "cli"},
            {"aud": ["web", "cli"], "azp": "cli"},
            {"exp": 1_000_000},
            {"iat": 4_000_000_000},
            {"sub": ""},
            {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
        ],
    )
    def test_refuses_an_unsound_id_token(self, browser, platform, claims):
        platform.id_token_claims = claims

        answer = come_back(browser, platform)

        assert answer.status_code == 401, answer.text
        assert browser.csrf() == ""

    def test_refuses_an_id_token_signed_by_somebody_else(self, browser, platform):
        platform.id_token_key = RSAKey.generate_key(2048, {"kid": "k1"})

        assert come_back(browser, platform).status_code == 401

    def test_learns_of_a_new_key(self, browser, platform):
        browser.sign_in(platform)
        browser.submit("/sign-out")
        fresh = RSAKey.generate_key(2048, {"kid": "k2", "use": "sig", "alg": "RS256"})
        platform.id_token_key = platform.published_key = fresh

        assert come_back(browser, platform).status_code == 303

    def test_says_so_when_the_person_declines(self, browser, platform):
        answer = come_back(browser, platform, error="access_denied", code=None)

        assert answer.status_code == 303
        assert "You were not signed in" in browser.get("/").text

    def test_says_so_when_auth_goes_down_in_between(self, browser, platform):
        asked = browser.begin_sign_in()
        platform.down.add("auth")

        query = {"code": "c", "state": asked["state"], "iss": platform.issuer}
        answer = browser.get(f"/callback?{urlencode(query)}")

        assert answer.status_code == 503

    def test_keeps_tokens_from_the_browser(self, browser, platform):
        answer = browser.sign_in(platform)
        page = browser.get("/")

        for seen in (answer, page):
            assert "access-" not in seen.text + str(seen.headers)
            assert "refresh-" not in seen.text + str(seen.headers)


class TestSignOut:
    def test_ends_the_session_here_and_at_auth(self, signed_in, platform, store):
        answer = signed_in.submit("/sign-out")

        assert answer.status_code == 303
        assert answer.location.startswith("/oauth/end_session?id_token_hint=")
        assert "post_logout_redirect_uri=http%3A%2F%2Flocalhost%2F" in answer.location
        assert signed_in.cookie() is None
        assert store.keys("web:session:*") == []
        assert platform.revoked[0].startswith("refresh-")

    def test_ends_the_session_here_when_auth_is_down(self, signed_in, platform, store):
        signed_in.app_known = signed_in.csrf()
        platform.down.add("auth")

        answer = signed_in.submit("/sign-out")

        assert answer.status_code == 303
        assert store.keys("web:session:*") == []

    def test_goes_home_when_auth_cannot_say_where_to(
        self, signed_in, platform, app, store
    ):
        app.extensions["flagon.web"].identity._known.clear()
        platform.down.add("auth")

        assert signed_in.submit("/sign-out").location == "/"
        assert store.keys("web:session:*") == []

    def test_needs_our_form(self, signed_in, store):
        assert signed_in.get("/sign-out").status_code == 405
        assert signed_in.post("/sign-out").status_code == 400
        assert len(store.keys("web:session:*")) == 1

    def test_says_so_when_the_session_cannot_be_reached(
        self, signed_in, app, monkeypatch
    ):
        monkeypatch.setitem(app.config, "WTF_CSRF_CHECK_DEFAULT", False)
        monkeypatch.setattr(
            app.session_interface, "open_session", lambda *_: Session(down=True)
        )

        assert signed_in.post("/sign-out").status_code == 503


class TestRefresh:
    @pytest.fixture
    def stale(self, browser, platform):
        """A signed-in browser whose access token is about to end."""
        platform.expires_in = 10
        browser.sign_in(platform)
        platform.expires_in = 300
        return browser

    def test_happens_before_the_token_ends(self, stale, platform):
        before = platform.refreshes

        assert stale.get("/jobs").status_code == 200
        assert stale.get("/jobs").status_code == 200
        assert platform.refreshes == before + 1

    def test_is_done_once_for_ten_requests_at_once(self, stale, platform, app):
        platform.refresh_seconds = 0.3
        sid = stale.cookie()
        together = threading.Barrier(10)

        def ask(_):
            client = app.test_client()
            client.set_cookie("flagon_session", sid)
            together.wait()
            return client.get("/internal/session").headers.get("X-Access-Token")

        with ThreadPoolExecutor(10) as pool:
            tokens = set(pool.map(ask, range(10)))

        assert platform.refreshes == 1
        assert len(tokens) == 1
        assert None not in tokens

    def test_keeps_a_refresh_token_that_is_not_rotated(self, stale, platform):
        platform.rotate = False
        platform.expires_in = 10
        stale.get("/jobs")

        assert stale.get("/jobs").status_code == 200
        assert platform.refreshes == 2

    def test_refused_by_auth_ends_the_session(self, stale, platform, store):
        platform.refresh_tokens.clear()

        answer = stale.get("/jobs")

        assert answer.status_code == 303
        assert answer.location == "/sign-in?next=/jobs"
        assert "Your session has ended" in stale.get("/").text
        assert stale.csrf() == ""

    def test_waits_while_auth_is_down_and_the_token_lives(self, stale, platform):
        platform.down.add("auth")

        assert stale.get("/jobs").status_code == 200

    def test_says_so_when_auth_is_down_and_the_token_has_ended(
        self, stale, platform, app
    ):
        platform.down.add("auth")
        app.extensions["flagon.web"].identity._clock = lambda: 4_000_000_000

        answer = stale.get("/jobs")

        assert answer.status_code == 503
        assert stale.get("/").status_code == 200
        assert stale.get("/internal/session").status_code == 204

    def test_of_others_is_waited_for(self, stale, app, platform):
        identity = app.extensions["flagon.web"].identity
        sessions = app.extensions["flagon.web"].sessions
        sid = stale.cookie()

        with ThreadPoolExecutor(1) as pool:
            with sessions.alone(sid):
                waiting = pool.submit(identity.access_token, sid)
                time.sleep(0.2)
                sessions.end(sid)
            with pytest.raises(SignedOut):
                waiting.result()

    def test_a_session_ended_by_the_services_leads_to_the_sign_in(
        self, signed_in, platform
    ):
        platform.refuse["worker"] = (401, "revoked")

        answer = signed_in.get("/jobs")

        assert answer.location == "/sign-in?next=/jobs"
        assert signed_in.csrf() == ""


class TestExchangeSession:
    def test_gives_the_gateway_the_access_token(self, signed_in):
        answer = signed_in.get("/internal/session")

        assert answer.status_code == 204
        assert answer.headers["X-Access-Token"].startswith("access-")
        assert answer.headers["Cache-Control"] == "no-store"

    def test_has_nothing_for_strangers(self, browser):
        for method in ("GET", "POST"):
            answer = browser.get(
                "/internal/session", headers={"X-Original-Method": method}
            )
            assert answer.status_code == 204
            assert "X-Access-Token" not in answer.headers

    def test_has_nothing_for_an_unfinished_sign_in(self, browser):
        browser.begin_sign_in()

        answer = browser.get("/internal/session")

        assert "X-Access-Token" not in answer.headers

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "FOO"])
    def test_wants_proof_of_our_page_for_changes(self, signed_in, method):
        headers = {"X-Original-Method": method}
        right = {**headers, "X-CSRF-Token": signed_in.csrf()}

        def ask(**more):
            return signed_in.get("/internal/session", headers=more)

        assert ask(**headers).status_code == 403
        assert ask(**{**headers, "X-CSRF-Token": "wrong"}).status_code == 403
        assert "X-Access-Token" in ask(**right).headers
        assert (
            "X-Access-Token" in ask(**{**right, "Origin": "http://localhost"}).headers
        )
        evil = ask(**{**right, "Origin": "https://evil.example"})
        assert evil.status_code == 403
        assert "X-Access-Token" not in evil.headers

    def test_takes_no_token_of_another_session(self, signed_in, make_browser, platform):
        other = make_browser()
        other.sign_in(platform)

        answer = signed_in.get(
            "/internal/session",
            headers={"X-Original-Method": "POST", "X-CSRF-Token": other.csrf()},
        )

        assert answer.status_code == 403

    def test_goes_on_as_a_stranger_when_the_session_has_ended(
        self, signed_in, store, platform
    ):
        (key,) = store.keys("web:session:*")
        store.hdel(key, "tokens")

        answer = signed_in.get("/internal/session")

        assert answer.status_code == 204
        assert "X-Access-Token" not in answer.headers
