"""`/api/v1/clients`: registered by administrators, service accounts among them."""

import re

import pytest
from sqlalchemy import text

from flagon_chassis import db

from .conftest import (
    CALLBACK,
    Browser,
    bearer_of,
    claims_of,
    me,
    redeem,
    refresh,
    request_for,
)

PATH = "/api/v1/clients"
SERVICE = {
    "name": "Nightly report",
    "grant_types": ["client_credentials"],
    "scope": "catalog:read jobs:read",
}
SHOP = {
    "name": "Somebody's shop",
    "redirect_uris": [CALLBACK],
    "scope": "openid email offline_access",
}


@pytest.fixture
def admin(app, person):
    person("root@flagon.test", "admin")
    browser = Browser(app)
    browser.sign_in("root@flagon.test")
    yield bearer_of(browser.tokens(scope=None))
    with app.app_context(), db.transaction() as session:
        session.execute(
            text(
                "delete from client where not first_party and id not in ('other', 'worker')"
            )
        )


@pytest.fixture
def send(app, admin):
    def send(method, path=PATH, body=None, etag=None, **headers):
        if etag:
            headers["If-Match"] = etag
        return app.test_client().open(
            path, method=method, json=body, headers={**admin, **headers}
        )

    return send


def token(app, made, secret=None):
    return app.test_client().post(
        "/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(made.json["id"], secret or made.json["client_secret"]),
    )


class TestCreateClient:
    def test_makes_a_service_account(self, app, send):
        made = send("POST", body=SERVICE)

        assert made.status_code == 201
        claims = claims_of(token(app, made).json["access_token"])
        assert claims["sub"] == claims["client_id"] == made.json["id"]
        assert claims["scope"] == "catalog:read jobs:read"

    def test_shows_the_secret_once(self, send):
        made = send("POST", body=SERVICE)
        found = send("GET", made.headers["Location"])

        assert len(made.json["client_secret"]) == 43
        assert "client_secret" not in found.json
        assert found.headers["ETag"] == made.headers["ETag"]

    def test_repeats_its_answer_without_storing_it_readable(self, app, send):
        key = {"Idempotency-Key": "same"}
        first, second = (send("POST", body=SERVICE, **key) for _ in range(2))

        assert first.json == second.json
        with app.app_context(), db.transaction() as session:
            stored = session.execute(text("select t::text from idempotency_key t"))
            for (row,) in stored:
                assert first.json["client_secret"].encode().hex() not in row

    def test_makes_one_that_asks_people(self, app, send, ada):
        made = send("POST", body={**SHOP, "token_endpoint_auth_method": "none"})

        page = ada.get(
            "/oauth/authorize",
            query_string=request_for(client_id=made.json["id"], scope="openid"),
        )

        assert made.json["client_secret"] is None
        assert "shop" in page.text
        assert page.status_code == 200

    @pytest.mark.parametrize(
        "change",
        [
            {"redirect_uris": []},
            {"redirect_uris": ["http://shop.test/cb"]},
            {"redirect_uris": ["https://shop.test/*"]},
            {"scope": "openid everything"},
            {"scope": "mails:send"},
            {"grant_types": ["password"]},
            {"grant_types": []},
            {"token_endpoint_auth_method": "private_key_jwt"},
            {"jwks": {"keys": []}},
            {"backchannel_logout_uri": "com.app:/x"},
            {"first_party": True},
            {"name": ""},
        ],
    )
    def test_refuses(self, send, change):
        assert send("POST", body={**SHOP, **change}).status_code in {403, 422}

    @pytest.mark.parametrize(
        ("roles", "status"), [(["customer"], 403), (["operator"], 403)]
    )
    def test_is_for_administrators(self, app, person, roles, status):
        person("mo@flagon.test", *roles)
        browser = Browser(app)
        browser.sign_in("mo@flagon.test")

        response = app.test_client().post(
            PATH, json=SERVICE, headers=bearer_of(browser.tokens(scope=None))
        )

        assert response.status_code == status

    def test_gives_no_service_account_more_than_one_has(self, app, person):
        """An administrator's narrow token cannot make itself a wide one."""
        person("root@flagon.test", "admin")
        browser = Browser(app)
        browser.sign_in("root@flagon.test")
        narrow = bearer_of(browser.tokens(scope="openid users:write"))

        response = app.test_client().post(
            PATH, json={**SERVICE, "scope": "catalog:write"}, headers=narrow
        )

        assert response.status_code == 403
        assert response.json["scopes"] == ["catalog:write"]


class TestListClients:
    def test_gives_pages_that_hold_every_client_once(self, send):
        found, cursor = [], ""

        while cursor is not None:
            page = send(
                "GET", f"{PATH}?limit=2" + (f"&cursor={cursor}" if cursor else "")
            )
            found += [item["id"] for item in page.json["items"]]
            cursor = page.json["next_cursor"]

        assert found == sorted(set(found))
        assert {"cli", "other", "web", "worker"} <= set(found)


