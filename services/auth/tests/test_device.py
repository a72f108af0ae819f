"""Devices are let in from another browser (RFC 8628), once and by nobody's guess."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from sqlalchemy import select, text

from flagon_auth.domain import audit, clients, consents, devices
from flagon_auth.domain.clients import Registration
from flagon_auth.models import DeviceCode
from flagon_chassis import db
from flagon_chassis.testing import ProofMaker, hearing

from .conftest import (
    ALL_SCOPES,
    ISSUER,
    OTHER_SECRET,
    Browser,
    claims_of,
    fields,
    me,
    refresh,
    token_request,
)

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture(autouse=True)
def flow(app):
    """The client of the command line, and one of somebody else, with the device flow."""
    both = ["authorization_code", "refresh_token", GRANT]
    now = datetime.now(UTC)
    with app.app_context(), db.transaction() as session:
        clients.put_client(
            session,
            Registration(
                "cli",
                "Command line",
                None,
                ["http://127.0.0.1/callback"],
                grant_types=both,
                scope=ALL_SCOPES,
                first_party=True,
            ),
            now=now,
        )
        clients.put_client(
            session,
            Registration(
                "other",
                "<b>Somebody</b> else's",
                OTHER_SECRET,
                ["https://other.test/cb", "com.other.app:/cb"],
                ["https://other.test/bye"],
                grant_types=both,
                scope="openid email reviews:write",
            ),
            now=now,
        )
    yield
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from device_code"))
        session.execute(
            text("update client set name = 'Somebody else''s' where id = 'other'")
        )


def begin(app, client="cli", **form):
    return token_request(app, client, "/oauth/device_authorization", **form)


def poll(app, started, client="cli", **form):
    form = {"grant_type": GRANT, "device_code": started["device_code"], **form}
    return token_request(app, client, **form)


def rows(app):
    with app.app_context(), db.transaction() as session:
        return session.scalars(select(DeviceCode)).all()


def change(app, **values):
    with app.app_context(), db.transaction() as session:
        for row in session.scalars(select(DeviceCode)):
            for name, value in values.items():
                setattr(row, name, value)


def find(browser, code):
    form = browser.form("/device")
    return browser.post("/device", {**form, "user_code": code})


def answer(browser, page, choice="allow"):
    return browser.post("/device/decision", {**fields(page), "choice": choice})


def let_in(browser, started):
    done = answer(browser, find(browser, started["user_code"]))
    assert done.status_code == 200, done.get_data(as_text=True)
    return done


class TestDeviceAuthorization:
    def test_answers_as_the_specification_says(self, app):
        response = begin(app, scope="openid profile")

        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        told = response.json
        assert told["verification_uri"] == "http://localhost/device"
        code = told["user_code"]
        assert told["verification_uri_complete"] == (
            f"http://localhost/device?user_code={code}"
        )
        assert told["expires_in"] == 600
        assert told["interval"] == 5
        assert len(told["device_code"]) >= 43

    def test_gives_codes_without_vowels(self, app):
        codes = {begin(app).json["user_code"] for _ in range(20)}

        assert len(codes) == 20
        for code in codes:
            assert re.fullmatch(
                r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", code
            )

    def test_authenticates_the_client_as_the_token_endpoint_does(self, app):
        assert begin(app, "other", scope="openid").status_code == 200
        answered = app.test_client().post(
            "/oauth/device_authorization", data={"client_id": "other"}
        )
        assert answered.status_code == 401
        assert answered.json["error"] == "invalid_client"
        assert begin(app, "nobody").status_code == 401

    def test_refuses_a_client_without_the_grant(self, app):
        response = begin(app, "web", scope="openid")

        assert response.status_code == 400
        assert response.json["error"] == "unauthorized_client"

    def test_refuses_a_scope_that_the_client_has_not(self, app):
        response = begin(app, "other", scope="users:write")

        assert response.json["error"] == "invalid_scope"

    @pytest.mark.parametrize("scope", ["\0", "x" * 5000])
    def test_refuses_rubbish(self, app, scope):
        assert begin(app, scope=scope).status_code == 400

    def test_refuses_parameters_in_the_address_and_twice(self, app):
        http = app.test_client()

        assert http.post("/oauth/device_authorization?client_id=cli").status_code == 400
        twice = http.post(
            "/oauth/device_authorization",
            data="client_id=cli&client_id=cli",
            content_type="application/x-www-form-urlencoded",
        )
        assert twice.json["error"] == "invalid_request"

    def test_is_in_the_metadata(self, app):
        for path in ("openid-configuration", "oauth-authorization-server"):
            found = app.test_client().get(f"/.well-known/{path}").json
            assert found["device_authorization_endpoint"] == (
                "http://localhost/oauth/device_authorization"
            )
            assert GRANT in found["grant_types_supported"]

    def test_is_not_asked_for_without_end(self, app):
        statuses = {}
        for _ in range(125):
            response = begin(app)
            statuses.setdefault(response.status_code, response)

        assert sorted(statuses) == [200, 429]
        assert statuses[429].json["error"] == "temporarily_unavailable"
        assert int(statuses[429].headers["Retry-After"]) > 0


class TestDevicePage:
    def test_asks_to_sign_in_first_and_keeps_the_code(self, app, person):
        person()
        browser = Browser(app)

        sent = browser.get("/device?user_code=BCDF-GHJK")

        assert sent.status_code == 303
        assert sent.location == "/login?next=%2Fdevice%3Fuser_code%3DBCDF-GHJK"
        assert browser.sign_in(path=sent.location).location == (
            "/device?user_code=BCDF-GHJK"
        )

    def test_asks_for_the_code(self, ada):
        page = ada.get("/device").get_data(as_text=True)

        assert 'autocomplete="one-time-code"' in page
        assert "Never type a code that somebody sent you." in page

    def test_shows_client_scopes_code_and_a_warning(self, ada, app):
        started = begin(app, "other", scope="openid reviews:write").json

        page = find(ada, started["user_code"]).get_data(as_text=True)

        assert "&lt;b&gt;Somebody&lt;/b&gt; else&#39;s" in page
        assert "<b>Somebody" not in page
        assert "write reviews in your name" in page
        assert started["user_code"] in page
        assert "ada@flagon.test" in page
        assert "Go on only if you began this yourself" in page

    @pytest.mark.parametrize(
        "change", [str.lower, lambda c: c.replace("-", ""), lambda c: f" {c} ", str]
    )
    def test_takes_the_code_however_it_is_typed(self, ada, app, change):
        started = begin(app).json

        page = find(ada, change(started["user_code"]))

        assert page.status_code == 200
        assert "Let Command line in?" in page.get_data(as_text=True)

    def test_complete_address_only_fills_the_code_in(self, ada, app):
        started = begin(app).json
        code = started["user_code"]

        page = ada.get(started["verification_uri_complete"].removeprefix(ada.base))

        assert f'value="{code}"' in page.get_data(as_text=True)
        assert "Let Command line in?" not in page.get_data(as_text=True)
        assert poll(app, started).json["error"] == "authorization_pending"

    def test_complete_address_is_escaped(self, ada):
        page = ada.get("/device?user_code=" + quote('"><script>alert(1)</script>'))

        assert "<script>alert" not in page.get_data(as_text=True)

    @pytest.mark.parametrize("path", ["/device", "/device/decision"])
    def test_needs_the_csrf_token(self, ada, app, path):
        started = begin(app).json

        response = ada.post(
            path, {"user_code": started["user_code"], "choice": "allow"}
        )

        assert response.status_code == 400

    @pytest.mark.parametrize("path", ["/device", "/device/decision"])
    def test_sends_strangers_to_sign_in(self, browser, path):
        form = browser.form("/login")

        response = browser.post(path, {**form, "user_code": "BCDFGHJK"})

        assert response.location == "/login?next=/device"

    def test_takes_an_answer_once(self, ada, app):
        page = find(ada, begin(app).json["user_code"])
        answer(ada, page)

        again = answer(ada, page)

        assert again.status_code == 400
        assert "answered or ran out" in again.get_data(as_text=True)

    def test_takes_no_answer_of_another_session(self, ada, app, person):
        person("eve@flagon.test")
        eve = Browser(app)
        eve.sign_in("eve@flagon.test")
        started = begin(app).json
        page = find(ada, started["user_code"])
        key = fields(page)["request"]
        form = fields(find(eve, begin(app).json["user_code"]))

        response = eve.post(
            "/device/decision", {**form, "request": key, "choice": "allow"}
        )

        assert response.status_code == 400
        assert poll(app, started).json["error"] == "authorization_pending"

    def test_of_two_people_the_first_decides(self, ada, app, person):
        person("eve@flagon.test")
        eve = Browser(app)
        eve.sign_in("eve@flagon.test")
        started = begin(app).json
        pages = [find(browser, started["user_code"]) for browser in (ada, eve)]

        assert answer(ada, pages[0]).status_code == 200
        assert answer(eve, pages[1]).status_code == 400

        token = poll(app, started).json["access_token"]
        assert claims_of(token)["sub"] == str(ada.account.id)

    def test_refuses_a_device_that_wants_what_the_account_may_not(self, ada, app):
        started = begin(app, scope="users:write").json

        page = find(ada, started["user_code"])

        assert page.status_code == 403

    @pytest.mark.parametrize("code", ["", "x" * 41])
    def test_refuses_what_is_no_code(self, ada, code):
        assert find(ada, code).status_code == 422

    def test_is_written_to_the_audit_log(self, ada, app):
        let_in(ada, begin(app, scope="openid").json)
        answer(ada, find(ada, begin(app).json["user_code"]), "deny")

        with app.app_context(), db.transaction() as session:
            found = audit.list_records(session, ada.account.id, limit=2)
        assert [row.action for row in found] == ["device_denied", "device_approved"]
        assert found[1].details == {"client": "cli", "scope": "openid"}


class TestPolling:
    def test_says_that_nobody_has_answered(self, app):
        response = poll(app, begin(app).json)

        assert response.status_code == 400
        assert response.json["error"] == "authorization_pending"
        assert response.headers["Cache-Control"] == "no-store"

    def test_gives_tokens_once_the_person_agreed(self, ada, app):
        started = begin(app, scope="openid profile offline_access reviews:write").json
        let_in(ada, started)

        answered = poll(app, started)

        assert answered.status_code == 200
        tokens = answered.json
        assert tokens["scope"] == "openid profile offline_access reviews:write"
        assert me(app, tokens).json["id"] == str(ada.account.id)
        assert claims_of(tokens["id_token"])["aud"] == "cli"
        assert claims_of(tokens["id_token"])["amr"] == ["pwd"]
        assert refresh(app, tokens["refresh_token"], "cli").status_code == 200

    def test_without_openid_gives_no_id_token(self, ada, app):
        started = begin(app, scope="reviews:write").json
        let_in(ada, started)

        assert "id_token" not in poll(app, started).json

    def test_grants_no_more_than_was_shown(self, ada, app):
        started = begin(app).json
        let_in(ada, started)

        scope = poll(app, started).json["scope"].split()

        assert "users:write" not in scope
        assert "reviews:write" in scope

    def test_says_no_when_the_person_did(self, ada, app):
        started = begin(app).json
        answer(ada, find(ada, started["user_code"]), "deny")

        for _ in range(2):
            assert poll(app, started).json["error"] == "access_denied"

    def test_too_fast_must_slow_down_by_five_seconds_each_time(self, app):
        started = begin(app).json
        errors = [poll(app, started).json["error"] for _ in range(3)]

        assert errors == ["authorization_pending", "slow_down", "slow_down"]
        assert rows(app)[0].interval_seconds == 15

    def test_in_time_need_not_slow_down(self, app):
        started = begin(app).json
        poll(app, started)
        change(app, last_polled_at=datetime.now(UTC) - timedelta(seconds=4.5))

        assert poll(app, started).json["error"] == "authorization_pending"
        assert rows(app)[0].interval_seconds == 5

    def test_too_fast_still_gets_the_tokens(self, ada, app):
        started = begin(app).json
        poll(app, started)
        let_in(ada, started)

        assert poll(app, started).status_code == 200

    def test_expires(self, ada, app):
        started = begin(app).json
        change(app, expires_at=datetime.now(UTC))

        assert poll(app, started).json["error"] == "expired_token"
        assert find(ada, started["user_code"]).status_code == 422

    def test_expires_also_after_the_answer(self, ada, app):
        started = begin(app).json
        let_in(ada, started)
        change(app, expires_at=datetime.now(UTC))

        assert poll(app, started).json["error"] == "expired_token"

    def test_answer_that_comes_too_late_counts_for_nothing(self, ada, app):
        started = begin(app).json
        page = find(ada, started["user_code"])
        change(app, expires_at=datetime.now(UTC))

        assert answer(ada, page).status_code == 400
        assert poll(app, started).json["error"] == "expired_token"

    def test_works_once(self, ada, app):
        started = begin(app).json
        let_in(ada, started)
        tokens = poll(app, started).json

        assert poll(app, started).json["error"] == "invalid_grant"
        assert me(app, tokens).status_code == 200

    def test_eight_at_once_bring_one_token(self, ada, app):
        started = begin(app).json
        let_in(ada, started)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: poll(app, started), range(8)))

        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
        assert {a.json["error"] for a in answers if a.status_code == 400} == {
            "invalid_grant"
        }

    def test_of_another_client_gets_nothing(self, ada, app):
        started = begin(app).json
        let_in(ada, started)

        assert poll(app, started, "other").json["error"] == "invalid_grant"
        assert poll(app, started).status_code == 200

    def test_of_a_client_without_the_grant_is_refused(self, app):
        assert poll(app, begin(app).json, "web").json["error"] == "unauthorized_client"

    @pytest.mark.parametrize("code", ["x", "ü", "a" * 4096])
    def test_with_an_unknown_code_gets_nothing(self, app, code):
        answered = poll(app, {"device_code": code})

        assert answered.json["error"] == "invalid_grant"

    def test_without_a_code_is_refused(self, app):
        answered = token_request(app, "cli", grant_type=GRANT)

        assert answered.json["error"] == "invalid_request"

    def test_gets_nothing_for_a_disabled_account(self, ada, app):
        started = begin(app).json
        let_in(ada, started)
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set disabled = true"))

        assert poll(app, started).json["error"] == "invalid_grant"

    def test_gets_nothing_when_it_was_taken_back_meanwhile(self, ada, app):
        started = begin(app).json
        let_in(ada, started)
        with app.app_context(), db.transaction() as session:
            consents.withdraw(
                session,
                account_id=ada.account.id,
                client_id="cli",
                reason="test",
                now=datetime.now(UTC),
            )

        assert poll(app, started).json["error"] == "invalid_grant"


class TestBoundToAKey:
    """DPoP, RFC 9449: a code that somebody else got hold of is worth nothing."""

    @staticmethod
    def send(app, path, prover, **form):
        proof = prover("POST", ISSUER + path) if prover else None
        return app.test_client().post(
            path,
            data={"client_id": "cli", **form},
            headers={"DPoP": proof} if proof else {},
        )

    def begin(self, app, prover):
        return self.send(
            app, "/oauth/device_authorization", prover, scope="openid"
        ).json

    def poll(self, app, started, prover):
        code = started["device_code"]
        return self.send(
            app, "/oauth/token", prover, grant_type=GRANT, device_code=code
        )

    def test_when_it_began_only_that_key_gets_the_tokens(self, ada, app):
        device, thief = ProofMaker(), ProofMaker()
        started = self.begin(app, device)
        let_in(ada, started)

        assert self.poll(app, started, thief).json["error"] == "invalid_grant"
        assert self.poll(app, started, None).json["error"] == "invalid_grant"
        # Those tries have not used the code up.
        tokens = self.poll(app, started, device).json

        assert tokens["token_type"] == "DPoP"
        assert claims_of(tokens["access_token"])["cnf"] == {"jkt": device.jkt}

    def test_when_it_asks_the_tokens_are(self, ada, app):
        device = ProofMaker()
        started = self.begin(app, None)
        let_in(ada, started)

        assert self.poll(app, started, device).json["token_type"] == "DPoP"

    def test_takes_no_bad_proof(self, app):
        answered = app.test_client().post(
            "/oauth/device_authorization",
            data={"client_id": "cli"},
            headers={"DPoP": "rubbish"},
        )

        assert answered.json["error"] == "invalid_dpop_proof"


class TestSession:
    def test_of_a_device_is_its_own(self, ada, app):
        started = begin(app, scope="openid offline_access").json
        let_in(ada, started)
        tokens = poll(app, started).json

        ada.post("/account/sign-out", fields(ada.get("/account")))

        assert me(app, tokens).status_code == 200
        assert refresh(app, tokens["refresh_token"], "cli").status_code == 200

    def test_of_a_device_is_not_ended_by_an_id_token_that_leaked(self, ada, app):
        started = begin(app, scope="openid").json
        let_in(ada, started)
        tokens = poll(app, started).json

        Browser(app).get(
            "/oauth/end_session", query_string={"id_token_hint": tokens["id_token"]}
        )

        assert me(app, tokens).status_code == 200

    def test_without_offline_access_ends_after_hours(self, ada, app):
        let_in(ada, begin(app, scope="openid").json)

        grant = rows(app)[0].grant

        left = grant.expires_at - datetime.now(UTC)
        assert timedelta(hours=11, minutes=59) < left <= timedelta(hours=12)

    def test_says_how_well_the_person_signed_in(self, ada, app):
        started = begin(app, scope="openid").json
        let_in(ada, started)

        claims = claims_of(poll(app, started).json["id_token"])

        assert claims["acr"] == "aal1"
        assert claims["auth_time"] <= claims["iat"]


class TestThreatGuessing:
    def test_is_limited_though_40_try_at_once(self, ada, app):
        form = ada.form("/device")
        cookies = {name: c.value for name, c in ada.cookies().items()}

        def guess(number):
            http = app.test_client()
            for name, value in cookies.items():
                http.set_cookie(name, value)
            letters = devices.ALPHABET
            code = letters[number % 20] * 7 + letters[number // 20]
            return http.post("/device", data={**form, "user_code": code}).status_code

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(guess, range(40)))

        assert answers.count(422) <= 11
        assert answers.count(429) >= 29

    def test_right_codes_cost_nothing(self, ada, app):
        for _ in range(15):
            assert find(ada, begin(app).json["user_code"]).status_code == 200

    def test_tells_nothing_about_codes(self, ada, app):
        used = begin(app).json
        let_in(ada, used)
        denied = begin(app).json
        answer(ada, find(ada, denied["user_code"]), "deny")
        gone = begin(app).json
        with app.app_context(), db.transaction() as session:
            digest = app.extensions["flagon.auth"].user_codes.digest(gone["user_code"])
            row = session.scalars(select(DeviceCode).filter_by(user_code_hash=digest))
            row.one().expires_at = datetime.now(UTC)

        pages = [
            find(ada, code)
            for code in (
                "BBBB-BBBB",
                used["user_code"],
                denied["user_code"],
                gone["user_code"],
            )
        ]

        assert {page.status_code for page in pages} == {422}
        bodies = {
            re.sub(r'(nonce|value)="[^"]*"', "", page.get_data(as_text=True))
            for page in pages
        }
        assert len(bodies) == 1

    def test_codes_are_stored_as_keyed_hashes(self, app):
        import hashlib

        started = begin(app).json
        code = started["user_code"].replace("-", "")

        (row,) = rows(app)

        assert row.code_hash == hashlib.sha256(started["device_code"].encode()).digest()
        assert row.user_code_hash != hashlib.sha256(code.encode()).digest()
        assert code.encode() not in row.user_code_hash

    def test_codes_are_in_no_log(self, ada, app):
        with hearing() as heard:
            started = begin(app).json
            let_in(ada, started)
            poll(app, started)

        logged = heard()
        assert "/oauth/device_authorization" in logged
        assert started["device_code"] not in logged
        assert started["user_code"] not in logged
        assert started["user_code"].replace("-", "") not in logged

    def test_codes_can_be_read_in_no_store(self, ada, app, store):
        started = begin(app, scope="openid").json
        shown = find(ada, started["user_code"])

        with app.app_context(), db.transaction() as session:
            names = session.scalars(
                text("select tablename from pg_tables where schemaname = 'public'")
            ).all()
            stored = [
                str(row)
                for name in names
                for row in session.execute(text(f"select t::text from {name} t"))
            ]
        for key in store.keys("*"):
            read = {"string": store.get, "hash": store.hgetall}.get(store.type(key))
            stored.append(key + str(read(key) if read else ""))
        assert answer(ada, shown).status_code == 200
        code = started["user_code"]
        assert len(stored) > 10
        for secret in (started["device_code"], code, code.replace("-", "")):
            assert not [entry for entry in stored if secret in entry]

    def test_disabled_client_waits_in_vain(self, ada, app):
        started = begin(app, "other", scope="openid").json
        with app.app_context(), db.transaction() as session:
            clients.find_client(session, "other").disabled = True
        try:
            assert find(ada, started["user_code"]).status_code == 422
        finally:
            with app.app_context(), db.transaction() as session:
                clients.find_client(session, "other").disabled = False


class TestThreatDeviceWithoutSecondFactor:
    def test_is_not_let_in_by_one_of_two_factors(self, app, person):
        account = person()
        with app.app_context(), db.transaction() as session:
            session.execute(
                text(
                    "insert into totp_credential (account_id, secret_sealed, last_step,"
                    " created_at, confirmed_at)"
                    " values (:id, 'x', 0, now(), now())"
                ),
                {"id": account.id},
            )
        browser = Browser(app)
        browser.sign_in()

        sent = browser.get("/device")

        assert sent.status_code == 303
        assert sent.location.startswith("/login")
