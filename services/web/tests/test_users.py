from uuid import uuid4

import pytest

from .conftest import OWN_ID

PAGE = "/back-office/users"
ROLES = {"roles": ["customer", "operator"], "etag": '"v1"'}


def page_of(user):
    return f"{PAGE}/{user['id']}"


class TestUsers:
    def test_lists_them(self, administrator, a_user):
        one = a_user()
        a_user(name="", email="nameless@flagon.test", roles=["admin"], disabled=True)

        text = administrator.get(PAGE).text

        assert f'href="{page_of(one)}"' in text
        assert "<bdi>Ada Example</bdi>" in text
        assert "<bdi>nameless@flagon.test</bdi>" in text
        assert ">Disabled<" in text

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("email=%20bo@flagon.test", "Bo"),
            ("role=admin", "Root"),
            ("disabled=true", "Gone"),
        ],
    )
    def test_are_found_by_address_role_and_state(
        self, administrator, a_user, query, found
    ):
        a_user(name="Bo", email="bo@flagon.test")
        a_user(name="Root", roles=["admin"])
        a_user(name="Gone", disabled=True)

        text = administrator.get(f"{PAGE}?{query}").text

        names = {n for n in ("Bo", "Root", "Gone") if f"<bdi>{n}</bdi>" in text}
        assert names == {found}

    def test_says_at_the_field_that_an_address_is_none(self, administrator, a_user):
        a_user()

        answer = administrator.get(f"{PAGE}?email=ada")

        assert answer.status_code == 422
        assert 'aria-describedby="email-error"' in answer.text
        assert "Write a whole address" in answer.text

    def test_leaves_out_filters_that_are_none(self, administrator, a_user):
        a_user()

        answer = administrator.get(f"{PAGE}?role=king&disabled=maybe")

        assert "<bdi>Ada Example</bdi>" in answer.text

    def test_says_when_none_fits(self, administrator):
        text = administrator.get(f"{PAGE}?email=nobody@flagon.test").text

        assert "No such users" in text

    def test_passes_on_other_refusals(self, administrator, platform):
        platform.refuse["auth"] = (422, "The cursor is not one that this list gave.")

        assert administrator.get(f"{PAGE}?after=x").status_code == 422


class TestPermissions:
    FORMS = (
        "roles",
        "disable",
        "enable",
        "password-reset",
        "sessions/end",
        "sessions/end-all",
    )

    @pytest.mark.parametrize("role", ["customer", "merchandiser", "operator"])
    def test_are_the_administrators(self, browser, platform, a_user, a_session, role):
        found, sid = a_user(), a_session()["sid"]
        before = dict(found)
        platform.role = role
        browser.sign_in(platform)

        assert f'href="{PAGE}"' not in browser.get("/back-office").text
        assert f'href="{PAGE}"' not in browser.get("/jobs").text
        for path in (PAGE, page_of(found)):
            assert browser.get(path).status_code == 403
        for step in self.FORMS:
            answer = browser.submit(f"{page_of(found)}/{step}", sid=sid, **ROLES)
            assert answer.status_code == 403
        assert found == before
        assert platform.sessions
        assert platform.mailed == []

    def test_of_strangers_begin_with_the_sign_in(self, browser, a_user):
        for path in (PAGE, page_of(a_user())):
            assert browser.get(path).location.startswith("/sign-in?")

    def test_give_administrators_the_link(self, administrator):
        assert f'href="{PAGE}"' in administrator.get("/back-office").text

    def test_only_to_read_show_no_buttons(self, browser, platform, a_user, a_session):
        a_session()
        platform.role = "reader"
        browser.sign_in(platform)

        found = a_user()
        text = browser.get(page_of(found)).text

        assert "Firefox/1" in text
        assert 'type="submit">Save<' not in text
        for step in self.FORMS:
            assert f'action="{page_of(found)}/{step}"' not in text
            answer = browser.submit(f"{page_of(found)}/{step}", **ROLES)
            assert answer.status_code == 403


