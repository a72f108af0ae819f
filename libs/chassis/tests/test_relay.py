import base64
import json
from uuid import uuid4

import psycopg
import pytest
import redis
from kombu.exceptions import OperationalError as KombuUnavailable
from psycopg.types.json import Jsonb

from flagon_chassis import relay as relays
from flagon_chassis import streams
from flagon_chassis.logs import SPAN_REQUEST_ID
from flagon_chassis.relay import Relay
from flagon_chassis.testing import free_port, start_redis

from .conftest import Rounds, eventually, in_thread, sample

TYPE = "market.flagon.thing.changed.v1"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def relay(settings):
    return Relay(settings, "things")


def put_event(rows, subject="1", **headers):
    id_ = uuid4()
    envelope = {
        "id": str(id_),
        "subject": subject,
        "time": "2026-11-22T12:00:00Z",
        "topics": ["things", f"things/{subject}"],
    }
    _put(rows, id_, "event", TYPE, subject, envelope, headers)
    return id_


def put_task(rows, name="things.do", queue="bulk", more=None, **kwargs):
    id_ = uuid4()
    body = {"queue": queue, "kwargs": kwargs, **(more or {})}
    _put(rows, id_, "task", name, "", body, {"traceparent": TRACEPARENT})
    return id_


def _put(rows, *values):
    rows.execute(
        "insert into outbox (id, channel, name, subject, body, headers)"
        " values (%s, %s, %s, %s, %s, %s)",
        [Jsonb(value) if isinstance(value, dict) else value for value in values],
    )
    rows.execute("notify outbox")


def waiting(rows):
    return rows.execute("select count(*) from outbox where sent_at is null").fetchone()[
        0
    ]


def published(store, count):
    """Return the ids in the stream once there are as many."""
    return eventually(
        lambda: (
            (
                (found := list(streams.flat(store.xrange(streams.EVENTS)))),
                [fields[b"id"].decode() for _, fields in found],
            )[1]
            if store.xlen(streams.EVENTS) >= count
            else None
        )
    )


class TestStep:
    def test_says_so_when_events_are_in_the_stream_and_not_marked_yet(
        self, settings, rows, store
    ):
        told = []
        relay = Relay(
            settings,
            "things",
            lambda: told.append((store.xlen(streams.EVENTS), waiting(rows))),
        )
        put_event(rows)
        put_task(rows)

        relay.step(rows)
        put_task(rows)
        relay.step(rows)

        assert told == [(1, 2)]

    def test_hands_events_to_the_stream_in_order(self, relay, rows, store):
        ids = [put_event(rows, subject=str(n)) for n in range(5)]

        assert relay.step(rows) == 5

        assert published(store, 5) == [str(id_) for id_ in ids]
        assert waiting(rows) == 0

    def test_writes_what_consumers_and_realtime_read(self, relay, rows, store):
        id_ = put_event(rows, subject="ä")

        relay.step(rows)

        ((entry_id, fields),) = streams.flat(store.xrange(streams.EVENTS))
        event = streams.decode(entry_id, fields)
        assert (event.id, event.type) == (id_, TYPE)
        assert event.topics == ("things", "things/ä")
        assert event.envelope["sequence"] == "1"
        assert b"\\u" not in fields[b"event"]

    def test_has_nothing_to_do_without_messages(self, relay, rows, store):
        assert relay.step(rows) == 0
        assert not store.exists(streams.EVENTS)

    def test_takes_one_batch_at_a_time(self, relay, rows, monkeypatch):
        monkeypatch.setattr(relays, "_BATCH", 2)
        for _ in range(3):
            put_event(rows)

        assert [relay.step(rows), relay.step(rows), relay.step(rows)] == [2, 1, 0]

    def test_counts_by_type(self, relay, rows):
        def count():
            return sample("flagon_events_published_total", type=TYPE) or 0

        before = count()
        put_event(rows)

        relay.step(rows)

        assert count() == before + 1

    def test_marks_nothing_when_redis_is_away(self, make_settings, database_url, rows):
        relay = Relay(make_settings(database_url=database_url), "things")
        put_event(rows)

        with pytest.raises(redis.ConnectionError):
            relay.step(rows)

        assert waiting(rows) == 1

    def test_names_the_first_of_what_is_sent_together(self, relay, rows, traced):
        put_event(rows, request_id="order-66-x")
        put_event(rows)

        relay.step(rows)

        command, first, second = traced()
        assert first["attributes"][SPAN_REQUEST_ID] == "order-66-x"
        assert command["name"] == "PIPELINE"
        assert command["parent_span_id"] == first["span_id"]
        assert second["links"] == [f"{first['trace_id']}-{first['span_id']}"]
        assert "links" not in first

    def test_sends_all_of_a_batch_or_nothing(self, relay, rows, store):
        # Without memory Redis refuses `XADD`; what fits must not overtake what does not.
        for _ in range(3):
            put_event(rows)
        store.config_set("maxmemory", "1")
        try:
            with pytest.raises(redis.RedisError):
                relay.step(rows)
        finally:
            store.config_set("maxmemory", "0")

        assert waiting(rows) == 3
        assert not store.exists(streams.EVENTS)


