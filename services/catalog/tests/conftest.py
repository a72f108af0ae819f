"""The catalog against a real Postgres and a real Redis."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import select

from flagon_catalog.__main__ import MIGRATIONS
from flagon_catalog.app import create_app
from flagon_catalog.settings import Settings
from flagon_chassis import db
from flagon_chassis.tables import outbox
from flagon_chassis.testing import ISSUER, free_port

PRODUCTS = "/api/v1/products"
CATEGORIES = "/api/v1/categories"
TAGS = "/api/v1/tags"

# A busy machine is no reason to call a property wrong.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def make_settings(redis_server, tmp_path_factory):
    """Settings of a catalog that is being tested; arguments replace them."""
    images_dir = tmp_path_factory.mktemp("images")

    def make(database_url, **values):
        return Settings(
            **{
                "environment": "testing",
                "secret_key": "s" * 32,
                "database_url": database_url,
                "owner_database_url": database_url,
                "redis_store_url": redis_server.url,
                "redis_cache_url": redis_server.url,
                "public_url": ISSUER,
                "rate_limit": "1000000 per minute",
                "review_limit": "1000000 per minute",
                "facet_limit": "1000000 per minute",
                "graphql_limit": "1000000 per minute",
                "export_limit": "1000000 per minute",
                "image_limit": "1000000 per minute",
                "images_dir": images_dir,
                "log_level": "ERROR",
                **values,
            }
        )

    return make


@pytest.fixture(scope="session")
def make_app(make_settings, bearer, postgres_server):
    """An app for the database at a URL."""
    made = []

    def make(database_url, **values):
        app = create_app(make_settings(database_url, **values), jwks=bearer.jwks)
        made.append(app)
        return app

    yield make
    for app in made:
        # A server that is asked to stop waits for its connections to end.
        app.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def run_catalog(redis_server, tmp_path):
    """Start a process of the catalog: its command, its database, `CATALOG_` settings."""
    started = []

    def run(command, database_url, **settings):
        values = {
            "ENVIRONMENT": "testing",
            "SECRET_KEY": "s" * 32,
            "DATABASE_URL": database_url,
            "REDIS_STORE_URL": redis_server.url,
            "REDIS_CACHE_URL": redis_server.url,
            "BIND": f"127.0.0.1:{free_port()}",
            "IMAGES_DIR": str(tmp_path / "images"),
            **settings,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "flagon_catalog", command],
            env={**os.environ, **{f"CATALOG_{k}": v for k, v in values.items()}},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def migrated(make_database, make_settings):
    """A function that makes a database with our tables and returns its URL."""

    def make():
        url = make_database()
        db.migrate(make_settings(url), MIGRATIONS)
        return url

    return make


@pytest.fixture(scope="session")
def database_url(migrated):
    return migrated()


@pytest.fixture(scope="session")
def _app(database_url, make_app):
    # What is rolled back tells nobody that the content is the old one again.
    return make_app(database_url, answer_seconds=0)


@pytest.fixture
def app(_app, sessions, monkeypatch):
    """The app inside a transaction that is rolled back after the test."""
    for kind in ("sessions", "readers"):
        monkeypatch.setitem(_app.extensions, f"flagon.{kind}", sessions)
    return _app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="session")
def merchandiser(bearer):
    """Headers of somebody who may change the catalog; one account for the whole run."""
    # However long that takes.
    return bearer("catalog:write", sub=str(uuid4()), exp=int(time.time()) + 24 * 3600)


@pytest.fixture(scope="session")
def admin(bearer):
    """Headers of somebody who may also delete products for good."""
    return bearer(
        "catalog:write",
        "catalog:purge",
        sub=str(uuid4()),
        exp=int(time.time()) + 24 * 3600,
    )


@pytest.fixture
def customer(bearer):
    """Headers of somebody who may not."""
    return bearer("reviews:write")


@pytest.fixture(scope="session")
def real_app(migrated, make_app):
    """An app with a database of its own, for transactions that really end.

    What a test writes stays there, so tests use new names.
    """
    return make_app(migrated())


@pytest.fixture
def real_sessions(real_app):
    return real_app.extensions["flagon.sessions"]


@pytest.fixture
def together():
    """Call a function once for each argument, all at the same moment."""

    def together(function, arguments):
        barrier = Barrier(len(arguments))

        def start(argument):
            barrier.wait(10)
            return function(argument)

        with ThreadPoolExecutor(len(arguments)) as pool:
            return list(pool.map(start, arguments))

    return together


@pytest.fixture(scope="session")
def new_product():
    """The body of a product that nobody has made yet."""

    def new(**fields):
        name = uuid4().hex[:12]
        return {
            "sku": f"sku-{name}",
            "name": f"Mug {name}",
            "price_minor": 950,
            **fields,
        }

    return new


@pytest.fixture
def make(client, merchandiser, new_product):
    """Create a product through the API and return it with its ETag."""

    def make(**fields):
        answer = client.post(PRODUCTS, json=new_product(**fields), headers=merchandiser)
        assert answer.status_code == 201, answer.text
        return {**answer.json, "etag": answer.headers["ETag"]}

    return make


@pytest.fixture
def make_category(client, merchandiser):
    """Create a category through the API and return it with its ETag."""

    def make(**fields):
        body = {"name": f"Shelf {uuid4().hex[:12]}", **fields}
        answer = client.post(CATEGORIES, json=body, headers=merchandiser)
        assert answer.status_code == 201, answer.text
        return {**answer.json, "etag": answer.headers["ETag"]}

    return make


@pytest.fixture
def make_tag(client, merchandiser):
    """Create a tag through the API and return it with its ETag."""

    def make(**fields):
        body = {"name": f"Tag {uuid4().hex[:12]}", **fields}
        answer = client.post(TAGS, json=body, headers=merchandiser)
        assert answer.status_code == 201, answer.text
        return {**answer.json, "etag": answer.headers["ETag"]}

    return make


@pytest.fixture
def sent(session):
    """A function that returns the events in the outbox, the oldest first."""

    def sent(subject=None):
        rows = session.execute(select(outbox).order_by(outbox.c.sequence)).all()
        return [row.body for row in rows if subject in {None, row.subject}]

    return sent


@pytest.fixture(scope="session")
def assert_problem():
    """Check that an answer is a problem with this status and nothing of our insides."""

    def check(answer, status, slug=None):
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "application/problem+json"
        assert answer.json["status"] == status
        assert answer.json["instance"].startswith("urn:request:")
        if slug:
            assert answer.json["type"].endswith(f"/problems#{slug}")
        for inside in ("Traceback", "psycopg", "sqlalchemy", "SELECT ", "/src/"):
            assert inside not in answer.text
        return answer.json

    return check


def wait_until_blocked(session):
    """Return once another connection waits for a lock that this session holds."""
    # Not `pg_stat_activity`: it shows one transaction the same backends for ever.
    blocked = (
        "select count(*) from pg_locks where not granted"
        " and pg_backend_pid() = any(pg_blocking_pids(pid))"
    )
    connection = session.connection()
    for _ in range(2000):
        if connection.exec_driver_sql(blocked).scalar():
            return
        connection.exec_driver_sql("select pg_sleep(0.005)")
    pytest.fail("nobody waits")
