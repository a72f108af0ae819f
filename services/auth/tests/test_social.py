"""Signing in with an outside provider, whatever it and others may try."""

import base64
import hmac
import json
import re
import socket
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from pydantic import ValidationError
from sqlalchemy import text

from flagon_auth.app import create_app
from flagon_auth.clients.providers import KINDS, ProviderSettings, read_providers
from flagon_auth.clients.providers import openid as module
from flagon_chassis import db

from .conftest import (
    PASSWORD,
    Browser,
    claims_of,
    fields,
    make_settings,
    query_of,
    quick,
)
from .providers import (
    CLIENT_ID,
    CLIENT_SECRET,
    Answer,
    FakeGitHub,
    FakeOpenId,
    running,
)

GITHUB_EMAILS = [
    {"email": "old@flagon.test", "primary": False, "verified": True},
    {"email": "ada@flagon.test", "primary": True, "verified": True},
]
NEW = {"sub": "7", "email": "ada@flagon.test", "email_verified": True, "name": "Ada L."}


@pytest.fixture(scope="module")
def servers():
    """One server of each provider for all tests; each test makes it behave anew."""
    with ExitStack() as stack:
        found = (FakeOpenId(), FakeOpenId(), FakeGitHub())
        yield [stack.enter_context(running(provider)) for provider in found]


def anew(provider):
    port = urlsplit(provider.url).port
    provider.__init__()
    provider.start(port)
    return provider


@pytest.fixture
def acme(servers):
    return anew(servers[0])


@pytest.fixture
def other(servers):
    """A second provider, which the attacker runs."""
    return anew(servers[1])


@pytest.fixture
def github(servers):
    return anew(servers[2])


def about(name, provider, **changes):
    return {
        "name": name,
        "label": name.title(),
        "issuer": provider.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        **changes,
    }


@pytest.fixture(scope="module")
def module_app(database_url, redis_server):
    app = quick(create_app(make_settings(database_url, redis_server.url)))
    yield app
    app.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def make_social(module_app, app):
    """A function that lets the app know providers, which it has never heard of before."""
    social = module_app.extensions["flagon.auth"].social
    settings = module_app.extensions["flagon.settings"]

    def make(*listed):
        for given in listed:
            said = ProviderSettings(**given)
            social.providers[said.name] = KINDS[said.kind](said, settings)
        return module_app

    yield make
    for provider in social.providers.values():
        provider.close()
    social.providers.clear()


@pytest.fixture
def social_app(make_social, acme, other, github):
    return make_social(
        about("acme", acme),
        about("other", other),
        about(
            "github",
            github,
            kind="github",
            authorize_url=f"{github.url}/authorize",
            token_url=f"{github.url}/token",
            api_url=github.url,
        ),
    )


@pytest.fixture
def guest(social_app):
    return Browser(social_app)


def start(browser, name="acme", path="/login", **form):
    token = browser.form(path)["csrf_token"]
    return browser.post(f"/social/{name}/start", {"csrf_token": token, **form})


def finish(browser, answer, name="acme"):
    return browser.get(f"/social/{name}/callback", query_string=answer)


def sign_in(browser, provider, at="acme", onward="/account", **person):
    begun = start(browser, at, next=onward)
    assert begun.status_code == 303, begun.get_data(as_text=True)
    answer = provider.approve(begun.location, **(person or NEW))
    return finish(browser, answer, at)


def rows(app, query):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(query)).all()


def signed_in(browser):
    return browser.get("/account").status_code == 200


def verify_address(app, email="ada@flagon.test"):
    with app.app_context(), db.transaction() as session:
        session.execute(
            text("update account set email_verified_at = now() where email = :e"),
            {"e": email},
        )


