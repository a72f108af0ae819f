"""`POST /api/v1/events`: who may tell what, and that it is told once."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import redis

from flagon_realtime import domain

ROBOT = "robot"
EVENT = {
    "specversion": "1.0",
    "id": "reading-1",
    "type": "custom.robot.reading.v1",
    "subject": "sensor-7",
    "topics": ["custom/robot/sensor-7"],
    "data": {"celsius": 21.5},
}


@pytest.fixture
def send(make_app, client_token, publish):
    client = make_app().test_client()

    def post(headers=None, *, key=None, body=None, **changes):
        return client.post(
            "/api/v1/events",
            headers={
                **(client_token() if headers is None else headers),
                **({"Idempotency-Key": key} if key else {}),
            },
            **({"data": body} if body else {"json": {**EVENT, **changes}}),
            **({"content_type": "application/json"} if body else {}),
        )

    return post


@pytest.fixture
def log(publish):
    def read():
        return [fields for _id, fields in publish.redis.xrange("events")]

    return read


class TestPublishEvent:
    def test_adds_what_followers_get(self, send, log):
        answer = send()

        [entry] = log()
        envelope = json.loads(entry[b"event"])
        assert answer.status_code == 201
        assert answer.json["id"] == envelope["id"] == entry[b"id"].decode()
        assert UUID(envelope["id"])
        assert envelope["source"] == "/clients/robot"
        assert envelope["data"] == {"celsius": 21.5}
        assert envelope["time"].endswith("Z")
        # By which deliveries are timed: a client's clock says nothing.
        assert b"time" not in entry
        assert entry[b"topics"] == b"custom/robot/sensor-7"
        assert entry[b"type"] == b"custom.robot.reading.v1"
        assert entry[b"subject"] == b"sensor-7"

    def test_reaches_who_follows(self, start_server, send, bearer):
        stream = start_server().open(
            "custom/robot/*&type=custom.robot.*", headers=bearer()
        )

        answer = send()

        event = stream.next()
        assert event.id == answer.json["position"]
        assert json.loads(event.data)["id"] == answer.json["id"]

    def test_keeps_the_time_that_was_given(self, send, log):
        send(time="2026-01-02T04:04:05.678+01:00")

        assert json.loads(log()[0][b"event"])["time"] == "2026-01-02T03:04:05.678Z"

    def test_says_in_which_trace_it_happened(self, make_app, client_token, log):
        app = make_app(traces="log")
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

        app.test_client().post(
            "/api/v1/events",
            json=EVENT,
            headers={**client_token(), "traceparent": trace},
        )

        assert trace[3:35] in json.loads(log()[0][b"event"])["traceparent"]


class TestOnce:
    def test_adds_one_entry_for_each_id(self, send, log):
        first, again = send(), send()

        assert len(log()) == 1
        assert again.status_code == 201
        assert again.json == first.json
        assert again.headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first.headers

    def test_adds_one_entry_for_each_key(self, send, log):
        first = send(key="k")

        assert send(key="k").json == first.json
        assert send(id="reading-2", key="k").status_code == 422
        assert len(log()) == 1

    def test_refuses_another_event_under_the_same_id(self, send, log):
        send()

        refused = send(data={"celsius": 22})

        assert refused.status_code == 422
        assert refused.json["type"].endswith("#event-id-reused")
        assert len(log()) == 1

    def test_adds_one_entry_for_many_twins(self, send, log, client_token):
        mine = client_token()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: send(mine), range(24)))

        assert len({answer.json["position"] for answer in answers}) == 1
        assert len(log()) == 1

    def test_takes_ids_of_two_clients_for_two(self, send, log, client_token):
        send()
        other = send(
            client_token("other"), type="custom.other.x", topics=["custom/other"]
        )

        assert other.status_code == 201
        assert len({entry[b"id"] for entry in log()}) == 2

    def test_forgets_after_a_day(self, send, publish):
        send(key="k")

        keys = publish.redis.keys("realtime:published:*")
        assert len(keys) == 2
        assert all(86_000 < publish.redis.ttl(key) <= 86_400 for key in keys)

    def test_keeps_the_stream_bounded(self, make_app, publish):
        event_log = make_app().extensions["flagon.station"].source.event_log
        event_log._queries.eval(
            "for i = 1, 100500 do redis.call('xadd', 'events', '*', 'a', 'b') end", 0
        )

        event_log.append({"a": "b"}, names=["n"], digest="d")

        assert publish.redis.xlen("events") < 100_200


class TestWho:
    def test_is_asked(self, send):
        assert send({}).status_code == 401

    @pytest.mark.parametrize("scope", ["", "catalog:write jobs:manage users:write"])
    def test_needs_the_scope(self, send, client_token, scope, log):
        assert send(client_token(scope=scope)).status_code == 403
        assert log() == []

    @pytest.mark.parametrize(
        "claims",
        [
            # A person's token, though its scope says so.
            {"sub": "0197a0c4-0000-7000-8000-000000000001"},
            {"sid": "a-session"},
            {"gid": "a-grant"},
        ],
    )
    def test_is_never_a_person(self, send, bearer, claims, log):
        token = bearer(
            "events:write",
            **{"sub": ROBOT, "client_id": ROBOT, "sid": None, **claims},
        )

        refused = send(token)

        assert refused.status_code == 403
        assert refused.json["type"].endswith("#clients-only")
        assert log() == []

    def test_is_not_a_client_whose_name_steers(self, send, client_token, log):
        for name in ("*", "a/b", "a b", "../users"):
            answer = send(
                client_token(name),
                type=f"custom.{name}.x",
                topics=[f"custom/{name}/x"],
            )
            assert answer.status_code in {403, 422}, name
        assert log() == []

    def test_may_not_go_on_for_ever(self, make_app, client_token, log):
        client = make_app(publish_limit="2 per minute").test_client()
        mine = client_token(client_id="busy")

        statuses = [
            client.post(
                "/api/v1/events",
                headers=mine,
                json={
                    **EVENT,
                    "id": str(n),
                    "type": "custom.busy.x",
                    "topics": ["custom/busy"],
                },
            ).status_code
            for n in range(4)
        ]

        assert statuses == [201, 201, 429, 429]


class TestForgery:
    @pytest.mark.parametrize(
        "type_",
        [
            "market.flagon.product.changed.v1",
            "custom.other.reading",
            "custom.robot",
            "custom.robot.",
            "custom.robotic.x",
            "x.custom.robot.x",
        ],
    )
    def test_of_a_type_is_refused(self, send, log, type_):
        refused = send(type=type_)

        assert refused.status_code == 403
        assert refused.json["type"].endswith("#namespace-foreign")
        assert log() == []

    @pytest.mark.parametrize(
        "topic",
        [
            "products",
            "products/1",
            "users/0197a0c4-0000-7000-8000-000000000001",
            "users/ada/jobs",
            "jobs",
            "custom",
            "custom/other/x",
            "custom/robotic",
            "products custom/robot/x",
        ],
    )
    def test_of_a_topic_is_refused(self, send, log, topic):
        refused = send(topics=["custom/robot/ok", topic])

        assert refused.status_code == 403
        assert log() == []

    @pytest.mark.parametrize(
        "topic",
        [
            "custom/robot/*",
            "custom/robot/",
            "custom/robot/../../products",
            "custom/robot/x products",
            "custom/robot/x\nproducts",
            "custom/robot/a/b/c",
            "custom/robot/" + "a" * 65,
        ],
    )
    def test_within_a_topic_is_refused(self, send, log, topic):
        assert send(topics=[topic]).status_code == 422
        assert log() == []

    def test_of_fields_is_refused(self, send, log):
        for extra in ("source", "sequence", "traceparent", "anything"):
            assert send(**{extra: "x"}).status_code == 422
        assert log() == []

    def test_of_lines_of_the_stream_is_refused(self, send, log):
        assert send(type="custom.robot.x\ndata: forged").status_code == 422
        assert send(type="custom.robot.x\n").status_code == 422
        assert send(id="a\n").status_code == 422
        assert send(subject="a\r\nb").status_code == 422
        assert log() == []

    def test_of_an_event_id_is_not_possible(self, send, log):
        known = "0197a0c4-0000-7000-8000-000000000001"

        send(id=known)

        assert log()[0][b"id"].decode() != known


class TestBounds:
    def test_refuse_what_is_too_large(self, send, log):
        refused = send(data={"x": "x" * 17_000})

        assert refused.status_code == 413
        assert log() == []

    @pytest.mark.parametrize(
        "body",
        [
            json.dumps(EVENT).replace("21.5", "1e999"),
            json.dumps(EVENT).replace("21.5", "NaN"),
            json.dumps(EVENT).replace("21.5", "[" * 7000 + "]" * 7000),
            json.dumps(EVENT).replace("21.5", "[" * 20 + "]" * 20),
            json.dumps(EVENT).replace("21.5", '"\\u0000"'),
            json.dumps(EVENT).replace("21.5", '"\\ud800"'),
            json.dumps(EVENT).replace("21.5", "9" * 5000),
            "[]",
            "null",
            "{",
        ],
    )
    def test_refuse_what_some_reader_cannot_take(self, send, log, body):
        assert send(body=body).status_code in {400, 422}
        assert log() == []

    @pytest.mark.parametrize(
        "change",
        [
            {"specversion": "2.0"},
            {"id": ""},
            {"id": "x" * 65},
            {"id": 7},
            {"subject": ""},
            {"topics": []},
            {"topics": ["custom/robot"] * 6},
            {"topics": "custom/robot"},
            {"time": "yesterday"},
            {"time": "2026-01-01T00:00:00"},
            {"datacontenttype": "text/html"},
            {"data": "text"},
            {"data": None},
        ],
    )
    def test_refuse_what_is_no_event(self, send, log, change):
        assert send(**change).status_code == 422
        assert log() == []

    @pytest.mark.parametrize("key", ["a b", "x" * 201, "ä"])
    def test_refuse_a_key_that_is_none(self, key):
        with pytest.raises(domain.PublishKeyMalformed):
            domain.parse_key(key)


class TestWithoutRedis:
    def test_says_that_it_cannot(self, make_app, client_token):
        app = make_app(redis_store_url="redis://127.0.0.1:1/0")

        answer = app.test_client().post(
            "/api/v1/events", json=EVENT, headers=client_token()
        )

        assert answer.status_code == 503
        assert answer.headers["Retry-After"]

    def test_is_told_by_the_library(self, make_app):
        app = make_app(redis_store_url="redis://127.0.0.1:1/0")
        event_log = app.extensions["flagon.station"].source.event_log

        with pytest.raises(redis.ConnectionError):
            event_log.append({"a": "b"}, names=["n"], digest="d")