class TestRepeatForgotten:
    """The stream is emptied; the outbox still knows what was in it."""

    @pytest.fixture
    def look(self, relay, rows):
        """Has the relay look, however lately it has done so; returns what it sends."""

        def look():
            relay._begun_at = float("-inf")
            relay.repeat_forgotten(rows)
            return relay.step(rows)

        return look

    @pytest.mark.parametrize("seen", [True, False])
    @pytest.mark.parametrize("others", [0, 3])
    def test_sends_what_was_there(self, relay, rows, store, look, seen, others):
        ids = [str(put_event(rows, subject=str(n))) for n in range(3)]
        relay.step(rows)
        if seen:
            assert look() == 0
        store.flushall()
        # Later by the clock, however fast this machine is.
        later = store.time()[0] * 1000 + 2000
        for n in range(others):
            store.xadd(streams.EVENTS, {"id": "another relay's"}, id=f"{later}-{n}")

        assert look() == 3

        assert published(store, 3 + others)[others:] == ids
        assert look() == look() == 0

    def test_leaves_no_second_span(self, relay, rows, store, look, traced):
        put_event(rows)
        relay.step(rows)
        store.flushall()
        put_event(rows)

        assert look() == 2

        spans = [one["name"] for one in traced() if one["name"].startswith("publish")]
        assert len(spans) == 2

    def test_leaves_alone_what_is_there(self, relay, settings, rows, look):
        for _ in range(3):
            put_event(rows)
            relay.step(rows)
            assert look() == 0

        relay._begun = float("-inf")
        assert look() == 0

    def test_leaves_alone_what_went_by_age(self, relay, rows, store, look):
        for n in range(3):
            store.xadd(streams.EVENTS, {"id": "old"}, id=f"{n + 1}-0")
        put_event(rows)
        relay.step(rows)
        store.xtrim(streams.EVENTS, maxlen=0)
        store.xadd(streams.EVENTS, {"id": "new"})

        assert look() == 0

    def test_sends_nothing_of_long_ago(self, relay, rows, store, look):
        put_event(rows)
        relay.step(rows)
        rows.execute("update outbox set sent_at = now() - interval '61 minutes'")
        store.flushall()

        assert look() == 0

    def test_looks_every_few_seconds(self, relay, rows, store):
        put_event(rows)
        relay.step(rows)
        relay.repeat_forgotten(rows)
        store.flushall()

        relay.repeat_forgotten(rows)

        assert relay.step(rows) == 0

    def test_waits_for_a_redis_that_says_something_else(self, relay, rows, store):
        store.set(streams.EVENTS, "no stream")

        with pytest.raises(redis.ResponseError):
            relay.repeat_forgotten(rows)


class TestTrimming:
    def test_forgets_events_older_than_a_day(self, relay, rows, store):
        # Redis trims whole nodes of a hundred entries.
        for n in range(1, 300):
            store.xadd(streams.EVENTS, {"id": "old"}, id=f"{n}-0")
        put_event(rows)

        relay.step(rows)

        assert store.xlen(streams.EVENTS) < 101

    @pytest.mark.parametrize("bounds", [{"kept_entries": 10}, {"kept_bytes": 10_000}])
    def test_keeps_number_and_size_in_bounds(self, settings, rows, store, bounds):
        relay = Relay(settings, "things", **bounds)
        for _ in range(320):
            put_event(rows)

        while relay.step(rows):
            pass

        assert store.xlen(streams.EVENTS) <= 200