class TestUser:
    def test_shows_what_is_known(self, administrator, a_user, a_session, an_event):
        found = a_user()
        a_session(agent="Firefox/128", address="192.0.2.9")
        an_event(
            "account_changed",
            actor=OWN_ID,
            address="192.0.2.1",
            details={"changed": ["roles"], "disabled": False, "deep": [{"a": 1}]},
        )
        an_event("signed_in", actor=found["id"])
        an_event("password_reset_requested", actor=str(uuid4()))
        an_event("factors_removed", actor="cli")
        an_event("something_new")

        text = administrator.get(page_of(found)).text

        assert "ada@flagon.test" in text
        assert "Firefox/128" in text
        assert "from 192.0.2.9" in text
        assert "<strong>Account changed</strong>" in text
        assert "<code>changed</code> <bdi>roles</bdi>" in text
        assert "<code>deep</code> <bdi>[{&#34;a&#34;: 1}]</bdi>" in text
        for actor in ("you", "the owner", "<code>cli</code>", "nobody known"):
            assert actor in text
        assert text.count(f'href="{PAGE}/') >= 1
        assert "<strong>Something new</strong>" in text

    def test_pages_through_what_happened(self, administrator, a_user, an_event):
        found = a_user()
        for _ in range(11):
            an_event()

        text = administrator.get(page_of(found)).text

        assert f"{page_of(found)}?after=10#events-head" in text
        assert (
            "Back to the start" in administrator.get(f"{page_of(found)}?after=10").text
        )

    def test_says_when_nothing_is_known(self, administrator, a_user):
        text = administrator.get(page_of(a_user())).text

        assert "They are signed in nowhere." in text
        assert "Nothing yet." in text

    def test_does_without_the_parts_that_are_missing(
        self, administrator, platform, a_user
    ):
        platform.silent |= {"/sessions", "/events"}

        answer = administrator.get(page_of(a_user()))

        assert answer.status_code == 200
        assert "The sessions cannot be shown right now." in answer.text
        assert "The events cannot be shown right now." in answer.text

    def test_that_is_gone_is_a_404(self, administrator):
        assert administrator.get(f"{PAGE}/{uuid4()}").status_code == 404


class TestChangeRoles:
    def test_gives_these_and_no_others(self, administrator, a_user):
        found = a_user(roles=["merchandiser"])
        text = administrator.get(page_of(found)).text
        assert 'value="merchandiser" checked' in text
        assert 'name="etag" value="&#34;v1&#34;"' in text

        answer = administrator.submit(f"{page_of(found)}/roles", **ROLES)

        assert answer.location == page_of(found)
        assert found["roles"] == ["customer", "operator"]
        assert "The roles are saved." in administrator.get(page_of(found)).text

    def test_may_leave_none(self, administrator, a_user):
        found = a_user()

        administrator.submit(f"{page_of(found)}/roles", etag='"v1"')

        assert found["roles"] == []

    def test_refuses_a_role_that_is_none(self, administrator, a_user):
        found = a_user()

        answer = administrator.submit(
            f"{page_of(found)}/roles", etag='"v1"', roles=["king"]
        )

        assert answer.status_code == 422
        assert 'id="roles-error"' in answer.text
        assert found["roles"] == ["customer"]

    def test_shows_what_somebody_else_did_meanwhile(self, administrator, a_user):
        found = a_user(version=2, roles=["admin"])

        answer = administrator.submit(f"{page_of(found)}/roles", **ROLES)

        assert answer.status_code == 409
        assert "Somebody changed this account" in answer.text
        assert "is now <bdi>admin</bdi>" in answer.text
        assert 'value="operator" checked' in answer.text
        assert 'name="etag" value="&#34;v2&#34;"' in answer.text
        assert found["roles"] == ["admin"]

    def test_needs_the_tag(self, administrator, a_user):
        found = a_user()

        answer = administrator.submit(f"{page_of(found)}/roles", roles=["admin"])

        assert answer.status_code == 400
        assert found["roles"] == ["customer"]

    def test_keeps_what_was_chosen_while_auth_does_not_answer(
        self, administrator, platform, a_user
    ):
        found = a_user()
        platform.frozen = (503, "")

        answer = administrator.submit(f"{page_of(found)}/roles", **ROLES)

        assert answer.status_code == 503
        assert "What you wrote is still here" in answer.text
        assert 'value="operator" checked' in answer.text

    def test_passes_on_a_refusal_that_is_no_bodys_choice(
        self, administrator, platform, a_user
    ):
        found = a_user()
        platform.frozen = (403, "You are no administrator any more.")

        answer = administrator.submit(f"{page_of(found)}/roles", **ROLES)

        assert answer.status_code == 403