class TestSignIn:
    def test_of_somebody_new_makes_an_account(self, guest, acme, social_app):
        answer = sign_in(guest, acme, onward="/products/x")

        assert (answer.status_code, answer.location) == (303, "/products/x")
        ((email, name, password, verified),) = rows(
            social_app,
            "select email, name, password_hash, email_verified_at from account",
        )
        assert (email, name, password) == ("ada@flagon.test", "Ada L.", None)
        assert verified
        assert rows(social_app, "select issuer, subject, provider from identity") == [
            (acme.url, "7", "acme")
        ]
        assert signed_in(guest)

    def test_again_is_the_same_account(self, guest, acme, social_app):
        sign_in(guest, acme)
        acme_again = Browser(social_app)

        sign_in(acme_again, acme, sub="7", email="new@else.test", email_verified=False)

        assert signed_in(acme_again)
        assert len(rows(social_app, "select 1 from account")) == 1

    def test_counts_as_one_federated_factor(self, guest, acme):
        sign_in(guest, acme)

        claims = claims_of(guest.tokens()["id_token"])

        assert claims["amr"] == ["fed"]

    def test_renews_the_session(self, guest, acme):
        guest.get("/login")
        before = guest.cookies()["flagon_login"].value

        sign_in(guest, acme)

        assert guest.cookies()["flagon_login"].value != before

    def test_asks_with_pkce_state_and_nonce(self, guest, acme):
        asked = query_of(start(guest))

        assert asked["scope"] == "openid email profile"
        assert asked["redirect_uri"] == "http://localhost/social/acme/callback"
        assert len(asked["state"]) == len(asked["nonce"]) == 43
        assert len(asked["code_challenge"]) == 43

    def test_stores_no_token_and_no_code(self, guest, acme, social_app, store):
        sign_in(guest, acme)
        begun = start(guest, path="/account/identities")

        kept = str([(key, store.get(key)) for key in store.keys("auth:session:*")])
        kept += str(rows(social_app, "select identity::text from identity"))
        kept += str(rows(social_app, "select audit_event::text from audit_event"))
        assert acme.token not in kept
        for name in ("state", "nonce", "code_challenge"):
            assert query_of(begun)[name] not in kept

    def test_reads_the_address_from_userinfo(self, guest, acme, social_app):
        acme.claims = {"email": None, "email_verified": None, "name": None}

        sign_in(guest, acme)

        assert rows(social_app, "select name from account") == [("Ada L.",)]

    def test_with_a_nameless_person_takes_the_address(self, guest, acme, social_app):
        sign_in(guest, acme, **{**NEW, "name": "\u202e"})

        assert rows(social_app, "select name from account") == [("ada",)]

    def test_with_es256_and_without_a_key_id(self, guest, acme):
        acme.key, acme.alg, acme.header = acme.ec, "ES256", {"kid": None}

        assert sign_in(guest, acme).status_code == 303

    def test_learns_a_rotated_key(self, guest, acme, social_app, monkeypatch):
        sign_in(guest, acme)
        monkeypatch.setattr(module, "_REFETCH_SECONDS", -1.0)
        acme.key = RSAKey.generate_key(2048, {"kid": "r2", "use": "sig"})
        acme.keys = [acme.key]

        assert sign_in(Browser(social_app), acme).status_code == 303

    def test_still_needs_the_second_factor(self, guest, acme, social_app):
        sign_in(guest, acme)
        with social_app.app_context(), db.transaction() as session:
            session.execute(
                text(
                    "insert into totp_credential"
                    " (account_id, secret_sealed, last_step, created_at, confirmed_at)"
                    " select id, 'x', 0, now(), now() from account"
                )
            )
        stolen = Browser(social_app)

        answer = sign_in(stolen, acme)

        assert answer.location == "/login/mfa"
        assert not signed_in(stolen)

    def test_of_a_disabled_account_is_refused(self, guest, acme, social_app):
        sign_in(guest, acme)
        with social_app.app_context(), db.transaction() as session:
            session.execute(text("update account set disabled = true"))
        again = Browser(social_app)

        answer = sign_in(again, acme)

        assert answer.status_code == 403
        assert not signed_in(again)

    def test_tells_the_audit_log_the_provider_alone(self, guest, acme, social_app):
        sign_in(guest, acme)

        found = rows(
            social_app,
            "select action, details from audit_event"
            " where account_id in (select id from account) order by 1",
        )
        assert dict(found)["registered"] == {"provider": "acme"}
        assert "ada@flagon" not in str(found)

    def test_buttons_are_on_the_sign_in_page(self, guest, acme):
        answer = guest.get("/login")

        page = answer.get_data(as_text=True)
        assert "Go on with Acme" in page
        assert "Go on with Github" in page
        assert acme.url in answer.headers["Content-Security-Policy"]

    def test_without_providers_there_are_no_buttons(self, browser):
        assert "/social/" not in browser.get("/login").get_data(as_text=True)
        assert browser.get("/social/acme/callback").status_code == 404

    def test_goes_on_by_a_page_where_the_provider_receives_elsewhere(self, guest, acme):
        elsewhere = acme.url.replace("127.0.0.1", "localhost")
        acme.more_metadata = {"authorization_endpoint": f"{elsewhere}/authorize"}

        answer = start(guest)

        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert f'content="0;url={elsewhere}/authorize?' in page


