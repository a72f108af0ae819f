"""`/api/v1/keys`: signing keys seen, rotated and dropped by administrators."""

import pytest

from .conftest import Browser, bearer_of, header_of, me


@pytest.fixture
def root(fresh_app, person):
    person("root@flagon.test", "admin", where=fresh_app)
    browser = Browser(fresh_app)
    browser.sign_in("root@flagon.test")
    return browser


def send(app, tokens, method, path="/api/v1/keys", body=None):
    return app.test_client().open(
        path, method=method, json=body, headers=bearer_of(tokens)
    )


class TestListKeys:
    def test_shows_public_halves_only(self, fresh_app, root):
        found = send(fresh_app, root.tokens(scope=None), "GET")

        assert found.status_code == 200
        assert {key["state"] for key in found.json["items"]} == {"active", "pending"}
        for key in found.json["items"]:
            assert not {"d", "p", "q"} & set(key["public_jwk"])
        assert "sealed" not in found.text

    def test_is_for_administrators(self, ada, app):
        assert send(app, ada.tokens(), "GET").status_code == 403


class TestRotateKeys:
    def test_waits_for_verifiers(self, fresh_app, root):
        tokens = root.tokens(scope=None)

        early = send(fresh_app, tokens, "POST", "/api/v1/keys/rotate", {})
        forced = send(
            fresh_app, tokens, "POST", "/api/v1/keys/rotate", {"at_once": True}
        )

        assert early.status_code == 409
        assert forced.status_code == 200
        states = [key["state"] for key in forced.json["items"]]
        assert "retiring" in states
        assert header_of(root.tokens()["access_token"])["kid"] in [
            key["kid"] for key in forced.json["items"] if key["state"] == "active"
        ]
        assert me(fresh_app, tokens).status_code == 200


class TestDropKey:
    def test_makes_its_tokens_worthless(self, fresh_app, root):
        tokens = root.tokens(scope=None)
        kid = header_of(tokens["access_token"])["kid"]

        dropped = send(fresh_app, tokens, "DELETE", f"/api/v1/keys/{kid}")

        assert dropped.status_code == 204
        assert me(fresh_app, tokens).status_code == 401
        assert me(fresh_app, root.tokens()).status_code == 200
        listed = send(fresh_app, root.tokens(scope=None), "GET").json["items"]
        assert [key["state"] for key in listed if key["kid"] == kid] == ["retired"]

    def test_knows_which_there_are_not(self, fresh_app, root):
        tokens = root.tokens(scope=None)

        assert send(fresh_app, tokens, "DELETE", "/api/v1/keys/none").status_code == 404
