"""E-mail addresses: proved by a link, changed by a link to the new one."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from flagon_chassis import db

from .conftest import PASSWORD, Browser
from .factors import age_session
from .letters import code_in, link_in


def run(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        session.execute(text(statement), values)


def rows(app, statement):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(statement)).all()


def verified(app):
    return [
        found is not None
        for (found,) in rows(
            app, "select email_verified_at from account order by created_at"
        )
    ]


def register(browser, email="grace@flagon.test"):
    hidden = browser.form("/register")
    given = {"name": "Grace Example", "email": email, "password": PASSWORD}
    return browser.post("/register", {**hidden, **given})


def confirm(browser, code):
    hidden = browser.form(f"/verify-email?code={code}")
    return browser.post("/verify-email", {**hidden, "code": code})


def ask(browser, email="new@flagon.test"):
    hidden = browser.form("/account/email/change")
    return browser.post("/account/email/change", {**hidden, "email": email})


@pytest.fixture
def code(browser, post):
    """The secret part of the link that Grace gets when she registers."""
    register(browser)
    return code_in(post.last("grace@flagon.test"))


class TestVerify:
    def test_unverified_account_can_sign_in_and_says_so(self, browser, code):
        browser.sign_in("grace@flagon.test")

        assert "not confirmed yet" in browser.get("/account").text
        assert confirm(browser, code).status_code == 303
        assert "not confirmed yet" not in browser.get("/account").text

    def test_looking_as_mail_scanners_do_uses_nothing_up(self, app, browser, code):
        for _ in range(3):
            assert Browser(app).get(f"/verify-email?code={code}").status_code == 200

        assert verified(app) == [False]
        assert confirm(browser, code).status_code == 303
        assert verified(app) == [True]

    def test_email_token_reuse_is_refused(self, browser, code):
        confirm(browser, code)

        assert browser.get(f"/verify-email?code={code}").status_code == 400
        assert confirm(browser, code).status_code == 400

    def test_is_void_after_24_hours(self, app, browser, code):
        ((created, expires),) = rows(
            app, "select created_at, expires_at from email_token"
        )
        assert expires - created == timedelta(hours=24)
        run(app, "update email_token set expires_at = now()")

        assert confirm(browser, code).status_code == 400
        assert verified(app) == [False]

    def test_old_link_is_void_after_the_address_changed(self, app, browser, code):
        run(
            app,
            "update account set email = 'x@flagon.test', email_key = 'x@flagon.test'",
        )

        assert confirm(browser, code).status_code == 400
        assert verified(app) == [False]

    def test_asks_what_address_it_is_about(self, browser, code):
        shown = browser.get(f"/verify-email?code={code}")

        assert "grace@flagon.test" in shown.text
        assert shown.headers["Referrer-Policy"] == "no-referrer"

    def test_speaks_the_language_of_the_mail(self, app, post):
        browser = Browser(app)
        browser.get("/account/language/de")
        register(browser)
        mail = post.last("grace@flagon.test")

        elsewhere = Browser(app).get(link_in(mail))

        assert mail["subject"] == "E-Mail-Adresse bestätigen"
        assert "Adresse bestätigen" in elsewhere.text

    def test_is_written_to_the_audit_log(self, app, browser, code):
        confirm(browser, code)

        found = [
            action
            for (action,) in rows(
                app,
                "select action from audit_event where account_id in"
                " (select id from account) order by sequence",
            )
        ]
        assert found == ["registered", "address_verified"]


class TestResend:
    def resend(self, browser):
        hidden = browser.form("/account/email")
        return browser.post("/account/email/resend", hidden)

    def test_sends_another_link_and_the_first_still_works(self, browser, code, post):
        browser.sign_in("grace@flagon.test")
        assert self.resend(browser).status_code == 303
        second = code_in(post.last("grace@flagon.test"))

        assert second != code
        assert confirm(browser, code).status_code == 303
        assert confirm(browser, second).status_code == 400

    def test_is_limited(self, browser, code):
        browser.sign_in("grace@flagon.test")

        found = [self.resend(browser).status_code for _ in range(4)]

        assert found == [303, 303, 303, 429]

    def test_does_nothing_once_the_address_is_confirmed(self, app, browser, code, post):
        browser.sign_in("grace@flagon.test")
        hidden = browser.form("/account/email")
        confirm(browser, code)
        before = len(post.waiting())

        browser.post("/account/email/resend", hidden)

        assert len(post.waiting()) == before

    def test_is_for_people_who_are_signed_in(self, browser):
        hidden = browser.form("/login")
        answer = browser.post("/account/email/resend", hidden)

        assert answer.location.startswith("/login?")


class TestChange:
    def test_counts_when_the_link_is_used_and_tells_the_old_address(
        self, app, ada, post
    ):
        assert ask(ada).status_code == 303
        (mail,) = post.deliver()
        assert mail["to"] == "new@flagon.test"
        assert "new@flagon.test" in ada.get("/account/email").text
        assert rows(app, "select email from account") == [("ada@flagon.test",)]

        assert confirm(Browser(app), code_in(mail)).status_code == 303

        assert rows(app, "select email, email_key from account") == [
            ("new@flagon.test", "new@flagon.test")
        ]
        assert verified(app) == [True]
        told = post.deliver()[-1]
        assert (told["to"], told["subject"]) == (
            "ada@flagon.test",
            "Your e-mail address was changed",
        )
        assert "new@" not in told["text"]
        assert Browser(app).sign_in("new@flagon.test").status_code == 303
        assert Browser(app).sign_in("ada@flagon.test").status_code == 422

    def test_asks_for_a_fresh_sign_in(self, ada, store):
        age_session(store, 601)

        assert ada.get("/account/email/change").location.startswith("/login/again?")

    def test_link_is_void_after_a_password_change(self, app, ada, post):
        ask(ada)
        (mail,) = post.deliver()
        run(app, "update account set password_hash = 'other'")

        assert confirm(ada, code_in(mail)).status_code == 400

    def test_only_the_last_of_two_wishes_counts(self, app, ada, post):
        ask(ada, "one@flagon.test")
        ask(ada, "two@flagon.test")
        one, two = (code_in(mail) for mail in post.deliver())

        assert confirm(ada, two).status_code == 303
        assert confirm(ada, one).status_code == 400
        assert rows(app, "select email from account") == [("two@flagon.test",)]

    def test_tells_nobody_that_an_address_is_taken(self, app, ada, person, post):
        person("taken@flagon.test")
        free, taken = ask(ada, "free@flagon.test"), ask(ada, "TAKEN@flagon.test")

        assert (free.status_code, free.location) == (taken.status_code, taken.location)
        code = code_in(post.deliver()[-1])
        # Only who reads that mailbox gets to know.
        answer = confirm(ada, code)
        assert answer.status_code == 409
        assert "Another account has this address" in answer.text
        assert ("ada@flagon.test",) in rows(app, "select email from account")

    @pytest.mark.parametrize("email", ["", "none", "ADA@flagon.test", "a\0b@c.test"])
    def test_refuses_what_is_none_or_no_change(self, ada, post, email):
        assert ask(ada, email).status_code == 422
        assert post.waiting() == []

    def test_is_limited(self, ada):
        assert [ask(ada).status_code for _ in range(4)] == [303, 303, 303, 429]

    def test_audit_log_names_no_address(self, app, ada, post):
        ask(ada)
        confirm(ada, code_in(post.deliver()[-1]))

        found = rows(app, "select details::text from audit_event")
        assert not [details for (details,) in found if "@" in details]
