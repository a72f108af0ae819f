"""Passwords: chosen well, reset by mail, changed by who knows the present one."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest.mock import patch

import pytest
from argon2 import PasswordHasher
from sqlalchemy import text
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from flagon_auth.domain import passwords
from flagon_auth.domain.passwords import Breached, Hasher, PasswordWeak
from flagon_chassis import db
from flagon_chassis.testing import hearing

from .conftest import PASSWORD, Browser, claims_of, me, refresh
from .letters import code_in

NEW = "marble-otter-17-window"


def run(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(statement), values)


def rows(app, statement):
    with app.app_context(), db.transaction() as session:
        return session.execute(text(statement)).all()


def forgot(browser, email="ada@flagon.test"):
    hidden = browser.form("/password/forgot")
    return browser.post("/password/forgot", {**hidden, "email": email})


def reset(browser, code, password=NEW):
    hidden = browser.form(f"/password/reset?code={code}")
    return browser.post(
        "/password/reset", {**hidden, "code": code, "password": password}
    )


def change(browser, present=PASSWORD, new=NEW):
    hidden = browser.form("/account/password")
    given = {**hidden, "present": present, "password": new}
    return browser.post("/account/password", given)


@pytest.fixture
def code(app, person, browser, post):
    """The secret part of a link to reset Ada's password."""
    browser.account = person()
    run(app, "update account set email_verified_at = now()")
    forgot(browser)
    return code_in(post.last("ada@flagon.test"))


class TestForgot:
    def test_answers_alike_for_known_and_unknown_addresses(self, browser, person, post):
        person()
        known = forgot(browser)
        unknown = forgot(browser, "nobody@flagon.test")

        assert (known.status_code, known.location) == (303, "/password/sent")
        assert (unknown.status_code, unknown.location) == (303, "/password/sent")
        assert [mail["to"] for mail in post.deliver()] == ["ada@flagon.test"]

    def test_does_the_same_work_for_known_and_unknown_addresses(
        self, app, browser, person
    ):
        # Whose address it is, nobody looks up before the mail is composed.
        person()
        with patch("flagon_auth.domain.accounts.find_account_by_email") as looked_up:
            forgot(browser)

        assert not looked_up.called
        assert rows(app, "select account_id from mail") == [(None,)]

    def test_keeps_no_address_that_nobody_has(self, app, browser, post):
        forgot(browser, "nobody@flagon.test")
        post.deliver()

        assert rows(app, "select 1 from mail") == []

    def test_goes_to_the_address_of_the_account_not_to_one_that_looks_like_it(
        self, browser, person, post
    ):
        # A homograph that folds to the same key belongs to another mailbox.
        person("mike@example.org")
        forgot(browser, "ｍike@example.org")

        assert [mail["to"] for mail in post.deliver()] == ["mike@example.org"]

    def test_is_limited_for_each_recipient_known_or_not(self, browser, person):
        person()
        for email in ("ada@flagon.test", "nobody@flagon.test"):
            found = [forgot(browser, email).status_code for _ in range(4)]
            assert found == [303, 303, 303, 429]

    @pytest.mark.parametrize("email", ["", "no address", "a\0@b.test", "x" * 300])
    def test_refuses_what_is_no_address(self, browser, post, email):
        answer = forgot(browser, email)

        assert answer.status_code == 422
        assert post.waiting() == []

    def test_a_disabled_account_gets_no_link(self, app, browser, person, post):
        person(disabled=True)
        forgot(browser)

        assert post.deliver() == []


