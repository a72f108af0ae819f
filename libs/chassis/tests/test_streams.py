"""The named traps of redis-py 8.1, and that `streams` steps around each."""

import time
from uuid import uuid4

import pytest
import redis

from flagon_chassis import streams
from flagon_chassis.testing import free_port


@pytest.fixture
def client(redis_url):
    with streams.connect(redis_url, block_seconds=1) as client:
        yield client


@pytest.fixture
def entry(store):
    return store.xadd(streams.EVENTS, {"id": "1"}).decode()


class TestConnect:
    def test_a_block_is_shorter_than_the_socket_timeout(self, redis_url):
        # The default timeout is 5 s: a longer block raises instead of returning.
        with streams.connect(redis_url, block_seconds=8) as client:
            options = client.connection_pool.connection_kwargs
            assert options["socket_timeout"] > 8

    def test_an_empty_block_returns_nothing(self, client):
        started = time.monotonic()

        reply = client.xread({streams.EVENTS: "$"}, block=200)

        assert list(streams.entries(reply)) == []
        assert 0.15 < time.monotonic() - started < 5

    def test_nothing_is_tried_ten_times(self):
        # The default tries ten times with growing waits: 3.5 s and more.
        client = streams.connect(f"redis://127.0.0.1:{free_port()}")
        started = time.monotonic()

        with pytest.raises(redis.ConnectionError):
            client.ping()

        assert time.monotonic() - started < 3

    def test_a_command_is_never_repeated_by_the_library(self, client):
        options = client.connection_pool.connection_kwargs

        assert options["retry"].get_retries() == 0


class TestEntries:
    @pytest.mark.parametrize(
        "options",
        [{}, {"protocol": 2}, {"protocol": 3, "legacy_responses": False}],
        ids=["default", "RESP2", "RESP3"],
    )
    def test_reads_every_shape_of_answer(self, redis_url, store, entry, options):
        with redis.Redis.from_url(redis_url, **options) as client:
            client.xgroup_create(streams.EVENTS, "g", "0")
            wanted = [(entry, {b"id": b"1"})]

            def read(after):
                return list(
                    streams.entries(
                        client.xreadgroup("g", "c", {streams.EVENTS: after})
                    )
                )

            assert list(streams.entries(client.xread({streams.EVENTS: "0"}))) == wanted
            assert read(">") == wanted
            assert read(">") == []
            assert read("0") == wanted
            assert list(streams.flat(client.xrange(streams.EVENTS))) == wanted
            claimed = client.xautoclaim(streams.EVENTS, "g", "d", 0)
            assert list(streams.flat(claimed[1])) == wanted

            store.xtrim(streams.EVENTS, maxlen=0)
            assert list(
                streams.entries(client.xreadgroup("g", "d", {streams.EVENTS: "0"}))
            ) == [(entry, {})]

    def test_nothing_is_no_entries(self):
        assert list(streams.entries(None)) == []
        assert list(streams.flat([(b"1-0", None)])) == [("1-0", {})]


class TestEvent:
    def test_survives_the_stream(self, store):
        id_ = uuid4()
        envelope = {"id": str(id_), "topics": ["a", "b"], "traceparent": "t"}
        store.xadd(streams.EVENTS, streams.encode(id_, "type", envelope))

        ((entry_id, fields),) = streams.flat(store.xrange(streams.EVENTS))
        event = streams.decode(entry_id, fields)

        assert (event.id, event.type, event.topics) == (id_, "type", ("a", "b"))
        assert event.envelope == envelope
        assert event.traceparent == "t"
        # Where realtime looks for it, which does not read envelopes.
        assert fields[b"traceparent"] == b"t"

    @pytest.mark.parametrize("fields", [{}, {b"id": b"no"}])
    def test_that_no_relay_wrote_is_refused(self, fields):
        with pytest.raises(ValueError, match=r"field|badly"):
            streams.decode("1-0", fields)
