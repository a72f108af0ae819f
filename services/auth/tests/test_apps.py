"""Connected programs: what was agreed to is shown, and can be taken back."""

import re
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from flagon_auth.domain import audit, clients, consents, grants
from flagon_auth.models import LogoutNotice
from flagon_chassis import db

from .conftest import Browser, fields, me, query_of, redeem, refresh, request_for

OTHER = {
    "client_id": "other",
    "redirect_uri": "https://other.test/cb",
    "scope": "openid email",
}


def ask(browser, **changes):
    return browser.get("/oauth/authorize", query_string=request_for(**OTHER | changes))


def agree(browser, app, choice="allow", **changes):
    """Go through the consent page and return the tokens."""
    answer = browser.post(
        "/oauth/consent", {**fields(ask(browser, **changes)), "choice": choice}
    )
    if choice != "allow":
        return answer
    told = redeem(
        app, query_of(answer)["code"], "other", redirect_uri="https://other.test/cb"
    )
    assert told.status_code == 200, told.json
    return told.json


def page(browser):
    return browser.get("/account/apps").get_data(as_text=True)


def withdraw(browser, client_id="other"):
    form = fields(browser.get("/account/apps"))
    return browser.post("/account/apps/withdraw", {**form, "request": client_id})


def records(app, account, limit=1):
    with app.app_context(), db.transaction() as session:
        return audit.list_records(session, account.id, limit=limit)


class TestConsentPage:
    def test_first_time_marks_nothing(self, ada):
        shown = ask(ada).get_data(as_text=True)

        assert "know who you are here" in shown
        assert ">new<" not in shown
        assert "agreed before" not in shown

    def test_tells_new_scopes_from_those_agreed_before(self, ada, app):
        agree(ada, app)

        shown = ask(ada, scope="openid email reviews:write").get_data(as_text=True)

        items = re.findall(r"<li>(.*?)</li>", shown, re.DOTALL)
        assert ["agreed before" in item for item in items] == [True, True, False]
        assert [">new<" in item for item in items] == [False, False, True]

    def test_is_not_shown_again_for_what_was_agreed(self, ada, app):
        agree(ada, app, scope="openid email reviews:write")

        assert ask(ada, scope="openid reviews:write").status_code == 302

    def test_no_leaves_nothing(self, ada, app):
        answer = agree(ada, app, "deny")

        assert query_of(answer)["error"] == "access_denied"
        assert "No program is connected" in page(ada)

    def test_escapes_the_clients_name(self, ada, app):
        with app.app_context(), db.transaction() as session:
            clients.find_client(session, "other").name = "<script>alert(1)</script>"
        try:
            shown = ask(ada).get_data(as_text=True)
        finally:
            with app.app_context(), db.transaction() as session:
                clients.find_client(session, "other").name = "Somebody else's"

        assert "<script>" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown

    def test_is_written_to_the_audit_log(self, ada, app):
        agree(ada, app)

        (row,) = records(app, ada.account)
        assert row.action == "consent_given"
        assert row.details == {"client": "other", "scope": "openid email"}
        assert row.actor == str(ada.account.id)


class TestList:
    def test_sends_strangers_to_sign_in(self, browser):
        assert browser.get("/account/apps").location == (
            "/login?next=%2Faccount%2Fapps"
        )

    def test_shows_what_was_agreed(self, ada, app):
        agree(ada, app)

        shown = page(ada)

        assert "Somebody else&#39;s" in shown
        assert "see your e-mail address" in shown
        assert "one sign-in or device" in shown
        assert "part of Flagon" not in shown

    def test_shows_our_own_programs_that_are_in_use(self, ada):
        ada.tokens()

        shown = page(ada)

        assert "Shop" in shown
        assert "part of Flagon" in shown

    def test_shows_no_program_whose_code_was_never_redeemed(self, ada):
        ada.code()

        assert "No program is connected" in page(ada)

    def test_counts_sign_ins(self, ada, app):
        agree(ada, app)
        query = query_of(ask(ada))
        redeem(app, query["code"], "other", redirect_uri="https://other.test/cb")

        assert "2 sign-ins and devices" in page(ada)

    def test_shows_nobody_elses(self, ada, app, person):
        agree(ada, app)
        person("eve@flagon.test")
        eve = Browser(app)
        eve.sign_in("eve@flagon.test")

        assert "No program is connected" in page(eve)

    def test_is_in_the_menu(self, ada):
        assert 'href="/account/apps" aria-current="page"' in page(ada)

    def test_keeps_showing_an_agreement_without_grants(self, ada, app):
        tokens = agree(ada, app)
        now = datetime.now(UTC)
        with app.app_context(), db.transaction() as session:
            grants.revoke_refresh_token(
                session, tokens["refresh_token"], client_id="other", now=now
            )

        assert "0 sign-ins and devices" in page(ada)