class TestReset:
    def test_gives_a_new_password_and_signs_nobody_in(self, app, browser, code):
        answer = reset(browser, code)

        assert (answer.status_code, answer.location) == (303, "/password/done")
        assert browser.get("/account").status_code == 303
        assert Browser(app).sign_in(password=PASSWORD).status_code == 422
        assert Browser(app).sign_in(password=NEW).location == "/account"

    def test_looking_as_mail_scanners_do_uses_nothing_up(self, app, browser, code):
        for _ in range(3):
            Browser(app).get(f"/password/reset?code={code}")
            Browser(app).http.head(f"/password/reset?code={code}")

        assert reset(browser, code).status_code == 303

    def test_makes_the_browser_one_that_guessing_strangers_do_not_slow_down(
        self, browser, code
    ):
        assert "flagon_login_device" not in browser.cookies()

        reset(browser, code)

        assert "flagon_login_device" in browser.cookies()

    def test_email_token_reuse_is_refused(self, app, browser, code):
        reset(browser, code)
        again = reset(Browser(app), code, "another-9-harbour-plum")

        assert again.status_code == 400
        assert Browser(app).sign_in(password=NEW).status_code == 303

    def test_old_link_is_void_after_the_password_changed(self, app, browser, code):
        other = Browser(app)
        other.sign_in()
        assert change(other).status_code == 303

        assert reset(browser, code, "another-9-harbour-plum").status_code == 400

    def test_old_link_is_void_after_the_address_changed(self, app, browser, code):
        run(app, "update account set email_key = 'new@flagon.test'")

        assert reset(browser, code).status_code == 400

    def test_link_is_void_after_15_minutes(self, app, browser, code):
        run(app, "update email_token set expires_at = now()")

        assert reset(browser, code).status_code == 400

    def test_lives_for_15_minutes(self, app, code):
        ((created, expires),) = rows(
            app, "select created_at, expires_at from email_token"
        )
        assert expires - created == timedelta(minutes=15)

    def test_two_links_used_at_once_count_once(self, app, browser, post, code):
        forgot(browser)
        second = code_in(post.last("ada@flagon.test"))

        assert reset(browser, second).status_code == 303
        assert reset(Browser(app), code, "another-9-harbour-plum").status_code == 400

    def test_eight_at_once_use_a_link_once(self, app, code):
        browsers = [Browser(app) for _ in range(8)]
        hidden = [one.form(f"/password/reset?code={code}") for one in browsers]

        def use(number):
            given = {"code": code, "password": f"marble-otter-{number}-window"}
            return browsers[number].post("/password/reset", {**hidden[number], **given})

        with ThreadPoolExecutor(8) as threads:
            found = [answer.status_code for answer in threads.map(use, range(8))]

        assert sorted(found) == [303, *[400] * 7]

    @pytest.mark.parametrize(
        "bad", ["", "x", "A" * 64, "A" * 63 + "=", "%00", "ä" * 64, "A" * 5000]
    )
    def test_forged_link_is_refused(self, browser, code, bad):
        answer = browser.get("/password/reset", query_string={"code": bad})

        assert answer.status_code == 400
        assert reset(browser, code).status_code == 303

    def test_a_changed_bit_makes_a_link_void(self, browser, code):
        for position in (0, 30, 40, 60):
            other = "B" if code[position] == "A" else "A"
            forged = code[:position] + other + code[position + 1 :]
            assert browser.get(f"/password/reset?code={forged}").status_code == 400

    def test_link_of_another_purpose_is_refused(self, app, browser, post):
        hidden = browser.form("/register")
        grace = {"name": "Grace", "email": "grace@flagon.test", "password": PASSWORD}
        browser.post("/register", {**hidden, **grace})
        code = code_in(post.last("grace@flagon.test"))

        assert browser.get(f"/password/reset?code={code}").status_code == 400
        assert browser.get(f"/verify-email?code={code}").status_code == 200

    def test_ends_all_sessions_and_grants(self, app, person, browser, post):
        account = person()
        run(app, "update account set email_verified_at = now()")
        thief = Browser(app)
        thief.sign_in()
        stolen = thief.tokens()
        forgot(browser)
        reset(browser, code_in(post.last("ada@flagon.test")))

        assert thief.get("/account").status_code == 303
        assert me(app, stolen).status_code == 401
        assert refresh(app, stolen["refresh_token"]).status_code == 400
        assert rows(
            app, "select count(*) from token_grant where revoked_at is null"
        ) == [(0,)]
        assert account.id

    def test_does_not_bypass_the_second_factor(self, app, browser, code):
        run(
            app,
            "insert into totp_credential (account_id, secret_sealed, created_at,"
            " confirmed_at) values (:id, '\\x00', now(), now())",
            id=browser.account.id,
        )
        assert reset(browser, code).status_code == 303

        signed_in = Browser(app).sign_in(password=NEW)

        assert signed_in.location.startswith("/login/mfa")
        assert rows(app, "select 1 from totp_credential") == [(1,)]

    def test_takes_the_keys_away_from_who_registered_somebody_elses_address(
        self, app, browser, person, post
    ):
        # Pre-hijacking: an account with a foreign address waits for its owner, with a
        # passkey, an app and a linked identity of the attacker in it.
        account = person()
        for statement in (
            (
                "insert into totp_credential (account_id, secret_sealed, created_at,"
                " confirmed_at) values (:id, '\\x00', now(), now())"
            ),
            (
                "insert into identity (issuer, subject, provider, account_id, created_at)"
                " values ('https://evil.test', '1', 'evil', :id, now())"
            ),
            (
                "insert into passkey (id, account_id, credential_id, public_key, sign_count,"
                " name, transports, backed_up, created_at)"
                " values (:id, :id, '\\x01', '\\x02', 0, 'x', '{}', false, now())"
            ),
        ):
            run(app, statement, id=account.id)
        forgot(browser)
        reset(browser, code_in(post.last("ada@flagon.test")))

        for table in ("totp_credential", "identity", "passkey"):
            assert rows(app, f"select 1 from {table}") == []
        ((verified,),) = rows(app, "select email_verified_at from account")
        assert verified is not None
        assert Browser(app).sign_in(password=NEW).location == "/account"

    def test_tells_the_owner(self, browser, code, post):
        reset(browser, code)

        assert post.deliver()[-1]["subject"] == "Your password was changed"

    @pytest.mark.parametrize("password", ["short", "ada-ada-ada-ada", "x" * 129])
    def test_weak_password_is_refused_and_the_link_still_works(
        self, browser, code, password
    ):
        assert reset(browser, code, password).status_code == 422
        assert reset(browser, code).status_code == 303

    def test_page_gives_the_link_to_nobody(self, browser, code):
        answer = browser.get(f"/password/reset?code={code}")

        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        # Nothing is fetched from elsewhere that would learn the address.
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)

    def test_needs_a_form_of_ours(self, browser, code):
        answer = browser.post("/password/reset", {"code": code, "password": NEW})

        assert answer.status_code == 400
        assert reset(browser, code).status_code == 303

    def test_links_appear_in_no_log(self, browser, code):
        with hearing() as heard:
            reset(browser, code)
            browser.get(f"/password/reset?code={code}")

        logged = heard()
        assert "/password/reset" in logged
        assert code not in logged

    def test_tells_programs_what_is_wrong_as_a_problem(self, browser, code):
        wants = {"Accept": "application/json"}
        void = browser.get("/password/reset?code=x", headers=wants)
        hidden = browser.form(f"/password/reset?code={code}")
        weak = browser.post(
            "/password/reset", {**hidden, "code": code, "password": "x"}, headers=wants
        )

        assert void.status_code == 400
        assert void.mimetype == weak.mimetype == "application/problem+json"
        assert void.json["type"].endswith("#link-void")
        assert weak.json["errors"][0]["pointer"] == "#/password"


