"""What works while a Redis is away, and what says so."""

from contextlib import contextmanager

import pytest

from flagon_auth.domain.passwords import Hasher
from flagon_chassis.testing import start_redis

from .conftest import Browser, bearer_of, me, refresh, revoke, token_request

NOWHERE = {"redis_store_url": "redis://127.0.0.1:1/0"}
NO_CACHE = {"redis_cache_url": "redis://127.0.0.1:1/0"}


class TestWithoutTheStore:
    @pytest.fixture
    def down(self, make_app):
        return make_app(**NOWHERE)

    def test_tokens_are_still_issued(self, ada, down):
        token = ada.tokens()["refresh_token"]

        service = token_request(down, "worker", grant_type="client_credentials")
        answer = refresh(down, token)

        assert service.status_code == 200
        assert answer.status_code == 200
        assert me(down, answer.json).status_code == 200

    def test_sign_in_says_that_it_cannot(self, down, person):
        person()
        answer = down.test_client().get("/login", headers={"Accept": "text/html"})

        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "2"
        assert answer.mimetype == "text/html"
        assert "Set-Cookie" not in answer.headers

    def test_who_has_a_cookie_is_told_so_too(self, down):
        browser = Browser(down)
        browser.http.set_cookie("flagon_login", "A" * 43)

        for path in ("/login", "/account", "/oauth/authorize"):
            assert browser.get(path).status_code == 503

    def test_revocation_asks_to_come_back(self, ada, down, app):
        tokens = ada.tokens()

        answer = revoke(down, tokens["refresh_token"])

        assert answer.status_code == 503
        assert refresh(app, tokens["refresh_token"]).status_code == 400
        assert revoke(app, tokens["refresh_token"]).status_code == 200
        assert me(app, tokens).status_code == 401

    def test_changes_are_refused_because_nobody_knows_what_is_revoked(
        self, app, down, person
    ):
        account = person("root@flagon.test", "admin")
        browser = Browser(app)
        browser.sign_in("root@flagon.test")
        headers = {**bearer_of(browser.tokens(scope=None)), "If-Match": '"v1"'}

        answer = down.test_client().patch(
            f"/api/v1/users/{account.id}", json={}, headers=headers
        )

        assert answer.status_code == 503

    def test_is_ready_but_says_what_is_missing(self, down):
        answer = down.test_client().get("/readyz")

        assert answer.status_code == 200
        assert answer.json["checks"]["redis_store"]["ok"] is False
        assert answer.json["checks"]["redis_store"]["required"] is False


class TestStoreThatDiesUnderWay:
    def test_makes_the_answer_a_503(self, make_app, person):
        person()
        with contextmanager(start_redis)() as own:
            browser = Browser(make_app(redis_store_url=own.url))
            hidden = browser.form("/login")
            own.process.kill()
            own.process.wait(5)

            answer = browser.post(
                "/login", {**hidden, "email": "ada@flagon.test", "password": "x"}
            )

        assert answer.status_code == 503


class TestWithoutTheCache:
    def test_sign_in_works_and_is_still_limited(self, make_app, person):
        person()
        other = make_app(**NO_CACHE, login_pair_limit=3)

        right = [Browser(other).sign_in().status_code for _ in range(4)]
        wrong = [Browser(other).sign_in(password="x").status_code for _ in range(5)]

        assert right == [303] * 4
        assert wrong == [422] * 3 + [429] * 2


class TestHashTurns:
    def test_more_than_allowed_wait_and_give_up(self):
        from concurrent.futures import ThreadPoolExecutor

        from flagon_auth.domain.passwords import TooManyHashes

        hasher = Hasher(concurrency=1, wait_seconds=0.001)
        hasher._turns.acquire()
        with ThreadPoolExecutor(1) as pool, pytest.raises(TooManyHashes):
            pool.submit(hasher.hash, "x").result()
        hasher._turns.release()

        assert hasher.matches(hasher.hash("x"), "x")
