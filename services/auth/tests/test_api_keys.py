"""`/api/v1/api-keys` and what a key is exchanged for."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from flagon_auth.domain import api_keys
from flagon_auth.routes import api_keys as routes
from flagon_chassis import db

from .conftest import Browser, bearer_of, claims_of, me, redeem, token_request


@pytest.fixture(autouse=True)
def forget_recent_exchanges():
    routes._recent._found.clear()


@pytest.fixture
def owner(ada):
    return bearer_of(ada.tokens())


def create(app, caller, name="Nightly", scope="jobs:read", again=None, **more):
    keyed = {"Idempotency-Key": again} if again else {}
    return app.test_client().post(
        "/api/v1/api-keys",
        json={"name": name, "scope": scope, **more},
        headers={**caller, **keyed},
    )


def exchange(app, key):
    return app.test_client().get(
        "/internal/api-key", headers={"Authorization": f"Bearer {key}"}
    )


def token_of(app, key):
    answer = exchange(app, key)
    assert answer.status_code == 204
    return {"access_token": answer.headers["X-Access-Token"]}


class TestCreateApiKey:
    def test_shows_the_key_once(self, app, owner):
        made = create(app, owner)

        assert made.status_code == 201
        assert re.fullmatch(r"flg_[a-z2-7]{12}_[\w-]{43}", made.json["key"])
        assert made.json["prefix"] == made.json["key"].split("_")[1]
        shown = app.test_client().get(made.headers["Location"], headers=owner)
        assert "key" not in shown.json
        assert shown.json["scope"] == "jobs:read"

    def test_stores_no_key(self, app, owner):
        # The secret itself may have the sign that stands between the parts.
        secret = create(app, owner, again="k").json["key"].split("_", 2)[2]

        with app.app_context(), db.transaction() as session:
            for table in ("api_key", "idempotency_key", "audit_event", "outbox"):
                rows = session.execute(text(f"select t::text from {table} t"))
                for (row,) in rows:
                    assert secret not in row
                    assert secret.encode().hex() not in row

    def test_gives_the_same_key_to_the_same_request(self, app, owner):
        twice = [create(app, owner, again="n") for _ in "ab"]

        assert twice[0].json == twice[1].json
        listed = app.test_client().get("/api/v1/api-keys", headers=owner).json
        assert len(listed["items"]) == 1

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"scope": "catalog:write"}, 422),
            ({"scope": "openid"}, 422),
            ({"scope": " "}, 422),
            ({"scope": ""}, 422),
            ({"name": ""}, 422),
            ({"name": " "}, 422),
            ({"name": "a\u202eb"}, 422),
            ({"expires_in_days": 0}, 422),
            ({"expires_in_days": 367}, 422),
            ({"roles": ["admin"]}, 422),
        ],
    )
    def test_refuses(self, app, owner, change, status):
        assert create(app, owner, **change).status_code == status

    def test_refuses_more_than_one_can_oversee(self, app, owner):
        made = [create(app, owner).status_code for _ in range(21)]

        assert made == [201] * 20 + [409]

    def test_is_not_for_programs_of_others(self, app, ada):
        uri = "https://other.test/cb"
        page = ada.authorize(client_id="other", redirect_uri=uri, scope="openid")
        hidden = re.search(r'name="request" value="([^"]*)"', page.text)[1]
        csrf = re.search(r'name="csrf_token"[^>]*value="([^"]*)"', page.text)[1]
        agreed = ada.post(
            "/oauth/consent",
            {"csrf_token": csrf, "request": hidden, "choice": "allow"},
        )
        code = re.search(r"code=([^&]*)", agreed.location)[1]
        answer = redeem(app, code, client="other", redirect_uri=uri).json

        assert create(app, bearer_of(answer)).status_code == 403

    def test_is_not_for_services(self, app):
        token = token_request(app, "worker", grant_type="client_credentials").json

        assert create(app, bearer_of(token)).status_code == 403

    def test_is_not_for_keys(self, app, owner):
        key = create(app, owner).json["key"]

        assert create(app, bearer_of(token_of(app, key))).status_code == 403

    def test_is_not_for_strangers(self, app):
        assert create(app, {}).status_code == 401


class TestExchange:
    def test_gives_a_short_token_of_the_owner_with_the_keys_scope(
        self, app, ada, owner
    ):
        key = create(app, owner).json

        answer = token_of(app, key["key"])

        claims = claims_of(answer["access_token"])
        assert claims["sub"] == str(ada.account.id)
        assert claims["scope"] == "jobs:read"
        assert claims["sid"] == f"key-{key['id']}"
        assert claims["exp"] - claims["iat"] == 300
        assert me(app, answer).status_code == 200

    def test_notes_the_use(self, app, owner):
        made = create(app, owner)

        token_of(app, made.json["key"])

        shown = app.test_client().get(made.headers["Location"], headers=owner)
        assert shown.json["last_used_at"] is not None

    def test_is_remembered_for_a_second(self, app, owner):
        key = create(app, owner).json["key"]

        assert token_of(app, key) == token_of(app, key)

    def test_refuses_everything_else_alike(self, app, owner):
        key = create(app, owner).json["key"]
        other = create(app, owner).json["key"]
        wrong = [
            "",
            "flg_",
            key[:-1],
            key + "a",
            key.upper(),
            key[:16] + other[16:],
            f"flg_{'a' * 12}_{'b' * 43}",
            "a.b.c",
            key + "\x00",
        ]

        answers = [exchange(app, one) for one in wrong if one.isprintable()]

        assert {answer.status_code for answer in answers} == {401}
        challenges = {answer.headers["WWW-Authenticate"] for answer in answers}
        assert challenges == {'Bearer realm="flagon-api"'}
        assert len({answer.json["detail"] for answer in answers}) == 1

    def test_refuses_a_key_that_ran_out(self, app, parts, owner):
        key = create(app, owner, expires_in_days=1).json["key"]
        later = datetime.now(UTC) + timedelta(days=1, seconds=1)

        with (
            app.app_context(),
            db.transaction() as session,
            pytest.raises(api_keys.ApiKeyRefused),
        ):
            api_keys.exchange(session, parts.issuer, key, now=later)

    def test_follows_the_roles(self, app, person):
        person("mo@flagon.test", "merchandiser")
        browser = Browser(app)
        browser.sign_in("mo@flagon.test")
        key = create(app, bearer_of(browser.tokens()), scope="jobs:write jobs:read")
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account_role set role = 'customer'"))

        claims = claims_of(token_of(app, key.json["key"])["access_token"])

        assert claims["scope"] == "jobs:read"
        assert claims["roles"] == ["customer"]

    def test_refuses_the_key_of_a_disabled_account(self, app, owner):
        key = create(app, owner).json["key"]
        with app.app_context(), db.transaction() as session:
            session.execute(text("update account set disabled = true"))

        assert exchange(app, key).status_code == 401


class TestRevokeApiKey:
    def test_ends_the_key_and_its_tokens(self, app, owner):
        made = create(app, owner)
        key = made.json["key"]
        token = token_of(app, key)
        routes._recent._found.clear()

        ended = app.test_client().delete(made.headers["Location"], headers=owner)

        assert ended.status_code == 204
        assert me(app, token).status_code == 401
        assert exchange(app, key).status_code == 401
        gone = app.test_client().get(made.headers["Location"], headers=owner)
        assert gone.status_code == 404

    def test_reaches_only_ones_own(self, app, owner, person):
        made = create(app, owner)
        person("eve@flagon.test")
        eve = Browser(app)
        eve.sign_in("eve@flagon.test")

        tried = app.test_client().delete(
            made.headers["Location"], headers=bearer_of(eve.tokens())
        )

        assert tried.status_code == 404
        assert exchange(app, made.json["key"]).status_code == 204


class TestRoleChange:
    def test_ends_the_tokens_of_keys_at_once(self, app, ada, owner, person):
        token = token_of(app, create(app, owner).json["key"])
        person("root@flagon.test", "admin")
        root = Browser(app)
        root.sign_in("root@flagon.test")

        changed = app.test_client().patch(
            f"/api/v1/users/{ada.account.id}",
            json={"roles": ["merchandiser"]},
            headers={**bearer_of(root.tokens()), "If-Match": "*"},
        )

        assert changed.status_code == 200
        assert me(app, token).status_code == 401


class TestPage:
    PATH = "/account/api-keys"

    def make(self, browser, **changes):
        hidden = browser.form(self.PATH)
        return browser.post(
            self.PATH,
            {
                **hidden,
                "name": "Nightly",
                "scopes": ["jobs:read"],
                "days": 30,
                **changes,
            },
        )

    def test_asks_strangers_to_sign_in(self, browser):
        for answer in (
            browser.get(self.PATH),
            browser.post(self.PATH),
        ):
            assert answer.status_code in {303, 400}

    def test_shows_a_new_key_once(self, app, ada):
        page = self.make(ada)

        assert page.status_code == 201
        key = re.search(r"flg_[a-z2-7]{12}_[\w-]{43}", page.text)[0]
        assert page.headers["Cache-Control"] == "no-store"
        assert key not in ada.get(self.PATH).text
        assert exchange(app, key).status_code == 204

    def test_offers_what_the_roles_allow(self, ada):
        page = ada.get(self.PATH).text

        assert re.findall(r'name="scopes" value="([^"]*)"', page) == [
            "reviews:write",
            "jobs:read",
        ]

    @pytest.mark.parametrize(
        "change",
        [{"scopes": []}, {"scopes": ["users:write"]}, {"name": ""}, {"days": 9}],
    )
    def test_says_what_is_wrong(self, ada, change):
        page = self.make(ada, **change)

        assert page.status_code == 422
        assert "about--bad" in page.text

    def test_revokes(self, app, ada):
        key = re.search(r"flg_[a-z2-7]{12}_[\w-]{43}", self.make(ada).text)[0]
        action = re.search(
            r'action="(/account/api-keys/[^"]*/revoke)"', ada.get(self.PATH).text
        )[1]
        hidden = ada.form(self.PATH)

        ended = ada.post(action, hidden)

        assert ended.status_code == 303
        assert exchange(app, key).status_code == 401
        assert "Parrot" not in ada.get(self.PATH).text
        assert ada.post(action, hidden).status_code == 303

    def test_needs_the_forms_token(self, ada):
        assert (
            ada.post(self.PATH, {"name": "x", "scopes": ["jobs:read"]}).status_code
            == 400
        )
