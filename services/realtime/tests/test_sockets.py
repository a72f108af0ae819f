"""Rooms over WebSockets: real processes, and the client that Socket.IO has for Python."""

import json
import signal
import socket
import time
from contextlib import closing
from uuid import uuid4

import jsonschema
import jwt
import pytest
import socketio.exceptions

from flagon_chassis.testing import Peer, free_port, start_redis
from flagon_realtime import messages

WORKS = ("catalog:write",)


class Names(Peer):
    """What auth tells of accounts: Ada is called Ada."""

    def answer(self, _method, _path, headers, _body):
        token = headers["Authorization"].removeprefix("Bearer ")
        sub = jwt.decode(token, options={"verify_signature": False})["sub"]
        return 200, {"name": sub.title()} if sub != "nameless" else []


@pytest.fixture(scope="session")
def auth_url():
    with closing(Names()) as names:
        yield names.url


@pytest.fixture
def process(redis_url, shared_processes, auth_url):
    found = shared_processes(auth_url=auth_url)
    yield found
    assert "Traceback" not in found.log.read_text()


@pytest.fixture
def other(redis_url, shared_processes, auth_url):
    return shared_processes(auth_url=auth_url, heartbeat_seconds=14)


@pytest.fixture
def room():
    return f"products/{uuid4()}"


def url(process):
    return f"http://127.0.0.1:{process.port}"


def sent(event, content):
    """What the server sends is as its schema says."""
    schema = (messages.FOLDER / "sent" / f"{event}.json").read_text()
    jsonschema.validate(content, json.loads(schema))
    return content


def count(number):
    return lambda event, content: sent(event, content).get("count") == number


def ended(event, content):
    return bool(sent(event, content)) and event == "close"


def kill(process):
    """End a server and its workers without a word."""
    workers = process.workers()
    # The parent first: it would start others.
    process.popen.kill()
    for worker in workers:
        worker.kill()


def problem(answer):
    return answer["problem"]["type"].partition("#")[2]


class TestJoin:
    def test_tells_how_many_are_there(self, process, connect, room):
        first, second = connect(url(process)), connect(url(process))

        assert first.call("join", room=room) == {"room": room, "count": 1}
        assert second.call("join", room=room) == {"room": room, "count": 2}
        first.wait_for(count(2))

    def test_twice_is_once(self, process, connect, room):
        client = connect(url(process))
        client.call("join", room=room)

        assert client.call("join", room=room)["count"] == 1

    def test_counts_an_account_once(self, process, connect, bearer, room):
        windows = [connect(url(process), bearer(sub="ada")) for _ in range(2)]
        for window in windows:
            window.call("join", room=room)

        assert connect(url(process)).call("join", room=room)["count"] == 2
        windows[0].close()
        left = connect(url(process)).call("join", room=room)
        assert left["count"] == 3

    def test_counts_over_processes(self, process, other, connect, room):
        here, there = connect(url(process)), connect(url(other))
        here.call("join", room=room)

        assert there.call("join", room=room)["count"] == 2
        here.wait_for(count(2))
        there.call("leave", room=room)
        here.wait_for(count(1))

    def test_names_those_who_work_there_to_each_other(
        self, process, connect, bearer, room
    ):
        ada = connect(url(process), bearer(*WORKS, sub="ada"))
        ada.call("join", room=room)
        customer = connect(url(process), bearer(sub="eve"))

        assert customer.call("join", room=room) == {"room": room, "count": 2}
        bob = connect(url(process), bearer(*WORKS, sub="bob"))
        assert bob.call("join", room=room) == {
            "room": room,
            "count": 3,
            "people": [
                {"id": "ada", "name": "Ada", "activity": "viewing"},
                {"id": "bob", "name": "Bob", "activity": "viewing"},
            ],
            "lock": None,
        }
        assert set(customer.wait_for(count(3))) == {"room", "count"}

    def test_goes_without_names_where_auth_tells_none(
        self, process, connect, bearer, room
    ):
        nameless = connect(url(process), bearer(*WORKS, sub="nameless"))

        told = nameless.call("join", room=room)

        assert told["people"] == [
            {"id": "nameless", "name": None, "activity": "viewing"}
        ]

    @pytest.mark.parametrize(
        ("name", "slug"),
        [
            ("users/ada", "room-unknown"),
            ("products/*", "room-unknown"),
            ("products/1/2", "room-unknown"),
            ("products/\N{BULLET}", "room-unknown"),
            ("x" * 200, "room-unknown"),
            ("x" * 201, "message-malformed"),
            ("", "message-malformed"),
            ("jobs", "account-needed"),
            ("me", "account-needed"),
            ("custom/robot", "account-needed"),
        ],
    )
    def test_of_other_rooms_is_refused(self, process, connect, name, slug):
        assert problem(connect(url(process)).call("join", room=name)) == slug

    def test_of_an_accounts_own_room_meets_nobody_else(self, process, connect, bearer):
        for sub in ("ada", "bob"):
            client = connect(url(process), bearer(sub=sub))
            assert client.call("join", room="me") == {"room": "me", "count": 1}
            assert client.call("join", room="jobs/1")["count"] == 1

    def test_of_many_rooms_is_bounded(self, process, connect):
        client = connect(url(process))
        answers = [client.call("join", room=f"tags/{n}") for n in range(21)]

        assert [a.get("count") for a in answers[:20]] == [1] * 20
        assert problem(answers[20]) == "too-many-rooms"
        client.call("leave", room="tags/0")
        assert client.call("join", room="tags/20")["count"] == 1


