import itertools
import json
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
import redis
from psycopg.errors import SyntaxError as SyntaxErrorInSql
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from flagon_chassis import buses, streams
from flagon_chassis import consumer as consumers
from flagon_chassis.consumer import Consumer
from flagon_chassis.errors import Unavailable
from flagon_chassis.relay import Relay
from flagon_chassis.testing import free_port, start_redis

from .conftest import Rounds, eventually, in_thread, sample, write
from .test_relay import put_event

TYPE = "market.flagon.thing.changed.v1"


def write_at(attempt):
    """Return what fails until an attempt, counted from 1, and writes then."""
    attempts = itertools.count(1)

    def effect(session, events):
        if next(attempts) < attempt:
            raise ValueError
        write(session, events)

    return effect


@pytest.fixture
def make_consumer(settings, effects):
    def make(handle=write, **options):
        consumer = Consumer(settings, "things", handle, **options)
        made.append(consumer)
        consumer.join()
        return consumer

    made = []
    yield make
    for consumer in made:
        consumer.close()


@pytest.fixture
def consumer(make_consumer):
    return make_consumer()


def put(store, subject, id_=None, type_=TYPE):
    """Add an event to the stream as the relay does and return its entry id."""
    id_ = id_ or uuid4()
    envelope = {
        "id": str(id_),
        "subject": subject,
        "time": datetime.now(UTC).isoformat(),
        "topics": ["things"],
    }
    entry = store.xadd(streams.EVENTS, streams.encode(id_, type_, envelope))
    return entry.decode()


def pending(store):
    return store.xpending(streams.EVENTS, "things")["pending"]


def dead(store):
    """Return the dead letters in the stream."""
    return [fields for _, fields in streams.flat(store.xrange(streams.DEAD))]


class TestStreamEmptied:
    def test_events_that_nobody_had_read_have_their_effect_once(
        self, settings, make_consumer, rows, store, effects
    ):
        relay = Relay(settings, "things")
        consumer = make_consumer()
        for subject in ("read", "unread"):
            put_event(rows, subject=subject)
            relay.step(rows)
            if subject == "read":
                consumer.step()
        store.flushall()

        with in_thread(consumer.work, consumer.stop):
            relay.repeat_forgotten(rows)
            relay.step(rows)
            put_event(rows, subject="after")
            relay.step(rows)
            eventually(lambda: "after" in effects())

        assert effects() == ["read", "unread", "after"]


class TestStep:
    def test_gives_every_event_its_effect(self, consumer, store, effects):
        for subject in "abc":
            put(store, subject)

        consumer.step()

        assert effects() == ["a", "b", "c"]
        assert pending(store) == 0

    def test_a_new_group_sees_what_is_still_kept(self, settings, store, effects):
        put(store, "before")
        consumer = Consumer(settings, "things", write)
        consumer.join()

        consumer.step()

        assert effects() == ["before"]
        consumer.close()

    def test_joining_again_changes_nothing(self, consumer, store, effects):
        put(store, "a")
        consumer.step()

        consumer.join()
        consumer.step()

        assert effects() == ["a"]

    def test_a_repeat_has_no_second_effect(self, consumer, store, effects):
        id_ = uuid4()
        put(store, "a", id_)
        consumer.step()
        put(store, "again", id_)
        put(store, "b")

        consumer.step()

        assert effects() == ["a", "b"]
        assert pending(store) == 0

    def test_a_batch_of_repeats_has_no_effect_at_all(
        self, make_consumer, store, effects
    ):
        calls = []
        consumer = make_consumer(
            lambda session, events: calls.append(write(session, events))
        )
        id_ = uuid4()
        put(store, "a", id_)
        consumer.step()
        put(store, "again", id_)

        consumer.step()

        assert len(calls) == 1
        assert pending(store) == 0

    def test_a_repeat_in_the_same_batch_has_no_second_effect(
        self, consumer, store, effects
    ):
        id_ = uuid4()
        put(store, "a", id_)
        put(store, "again", id_)

        consumer.step()

        assert effects() == ["a"]

    def test_effect_and_memory_of_it_are_one_transaction(
        self, make_consumer, store, effects, rows
    ):
        def fail(session, events):
            write(session, events)
            raise ValueError("no")

        put(store, "a")

        make_consumer(fail, attempts=1).step()

        assert effects() == []
        assert rows.execute("select count(*) from inbox").fetchone() == (0,)

    def test_measures_the_time_from_event_to_effect(self, consumer, store):
        name = "flagon_event_consume_seconds_count"
        before = sample(name, consumer="things") or 0
        put(store, "a")

        consumer.step()

        assert sample(name, consumer="things") == before + 1