class TestTasks:
    def message(self, store, queue="bulk"):
        found = store.lrange(f"things:{queue}", 0, -1)
        return [json.loads(one) for one in found]

    def test_hands_tasks_to_the_queue(self, relay, rows, store):
        id_ = put_task(rows, number=1)

        relay.step(rows)

        (message,) = self.message(store)
        headers = message["headers"]
        assert (headers["task"], headers["id"]) == ("things.do", str(id_))
        assert headers["traceparent"] == TRACEPARENT
        assert headers["enqueued_at"] > 1e9
        assert waiting(rows) == 0

    def test_lets_tasks_expire_that_say_so(self, relay, rows, store):
        put_task(rows, more={"expires_seconds": 60})
        put_task(rows)

        relay.step(rows)

        expires = [one["headers"]["expires"] for one in self.message(store)]
        assert sorted(map(bool, expires)) == [False, True]

    def test_hands_tasks_to_the_service_they_are_named_after(self, relay, rows, store):
        put_task(rows, name="worker.send_mail", queue="mail", mail_id="1")

        relay.step(rows)

        (message,) = (json.loads(one) for one in store.lrange("worker:mail", 0, -1))
        assert message["headers"]["task"] == "worker.send_mail"
        # Nothing but the list: who sends may not change where messages go.
        assert store.keys("worker:*") == [b"worker:mail"]
        store.delete("worker:mail")

    def test_marks_nothing_when_no_task_can_be_sent(self, relay, rows):
        put_task(rows, queue="nobody")

        assert relay.step(rows) == 1

        assert waiting(rows) == 1

    def test_goes_on_when_a_task_cannot_be_sent(self, relay, rows, store, logged):
        put_task(rows, queue="nobody")
        put_task(rows)

        relay.step(rows)
        assert relay.step(rows) == 0

        assert len(self.message(store)) == 1
        assert waiting(rows) == 1
        assert "message_unsendable" in str(logged)

    def test_sends_those_that_may_be_folded_as_one(self, relay, rows, store):
        put_task(rows, n=0)
        for number in range(5):
            put_task(rows, more={"fold": 3}, n=number)
        put_task(rows, queue="mail", more={"fold": 3}, n=9)
        put_task(rows, n=7)

        relay.step(rows)

        sent = [
            json.loads(base64.b64decode(json.loads(each)["body"]))[1]
            for each in store.lrange("things:bulk", 0, -1)
        ]
        assert sent[::-1] == [
            {"n": 0},
            {"n": 0, "times": 3},
            {"n": 3, "times": 2},
            {"n": 7},
        ]
        assert store.llen("things:mail") == 1
        assert waiting(rows) == 0

    def test_names_those_that_are_sent_with_it(self, relay, rows, store, traced):
        for number in range(2):
            put_task(rows, more={"fold": 3}, n=number)

        relay.step(rows)

        sent = next(line for line in traced() if line["name"].startswith("send"))
        assert sent["links"] == ["-".join(TRACEPARENT.split("-")[1:3])]

    def test_keeps_tasks_while_the_broker_is_away(
        self, make_settings, database_url, rows
    ):
        relay = Relay(make_settings(database_url=database_url), "things")
        put_task(rows)

        with pytest.raises(KombuUnavailable):
            relay.step(rows)

        assert waiting(rows) == 1


class TestOutages:
    def test_are_logged_once_each(self, make_settings, logged):
        relay = Relay(make_settings(), "things", stop=Rounds(3))

        relay.work()

        assert [line["dependency"] for line in logged] == ["postgres"]

    def test_a_database_that_is_not_migrated_yet_is_waited_for(
        self, relay, rows, store
    ):
        rows.execute("alter table outbox rename to not_yet")
        with in_thread(relay.work, relay.stop):
            eventually(lambda: relay.trouble.get("postgres") == "UndefinedTable")
            rows.execute("alter table not_yet rename to outbox")
            put_event(rows)
            published(store, 1)

    def test_of_redis_leave_postgres_in_use(
        self, make_settings, database_url, rows, logged
    ):
        settings = make_settings(database_url=database_url)
        put_event(rows)

        Relay(settings, "things", stop=Rounds(3)).work()

        interrupted = [line for line in logged if line["event"] == "relay_interrupted"]
        assert [line["dependency"] for line in interrupted] == ["redis"]
        assert waiting(rows) == 1


