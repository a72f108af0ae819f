import time

import pytest
from flask import Response

from flagon_chassis import auth, limits, web
from flagon_chassis.errors import Unavailable
from flagon_chassis.testing import ISSUER


@pytest.fixture
def make_app(make_settings, bearer):
    def make(redis_url, rate_limit="2 per minute"):
        settings = make_settings(redis_cache_url=redis_url, rate_limit=rate_limit)
        app = web.create_app(__name__, settings, name="things", openapi=False)
        auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks)
        limits.init_app(app, settings)

        @app.get("/")
        @auth.open_route
        def thing():
            return {}

        @app.get("/away")
        @auth.open_route
        def away():
            raise Unavailable(retry_after_seconds=7)

        @app.get("/advice")
        @auth.open_route
        def advice():
            return Response("", headers={"Retry-After": "9"})

        return app

    return make


@pytest.fixture
def client(make_app, redis_url):
    return make_app(redis_url).test_client()


def statuses(client, count=3, **options):
    return [client.get("/", **options).status_code for _ in range(count)]


class TestLimit:
    def test_refuses_what_goes_beyond(self, client):
        assert statuses(client) == [200, 200, 429]

        response = client.get("/")
        assert response.mimetype == "application/problem+json"
        assert int(response.headers["Retry-After"]) <= 60
        assert response.headers["X-RateLimit-Limit"] == "2"

    def test_counts_each_account_for_itself(self, client, bearer):
        one, two = bearer(sub="one"), bearer(sub="two")

        assert statuses(client, headers=one) == [200, 200, 429]
        assert statuses(client, headers=two) == [200, 200, 429]

    def test_counts_made_up_tokens_for_the_address(self, client):
        found = [
            client.get("/", headers={"Authorization": f"Bearer a.b.{n}"}).status_code
            for n in range(3)
        ]

        assert found == [200, 200, 429]

    def test_leaves_probes_alone(self, client):
        assert [client.get("/livez").status_code for _ in range(4)] == [200] * 4

    def test_keeps_its_keys_below_the_services_name(self, client, store):
        client.get("/")

        keys = list(store.scan_iter())
        assert keys
        assert all(key.startswith(b"things:limits") for key in keys)

    def test_counts_in_the_process_without_redis(self, make_app):
        client = make_app("redis://127.0.0.1:1/0").test_client()

        assert statuses(client) == [200, 200, 429]


class TestRetryAfter:
    def test_of_others_is_kept(self, client):
        assert client.get("/away").headers["Retry-After"] == "7"
        assert client.get("/advice").headers["Retry-After"] == "9"

    def test_is_not_on_answers_that_need_none(self, client):
        assert "Retry-After" not in client.get("/").headers


class TestCounting:
    def test_asks_redis_once_a_request(self, client, store):
        def asked():
            found = store.info("commandstats")
            names = ("evalsha", "get", "ttl")
            # The script asks for the time that is left, too.
            calls = [found.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names]
            return calls[0], sum(calls)

        client.get("/")
        before = asked()

        answer = client.get("/")

        scripts, all_commands = asked()
        assert (scripts - before[0], all_commands - before[1]) == (1, 2)
        assert answer.headers["X-RateLimit-Remaining"] == "0"
        assert 0 < int(answer.headers["X-RateLimit-Reset"]) - time.time() <= 61

    def test_asks_for_what_was_counted_in_another_request(self, make_app, redis_url):
        app = make_app(redis_url)
        storage = limits.init_app(app, app.extensions["flagon.settings"]).storage

        with app.app_context():
            storage.incr("one", 60)
        with app.app_context():
            assert storage.get("one") == 1
            assert 0 < storage.get_expiry("one") - time.time() <= 61

    def test_gives_a_counter_without_an_end_one(self, client, store):
        client.get("/")
        (name,) = store.keys("things:limits:*")
        store.persist(name)

        client.get("/")

        assert 0 < store.ttl(name) <= 60