class TestCallback:
    """Threats on the way back: CSRF, mix-up, replay."""

    def test_csrf_an_answer_without_state_is_refused(self, guest, acme):
        answer = acme.approve(start(guest).location, **NEW)
        del answer["state"]

        assert finish(guest, answer).status_code == 400
        assert not signed_in(guest)

    def test_csrf_an_answer_that_another_browser_asked_for_is_refused(
        self, guest, acme, social_app
    ):
        attacker = Browser(social_app)
        answer = acme.approve(start(attacker).location, **NEW)

        assert finish(guest, answer).status_code == 400
        assert not signed_in(guest)

    @pytest.mark.parametrize("state", ["", "x", "é" * 43, "A" * 43])
    def test_foreign_state_is_refused(self, guest, acme, state):
        answer = acme.approve(start(guest).location, **NEW)

        assert finish(guest, {**answer, "state": state}).status_code == 400

    def test_state_works_once(self, guest, acme):
        begun = start(guest)
        first = acme.approve(begun.location, **NEW)
        second = acme.approve(begun.location, **{**NEW, "sub": "8"})

        assert finish(guest, first).status_code == 303
        assert finish(guest, second).status_code == 400

    def test_code_reuse_is_refused_by_the_provider_and_by_us(
        self, guest, acme, social_app
    ):
        answer = acme.approve(start(guest).location, **NEW)
        finish(guest, answer)
        again = start(Browser(social_app))
        thief = Browser(social_app)
        begun = start(thief)

        stolen = finish(thief, {**answer, "state": query_of(begun)["state"]})

        assert again.status_code == 303
        assert stolen.status_code == 403
        assert not signed_in(thief)

    def test_state_runs_out(self, guest, acme, monkeypatch):
        monkeypatch.setattr("flagon_auth.routes.social._SECONDS", -1)

        assert sign_in(guest, acme).status_code == 400

    def test_mix_up_foreign_iss_is_refused(self, guest, acme, other):
        answer = acme.approve(start(guest).location, **NEW)

        refused = finish(guest, {**answer, "iss": other.url})

        assert refused.status_code == 403
        assert not [call for call in acme.seen if call[1] == "/token"]

    def test_mix_up_a_promised_iss_must_be_there(self, guest, acme):
        acme.more_metadata = {"authorization_response_iss_parameter_supported": True}
        answer = acme.approve(start(guest).location, **NEW)

        assert finish(guest, answer).status_code == 403

    def test_iss_of_the_provider_is_fine(self, guest, acme):
        acme.more_metadata = {"authorization_response_iss_parameter_supported": True}
        answer = acme.approve(start(guest).location, **NEW)

        assert finish(guest, {**answer, "iss": acme.url}).status_code == 303

    def test_mix_up_an_answer_at_another_providers_address_is_refused(
        self, guest, acme, other
    ):
        answer = acme.approve(start(guest).location, **NEW)

        assert finish(guest, answer, "other").status_code == 400
        assert other.seen == []

    def test_parameters_that_come_twice_are_refused(self, guest, acme):
        answer = acme.approve(start(guest).location, **NEW)
        twice = [*answer.items(), ("state", answer["state"])]

        assert finish(guest, twice).status_code == 400

    def test_refusal_leads_back_without_its_words(self, guest):
        state = query_of(start(guest, next="/products/x"))["state"]

        answer = finish(
            guest,
            {
                "error": "access_denied",
                "error_description": "<script>alert(1)</script>",
                "state": state,
            },
        )
        page = guest.get(answer.location).get_data(as_text=True)

        assert answer.location == "/login?next=%2Fproducts%2Fx"
        assert "did not work" in page
        assert "alert(1)" not in page

    def test_start_from_a_foreign_page_is_refused(self, guest):
        assert guest.post("/social/acme/start").status_code == 400
        assert guest.get("/social/acme/start").status_code == 405

    @pytest.mark.parametrize(
        "hostile", ["https://evil.test/", "//evil.test/", "/\\evil.test", "x"]
    )
    def test_open_redirect_is_impossible(self, guest, acme, hostile):
        assert sign_in(guest, acme, onward=hostile).location == "/account"

    def test_host_header_does_not_change_where_codes_go(self, guest, social_app):
        token = guest.form("/login")["csrf_token"]

        begun = guest.post(
            "/social/acme/start",
            {"csrf_token": token},
            headers={"X-Forwarded-Host": "evil.test"},
        )

        assert query_of(begun)["redirect_uri"].startswith("http://localhost/")


