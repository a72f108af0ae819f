"""Clients are told of sessions that end (OpenID Connect Back-Channel Logout 1.0)."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet
from sqlalchemy import text

from flagon_auth.domain import audit, clients, grants, logouts
from flagon_auth.domain.clients import Registration
from flagon_auth.models import AuditEvent, LogoutNotice
from flagon_chassis import db
from flagon_chassis.testing import errands_of

from .conftest import (
    ALL_SCOPES,
    ISSUER,
    OTHER_SECRET,
    Browser,
    bearer_of,
    claims_of,
    fields,
    header_of,
    query_of,
    refresh,
    revoke,
    token_request,
)

SECRET = "b" * 40
NEWS = "http://localhost/news"


@pytest.fixture
def news(app):
    """A client that wants to be told, and one that may deliver."""
    now = datetime.now(UTC)
    with app.app_context(), db.transaction() as session:
        for registration in (
            Registration(
                "web",
                "News",
                "w" * 40,
                [NEWS, "http://localhost/callback", "https://localhost/callback"],
                ["http://localhost/", "https://localhost/"],
                scope=ALL_SCOPES,
                first_party=True,
                backchannel_logout_uri="https://news.test/backchannel-logout?x=1",
            ),
            Registration(
                "other",
                "Somebody else's",
                OTHER_SECRET,
                ["https://other.test/cb", "com.other.app:/cb"],
                ["https://other.test/bye"],
                scope="openid email reviews:write",
                backchannel_logout_uri="https://other.test/logout",
                id_token_signed_response_alg="ES256",
            ),
            Registration(
                "worker",
                "Worker",
                "k" * 40,
                grant_types=["client_credentials"],
                scope="catalog:read catalog:write logout:deliver",
            ),
        ):
            clients.put_client(session, registration, now=now)
    yield app
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from logout_notice"))
        session.execute(text("delete from audit_event"))
        session.execute(text("update client set backchannel_logout_uri = null"))
        session.execute(
            text("update client set id_token_signed_response_alg = 'RS256'")
        )


def sign_out(browser):
    browser.post("/account/sign-out", fields(browser.get("/account")))


def notices(app):
    with app.app_context(), db.transaction() as session:
        return session.query(LogoutNotice).order_by(LogoutNotice.id).all()


def outbox(app, channel, name):
    with app.app_context(), db.transaction() as session:
        rows = session.execute(
            text("select body from outbox where channel = :c and name = :n"),
            {"c": channel, "n": name},
        )
        return [row.body for row in rows]


def ended_events(app):
    return outbox(app, "event", "market.flagon.session.ended.v1")


def service(app, scope="logout:deliver"):
    answer = token_request(app, "worker", grant_type="client_credentials", scope=scope)
    return bearer_of(answer.json)


def ask(app, notice_id, step="", json_body=None, headers=None):
    return app.test_client().post(
        f"/internal/logout-notices/{notice_id}{step}",
        headers=headers or service(app),
        json=json_body,
    )


def read(app, token):
    keys = KeySet.import_key_set(app.test_client().get("/.well-known/jwks.json").json)
    return jwt.decode(token, keys, algorithms=["RS256", "ES256"])


class TestSessionEnds:
    def test_by_signing_out_tells_every_client_that_got_tokens_in_it(self, news, ada):
        sid = claims_of(ada.tokens()["id_token"])["sid"]
        ada.tokens("cli")

        sign_out(ada)

        assert [(row.client_id, row.sid) for row in notices(news)] == [("web", sid)]
        (task,) = outbox(news, "task", "worker.deliver_logout")
        assert task["queue"] == "mail"
        assert task["kwargs"] == {"notice_id": str(notices(news)[0].id)}

    def test_sends_an_event_with_no_secret(self, news, ada):
        sid = claims_of(ada.tokens()["id_token"])["sid"]

        sign_out(ada)

        (event,) = ended_events(news)
        assert event["data"] == {
            "id": sid,
            "user_id": str(ada.account.id),
            "reason": "signed out",
        }
        assert event["topics"] == [f"users/{ada.account.id}"]

    def test_without_any_client_is_an_event_all_the_same(self, news, ada):
        sign_out(ada)

        assert len(ended_events(news)) == 1
        assert notices(news) == []

    def test_is_in_the_audit_log(self, news, ada):
        sign_out(ada)

        with news.app_context(), db.transaction() as session:
            rows = audit.list_records(session, ada.account.id, limit=1)
        assert rows[0].action == "session_ended"

    def test_when_somebody_else_signs_in(self, news, ada, person):
        ada.tokens()
        person("eve@flagon.test")
        ada.sign_in("eve@flagon.test", path=ada.authorize(prompt="login").location)

        assert [row.account_id for row in notices(news)] == [ada.account.id]
        assert ended_events(news)[0]["data"]["user_id"] == str(ada.account.id)

    def test_when_the_account_is_disabled(self, news, ada):
        ada.tokens()
        elsewhere = Browser(news)
        elsewhere.sign_in()
        elsewhere.tokens()
        now = datetime.now(UTC)

        with news.app_context(), db.transaction() as session:
            grants.revoke_account(session, ada.account.id, "account disabled", now=now)

        assert {row.client_id for row in notices(news)} == {"web"}
        assert len({row.sid for row in notices(news)}) == 2
        assert len(ended_events(news)) == 2

    def test_knows_sessions_without_grants(self, news, ada):
        now = datetime.now(UTC)

        with news.app_context(), db.transaction() as session:
            grants.revoke_account(
                session, ada.account.id, "account deleted", sids=["abc"], now=now
            )

        assert [event["data"]["id"] for event in ended_events(news)] == ["abc"]

    def test_is_not_what_a_revoked_or_reused_refresh_token_does(self, news, ada):
        token = ada.tokens()["refresh_token"]
        refresh(news, token)
        refresh(news, token)
        revoke(news, ada.tokens()["refresh_token"])

        assert notices(news) == []
        assert ended_events(news) == []

    def test_tells_a_client_that_gave_its_tokens_back(self, news, ada):
        revoke(news, ada.tokens()["refresh_token"])

        sign_out(ada)

        assert len(notices(news)) == 1

    def test_tells_nobody_twice(self, news, ada):
        hint = ada.tokens()["id_token"]
        sign_out(ada)
        Browser(news).get("/logout", query_string={"id_token_hint": hint})

        assert len(notices(news)) == 1
        assert len(ended_events(news)) == 1

    def test_is_rolled_back_as_a_whole(self, news, ada):
        ada.tokens()
        now = datetime.now(UTC)

        def fail():
            with news.app_context(), db.transaction() as session:
                grants.revoke_account(session, ada.account.id, "disabled", now=now)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()

        assert notices(news) == []
        assert outbox(news, "task", "worker.deliver_logout") == []

    def test_tells_of_a_deleted_account(self, news, ada):
        ada.tokens()
        now = datetime.now(UTC)
        with news.app_context(), db.transaction() as session:
            grants.revoke_account(session, ada.account.id, "account deleted", now=now)
            session.execute(
                text("delete from account where id = :id"), {"id": ada.account.id}
            )

        answer = ask(news, notices(news)[0].id)

        assert claims_of(answer.json["logout_token"])["sub"] == str(ada.account.id)


@pytest.fixture
def notice(news, ada):
    """The notice of one session that has just ended."""
    ada.id_token = ada.tokens()["id_token"]
    sign_out(ada)
    return notices(news)[0]


class TestLogoutToken:
    def test_says_what_the_specification_asks_for(self, news, ada, notice):
        answer = ask(news, notice.id)

        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json["uri"] == "https://news.test/backchannel-logout?x=1"
        token = read(news, answer.json["logout_token"])
        assert token.header["typ"] == "logout+jwt"
        assert token.header["alg"] == "RS256"
        assert token.claims["iss"] == ISSUER
        assert token.claims["aud"] == "web"
        assert token.claims["sub"] == str(ada.account.id)
        assert token.claims["sid"] == claims_of(ada.id_token)["sid"]
        assert token.claims["events"] == {logouts.EVENT: {}}
        assert token.claims["exp"] - token.claims["iat"] == 120
        assert abs(token.claims["iat"] - datetime.now(UTC).timestamp()) < 5
        assert UUID(token.claims["jti"])

    def test_has_no_nonce(self, news, notice):
        token = ask(news, notice.id).json["logout_token"]

        assert "nonce" not in claims_of(token)

    def test_is_signed_as_the_clients_id_tokens_are(self, news, ada):
        with news.app_context(), db.transaction() as session:
            clients.find_client(session, "web").id_token_signed_response_alg = "ES256"
        ada.tokens()
        sign_out(ada)

        token = ask(news, notices(news)[0].id).json["logout_token"]

        assert header_of(token)["alg"] == "ES256"
        assert read(news, token).claims["aud"] == "web"

    def test_is_new_for_each_attempt(self, news, notice):
        tokens = [ask(news, notice.id).json["logout_token"] for _ in range(2)]

        assert len({claims_of(token)["jti"] for token in tokens}) == 2

    def test_is_no_id_token_hint(self, news, notice):
        token = ask(news, notice.id).json["logout_token"]

        answer = Browser(news).get("/logout", query_string={"id_token_hint": token})

        assert answer.status_code == 400

    @pytest.mark.parametrize("alg", ["RS256", "ES256"])
    def test_is_no_access_token(self, news, ada, alg):
        with news.app_context(), db.transaction() as session:
            clients.find_client(session, "web").id_token_signed_response_alg = alg
        ada.tokens()
        sign_out(ada)
        token = ask(news, notices(news)[0].id).json["logout_token"]

        answer = news.test_client().get(
            "/api/v1/me", headers={"Authorization": f"Bearer {token}"}
        )

        assert answer.status_code == 401


class TestErrand:
    @pytest.fixture
    def left(self, news):
        """Returns in how many seconds each notice is asked for again."""

        def left():
            with news.app_context(), db.reading() as session:
                found = errands_of(session)
            mails = outbox(news, "task", "worker.send_mail")
            for body in mails:
                found.pop(body["kwargs"]["mail_id"], None)
            return found

        return left

    def test_lasts_until_the_client_knows(self, news, notice, left):
        assert left() == {str(notice.id): pytest.approx(30, abs=2)}
        ask(news, notice.id)
        # Longer than the worker waits.
        assert left() == {str(notice.id): pytest.approx(360, abs=2)}

        ask(news, notice.id, "/delivered")

        assert left() == {}

    def test_is_over_when_the_client_would_not_hear_it(self, news, notice, left):
        for _ in range(logouts.REFUSALS_MAX):
            assert left()
            ask(news, notice.id, "/refused", {"status": 400})

        assert left() == {}

    @pytest.mark.parametrize(
        "over",
        [
            "update logout_notice set created_at = now() - interval '1 day'",
            "delete from logout_notice",
            "update client set backchannel_logout_uri = null",
        ],
    )
    def test_is_over_when_there_is_nothing_to_deliver(self, news, notice, left, over):
        with news.app_context(), db.transaction() as session:
            session.execute(text(over))

        assert ask(news, notice.id).status_code == 404
        assert left() == {}


class TestDelivery:
    def test_needs_the_scope(self, news, notice):
        other = service(news, "catalog:read")
        for step in ("", "/delivered", "/refused"):
            for headers, status in ((other, 403), ({"X-Nobody": "1"}, 401)):
                answer = ask(news, notice.id, step, {"status": 400}, headers)
                assert answer.status_code == status

    def test_no_person_has_the_scope(self, news, ada):
        answer = ada.tokens(scope="openid logout:deliver mails:send")

        assert answer["scope"] == "openid"

    def test_is_over_when_the_client_knows(self, news, notice):
        assert ask(news, notice.id, "/delivered").status_code == 204
        assert ask(news, notice.id, "/delivered").status_code == 204

        assert ask(news, notice.id).status_code == 404

    def test_of_what_never_was_is_over(self, news):
        assert ask(news, uuid4()).status_code == 404
        assert ask(news, uuid4(), "/delivered").status_code == 204
        assert ask(news, uuid4(), "/refused", {"status": 400}).status_code == 404

    def test_is_over_when_the_client_wants_none_any_more(self, news, notice):
        with news.app_context(), db.transaction() as session:
            clients.find_client(session, "web").backchannel_logout_uri = None

        assert ask(news, notice.id).status_code == 404

    def test_is_given_up_after_three_refusals_with_an_audit_record(
        self, news, ada, notice
    ):
        for _ in range(2):
            assert ask(news, notice.id, "/refused", {"status": 400}).status_code == 204
            assert ask(news, notice.id).status_code == 200

        ask(news, notice.id, "/refused", {"status": 400})

        assert ask(news, notice.id).status_code == 404
        assert self.given_up(news) == [
            {
                "client": "web",
                "sid": notice.sid,
                "reason": "refused with status 400",
            }
        ]

    def test_is_given_up_after_hours_with_an_audit_record(self, news, notice):
        with news.app_context(), db.transaction() as session:
            row = session.get(LogoutNotice, notice.id)
            row.created_at -= timedelta(hours=6, seconds=1)

        assert ask(news, notice.id).status_code == 404
        assert ask(news, notice.id).status_code == 404

        assert [found["reason"] for found in self.given_up(news)] == [
            "no answer in time"
        ]

    def test_refusals_count_one_by_one_in_parallel(self, news, notice):
        headers = service(news)

        def refuse(_):
            return ask(
                news, notice.id, "/refused", {"status": 400}, headers
            ).status_code

        with ThreadPoolExecutor(4) as pool:
            answers = sorted(pool.map(refuse, range(4)))

        assert answers == [204, 204, 204, 404]
        assert len(self.given_up(news)) == 1

    def test_refusal_must_be_a_status(self, news, notice):
        assert ask(news, notice.id, "/refused", {"status": 9}).status_code == 422

    @staticmethod
    def given_up(app):
        with app.app_context(), db.transaction() as session:
            rows = session.query(AuditEvent).filter_by(action="logout_not_delivered")
            found = [row.details for row in rows]
            session.execute(text("delete from audit_event"))
        return found


class TestRegistration:
    @staticmethod
    def register(app, uri, *, first_party=False):
        registration = Registration(
            "other",
            "Somebody else's",
            OTHER_SECRET,
            ["https://other.test/cb", "com.other.app:/cb"],
            ["https://other.test/bye"],
            scope="openid email reviews:write",
            first_party=first_party,
            backchannel_logout_uri=uri,
        )
        with app.app_context(), db.transaction() as session:
            clients.put_client(session, registration, now=datetime.now(UTC))
            session.rollback()

    @pytest.mark.parametrize(
        "uri",
        ["https://other.test/logout?tenant=1", "http://127.0.0.1:8000/logout"],
    )
    def test_takes_https_and_loopback(self, app, uri):
        self.register(app, uri)

    def test_takes_http_inside_for_our_own(self, app):
        self.register(app, "http://web:8000/backchannel-logout", first_party=True)

    @pytest.mark.parametrize("first_party", [True, False])
    @pytest.mark.parametrize(
        "uri",
        [
            "ftp://other.test/",
            "com.other.app:/logout",
            "https://other.test/#part",
            "http://other.test/#part",
            "https://me:secret@other.test/",
            "http://me:secret@other.test/",
            "https://other.test/ x",
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/_FLUSHALL",
            "//other.test/",
            "https:///logout",
            "",
        ],
    )
    def test_refuses_anything_else(self, app, uri, first_party):
        with pytest.raises(clients.ClientInvalid):
            self.register(app, uri, first_party=first_party)

    @pytest.mark.parametrize(
        "uri",
        ["http://other.test/", "http://169.254.169.254/latest", "http://web:8000/"],
    )
    def test_refuses_http_for_strangers(self, app, uri):
        with pytest.raises(clients.ClientInvalid):
            self.register(app, uri)


class TestConformance:
    """The modules of the OpenID Foundation's back-channel plan, by name."""

    def test_oidcc_discovery_endpoint_verification(self, news):
        found = news.test_client().get("/.well-known/openid-configuration").json

        assert found["backchannel_logout_supported"] is True
        assert found["backchannel_logout_session_supported"] is True
        assert found["end_session_endpoint"].startswith(ISSUER + "/")

    def test_oidcc_backchannel_rp_initiated_logout(self, news, ada):
        id_token = ada.tokens()["id_token"]

        answer = ada.get(
            "/logout",
            query_string={
                "id_token_hint": id_token,
                "post_logout_redirect_uri": "http://localhost/",
                "state": "abc",
            },
        )
        told = ask(news, notices(news)[0].id).json["logout_token"]

        assert query_of(answer) == {"state": "abc"}
        claims = read(news, told).claims
        for name in ("iss", "sub", "sid"):
            assert claims[name] == claims_of(id_token)[name]
        assert claims["aud"] == "web"
        assert json.dumps(claims["events"]) == f'{{"{logouts.EVENT}": {{}}}}'
        assert query_of(ada.authorize(prompt="none"))["error"] == "login_required"
