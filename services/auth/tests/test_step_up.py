"""How sure a client wants to be, and what it wants to know (OpenID Connect Core 5.5)."""

import json

import pytest
from sqlalchemy import text

from flagon_chassis import db

from .conftest import (
    CALLBACK,
    ISSUER,
    Browser,
    basic,
    bearer_of,
    claims_of,
    fields,
    query_of,
    redeem,
    refresh,
    token_request,
)
from .factors import age_session, enable_totp, second_step
from .registering import SECRET, post, register

ESSENTIAL = {"essential": True, "values": ["aal2"]}


@pytest.fixture(autouse=True)
def clean(app):
    yield
    with app.app_context(), db.transaction() as session:
        session.execute(text("delete from client where name = 'Test'"))


@pytest.fixture
def early(ada, store):
    """Somebody whose session is from before they set up a second factor."""
    ada.phone, _ = enable_totp(ada)
    age_session(store, 5, acr="aal1", amr=["pwd"])
    return ada


def acr(**member):
    return json.dumps({"id_token": {"acr": member}})


def error_of(answer):
    found = query_of(answer)
    assert found["iss"] == ISSUER
    assert found["state"] == "st"
    return found["error"]


class TestAcr:
    def test_is_in_both_tokens(self, ada):
        answer = ada.tokens()

        for token in (answer["id_token"], answer["access_token"]):
            assert claims_of(token)["acr"] == "aal1"
            assert claims_of(token)["amr"] == ["pwd"]

    @pytest.mark.parametrize(
        "wanted", [{"acr_values": "aal2"}, {"claims": acr(**ESSENTIAL)}]
    )
    def test_leads_to_the_second_factor_and_back(self, app, early, wanted):
        first = early.authorize(**wanted)
        assert first.location.startswith("/login/mfa?next=")

        back = second_step_at(early, first.location)
        answer = redeem(app, query_of(early.get(back.location))["code"]).json

        claims = claims_of(answer["id_token"])
        assert claims["acr"] == "aal2"
        assert {"pwd", "otp", "mfa"} <= set(claims["amr"])
        assert claims_of(answer["access_token"])["acr"] == "aal2"

    def test_survives_refreshing(self, app, early):
        back = second_step_at(early, early.authorize(acr_values="aal2").location)
        first = redeem(app, query_of(early.get(back.location))["code"]).json

        second = refresh(app, first["refresh_token"]).json

        old, new = claims_of(first["id_token"]), claims_of(second["id_token"])
        for name in ("acr", "amr", "auth_time"):
            assert old[name] == new[name]

    @pytest.mark.parametrize("values", ["aal1", "aal1 aal2", "aal2 aal1", "gold", ""])
    def test_that_is_reached_or_only_wished_for_is_no_obstacle(self, ada, values):
        assert "code" in query_of(ada.authorize(acr_values=values))

    def test_first_choice_is_tried_before_the_second(self, early):
        assert early.authorize(acr_values="aal2 aal1").location.startswith("/login/mfa")
        assert "code" in query_of(early.authorize(acr_values="aal1 aal2"))

    def test_that_is_only_wished_for_is_not_asked_for_silently(self, early):
        assert "code" in query_of(early.authorize(acr_values="aal2", prompt="none"))

    def test_that_is_essential_is_an_error_silently(self, early):
        answer = early.authorize(claims=acr(**ESSENTIAL), prompt="none")

        assert error_of(answer) == "login_required"

    @pytest.mark.parametrize(
        "member",
        [
            ESSENTIAL,
            {"essential": True, "value": "aal2"},
            {"essential": True, "values": ["gold"]},
        ],
    )
    def test_that_is_essential_and_cannot_be_had_is_an_error(self, ada, member):
        answer = ada.authorize(claims=acr(**member))

        assert error_of(answer) == "unmet_authentication_requirements"

    @pytest.mark.parametrize(
        "member",
        [
            {"essential": True},
            {"essential": True, "values": ["gold", "aal1"]},
            {"values": ["gold"]},
            {"value": "aal2"},
        ],
    )
    def test_that_is_essential_and_reached_is_none(self, ada, member):
        assert "code" in query_of(ada.authorize(claims=acr(**member)))

    def test_essential_null_is_a_wish(self, ada):
        claims = json.dumps(
            {"id_token": {"acr": None, "auth_time": {"essential": True}}}
        )

        assert "auth_time" in claims_of(ada.tokens(claims=claims)["id_token"])

    def test_cannot_be_talked_down_by_a_second_request(self, early):
        early.authorize(acr_values="aal2")

        assert early.authorize(acr_values="aal2").location.startswith("/login/mfa")


def second_step_at(browser, page):
    shown = browser.get(page)
    return browser.post("/login/mfa", {**fields(shown), "code": browser.phone.code(1)})