def b64(value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


class TestIdToken:
    """Threats in the ID token (OpenID Connect Core 3.1.3.7, RFC 8725)."""

    @pytest.mark.parametrize(
        "claims",
        [
            {"nonce": "another"},
            {"nonce": None},
            {"iss": "https://evil.test"},
            {"iss": None},
            {"aud": "somebody-else"},
            {"aud": [CLIENT_ID, "somebody-else"]},
            {"aud": None},
            {"azp": "somebody-else"},
            {"sub": None},
            {"sub": ""},
            {"sub": 7},
            {"sub": "x" * 256},
            {"sub": "a\0b"},
            {"exp": None},
            {"exp": 1},
            {"exp": "never"},
            {"exp": True},
            {"iat": None},
            {"iat": 1},
            {"iat": 4_000_000_000},
            {"nbf": 4_000_000_000},
            {"at_hash": "AAAA"},
        ],
        ids=str,
    )
    def test_with_a_wrong_claim_signs_nobody_in(self, guest, acme, claims):
        acme.claims = claims

        answer = sign_in(guest, acme)

        assert answer.status_code == 403
        assert not signed_in(guest)

    def test_alg_none_is_refused(self, guest, acme):
        acme.forge = lambda said: f"{b64({'alg': 'none'})}.{b64(said)}."

        assert sign_in(guest, acme).status_code == 403

    def test_hs256_with_the_client_secret_is_refused(self, guest, acme):
        key = OctKey.import_key(CLIENT_SECRET)
        acme.forge = lambda said: jwt.encode({"alg": "HS256"}, said, key)

        assert sign_in(guest, acme).status_code == 403

    def test_hs256_with_the_public_key_is_refused(self, guest, acme):
        def forge(said):
            first = f"{b64({'alg': 'HS256', 'kid': 'r1'})}.{b64(said)}"
            pem = acme.rsa.as_pem(private=False)
            return f"{first}.{b64(hmac.digest(pem, first.encode(), 'sha256'))}"

        acme.forge = forge

        assert sign_in(guest, acme).status_code == 403

    @pytest.mark.parametrize(
        "header",
        [
            {"kid": "unknown"},
            {"kid": None},
            {"kid": 5},
            {"crit": ["exp"]},
            {"alg": ["RS256"]},
            {"alg": "ES256"},
        ],
        ids=str,
    )
    def test_with_an_odd_header_is_refused(self, guest, acme, header):
        acme.keys = [acme.rsa, RSAKey.generate_key(2048, {"kid": "r2"})]

        def forge(said):
            token = jwt.encode({"alg": "RS256", "kid": "r1"}, said, acme.rsa)
            _head, body, signature = token.split(".")
            odd = {"alg": "RS256", "kid": "r1", **header}
            odd = {name: value for name, value in odd.items() if value is not None}
            return f"{b64(odd)}.{body}.{signature}"

        acme.forge = forge

        assert sign_in(guest, acme).status_code == 403

    @pytest.mark.parametrize(
        "token",
        [
            None,
            5,
            "",
            "a.b.c",
            "é.b.c",
            f"{b64([])}.b.c",
            f"{b64(b'{')}.b.c",
            "x" * 20000,
        ],
        ids=lambda value: str(value)[:12],
    )
    def test_that_is_none_is_refused(self, guest, acme, token):
        acme.answer = {"id_token": token}

        assert sign_in(guest, acme).status_code == 403

    def test_signed_by_a_key_of_somebody_else_is_refused(self, guest, acme):
        acme.key = RSAKey.generate_key(2048, {"kid": "r1", "use": "sig"})

        assert sign_in(guest, acme).status_code == 403

    @pytest.mark.filterwarnings("ignore:Key size")
    def test_signed_by_a_short_key_is_refused(self, guest, acme):
        acme.key = RSAKey.generate_key(1024, {"kid": "s1", "use": "sig"})
        acme.keys = [acme.key]

        assert sign_in(guest, acme).status_code == 403

    def test_signed_by_a_key_for_encryption_is_refused(self, guest, acme):
        acme.key = RSAKey.generate_key(2048, {"kid": "c1", "use": "enc"})
        acme.keys = [acme.key]
        acme.forge = lambda said: jwt.encode(
            {"alg": "RS256", "kid": "c1"},
            said,
            RSAKey.import_key(acme.key.as_dict(private=True) | {"use": "sig"}),
        )

        assert sign_in(guest, acme).status_code == 403

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"keys": 5},
            {"keys": [5]},
            {"keys": [{"kty": "RSA", "kid": "r1", "n": "!", "e": "AQAB"}]},
            {"keys": [{"kty": "RSA", "kid": "r1"}]},
            {"keys": [{"kty": "RSA", "kid": "r1", "key_ops": "verify"}]},
        ],
        ids=str,
    )
    def test_with_broken_keys_is_refused(self, guest, acme, keys):
        acme.instead["/jwks"] = lambda _handler: Answer(200, keys)

        assert sign_in(guest, acme).status_code == 403

    def test_unknown_key_ids_do_not_make_us_ask_again_and_again(
        self, guest, acme, social_app
    ):
        sign_in(guest, acme)
        acme.key = RSAKey.generate_key(2048, {"kid": "unknown"})
        for _ in range(5):
            sign_in(Browser(social_app), acme)

        assert len([call for call in acme.seen if call[1] == "/jwks"]) == 1

    def test_userinfo_of_another_person_is_refused(self, guest, acme):
        acme.claims = {"email": None}
        acme.told = {"sub": "8", "email": "victim@flagon.test", "email_verified": True}

        assert sign_in(guest, acme).status_code == 403

    def test_userinfo_does_not_overrule_the_token(self, guest, acme, social_app):
        acme.claims = {"email": None, "email_verified": False}
        acme.told = {"sub": "7", "email": "v@flagon.test", "email_verified": True}

        assert sign_in(guest, acme).status_code == 403
        assert rows(social_app, "select 1 from account") == []


class TestMetadata:
    def test_of_another_issuer_are_refused(self, guest, acme):
        acme.issuer = "https://evil.test"

        assert start(guest).status_code == 403

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("token_endpoint", "http://evil.test/token"),
            ("jwks_uri", "file:///etc/passwd"),
            ("authorization_endpoint", "javascript:alert(1)"),
            ("userinfo_endpoint", "https://user:pw@evil.test/"),
            ("token_endpoint", None),
            ("token_endpoint", 5),
            ("token_endpoint", "https://[::1/"),
        ],
    )
    def test_with_an_unsafe_address_are_refused(self, guest, acme, name, url):
        acme.more_metadata = {name: url}

        assert start(guest).status_code == 403

    def test_are_kept(self, guest, acme):
        for _ in range(3):
            start(guest)

        assert len(acme.seen) == 1

    def test_outlive_an_outage(self, guest, acme, social_app):
        start(guest)
        provider = social_app.extensions["flagon.auth"].social.providers["acme"]
        provider._metadata._seconds = -1.0
        acme.instead["/.well-known/openid-configuration"] = lambda _h: Answer(500)

        assert start(guest).status_code == 303


