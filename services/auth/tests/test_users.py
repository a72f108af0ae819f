"""`/api/v1/me` and `/api/v1/users`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from flagon_auth.domain import accounts
from flagon_auth.models import Mail
from flagon_chassis import db

from .conftest import Browser, bearer_of, me, refresh, token_request


@pytest.fixture
def admin(app, person):
    person("root@flagon.test", "admin")
    browser = Browser(app)
    browser.sign_in("root@flagon.test")
    return bearer_of(browser.tokens(scope=None))


def patch(app, account, headers, change, etag='"v1"'):
    return app.test_client().patch(
        f"/api/v1/users/{account.id}",
        json=change,
        headers={**headers, **({"If-Match": etag} if etag else {})},
    )


def listed(app, headers, **query):
    page = app.test_client().get("/api/v1/users", query_string=query, headers=headers)
    assert page.status_code == 200, page.text
    return [item["email"] for item in page.json["items"]]


class TestCreateUser:
    def create(self, app, headers, **body):
        return app.test_client().post(
            "/api/v1/users",
            json={"email": "new@flagon.test", "name": "New", **body},
            headers=headers,
        )

    def test_lets_the_owner_choose_a_password_by_mail(self, app, admin):
        made = self.create(app, admin, roles=["merchandiser"])

        assert made.status_code == 201
        assert made.json["roles"] == ["merchandiser"]
        found = app.test_client().get(made.headers["Location"], headers=admin)
        assert found.json == made.json
        with app.app_context(), db.transaction() as session:
            [mail] = session.scalars(
                select(Mail).where(Mail.email == "new@flagon.test")
            )
            assert mail.template == "reset_password"
        assert Browser(app).sign_in("new@flagon.test").status_code == 422

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"email": "root@flagon.test"}, 409),
            ({"email": "nobody"}, 422),
            ({"roles": ["king"]}, 422),
            ({"name": "a\u202eb"}, 422),
            ({"password": "kettle-marble-55-orchid"}, 422),
        ],
    )
    def test_refuses(self, app, admin, change, status):
        assert self.create(app, admin, **change).status_code == status

    def test_makes_one_account_for_a_repeated_request(self, app, admin):
        keyed = {**admin, "Idempotency-Key": "k"}

        twice = [self.create(app, keyed) for _ in range(2)]

        assert twice[0].json == twice[1].json

    def test_sends_a_new_link_on_demand(self, app, admin, person):
        account = person()

        sent = app.test_client().post(
            f"/api/v1/users/{account.id}/password-reset", headers=admin
        )

        assert sent.status_code == 202
        with app.app_context(), db.transaction() as session:
            [mail] = session.scalars(select(Mail).filter_by(account_id=account.id))
            assert mail.template == "reset_password"


class TestDeleteUser:
    def test_signs_out_and_forgets(self, app, admin, ada):
        tokens = ada.tokens()

        gone = app.test_client().delete(
            f"/api/v1/users/{ada.account.id}", headers={**admin, "If-Match": '"v1"'}
        )

        assert gone.status_code == 204
        assert me(app, tokens).status_code == 401
        assert ada.sign_in().status_code == 422
        with app.app_context(), db.transaction() as session:
            events = session.scalars(text("select name from outbox"))
            assert "market.flagon.user.deleted.v1" in set(events)

    def test_needs_to_know_the_version(self, app, admin, person):
        path = f"/api/v1/users/{person().id}"

        assert app.test_client().delete(path, headers=admin).status_code == 428


class TestSessions:
    def test_are_listed_and_ended_one_by_one(self, app, admin, ada):
        path = f"/api/v1/users/{ada.account.id}/sessions"
        tokens = ada.tokens()
        other = Browser(app)
        other.sign_in()
        [late, early] = app.test_client().get(path, headers=admin).json["items"]

        ended = app.test_client().delete(f"{path}/{early['sid']}", headers=admin)

        assert ended.status_code == 204
        assert me(app, tokens).status_code == 401
        left = app.test_client().get(path, headers=admin).json["items"]
        assert [one["sid"] for one in left] == [late["sid"]]
        again = app.test_client().delete(f"{path}/nothing", headers=admin)
        assert again.status_code == 404

    def test_end_all_at_once(self, app, admin, ada):
        path = f"/api/v1/users/{ada.account.id}/sessions"
        tokens = ada.tokens()

        assert app.test_client().delete(path, headers=admin).status_code == 204

        assert me(app, tokens).status_code == 401
        assert app.test_client().get(path, headers=admin).json["items"] == []

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_are_for_administrators(self, app, ada, method):
        answer = app.test_client().open(
            f"/api/v1/users/{ada.account.id}/sessions",
            method=method,
            headers=bearer_of(ada.tokens()),
        )

        assert answer.status_code == 403


class TestFilters:
    def test_find_by_address_role_and_state(self, app, admin, person):
        person("mo@flagon.test", "merchandiser")
        person("gone@flagon.test", disabled=True)

        assert listed(app, admin, email="MO@flagon.test") == ["mo@flagon.test"]
        assert listed(app, admin, role="merchandiser") == ["mo@flagon.test"]
        assert listed(app, admin, disabled="true") == ["gone@flagon.test"]

    def test_a_cursor_belongs_to_its_filters(self, app, admin, person):
        person("mo@flagon.test", "merchandiser")
        first = app.test_client().get("/api/v1/users?limit=1", headers=admin).json

        other = app.test_client().get(
            "/api/v1/users",
            query_string={"role": "customer", "cursor": first["next_cursor"]},
            headers=admin,
        )

        assert other.status_code == 422


class TestEvents:
    def test_tell_what_happened_to_an_account_newest_first(self, app, admin, person):
        account = person()
        Browser(app).sign_in()
        assert patch(app, account, admin, {"disabled": True}).status_code == 200

        events = app.test_client().get(
            f"/api/v1/users/{account.id}/events", headers=admin
        )

        items = events.json["items"]
        assert [item["action"] for item in items] == ["account_changed", "signed_in"]
        assert items[0]["details"]["disabled"] is True
        assert items[0]["actor"] != items[1]["actor"]
        assert items[1]["address"] == "127.0.0.1"

    def test_come_in_pages(self, app, admin, person):
        account = person()
        for _ in range(3):
            Browser(app).sign_in()
        path, cursor, found = f"/api/v1/users/{account.id}/events", "", []

        while cursor is not None:
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = app.test_client().get(path, query_string=query, headers=admin).json
            found += [item["sequence"] for item in page["items"]]
            cursor = page["next_cursor"]

        assert len(found) == 3
        assert found == sorted(found, reverse=True)

    def test_of_everybody_are_one_list(self, app, admin, person):
        person()
        Browser(app).sign_in()

        page = app.test_client().get("/api/v1/users/events?limit=1", headers=admin)

        assert page.json["items"][0]["action"] == "signed_in"

    @pytest.mark.parametrize("path", ["events", "{id}/events"])
    def test_are_for_administrators(self, app, ada, path):
        response = app.test_client().get(
            f"/api/v1/users/{path.format(id=ada.account.id)}",
            headers=bearer_of(ada.tokens()),
        )

        assert response.status_code == 403


class TestFindMe:
    def test_is_the_own_account(self, ada, app):
        found = me(app, ada.tokens())

        assert found.json["id"] == str(ada.account.id)
        assert found.json["roles"] == ["customer"]
        assert found.headers["ETag"] == '"v1"'
        assert "password" not in found.get_data(as_text=True)

    def test_is_nothing_for_a_service(self, app):
        token = token_request(app, "worker", grant_type="client_credentials").json

        assert me(app, token).status_code == 403

    def test_needs_a_token(self, app):
        assert app.test_client().get("/api/v1/me").status_code == 401


class TestListUsers:
    def test_gives_pages_that_hold_everybody_once(self, app, admin, person):
        for number in range(5):
            person(f"n{number}@flagon.test")
        found, cursor = [], ""

        while cursor is not None:
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = app.test_client().get(
                "/api/v1/users", query_string=query, headers=admin
            )
            found += [item["email"] for item in page.json["items"]]
            cursor = page.json["next_cursor"]

        assert found == [
            "root@flagon.test",
            *(f"n{number}@flagon.test" for number in range(5)),
        ]

    def test_is_for_admins(self, ada, app):
        answer = app.test_client().get(
            "/api/v1/users", headers=bearer_of(ada.tokens(scope=None))
        )

        assert answer.status_code == 403

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "cursor=forged", "sort=email"]
    )
    def test_refuses_what_it_does_not_know(self, app, admin, query):
        answer = app.test_client().get(f"/api/v1/users?{query}", headers=admin)

        assert answer.status_code == 422


class TestFindUser:
    def test_is_one_account(self, app, admin, person):
        account = person()

        found = app.test_client().get(f"/api/v1/users/{account.id}", headers=admin)

        assert found.json["email"] == "ada@flagon.test"

    def test_of_an_unknown_id_is_a_404(self, app, admin):
        answer = app.test_client().get(f"/api/v1/users/{uuid4()}", headers=admin)

        assert answer.status_code == 404


class TestChangeUser:
    def test_new_roles_count_at_once(self, ada, app, admin):
        tokens = ada.tokens(scope=None)

        answer = patch(app, ada.account, admin, {"roles": ["merchandiser"]})

        assert answer.json["roles"] == ["merchandiser"]
        assert answer.headers["ETag"] == '"v2"'
        assert me(app, tokens).status_code == 401
        fresh = refresh(app, tokens["refresh_token"]).json
        assert me(app, fresh).status_code == 200
        assert "catalog:write" not in fresh["scope"]
        assert "catalog:write" in ada.tokens(scope=None)["scope"]

    def test_disabling_ends_everything_at_once(self, ada, app, admin, store):
        tokens = ada.tokens()

        patch(app, ada.account, admin, {"disabled": True})

        assert me(app, tokens).status_code == 401
        assert refresh(app, tokens["refresh_token"]).status_code == 400
        assert ada.get("/account").status_code == 303
        assert ada.sign_in().status_code == 422
        assert store.exists(f"denylist:sub:{ada.account.id}")

    def test_enabling_lets_the_person_back_in(self, app, admin, person):
        account = person("gone@flagon.test", disabled=True)

        patch(app, account, admin, {"disabled": False})
        browser = Browser(app)
        browser.sign_in("gone@flagon.test")

        assert me(app, browser.tokens()).status_code == 200

    def test_name_can_be_put_right(self, ada, app, admin):
        tokens = ada.tokens()

        answer = patch(app, ada.account, admin, {"name": "Ada  Lovelace "})

        assert answer.json["name"] == "Ada Lovelace"
        assert me(app, tokens).status_code == 200

    def test_without_a_difference_changes_nothing(self, app, admin, person):
        account = person()
        same = {"roles": ["customer"], "disabled": False, "name": "Ada Example"}

        assert patch(app, account, admin, same).json["version"] == 1
        assert patch(app, account, admin, {}).json["version"] == 1

    @pytest.mark.parametrize(
        ("etag", "status"), [(None, 428), ('"v9"', 412), ('W/"v1"', 412), ("*", 200)]
    )
    def test_needs_the_version_that_was_read(self, app, admin, person, etag, status):
        answer = patch(app, person(), admin, {"disabled": True}, etag)

        assert answer.status_code == status

    @pytest.mark.parametrize(
        "change",
        [
            {"roles": ["emperor"]},
            {"roles": "admin"},
            {"email": "new@flagon.test"},
            {"password_hash": "x"},
            {"version": 7},
            {"name": ""},
            {"name": "a\u202eb"},
            {"disabled": "perhaps"},
            [],
        ],
    )
    def test_refuses_other_fields_and_values(self, app, admin, person, change):
        assert patch(app, person(), admin, change).status_code == 422

    def test_is_for_admins(self, ada, app):
        token = bearer_of(ada.tokens(scope=None))

        assert patch(app, ada.account, token, {"roles": ["admin"]}).status_code == 403

    def test_is_not_open_to_a_cookie(self, ada, app):
        answer = ada.http.patch(
            f"/api/v1/users/{ada.account.id}", json={"roles": ["admin"]}
        )

        assert answer.status_code == 401


class TestThreatNobodyLeft:
    """The right to change accounts cannot be lost by accident, nor in a race."""

    @pytest.fixture
    def own(self, app, admin):
        """The account of the only administrator that can sign in."""
        found = app.test_client().get("/api/v1/me", headers=admin).json
        return SimpleNamespace(**found)

    @pytest.mark.parametrize(
        "change", [{"roles": ["operator"]}, {"roles": []}, {"disabled": True}]
    )
    def test_last_administrator_stays_one(self, app, admin, own, person, change):
        person("gone@flagon.test", "admin", disabled=True)

        answer = patch(app, own, admin, change)

        assert answer.status_code == 409
        assert answer.json["type"].endswith("#last-administrator")
        assert listed(app, admin, role="admin", disabled="false") == [own.email]

    def test_last_administrator_is_not_deleted(self, app, admin, own):
        answer = app.test_client().delete(
            f"/api/v1/users/{own.id}", headers={**admin, "If-Match": '"v1"'}
        )

        assert answer.status_code == 409
        assert listed(app, admin) == [own.email]

    def test_last_administrator_may_change_otherwise(self, app, admin, own):
        change = {"roles": ["admin", "operator"], "name": "Root"}

        assert patch(app, own, admin, change).status_code == 200

    def test_two_who_demote_each_other_leave_one(self, app, admin, own, person):
        other = person("other@flagon.test", "admin")
        asked = threading.Event()

        def demote():
            with app.app_context(), db.transaction() as session:
                asked.set()
                found = accounts.find_account(session, other.id, lock=True)
                accounts.keep_administrator(session, found)

        with app.app_context(), ThreadPoolExecutor(1) as pool:
            with db.transaction() as session:
                found = accounts.find_account(session, UUID(own.id), lock=True)
                accounts.keep_administrator(session, found)
                late = pool.submit(demote)
                # Whenever the other one asks: the turn is ours until we are done.
                asked.wait()
                accounts.change_account(
                    found, {"roles": ["customer"]}, now=datetime.now(UTC)
                )
            with pytest.raises(accounts.LastAdministrator):
                late.result()