class TestLeave:
    def test_is_told_to_those_who_stay(self, process, connect, room):
        first, second = connect(url(process)), connect(url(process))
        for client in (first, second):
            client.call("join", room=room)
        first.wait_for(count(2))

        assert second.call("leave", room=room) == {"room": room}
        first.wait_for(count(1))

    def test_of_a_room_that_one_is_not_in_is_refused(self, process, connect, room):
        assert problem(connect(url(process)).call("leave", room=room)) == (
            "room-not-joined"
        )

    def test_happens_to_who_goes_away(self, process, connect, room):
        first, second = connect(url(process)), connect(url(process))
        for client in (first, second):
            client.call("join", room=room)
        first.wait_for(count(2))

        # Without a word: the socket is closed as by a crash of the browser.
        second.io.eio.ws.sock.shutdown(socket.SHUT_RDWR)

        first.wait_for(count(1))


class TestActivity:
    def test_is_told_to_those_who_work_there(
        self, process, other, connect, bearer, room
    ):
        ada = connect(url(process), bearer(*WORKS, sub="ada"))
        bob = connect(url(other), bearer(*WORKS, sub="bob"))
        for client in (ada, bob):
            client.call("join", room=room)

        answer = ada.call("activity", room=room, activity="editing")

        assert answer == {"room": room, "activity": "editing"}
        bob.wait_for(
            lambda event, content: (
                event == "presence"
                and [p["activity"] for p in content["people"]] == ["editing", "viewing"]
            )
        )

    def test_is_not_for_customers(self, process, connect, bearer, room):
        eve = connect(url(process), bearer(sub="eve"))
        eve.call("join", room=room)

        answer = eve.call("activity", room=room, activity="editing")

        assert problem(answer) == "names-forbidden"

    def test_is_one_of_those_that_there_are(self, process, connect, bearer, room):
        ada = connect(url(process), bearer(*WORKS, sub="ada"))
        ada.call("join", room=room)

        answer = ada.call("activity", room=room, activity="<script>")

        assert problem(answer) == "message-malformed"
        assert answer["problem"]["errors"][0]["pointer"] == "#/activity"


@pytest.fixture
def ada(process, connect, bearer, room):
    client = connect(url(process), bearer(*WORKS, sub="ada"))
    client.call("join", room=room)
    return client


