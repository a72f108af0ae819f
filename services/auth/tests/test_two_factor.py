"""The authenticator app, recovery codes and the page about both."""

import base64
import json
import re
from datetime import UTC, datetime
from html import unescape
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography.exceptions import InvalidTag
from sqlalchemy import text
from uuid_utils.compat import uuid7

from flagon_auth.domain import factors, recovery, totp
from flagon_auth.domain.factors import SecondStepRefused
from flagon_auth.models import RecoveryCode, TotpCredential
from flagon_chassis import db

from .conftest import Browser, fields
from .factors import (
    Phone,
    add_passkey,
    age_session,
    audited,
    enable_totp,
    forms_of,
    passkey_second_step,
    press,
    recovery_codes_of,
    second_step,
    start_totp,
)

APP = "/account/two-factor/app"


def rows(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        return list(session.execute(text(statement), values))


class TestCodes:
    """The test vectors of RFC 6238, appendix B, in six digits."""

    @pytest.mark.parametrize(
        ("seconds", "code"),
        [
            (59, "287082"),
            (1111111109, "081804"),
            (1111111111, "050471"),
            (1234567890, "005924"),
            (2000000000, "279037"),
            (20000000000, "353130"),
        ],
    )
    def test_are_those_of_the_rfc(self, seconds, code):
        assert totp.code_at(b"12345678901234567890", seconds // 30) == code


class TestConfirmTotp:
    def test_enables_the_second_factor(self, app, ada):
        _phone, codes = enable_totp(ada)

        (found,) = rows(app, "select confirmed_at, last_step from totp_credential")
        assert found.confirmed_at is not None
        assert found.last_step > 0
        assert len(set(codes)) == 10

    def test_makes_the_present_session_a_strong_one(self, ada):
        enable_totp(ada)

        assert ada.get(f"{APP}").location == "/account/two-factor"
        page = ada.get("/account/two-factor").get_data(as_text=True)
        assert "Is set up" in page

    def test_leads_on_to_what_was_wanted(self, ada):
        device, _codes = add_passkey(ada)  # recovery codes are there from now on
        passkey_second_step(ada, device, "/login/mfa")
        wanted = "/account/two-factor?next=%2Fproducts%2Fx"
        begun = press(ada, wanted, APP)
        page = ada.get(begun.location)
        secret = re.search(r'class="secret">([^<]*)<', page.text)[1]

        answer = ada.post(
            f"{APP}/confirm",
            {
                **forms_of(page)[f"{APP}/confirm"],
                "code": Phone(secret.replace(" ", "")).code(),
            },
        )

        assert (answer.status_code, answer.location) == (303, "/products/x")

    def test_refuses_a_wrong_code(self, app, ada):
        start_totp(ada)

        answer = press(ada, APP, f"{APP}/confirm", code="000000")

        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.get_data(as_text=True)
        assert not rows(
            app, "select 1 from totp_credential where confirmed_at is not null"
        )

    def test_is_not_asked_for_before_the_code_was_right(self, app, ada):
        start_totp(ada)

        assert Browser(app).sign_in().location == "/account"

    def test_refuses_the_code_of_a_secret_that_was_replaced(self, ada):
        first = start_totp(ada)
        start_totp(ada)

        answer = press(ada, APP, f"{APP}/confirm", code=first.code())

        assert answer.status_code == 422

    def test_slows_down_guessing(self, ada):
        start_totp(ada)
        page = forms_of(ada.get(APP))[f"{APP}/confirm"]

        found = [
            ada.post(f"{APP}/confirm", {**page, "code": "000000"}).status_code
            for _ in range(13)
        ]

        # A browser that the account is known in has ten tries.
        assert found == [422] * 10 + [429] * 3

    def test_without_a_secret_starts_again(self, ada):
        hidden = fields(ada.get("/account/two-factor"))

        answer = ada.post(f"{APP}/confirm", {**hidden, "code": "000000"})

        assert answer.location == "/account/two-factor"

    def test_twice_is_no_second_app(self, app, ada):
        enable_totp(ada)
        hidden = fields(ada.get("/account/two-factor"))

        answer = ada.post(APP, hidden)

        assert answer.location == "/account/two-factor"
        assert "set up already" in ada.get(answer.location).get_data(as_text=True)
        again = ada.post(f"{APP}/confirm", {**hidden, "code": "000000"})
        assert again.location == "/account/two-factor"

    def test_tells_the_owner(self, app, ada):
        enable_totp(ada)

        (mail,) = rows(app, "select template, values from mail")
        assert (mail.template, mail.values["action"]) == (
            "security_changed",
            "totp_enabled",
        )
        assert audited(app, ada, "totp_enabled")


class TestOfferTotp:
    def test_shows_a_code_that_apps_read(self, ada):
        start_totp(ada)
        page = ada.get(APP).get_data(as_text=True)
        uri = unescape(re.search(r'href="(otpauth:[^"]*)"', page)[1])
        asked = parse_qs(urlsplit(uri).query)

        assert unquote(urlsplit(uri).path) == "/Flagon:ada@flagon.test"
        assert asked["issuer"] == ["Flagon"]
        assert asked["period"] == ["30"]
        assert len(base64.b32decode(asked["secret"][0])) == 20
        # A picture without a size of its own: it is scaled, and never cut off.
        picture = re.search(r'role="img" aria-label="[^"]+"><svg[^>]*>', page)[0]
        assert "viewBox=" in picture
        assert " width=" not in picture

    def test_needs_a_fresh_sign_in(self, ada, store):
        hidden = fields(ada.get("/account/two-factor"))
        age_session(store, 601)

        assert ada.post(APP, hidden).location.startswith("/login/again")

    def test_shows_the_secret_to_nobody_else(self, ada, store):
        start_totp(ada)
        age_session(store, 1201)

        assert ada.get(APP).location.startswith("/login/again")

    def test_without_one_leads_to_the_page(self, ada):
        assert ada.get(APP).location == "/account/two-factor"

    def test_keeps_the_secret_sealed_for_its_account(self, app, ada, parts):
        phone = start_totp(ada)
        ((sealed,),) = rows(app, "select secret_sealed from totp_credential")
        sealer = parts.issuer.sealer

        assert phone.secret not in bytes(sealed)
        assert sealer.open(f"totp:{ada.account.id}", sealed) == phone.secret
        with pytest.raises(InvalidTag):
            sealer.open(f"totp:{uuid7()}", sealed)

    def test_asks_a_stranger_to_sign_in(self, browser):
        for page in ("/account/two-factor", "/account/security", APP):
            sent = parse_qs(urlsplit(browser.get(page).location).query)
            assert sent == {"next": [page]}


class TestDrift:
    """Clocks differ: one step to either side is accepted, no more."""

    @pytest.fixture
    def credential(self, app, ada, parts):
        phone = start_totp(ada)
        sealer = parts.issuer.sealer

        def use(steps, code_steps):
            now = datetime.fromtimestamp((phone.step + steps) * 30 + 1, tz=UTC)
            code = phone.code(code_steps)
            with app.app_context(), db.transaction() as session:
                totp.use_code(session, sealer, ada.account.id, code, now=now)

        with app.app_context(), db.transaction() as session:
            session.execute(text("update totp_credential set confirmed_at = now()"))
        return use

    @pytest.mark.parametrize("drift", [-1, 0, 1])
    def test_is_accepted(self, credential, drift):
        credential(10, 10 + drift)

    @pytest.mark.parametrize("drift", [-2, 2, 100])
    def test_beyond_is_refused(self, credential, drift):
        with pytest.raises(SecondStepRefused):
            credential(10, 10 + drift)

    def test_code_before_an_accepted_one_is_refused(self, credential):
        credential(10, 11)

        for older in (9, 10, 11):
            with pytest.raises(SecondStepRefused):
                credential(10, older)


class TestRemoveTotp:
    def test_needs_only_the_password_from_then_on(self, app, ada):
        enable_totp(ada)
        press(ada, "/account/two-factor", f"{APP}/remove")

        assert Browser(app).sign_in().location == "/account"
        assert rows(app, "select 1 from recovery_code") == []
        assert audited(app, ada, "totp_disabled")
        actions = [
            mail.values["action"] for mail in rows(app, "select values from mail")
        ]
        assert sorted(actions) == ["totp_disabled", "totp_enabled"]

    def test_keeps_recovery_codes_while_there_is_a_passkey(self, app, ada):
        enable_totp(ada)
        add_passkey(ada)
        press(ada, "/account/two-factor", f"{APP}/remove")

        assert len(rows(app, "select 1 from recovery_code")) == 10
        assert Browser(app).sign_in().location == "/login/mfa"

    def test_needs_a_fresh_sign_in(self, ada, store):
        enable_totp(ada)
        hidden = fields(ada.get("/account/two-factor"))
        age_session(store, 601)

        assert ada.post(f"{APP}/remove", hidden).location.startswith("/login/again")

    def test_twice_does_no_harm(self, ada):
        hidden = fields(ada.get("/account/two-factor"))

        assert ada.post(f"{APP}/remove", hidden).location == "/account/two-factor"


class TestReplaceRecoveryCodes:
    def test_makes_older_ones_worthless(self, app, ada):
        _phone, old = enable_totp(ada)
        answer = press(ada, "/account/two-factor", "/account/two-factor/recovery-codes")
        new = recovery_codes_of(answer)
        other = Browser(app)
        other.sign_in()

        assert len(new) == 10
        assert not set(new) & set(old)
        assert second_step(other, recovery_code=old[0]).status_code == 422
        assert second_step(other, recovery_code=new[0]).status_code == 303

    def test_are_shown_once(self, ada):
        _phone, codes = enable_totp(ada)

        pages = [
            ada.get(page).get_data(as_text=True)
            for page in ("/account/two-factor", "/account/security", "/account")
        ]

        assert not any(code in page for code in codes for page in pages)

    def test_can_be_saved_as_a_file(self, ada):
        start = start_totp(ada)
        answer = press(ada, APP, f"{APP}/confirm", code=start.code())
        page = answer.get_data(as_text=True)
        href = unescape(re.search(r'href="(data:text/plain[^"]*)"', page)[1])

        assert answer.headers["Cache-Control"] == "no-store"
        assert 'download="flagon-recovery-codes.txt"' in page
        saved = unquote(href.partition(",")[2])
        assert all(code in saved.splitlines() for code in recovery_codes_of(answer))

    def test_hold_at_least_112_bits(self):
        code = recovery._make()

        assert re.fullmatch(
            r"([0-9a-hj-km-np-tv-z]{4}-){5}[0-9a-hj-km-np-tv-z]{4}", code
        )
        assert 24 * 5 >= 112

    def test_are_stored_as_hashes(self, app, ada):
        _phone, codes = enable_totp(ada)
        stored = rows(
            app, "select encode(code_hash, 'hex'), code_hash from recovery_code"
        )

        assert not any(
            code.replace("-", "") in entry or code.encode() in bytes(raw)
            for code in codes
            for entry, raw in stored
        )

    def test_need_a_second_factor(self, ada):
        hidden = fields(ada.get("/account/two-factor"))

        answer = ada.post("/account/two-factor/recovery-codes", hidden)

        assert answer.location == "/account/two-factor"

    def test_need_a_fresh_sign_in(self, ada, store):
        enable_totp(ada)
        hidden = fields(ada.get("/account/two-factor"))
        age_session(store, 601)

        answer = ada.post("/account/two-factor/recovery-codes", hidden)

        assert answer.location.startswith("/login/again")


class TestSecurityPage:
    def test_says_what_protects_the_account(self, ada):
        before = ada.get("/account/security").get_data(as_text=True)
        enable_totp(ada)
        after = ada.get("/account/security").get_data(as_text=True)

        assert "Whoever learns your password" in before
        assert "protected by a second factor" in after
        assert "10 are left" in after

    def test_warns_when_few_recovery_codes_are_left(self, app, ada):
        enable_totp(ada)
        rows(
            app,
            "update recovery_code set used_at = now() where code_hash in"
            " (select code_hash from recovery_code limit 7) returning 1",
        )

        for page in ("/account/security", "/account/two-factor"):
            shown = ada.get(page).get_data(as_text=True)
            assert "3 are left" in shown
        assert "Make new ones soon" in ada.get("/account/security").text


class TestDomain:
    def test_says_nothing_about_secrets(self, app, ada):
        enable_totp(ada)
        with app.app_context(), db.transaction() as session:
            found = session.get(TotpCredential, ada.account.id)
            assert repr(found) == f"<TotpCredential of {ada.account.id}>"
            code = session.query(RecoveryCode).first()
            assert repr(code) == f"<RecoveryCode of {ada.account.id}>"

    def test_account_without_an_app_has_no_codes(self, app, ada, parts):
        with app.app_context(), db.transaction() as session:
            with pytest.raises(SecondStepRefused):
                totp.use_code(
                    session,
                    parts.issuer.sealer,
                    ada.account.id,
                    "000000",
                    now=datetime.now(UTC),
                )
            assert not totp.remove_totp(session, ada.account.id)

    def test_level_follows_from_the_methods(self):
        assert factors.acr_of(["pwd"]) == "aal1"
        assert factors.acr_of(["pwd", "otp", "mfa"]) == "aal2"
        assert factors.acr_of(["swk", "user", "mfa"]) == "aal2"
        assert factors.acr_of(["fed"]) == "aal1"


class TestRemoveFactors:
    """What an operator does for somebody who has lost everything."""

    def test_leaves_the_password_alone(self, app, ada):
        enable_totp(ada)
        add_passkey(ada)

        done = app.test_cli_runner().invoke(
            args=["users", "remove-factors", "ada@flagon.test"]
        )

        assert done.exit_code == 0, done.output
        assert json.loads(done.output) == {
            "email": "ada@flagon.test",
            "totp": True,
            "passkeys": 1,
        }
        assert Browser(app).sign_in().location == "/account"
        assert rows(app, "select 1 from recovery_code") == []
        assert audited(app, ada, "factors_removed")
        told = [mail.values["action"] for mail in rows(app, "select values from mail")]
        assert "factors_removed" in told

    def test_says_when_there_is_no_such_account(self, app):
        done = app.test_cli_runner().invoke(
            args=["users", "remove-factors", "nobody@flagon.test"]
        )

        assert done.exit_code == 1
        assert "There is no such account" in done.output