class TestTypes:
    OTHER = "market.flagon.other.changed.v1"

    def test_that_are_not_named_leave_nothing(
        self, make_consumer, store, effects, rows
    ):
        consumer = make_consumer(types=frozenset({TYPE}))
        put(store, "a")
        put(store, "other", type_=self.OTHER)
        # Nor is what nobody can read set aside by whoever does not want it.
        store.xadd(streams.EVENTS, {"type": self.OTHER})
        store.xadd(streams.EVENTS, {"nonsense": "1"})
        put(store, "b")

        consumer.step()

        assert effects() == ["a", "b"]
        assert rows.execute("select count(*) from inbox").fetchone() == (2,)
        assert (pending(store), dead(store)) == (0, [])

    def test_that_are_named_are_set_aside_when_unreadable(self, make_consumer, store):
        consumer = make_consumer(types=frozenset({TYPE}))
        store.xadd(streams.EVENTS, {"type": TYPE})

        consumer.step()

        assert pending(store) == 0
        assert dead(store)[0][b"error"].startswith(b"ValueError")


class TestLabels:
    def test_are_no_names_that_clients_make_up(self, consumer, store):
        body = {"subject": "a", "time": datetime.now(UTC).isoformat(), "topics": ["x"]}
        for type_ in ("custom.robot.x", "custom.robot.y"):
            store.xadd(streams.EVENTS, streams.encode(uuid4(), type_, body))

        consumer.step()

        def counted(type_):
            labels = {"consumer": "things", "type": type_, "outcome": "handled"}
            return sample("flagon_events_consumed_total", **labels)

        assert counted("custom") == 2
        assert counted("custom.robot.x") is None


class TestFailingEvents:
    def test_go_to_the_dead_letters_with_their_error(
        self, make_consumer, store, effects
    ):
        def refuse(session, events):
            write(session, events)
            if any(event.envelope["subject"] == "bad" for event in events):
                raise ValueError("cannot be")

        for subject in ("a", "bad", "b"):
            put(store, subject)

        make_consumer(refuse, attempts=2).step()

        assert sorted(effects()) == ["a", "b"]
        assert pending(store) == 0
        (letter,) = dead(store)
        assert letter[b"error"] == b"ValueError: cannot be"
        assert letter[b"attempts"] == b"2"
        assert letter[b"group"] == b"things"
        assert json.loads(letter[b"event"])["subject"] == "bad"

    def test_may_succeed_at_a_later_attempt(self, make_consumer, store, effects):
        put(store, "a")

        make_consumer(write_at(attempt=3)).step()

        assert effects() == ["a"]
        assert dead(store) == []

    def test_name_the_attempt_before_and_the_first_of_their_batch(
        self, make_consumer, store, traced
    ):
        put(store, "a")
        put(store, "b")

        make_consumer(write_at(attempt=2)).step()

        lines = [line for line in traced() if line["name"].startswith("consume")]
        first, second, again, again_too = lines
        name = "{trace_id}-{span_id}".format_map
        assert second["links"] == [name(first)]
        assert again["links"] == [name(first)]
        assert again_too["links"] == [name(second)]

    def test_unreadable_entries_are_set_aside(self, consumer, store, effects):
        store.xadd(streams.EVENTS, {"what": "ever"})
        store.xadd(streams.EVENTS, {"id": "no uuid", "type": "t"})
        put(store, "a")

        consumer.step()

        assert effects() == ["a"]
        assert len(dead(store)) == 2
        assert list(buses.dead(consumer.settings)) == dead(store)
        assert pending(store) == 0

    def test_stay_pending_when_told_to_stop(self, make_consumer, store):
        def stop_and_fail(_session, _events):
            consumer.stop.set()
            raise ValueError

        consumer = make_consumer(stop_and_fail)
        put(store, "a")

        consumer.step()

        assert pending(store) == 1
        assert dead(store) == []

    def test_of_a_batch_stay_pending_when_told_to_stop(self, make_consumer, store):
        def stop_and_fail(_session, _events):
            consumer.stop.set()
            raise ValueError

        consumer = make_consumer(stop_and_fail)
        put(store, "a")
        put(store, "b")

        consumer.step()

        assert pending(store) == 2