class TestProviderInTrouble:
    @pytest.mark.parametrize(
        "trouble",
        [
            lambda _handler: Answer(500),
            lambda _handler: Answer(503, b"", **{"Retry-After": "7"}),
            lambda _handler: time.sleep(6),
            lambda _handler: Answer(200, b"x" * 300_000),
            lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
        ],
        ids=["500", "503", "slow", "huge", "cut off"],
    )
    def test_is_told_to_the_person(self, make_social, acme, trouble):
        guest = Browser(make_social(about("acme", acme, timeout_seconds=2)))
        acme.instead["/token"] = trouble
        started = time.monotonic()

        answer = sign_in(guest, acme)

        page = answer.get_data(as_text=True)
        assert answer.status_code == 503
        assert "Acme does not answer" in page
        assert int(answer.headers["Retry-After"]) > 0
        assert time.monotonic() - started < 5
        assert not signed_in(guest)

    @pytest.mark.parametrize(
        "trouble",
        [
            Answer(200, b"<html>"),
            Answer(200, b"\xff\xfe"),
            Answer(200, b"[" * 100_000),
            Answer(200, []),
            Answer(200, {"access_token": 5, "token_type": "Bearer"}),
            Answer(200, {"access_token": "x", "token_type": "mac"}),
            Answer(200, {"access_token": "x"}),
            Answer(204),
            Answer(302, b"", Location="https://evil.test/"),
            Answer(400, {"error": "invalid_grant", "error_description": "secret"}),
            Answer(401),
        ],
        ids=lambda answer: f"{answer.status} {answer.body[:12]}",
    )
    def test_by_rubbish_signs_nobody_in(self, guest, acme, trouble):
        acme.instead["/token"] = lambda _handler: trouble

        answer = sign_in(guest, acme)

        assert answer.status_code == 403
        assert "could not be trusted" in answer.get_data(as_text=True)
        assert not signed_in(guest)

    def test_for_long_is_not_asked_again_at_once(self, guest, acme):
        acme.instead["/.well-known/openid-configuration"] = lambda _h: Answer(500)
        for _ in range(6):
            assert start(guest).status_code == 503

        before = len(acme.seen)
        assert start(guest).status_code == 503
        assert len(acme.seen) == before

    def test_leaves_other_ways_in_open(self, guest, acme, person):
        acme.instead["/.well-known/openid-configuration"] = lambda _h: Answer(500)
        person()
        start(guest)

        assert guest.sign_in().status_code == 303


class TestTakeover:
    """Nobody gets into an account by way of an address."""

    def test_verified_address_of_an_existing_account_is_not_linked(
        self, guest, acme, person, social_app
    ):
        person()

        answer = sign_in(guest, acme)

        assert answer.location.startswith("/login?next=%2Faccount%2Fidentities%2Fconf")
        assert not signed_in(guest)
        assert rows(social_app, "select 1 from identity") == []

    def test_owner_signs_in_and_connects_the_two(self, guest, acme, person, social_app):
        person()
        verify_address(social_app)
        answer = sign_in(guest, acme)

        page = guest.get(answer.location)
        signed = guest.post(
            "/login",
            {**fields(page), "email": "ada@flagon.test", "password": PASSWORD},
        )
        asked = guest.get(signed.location)
        linked = guest.post(
            "/account/identities/confirm", {**fields(asked), "choice": "allow"}
        )

        assert "account with this address" in page.get_data(as_text=True)
        assert signed.location == "/account/identities/confirm"
        assert "Connect Acme?" in asked.get_data(as_text=True)
        assert linked.status_code == 303
        assert sign_in(Browser(social_app), acme).location == "/account"
        assert rows(social_app, "select subject from identity") == [("7",)]

    def test_owner_may_say_no(self, guest, acme, person, social_app):
        person()
        verify_address(social_app)
        guest.get(sign_in(guest, acme).location)
        guest.sign_in()
        asked = guest.get("/account/identities/confirm")

        guest.post("/account/identities/confirm", {**fields(asked), "choice": "deny"})

        assert rows(social_app, "select 1 from identity") == []
        assert guest.get("/account/identities/confirm").status_code == 303

    def test_who_signs_in_to_another_account_is_not_asked(
        self, guest, acme, person, social_app
    ):
        person()
        person("eve@flagon.test")
        verify_address(social_app, "eve@flagon.test")
        sign_in(guest, acme)
        guest.sign_in("eve@flagon.test")

        asked = guest.get("/account/identities/confirm")
        token = fields(guest.get("/account"))["csrf_token"]
        guest.post(
            "/account/identities/confirm", {"csrf_token": token, "choice": "allow"}
        )

        assert asked.location == "/account/identities"
        assert rows(social_app, "select 1 from identity") == []

    def test_unverified_address_says_nothing_about_accounts(
        self, social_app, acme, person
    ):
        person()

        answers = [
            sign_in(
                Browser(social_app), acme, sub="7", email=email, email_verified=verified
            )
            for email, verified in [
                ("ada@flagon.test", False),
                ("nobody@flagon.test", False),
                ("ada@flagon.test", "true"),
                ("ada@flagon.test", None),
                (None, True),
                ("no address", True),
            ]
        ]

        assert {answer.status_code for answer in answers} == {403}
        assert len({without_nonce(answer) for answer in answers}) == 1
        assert rows(social_app, "select 1 from identity") == []

    def test_account_of_an_unproved_address_gets_no_second_way_in(
        self, guest, acme, person, social_app
    ):
        """Else whoever registered it first would keep a key after the owner's reset."""
        person()
        guest.sign_in()

        connect(guest, acme)

        assert rows(social_app, "select 1 from identity") == []

    def test_same_subject_at_another_provider_is_somebody_else(
        self, guest, acme, other, social_app
    ):
        sign_in(guest, acme)
        eve = Browser(social_app)

        sign_in(
            eve, other, "other", sub="7", email="eve@flagon.test", email_verified=True
        )

        assert len(rows(social_app, "select 1 from account")) == 2


