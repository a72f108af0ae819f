"""Registration: for everybody with a good password, and silent about the others."""

from datetime import UTC, datetime
from json import loads
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import event, text
from zxcvbn.frequency_lists import FREQUENCY_LISTS

import flagon_auth
from flagon_auth.domain import accounts, passwords
from flagon_auth.domain.passwords import Hasher
from flagon_chassis import db

from .conftest import PASSWORD, Browser
from .letters import link_in

GOOD = {"name": "Grace Example", "email": "grace@flagon.test", "password": PASSWORD}


def register(browser, **changes):
    return browser.post("/register", {**browser.form("/register"), **GOOD, **changes})


def rows(app, statement):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(statement)).all()


class TestRegister:
    def test_makes_a_customer_who_can_sign_in(self, browser, app):
        answer = register(browser)
        page = browser.get(answer.location).get_data(as_text=True)
        signed_in = browser.sign_in("grace@flagon.test", path=answer.location)

        assert answer.status_code == 303
        assert "Almost there" in page
        assert 'value="grace@flagon.test"' in page
        assert signed_in.status_code == 303
        assert rows(app, "select role from account_role") == [("customer",)]

    def test_goes_on_where_the_person_came_from(self, browser):
        hidden = browser.form("/register?next=/products/x")

        answer = browser.post("/register", {**hidden, **GOOD})

        assert answer.location.startswith("/login?next=%2Fproducts%2Fx")

    def test_tells_the_platform_without_naming_anybody(self, browser, app):
        register(browser)

        ((name, subject, body),) = rows(
            app, "select name, subject, body from outbox where channel = 'event'"
        )
        assert name == "market.flagon.user.registered.v1"
        assert body["data"] == {"id": subject, "roles": ["customer"]}
        assert body["topics"] == ["users", f"users/{subject}"]
        assert "grace" not in str(body).lower()

    def test_answers_alike_when_the_address_is_taken(self, browser, app, person):
        person()
        real = Hasher.hash
        with patch.object(Hasher, "hash", autospec=True, side_effect=real) as spy:
            free = register(browser, email="new@flagon.test")
            taken = register(browser, email="ADA@flagon.test")

        assert (free.status_code, taken.status_code) == (303, 303)
        assert free.location.replace("new", "-") == taken.location.replace("ADA", "-")
        assert spy.call_count == 2
        assert len(rows(app, "select 1 from account")) == 2

    def test_of_a_taken_address_tells_the_platform_nothing(self, browser, app, person):
        person()
        register(browser, email="ada@flagon.test")

        assert rows(app, "select 1 from outbox where channel = 'event'") == []
        assert rows(app, "select 1 from account_role") == [(1,)]

    def test_writes_to_the_owner_either_way(self, browser, post, person):
        person()
        register(browser, email="ADA@flagon.test")
        register(browser)

        known, new = post.deliver()
        assert known["to"] == "ada@flagon.test"
        assert known["subject"] == "You already have an account"
        assert link_in(known).startswith("/login?")
        assert new["to"] == "grace@flagon.test"
        assert new["subject"] == "Confirm your e-mail address"
        assert link_in(new).startswith("/verify-email?")

    def test_lets_nobody_write_to_strangers(self, browser, post):
        register(browser, name="Win at http://evil.test now")

        (mail,) = post.deliver()

        assert "evil" not in str(mail)

    def test_of_a_taken_address_does_the_same_work(self, browser, app, person):
        # The time follows from the work: the same statements, one hash, one mail.
        person()
        engine = app.extensions["flagon.sessions"].kw["bind"]
        done = []

        def statement(_connection, _cursor, text, *_):
            kind = text.split()[0]
            # What is right for a new account is undone for a known one.
            done.append("RELEASE" if kind == "ROLLBACK" else kind)

        event.listen(engine, "before_cursor_execute", statement)
        try:
            register(browser, email="new@flagon.test")
            free = done[:]
            done.clear()
            register(browser, email="ada@flagon.test")
        finally:
            event.remove(engine, "before_cursor_execute", statement)

        assert free == done

    def test_of_a_taken_address_changes_nothing(self, browser, app, person):
        person()
        register(browser, email="ada@flagon.test", password="marble-otter-17-window")

        assert Browser(app).sign_in().status_code == 303

    @pytest.mark.parametrize(
        "changes",
        [
            {"email": "no address"},
            {"email": "a@b"},
            {"email": "a\0@b.test"},
            {"email": "a b@c.test"},
            {"email": "x" * 65 + "@b.test"},
            {"email": ""},
            {"name": ""},
            {"name": "   "},
            {"name": "a\0b"},
            {"name": "a\u202eb"},
            {"name": "x" * 101},
        ],
    )
    def test_refuses_names_and_addresses_that_are_none(self, browser, app, changes):
        answer = register(browser, **changes)

        assert answer.status_code == 422
        assert "aria-invalid" in answer.get_data(as_text=True)
        assert rows(app, "select 1 from account") == []

    @pytest.mark.parametrize(
        "password",
        [
            "short-92-x",
            "x" * 129,
            "passwordpassword",
            "1234567890123456",
            "qwertyuiop123",
            "grace@flagon.test",
            "graceexample1",
            "aaaaaaaaaaaaaaaaaaaa",
            "unbelievable",
            "",
        ],
    )
    def test_refuses_weak_passwords(self, browser, app, password):
        answer = register(browser, password=password)

        assert answer.status_code == 422
        assert rows(app, "select 1 from account") == []

    @pytest.mark.parametrize(
        "password",
        [
            PASSWORD,
            "Ünïcödé-größe-schlüssel-7",
            "x9$kQz!mW2@pLr",
            "a b c d e f g h 7 q",
        ],
    )
    def test_takes_strong_ones_of_any_kind(self, browser, password):
        assert register(browser, password=password).status_code == 303

    def test_is_limited_by_address(self, make_app):
        browser = Browser(make_app(register_limit=2))

        found = [
            register(browser, email=f"n{number}@flagon.test", password="x")
            for number in range(3)
        ]

        assert [answer.status_code for answer in found] == [422] * 3
        browser = Browser(make_app(register_limit=1))
        register(browser)
        throttled = register(browser, email="more@flagon.test")
        assert throttled.status_code == 429
        assert int(throttled.headers["Retry-After"]) > 3000
        assert "minutes" in throttled.get_data(as_text=True)