class TestWhatOthersLeft:
    def take(self, store, name, count=10):
        """Read as a consumer that dies before it has done anything."""
        store.xreadgroup("things", name, {streams.EVENTS: ">"}, count=count)

    def test_is_taken_over_from_a_dead_consumer(self, make_consumer, store, effects):
        consumer = make_consumer(claim_seconds=0)
        put(store, "a")
        put(store, "b")
        self.take(store, "dead")

        consumer.step()

        assert effects() == ["a", "b"]
        assert pending(store) == 0

    def test_is_left_to_a_consumer_that_may_still_live(self, consumer, store, effects):
        put(store, "a")
        self.take(store, "busy")

        consumer.step()

        assert effects() == []
        assert pending(store) == 1

    def test_is_resumed_by_the_same_consumer_at_once(self, consumer, store, effects):
        put(store, "a")
        put(store, "b")
        self.take(store, consumer.name)

        consumer.resume()

        assert effects() == ["a", "b"]

    def test_is_set_aside_when_it_kills_the_process_each_time(
        self, make_consumer, store, effects
    ):
        consumer = make_consumer(attempts=2)
        put(store, "killer")
        put(store, "innocent")
        self.take(store, "dead")
        # Only the first of them is read again by a process that it kills.
        for _ in range(3):
            store.xreadgroup("things", "dead", {streams.EVENTS: "0"}, count=1)
        store.xclaim(
            streams.EVENTS,
            "things",
            consumer.name,
            0,
            [entry for entry, _ in store.xrange(streams.EVENTS)],
            justid=True,
        )

        consumer.resume()

        assert effects() == ["innocent"]
        assert b"Crashed: delivered 5 times" in dead(store)[0][b"error"]

    def test_is_acknowledged_when_it_was_trimmed_meanwhile(
        self, consumer, store, effects
    ):
        put(store, "a")
        self.take(store, consumer.name)
        store.xtrim(streams.EVENTS, maxlen=0)

        consumer.resume()

        assert pending(store) == 0
        assert effects() == []

    def test_trimmed_entries_of_a_dead_consumer_vanish(self, make_consumer, store):
        consumer = make_consumer(claim_seconds=0)
        put(store, "a")
        self.take(store, "dead")
        store.xtrim(streams.EVENTS, maxlen=0)

        consumer.step()

        assert pending(store) == 0

    def test_names_of_old_consumers_are_forgotten(self, consumer, store, monkeypatch):
        monkeypatch.setattr(buses, "_FORGOTTEN_CONSUMER_SECONDS", -1)
        put(store, "a")
        self.take(store, "idle")
        store.xack(streams.EVENTS, "things", *dict(store.xrange(streams.EVENTS)))
        put(store, "b")
        self.take(store, "busy")

        consumer.step()

        names = {one["name"] for one in store.xinfo_consumers(streams.EVENTS, "things")}
        assert b"busy" in names
        assert b"idle" not in names

    def test_resuming_stops_between_two_of_them(self, make_consumer, store):
        consumer = make_consumer(lambda _session, _events: consumer.stop.set())
        put(store, "a")
        put(store, "b")
        self.take(store, consumer.name)

        consumer.resume()

        assert pending(store) == 1

    def test_stops_between_two_of_them(self, make_consumer, store):
        def stop(_session, _events):
            consumer.stop.set()

        consumer = make_consumer(stop, claim_seconds=0)
        put(store, "a")
        put(store, "b")
        self.take(store, "dead")

        consumer.step()

        assert pending(store) == 1