class TestClaims:
    def userinfo(self, app, answer):
        return app.test_client().get("/oauth/userinfo", headers=bearer_of(answer)).json

    def test_go_where_they_are_wanted(self, app, ada):
        wanted = {
            "id_token": {"email": None},
            "userinfo": {"name": {"essential": True}, "shoe_size": None},
        }

        answer = ada.tokens(scope="openid", claims=json.dumps(wanted))

        in_token, told = claims_of(answer["id_token"]), self.userinfo(app, answer)
        assert in_token["email"] == "ada@flagon.test"
        assert "name" not in in_token
        assert told == {"sub": in_token["sub"], "name": "Ada Example"}

    def test_are_the_same_after_refreshing(self, app, ada):
        wanted = json.dumps({"userinfo": {"name": None}})
        first = ada.tokens(scope="openid", claims=wanted)

        second = refresh(app, first["refresh_token"]).json

        assert self.userinfo(app, second) == self.userinfo(app, first)

    def test_need_the_scope_that_the_client_is_registered_for(self, app, ada):
        register(app, "narrow", scope="openid")
        wanted = json.dumps({"id_token": {"email": None}, "userinfo": {"name": None}})
        code = ada.code(client_id="narrow", scope="openid", claims=wanted)

        answer = post(
            app,
            "/oauth/token",
            basic("narrow", SECRET),
            grant_type="authorization_code",
            code=code,
            redirect_uri=CALLBACK,
            code_verifier="v" * 64,
        ).json

        assert "email" not in claims_of(answer["id_token"])
        assert set(self.userinfo(app, answer)) == {"sub"}

    def test_are_asked_about_like_the_scope(self, ada):
        asked = {
            "client_id": "other",
            "redirect_uri": "https://other.test/cb",
            "scope": "openid",
        }
        page = ada.authorize(**asked)
        ada.post("/oauth/consent", {**fields(page), "choice": "allow"})
        assert ada.authorize(**asked).status_code == 302

        wanted = json.dumps({"userinfo": {"email": None}})
        more = ada.authorize(**asked, claims=wanted)

        assert more.status_code == 200
        assert "see your e-mail address" in more.get_data(as_text=True)
        silent = ada.authorize(**asked, claims=wanted, prompt="none")
        assert query_of(silent)["error"] == "consent_required"

    @pytest.mark.parametrize("place", ["id_token", "userinfo"])
    def test_name_the_only_person_who_will_do(self, ada, place):
        mine = {place: {"sub": {"value": str(ada.account.id)}}}
        theirs = {place: {"sub": {"value": "somebody"}}}

        good = ada.authorize(claims=json.dumps(mine), prompt="none")
        bad = ada.authorize(claims=json.dumps(theirs), prompt="none")

        assert "code" in query_of(good)
        assert error_of(bad) == "login_required"

    @pytest.mark.parametrize(
        "claims",
        [
            "",
            "x",
            "[]",
            "7",
            '"x"',
            '{"id_token": []}',
            '{"userinfo": 7}',
            '{"id_token": {"acr": {"values": "aal2"}}}',
            "[" * 4000,
            "{" * 4000,
        ],
    )
    def test_that_are_not_as_they_should_be_are_refused(self, ada, claims):
        answer = ada.authorize(claims=claims)

        assert error_of(answer) == "invalid_request"

    @pytest.mark.parametrize(
        "claims",
        [
            "{}",
            '{"id_token": null}',
            '{"id_token": {}, "userinfo": null, "other": []}',
            '{"id_token": {"sub": null, "acr": {"values": [7, null]}}}',
        ],
    )
    def test_that_ask_for_nothing_are_fine(self, ada, claims):
        assert "code" in query_of(ada.authorize(claims=claims))


class TestUserinfo:
    def ask(self, app, headers=None, **form):
        return post(app, "/oauth/userinfo", headers, **form)

    def test_needs_openid(self, app, ada):
        answer = app.test_client().get(
            "/oauth/userinfo", headers=bearer_of(ada.tokens(scope="reviews:write"))
        )

        assert answer.status_code == 403
        challenge = answer.headers["WWW-Authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="openid"' in challenge

    def test_needs_a_token(self, app):
        for answer in (app.test_client().get("/oauth/userinfo"), self.ask(app)):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("token", ["x", "a.b.c", "ü", "", "x" * 9000])
    def test_refuses_a_bad_token_in_header_and_body(self, app, token):
        text_ = token.encode().decode("latin-1")
        header = {"Authorization": f"Bearer {text_}"}
        for answer in (
            app.test_client().get("/oauth/userinfo", headers=header),
            self.ask(app, access_token=token),
        ):
            assert answer.status_code == 401
            assert 'error="' in answer.headers["WWW-Authenticate"] or not token

    def test_refuses_two_tokens(self, app, ada):
        answer = ada.tokens()
        token = answer["access_token"]

        both = self.ask(app, bearer_of(answer), access_token=token)
        twice = app.test_client().post(
            "/oauth/userinfo", data={"access_token": [token, token]}
        )

        for refused in (both, twice):
            assert refused.status_code == 400
            assert refused.json["error"] == "invalid_request"

    def test_reads_no_token_from_the_address(self, app, ada):
        token = ada.tokens()["access_token"]
        for method in ("GET", "POST"):
            answer = app.test_client().open(
                f"/oauth/userinfo?access_token={token}", method=method
            )
            assert answer.status_code == 401

    def test_refuses_the_tokens_of_services_and_of_ended_sessions(self, app, ada):
        service = token_request(app, "worker", grant_type="client_credentials").json
        mine = ada.tokens()
        ada.post("/account/sign-out", ada.form("/account"))

        assert self.ask(app, bearer_of(service)).status_code == 403
        assert self.ask(app, bearer_of(mine)).status_code == 401

    def test_is_not_cached(self, app, ada):
        answer = self.ask(app, bearer_of(ada.tokens()))

        assert answer.headers["Cache-Control"] == "no-store"

    def test_tells_the_locale_that_was_chosen(self, app, ada):
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set locale = 'de'"))

        assert self.ask(app, bearer_of(ada.tokens())).json["locale"] == "de"


class TestStrangerWithTwoFactors:
    def test_signs_in_with_both_and_comes_back(self, app, early):
        other = Browser(app)
        first = other.authorize(claims=acr(**ESSENTIAL))
        other.sign_in(path=first.location)

        answer = second_step(other, code=early.phone.code(1))

        assert "code" in query_of(other.get(answer.location))