@pytest.fixture
def bob(other, connect, bearer, room):
    client = connect(url(other), bearer(*WORKS, sub="bob"))
    client.call("join", room=room)
    return client


class TestLock:
    def test_is_held_by_one(self, ada, bob, room):
        taken = ada.call("lock", room=room)
        refused = bob.call("lock", room=room)

        assert 0 < taken["expires_in_seconds"] <= 30
        assert problem(refused) == "room-locked"
        assert refused["problem"]["status"] == 409
        holder = refused["problem"]["holder"]
        assert (holder["id"], holder["name"]) == ("ada", "Ada")
        assert "token" not in holder
        told = bob.wait_for(lambda _e, content: content["lock"])
        assert (told["lock"]["id"], told["lock"]["name"]) == ("ada", "Ada")

    def test_is_renewed_by_who_has_its_token(self, other, connect, bearer, ada, room):
        token = ada.call("lock", room=room)["token"]
        # The same person after a reconnect, by another process.
        again = connect(url(other), bearer(*WORKS, sub="ada"))
        again.call("join", room=room)

        assert problem(again.call("lock", room=room)) == "room-locked"
        assert again.call("lock", room=room, token=token)["token"] == token
        assert ada.call("lock", room=room)["token"] == token

    def test_is_given_back(self, ada, bob, room):
        token = ada.call("lock", room=room)["token"]

        assert bob.call("unlock", room=room, token="x" * 22)["released"] is False
        assert ada.call("unlock", room=room, token=token)["released"] is True
        assert "token" in bob.call("lock", room=room)

    def test_goes_with_who_leaves_the_room(self, ada, bob, room):
        ada.call("lock", room=room)
        ada.call("leave", room=room)

        assert "token" in bob.call("lock", room=room)

    def test_goes_with_who_goes_away(self, ada, bob, room):
        ada.call("lock", room=room)
        bob.wait_for(lambda _e, content: content["lock"])
        ada.close()

        bob.wait_for(lambda _e, content: content["lock"] is None)

    def test_is_not_for_customers_nor_for_whole_families(
        self, process, connect, bearer, ada, room
    ):
        eve = connect(url(process), bearer(sub="eve"))
        eve.call("join", room=room)
        ada.call("join", room="products")

        assert problem(eve.call("lock", room=room)) == "names-forbidden"
        assert problem(ada.call("lock", room="products")) == "room-unknown"
        assert problem(ada.call("lock", room="products/9")) == "room-not-joined"

    def test_asks_for_a_token_of_ours(self, ada, room):
        answer = ada.call("lock", room=room, token="../../x")

        assert problem(answer) == "message-malformed"


class TestKilledProcess:
    def test_leaves_nobody_and_no_lock_behind(
        self, launch, connect, bearer, auth_url, bob, room
    ):
        doomed = launch(auth_url=auth_url, presence_seconds=2, lock_seconds=2)
        try:
            ada = connect(url(doomed), bearer(*WORKS, sub="ada"))
            ada.call("join", room=room)
            ada.call("lock", room=room)
            bob.wait_for(lambda e, told: sent(e, told)["lock"] and told["count"] == 2)

            kill(doomed)

            # Whichever goes first: whoever is told last knows of neither.
            bob.wait_for(lambda _e, told: not told["lock"] and told["count"] == 1)
        finally:
            doomed.stop()


