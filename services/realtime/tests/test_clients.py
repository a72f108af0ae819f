import pytest
import redis

from flagon_realtime import clients
from flagon_realtime.clients import EventLog
from flagon_realtime.wire import parse_id


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def event_log(request, redis_url):
    log = EventLog(
        f"{redis_url}?protocol={request.param}", "events", block_seconds=0.05
    )
    yield log
    log.close()


def ids(batch):
    return [entry.id for entry in batch.entries]


def parsed(texts):
    return [parse_id(text.encode()) for text in texts]


class TestFollow:
    def test_returns_what_comes_after_an_id(self, event_log, publish):
        published = parsed(publish.many(3, "products"))

        batch = event_log.follow(published[0])

        assert ids(batch) == published[1:]
        assert batch.last == published[2]

    def test_returns_nothing_after_its_time(self, event_log, publish):
        last = parsed(publish.many(1, "products"))[0]

        batch = event_log.follow(last)

        assert (batch.entries, batch.last, batch.scanned) == ([], last, 0)

    def test_waits_for_an_event_less_than_for_an_answer(self, redis_url):
        # Else an idle stream looks like a dead Redis every few seconds.
        log = EventLog(redis_url, "events")

        patience = log._tail.connection_pool.connection_kwargs["socket_timeout"]

        assert patience * 1000 > log._block_milliseconds + 1000
        log.close()

    def test_moves_on_past_entries_that_it_cannot_read(self, event_log, publish):
        identity = publish.redis.xadd("events", {"no": "topics"})

        batch = event_log.follow((0, 0))

        assert batch.entries == []
        assert batch.malformed == 1
        assert batch.last == parse_id(identity)

    def test_reads_topics_and_trace(self, event_log, publish):
        publish("products", "products/1", traceparent="00-a-b-01")

        [entry] = event_log.follow((0, 0)).entries

        assert entry.topics == (b"products", b"products/1", b"products/*")
        assert entry.type == b"market.flagon.product.changed.v1"
        assert entry.traceparent == b"00-a-b-01"

    def test_puts_topics_below_all_that_is_above_them(self, event_log, publish):
        publish("a/b/c", "a/b/d")

        [entry] = event_log.follow((0, 0)).entries

        assert entry.topics == (b"a/b/c", b"a/b/d", b"a/b/*", b"a/*")

    def test_tells_apart_what_entries_are_about(self, event_log, publish):
        publish("products", subject="1")
        publish("products", subject="1")
        for others in ({"subject": "2"}, {"subject": "1", "type": "other"}, {}):
            publish("products", **others)
        publish("tags", subject="1")

        about = [entry.about for entry in event_log.follow((0, 0)).entries]

        assert about[0] == about[1]
        assert about[4] is None
        assert len(set(about)) == 5

    def test_raises_when_redis_is_away(self):
        log = EventLog("redis://127.0.0.1:1/0", "events")

        with pytest.raises(redis.ConnectionError):
            log.follow((0, 0))


class TestTailRows:
    ROWS = [(b"1-0", {b"a": b"b"})]  # noqa: RUF012

    @pytest.mark.parametrize(
        "reply",
        [
            [[b"events", ROWS]],
            {b"events": ROWS},
            {b"events": [ROWS]},
        ],
    )
    def test_reads_every_shape_that_the_library_gives(self, reply):
        assert clients._tail_rows(reply) == self.ROWS

    @pytest.mark.parametrize("reply", [None, [], {}, {b"events": []}])
    def test_reads_nothing_as_nothing(self, reply):
        assert clients._tail_rows(reply) == []


class TestNewest:
    def test_is_complete_where_nothing_was_deleted(self, event_log, publish):
        published = parsed(publish.many(3, "products"))

        floor, batch = event_log.newest(100, 10_000)

        assert floor == (0, 0)
        assert ids(batch) == published

    def test_starts_right_before_the_oldest_that_is_left(self, event_log, publish):
        published = parsed(publish.many(5, "products"))
        publish.redis.xtrim("events", maxlen=2, approximate=False)

        floor, batch = event_log.newest(100, 10_000)

        assert published[2] <= floor < published[3]
        assert ids(batch) == published[3:]

    def test_reads_no_more_than_it_is_asked_for(self, event_log, publish):
        published = parsed(publish.many(clients.PAGE + 10, "products"))

        floor, batch = event_log.newest(100, 1_000_000)

        assert ids(batch) == published[10:]
        assert published[9] <= floor < published[10]

    def test_goes_on_to_the_next_page(self, event_log, publish):
        published = parsed(publish.many(clients.PAGE + 10, "products"))

        floor, batch = event_log.newest(10_000, 1_000_000)

        assert ids(batch) == published
        assert floor == (0, 0)

    def test_knows_where_an_emptied_stream_stands(self, event_log, publish):
        published = parsed(publish.many(3, "products"))
        publish.redis.xtrim("events", maxlen=0)

        floor, batch = event_log.newest(100, 10_000)

        assert (floor, batch.entries, batch.last) == (published[2], [], published[2])

    def test_starts_at_zero_before_the_first_event(self, event_log, redis_url):
        floor, batch = event_log.newest(100, 10_000)

        assert (floor, batch.last, batch.entries) == ((0, 0), (0, 0), [])

    def test_raises_when_the_key_holds_something_else(self, event_log, publish):
        publish.redis.set("events", "1")

        with pytest.raises(redis.ResponseError):
            event_log.newest(100, 10_000)


class TestPage:
    def test_says_up_to_where_entries_are_missing(self, event_log, publish):
        published = parsed(publish.many(5, "products"))
        publish.redis.xtrim("events", maxlen=2, approximate=False)

        missed = event_log.page(published[0])
        seen = event_log.page(published[2])

        assert missed.missing_until is not None
        assert ids(event_log.page(missed.missing_until)) == published[3:]
        assert seen.missing_until is None or ids(seen) == []


class TestMarks:
    def test_returns_those_that_exist(self, event_log, publish):
        publish.redis.set("denylist:jti:b", 1)

        assert event_log.marks(["denylist:jti:a", "denylist:jti:b"]) == {
            "denylist:jti:b": b"1"
        }
