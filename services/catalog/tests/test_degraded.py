"""What still works when something else does not."""

import pytest
from sqlalchemy import select

from flagon_catalog.domain import bulk
from flagon_chassis.tables import outbox
from flagon_chassis.testing import free_port

PRODUCTS = "/api/v1/products"


@pytest.fixture
def closed():
    """The address of a server that is down."""
    return f"127.0.0.1:{free_port()}"


class TestPostgresDown:
    @pytest.fixture
    def client(self, make_app, closed):
        url = f"postgresql+psycopg://nobody@{closed}/none"
        return make_app(url, owner_database_url=None).test_client()

    def test_lists_that_were_kept_are_shown(self, client, real_app):
        path = f"{PRODUCTS}?limit=7&sort=-name"
        real_app.extensions["flagon.answers"].changed()
        before = real_app.test_client().get(path)

        answer = client.get(path)

        assert (answer.status_code, answer.data) == (200, before.data)

    def test_reads_say_so_and_when_to_come_back(self, client, real_app, assert_problem):
        real_app.extensions["flagon.answers"].changed()

        answer = client.get(PRODUCTS)

        assert_problem(answer, 503, "dependency-down")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store"

    def test_writes_say_so_too(self, client, merchandiser, new_product, assert_problem):
        answer = client.post(PRODUCTS, json=new_product(), headers=merchandiser)

        assert_problem(answer, 503, "dependency-down")

    def test_is_alive_but_not_ready(self, client):
        assert client.get("/livez").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json["checks"]["postgres"]["ok"] is False


class TestRedisDown:
    @pytest.fixture
    def app(self, make_app, migrated, closed):
        down = f"redis://{closed}/0"
        return make_app(migrated(), redis_store_url=down, redis_cache_url=down)

    def test_reads_go_on(self, app, merchandiser):
        client = app.test_client()

        assert client.get(PRODUCTS).status_code == 200
        assert client.get(PRODUCTS, headers=merchandiser).status_code == 200
        assert client.get("/readyz").status_code == 200

    def test_changes_with_a_token_wait_because_it_may_be_revoked(
        self, app, merchandiser, new_product, assert_problem
    ):
        answer = app.test_client().post(
            PRODUCTS, json=new_product(), headers=merchandiser
        )

        assert_problem(answer, 503, "revocation-unknown")
        assert int(answer.headers["Retry-After"]) > 0

    def test_changes_without_a_token_are_made_and_their_events_kept(self, app):
        sessions = app.extensions["flagon.sessions"]

        with app.app_context(), sessions.begin() as session:
            bulk.upsert_products(session, [{"sku": "a", "name": "A", "price_minor": 1}])

        with sessions() as session:
            assert session.scalars(select(outbox.c.sent_at)).all() == [None]