def without_nonce(answer):
    page = answer.get_data(as_text=True)
    return page.replace(page.split('nonce="')[1].split('"')[0], "-")


def connect(browser, provider, at="acme", **person):
    token = browser.form("/account/identities")["csrf_token"]
    begun = browser.post(
        f"/social/{at}/start", {"csrf_token": token, "purpose": "connect"}
    )
    assert begun.status_code == 303, begun.get_data(as_text=True)
    return finish(browser, provider.approve(begun.location, **(person or NEW)), at)


@pytest.fixture
def owner(social_app, person):
    """A browser in which the owner of a proved address is signed in."""
    browser = Browser(social_app)
    browser.account = person()
    verify_address(social_app)
    browser.sign_in()
    return browser


class TestIdentities:
    def test_page_asks_a_stranger_to_sign_in(self, guest):
        for path in ("/account/identities", "/account/identities/confirm"):
            assert guest.get(path).location.startswith("/login?next=")

    def test_can_be_connected_and_then_sign_in(self, owner, acme, social_app):
        connect(owner, acme, sub="7", email="work@else.test", email_verified=False)
        page = owner.get("/account/identities").get_data(as_text=True)
        other = Browser(social_app)
        sign_in(other, acme, sub="7")

        assert "work@else.test" in page
        assert "You can now sign in with Acme" in page
        assert signed_in(other)

    def test_connecting_twice_changes_nothing(self, owner, acme, social_app):
        connect(owner, acme)
        connect(owner, acme)

        assert len(rows(social_app, "select 1 from identity")) == 1

    def test_of_somebody_else_cannot_be_connected(self, owner, acme, social_app):
        sign_in(Browser(social_app), acme, **{**NEW, "email": "eve@flagon.test"})

        connect(owner, acme)

        page = owner.get("/account/identities").get_data(as_text=True)
        assert "belongs to another account" in unescape(page)
        assert "None is connected" in page

    def test_can_be_disconnected(self, owner, acme, social_app):
        connect(owner, acme)

        remove(owner)

        assert rows(social_app, "select 1 from identity") == []
        actions = {row[0] for row in rows(social_app, "select action from audit_event")}
        assert {"identity_linked", "identity_unlinked"} <= actions

    def test_last_way_in_stays(self, guest, acme, social_app):
        sign_in(guest, acme)

        remove(guest)

        assert len(rows(social_app, "select 1 from identity")) == 1
        page = guest.get("/account/identities").get_data(as_text=True)
        assert "only way to sign in" in page

    def test_of_which_two_are_there_one_can_go(self, guest, acme, other, social_app):
        sign_in(guest, acme)
        connect(guest, other, "other", sub="9")

        remove(guest)
        remove(guest)

        assert len(rows(social_app, "select 1 from identity")) == 1

    def test_at_a_provider_that_is_gone_is_no_way_in(
        self, guest, acme, other, social_app
    ):
        sign_in(guest, acme)
        connect(guest, other, "other", sub="9")
        with social_app.app_context(), db.transaction() as session:
            session.execute(
                text(
                    "update identity set issuer = 'https://gone.test',"
                    " provider = 'gone' where provider = 'other'"
                )
            )

        remove(guest)

        page = guest.get("/account/identities").get_data(as_text=True)
        assert "Not offered here any more" in page
        assert len(rows(social_app, "select 1 from identity")) == 2

    def test_of_somebody_else_cannot_be_disconnected(self, owner, acme, social_app):
        eve = Browser(social_app)
        sign_in(eve, acme, **{**NEW, "email": "eve@flagon.test"})
        key = key_of(eve)

        token = fields(owner.get("/account"))["csrf_token"]
        owner.post(f"/account/identities/{key}/remove", {"csrf_token": token})

        assert len(rows(social_app, "select 1 from identity")) == 1

    @pytest.mark.parametrize(
        "path",
        [
            "/social/acme/start",
            "/account/identities/confirm",
            "/account/identities/x/remove",
        ],
    )
    def test_csrf_guards_every_form(self, owner, path):
        assert owner.post(path, {"purpose": "connect"}).status_code == 400

    def test_need_a_fresh_sign_in(self, owner, acme, social_app):
        connect(owner, acme)
        key, token = key_of(owner), fields(owner.get("/account"))["csrf_token"]
        with owner.http.session_transaction(base_url="http://localhost") as session:
            session["auth_time"] = session["confirmed_at"] = 1.0

        started = owner.post(
            "/social/acme/start", {"csrf_token": token, "purpose": "connect"}
        )
        removed = owner.post(f"/account/identities/{key}/remove", {"csrf_token": token})

        assert started.location.startswith("/login/again")
        assert removed.location.startswith("/login/again")
        assert len(rows(social_app, "select 1 from identity")) == 1

    def test_that_come_back_after_sign_out_are_not_connected(
        self, owner, acme, social_app
    ):
        token = owner.form("/account/identities")["csrf_token"]
        begun = owner.post(
            "/social/acme/start", {"csrf_token": token, "purpose": "connect"}
        )
        answer = acme.approve(begun.location, **NEW)
        with owner.http.session_transaction(base_url="http://localhost") as session:
            del session["_user_id"]

        back = finish(owner, answer)

        assert back.location.startswith("/login")
        assert rows(social_app, "select 1 from identity") == []

    def test_prove_anew_who_is_signed_in(self, guest, acme, social_app):
        sign_in(guest, acme)

        begun = start(guest, path="/account/identities", next="/account/password")
        asked = query_of(begun)
        answer = finish(guest, acme.approve(begun.location, **NEW))

        assert (asked["prompt"], asked["max_age"]) == ("login", "0")
        assert answer.location == "/account/password"

    @pytest.mark.parametrize("auth_time", [1, None, "now"])
    def test_prove_nothing_by_an_old_sign_in_there(self, guest, acme, auth_time):
        sign_in(guest, acme)
        acme.claims = {"auth_time": auth_time}

        begun = start(guest, path="/account/identities")
        answer = finish(guest, acme.approve(begun.location, **NEW))

        assert answer.status_code == 403


