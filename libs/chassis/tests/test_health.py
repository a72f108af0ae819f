import pytest
from flask import Flask

from flagon_chassis import health


@pytest.fixture
def app():
    app = Flask("things")
    health.init_app(app)
    yield app
    health.reset()


def fail():
    raise ConnectionError("secret address")


class TestLivez:
    def test_touches_nothing(self, app):
        health.check(app, "postgres", fail)

        assert app.test_client().get("/livez").json["status"] == "alive"


class TestReadyz:
    def test_names_every_dependency(self, app):
        health.check(app, "postgres", lambda: None)

        response = app.test_client().get("/readyz")

        assert response.status_code == 200
        assert response.json["status"] == "ready"
        assert response.json["checks"]["postgres"]["ok"] is True
        assert response.json["checks"]["postgres"]["ms"] >= 0
        assert response.headers["Cache-Control"] == "no-store"

    def test_fails_without_a_required_one(self, app):
        health.check(app, "postgres", fail)

        response = app.test_client().get("/readyz")

        assert response.status_code == 503
        assert response.json["status"] == "unavailable"
        assert response.json["checks"]["postgres"]["error"] == "ConnectionError"
        assert "secret" not in response.text

    def test_bears_the_loss_of_others(self, app):
        health.check(app, "cache", fail, required=False)

        assert app.test_client().get("/readyz").status_code == 200

    def test_fails_while_draining(self, app):
        health.drain()

        response = app.test_client().get("/readyz")

        assert (response.status_code, response.json["status"]) == (503, "draining")
