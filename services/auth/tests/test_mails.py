"""Mails: in the transaction, written when they are sent, once, and only to the worker."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from flagon_auth.domain import accounts, mails
from flagon_auth.domain.letters import LETTERS
from flagon_chassis import db
from flagon_chassis.testing import errands_of

from .conftest import Browser, bearer_of, fields, token_request
from .letters import code_in, link_in

DROP = {
    "product": "Mug <b>",
    "product_id": "01987654-0000-7000-8000-000000000001",
    "previous_price": "1250.00",
    "price": "9.90",
    "currency": "EUR",
}


def rows(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(statement), values).all()


def run(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        session.execute(text(statement), values)


@pytest.fixture
def send(app, person):
    """Has a mail sent to Ada and returns its id."""
    account = person()

    def send(template="verify_email", when=None, **values):
        with app.app_context(), db.transaction() as session:
            found = accounts.find_account(session, account.id)
            now = when or datetime.now(UTC)
            return mails.send(session, found, template, now=now, **values)

    send.account = account
    return send


class TestSend:
    def test_is_undone_with_its_transaction(self, app, send, post):
        def fail():
            with app.app_context(), db.transaction() as session:
                found = accounts.find_account(session, send.account.id)
                mails.send(session, found, "verify_email", now=datetime.now(UTC))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert post.waiting() == []
        assert rows(app, "select 1 from mail") == []

    def test_stores_and_queues_nothing_that_opens_a_door(self, app, send, post):
        mail_id = send()
        code = code_in(post.ask(mail_id).json)

        for table in ("mail", "email_token", "outbox"):
            (found,) = rows(app, f"select json_agg(t)::text from {table} t")
            assert code not in found[0]
            assert code[:20] not in found[0]


class TestOrder:
    @pytest.fixture
    def order(self, app, send, post):
        run(app, "update account set email_verified_at = now()")
        mail_id = uuid.uuid4()

        def order(mail_id=mail_id, **changes):
            new = {"account_id": str(send.account.id), "letter": "price_dropped"}
            return app.test_client().put(
                f"/internal/mails/{mail_id}",
                json={**new, **DROP, **changes},
                headers=post.headers,
            )

        return order

    def test_sends_one_mail_however_often_it_is_asked_for(self, order, post):
        assert [order().status_code for _ in range(3)] == [204] * 3

        (mail_id,) = post.waiting()
        (mail,) = post.deliver()
        assert mail["to"] == "ada@flagon.test"
        assert order().status_code == 204
        assert post.waiting() == [mail_id]
        assert post.ask(mail_id).status_code == 404

    @pytest.mark.parametrize(
        ("locale", "now", "before"),
        [
            ("en", "EUR\N{NO-BREAK SPACE}9.90", "EUR\N{NO-BREAK SPACE}1250.00"),
            ("de", "9,90\N{NO-BREAK SPACE}EUR", "1250,00\N{NO-BREAK SPACE}EUR"),
        ],
    )
    def test_writes_amounts_as_the_person_does(
        self, app, order, post, locale, now, before
    ):
        run(app, "update account set locale = :locale", locale=locale)
        order()

        (mail,) = post.deliver()

        assert now in mail["text"]
        assert before in mail["text"]
        assert link_in(mail).startswith(f"/products/{DROP['product_id']}?")

    def test_what_others_named_is_text_in_html(self, order, post):
        order(product='<img src="https://evil.test/x">%(price)s')

        (mail,) = post.deliver()

        assert "<img" not in mail["html"]
        assert "%(price)s" in mail["html"]

    def test_writes_to_nobody_who_did_not_prove_the_address(self, app, order, post):
        run(app, "update account set email_verified_at = null")

        assert order().status_code == 404
        assert order(account_id=str(uuid.uuid4())).status_code == 404
        assert post.waiting() == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"letter": "reset_password"},
            {"letter": "account_deleted"},
            {"product_id": "../login"},
            {"price": "free"},
            {"currency": "eur\n"},
            {"email": "eve@example.com"},
        ],
    )
    def test_orders_nothing_else(self, order, post, changes):
        assert order(**changes).status_code == 422
        assert post.waiting() == []

    def test_asks_for_a_service_token(self, app, order):
        path = f"/internal/mails/{uuid.uuid4()}"

        assert app.test_client().put(path, json=DROP).status_code == 401


class TestCompose:
    def test_asks_for_a_service_token(self, app, send):
        mail_id = send()
        path = f"/internal/mails/{mail_id}"
        worker = token_request(app, "worker", grant_type="client_credentials")
        body = {"attempt": uuid.uuid4().hex}

        assert app.test_client().post(path, json=body).status_code == 401
        refused = app.test_client().post(
            path, json=body, headers=bearer_of(worker.json)
        )
        assert refused.status_code == 403

    def test_no_person_may_ask(self, app, send, person):
        person("root@flagon.test", "admin")
        browser = Browser(app)
        browser.sign_in("root@flagon.test")
        scope = "openid mails:send users:write"
        headers = bearer_of(browser.tokens(scope=scope))

        answer = app.test_client().post(
            f"/internal/mails/{send()}",
            json={"attempt": uuid.uuid4().hex},
            headers=headers,
        )

        assert answer.status_code == 403

    @pytest.mark.parametrize("template", sorted(LETTERS))
    @pytest.mark.parametrize("locale", ["en", "de"])
    def test_every_letter_says_the_same_in_text_and_html(
        self, app, send, post, template, locale
    ):
        run(app, "update account set locale = :locale", locale=locale)

        values = {"action": "totp_enabled", "email": "new@flagon.test", **DROP}
        if LETTERS[template].purpose != "change":
            del values["email"]
        mail = post.ask(send(template, **values)).json

        assert mail["language"] == locale
        assert f'<html lang="{locale}">' in mail["html"]
        assert f"ui_locales={locale}" in link_in(mail)
        assert "%(" not in mail["text"]
        # No pictures, no styles from elsewhere: nothing that tells when it was read.
        for tracker in ("<img", "<link", "<script", "url("):
            assert tracker not in mail["html"]
        english = str(LETTERS[template].subject)
        assert (mail["subject"] == english) == (locale == "en")

    def test_host_header_poisoning_changes_no_link(self, app, person, post):
        person()
        browser = Browser(app)
        poisoned = {"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http"}
        form = browser.get("/password/forgot", headers=poisoned)
        browser.post(
            "/password/forgot",
            {**fields(form), "email": "ada@flagon.test"},
            headers=poisoned,
        )
        poisoned["Host"] = "evil.test"
        (mail_id,) = post.waiting()

        mail = post.ask(mail_id, headers={**post.headers, **poisoned}).json

        assert "evil" not in str(mail)
        assert "http://localhost/password/reset?" in mail["text"]

    def test_gives_a_mail_to_one_attempt_at_a_time(self, send, post):
        mail_id, first = send(), uuid.uuid4().hex

        one = post.ask(mail_id, attempt=first)
        other = post.ask(mail_id)
        again = post.ask(mail_id, attempt=first)

        assert [one.status_code, other.status_code] == [200, 409]
        assert int(other.headers["Retry-After"]) > 0
        assert again.json == one.json

    def test_gives_it_to_the_next_when_the_first_died(self, app, send, post):
        mail_id = send()
        first = post.ask(mail_id).json
        run(app, "update mail set leased_until = now() - interval '1 second'")

        assert post.ask(mail_id).json == first

    def test_gives_it_to_the_next_when_the_first_gave_it_back(self, send, post):
        mail_id = send()
        post.ask(mail_id)

        assert post.ask(mail_id, "/returned").status_code == 204
        assert post.ask(mail_id).status_code == 200

    def test_sends_none_twice(self, send, post):
        mail_id = send()
        post.ask(mail_id)
        post.ask(mail_id, "/sent")

        assert post.ask(mail_id).status_code == 404
        assert post.ask(mail_id, "/sent").status_code == 204
        assert post.ask(uuid.uuid4()).status_code == 404
        assert post.ask(uuid.uuid4(), "/sent").status_code == 204

    def test_fills_nobodys_mailbox_with_attempts_to_register(self, app, send, post):
        first, second = send("known_address"), send("known_address")
        post.ask(first)
        post.ask(first, "/sent")

        assert post.ask(second).status_code == 404
        run(app, "update mail set sent_at = now() - interval '61 minutes'")
        assert post.ask(send("known_address")).status_code == 200

    def test_drops_what_is_too_old(self, app, send, post):
        mail_id = send(when=datetime.now(UTC) - timedelta(days=2))

        assert post.ask(mail_id).status_code == 404
        assert rows(app, "select 1 from mail") == []

    def test_drops_what_goes_to_a_former_address(self, app, send, post):
        mail_id = send()
        run(app, "update account set email = 'new@flagon.test'")

        assert post.ask(mail_id).status_code == 404

    def test_drops_what_goes_to_a_disabled_account(self, app, send, post):
        mail_id = send()
        run(app, "update account set disabled = true")

        assert post.ask(mail_id).status_code == 404

    def test_a_late_mail_gets_a_link_that_works(self, app, send, post):
        mail_id = send("reset_password")
        first = code_in(post.ask(mail_id).json)
        post.ask(mail_id, "/returned")
        run(app, "update email_token set expires_at = now() - interval '1 second'")

        later = code_in(post.ask(mail_id).json)

        assert later != first
        assert Browser(app).get(f"/password/reset?code={later}").status_code == 200

    def test_refused_mail_is_in_the_audit_log_without_an_address(self, app, send, post):
        mail_id = send()
        post.ask(mail_id)

        post.ask(mail_id, "/refused")

        assert post.ask(mail_id).status_code == 404
        found = rows(
            app,
            "select details from audit_event where action = 'mail_refused'"
            " and account_id = :id",
            id=send.account.id,
        )
        assert found == [({"mail": "verify_email"},)]

    def test_forgets_old_mails(self, app, send, post):
        old, new = send(), send()
        run(
            app,
            "update mail set expires_at = now() - interval '8 days' where id = :id",
            id=old,
        )
        post.ask(new)

        post.ask(new, "/sent")

        assert rows(app, "select id from mail") == [(new,)]

    @pytest.mark.parametrize("body", [{}, {"attempt": "x"}, {"attempt": 5}, []])
    def test_refuses_what_is_no_attempt(self, send, post, body):
        assert post.ask(send(), json=body).status_code == 422

    def test_outcomes_are_only_those_there_are(self, send, post):
        assert post.ask(send(), "/burnt").status_code == 404


class TestNeedless:
    """Late mails: what they ask for was done meanwhile."""

    @pytest.mark.parametrize(
        ("template", "done"),
        [
            ("verify_email", "email_verified_at = now()"),
            ("reset_password", "password_changed_at = now()"),
            ("confirm_address", "email = 'new@flagon.test'"),
        ],
    )
    def test_are_not_sent(self, app, send, post, template, done):
        values = {"email": "new@flagon.test"} if template == "confirm_address" else {}
        mail_id = send(template, **values)
        post.ask(mail_id)
        post.ask(mail_id, "/returned")
        run(app, f"update account set {done}")

        assert post.ask(mail_id).status_code == 404
        assert rows(app, "select 1 from mail union select 2 from errand") == []

    def test_are_those_whose_first_copy_was_used(self, app, send, post):
        mail_id = send("reset_password")
        post.ask(mail_id)
        # It arrived, and who sent it died before auth knew.
        run(app, "update email_token set used_at = now()")
        run(app, "update mail set leased_until = now() - interval '1 second'")

        assert post.ask(mail_id).status_code == 404

    def test_are_not_those_about_something_later(self, app, send, post):
        run(app, "update account set password_changed_at = now() - interval '1 hour'")

        assert post.ask(send("reset_password")).status_code == 200


class TestErrand:
    @pytest.fixture
    def left(self, app):
        """Returns in how many seconds each mail is asked for again."""

        def left():
            with app.app_context(), db.reading() as session:
                return errands_of(session)

        return left

    def test_lasts_until_a_mail_is_sent(self, send, post, left):
        mail_id = send()
        assert left() == {str(mail_id): pytest.approx(30, abs=2)}

        post.ask(mail_id)
        assert left() == {str(mail_id): pytest.approx(180, abs=2)}
        post.ask(mail_id, "/returned")
        # Longer than the worker waits.
        assert left() == {str(mail_id): pytest.approx(300, abs=2)}
        post.ask(mail_id)
        post.ask(mail_id, "/sent")
        assert left() == {}

    def test_is_over_when_a_mail_is_refused(self, send, post, left):
        mail_id = send()
        post.ask(mail_id)

        post.ask(mail_id, "/refused")

        assert left() == {}

    def test_is_over_when_there_is_no_such_mail(self, app, send, post, left):
        mail_id = send()
        run(app, "delete from mail")

        assert post.ask(mail_id).status_code == 404
        assert left() == {}

    def test_ends_when_a_mail_has_no_sense_any_more(self, app, send):
        send("reset_password")

        (found,) = rows(app, "select until - created_at from errand")
        assert found == (LETTERS["reset_password"].lives,)
