"""Passkeys: an authenticator in software does everything right, and everything wrong."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from uuid_utils.compat import uuid7

from flagon_auth.domain import passkeys
from flagon_auth.domain.passkeys import (
    PasskeyInvalid,
    PasskeyNotFound,
    PasskeyRefused,
    RelyingParty,
)
from flagon_chassis import db

from .authenticator import (
    CAN_SYNC,
    PRESENT,
    SYNCED,
    VERIFIED,
    SoftAuthenticator,
    b64,
    unb64,
)
from .conftest import Browser, claims_of, fields, login_path
from .factors import (
    add_passkey,
    age_session,
    audited,
    forms_of,
    options_of,
    passkey_second_step,
    passkey_sign_in,
    press,
)

ADD = "/account/passkeys/add"


@pytest.fixture
def laptop(ada):
    """The passkey of Ada, who has signed out."""
    device, ada.codes = add_passkey(ada)
    press(ada, "/account", "/account/sign-out")
    return device


def rows(app, statement, **values):
    with app.app_context(), db.transaction() as session:
        return list(session.execute(text(statement), values))


def refused(answer):
    return answer.status_code == 422 and "did not work" in answer.get_data(as_text=True)


class TestAddPasskey:
    def test_asks_for_a_key_that_stands_for_two_factors(self, ada):
        options = options_of(ada.get(ADD))

        assert options["rp"]["id"] == "localhost"
        assert options["authenticatorSelection"]["residentKey"] == "required"
        assert options["authenticatorSelection"]["userVerification"] == "required"
        assert options["attestation"] == "none"
        assert unb64(options["user"]["id"]) == ada.account.id.bytes
        assert len(unb64(options["challenge"])) >= 16
        assert -7 in [one["alg"] for one in options["pubKeyCredParams"]]

    def test_keeps_it_under_its_name(self, app, ada):
        device, codes = add_passkey(ada, name="  Laptop   at home ")

        (row,) = rows(app, "select * from passkey")
        assert row.name == "Laptop at home"
        assert bytes(row.credential_id) == device.credential_id
        assert row.transports == ["hybrid", "internal"]
        assert not row.backed_up
        assert len(codes) == 10
        assert "Laptop at home" in ada.get("/account/passkeys").text

    def test_tells_the_owner(self, app, ada):
        add_passkey(ada)

        (mail,) = rows(app, "select template, values from mail")
        assert mail.values["action"] == "passkey_added"
        assert audited(app, ada, "passkey_added")

    def test_names_those_that_are_there(self, ada):
        device, _codes = add_passkey(ada)
        passkey_second_step(ada, device, "/login/mfa")

        options = options_of(ada.get(ADD))

        known = [unb64(one["id"]) for one in options["excludeCredentials"]]
        assert known == [device.credential_id]

    def test_second_one_makes_no_recovery_codes(self, ada):
        device, _codes = add_passkey(ada)
        passkey_second_step(ada, device, "/login/mfa")

        _other, codes = add_passkey(ada, name="Phone")

        assert codes == []
        assert "2 passkeys" in ada.get("/account/security").get_data(as_text=True)

    def test_does_not_make_the_session_stronger_by_itself(self, ada):
        """Attestation is not asked for, so making a key proves nothing yet."""
        add_passkey(ada)

        assert ada.get(ADD).location.startswith("/login/mfa?next=")

    def test_needs_a_fresh_sign_in(self, app, ada, store):
        device = SoftAuthenticator()
        page = ada.get(ADD)
        credential = device.create(options_of(page))
        age_session(store, 1201)

        answer = ada.post(ADD, {**fields(page), "name": "x", "credential": credential})

        assert answer.location.startswith("/login/again")
        assert rows(app, "select 1 from passkey") == []

    @pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\x00b", "a\u202eb"])
    def test_refuses_what_is_no_name(self, app, ada, name):
        page = ada.get(ADD)
        credential = SoftAuthenticator().create(options_of(page))

        answer = ada.post(ADD, {**fields(page), "name": name, "credential": credential})

        assert answer.status_code == 422
        assert rows(app, "select 1 from passkey") == []

    @pytest.mark.parametrize(
        "device",
        [
            SoftAuthenticator(origin="https://evil.test"),
            SoftAuthenticator(origin="http://localhost:9999"),
            SoftAuthenticator(origin="https://localhost"),
            SoftAuthenticator(rp_id="evil.test"),
            SoftAuthenticator(flags=PRESENT),
            SoftAuthenticator(flags=VERIFIED),
            SoftAuthenticator(cross_origin=True),
        ],
        ids=[
            "wrong origin",
            "wrong port",
            "wrong scheme",
            "wrong rpId",
            "user not verified",
            "user not present",
            "in a frame",
        ],
    )
    def test_refuses(self, app, ada, device):
        page = ada.get(ADD)
        credential = device.create(options_of(page))

        answer = ada.post(ADD, {**fields(page), "name": "x", "credential": credential})

        assert answer.status_code == 422
        assert "could not be added" in answer.get_data(as_text=True)
        assert rows(app, "select 1 from passkey") == []

    def test_refuses_one_that_somebody_has(self, app, ada, person):
        device, _codes = add_passkey(ada)
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        page = bob.get(ADD)

        answer = bob.post(
            ADD,
            {
                **fields(page),
                "name": "x",
                "credential": device.create(options_of(page)),
            },
        )

        assert answer.status_code == 422
        assert "has been added before" in answer.get_data(as_text=True)
        assert len(rows(app, "select 1 from passkey")) == 1

    def test_refuses_an_answer_to_another_purpose(self, app, ada, browser):
        page = ada.get(ADD)
        sign_in = options_of(Browser(app).get("/login"))
        options = {**options_of(page), "challenge": sign_in["challenge"]}
        credential = SoftAuthenticator().create(options)

        answer = ada.post(ADD, {**fields(page), "name": "x", "credential": credential})

        assert answer.status_code == 422

    def test_refuses_a_challenge_the_second_time(self, app, ada):
        page = ada.get(ADD)
        options = options_of(page)
        first = SoftAuthenticator().create(options)
        second = SoftAuthenticator().create(options)
        ada.post(ADD, {**fields(page), "name": "", "credential": first})

        answer = ada.post(ADD, {**fields(page), "name": "x", "credential": second})

        assert answer.status_code == 422
        assert rows(app, "select 1 from passkey") == []

    def test_account_has_no_more_than_twenty(self, app, ada):
        rows(
            app,
            "insert into passkey (id, account_id, credential_id, public_key, sign_count,"
            " name, transports, backed_up, created_at) select gen_random_uuid(), :id,"
            " decode(md5(n::text), 'hex'), '', 0, 'x', '{}', false, now()"
            " from generate_series(1, 20) n returning 1",
            id=ada.account.id,
        )
        with (
            app.app_context(),
            db.transaction() as session,
            pytest.raises(PasskeyInvalid, match="20"),
        ):
            passkeys.add_passkey(
                session,
                RelyingParty("http://localhost"),
                ada.account,
                credential="{}",
                challenge=b"",
                name="x",
                now=ada.account.created_at,
            )


class TestSignIn:
    def test_needs_no_password(self, ada, laptop):
        answer = passkey_sign_in(ada, laptop)

        assert (answer.status_code, answer.location) == (303, "/account")
        assert "ada@flagon.test" in ada.get("/account").get_data(as_text=True)

    def test_leads_to_the_page_that_was_wanted(self, ada, laptop):
        answer = passkey_sign_in(ada, laptop, path="/login?next=/products/x")

        assert answer.location == "/products/x"

    def test_leads_nowhere_else(self, ada, laptop):
        page = ada.get("/login")
        answer = ada.post(
            "/login/passkey",
            {
                **forms_of(page)["/login/passkey"],
                "next": "//evil.test",
                "credential": laptop.get(options_of(page)),
            },
        )

        assert answer.location == "/account"

    def test_names_no_passkey_to_a_stranger(self, ada, laptop):
        options = options_of(ada.get("/login?login_hint=ada@flagon.test"))

        assert options["allowCredentials"] == []
        assert options["userVerification"] == "required"
        assert options["rpId"] == "localhost"

    def test_page_offers_passkeys_where_the_address_is_typed(self, browser):
        page = browser.get("/login").get_data(as_text=True)

        assert 'autocomplete="username webauthn"' in page
        assert "data-autofill" in page
        assert ' hidden data-passkey="get"' in page

    def test_counts_as_two_factors(self, ada, laptop):
        passkey_sign_in(ada, laptop)
        claims = claims_of(ada.tokens()["id_token"])

        assert claims["amr"] == ["hwk", "user", "mfa"]

    def test_synchronised_key_is_a_key_in_software(self, ada):
        device = SoftAuthenticator(
            flags=PRESENT | VERIFIED | CAN_SYNC | SYNCED, count=0
        )
        add_passkey(ada, device)
        press(ada, "/account", "/account/sign-out")
        passkey_sign_in(ada, device)

        assert claims_of(ada.tokens()["id_token"])["amr"] == ["swk", "user", "mfa"]
        assert "Synchronised" in ada.get("/account/passkeys").get_data(as_text=True)

    def test_remembers_when_it_was_used(self, app, ada, laptop):
        ((before,),) = rows(app, "select last_used_at from passkey")
        passkey_sign_in(ada, laptop)
        ((after,),) = rows(app, "select last_used_at from passkey")

        assert before is None
        assert after is not None
        assert "Last used on" in ada.get("/account/passkeys").get_data(as_text=True)

    def test_gives_a_new_cookie(self, ada, laptop):
        ada.get("/login")
        before = ada.cookies()["flagon_login"].value
        passkey_sign_in(ada, laptop)

        assert ada.cookies()["flagon_login"].value != before

    def test_works_in_two_tabs(self, ada, laptop):
        first, second = ada.get("/login"), ada.get("/login")
        del second

        answer = ada.post(
            "/login/passkey",
            {
                **forms_of(first)["/login/passkey"],
                "credential": laptop.get(options_of(first)),
            },
        )

        assert answer.status_code == 303

    def test_goes_on_to_a_client(self, ada, laptop):
        answer = passkey_sign_in(ada, laptop, path=login_path())

        assert answer.location.startswith("/oauth/authorize?")

    def test_slows_down_attempts(self, app, browser, parts):
        found = [
            browser.post(
                "/login/passkey",
                {**browser.form("/login"), "credential": "{}"},
            ).status_code
            for _ in range(52)
        ]

        assert found == [422] * 50 + [429] * 2

    def test_guards_its_form(self, browser):
        assert browser.post("/login/passkey", {"credential": "{}"}).status_code == 400


class TestThreatPasskeyForgery:
    @pytest.mark.parametrize(
        "change",
        [
            {"origin": "https://evil.test"},
            {"origin": "http://localhost:9999"},
            {"origin": "https://localhost"},
            {"rp_id": "evil.test"},
            {"flags": PRESENT},
            {"flags": VERIFIED},
            {"cross_origin": True},
        ],
        ids=[
            "wrong origin",
            "wrong port",
            "wrong scheme",
            "wrong rpId",
            "user not verified",
            "user not present",
            "in a frame",
        ],
    )
    def test_refuses(self, ada, laptop, change):
        for name, value in change.items():
            setattr(laptop, name, value)

        assert refused(passkey_sign_in(ada, laptop))
        assert ada.get("/account").status_code == 303

    def test_refuses_the_signature_of_another_key(self, ada, laptop):
        forged = SoftAuthenticator(credential_id=laptop.credential_id, count=10)
        forged.user_handle = laptop.user_handle

        assert refused(passkey_sign_in(ada, forged))

    def test_refuses_a_key_that_nobody_has(self, ada, laptop):
        assert refused(passkey_sign_in(ada, SoftAuthenticator()))

    def test_refuses_to_be_somebody_else(self, app, ada, laptop, person):
        """The key is Ada's, and says that it is Bob's."""
        bob = person("bob@flagon.test")
        laptop.user_handle = bob.id.bytes

        assert refused(passkey_sign_in(ada, laptop))

    def test_refuses_a_key_that_does_not_say_whose_it_is(self, ada, laptop):
        laptop.user_handle = None

        assert refused(passkey_sign_in(ada, laptop))

    def test_refuses_the_same_answer_twice(self, ada, laptop):
        page = ada.get("/login")
        hidden = forms_of(page)["/login/passkey"]
        credential = laptop.get(options_of(page))
        first = ada.post("/login/passkey", {**hidden, "credential": credential})
        press(ada, "/account", "/account/sign-out")
        fresh = forms_of(ada.get("/login"))["/login/passkey"]
        second = ada.post("/login/passkey", {**fresh, "credential": credential})

        assert first.status_code == 303
        assert refused(second)

    def test_challenge_is_gone_even_after_a_failure(self, ada, laptop):
        page = ada.get("/login")
        hidden = forms_of(page)["/login/passkey"]
        wrong = SoftAuthenticator().get(options_of(page))
        right = laptop.get(options_of(page))
        ada.post("/login/passkey", {**hidden, "credential": wrong})

        assert refused(ada.post("/login/passkey", {**hidden, "credential": right}))

    def test_eight_uses_of_one_answer_at_once_let_in_one(self, ada, laptop):
        """Of a key that does not count, so that only the challenge can tell."""
        laptop.count = 0
        page = ada.get("/login")
        hidden = forms_of(page)["/login/passkey"]
        form = {**hidden, "credential": laptop.get(options_of(page))}
        cookie = ada.cookies()["flagon_login"].value

        def use(_number):
            other = Browser(ada.app)
            other.http.set_cookie("flagon_login", cookie)
            return other.post("/login/passkey", form).status_code

        with ada.app.app_context(), db.transaction() as session:
            session.execute(text("update passkey set sign_count = 0"))
        with ThreadPoolExecutor(8) as pool:
            found = sorted(pool.map(use, range(8)))

        assert found.count(303) == 1
        # Those that come after it find another session under their cookie.
        assert set(found) <= {303, 400, 422}

    def test_answer_of_another_browser_is_no_good(self, app, ada, laptop):
        stolen = laptop.get(options_of(ada.get("/login")))
        thief = Browser(app)
        hidden = forms_of(thief.get("/login"))["/login/passkey"]

        answer = thief.post("/login/passkey", {**hidden, "credential": stolen})

        assert refused(answer)

    def test_challenge_does_not_live_for_ever(self, ada, laptop, store):
        page = ada.get("/login")
        (key,) = [
            k for k in store.keys("auth:session:*") if "challenges" in store.get(k)
        ]
        content = json.loads(store.get(key))
        for waiting in content["data"]["challenges"].values():
            waiting[1] -= 1801
        store.set(key, json.dumps(content), ex=1800)

        answer = ada.post(
            "/login/passkey",
            {
                **forms_of(page)["/login/passkey"],
                "credential": laptop.get(options_of(page)),
            },
        )

        assert refused(answer)

    def test_counter_that_goes_backwards_is_a_copy(self, app, ada, laptop):
        laptop.count = 40
        passkey_sign_in(ada, laptop)
        press(ada, "/account", "/account/sign-out")
        laptop.count = 5

        answer = passkey_sign_in(ada, laptop)

        assert refused(answer)
        (details,) = audited(app, ada, "passkey_refused")
        assert "backwards" in details["reason"]
        told = [mail.values["action"] for mail in rows(app, "select values from mail")]
        assert "passkey_refused" in told

    def test_counter_is_believed_only_from_the_key_itself(self, app, ada, laptop):
        """Or else anybody could have a passkey reported as copied."""
        laptop.count = 40
        passkey_sign_in(ada, laptop)
        press(ada, "/account", "/account/sign-out")
        forged = SoftAuthenticator(credential_id=laptop.credential_id, count=1)
        forged.user_handle = laptop.user_handle
        passkey_sign_in(ada, forged)

        assert not audited(app, ada, "passkey_refused")

    def test_of_a_disabled_account_signs_nobody_in(self, app, ada, laptop):
        rows(app, "update account set disabled = true returning 1")

        assert refused(passkey_sign_in(ada, laptop))

    def test_that_was_removed_signs_nobody_in(self, app, ada, laptop):
        rows(app, "delete from passkey returning 1")

        assert refused(passkey_sign_in(ada, laptop))

    def test_host_header_changes_nothing(self, ada, laptop):
        page = ada.get("/login", headers={"X-Forwarded-Host": "evil.test"})

        assert options_of(page)["rpId"] == "localhost"

    @pytest.mark.parametrize(
        "credential",
        [
            "",
            "null",
            "[]",
            "{}",
            "\x00",
            '{"response": {}}',
            '{"response": {"clientDataJSON": 5}}',
            '{"response": {"clientDataJSON": "%%%"}}',
            '{"response": {"clientDataJSON": "bnVsbA"}}',
            "[" * 5000,
            "x" * 20_000,
        ],
    )
    def test_what_is_no_answer_is_refused(self, browser, credential):
        hidden = forms_of(browser.get("/login"))["/login/passkey"]

        answer = browser.post("/login/passkey", {**hidden, "credential": credential})

        assert answer.status_code == 422


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.binary().map(b64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
PARTS = ["id", "rawId", "type", "response", "clientExtensionResults"]
INNER = [
    "clientDataJSON",
    "authenticatorData",
    "signature",
    "userHandle",
    "attestationObject",
    "transports",
]


class TestFuzz:
    """Whatever is sent in place of an answer, it is refused and nothing breaks."""

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_answers(self, app, ada, laptop, data):
        party, challenge = RelyingParty("http://localhost"), b"c" * 32
        with app.app_context(), db.transaction() as session:
            made = passkeys.creation_options(session, party, ada.account, challenge)
        asked = passkeys.request_options(party, challenge)
        create = data.draw(st.booleans())
        new = SoftAuthenticator()
        whole = json.loads(new.create(made) if create else laptop.get(asked))
        where = data.draw(st.sampled_from(PARTS + INNER))
        place = whole["response"] if where in INNER else whole
        place[where] = data.draw(JSON)
        credential = json.dumps(whole)

        with contextlib.suppress(PasskeyRefused):
            passkeys.challenge_of(credential)
        # What does not matter may be wrong; nothing else than these may be raised.
        with (
            contextlib.suppress(PasskeyRefused, PasskeyInvalid),
            app.app_context(),
            db.transaction() as session,
        ):
            now = ada.account.created_at
            answer = {"credential": credential, "challenge": challenge, "now": now}
            if create:
                passkeys.add_passkey(session, party, ada.account, name="x", **answer)
            else:
                passkeys.use_passkey(session, party, **answer)


class TestSecondStep:
    def test_takes_a_passkey_after_the_password(self, app, ada, laptop):
        first = ada.sign_in()
        page = ada.get(first.location)
        answer = passkey_second_step(ada, laptop, first.location)

        named = [unb64(one["id"]) for one in options_of(page)["allowCredentials"]]
        assert named == [laptop.credential_id]
        assert answer.location == "/account"
        amr = claims_of(ada.tokens()["id_token"])["amr"]
        assert amr == ["pwd", "hwk", "user", "mfa"]

    def test_needs_no_user_handle(self, ada, laptop):
        ada.sign_in()
        laptop.user_handle = None

        assert passkey_second_step(ada, laptop, "/login/mfa").status_code == 303

    def test_refuses_the_passkey_of_somebody_else(self, app, ada, laptop, person):
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        his, _codes = add_passkey(bob)
        ada.sign_in()

        answer = passkey_second_step(ada, his, "/login/mfa")

        assert answer.status_code == 422
        assert ada.get("/account").status_code == 303

    def test_refuses_a_challenge_of_the_sign_in_page(self, ada, laptop):
        other = options_of(ada.get("/login"))
        ada.sign_in()
        page = ada.get("/login/mfa")

        answer = ada.post(
            "/login/mfa",
            {**forms_of(page)["/login/mfa"], "credential": laptop.get(other)},
        )

        assert answer.status_code == 422

    def test_refuses_without_user_verification(self, ada, laptop):
        ada.sign_in()
        laptop.flags = PRESENT

        assert passkey_second_step(ada, laptop, "/login/mfa").status_code == 422

    def test_reports_a_copy(self, app, ada, laptop):
        laptop.count = 40
        passkey_sign_in(ada, laptop)
        press(ada, "/account", "/account/sign-out")
        ada.sign_in()
        laptop.count = 5

        assert passkey_second_step(ada, laptop, "/login/mfa").status_code == 422
        assert audited(app, ada, "passkey_refused")


class TestManage:
    def one(self, app):
        ((passkey_id,),) = rows(app, "select id from passkey")
        return f"/account/passkeys/{passkey_id}"

    def test_rename_passkey(self, app, ada):
        add_passkey(ada)
        page = self.one(app)

        answer = press(ada, page, page, name="Old laptop")

        assert answer.location == "/account/passkeys"
        assert "Old laptop" in ada.get(answer.location).get_data(as_text=True)

    def test_rename_passkey_refuses_what_is_no_name(self, app, ada):
        add_passkey(ada)
        page = self.one(app)

        answer = press(ada, page, page, name=" ")

        assert answer.status_code == 422
        assert 'aria-invalid="true"' in answer.get_data(as_text=True)

    def test_remove_passkey(self, app, ada):
        device, _codes = add_passkey(ada)
        passkey_second_step(ada, device, "/login/mfa")
        page = self.one(app)

        answer = press(ada, page, f"{page}/remove")

        assert answer.location == "/account/passkeys"
        assert "You have none yet" in ada.get(answer.location).get_data(as_text=True)
        assert rows(app, "select 1 from recovery_code") == []
        assert audited(app, ada, "passkey_removed")
        told = [mail.values["action"] for mail in rows(app, "select values from mail")]
        assert sorted(told) == ["passkey_added", "passkey_removed"]

    def test_remove_passkey_needs_the_second_factor(self, app, ada):
        """A session from before it had one cannot take it away."""
        add_passkey(ada)
        page = self.one(app)

        answer = press(ada, page, f"{page}/remove")

        assert answer.location.startswith("/login/mfa?next=%2Faccount%2Fpasskeys%2F")
        assert rows(app, "select 1 from passkey")

    def test_that_of_somebody_else_is_not_there(self, app, ada, person):
        add_passkey(ada)
        page = self.one(app)
        person("bob@flagon.test")
        bob = Browser(app)
        bob.sign_in("bob@flagon.test")
        hidden = bob.form("/account")

        assert bob.get(page).status_code == 404
        assert bob.post(page, {**hidden, "name": "x"}).status_code == 404
        assert bob.post(f"{page}/remove", hidden).status_code == 404
        assert rows(app, "select name from passkey") == [("Laptop",)]

    def test_asks_a_stranger_to_sign_in(self, browser):
        hidden = browser.form("/login")
        one = f"/account/passkeys/{uuid7()}"

        for page in ("/account/passkeys", one):
            assert browser.get(page).location == f"/login?next={page}"
        assert browser.post(one, hidden).location == f"/login?next={one}"
        assert browser.get(ADD).location.startswith("/login?next=")

    def test_list_is_empty_at_first(self, ada):
        assert "You have none yet" in ada.get("/account/passkeys").text

    def test_names_are_escaped(self, app, ada):
        add_passkey(ada, name="<script>alert(1)</script>")
        pages = [ada.get(page) for page in ("/account/passkeys", self.one(app))]

        assert not any("<script>" in page.get_data(as_text=True) for page in pages)

    def test_unknown_passkey_cannot_be_found(self, app, ada):
        with (
            app.app_context(),
            db.transaction() as session,
            pytest.raises(PasskeyNotFound),
        ):
            passkeys.find_passkey(session, ada.account.id, uuid7())