class TestChange:
    def test_asks_for_the_present_password(self, app, ada):
        wrong = change(ada, present="wrong-" + PASSWORD)

        assert wrong.status_code == 422
        assert Browser(app).sign_in(password=PASSWORD).status_code == 303

    def test_ends_other_sessions_and_keeps_this_one(self, app, ada, post):
        other = Browser(app)
        other.sign_in()
        stolen = other.tokens()
        old_cookie = ada.cookies()["flagon_login"].value

        assert change(ada).status_code == 303

        assert ada.get("/account").status_code == 200
        assert ada.cookies()["flagon_login"].value != old_cookie
        assert other.get("/account").status_code == 303
        assert me(app, stolen).status_code == 401
        assert refresh(app, stolen["refresh_token"]).status_code == 400
        assert [mail["subject"] for mail in post.deliver()] == [
            "Your password was changed"
        ]

    def test_ends_grants_of_sessions_that_are_over(self, app, ada, parts):
        other = Browser(app)
        other.sign_in()
        kept = other.tokens()
        # Redis has forgotten the session; the refresh token does not depend on it.
        parts.sessions.end(claims_of(kept["access_token"])["sid"])

        change(ada)

        assert refresh(app, kept["refresh_token"]).status_code == 400

    @pytest.mark.parametrize(
        "new", [PASSWORD, "short", "ada@flagon.test", "flagonflagonflagon"]
    )
    def test_refuses_weak_ones_and_the_present_one(self, ada, new):
        assert change(ada, new=new).status_code == 422

    def test_guessing_the_present_password_is_slowed_down(self, ada):
        found = [change(ada, present=f"wrong-{n}").status_code for n in range(30)]

        assert 429 in found

    def test_an_account_without_a_password_gets_one(self, app, ada):
        run(app, "update account set password_hash = null")

        assert "Present password" not in ada.get("/account/password").text
        assert change(ada, present="").status_code == 303
        assert Browser(app).sign_in(password=NEW).status_code == 303

    def test_is_for_people_who_are_signed_in(self, browser):
        assert browser.get("/account/password").location.startswith("/login?")
        hidden = browser.form("/login")
        answer = browser.post("/account/password", hidden)
        assert answer.location.startswith("/login?")


