"""Events that travel by RabbitMQ: what a client sees is what it sees with Redis."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from flagon_chassis import rabbitmq, streams
from flagon_chassis.buses import BusAway
from flagon_chassis.errors import Unavailable
from flagon_chassis.testing import start_rabbitmq
from flagon_realtime import wire
from flagon_realtime.clients import Journaled

from .test_publish import EVENT
from .test_stream import SMALL

OF_REDIS = "1795353472907-3"
ROUND = 100


@pytest.fixture(scope="module")
def bus():
    """A RabbitMQ that keeps some hundred events."""
    pattern = r'268435456, "x-stream-max-segment-size-bytes": 16777216'
    few = '200000, "x-stream-max-segment-size-bytes": 50000'
    for server in start_rabbitmq("worker", change=(pattern, few)):
        server.url = server.url.replace("//worker:", "//realtime:")
        yield server


@pytest.fixture
def tell(bus, helpers):
    """Sends numbered events as catalog's relay does."""

    def send(*numbers, size=0):
        sender = rabbitmq.Sender(bus.url.replace("//realtime:", "//catalog:"))
        envelopes = {
            n: {"n": n, "topics": ["products"], "subject": str(n), "x": "x" * size}
            for n in numbers
        }
        sender.send(
            {n: streams.encode(uuid4(), helpers.TYPE, e) for n, e in envelopes.items()}
        )
        sender.close()

    return send


@pytest.fixture
def start(start_fresh_server, bus):
    return lambda **changes: start_fresh_server(event_bus_url=bus.url, **changes)


class TestFollowEvents:
    def test_sends_events_in_order(self, start, tell, helpers):
        stream = start().open("products")

        tell(*range(50))

        assert helpers.numbers(stream.take(50)) == list(range(50))

    def test_sends_resume_points_to_who_gets_nothing(self, start, tell):
        stream = start(**SMALL).open("categories")
        stream.read_until(lambda: stream.last_id)
        before = wire.parse_id(stream.last_id.encode())

        tell(1)

        stream.read_until(lambda: wire.parse_id(stream.last_id.encode()) > before)


class TestResume:
    def test_goes_on_after_an_id(self, start, tell, helpers):
        server = start()
        first = server.open("products")
        tell(*range(5))
        ids = [event.id for event in first.take(5)]

        assert helpers.numbers(server.open("products", after=ids[1]).take(3)) == [
            2,
            3,
            4,
        ]

    def test_goes_on_where_memory_does_not_reach(self, start, tell, helpers):
        first = start().open("products")
        tell(*range(60))
        ids = [event.id for event in first.take(60)]

        found = start(**SMALL).open("products", after=ids[1]).take(58)

        assert helpers.story(found) == "2-59"

    def test_goes_on_in_another_process(self, start, start_process, bus, tell, helpers):
        stream = start().open("products")
        tell(*range(5))
        ids = [event.id for event in stream.take(5)]

        other = start_process(event_bus_url=bus.url, **SMALL)

        assert helpers.story(other.open("products", after=ids[0]).take(4)) == "1-4"

    def test_tells_of_a_gap_when_what_came_next_is_gone(
        self, start, tell, helpers, bus
    ):
        server = start(**SMALL)
        stream = server.open("products")
        tell(0)
        [event] = stream.take(1)
        offset = wire.parse_id(event.id.encode())[1]
        journal = rabbitmq.Journal(bus.url)
        while journal._one("first") <= offset + 1:
            tell(*range(ROUND), size=500)
            stream.take(ROUND)

        found = server.open("products", after=event.id).take(ROUND)

        assert found[0].kind == "gap"
        # What is still there comes after it.
        assert helpers.story(found).startswith("gap ")
        assert helpers.numbers(found)

    @pytest.mark.parametrize("after", [OF_REDIS, "1-1", "9795353472907000-7"])
    def test_tells_of_a_gap_after_an_id_of_another_stream(
        self, start, tell, helpers, after
    ):
        server = start()
        stream = server.open("products", after=after)
        [gap] = stream.take(1)
        tell(7)

        assert gap.kind == "gap"
        assert helpers.numbers(stream.take(1000, 3))[-1] == 7

    def test_loses_nothing_when_the_broker_is_killed(self, start, tell, helpers, bus):
        server = start()
        stream = server.open("products")
        tell(1000)
        stream.take(1)
        bus.process.kill()
        bus.process.wait()
        # Told by a comment, as with Redis.
        stream.read_until(lambda: any(stream.comments))
        bus.start()
        numbers = [1001, 1002]
        while numbers:
            try:
                tell(numbers[0])
            # It listens before it has everything back: the relay comes again, too.
            except BusAway:
                continue
            del numbers[0]

        assert helpers.numbers(stream.take(2)) == [1001, 1002]


class TestIdsOfTheJournal:
    def test_are_a_gap_for_the_stream_in_redis(
        self, start_fresh_server, publish, helpers
    ):
        server = start_fresh_server()
        publish.many(3, "products")
        stream = server.open("products", after="1795353472907785-1")
        [gap] = stream.take(1)
        publish.many(1, "products", first=7)

        assert gap.kind == "gap"
        stream.read_until(lambda: stream.last_id)


class TestPublishEvent:
    @pytest.fixture
    def app(self, make_app, bus):
        app = make_app(event_bus_url=bus.url)
        station = app.extensions["flagon.station"]
        station.start()
        assert station._reader.ready.wait(30)
        return app

    @pytest.fixture
    def send(self, app, client_token, publish):
        def post(id_, **changes):
            return app.test_client().post(
                "/api/v1/events",
                headers=client_token(),
                json={**EVENT, "id": id_, **changes},
            )

        return post

    def test_adds_one_entry_for_each_id(self, send):
        id_ = uuid4().hex
        first, again = send(id_), send(id_)

        assert first.status_code == again.status_code == 201
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert first.json == again.json

    def test_refuses_another_event_under_the_same_id(self, send):
        id_ = uuid4().hex
        send(id_)

        assert send(id_, subject="another").json["type"].endswith("#event-id-reused")

    def test_adds_one_entry_for_many_twins(self, app, send):
        id_ = uuid4().hex
        ring = app.extensions["flagon.station"].source.ring
        with ring.changed:
            before = ring.end
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: send(id_), range(8)))
        [added] = [
            answer
            for answer in answers
            if answer.status_code == 201 and "Idempotent-Replayed" not in answer.headers
        ]

        assert {answer.status_code for answer in answers} <= {201, 503}
        assert send(id_).json == added.json
        end = time.monotonic() + 30
        while wire.format_id(ring.last).decode() < added.json["position"]:
            assert time.monotonic() < end
            with ring.changed:
                ring.changed.wait(1)
        assert ring.end - before == 1

    def test_waits_for_its_twin(self, app, send, publish):
        log = app.extensions["flagon.station"].source.event_log
        assert isinstance(log, Journaled)
        with log._alone(["realtime:published:x"]):
            assert publish.redis.ttl("realtime:published:x:now") > 0
            with pytest.raises(Unavailable, match="again in a second"):
                log.append({}, names=["x"], digest="d")
        assert not publish.redis.exists("realtime:published:x:now")

    def test_says_so_when_the_bus_is_away(self, make_app, client_token):
        app = make_app(event_bus_url="amqp://realtime:none@127.0.0.1:1")

        answer = app.test_client().post(
            "/api/v1/events",
            headers=client_token(),
            json={**EVENT, "id": uuid4().hex},
        )

        assert answer.status_code == 503