class TestFindPresence:
    def test_counts_for_everybody_and_names_for_some(
        self, process, make_app, bearer, ada, room
    ):
        ada.call("lock", room=room)
        client = make_app().test_client()

        def seen(headers):
            return client.get(f"/api/v1/presence?room={room}", headers=headers).json

        assert seen({}) == {"room": room, "count": 1, "people": None, "lock": None}
        assert seen(bearer()) == seen({})
        found = seen(bearer(*WORKS))
        assert [person["name"] for person in found["people"]] == ["Ada"]
        assert found["lock"]["id"] == "ada"

    @pytest.mark.parametrize(
        ("room", "status"), [("jobs", 401), ("products/*", 422), ("x", 422), ("", 422)]
    )
    def test_of_other_rooms_is_refused(self, make_app, room, status):
        client = make_app().test_client()

        assert client.get(f"/api/v1/presence?room={room}").status_code == status

    def test_is_unknown_without_redis(self, make_app):
        client = make_app(redis_cache_url="redis://127.0.0.1:1/0").test_client()

        answer = client.get("/api/v1/presence?room=products")

        assert answer.status_code == 503
        assert answer.json["type"].endswith("#dependency-down")


class TestHandshake:
    def test_of_another_site_is_refused(self, process, connect, bearer):
        own = f"http://127.0.0.1:{process.port}"
        connect(url(process), {**bearer(), "Origin": own})

        for origin in (
            "https://evil.example",
            "null",
            f"{own}.evil.example",
            f"{own}0",
        ):
            with pytest.raises(socketio.exceptions.ConnectionError):
                connect(url(process), {**bearer(), "Origin": origin})

    def test_with_a_bad_token_is_no_strangers(self, process, connect, bearer):
        for token in ("nonsense", bearer.token(exp=1)):
            with pytest.raises(socketio.exceptions.ConnectionError):
                connect(url(process), {"Authorization": f"Bearer {token}"})

    def test_by_polling_is_refused_with_a_reason(self, process):
        status, body = process.get("/socket.io/?EIO=4&transport=polling")

        assert status == 422
        assert json.loads(body)["type"].endswith("#polling-refused")

    @pytest.mark.parametrize(
        ("query", "changes"),
        [
            ("EIO=3&transport=websocket", {}),
            ("transport=websocket", {}),
            ("EIO=4&transport=polling", {}),
            ("EIO=4&transport=websocket&sid=x", {}),
            ("EIO=4&transport=websocket", {"Sec-WebSocket-Version": "12"}),
            ("EIO=4&transport=websocket", {"Sec-WebSocket-Key": ""}),
            ("EIO=4&transport=websocket", {"Sec-WebSocket-Key": "\xe9"}),
        ],
    )
    def test_in_another_way_is_refused(self, make_app, query, changes):
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x",
            **changes,
        }

        answer = make_app().test_client().get(f"/socket.io/?{query}", headers=headers)

        assert answer.status_code == 422
        assert answer.json["type"].endswith("#handshake-malformed")

    def test_needs_a_server_that_lets_go(self, make_app):
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x",
        }
        client = make_app().test_client()

        answer = client.get("/socket.io/?EIO=4&transport=websocket", headers=headers)

        assert answer.status_code == 503
        assert answer.json["type"].endswith("#sockets-not-served")

    def test_of_too_many_is_refused(self, redis_url, shared_processes, connect, bearer):
        process = shared_processes(connections_per_account=2, sockets_max=3)
        opened = [connect(url(process), bearer(sub="ada")) for _ in range(2)]

        with pytest.raises(socketio.exceptions.ConnectionError):
            connect(url(process), bearer(sub="ada"))
        opened.append(connect(url(process)))
        with pytest.raises(socketio.exceptions.ConnectionError):
            connect(url(process))
        # Streams have places of their own.
        assert process.open("products").status == 200
        for client in opened:
            client.close()
        process.wait_for(lambda: process.metric("flagon_websocket_connections") == 0)
        connect(url(process))


