"""Clients hear of logouts: once, as soon as they can, and nothing else gets out."""

import json
from urllib.parse import parse_qs
from uuid import uuid4

import pytest
from celery.exceptions import Reject, Retry

from flagon_chassis.testing import Peer, free_port, hearing
from flagon_worker import tasks
from flagon_worker.clients import Auth, Strangers
from flagon_worker.domain import deliveries, logouts

NOTICE = uuid4()


class Neighbours(Peer):
    """auth and a client, one server for both."""

    def __init__(self):
        self.calls = []
        self.known = True
        self.auth_status = 200
        self.status = 200
        super().__init__()

    def answer(self, method, path, headers, body):
        self.calls.append((path, headers, body.decode()))
        if path == "/backchannel-logout?tenant=1":
            elsewhere = {"Location": f"{self.url}/elsewhere"}
            return self.status, {"error": "invalid_request"}, elsewhere
        if self.auth_status != 200:
            return self.auth_status, {"detail": "trouble"}
        if not self.known:
            return 404, {"detail": "over"}
        if path == f"/internal/logout-notices/{NOTICE}":
            return 200, {
                "uri": f"{self.url}/backchannel-logout?tenant=1",
                "logout_token": "a.b.c",
            }
        return 204, None

    @property
    def paths(self):
        return [
            path.replace(f"/internal/logout-notices/{NOTICE}", "*")
            for path, *_ in self.calls
        ]


@pytest.fixture
def neighbours(put):
    return put(Neighbours(), logout_seconds=0.5)


def deliver(app):
    with app.app_context():
        tasks.deliver_logout.run(notice_id=str(NOTICE), newer="ignored")


class TestDeliver:
    def test_brings_the_token_as_a_form(self, app, neighbours):
        deliver(app)

        path, headers, body = neighbours.calls[1]
        assert path == "/backchannel-logout?tenant=1"
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert parse_qs(body) == {"logout_token": ["a.b.c"]}
        assert "Authorization" not in headers
        assert "Cookie" not in headers

    @pytest.mark.parametrize("status", [200, 204])
    def test_is_done_when_the_client_knows(self, app, neighbours, status):
        neighbours.status = status

        deliver(app)

        assert neighbours.paths == [
            "*",
            "/backchannel-logout?tenant=1",
            "*/delivered",
        ]

    def test_ends_when_auth_says_that_it_is_over(self, app, neighbours):
        neighbours.known = False

        deliver(app)

        assert neighbours.paths == ["*"]

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
    def test_comes_back_later_when_the_client_is_in_trouble(
        self, app, neighbours, monkeypatch, status
    ):
        neighbours.status = status
        pauses = []

        def retry(*, countdown):
            pauses.append(countdown)
            raise Retry

        monkeypatch.setattr(tasks.deliver_logout, "retry", retry)

        with pytest.raises(Retry):
            deliver(app)

        assert neighbours.paths == ["*", "/backchannel-logout?tenant=1"]
        assert 1 <= pauses[0] <= 2

    @pytest.mark.parametrize("status", [302, 307, 400, 401, 403, 404, 410])
    def test_has_auth_count_a_refusal(self, app, neighbours, status):
        neighbours.status = status

        with pytest.raises(Retry):
            deliver(app)

        path, _headers, body = neighbours.calls[-1]
        assert path.endswith("/refused")
        assert json.loads(body) == {"status": status}

    @pytest.mark.parametrize("status", [302, 307, 308])
    def test_follows_no_redirect(self, app, neighbours, status):
        neighbours.status = status

        with pytest.raises(Retry):
            deliver(app)

        assert "/elsewhere" not in neighbours.paths

    @pytest.mark.parametrize("status", [401, 403, 500])
    def test_waits_for_auth(self, app, neighbours, status):
        neighbours.auth_status = status

        with pytest.raises(Retry):
            deliver(app)

        assert set(neighbours.paths) == {"*"}

    def test_waits_for_auth_that_is_away(self, app, settings):
        away = settings.model_copy(
            update={"auth_url": f"http://127.0.0.1:{free_port()}"}
        )
        app.extensions["flagon.identity"] = Auth(away)

        with pytest.raises(Retry):
            deliver(app)

    def test_does_not_wait_for_a_client_that_does_not_answer(self, settings):
        quick = settings.model_copy(update={"logout_seconds": 0.2})
        with pytest.raises(deliveries.NotYet):
            Strangers(quick).post_logout(f"http://127.0.0.1:{free_port()}/", "a.b.c")

    def test_stays_in_the_queue_while_the_broker_takes_nothing(
        self, app, neighbours, monkeypatch
    ):
        neighbours.status = 503

        def refuse(**_options):
            raise Reject("no broker", requeue=False)

        monkeypatch.setattr(tasks.deliver_logout, "retry", refuse)

        with pytest.raises(Reject) as told:
            deliver(app)

        assert told.value.requeue is True

    def test_tells_nothing_in_the_log(self, app, neighbours):
        with hearing() as heard:
            deliver(app)

        logged = heard()
        assert "logout_told" in logged
        assert "a.b.c" not in logged


class TestPause:
    def test_doubles_with_jitter_and_stays_below_what_the_broker_takes_for_lost(self):
        for attempts in range(1, 400):
            pauses = {deliveries.pause_seconds(attempts) for _ in range(5)}
            longest = min(2.0**attempts, 240)
            assert len(pauses) > 1
            assert all(longest / 2 <= pause <= longest for pause in pauses)

    def test_starts_soon(self):
        assert deliveries.pause_seconds(1) <= 2


class TestOrder:
    def test_is_delivered_before_it_is_said_to_be(self):
        said = []

        class Fake:
            def compose_logout(self, _notice):
                return "https://rp.test/", "a.b.c"

            def logout_delivered(self, _notice):
                said.append("delivered")

        class Client:
            def post_logout(self, *_args):
                said.append("posted")
                return 200

        assert logouts.deliver(Fake(), Client(), NOTICE) == "delivered"
        assert said == ["posted", "delivered"]
