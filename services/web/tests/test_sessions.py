import time

import pytest
import redis
from flask import flash

from flagon_web.clients.sessions import RefreshBusy, Session, Sessions, Tokens


def a_store(url, clock=time.time, **changes):
    values = {"idle_seconds": 1800, "absolute_seconds": 43200, "anonymous_seconds": 900}
    return Sessions(url, **{**values, **changes}, clock=clock)


class TestCookie:
    def test_is_not_set_for_visitors_who_only_look(
        self, browser, platform, store, a_product
    ):
        platform.add(a_product)
        book = "/products/the-hobbit"
        for path in ("/", "/search?q=x", "/categories/books", book, "/status", "/no"):
            assert "Set-Cookie" not in browser.get(path).headers

        assert store.keys("web:session:*") == []

    def test_over_http_has_the_plain_name(self, browser, platform):
        answer = browser.sign_in(platform)

        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("flagon_session=")
        assert "; HttpOnly" in cookie
        assert "; SameSite=Lax" in cookie
        assert "; Path=/" in cookie
        assert "Secure" not in cookie
        assert "Domain" not in cookie

    def test_over_https_is_bound_to_the_host(self, make_browser, platform):
        browser = make_browser("https")

        cookie = browser.sign_in(platform).headers["Set-Cookie"]

        assert cookie.startswith("__Host-flagon_session=")
        assert "; Secure" in cookie
        assert "; Path=/" in cookie
        assert "Domain" not in cookie

    def test_of_http_opens_nothing_over_https(self, app, browser, platform):
        browser.sign_in(platform)
        secure = type(browser)(app, "https")
        secure.client.set_cookie("flagon_session", browser.cookie())

        assert secure.csrf() == ""

    def test_holds_256_random_bits_and_the_store_only_their_hash(
        self, signed_in, store
    ):
        sid = signed_in.cookie()

        assert len(sid) == 43
        assert store.keys(f"*{sid}*") == []
        (key,) = store.keys("web:session:*")
        assert sid not in str(store.hgetall(key))

    def test_is_what_opens_the_store(self, app, signed_in, store):
        sessions = app.extensions["flagon.web"].sessions
        tokens = sessions.tokens(signed_in.cookie())
        (key,) = store.keys("web:session:*")
        stored = store.hgetall(key)

        for secret in (tokens.access_token, tokens.refresh_token, tokens.id_token):
            assert secret not in str(stored)
        assert "Mira" not in str(stored)
        assert set(stored) == {"data", "tokens", "sub"}

    @pytest.mark.parametrize("content", ["", "{}", "zz", "00", "00" * 40])
    def test_opens_nothing_that_we_did_not_write(self, signed_in, store, content):
        (key,) = store.keys("web:session:*")
        store.hset(key, "data", content)

        assert signed_in.get("/").status_code == 200
        assert "Mira" not in signed_in.get("/").text

    def test_opens_no_field_under_another_name(self, app, signed_in, store):
        (key,) = store.keys("web:session:*")
        store.hset(key, "tokens", store.hget(key, "data"))

        assert app.extensions["flagon.web"].sessions.tokens(signed_in.cookie()) is None

    def test_that_we_did_not_make_is_never_adopted(self, browser, platform, store):
        browser.client.set_cookie("flagon_session", "a" * 43)

        answer = browser.get("/sign-in")

        assert answer.status_code == 303
        assert browser.cookie() != "a" * 43
        assert len(store.keys("web:session:*")) == 1

    @pytest.mark.parametrize("sid", ["", "x" * 500, "%00", '"', "é"])
    def test_that_is_nonsense_is_no_session(self, browser, sid):
        browser.client.set_cookie("flagon_session", sid)

        assert browser.get("/").status_code == 200


class TestFixation:
    def test_the_id_changes_at_sign_in_and_the_old_one_is_gone(
        self, app, browser, platform, store
    ):
        browser.begin_sign_in()
        planted = browser.cookie()

        browser.sign_in(platform)

        assert browser.cookie() != planted
        victim = type(browser)(app)
        victim.client.set_cookie("flagon_session", planted)
        assert victim.csrf() == ""
        assert len(store.keys("web:session:*")) == 1

    def test_nothing_of_the_anonymous_session_survives(self, signed_in, app):
        with signed_in.client.session_transaction(base_url="http://localhost") as data:
            assert set(data) == {
                *("sub", "name", "email", "scopes", "roles"),
                "provider_sid",
            }