class TestConfirm:
    """Who has no password proves at the provider that it is still them."""

    def again(self, browser, acme, **person):
        page = browser.get("/login/again?next=/account/api-keys")
        shown = page.get_data(as_text=True)
        token = shown.split('name="csrf_token" value="')[-1].split('"')[0]
        begun = browser.post(
            "/social/acme/start",
            {"csrf_token": token, "next": "/account/api-keys", "purpose": "again"},
        )
        return shown, finish(browser, acme.approve(begun.location, **person))

    def grow_old(self, browser):
        with browser.http.session_transaction(base_url="http://localhost") as session:
            session["auth_time"] = session["confirmed_at"] = 1.0

    def test_leads_on(self, owner, acme):
        connect(owner, acme)
        self.grow_old(owner)

        shown, answer = self.again(owner, acme, **NEW)

        assert "Confirm with Acme" in shown
        assert "Confirm with Other" not in shown
        assert answer.location == "/account/api-keys"
        assert owner.get("/account/api-keys").status_code == 200

    def test_as_somebody_else_confirms_nothing(self, owner, acme, social_app):
        connect(owner, acme)
        eve = {"sub": "8", "email": "eve@flagon.test", "email_verified": True}
        sign_in(Browser(social_app), acme, **eve)
        self.grow_old(owner)

        for person in (eve, {**NEW, "sub": "9", "email": "new@flagon.test"}):
            _shown, answer = self.again(owner, acme, **person)
            assert answer.status_code == 403
        assert len(rows(social_app, "select 1 from account")) == 2
        assert "ada@flagon.test" in owner.get("/account").get_data(as_text=True)

    def test_of_who_has_nothing_else_begins_at_the_sign_in_page(self, guest, acme):
        sign_in(guest, acme)
        self.grow_old(guest)

        page = guest.get("/login/again?next=/account/api-keys", follow_redirects=True)
        token = re.search(
            r'name="csrf_token"[^>]*value="([^"]+)"', page.get_data(as_text=True)
        )[1]
        begun = guest.post(
            "/social/acme/start", {"csrf_token": token, "next": "/account/api-keys"}
        )
        answer = finish(guest, acme.approve(begun.location, **NEW))

        assert query_of(begun)["prompt"] == "login"
        assert answer.location == "/account/api-keys"


def key_of(browser):
    page = browser.get("/account/identities").get_data(as_text=True)
    return page.split("/account/identities/", 1)[1].split("/remove")[0].split("/")[-1]


def remove(browser):
    page = browser.get("/account/identities").get_data(as_text=True)
    action = page.split('action="/account/identities/', 1)[1].split('"')[0]
    token = page.split('name="csrf_token" value="', 1)[1].split('"')[0]
    return browser.post(f"/account/identities/{action}", {"csrf_token": token})