class TestStrength:
    def test_parameters_are_those_of_owasp(self):
        phc = Hasher().hash(PASSWORD)

        assert phc.startswith("$argon2id$v=19$m=19456,t=2,p=1$")

    def test_rehashes_at_sign_in_when_parameters_grew(self, app, person):
        weaker = PasswordHasher(time_cost=1, memory_cost=16, parallelism=1)
        person()
        run(app, "update account set password_hash = :phc", phc=weaker.hash(PASSWORD))

        Browser(app).sign_in()

        ((phc,),) = rows(app, "select password_hash from account")
        assert "m=16," not in phc
        assert Browser(app).sign_in().status_code == 303

    @pytest.mark.parametrize("suffix", ["", ".txt"])
    def test_breached_password_is_refused_offline(self, tmp_path, suffix):
        digest = hashlib.sha1(PASSWORD.encode()).hexdigest().upper()
        (tmp_path / f"{digest[:5]}{suffix}").write_text(
            f"{'0' * 35}:3\r\n{digest[5:]}:17\r\n"
        )
        hasher = Hasher(breached=Breached(tmp_path))

        with pytest.raises(PasswordWeak, match="theft"):
            hasher.hash_new(PASSWORD, context=[])
        assert hasher.hash_new(NEW, context=[])

    def test_padding_of_the_range_protocol_is_no_breach(self, tmp_path):
        digest = hashlib.sha1(PASSWORD.encode()).hexdigest().upper()
        (tmp_path / digest[:5]).write_text(f"{digest[5:]}:0\n")

        assert PASSWORD not in Breached(tmp_path)
        assert PASSWORD not in Breached()

    def test_folder_of_breached_passwords_is_a_setting(self, make_app, tmp_path):
        digest = hashlib.sha1(PASSWORD.encode()).hexdigest().upper()
        (tmp_path / digest[:5]).write_text(f"{digest[5:]}:17\n")
        browser = Browser(make_app(breached_passwords_dir=tmp_path))
        hidden = browser.form("/register")

        answer = browser.post(
            "/register",
            {**hidden, "name": "G", "email": "g@flagon.test", "password": PASSWORD},
        )

        assert answer.status_code == 422
        assert "theft" in answer.text

    def test_every_common_password_that_is_long_enough_is_refused(self):
        long = [one for one in FREQUENCY_LISTS["passwords"] if len(one) >= 12]

        for common in long:
            with pytest.raises(PasswordWeak):
                passwords.check_strength(common)

    def test_context_words_of_the_place_are_refused(self):
        for password in ("flagon-flagon-12", "passwort-passwort"):
            with pytest.raises(PasswordWeak):
                passwords.check_strength(password)
