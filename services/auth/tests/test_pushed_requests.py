"""Pushed authorization requests (RFC 9126)."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from flagon_auth.domain import grants
from flagon_chassis import db

from .conftest import (
    CALLBACK,
    ISSUER,
    Browser,
    basic,
    claims_of,
    fields,
    query_of,
    redeem,
    request_for,
)
from .registering import SECRET, asserted, post, register

PAR = "/oauth/par"


@pytest.fixture(autouse=True)
def clean(app):
    yield
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from pushed_request"))
        session.execute(text("delete from client where name = 'Test'"))


def push(app, headers=None, **changes):
    return post(
        app, PAR, basic("web") if headers is None else headers, **request_for(**changes)
    )


def pushed(app, **changes):
    answer = push(app, **changes)
    assert answer.status_code == 201, answer.json
    return answer.json["request_uri"]


def bring(browser, uri, client_id="web", **more):
    asked = {"client_id": client_id, "request_uri": uri, **more}
    return browser.get("/oauth/authorize", query_string=asked)


class TestPush:
    def test_gives_a_reference_that_lives_for_a_moment(self, app):
        answer = push(app)

        assert answer.status_code == 201
        assert answer.json["request_uri"].startswith(
            "urn:ietf:params:oauth:request_uri:"
        )
        assert 5 <= answer.json["expires_in"] <= 600
        assert answer.headers["Cache-Control"] == "no-store"

    def test_needs_the_client_to_authenticate(self, app):
        assert push(app, headers={}).status_code == 401
        assert push(app, headers=basic("web", "x" * 40)).status_code == 401

    def test_takes_every_way_to_authenticate(self, app):
        register(app, "signer", token_endpoint_auth_method="private_key_jwt")

        signed = push(
            app, {}, client_id="signer", **asserted("signer", aud=ISSUER + PAR)
        )
        public = push(
            app, {}, client_id="cli", redirect_uri="http://127.0.0.1:9/callback"
        )

        assert signed.status_code == 201
        assert public.status_code == 201

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"redirect_uri": "https://evil.test"}, "invalid_request"),
            ({"redirect_uri": None}, "invalid_request"),
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"response_mode": "fragment"}, "invalid_request"),
            ({"code_challenge": None}, "invalid_request"),
            ({"code_challenge_method": "plain"}, "invalid_request"),
            ({"request_uri": "urn:x"}, "invalid_request"),
            ({"request": "e30.e30."}, "request_not_supported"),
            ({"scope": 'quo"te'}, "invalid_scope"),
            ({"prompt": "none login"}, "invalid_request"),
            ({"max_age": "x"}, "invalid_request"),
            ({"claims": "{"}, "invalid_request"),
            ({"claims": "[" * 4000}, "invalid_request"),
            ({"dpop_jkt": "short"}, "invalid_request"),
            ({"client_id": "cli"}, "invalid_request"),
            ({"state": "a\0b"}, "invalid_request"),
        ],
    )
    def test_refuses_at_once_what_could_not_be_carried_out(self, app, changes, error):
        answer = push(app, **changes)

        assert answer.status_code == 400
        assert answer.json["error"] == error
        assert "Location" not in answer.headers

    def test_refuses_other_methods_and_sizes(self, app):
        assert app.test_client().get(PAR).status_code == 405
        assert push(app, state="x" * (1 << 20)).status_code == 413

    def test_keeps_no_credentials_and_no_readable_reference(self, app):
        register(app, "poster", token_endpoint_auth_method="client_secret_post")
        answer = push(app, {}, client_id="poster", client_secret=SECRET)

        with app.app_context(), db.transaction() as session:
            stored = str(session.execute(text("select * from pushed_request")).all())

        assert SECRET not in stored
        assert answer.json["request_uri"].rsplit(":", 1)[1] not in stored


class TestPushedRequest:
    def test_is_carried_out(self, app, ada):
        answer = query_of(bring(ada, pushed(app, state="st-7")))

        assert answer["state"] == "st-7"
        assert answer["iss"] == ISSUER
        assert redeem(app, answer["code"]).status_code == 200

    def test_is_all_that_counts(self, app, ada):
        uri = pushed(app, scope="openid", nonce="mine")

        answer = bring(
            ada,
            uri,
            scope="openid email",
            nonce="other",
            redirect_uri="https://evil.test",
        )

        assert answer.location.startswith(CALLBACK)
        token = redeem(app, query_of(answer)["code"]).json
        assert token["scope"] == "openid"
        assert claims_of(token["id_token"])["nonce"] == "mine"

    def test_works_once(self, app, ada):
        uri = pushed(app)
        bring(ada, uri)

        again = bring(ada, uri)

        assert again.status_code == 400
        assert "Location" not in again.headers

    def test_works_once_of_eight_browsers_at_once(self, app, person):
        person()
        browsers = [Browser(app) for _ in range(8)]
        for browser in browsers:
            browser.sign_in()
        uri = pushed(app)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda one: bring(one, uri).status_code, browsers))

        assert sorted(found) == [302] + [400] * 7

    def test_of_another_client_is_refused(self, app, ada):
        uri = pushed(app)

        assert bring(ada, uri, client_id="other").status_code == 400
        assert bring(ada, uri).status_code == 302

    def test_too_late_is_refused(self, app, ada):
        uri = pushed(app)
        with app.app_context(), db.transaction() as session:
            session.execute(text("update pushed_request set expires_at = now()"))

        assert bring(ada, uri).status_code == 400

    @pytest.mark.parametrize("tail", ["", "x", "ü", "a\nb", "x" * 5000])
    def test_that_is_made_up_is_refused(self, ada, tail):
        answer = bring(ada, f"urn:ietf:params:oauth:request_uri:{tail}")

        assert answer.status_code == 400

    def test_waits_while_the_person_signs_in(self, app, person):
        person()
        browser = Browser(app)
        uri = pushed(app, login_hint="eve@flagon.test")
        first = bring(browser, uri)
        with app.app_context(), db.transaction() as session:
            # Typing a password takes longer than the reference lives.
            session.execute(text("update pushed_request set expires_at = now()"))

        page = browser.get(first.location)
        back = browser.get(browser.sign_in(path=first.location).location)

        assert 'value="eve@flagon.test"' in page.get_data(as_text=True)
        # The form's redirects end at the client: browsers must let them.
        assert "http://localhost" in page.headers["Content-Security-Policy"]
        assert "code" in query_of(back)
        assert bring(browser, uri).status_code == 400

    def test_that_waits_is_no_use_in_another_browser(self, app, ada):
        uri = pushed(app)
        bring(Browser(app), uri)

        assert bring(ada, uri).status_code == 400

    def test_waits_while_the_person_agrees(self, app, ada):
        uri = pushed(
            app,
            headers=basic("other"),
            client_id="other",
            redirect_uri="https://other.test/cb",
            scope="openid email",
        )

        page = bring(ada, uri, client_id="other")
        answer = ada.post("/oauth/consent", {**fields(page), "choice": "allow"})

        assert answer.location.startswith("https://other.test/cb?code=")

    def test_that_ends_in_an_error_is_used_up_too(self, app, ada):
        uri = pushed(app, prompt="none", id_token_hint="rubbish")

        answer = bring(ada, uri)

        assert query_of(answer)["error"] == "invalid_request"
        assert query_of(answer)["state"] == "st"
        assert bring(ada, uri).status_code == 400

    def test_asks_for_the_password_again_when_it_says_so(self, app, ada):
        first = bring(ada, pushed(app, prompt="login"))
        back = ada.get(ada.sign_in(path=first.location).location)

        assert first.location.startswith("/login?")
        assert "code" in query_of(back)

    def test_speaks_the_language_that_it_asks_for(self, app, person):
        browser = Browser(app)
        first = bring(browser, pushed(app, ui_locales="de"))

        assert browser.get(first.location).headers["Content-Language"] == "de"

    def test_can_be_posted(self, app, ada):
        answer = ada.post(
            "/oauth/authorize", {"client_id": "web", "request_uri": pushed(app)}
        )

        assert "code" in query_of(ada.get(answer.location))

    def test_leaves_no_more_than_five_waiting(self, app, person):
        person()
        browser = Browser(app)
        firsts = [bring(browser, pushed(app, state=str(n))) for n in range(6)]

        browser.sign_in(path=firsts[5].location)
        nexts = [parse_qs(urlsplit(one.location).query)["next"][0] for one in firsts]

        assert browser.get(nexts[0]).status_code == 400
        assert "code" in query_of(browser.get(nexts[5]))


class TestRequired:
    @pytest.fixture(autouse=True)
    def client(self, app):
        register(app, "careful", require_pushed_authorization_requests=True)

    def test_refuses_what_came_through_the_browser(self, ada):
        answer = query_of(ada.authorize(client_id="careful"))

        assert answer["error"] == "invalid_request"
        assert answer["iss"] == ISSUER

    def test_takes_what_was_pushed(self, app, person):
        person()
        browser = Browser(app)
        uri = pushed(app, headers=basic("careful", SECRET), client_id="careful")
        first = bring(browser, uri, client_id="careful")

        back = browser.get(browser.sign_in(path=first.location).location)

        assert "code" in query_of(back)

    def test_cannot_be_got_round_by_the_address_that_comes_back(self, app, person):
        person()
        browser = Browser(app)
        uri = pushed(app, headers=basic("careful", SECRET), client_id="careful")
        first = bring(browser, uri, client_id="careful")
        way = urlsplit(parse_qs(urlsplit(first.location).query)["next"][0])
        asked = {**request_for(client_id="careful"), **dict(parse_qs(way.query))}
        del asked["request_uri"]
        browser.sign_in()

        answer = browser.get("/oauth/authorize", query_string=asked)

        assert query_of(answer)["error"] == "invalid_request"


class TestPurge:
    def test_forgets_what_is_too_old(self, app):
        pushed(app)
        with app.app_context(), db.transaction() as session:
            session.execute(text("update pushed_request set expires_at = now()"))
        with app.app_context(), db.transaction() as session:
            grants.purge(session, now=datetime.now(UTC) + timedelta(seconds=1))
            left = session.scalar(text("select count(*) from pushed_request"))

        assert left == 0