class TestThreatNobodyLeft:
    """Nobody takes away the last administrator, nor their own right by accident."""

    def test_refusal_stands_at_the_roles(self, administrator, platform, a_user):
        found = a_user(roles=["admin"])
        platform.last_administrator = True

        answer = administrator.submit(f"{page_of(found)}/roles", **ROLES)

        assert answer.status_code == 409
        _, mark, after = answer.text.partition('id="roles-error"')
        assert mark
        assert "the last account that may change others" in after.partition("</p>")[0]
        assert found["roles"] == ["admin"]

    def test_refusal_stands_at_the_button_that_disables(
        self, administrator, platform, a_user
    ):
        found = a_user(roles=["admin"])
        platform.last_administrator = True

        answer = administrator.submit(f"{page_of(found)}/disable", etag='"v1"')

        assert answer.status_code == 409
        assert "the last account that may change others" in answer.text
        assert found["disabled"] is False

    def test_own_right_is_asked_for_once_more(self, administrator, a_user):
        own = a_user(id=OWN_ID, roles=["admin"])

        answer = administrator.submit(f"{page_of(own)}/roles", **ROLES)

        assert answer.status_code == 422
        assert 'id="give_up-error"' in answer.text
        assert 'value="operator" checked' in answer.text
        assert own["roles"] == ["admin"]

    def test_own_right_is_given_up_on_purpose(self, administrator, a_user):
        own = a_user(id=OWN_ID, roles=["admin"])

        answer = administrator.submit(f"{page_of(own)}/roles", give_up="y", **ROLES)

        assert answer.location == "/back-office"
        assert own["roles"] == ["customer", "operator"]

    def test_own_other_roles_are_changed_without(self, administrator, a_user):
        own = a_user(id=OWN_ID, roles=["admin"])
        text = administrator.get(page_of(own)).text
        assert "That is you: you are signed out at once" in text

        sent = {"roles": ["admin", "customer"], "etag": '"v1"'}
        administrator.submit(f"{page_of(own)}/roles", **sent)

        assert own["roles"] == ["admin", "customer"]
        assert own["version"] == 2


class TestSwitchUser:
    def test_keeps_out_and_lets_in(self, administrator, a_user):
        found = a_user()

        administrator.submit(f"{page_of(found)}/disable", etag='"v1"')
        assert found["disabled"] is True
        text = administrator.get(page_of(found)).text
        assert "disabled and signed out" in text
        assert "/enable" in text

        administrator.submit(f"{page_of(found)}/enable", etag='"v2"')
        assert found["disabled"] is False

    def test_leaves_what_changed_meanwhile(self, administrator, a_user):
        found = a_user(version=2)

        answer = administrator.submit(f"{page_of(found)}/disable", etag='"v1"')

        assert "It changed since you looked" in administrator.get(answer.location).text
        assert found["disabled"] is False


class TestSendPasswordReset:
    def test_has_a_link_mailed(self, administrator, platform, a_user):
        found = a_user()

        answer = administrator.submit(f"{page_of(found)}/password-reset")

        assert platform.mailed == [found["id"]]
        assert "The mail is on its way." in administrator.get(answer.location).text


class TestEndSessions:
    def test_ends_one(self, administrator, platform, a_user, a_session):
        one, other = a_session(), a_session()
        found = a_user()

        administrator.submit(f"{page_of(found)}/sessions/end", sid=one["sid"])

        assert platform.sessions == [other]
        assert "The session is ended." in administrator.get(page_of(found)).text

    def test_ends_all(self, administrator, platform, a_user, a_session):
        a_session()
        a_session()
        found = a_user()

        administrator.submit(f"{page_of(found)}/sessions/end-all")

        assert platform.sessions == []
        assert "signed out everywhere" in administrator.get(page_of(found)).text

    def test_tells_that_one_had_ended(self, administrator, a_user):
        found = a_user()

        administrator.submit(f"{page_of(found)}/sessions/end", sid="gone")

        assert "It had ended already." in administrator.get(page_of(found)).text

    @pytest.mark.parametrize("sid", ["", "../..", "a/b", "x" * 101])
    def test_ends_nothing_where_none_is_named(
        self, administrator, platform, a_user, a_session, sid
    ):
        """A name that is none must not become the path that ends all of them."""
        a_session()
        found = a_user()

        answer = administrator.submit(f"{page_of(found)}/sessions/end", sid=sid)

        assert answer.location == page_of(found)
        assert platform.sessions
        assert all(method != "DELETE" for method, _ in platform.calls)