class TestWithdraw:
    def test_ends_the_programs_tokens_at_once(self, ada, app):
        tokens = agree(ada, app, scope="openid email")

        answer = withdraw(ada)

        assert answer.location == "/account/apps"
        assert me(app, tokens).status_code == 401
        assert refresh(app, tokens["refresh_token"], "other").status_code == 400
        assert "Disconnected." in page(ada)

    def test_makes_the_program_ask_again(self, ada, app):
        agree(ada, app)

        withdraw(ada)

        assert "Allow Somebody else" in ask(ada).get_data(as_text=True)
        assert query_of(ask(ada, prompt="none"))["error"] == "consent_required"

    def test_ends_codes_that_are_on_their_way(self, ada, app):
        agree(ada, app)
        code = query_of(ask(ada))["code"]

        withdraw(ada)

        late = redeem(app, code, "other", redirect_uri="https://other.test/cb")
        assert late.json["error"] == "invalid_grant"

    def test_leaves_other_programs_and_the_session_alone(self, ada, app):
        agree(ada, app)
        shop = ada.tokens()

        withdraw(ada)

        assert me(app, shop).status_code == 200
        assert ada.get("/account").status_code == 200

    def test_leaves_other_people_alone(self, ada, app, person):
        person("eve@flagon.test")
        eve = Browser(app)
        eve.sign_in("eve@flagon.test")
        tokens = agree(eve, app)
        agree(ada, app)

        withdraw(ada)

        assert me(app, tokens).status_code == 200

    def test_ends_one_of_ours_as_well(self, ada, app):
        shop = ada.tokens()

        withdraw(ada, "web")

        assert me(app, shop).status_code == 401
        assert ada.get("/account").status_code == 200

    def test_tells_the_program(self, ada, app):
        agree(ada, app)
        with app.app_context(), db.transaction() as session:
            client = clients.find_client(session, "other")
            client.backchannel_logout_uri = "https://other.test/logout"

        try:
            withdraw(ada)
            with app.app_context(), db.transaction() as session:
                told = [row.client_id for row in session.query(LogoutNotice)]
                session.execute(text("delete from logout_notice"))
        finally:
            with app.app_context(), db.transaction() as session:
                client = clients.find_client(session, "other")
                client.backchannel_logout_uri = None

        assert told == ["other"]

    def test_is_written_to_the_audit_log(self, ada, app):
        agree(ada, app)

        withdraw(ada)

        (row,) = records(app, ada.account)
        assert row.action == "consent_withdrawn"
        assert row.details == {"client": "other", "scope": "email openid"}

    @pytest.mark.parametrize("client_id", ["other", "nobody", "\0", "x" * 5000, ""])
    def test_of_what_is_not_connected_says_so(self, ada, client_id):
        form = fields(ada.get("/account"))

        answer = ada.post("/account/apps/withdraw", {**form, "request": client_id})

        assert answer.status_code == 303
        assert "was not connected" in page(ada)

    def test_needs_the_csrf_token(self, ada, app):
        tokens = agree(ada, app)

        assert (
            ada.post("/account/apps/withdraw", {"request": "other"}).status_code == 400
        )
        assert me(app, tokens).status_code == 200

    def test_sends_strangers_to_sign_in(self, browser):
        form = browser.form("/login")

        answer = browser.post("/account/apps/withdraw", {**form, "request": "other"})

        assert answer.location == "/login?next=%2Faccount%2Fapps"

    def test_twice_is_refused(self, ada, app):
        agree(ada, app)
        now = datetime.now(UTC)
        with app.app_context(), db.transaction() as session:
            consents.withdraw(
                session,
                account_id=ada.account.id,
                client_id="other",
                reason="test",
                now=now,
            )

        with (
            app.app_context(),
            db.transaction() as session,
            pytest.raises(consents.NotConnected),
        ):
            consents.withdraw(
                session,
                account_id=ada.account.id,
                client_id="other",
                reason="test",
                now=now,
            )