class TestLifetime:
    def test_ends_after_its_idle_time(self, signed_in, store):
        (key,) = store.keys("web:session:*")

        assert 0 < store.ttl(key) <= 1800

    def test_is_kept_alive_by_use(self, signed_in, store):
        (key,) = store.keys("web:session:*")
        store.expire(key, 5)

        signed_in.get("/")

        assert store.ttl(key) > 1000

    def test_ends_after_its_absolute_time(self, redis_url, store):
        now = 1_000_000.0
        sessions = a_store(redis_url, clock=lambda: now)
        session = Session()
        session["sub"] = "me"
        sessions.save(session)
        now += 43_199
        assert sessions.load(session.sid) is not None
        now += 2

        assert sessions.load(session.sid) is None
        assert store.keys("web:session:*") == []

    def test_of_an_unfinished_sign_in_is_short(self, browser, store):
        browser.begin_sign_in()

        (key,) = store.keys("web:session:*")
        assert store.ttl(key) <= 900

    def test_expired_session_leads_to_the_sign_in(self, signed_in, store):
        store.delete(*store.keys("web:session:*"))

        answer = signed_in.get("/jobs?after=x")

        assert answer.status_code == 303
        assert answer.location == "/sign-in?next=/jobs?after%3Dx"


class TestConcurrency:
    def test_a_session_that_ended_meanwhile_stays_ended(self, redis_url, store):
        sessions = a_store(redis_url)
        session = Session()
        session["sub"] = "me"
        sessions.save(session)
        sessions.end(session.sid)

        session["more"] = 1
        sessions.save(session)
        sessions.keep_tokens(session.sid, Tokens("a", "b", "c", 1.0))

        assert store.keys("web:session:*") == []

    def test_a_page_that_changes_the_session_keeps_newer_tokens(self, redis_url):
        sessions = a_store(redis_url)
        session = Session()
        session["sub"] = "me"
        session.fresh_tokens = Tokens("old", "r", "i", 1.0)
        sessions.save(session)
        loaded = sessions.load(session.sid)
        sessions.keep_tokens(session.sid, Tokens("new", "r", "i", 2.0))

        loaded["flash"] = "x"
        sessions.save(loaded)

        assert sessions.tokens(session.sid).access_token == "new"

    def test_only_one_may_refresh_at_a_time(self, redis_url, monkeypatch):
        monkeypatch.setattr("flagon_web.clients.sessions._REFRESH_SECONDS", 0.4)
        sessions = a_store(redis_url)

        with sessions.alone("s"), pytest.raises(RefreshBusy), sessions.alone("s"):
            pytest.fail("two at once")
        with sessions.alone("s"):
            pass

    def test_a_holder_that_was_too_slow_does_no_harm(self, redis_url, store):
        sessions = a_store(redis_url)

        with sessions.alone("s"):
            store.delete(*store.keys("web:refresh:*"))


class TestStoreDown:
    @pytest.fixture
    def down(self, make_app, make_browser):
        browser = make_browser(app=make_app(redis_store_url="redis://127.0.0.1:1/0"))
        browser.client.set_cookie("flagon_session", "a" * 43)
        return browser

    def test_people_can_still_look_around_and_are_told(self, down, platform, a_product):
        platform.add(a_product)

        answer = down.get("/")

        assert answer.status_code == 200
        assert "We cannot reach your session right now" in answer.text
        assert "The Hobbit" in answer.text
        assert down.get("/products/the-hobbit").status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize(
        "path", ["/jobs", "/import", "/sign-in", "/callback?state=x"]
    )
    def test_pages_that_need_it_say_so(self, down, path):
        answer = down.get(path)

        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "2"
        assert "Your session cannot be reached right now" in answer.text

    def test_a_session_that_cannot_be_kept_is_not_promised(
        self, make_app, make_browser
    ):
        browser = make_browser(app=make_app(redis_store_url="redis://127.0.0.1:1/0"))

        answer = browser.get("/sign-in")

        assert answer.status_code == 503
        assert "Location" not in answer.headers
        assert "Set-Cookie" not in answer.headers

    def test_readiness_names_it_without_closing_the_shop(self, down):
        answer = down.get("/readyz")

        assert answer.status_code == 200
        assert answer.json["checks"]["redis_store"]["ok"] is False

    def test_the_gateway_is_told_that_nobody_is_signed_in(self, down):
        answer = down.get("/internal/session")

        assert answer.status_code == 204
        assert "X-Access-Token" not in answer.headers

    def test_tokens_are_refused_when_it_fails_in_between(
        self, signed_in, app, monkeypatch
    ):
        def away(_sid):
            raise redis.ConnectionError

        monkeypatch.setattr(app.extensions["flagon.web"].sessions, "tokens", away)

        assert signed_in.get("/jobs").status_code == 503
        assert signed_in.get("/internal/session").status_code == 204
        assert signed_in.get("/").status_code == 200


class TestFlash:
    def test_is_shown_once_and_leaves_nothing_behind(
        self, make_app, make_browser, store
    ):
        app = make_app()

        @app.get("/-flash")
        def flashing():
            flash("Hello & goodbye", "success")
            return "ok"

        browser = make_browser(app=app)
        browser.get("/-flash")

        assert "Hello &amp; goodbye" in browser.get("/").text
        assert "Hello" not in browser.get("/").text
        assert store.keys("web:session:*") == []
        assert browser.cookie() is None