class TestGitHub:
    def test_signs_in_by_number_and_primary_address(self, guest, github, social_app):
        sign_in(guest, github, "github", emails=GITHUB_EMAILS)

        assert signed_in(guest)
        assert rows(social_app, "select issuer, subject, email from identity") == [
            (github.url, "42", "ada@flagon.test")
        ]
        assert rows(social_app, "select name from account") == [("ada",)]

    def test_that_gives_its_name_away_changes_nothing(self, guest, github, social_app):
        sign_in(guest, github, "github", emails=GITHUB_EMAILS)
        again = Browser(social_app)

        sign_in(again, github, "github", user={"id": 43, "login": "ada"}, emails=[])

        assert not signed_in(again)

    @pytest.mark.parametrize(
        "emails",
        [
            [],
            {},
            [5],
            [{"email": "ada@flagon.test", "primary": True, "verified": False}],
            [{"email": "ada@flagon.test", "primary": False, "verified": True}],
            [{"email": 5, "primary": True, "verified": True}],
        ],
        ids=str,
    )
    def test_without_a_verified_primary_address_makes_no_account(
        self, guest, github, emails
    ):
        assert sign_in(guest, github, "github", emails=emails).status_code == 403

    @pytest.mark.parametrize("number", [None, "42", True, 4.2], ids=str)
    def test_without_a_number_signs_nobody_in(self, guest, github, number):
        found = sign_in(
            guest, github, "github", user={"id": number}, emails=GITHUB_EMAILS
        )

        assert found.status_code == 403

    def test_that_refuses_the_code_with_status_200_signs_nobody_in(self, guest, github):
        answer = github.approve(start(guest, "github").location)

        refused = finish(guest, {**answer, "code": "made-up"}, "github")

        assert refused.status_code == 403

    def test_foreign_iss_is_refused(self, guest, github):
        answer = github.approve(start(guest, "github").location, emails=GITHUB_EMAILS)

        refused = finish(guest, {**answer, "iss": "https://evil.test"}, "github")

        assert refused.status_code == 403

    def test_proves_nobody_anew(self, owner, github, social_app):
        begun = start(owner, "github", path="/account/identities")
        answer = github.approve(begun.location, emails=GITHUB_EMAILS)

        assert finish(owner, answer, "github").status_code == 403


class TestSettings:
    def test_without_a_file_name_nobody(self):
        assert read_providers(None) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"name": "No Name"},
            {"issuer": "http://evil.test"},
            {"issuer": "https://evil.test/?a"},
            {"issuer": "nonsense"},
            {"signing_algs": ["HS256"]},
            {"signing_algs": ["none"]},
            {"signing_algs": []},
            {"token_url": "https://acme.test/token"},
            {"kind": "github"},
            {"surprise": 1},
        ],
        ids=str,
    )
    def test_refuse_what_is_not_safe(self, changes):
        given = {
            "name": "acme",
            "label": "Acme",
            "issuer": "https://acme.test",
            "client_id": "a",
            "client_secret": "b",
        }
        assert ProviderSettings(**given)

        with pytest.raises(ValidationError):
            ProviderSettings(**{**given, **changes})

    @pytest.mark.parametrize("second", [{"name": "acme"}, {"name": "b"}])
    def test_refuse_two_of_a_name_or_an_issuer(self, tmp_path, second):
        one = {
            "name": "acme",
            "label": "Acme",
            "issuer": "https://acme.test",
            "client_id": "a",
            "client_secret": "b",
        }
        file = tmp_path / "providers.json"
        file.write_text(json.dumps([one, {**one, **second}]))

        with pytest.raises(ValueError, match="twice"):
            read_providers(file)

    def test_never_show_the_secret(self, tmp_path):
        shown = repr(
            ProviderSettings(
                name="acme",
                label="Acme",
                issuer="https://acme.test",
                client_id="a",
                client_secret="hidden-one",
            )
        )

        assert "hidden-one" not in shown


class TestClientSecretPost:
    def test_sends_the_secret_in_the_body(self, make_social, acme, monkeypatch):
        app = make_social(
            about("acme", acme, token_endpoint_auth_method="client_secret_post")
        )
        monkeypatch.setattr(
            FakeOpenId,
            "token_answer",
            lambda self, _handler, form: (
                self.redeem(form),
                {
                    "access_token": self.token,
                    "token_type": "bearer",
                    "id_token": self.id_token(),
                },
            )[1],
        )

        assert sign_in(Browser(app), acme).status_code == 303
        (form,) = [call[3] for call in acme.seen if call[1] == "/token"]
        assert form["client_secret"] == CLIENT_SECRET


def test_limit_of_starts(make_social, acme):
    app = make_social(about("acme", acme))
    browser = Browser(app)
    app.extensions["flagon.auth"].guesses._attempts._clock = lambda: datetime(
        2026, 1, 1, tzinfo=UTC
    ).timestamp()

    found = [start(browser).status_code for _ in range(62)]

    assert found == [303] * 60 + [429] * 2


def test_query_of_a_page_is_not_in_the_next_address(guest, acme):
    answer = sign_in(guest, acme, onward="/oauth/authorize?a=b")

    assert parse_qs(urlsplit(answer.location).query) == {"a": ["b"]}