class TestWork:
    def test_handles_what_comes(self, make_consumer, store, effects):
        consumer = make_consumer()
        with in_thread(consumer.work, consumer.stop):
            put(store, "a")
            eventually(lambda: effects() == ["a"])
            put(store, "b")
            eventually(lambda: effects() == ["a", "b"])
            eventually(lambda: consumer.probe("redis") is None)

    def test_waits_for_a_lost_postgres(
        self, make_consumer, store, effects, rows, postgres_server
    ):
        consumer = make_consumer()
        name = rows.info.dbname
        with (
            in_thread(consumer.work, consumer.stop),
            psycopg.connect(postgres_server.url, autocommit=True) as admin,
        ):
            put(store, "a")
            eventually(lambda: effects() == ["a"])
            admin.execute(f'alter database "{name}" allow_connections false')
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'things-consumer' and datname = %s",
                [name],
            )
            put(store, "b")
            eventually(lambda: "postgres" in consumer.trouble)
            with pytest.raises(ConnectionError):
                consumer.probe("postgres")
            admin.execute(f'alter database "{name}" allow_connections true')
            eventually(lambda: effects() == ["a", "b"])
            eventually(lambda: pending(store) == 0)

    @pytest.mark.parametrize("subjects", ["a", "ab"])
    def test_stops_while_postgres_is_away(
        self, make_settings, redis_url, store, subjects
    ):
        consumer = Consumer(make_settings(redis_store_url=redis_url), "things", write)
        for subject in subjects:
            put(store, subject)

        with in_thread(consumer.work, consumer.stop):
            eventually(lambda: "postgres" in consumer.trouble)

        assert pending(store) == len(subjects)

    def test_joins_again_when_redis_comes_back_empty(
        self, make_settings, database_url, effects
    ):
        port = free_port()
        server = start_redis(port=port)
        url = next(server).url
        consumer = Consumer(
            make_settings(database_url=database_url, redis_store_url=url),
            "things",
            write,
        )
        with (
            in_thread(consumer.work, consumer.stop),
            redis.Redis.from_url(url) as store,
        ):
            put(store, "a")
            eventually(lambda: effects() == ["a"])
            server.close()
            eventually(lambda: "redis" in consumer.trouble)
            server = start_redis(port=port)
            next(server)
            put(store, "b")
            eventually(lambda: effects() == ["a", "b"])
        server.close()

    def test_an_outage_is_logged_once(self, make_settings, logged):
        consumer = Consumer(make_settings(), "things", write, stop=Rounds(3))

        consumer.work()

        assert [line["dependency"] for line in logged] == ["redis"]

    def test_tells_other_refusals_of_redis(self, settings, store):
        store.set(streams.EVENTS, "not a stream")
        consumer = Consumer(settings, "things", write)

        with pytest.raises(redis.ResponseError):
            consumer.join()
        consumer.close()


class TestPurge:
    def test_forgets_old_ids(self, consumer, store, rows, monkeypatch):
        for name in "abc":
            put(store, name)
        consumer.step()
        rows.execute("update inbox set received_at = now() - interval '49 hours'")
        put(store, "d")
        consumer.step()

        consumer.purge()

        assert rows.execute("select count(*) from inbox").fetchone() == (1,)


class TestIsOutage:
    @pytest.mark.parametrize(
        ("error", "outage"),
        [
            (OperationalError("", {}, Exception()), True),
            (DBAPIError("", {}, Exception(), connection_invalidated=True), True),
            (DBAPIError("", {}, Exception()), False),
            (ProgrammingError("", {}, UndefinedTable()), True),
            (ProgrammingError("", {}, SyntaxErrorInSql()), False),
            (Unavailable(), True),
            (ValueError(), False),
        ],
    )
    def test_tells_trouble_from_faults(self, error, outage):
        assert consumers.is_outage(error) is outage


class TestRun:
    def test_stops_at_sigterm(self, settings, rows, store, effects, service_process):
        process = service_process(
            "from flagon_chassis import consumer;"
            "from sqlalchemy import text;"
            "handle = lambda session, events: [session.execute("
            "text('insert into effect values (:i, :s)'),"
            " {'i': e.id, 's': e.envelope['subject']}) for e in events];"
            "consumer.run(settings, 'things', 'archive', handle)",
            settings,
        )
        put(store, "a")
        eventually(lambda: effects() == ["a"])
        eventually(lambda: process.get("/readyz")[0] == 200)
        assert "flagon_build_info{" in process.get("/metrics")[1]

        assert process.stop() == 0
        assert "consumer_stopped" in process.output()