class TestChangeClient:
    def test_changes_what_is_sent_and_nothing_else(self, send):
        made = send("POST", body=SHOP)
        path = made.headers["Location"]

        changed = send("PATCH", path, {"name": "New"}, made.headers["ETag"])

        assert changed.status_code == 200
        assert changed.json == {
            **{k: v for k, v in made.json.items() if k != "client_secret"},
            "name": "New",
            "version": 2,
            "updated_at": changed.json["updated_at"],
        }

    def test_needs_to_know_the_version(self, send):
        path = send("POST", body=SHOP).headers["Location"]

        assert send("PATCH", path, {"name": "New"}).status_code == 428
        assert send("PATCH", path, {"name": "New"}, '"v9"').status_code == 412

    def test_refuses_what_could_not_be_registered(self, send):
        made = send("POST", body=SHOP)

        refused = send("PATCH", made.headers["Location"], {"redirect_uris": []}, "*")

        assert refused.status_code == 422

    @pytest.mark.parametrize("known", ["web", "cli"])
    def test_leaves_the_platforms_own_alone(self, send, known):
        assert send("PATCH", f"{PATH}/{known}", {"name": "x"}, "*").status_code == 403
        assert send("DELETE", f"{PATH}/{known}", etag="*").status_code == 403
        assert send("POST", f"{PATH}/{known}/secret", {}).status_code == 403

    @pytest.mark.parametrize("unknown", ["nobody", "a b", "x" * 300])
    def test_knows_who_there_is_not(self, send, unknown):
        assert send("GET", f"{PATH}/{unknown}").status_code == 404

    def test_ends_every_token_of_a_disabled_client(self, app, send, ada):
        made = send("POST", body={**SHOP, "token_endpoint_auth_method": "none"})
        tokens = agreed(app, ada, made.json["id"])
        assert me(app, tokens).status_code == 200

        send("PATCH", made.headers["Location"], {"disabled": True}, "*")

        assert me(app, tokens).status_code == 401
        again = refresh(app, tokens["refresh_token"], client=made.json["id"])
        assert again.status_code in {400, 401}

    def test_ends_a_disabled_service_account(self, app, send):
        made = send("POST", body=SERVICE)
        held = token(app, made).json

        send("PATCH", made.headers["Location"], {"disabled": True}, "*")

        used = app.test_client().get("/api/v1/me", headers=bearer_of(held))
        assert used.status_code == 401
        assert token(app, made).status_code == 401


class TestDeleteClient:
    def test_ends_all_that_it_was_given(self, app, send, ada):
        made = send("POST", body={**SHOP, "token_endpoint_auth_method": "none"})
        tokens = agreed(app, ada, made.json["id"])

        gone = send("DELETE", made.headers["Location"], etag=made.headers["ETag"])

        assert gone.status_code == 204
        assert send("GET", made.headers["Location"]).status_code == 404
        assert me(app, tokens).status_code == 401


class TestRotateSecret:
    def test_lets_both_work_for_a_while(self, app, send):
        made = send("POST", body=SERVICE)

        new = send(
            "POST", made.headers["Location"] + "/secret", {"overlap_seconds": 60}
        )

        assert new.status_code == 201
        assert new.json["previous_works_until"] is not None
        assert token(app, made).status_code == 200
        assert token(app, made, new.json["client_secret"]).status_code == 200

    def test_ends_one_that_leaked_with_all_it_brought(self, app, send):
        made = send("POST", body=SERVICE)
        held = token(app, made).json

        new = send("POST", made.headers["Location"] + "/secret", {"overlap_seconds": 0})

        assert new.json["previous_works_until"] is None
        assert token(app, made).status_code == 401
        used = app.test_client().get("/api/v1/me", headers=bearer_of(held))
        assert used.status_code == 401

    def test_is_nothing_for_a_client_without(self, send):
        made = send("POST", body={**SHOP, "token_endpoint_auth_method": "none"})

        response = send("POST", made.headers["Location"] + "/secret", {})

        assert response.status_code == 409


def agreed(app, browser, client_id):
    """Return the tokens that a person lets a public client have."""
    page = browser.get(
        "/oauth/authorize",
        query_string=request_for(
            client_id=client_id, scope="openid email offline_access"
        ),
    )
    hidden = re.search(r'name="request" value="([^"]*)"', page.text)[1]
    csrf = re.search(r'name="csrf_token"[^>]*value="([^"]*)"', page.text)[1]
    answer = browser.post(
        "/oauth/consent", {"csrf_token": csrf, "request": hidden, "choice": "allow"}
    )
    code = re.search(r"code=([^&]*)", answer.location)[1]
    tokens = redeem(app, code, client=client_id)
    assert tokens.status_code == 200, tokens.json
    return tokens.json
