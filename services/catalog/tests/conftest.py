"""The catalog against a real Postgres and a real Redis."""

from uuid import uuid4

import pytest

import flagon_catalog
from flagon_catalog.app import create_app
from flagon_catalog.settings import Settings
from flagon_chassis import db
from flagon_chassis.testing import ISSUER


def make_settings(database_url, redis_url, **values):
    return Settings(
        **{
            "environment": "testing",
            "secret_key": "s" * 32,
            "database_url": database_url,
            "owner_database_url": database_url,
            "redis_store_url": redis_url,
            "redis_cache_url": redis_url,
            "public_url": ISSUER,
            "rate_limit": "1000000 per minute",
            "log_level": "ERROR",
            **values,
        }
    )


@pytest.fixture(scope="session")
def database_url(make_database):
    """An own database with the schema migrated."""
    url = make_database()
    db.migrate(make_settings(url, "redis://unused"), MIGRATIONS)
    return url


@pytest.fixture(scope="session")
def whole_app(database_url, redis_server, bearer):
    """The app as it runs; what it writes stays, so tests use it with new names."""
    return create_app(make_settings(database_url, redis_server.url), jwks=bearer.jwks)


@pytest.fixture
def app(whole_app, sessions, monkeypatch):
    """The app inside a transaction that is rolled back after the test."""
    monkeypatch.setitem(whole_app.extensions, "flagon.sessions", sessions)
    return whole_app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="session")
def merchandiser(bearer):
    """Headers of somebody who may change the catalog; one account for the whole run."""
    return bearer("catalog:write", sub=str(uuid4()))


@pytest.fixture
def make(client, merchandiser):
    """Create a product through the API and return it with its ETag."""

    def make(**fields):
        body = {
            "sku": f"sku-{uuid4().hex[:8]}",
            "name": "Mug",
            "price_minor": 950,
            **fields,
        }
        answer = client.post("/api/v1/products", json=body, headers=merchandiser)
        assert answer.status_code == 201, answer.text
        return {**answer.json, "etag": answer.headers["ETag"]}

    return make
