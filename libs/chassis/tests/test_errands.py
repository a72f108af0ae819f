"""Errands: what a queue lost is sent again, until it is done or has no sense any more."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from flagon_chassis import errands
from flagon_chassis import relay as relays
from flagon_chassis.redis_queue import RedisQueue
from flagon_chassis.relay import Relay

from .conftest import eventually, in_thread, sample

TASK = "things.do"
HOUR = timedelta(hours=1)


@pytest.fixture
def begin(database_url):
    engine = create_engine(database_url)
    yield sessionmaker(engine).begin
    engine.dispose()


@pytest.fixture
def relay(settings):
    return Relay(settings, "things")


@pytest.fixture
def send(begin):
    """Sends one task and returns what it is about."""

    def send(subject="1", lives=HOUR, **kwargs):
        tasks = [(subject, kwargs)]
        with begin() as session:
            errands.send(session, TASK, queue="mail", tasks=tasks, lives=lives)
        return subject

    return send


def later(rows, seconds):
    """Have so many seconds gone by for all errands."""
    rows.execute(
        "update errand set ask_at = ask_at - make_interval(secs => %(ago)s),"
        " until = until - make_interval(secs => %(ago)s),"
        " created_at = created_at - make_interval(secs => %(ago)s)",
        {"ago": seconds},
    )


def taken(store):
    """Take all messages from the queue and return ids and keyword arguments."""
    found = [json.loads(one) for one in store.lrange("things:mail", 0, -1)][::-1]
    store.delete("things:mail")
    return [(one["headers"]["id"], one["headers"]["kwargsrepr"]) for one in found]


class TestSend:
    def test_sends_one_message(self, relay, rows, store, send):
        send(n=1)

        relay.step(rows)
        relay.ask_again(rows)
        relay.step(rows)

        ((_id, kwargs),) = taken(store)
        assert kwargs == "{'n': 1}"

    @pytest.mark.parametrize("count", [0, 1, 10_000])
    def test_sends_any_number_at_once(self, begin, rows, count):
        tasks = [(str(n), {"n": n}) for n in range(count)]
        with begin() as session:
            errands.send(session, TASK, queue="mail", tasks=tasks, lives=HOUR)

        both = "select count(*) from errand join outbox using (id, subject, body)"
        assert rows.execute(both).fetchone() == (count,)

    def test_is_undone_with_its_transaction(self, begin, rows):
        def fail():
            with begin() as session:
                errands.send(session, TASK, queue="mail", tasks=[("1", {})], lives=HOUR)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert (
            rows.execute("select 1 from errand union select 2 from outbox").fetchall()
            == []
        )

    def test_a_second_one_about_the_same_takes_the_place_of_the_first(
        self, relay, rows, store, send
    ):
        send(n=1)
        send(n=2)
        relay.step(rows)
        store.flushall()
        later(rows, 31)

        relay.ask_again(rows)
        relay.step(rows)

        assert [kwargs for _id, kwargs in taken(store)] == ["{'n': 2}"]


class TestAskAgain:
    def test_sends_what_the_store_forgot_with_the_same_id(
        self, relay, rows, store, send
    ):
        send(n=1)
        relay.step(rows)
        sent = store.lrange("things:mail", 0, -1)
        store.flushall()
        later(rows, 31)

        assert relay.ask_again(rows) == 1
        relay.step(rows)

        again = store.lrange("things:mail", 0, -1)
        ids = [json.loads(one)["headers"]["id"] for one in (*sent, *again)]
        assert len(ids) == 2
        assert len(set(ids)) == 1

    def test_also_when_the_outbox_has_forgotten_it(self, relay, rows, store, send):
        send(n=1)
        relay.step(rows)
        before = taken(store)
        rows.execute("delete from outbox")
        later(rows, 31)

        relay.ask_again(rows)
        relay.step(rows)

        assert taken(store) == before

    def test_is_ever_rarer(self, relay, rows, store, send):
        send()
        relay.step(rows)
        pauses = []
        for _ in range(9):
            later(rows, 3601)
            rows.execute("update errand set until = now() + interval '1 day'")
            relay.ask_again(rows)
            relay.step(rows)
            pauses += rows.execute(
                "select round(extract(epoch from ask_at - now())) from errand"
            ).fetchone()

        assert [int(pause) for pause in pauses] == [
            *(60, 120, 240, 480, 960, 1920, 3600, 3600, 3600)
        ]

    def test_waits_for_what_the_relay_still_has(self, relay, rows, send):
        send()
        later(rows, 31)

        assert relay.ask_again(rows) == 0

    def test_leaves_out_what_somebody_is_at(self, begin, relay, rows, send):
        subject = send()
        relay.step(rows)
        later(rows, 31)
        with begin() as session:
            errands.postpone(session, TASK, subject, 300)

        assert relay.ask_again(rows) == 0
        later(rows, 301)
        assert relay.ask_again(rows) == 1

    def test_leaves_out_what_is_done(self, begin, relay, rows, send):
        subjects = [send(subject) for subject in "12"]
        relay.step(rows)
        later(rows, 31)
        with begin() as session:
            errands.done(session, TASK, subjects[0])
            errands.done(session, TASK, subjects[0])

        assert relay.ask_again(rows) == 1

    def test_does_not_wait_for_one_that_is_being_done(self, begin, relay, rows, send):
        subject = send()
        relay.step(rows)
        later(rows, 31)
        with begin() as session:
            errands.done(session, TASK, subject)

            assert relay.ask_again(rows) == 0

    def test_gives_up_what_has_no_sense_any_more(self, relay, rows, send, logged):
        def given_up():
            return sample("flagon_errands_total", task=TASK, outcome="given_up") or 0

        before = given_up()
        send()
        relay.step(rows)
        later(rows, 3601)

        assert relay.ask_again(rows) == 0

        assert rows.execute("select 1 from errand").fetchall() == []
        assert given_up() == before + 1
        assert {"task": TASK, "outcome": "given_up", "number": 1}.items() <= logged[
            -1
        ].items()

    def test_measures_the_oldest(self, begin, relay, rows, send):
        send("1")
        later(rows, 90)
        send("2")

        relay.ask_again(rows)
        assert 90 <= sample("flagon_errand_oldest_seconds", task=TASK) < 100
        with begin() as session:
            errands.done(session, TASK, "1", "2")
        relay.ask_again(rows)
        assert sample("flagon_errand_oldest_seconds", task=TASK) == 0

    def test_shows_what_it_may_wait_for_from_the_start(self, settings):
        Relay(settings, "things", errands=("things.wanted",))

        assert sample("flagon_errand_oldest_seconds", task="things.wanted") == 0

    def test_goes_step_by_step(self, relay, rows, send, monkeypatch):
        monkeypatch.setattr(relays, "_ASKED_AT_ONCE", 2)
        for n in range(3):
            send(str(n))
        relay.step(rows)
        later(rows, 31)

        for _ in range(2):
            relay.housekeeping(rows, idle=True)

        waiting = "select count(*) from outbox where sent_at is null"
        assert rows.execute(waiting).fetchone() == (3,)

    def test_is_not_done_where_there_are_no_errands(self, relay, rows):
        rows.execute("alter table errand rename to elsewhere")
        try:
            relay.housekeeping(rows, idle=True)
        finally:
            rows.execute("alter table elsewhere rename to errand")


class TestWork:
    def test_comes_back_by_itself(self, relay, rows, store, send):
        send(n=1)
        with in_thread(relay.work, relay.stop):
            eventually(lambda: store.lpop("things:mail"))
            later(rows, 31)

            assert eventually(lambda: store.lpop("things:mail"))

    def test_takes_its_own_place_in_rq(
        self, make_settings, database_url, redis_url, rows, store, send
    ):
        settings = make_settings(
            database_url=database_url, redis_store_url=redis_url, mail_queue="rq"
        )
        relay = Relay(settings, "things")
        source = RedisQueue(redis_url, "things", "mail")
        send(n=1)
        relay.step(rows)
        store.flushall()
        assert source.look()[0] == 0
        later(rows, 31)

        relay.ask_again(rows)
        relay.step(rows)
        later(rows, 61)
        relay.ask_again(rows)
        relay.step(rows)

        assert len(store.keys("things:rq:job:*")) == 1
        source.connection.close()
