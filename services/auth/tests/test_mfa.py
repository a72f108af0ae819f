"""The second step of signing in, and proving once more who one is."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch
from urllib.parse import quote

import pytest
from sqlalchemy import text

from flagon_auth.clients.guesses import Allowance, Rule
from flagon_auth.domain import factors
from flagon_auth.routes import sessions
from flagon_chassis import db

from .conftest import PASSWORD, Browser, claims_of, fields, login_path
from .factors import (
    add_passkey,
    age_pending,
    age_session,
    audited,
    enable_totp,
    forms_of,
    options_of,
    passkey_second_step,
    passkey_sign_in,
    press,
    second_step,
)
from .letters import code_in


@pytest.fixture
def guarded(ada):
    """A browser whose person has an authenticator app."""
    ada.phone, ada.codes = enable_totp(ada)
    return ada


@pytest.fixture
def halfway(app, guarded):
    """Another browser of the same person that has passed the password alone."""
    other = Browser(app)
    other.phone, other.codes, other.account = (
        guarded.phone,
        guarded.codes,
        guarded.account,
    )
    answer = other.sign_in()
    assert (answer.status_code, answer.location) == (303, "/login/mfa")
    return other


def cookie(browser):
    return browser.cookies()["flagon_login"].value


class TestSecondStep:
    def test_lets_in_who_has_both_factors(self, halfway):
        answer = second_step(halfway, code=halfway.phone.code(1))

        assert (answer.status_code, answer.location) == (303, "/account")
        assert "ada@flagon.test" in halfway.get("/account").get_data(as_text=True)

    def test_leads_to_the_page_that_was_wanted(self, app, guarded):
        other = Browser(app)
        other.sign_in(path="/login?next=/products/x")

        answer = second_step(other, code=guarded.phone.code(1))

        assert answer.location == "/products/x"

    def test_ignores_another_next_than_that_of_the_sign_in(self, halfway):
        answer = second_step(
            halfway, code=halfway.phone.code(1), next="https://evil.test/"
        )

        assert answer.location == "/account"

    def test_goes_on_to_the_client_with_how_it_was_proved(self, app, guarded):
        other = Browser(app)
        first = other.sign_in(path=login_path())
        page = other.get(first.location)
        answer = second_step(other, code=guarded.phone.code(1))
        claims = claims_of(other.tokens()["id_token"])

        policy = page.headers["Content-Security-Policy"]
        assert "form-action 'self' http://localhost;" in policy
        assert answer.location.startswith("/oauth/authorize?")
        assert claims["amr"] == ["pwd", "otp", "mfa"]

    def test_refuses_a_wrong_code(self, app, halfway):
        answer = second_step(halfway, code="000000")

        assert answer.status_code == 422
        assert 'role="alert"' in answer.get_data(as_text=True)
        assert halfway.get("/account").status_code == 303
        assert audited(app, halfway, "second_step_refused")[0]["step"] == "second_step"

    @pytest.mark.parametrize("code", ["", "x" * 33, "12345", "１２３４５６", "\x00"])
    def test_refuses_what_is_no_code(self, halfway, code):
        assert second_step(halfway, code=code).status_code == 422

    def test_asks_nobody_without_a_second_factor(self, browser, person):
        person()

        assert browser.sign_in().location == "/account"

    def test_sends_a_stranger_to_sign_in(self, browser):
        assert browser.get("/login/mfa").location == "/login?next=%2Faccount"
        hidden = browser.form("/login")
        assert browser.post("/login/mfa", hidden).location.startswith("/login?")

    def test_sends_on_who_has_passed_it(self, guarded):
        assert guarded.get("/login/mfa?next=/x").location == "/x"
        answer = guarded.post("/login/mfa", guarded.form("/account"))
        assert answer.location == "/account"

    def test_slows_down_guessing(self, halfway):
        found = [second_step(halfway, code="000000") for _ in range(12)]
        right = second_step(halfway, code=halfway.phone.code(1))

        statuses = [answer.status_code for answer in found]
        assert statuses.count(422) <= 10
        assert statuses[-1] == right.status_code == 429
        assert int(right.headers["Retry-After"]) > 0
        assert "Too many attempts" in right.get_data(as_text=True)

    def test_forgets_wrong_guesses_once_it_is_passed(self, app, halfway):
        for _ in range(4):
            second_step(halfway, code="000000")
        second_step(halfway, code=halfway.phone.code(1))
        reset_steps(app)
        other = Browser(app)
        other.sign_in()

        assert second_step(other, code=halfway.phone.code(1)).status_code == 303

    def test_guards_its_forms(self, halfway):
        answer = halfway.post("/login/mfa", {"code": halfway.phone.code(1)})

        assert answer.status_code == 400
        assert halfway.get("/account").status_code == 303

    def test_works_in_german(self, halfway):
        page = halfway.get("/login/mfa", headers={"Accept-Language": "de"})

        assert "Zweiter Schritt" in page.get_data(as_text=True)


def reset_steps(app):
    with app.app_context(), db.transaction() as session:
        session.execute(text("update totp_credential set last_step = 0"))


class TestThreatMfaBypass:
    """Nothing but the second factor replaces the second factor."""

    PAGES = (
        "/account",
        "/account/two-factor",
        "/account/two-factor/app",
        "/account/passkeys",
        "/account/passkeys/add",
        "/account/security",
        "/login/again",
    )

    def test_pending_sign_in_reaches_no_page(self, halfway):
        for page in self.PAGES:
            assert halfway.get(page).location.startswith("/login?next="), page

    def test_pending_sign_in_gets_no_code_for_a_client(self, halfway):
        assert halfway.authorize().location.startswith("/login?")
        assert "error=login_required" in halfway.authorize(prompt="none").location

    @pytest.mark.parametrize(
        "action",
        [
            "/account/two-factor/app",
            "/account/two-factor/app/confirm",
            "/account/two-factor/app/remove",
            "/account/two-factor/recovery-codes",
            "/account/passkeys/add",
            "/login/again",
        ],
    )
    def test_pending_sign_in_changes_nothing(self, app, halfway, action):
        token = forms_of(halfway.get("/login/mfa"))["/login/mfa"]["csrf_token"]

        answer = halfway.post(action, {"csrf_token": token, "password": PASSWORD})

        assert answer.location.startswith("/login?next=")
        with app.app_context(), db.transaction() as session:
            found = factors.find_factors(session, halfway.account.id)
        assert found.totp
        assert found.recovery_codes == 10

    def test_pending_sign_in_is_in_no_list_of_sessions(self, halfway, parts, store):
        sids = store.zrange(f"auth:account:{halfway.account.id}:sids", 0, -1)

        assert len(sids) == 1  # the browser that set the app up

    def test_pending_sign_in_ends_after_ten_minutes(self, halfway, store):
        hidden = forms_of(halfway.get("/login/mfa"))["/login/mfa"]
        age_pending(store, 601)

        answer = halfway.post("/login/mfa", {**hidden, "code": halfway.phone.code(1)})

        assert answer.location.startswith("/login?")
        assert halfway.get("/account").status_code == 303
        told = halfway.get("/login").get_data(as_text=True)
        assert "That took too long" in told

    def test_by_an_account_that_is_disabled_in_between(self, app, halfway):
        hidden = forms_of(halfway.get("/login/mfa"))["/login/mfa"]
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set disabled = true"))

        answer = halfway.post("/login/mfa", {**hidden, "code": halfway.phone.code(1)})

        assert answer.location.startswith("/login?")
        assert halfway.get("/account").status_code == 303

    def test_by_a_password_that_was_changed_in_between(self, app, halfway):
        hidden = forms_of(halfway.get("/login/mfa"))["/login/mfa"]
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set password_changed_at = now()"))

        answer = halfway.post("/login/mfa", {**hidden, "code": halfway.phone.code(1)})

        assert answer.location.startswith("/login?")
        assert halfway.get("/account").status_code == 303

    def test_by_a_reset_password(self, app, guarded, post):
        """A reset gives a new first factor and takes no second one away."""
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set email_verified_at = now()"))
        other = Browser(app)
        asked = other.form("/password/forgot")
        other.post("/password/forgot", {**asked, "email": "ada@flagon.test"})
        code = code_in(post.last("ada@flagon.test"))
        hidden = other.form(f"/password/reset?code={code}")
        new = "marble-otter-17-window"
        done = other.post("/password/reset", {**hidden, "code": code, "password": new})

        assert done.location == "/password/done"
        assert other.get("/account").status_code == 303
        assert other.sign_in(password=new).location == "/login/mfa"
        # Whoever was signed in before is not any more.
        assert guarded.get("/account").status_code == 303

    def test_by_another_provider(self, app, guarded):
        with app.test_request_context("/"):
            answer = sessions.first_factor_passed(
                guarded.account, amr=["fed"], onward="/account"
            )
            here = sessions.login_session()
            signed_in = here.sid

        assert answer.location == "/login/mfa"
        assert signed_in is None

    def test_by_a_remembered_browser(self, app, guarded):
        """No cookie spares the second step: signing in again asks again."""
        press(guarded, "/account", "/account/sign-out")

        assert guarded.sign_in().location == "/login/mfa"

    def test_by_a_device_that_waits(self, app, halfway):
        """Approving a device takes a whole sign-in: half of one is sent to the rest."""
        token = forms_of(halfway.get("/login/mfa"))["/login/mfa"]["csrf_token"]
        form = {"csrf_token": token, "user_code": "BCDF-GHJK", "choice": "allow"}

        for answer in (
            halfway.get("/device?user_code=BCDF-GHJK"),
            halfway.post("/device", form),
            halfway.post("/device/decision", form),
        ):
            assert answer.location.startswith("/login?next=%2Fdevice") or (
                answer.location == "/login?next=/device"
            )

    def test_by_going_back_after_signing_out(self, halfway):
        page = halfway.get("/login/mfa")
        hidden = forms_of(page)["/login/mfa"]
        second_step(halfway, code=halfway.phone.code(1))
        press(halfway, "/account", "/account/sign-out")

        again = halfway.post("/login/mfa", {**hidden, "code": "000000"})

        assert page.headers["Cache-Control"] == "no-store"
        assert again.status_code == 400
        assert halfway.get("/account").status_code == 303

    def test_by_a_second_tab_of_somebody_else(self, app, halfway, person):
        person("eve@flagon.test")
        hidden = forms_of(halfway.get("/login/mfa"))["/login/mfa"]
        halfway.sign_in("eve@flagon.test")

        late = halfway.post("/login/mfa", {**hidden, "code": halfway.phone.code(1)})

        page = halfway.get("/account").get_data(as_text=True)
        assert late.status_code == 400
        assert "eve@flagon.test" in page

    def test_by_a_session_from_before_the_second_factor(self, app, ada):
        other = Browser(app)
        other.sign_in()
        phone, _codes = enable_totp(ada)

        answer = other.get("/account/passkeys/add")
        done = second_step_at(other, answer.location, code=phone.code(1))

        assert answer.location.startswith("/login/mfa?next=%2Faccount%2Fpasskeys")
        assert done.location == "/account/passkeys/add"
        assert other.get("/account/passkeys/add").status_code == 200

    def test_by_starting_to_sign_in_again(self, guarded, store):
        """Who is signed in stays so, no better and no worse, until both are proved."""
        age_session(store, 100)
        first = guarded.authorize(prompt="login")
        guarded.sign_in(path=first.location)

        assert guarded.get("/account").status_code == 200
        assert guarded.authorize(prompt="login").location.startswith("/login?")
        done = second_step(guarded, code=guarded.phone.code(1))
        assert done.location.startswith("/oauth/authorize?")


def second_step_at(browser, page, **typed):
    return press(browser, page, "/login/mfa", **typed)


class TestThreatSessionFixation:
    """The cookie changes whenever a session is worth more, or nothing, from then on."""

    def test_at_each_step(self, app, guarded):
        other = Browser(app)
        other.get("/login")
        seen = [cookie(other)]
        other.sign_in()
        seen.append(cookie(other))
        second_step(other, code=guarded.phone.code(1))
        seen.append(cookie(other))
        press(other, "/account", "/account/sign-out")
        seen.append(other.cookies().get("flagon_login"))

        assert len(set(seen)) == 4
        assert seen[-1] is None

    def test_old_cookies_open_nothing(self, app, guarded):
        other = Browser(app)
        other.sign_in()
        planted = cookie(other)
        second_step(other, code=guarded.phone.code(1))
        thief = Browser(app)
        thief.http.set_cookie("flagon_login", planted)

        assert thief.get("/account").status_code == 303
        assert thief.get("/login/mfa").location.startswith("/login?")

    def test_at_proving_it_again(self, ada, store):
        age_session(store, 700)
        before = cookie(ada)
        press(ada, "/login/again?next=/account", "/login/again", password=PASSWORD)

        assert cookie(ada) != before
        assert ada.get("/account").status_code == 200

    def test_at_enabling_a_second_factor(self, ada):
        before = cookie(ada)
        enable_totp(ada)

        assert cookie(ada) != before

    @pytest.mark.parametrize("page", ["/login/again", "/login/mfa"])
    def test_session_that_ends_meanwhile_does_not_come_back_under_a_new_cookie(
        self, app, ada, store, parts, page
    ):
        phone, _codes = enable_totp(ada)
        age_session(store, 700, acr="aal1", amr=["pwd"])
        hidden = forms_of(ada.get(page))[page]
        real = parts.sessions.write

        def ended_first(*arguments, **options):
            parts.sessions.end_all(ada.account.id)
            return real(*arguments, **options)

        with patch.object(parts.sessions, "write", ended_first):
            answer = ada.post(page, {**hidden, "code": phone.code(1)})

        assert answer.status_code == 303
        assert ada.get("/account").status_code == 303


class TestRecoveryCode:
    def test_lets_in_once(self, app, halfway):
        answer = second_step(halfway, recovery_code=halfway.codes[0])
        other = Browser(app)
        other.sign_in()
        again = second_step(other, recovery_code=halfway.codes[0])

        assert answer.location == "/account"
        assert again.status_code == 422
        assert audited(app, halfway, "recovery_code_used")[0]["left"] == 9

    def test_counts_as_a_second_factor(self, halfway):
        second_step(halfway, recovery_code=halfway.codes[0])

        claims = claims_of(halfway.tokens()["id_token"])
        assert claims["amr"] == ["pwd", "otp", "mfa"]

    def test_is_read_however_it_is_typed(self, halfway):
        typed = halfway.codes[0].upper().replace("-", " ").replace("0", "O")

        assert second_step(halfway, recovery_code=typed).status_code == 303

    def test_warns_when_few_are_left(self, app, guarded):
        for code in guarded.codes[:7]:
            other = Browser(app)
            other.sign_in()
            second_step(other, recovery_code=code)
            page = other.get("/account").get_data(as_text=True)

        assert "Recovery codes that are left: 3" in page

    def test_does_not_say_how_many_while_there_are_many(self, halfway):
        second_step(halfway, recovery_code=halfway.codes[0])

        assert "codes that are left" not in halfway.get("/account").text

    def test_of_somebody_else_is_no_good(self, app, person, halfway):
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        _phone, codes = enable_totp(bob)

        assert second_step(halfway, recovery_code=codes[0]).status_code == 422

    def test_eight_uses_at_once_let_in_one(self, app, guarded):
        assert at_once(app, "recovery_code", guarded.codes[0]) == [303] + [422] * 7

    def test_proves_nothing_to_who_is_signed_in(self, guarded, store):
        age_session(store, 700)
        answer = press(
            guarded,
            "/login/again",
            "/login/again",
            recovery_code=guarded.codes[0],
            code="",
            password="",
        )

        assert answer.status_code == 422


def at_once(app, name, value):
    """Send the same proof from eight browsers at the same moment."""
    waiting = []
    for _ in range(8):
        other = Browser(app)
        other.sign_in()
        hidden = forms_of(other.get("/login/mfa"))["/login/mfa"]
        waiting.append((other, {**hidden, name: value}))
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda pair: pair[0].post("/login/mfa", pair[1]), waiting)
        )
    return sorted(answer.status_code for answer in answers)


class TestThreatTotpReplay:
    def test_code_works_once(self, app, halfway):
        code = halfway.phone.code(1)
        second_step(halfway, code=code)
        other = Browser(app)
        other.sign_in()

        assert second_step(other, code=code).status_code == 422

    def test_code_that_enabled_it_does_not_sign_in(self, halfway):
        assert second_step(halfway, code=halfway.phone.code()).status_code == 422

    def test_eight_uses_at_once_let_in_one(self, app, guarded, parts):
        # The limits would refuse some of them for another reason.
        parts.guesses._rules, real = (
            generous(parts.guesses._rules),
            parts.guesses._rules,
        )
        try:
            found = at_once(app, "code", guarded.phone.code(1))
        finally:
            parts.guesses._rules = real

        assert found == [303] + [422] * 7


def generous(rules):
    return {**rules, "second_factor": Rule(account=Allowance(1000, 60))}


class TestFreshSignIn:
    def test_asks_again_after_ten_minutes(self, ada, store):
        fresh = ada.get("/account/passkeys/add")
        age_session(store, 601)
        stale = ada.get("/account/passkeys/add?next=/account")

        assert fresh.status_code == 200
        wanted = quote("/account/passkeys/add?next=/account", safe="")
        assert stale.location == f"/login/again?next={wanted}"

    def test_leads_back_after_the_password(self, ada, store):
        age_session(store, 601)
        where = ada.get("/account/passkeys/add").location

        answer = press(ada, where, "/login/again", password=PASSWORD)

        assert answer.location == "/account/passkeys/add"
        assert ada.get(answer.location).status_code == 200

    def test_takes_a_code(self, guarded, store):
        age_session(store, 601)

        answer = press(
            guarded, "/login/again", "/login/again", code=guarded.phone.code(1)
        )

        assert answer.status_code == 303
        assert guarded.get("/account/passkeys/add").status_code == 200

    def test_takes_a_passkey(self, ada, store):
        device, _codes = add_passkey(ada)
        passkey_second_step(ada, device, "/login/mfa?next=/account")
        age_session(store, 601)
        page = ada.get("/login/again?next=/account/passkeys")

        answer = ada.post(
            "/login/again",
            {
                **forms_of(page)["/login/again"],
                "credential": device.get(options_of(page)),
            },
        )

        assert answer.location == "/account/passkeys"
        assert ada.get("/account/passkeys/add").status_code == 200

    def test_refuses_a_wrong_password(self, ada, store):
        age_session(store, 601)

        answer = press(ada, "/login/again", "/login/again", password="wrong wrong 1")

        assert answer.status_code == 422
        assert ada.get("/account/passkeys/add").status_code == 303

    def test_slows_down_guessing(self, ada, store):
        age_session(store, 601)
        found = [
            press(ada, "/login/again", "/login/again", password="wrong wrong 1")
            for _ in range(25)
        ]

        assert found[-1].status_code == 429

    def test_does_not_make_the_sign_in_younger_for_clients(self, ada, store):
        age_session(store, 601)
        press(ada, "/login/again", "/login/again", password=PASSWORD)

        answer = ada.authorize(max_age="300")

        assert answer.location.startswith("/login?")

    def test_leads_nowhere_else(self, ada, store):
        age_session(store, 601)

        answer = press(
            ada, "/login/again", "/login/again", password=PASSWORD, next="//evil.test"
        )

        assert answer.location == "/account"

    def test_sends_a_stranger_to_sign_in(self, browser):
        assert browser.get("/login/again").location == "/login?next=%2Faccount"
        hidden = browser.form("/login")
        assert browser.post("/login/again", hidden).location.startswith("/login?")

    def test_sends_who_has_no_password_to_the_other_provider(self, app, ada, store):
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set password_hash = null"))

        answer = ada.get("/login/again?next=/account/passkeys/add")
        page = ada.get(answer.location)

        assert answer.location.startswith("/login?next=")
        assert page.status_code == 200

    def test_after_a_form_leads_to_a_page(self, ada, store):
        hidden = fields(ada.get("/account/two-factor"))
        age_session(store, 601)

        answer = ada.post("/account/two-factor/app", hidden)

        assert answer.location == "/login/again?next=%2Faccount%2Ftwo-factor"


class TestStepUp:
    """A client may want more than the session has; only what is missing is asked for."""

    def test_asks_for_the_second_factor_alone(self, app, ada, store):
        other = Browser(app)
        other.sign_in()
        phone, _codes = enable_totp(other)
        press(other, "/account", "/account/sign-out")

        done = second_step_at(
            ada, "/login/mfa?next=%2Fproducts%2Fx", code=phone.code(1)
        )

        assert done.location == "/products/x"

    def test_keeps_the_time_of_the_sign_in(self, app, ada, store):
        other = Browser(app)
        other.sign_in()
        phone, _codes = enable_totp(other)
        press(other, "/account", "/account/sign-out")
        age_session(store, 300)
        before = claims_of(ada.tokens()["id_token"])
        second_step_at(ada, "/login/mfa?next=/account", code=phone.code(1))
        after = claims_of(ada.tokens()["id_token"])

        assert before["amr"] == ["pwd"]
        assert after["amr"] == ["pwd", "otp", "mfa"]
        assert after["auth_time"] == before["auth_time"]
        assert after["sid"] == before["sid"]
        assert audited(app, ada, "stepped_up")

    def test_asks_for_everything_when_the_sign_in_is_too_old(self, guarded, store):
        age_session(store, 300)
        answer = guarded.authorize(max_age="100")

        assert guarded.get(answer.location).status_code == 200
        assert guarded.sign_in(path=answer.location).location == "/login/mfa"
        done = second_step(guarded, code=guarded.phone.code(1))
        assert guarded.get(done.location).location.startswith(
            "http://localhost/callback"
        )

    def test_a_passkey_satisfies_both_at_once(self, ada, store):
        device, _codes = add_passkey(ada)
        age_session(store, 300)
        answer = ada.authorize(max_age="100")

        done = passkey_sign_in(ada, device, path=answer.location)

        assert ada.get(done.location).location.startswith("http://localhost/callback")

    def test_offers_to_set_one_up_to_who_has_none(self, ada, store):
        offered = ada.get("/login/mfa?next=/products/x")
        page = ada.get(offered.location)

        assert offered.location == "/account/two-factor?next=%2Fproducts%2Fx"
        assert "you need a second factor" in page.get_data(as_text=True)

    def test_goes_on_to_the_client_after_setting_one_up(self, ada):
        wanted = "/account/two-factor?next=%2Fproducts%2Fx"
        begun = press(ada, wanted, "/account/two-factor/app")
        page = ada.get(begun.location)

        assert begun.location == "/account/two-factor/app?next=%2Fproducts%2Fx"
        hidden = forms_of(page)["/account/two-factor/app/confirm"]
        assert hidden["next"] == "/products/x"

    def test_nothing_is_asked_of_who_has_it(self, guarded, store):
        assert guarded.get("/login/mfa?next=/products/x").location == "/products/x"