class TestEnd:
    @pytest.mark.parametrize("claim", ["sid", "jti", "gid", "sub"])
    def test_comes_with_the_tokens_revocation(
        self, process, connect, bearer, publish, room, claim
    ):
        name = uuid4().hex
        other = connect(url(process))
        other.call("join", room=room)
        client = connect(url(process), bearer(**{claim: name}))
        client.call("join", room=room)
        other.wait_for(count(2))

        mark = int(time.time()) if claim == "sub" else 1
        publish.redis.set(f"denylist:{claim}:{name}", mark, ex=60)

        assert client.wait_for(ended)["reason"] == "token-revoked"
        assert client.gone.wait(30)
        other.wait_for(count(1))

    def test_comes_with_the_tokens_end(self, process, connect, bearer):
        client = connect(url(process), bearer(exp=int(time.time()) + 1))

        assert client.wait_for(ended)["reason"] == "token-expired"
        assert client.gone.wait(30)

    def test_by_age_keeps_an_accounts_place(
        self, redis_url, shared_processes, process, connect, bearer, room
    ):
        short = shared_processes(rotate_seconds=0.5)
        client = connect(url(short), bearer(sub="ada"))
        client.call("join", room=room)

        assert client.wait_for(ended)["reason"] == "age"
        assert client.gone.wait(30)
        # A stranger would see it twice if the old place were another one.
        again = connect(url(process), bearer(sub="ada"))
        assert again.call("join", room=room)["count"] == 1

    def test_comes_to_who_does_not_answer(self, redis_url, shared_processes, connect):
        process = shared_processes(heartbeat_seconds=0.2, stall_seconds=0.4)
        client = connect(url(process))
        client.io.eio._send_packet = lambda _packet: None

        process.wait_for(lambda: process.metric("flagon_websocket_connections") == 0)

    def test_is_told_when_the_process_stops(self, start_process, connect, bearer, room):
        process = start_process()
        clients = [connect(url(process), bearer()) for _ in range(5)]
        for client in clients:
            client.call("join", room=room)

        process.popen.send_signal(signal.SIGTERM)

        told = [client.wait_for(ended) for client in clients]
        assert {one["reason"] for one in told} == {"restart"}
        assert all(100 <= one["retry_milliseconds"] <= 3000 for one in told)
        assert all(client.gone.wait(30) for client in clients)
        assert process.popen.wait(30) == 0
        assert "Traceback" not in process.log.read_text()


class TestRedisAway:
    def test_answers_so_and_forgets_nobody(self, launch, connect, room):
        port = free_port()
        process = launch(
            redis_cache_url=f"redis://127.0.0.1:{port}/0", presence_seconds=1.5
        )
        try:
            client = connect(url(process))
            assert problem(client.call("join", room=room)) == "dependency-down"
            for server in start_redis(port=port):
                assert client.call("join", room=room)["count"] == 1
                server.process.send_signal(signal.SIGSTOP)
                assert problem(client.call("join", room=room)) == "dependency-down"
                server.process.send_signal(signal.SIGCONT)
                process.wait_for(lambda: _count(process, room) == 1)
            # Comes back empty, as a cache may.
            for _server in start_redis(port=port):
                process.wait_for(lambda: _count(process, room) == 1)
            # What is not about rooms does not notice.
            assert process.open("products").status == 200
        finally:
            process.stop()


def _count(process, room):
    status, body = process.get(f"/api/v1/presence?room={room}")
    return json.loads(body)["count"] if status == 200 else None


class TestMetrics:
    def test_count_and_name_no_room(self, process, connect, room):
        def refused():
            name = "flagon_websocket_messages_refused_total"
            return process.metric(name, problem="message-unknown")

        def joined():
            return process.metric("flagon_websocket_messages_total", message="join")

        before, refused_before = joined(), refused()
        client = connect(url(process))
        client.call("join", room=room)
        client.call("join", room="nowhere")
        client.call(f"x{room}")

        assert process.metric("flagon_websocket_rooms") >= 1
        assert process.metric("flagon_websocket_connections") >= 1
        assert joined() - before == 2
        assert refused() - refused_before == 1
        assert room not in process.get("/metrics")[1]
        assert process.metric("flagon_sse_connections") == 0
        client.close()
        process.wait_for(lambda: process.metric("flagon_websocket_rooms") == 0)