class TestWork:
    def test_sends_batch_after_batch_without_a_pause(
        self, relay, rows, store, monkeypatch
    ):
        monkeypatch.setattr(relays, "_BATCH", 2)
        for _ in range(5):
            put_event(rows)

        with in_thread(relay.work, relay.stop):
            published(store, 5)

    def test_sends_what_was_there_and_what_is_notified(self, relay, rows, store):
        first = put_event(rows)

        with in_thread(relay.work, relay.stop):
            published(store, 1)
            second = put_event(rows)
            assert published(store, 2) == [str(first), str(second)]
            eventually(lambda: waiting(rows) == 0)

    def test_keeps_the_order_over_a_lost_postgres(
        self, relay, rows, store, postgres_server
    ):
        name = rows.info.dbname
        end = (
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'things-relay' and datname = current_database()"
        )
        ids = [put_event(rows)]
        with (
            in_thread(relay.work, relay.stop),
            psycopg.connect(postgres_server.url, autocommit=True) as admin,
        ):
            published(store, 1)
            # Ended between sending and marking it would send the first one again.
            eventually(lambda: waiting(rows) == 0)
            admin.execute(f'alter database "{name}" allow_connections false')
            rows.execute(end)
            ids.append(put_event(rows))
            eventually(lambda: "postgres" in relay.trouble)
            with pytest.raises(ConnectionError):
                relay.probe("postgres")
            admin.execute(f'alter database "{name}" allow_connections true')
            ids.append(put_event(rows))

            assert published(store, 3) == [str(id_) for id_ in ids]
            eventually(lambda: relay.probe("postgres") is None)

    def test_keeps_the_order_over_a_lost_redis(self, make_settings, database_url, rows):
        port = free_port()
        server = start_redis(port=port)
        url = next(server).url
        relay = Relay(
            make_settings(database_url=database_url, redis_store_url=url), "things"
        )
        with in_thread(relay.work, relay.stop):
            put_event(rows)
            eventually(lambda: waiting(rows) == 0)
            server.close()
            ids = [put_event(rows) for _ in range(3)]
            eventually(lambda: "redis" in relay.trouble)
            server = start_redis(port=port)
            next(server)
            with redis.Redis.from_url(url) as store:
                assert published(store, 3) == [str(id_) for id_ in ids]
            eventually(lambda: relay.probe("redis") is None)
        server.close()

    def test_a_second_relay_waits_until_the_first_has_gone(
        self, relay, settings, rows, store, logged
    ):
        second = Relay(settings, "things")
        with in_thread(second.work, second.stop):
            with in_thread(relay.work, relay.stop):
                # Whichever came first has the lock; the other says that it waits.
                eventually(lambda: "relay_standby" in str(logged))
                put_event(rows)
                assert len(published(store, 1)) == 1
            put_event(rows)
            assert len(published(store, 2)) == 2

    def test_stops_while_it_stands_by(self, relay, settings, logged):
        second = Relay(settings, "things", stop=Rounds(3))
        with in_thread(relay.work, relay.stop):
            eventually(lambda: "relay_active" in str(logged))
            second.work()

        assert str(logged).count("relay_standby") == 1


class TestHousekeeping:
    def test_forgets_what_was_sent_a_day_ago(self, relay, rows, monkeypatch):
        monkeypatch.setattr(relays, "_PURGE_STEP", 2)
        for _ in range(3):
            put_event(rows)
        rows.execute("update outbox set sent_at = now() - interval '25 hours'")
        put_event(rows)
        left = []

        for _ in range(3):
            relay.housekeeping(rows, idle=True)
            left.append(rows.execute("select count(*) from outbox").fetchone()[0])

        assert left == [2, 1, 1]

    def test_does_not_purge_while_there_is_work(self, relay, rows):
        put_event(rows)
        rows.execute("update outbox set sent_at = now() - interval '25 hours'")

        relay.housekeeping(rows, idle=False)

        assert rows.execute("select count(*) from outbox").fetchone()[0] == 1

    def test_forgets_answers_to_repeated_requests_after_a_day(self, relay, rows):
        for key, age in (("old", "25 hours"), ("new", "23 hours")):
            rows.execute(
                "insert into idempotency_key values"
                " ('s', %s, '', 200, '{}', '', now() - %s::interval)",
                [key, age],
            )

        relay.housekeeping(rows, idle=True)

        kept = rows.execute("select key from idempotency_key").fetchall()
        assert kept == [("new",)]

    def test_does_without_such_answers(self, relay, rows):
        rows.execute("alter table idempotency_key rename to elsewhere")
        try:
            relay.housekeeping(rows, idle=True)
        finally:
            rows.execute("alter table elsewhere rename to idempotency_key")

    def test_measures_what_waits(self, relay, rows):
        put_event(rows)
        rows.execute("update outbox set created_at = now() - interval '90 seconds'")

        relay.measure(rows)

        assert sample("flagon_outbox_pending") == 1
        assert 90 <= sample("flagon_outbox_oldest_seconds") < 100


class TestRun:
    def test_stops_at_sigterm(self, tmp_path, settings, rows, store, service_process):
        process = service_process(
            "from flagon_chassis import relay; relay.run(settings, 'things')", settings
        )
        put_event(rows)
        published(store, 1)
        assert process.get("/livez")[0] == 200
        eventually(lambda: process.get("/readyz")[0] == 200)
        text = process.get("/metrics")[1]
        assert "flagon_outbox_pending" in text
        assert 'flagon_build_info{release="unknown",service="things"} 1.0' in text

        assert process.stop() == 0
        assert "relay_stopped" in process.output()

    def test_loads_neither_flask_nor_celery_nor_sqlalchemy(
        self, service_process, settings
    ):
        process = service_process(
            "import sys; from flagon_chassis import relay;"
            "print(sorted({name.partition('.')[0] for name in sys.modules}"
            " & {'flask', 'celery', 'sqlalchemy', 'opentelemetry.sdk', 'sentry_sdk'}))",
            settings,
            wait=False,
        )
        process.process.wait(20)

        assert process.output().strip() == "[]"
