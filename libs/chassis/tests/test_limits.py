import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Response
from limits import RateLimitItemPerMinute

from flagon_chassis import auth, limits, web
from flagon_chassis.errors import Unavailable
from flagon_chassis.testing import ISSUER


@pytest.fixture
def make_app(make_settings, bearer):
    def make(redis_url, rate_limit="2 per minute"):
        settings = make_settings(redis_cache_url=redis_url, rate_limit=rate_limit)
        app = web.create_app(__name__, settings, name="things", openapi=False)
        auth.init_app(app, issuer=ISSUER, jwks=bearer.jwks)
        limiter = limits.init_app(app, settings)

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

        @app.get("/part")
        @limiter.shared_limit("1 per minute", "whole", override_defaults=False)
        @auth.open_route
        def part():
            return {}

        @app.get("/narrow")
        @limiter.limit("1 per minute", override_defaults=False)
        @auth.open_route
        def narrow():
            return {}

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

    def test_of_a_route_counts_beside_that_of_all(self, client):
        found = [client.get(path).status_code for path in ("/narrow", "/narrow", "/")]

        assert found == [200, 429, 200]

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


class TestMetrics:
    def test_count_refusals_by_limit(self, client, risen):
        statuses(client, 4)
        for path in ("/narrow", "/narrow", "/part", "/part"):
            client.get(path)

        found = {
            name: risen("flagon_limits_refused_total", limit=name)
            for name in ("all", "narrow", "whole", "thing")
        }
        assert found == {"all": 2, "narrow": 1, "whole": 1, "thing": 0}
        assert risen("flagon_limits_counted_alone_total") == 0

    def test_say_when_each_process_counts_for_itself(self, make_app, risen):
        client = make_app("redis://127.0.0.1:1/0").test_client()

        statuses(client, 3)

        assert risen("flagon_limits_counted_alone_total") == 3


class TestOutage:
    @pytest.fixture
    def hanging(self):
        """A Redis that takes connections and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"

    @pytest.mark.parametrize("rate_limit", ["100 per minute", "1000 per minute"])
    def test_is_seen_by_nobody_who_asks_meanwhile(self, make_app, hanging, rate_limit):
        app = make_app(hanging, rate_limit)

        def ask(_number):
            return app.test_client().get("/").status_code

        with ThreadPoolExecutor(30) as pool:
            assert list(pool.map(ask, range(60))) == [200] * 60


class TestConnections:
    def test_are_few_however_many_ask(self, make_app, redis_url, store):
        app = make_app(redis_url, "100 per minute")
        before = store.info("clients")["connected_clients"]

        def ask(_number):
            return app.test_client().get("/").status_code

        store.client_pause(200, all=False)
        with ThreadPoolExecutor(40) as pool:
            assert list(pool.map(ask, range(40))) == [200] * 40

        opened = store.info("clients")["connected_clients"] - before
        assert opened <= limits._CONNECTIONS


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
            storage.incr("one/2/1/minute", 60)
        with app.app_context():
            assert storage.get("one/2/1/minute") == 1
            assert 0 < storage.get_expiry("one/2/1/minute") - time.time() <= 61

    def test_gives_a_counter_without_an_end_one(self, client, store):
        client.get("/")
        (name,) = store.keys("things:limits:*")
        store.persist(name)

        client.get("/")

        assert 0 < store.ttl(name) <= 60


class TestPortions:
    LIMIT = "400 per minute"

    @pytest.fixture
    def scripts(self, store):
        """How often a counter was asked."""

        def scripts():
            found = store.info("commandstats")
            return found.get("cmdstat_evalsha", {}).get("calls", 0)

        return scripts

    @pytest.fixture
    def make_client(self, make_app, redis_url):
        return lambda: make_app(redis_url, self.LIMIT).test_client()

    def test_ask_redis_once_for_a_hundredth(self, make_client, scripts):
        client = make_client()
        client.get("/")
        before = scripts()

        left = [int(client.get("/").headers["X-RateLimit-Remaining"]) for _ in range(8)]

        assert scripts() - before == 2
        assert left == list(range(398, 390, -1))

    def test_let_one_process_have_the_whole_limit_and_no_more(self, make_client):
        assert statuses(make_client(), 401) == [200] * 400 + [429]

    def test_of_several_processes_never_exceed_the_limit(self, make_client):
        processes = [make_client() for _ in range(3)]

        passed = sum(
            client.get("/").status_code == 200
            for _ in range(150)
            for client in processes
        )

        # Nothing is lost where all of them go on.
        assert passed == 400

    def test_of_threads_never_exceed_the_limit(self, make_app, redis_url, monkeypatch):
        # Who waits for too long counts for itself, which a busy machine must not decide.
        monkeypatch.setattr(limits, "_WAIT_SECONDS", 30.0)
        app = make_app(redis_url, self.LIMIT)

        def ask(_number):
            return app.test_client().get("/").status_code

        with ThreadPoolExecutor(8) as pool:
            passed = list(pool.map(ask, range(450))).count(200)

        assert passed == 400

    def test_end_with_the_window(self, make_client, scripts, monkeypatch):
        client = make_client()
        client.get("/")
        before = scripts()
        real = time.time()
        monkeypatch.setattr(limits.time, "time", lambda: real + 61)

        client.get("/")

        assert scripts() - before == 1

    def test_are_not_kept_for_ever_more_accounts(
        self, make_client, bearer, scripts, monkeypatch
    ):
        monkeypatch.setattr(limits, "_PORTIONS_MAX", 2)
        client, headers = make_client(), [bearer(sub=f"one-{n}") for n in range(5)]

        for header in headers:
            client.get("/", headers=header)
        before = scripts()
        statuses(client, 3, headers=headers[4])

        assert scripts() == before

    def test_are_as_large_as_the_librarys_key_says(self):
        item = RateLimitItemPerMinute(1200)

        assert limits._portion_size(item.key_for("account:a/b", "things")) == 12
        assert limits._portion_size(RateLimitItemPerMinute(30).key_for("a")) == 1

    def test_of_a_cost_above_one_are_counted_at_once(self, make_app, redis_url, store):
        app = make_app(redis_url)
        storage = limits.init_app(app, app.extensions["flagon.settings"]).storage

        with app.app_context():
            assert storage.incr("one/400/1/minute", 60, 3) == 3
            assert storage.incr("one/400/1/minute", 60, 9) == 12
            assert storage.incr("one/400/1/minute", 60, 1) == 13