class TestPasswords:
    def test_are_compared_in_one_normal_form(self):
        hasher = Hasher()

        assert hasher.matches(hasher.hash("ﬁne-\u212bngstrom-1"), "fine-Ångstrom-1")

    def test_common_one_that_is_long_is_refused(self):
        common = max(FREQUENCY_LISTS["passwords"], key=len)

        with pytest.raises(passwords.PasswordWeak):
            passwords.check_strength(common.ljust(12, "1"))
        with (
            patch.dict(FREQUENCY_LISTS, passwords=[PASSWORD.lower()]),
            pytest.raises(passwords.PasswordWeak, match="everybody tries"),
        ):
            passwords.check_strength(PASSWORD.upper())

    @pytest.mark.parametrize("password", ["x9$kQz!mW2@", "x9$kQz!mW2@" * 12])
    def test_that_are_too_short_or_endless_are_refused(self, password):
        with pytest.raises(passwords.PasswordWeak, match=r"at (least|most)"):
            passwords.check_strength(password)

    def test_hash_that_is_none_matches_nothing(self):
        assert not Hasher().matches("rubbish", PASSWORD)


class TestEventSchema:
    def test_describes_every_field(self):
        folder = Path(flagon_auth.__file__).parent / "events"
        schema = loads((folder / "user.registered.v1.json").read_text())

        assert set(schema["required"]) == set(schema["properties"])
        assert all(field["description"] for field in schema["properties"].values())


class TestRoles:
    def test_unknown_one_is_refused(self, app):
        with (
            app.app_context(),
            pytest.raises(accounts.RoleUnknown),
            db.transaction() as session,
        ):
            accounts.create_account(
                session, Hasher(), **GOOD, roles=["king"], now=datetime.now(UTC)
            )

        assert rows(app, "select 1 from account") == []
