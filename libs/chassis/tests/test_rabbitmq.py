import json
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from flagon_chassis import buses, rabbitmq, streams
from flagon_chassis import consumer as consumers
from flagon_chassis.consumer import Consumer
from flagon_chassis.rabbitmq import Group, Journal, Sender
from flagon_chassis.relay import Relay
from flagon_chassis.testing import start_rabbitmq

from .conftest import ServiceProcess, eventually, in_thread, write
from .test_relay import _put, put_task, waiting

GROUP = "worker-archive"
TYPE = "market.flagon.job.changed.v1"
NOWHERE = "amqp://worker:none@127.0.0.1:1"


@pytest.fixture(scope="module")
def server():
    """A RabbitMQ for the module."""
    yield from start_rabbitmq("worker")


@pytest.fixture
def url(server):
    """The worker's, whose group has nothing to do."""
    line = rabbitmq._Line(server.url)
    with line.channel() as channel:
        channel.queue_purge(GROUP)
    line.close()
    return server.url


def of(user, url):
    return url.replace("//worker:", f"//{user}:")


def entry(subject, type_=TYPE, id_=None):
    """An event as the relay hands it to a bus."""
    id_ = id_ or uuid4()
    envelope = {
        "id": str(id_),
        "subject": subject,
        "time": datetime.now(UTC).isoformat(),
        "topics": ["jobs"],
    }
    return streams.encode(id_, type_, envelope)


def send(url, *subjects, **options):
    sender = Sender(url)
    sender.send(dict(enumerate(entry(one, **options) for one in subjects)))
    sender.close()


def subjects(rows):
    return [row.fields[b"subject"].decode() for row in rows if row.is_event]


@pytest.fixture
def journal(url):
    """What follows events, from the present on."""
    made = Journal(of("realtime", url), block_seconds=0.5)
    made.newest(10, 1 << 20)
    read(made)
    yield made
    made.close()


def read(journal, count=0):
    """Return what comes, once it is so much, or once nothing comes any more."""
    found = []
    while len(found) < count or not count:
        rows = journal.follow(journal.last)
        found += [row for row in rows if row.is_event]
        if not rows and not count:
            break
    return found


@pytest.fixture
def make_consumer(make_settings, database_url, effects, url):
    """Makes members of the group."""
    made = []

    def make(handle=write, **options):
        settings = make_settings(database_url=database_url, event_bus_url=url)
        made.append(Consumer(settings, GROUP, handle, **options))
        made[-1].join()
        made[-1].resume()
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


def dead(url):
    """Return all dead letters that there ever were, the oldest first."""
    return list(rabbitmq.dead(url))


class TestChoice:
    def test_is_the_redis_that_keeps_unless_said_otherwise(self, make_settings):
        settings = make_settings(redis_store_url="redis://store:6379/0")

        assert settings.event_bus == "redis"
        assert buses.url(settings) == "redis://store:6379/0"
        assert buses.journal(settings) is None

    def test_follows_the_scheme(self, make_settings):
        settings = make_settings(event_bus_url=NOWHERE)

        assert settings.event_bus == "rabbitmq"
        assert buses.sender(settings, 1, 1).name == "rabbitmq"
        assert buses.group(settings, "group", "", 0).name == "rabbitmq"
        assert buses.journal(settings).origin == 0


class TestSender:
    def test_sends_in_order_and_keeps(self, url, journal):
        names = [str(number) for number in range(250)]

        send(url, *names)

        rows = read(journal, 250)
        assert subjects(rows) == names
        assert rows[0].at <= rows[-1].at <= time.time()

    def test_says_that_nobody_answers(self):
        with pytest.raises(buses.BusAway, match="refused"):
            send(NOWHERE, "a")

    def test_sends_again_by_itself_when_the_connection_ended_long_ago(
        self, url, journal
    ):
        sender = Sender(url)
        sender.send({1: entry("a")})
        sender._line._connection.transport.sock.shutdown(2)

        sender.send({2: entry("b")})
        sender.close()

        assert subjects(read(journal, 2)) == ["a", "b"]

    def test_sends_nothing_before_the_stream_is_back(self, url, monkeypatch):
        # The groups would have it, who follows would not.
        monkeypatch.setattr(rabbitmq, "EVENTS", "another")

        with pytest.raises(buses.BusAway, match="NOT_FOUND"):
            send(url, "a")

    def test_fails_when_no_confirmation_comes(self, url, server, monkeypatch):
        monkeypatch.setattr(rabbitmq, "_PATIENCE_SECONDS", 0.5)
        sender = Sender(url)
        sender.send({1: entry("a")})
        frozen = psutil.Process(server.process.pid)
        frozen.suspend()
        eventually(lambda: frozen.status() == psutil.STATUS_STOPPED)
        try:
            with pytest.raises(buses.BusAway, match="TimeoutError"):
                sender.send({2: entry("b")})
        finally:
            frozen.resume()

        # The confirmations that were late count for nothing.
        sender.send({3: entry("c")})
        sender.close()

    def test_fails_when_a_message_is_not_taken(self, url, monkeypatch):
        line = rabbitmq._Line(url)
        with line.channel() as channel:
            channel.events["basic_nack"].add(rabbitmq._refuse)

        with pytest.raises(buses.BusAway, match="not taken"), line.channel() as channel:
            channel._on_basic_nack(1, multiple=False)

        assert not line.is_open

    def test_waits_for_each_message_of_several(self, url):
        line = rabbitmq._Line(url)
        line._awaited = {1, 2, 3, 4}

        line._note_confirmed(2, multiple=True)
        line._note_confirmed(4, multiple=False)

        assert line._awaited == {3}

    @pytest.mark.parametrize(
        ("user", "type_"),
        [
            ("worker", "market.flagon.product.changed.v1"),
            ("catalog", TYPE),
            ("auth", TYPE),
            ("realtime", TYPE),
        ],
    )
    def test_may_not_tell_what_others_have_to(self, url, user, type_):
        with pytest.raises(buses.BusAway, match="ACCESS_REFUSED"):
            send(of(user, url), "a", type_=type_)


class TestRights:
    @pytest.mark.parametrize(
        ("user", "queue"),
        [
            ("auth", "events"),
            ("auth", GROUP),
            ("catalog", "events"),
            ("catalog", GROUP),
            ("catalog", "dead"),
            ("worker", "events"),
            ("worker", "catalog-accounts"),
            ("realtime", GROUP),
            ("realtime", "dead"),
        ],
    )
    def test_leave_queues_to_those_whose_they_are(self, url, user, queue):
        group = Group(of(user, url), queue)
        group.join()

        with pytest.raises(buses.BusAway, match="ACCESS_REFUSED"):
            group.take(1)

    @pytest.mark.parametrize("user", ["auth", "catalog", "worker", "realtime"])
    def test_leave_making_and_ending_to_the_broker(self, url, user):
        for what in (
            lambda channel: channel.queue_declare("another"),
            lambda channel: channel.queue_delete(GROUP),
            lambda channel: channel.exchange_delete("events"),
        ):
            line = rabbitmq._Line(of(user, url))
            with (
                pytest.raises(buses.BusAway, match="ACCESS_REFUSED"),
                line.channel() as channel,
            ):
                what(channel)


@pytest.fixture
def put(rows):
    """Adds events to the outbox."""

    def put(*names):
        for name in names:
            event = json.loads(entry(name)["event"])
            _put(rows, event["id"], "event", TYPE, name, event, {})

    return put


def step_for_ever(consumer):
    while True:
        consumer.step()


def lose(_line, number, multiple):
    raise ConnectionResetError("before anybody heard of it")


class TestRelay:
    @pytest.fixture
    def make_relay(self, make_settings, database_url):
        made = []

        def make(**values):
            settings = make_settings(database_url=database_url, **values)
            made.append(Relay(settings, "worker"))
            return made[-1]

        yield make
        for relay in made:
            relay._bus.close()

    def test_hands_over_in_order_and_marks_what_is_confirmed(
        self, make_relay, rows, url, journal, put
    ):
        put(*"abc")

        assert make_relay(event_bus_url=url).step(rows) == 3

        assert subjects(read(journal, 3)) == ["a", "b", "c"]
        assert waiting(rows) == 0

    def test_sends_again_what_was_not_confirmed_and_it_is_handled_once(
        self,
        make_relay,
        rows,
        url,
        journal,
        put,
        make_consumer,
        effects,
        monkeypatch,
    ):
        relay = make_relay(event_bus_url=url)
        # It has a connection already.
        relay._bus.beginning()
        put("a")
        with monkeypatch.context() as patched:
            patched.setattr(rabbitmq._Line, "_note_confirmed", lose)
            relay.step(rows)
            with pytest.raises(ConnectionError):
                relay.probe("rabbitmq")
        assert waiting(rows) == 1
        assert len(read(journal, 1)) == 1

        eventually(lambda: relay.step(rows) is not None and waiting(rows) == 0)

        relay.probe("rabbitmq")
        assert subjects(read(journal, 1)) == ["a"]
        consumer = make_consumer()
        eventually(lambda: consumer.step() is None and effects() == ["a"])
        consumer.step()
        assert effects() == ["a"]

    def test_lets_tasks_go_on_while_events_wait(
        self, make_relay, redis_url, store, rows, put
    ):
        relay = make_relay(redis_store_url=redis_url, event_bus_url=NOWHERE)
        put("a")
        put_task(rows)

        assert relay.step(rows) == 2
        put_task(rows)
        relay.step(rows)

        with pytest.raises(ConnectionError):
            relay.probe("rabbitmq")
        assert waiting(rows) == 1
        assert store.llen("things:bulk") == 2

    def test_has_nothing_to_do_while_both_are_away(self, make_relay, rows, put):
        relay = make_relay(event_bus_url=NOWHERE, broker_url=NOWHERE)
        put("a")

        with in_thread(relay.work, relay.stop):
            eventually(lambda: relay.trouble == {"rabbitmq": "BusAway"})

        assert waiting(rows) == 1


class TestConsumer:
    def test_handles_what_comes(self, make_consumer, effects, url):
        consumer = make_consumer()
        with in_thread(consumer.work, consumer.stop):
            send(url, "a")
            eventually(lambda: effects() == ["a"])
            send(url, "b", "c", type_=TYPE)
            eventually(lambda: effects() == ["a", "b", "c"])
            eventually(lambda: consumer.probe("rabbitmq") is None)

    def test_says_that_nobody_answers(self, make_settings):
        consumer = Consumer(make_settings(event_bus_url=NOWHERE), GROUP, write)
        with in_thread(consumer.work, consumer.stop):
            eventually(lambda: consumer.trouble == {"rabbitmq": "BusAway"})

    def test_handles_once_what_comes_twice(self, make_consumer, effects, url):
        id_ = uuid4()
        send(url, "a", "b", id_=id_)
        send(url, "c")

        consumer = make_consumer()
        eventually(lambda: consumer.step() is None and effects() == ["a", "c"])

    def test_handles_once_what_it_was_killed_after(
        self,
        make_settings,
        database_url,
        url,
        make_consumer,
        effects,
        tmp_path,
    ):
        settings = make_settings(database_url=database_url, event_bus_url=url)
        send(url, "a", "b")
        code = (
            "import os, signal\n"
            "from flagon_chassis import rabbitmq\n"
            "from flagon_chassis.consumer import run\n"
            "from sqlalchemy import text\n"
            "def handle(session, events):\n"
            "    for one in events:\n"
            "        session.execute(text('insert into effect values (:i, :s)'),"
            " {'i': one.id, 's': one.envelope['subject']})\n"
            # The effect is committed, the broker has not heard of it.
            "rabbitmq.Group.done = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"run(settings, 'worker', '{GROUP}', handle)\n"
        )
        process = ServiceProcess("\n" + code, settings, tmp_path, {})
        assert process.process.wait(30) == -signal.SIGKILL
        assert effects() == ["a"]

        consumer = make_consumer()

        eventually(lambda: consumer.step() is None and effects() == ["a", "b"])

    def test_sets_aside_what_cannot_be_handled(self, make_consumer, effects, url):
        def handle(session, events):
            if any(one.envelope["subject"] == "poison" for one in events):
                raise ValueError("poison")
            write(session, events)

        consumer = make_consumer(handle, attempts=2)
        before = len(dead(url))
        send(url, "a", "poison", "b")

        eventually(lambda: consumer.step() is None and effects() == ["a", "b"])

        [letter] = dead(url)[before:]
        assert letter[b"error"] == b"ValueError: poison"
        assert letter[b"group"] == GROUP.encode()
        assert letter[b"attempts"] == b"2"
        assert json.loads(letter[b"event"])["subject"] == "poison"
        assert letter in buses.dead(consumer.settings)

    def test_sets_aside_what_kills_the_process_each_time(
        self,
        make_consumer,
        effects,
        url,
    ):
        send(url, "killer", "innocent")
        before = len(dead(url))
        group = Group(url, GROUP)
        for _ in range(5 + Group.spare + 1):
            group.join()
            # As a process that dies by the first one.
            next(eventually(lambda: iter([next(group.begun())])))
            group.close()

        consumer = make_consumer()

        eventually(lambda: consumer.step() is None and effects() == ["innocent"])
        [letter] = dead(url)[before:]
        assert b"Crashed: delivered" in letter[b"error"]

    def test_keeps_the_connection_while_postgres_is_away(
        self, make_settings, url, rows, monkeypatch
    ):
        monkeypatch.setattr(rabbitmq, "_TAKING_HEARTBEAT_SECONDS", 1)
        monkeypatch.setattr(consumers, "_LONGEST_PAUSE_SECONDS", 0.5)
        rested = []
        rest = Group.rest
        monkeypatch.setattr(Group, "rest", lambda own: rested.append(rest(own)))
        consumer = Consumer(make_settings(event_bus_url=url), GROUP, write)
        send(url, "a")
        with in_thread(consumer.work, consumer.stop):
            # Several seconds: each side would have hung up by then.
            eventually(lambda: len(rested) > 20)
        assert consumer.trouble["rabbitmq"] == "not connected yet"
        assert "postgres" in consumer.trouble

    def test_gives_up_what_it_holds_when_the_connection_breaks(
        self,
        make_consumer,
        effects,
        url,
    ):
        broken = []

        def handle(session, events):
            write(session, events)
            if not broken:
                broken.append(consumer._bus._line._connection)
                broken[0].transport.sock.shutdown(2)

        consumer = make_consumer(handle)
        with in_thread(consumer.work, consumer.stop):
            send(url, "a")
            send(url, "b")
            eventually(lambda: effects() == ["a", "b"])

    def test_blames_no_event_for_a_broken_connection(
        self,
        make_consumer,
        effects,
        url,
    ):
        tried = []

        def handle(session, events):
            tried.append(len(events))
            if len(tried) == 1:
                raise ValueError("try again")
            write(session, events)
            if len(tried) == 2:
                consumer._bus.close()

        before = len(dead(url))
        consumer = make_consumer(handle)
        send(url, "a")
        with pytest.raises(buses.BusAway):
            step_for_ever(consumer)
        consumer.join()
        consumer.resume()

        assert effects() == ["a"]
        assert tried == [1, 1]
        assert len(dead(url)) == before

    def test_never_answers_for_what_came_by_another_connection(self, url):
        send(url, "a")
        group = Group(url, GROUP)
        group.join()
        [(entry_id, _)] = eventually(lambda: group.take(1))
        group._line.close()

        with pytest.raises(buses.BusAway, match="has broken"):
            group.done([entry_id])


class TestJournal:
    def test_begins_with_the_newest(self, url, journal):
        send(url, *(str(number) for number in range(40)))
        read(journal, 40)
        other = Journal(of("realtime", url))

        floor, rows = other.newest(10, 1 << 20)
        later = []
        while other.last < journal.last:
            later += other.follow(other.last)

        # The last few may come one by one.
        found = [*rows, *later]
        assert len(rows) <= 10
        assert floor == rows[0].offset - 1
        assert [row.offset for row in found] == list(
            range(floor + 1, found[-1].offset + 1)
        )
        assert subjects(found)[-1] == "39"
        assert other.origin == journal.origin
        other.close()

    def test_begins_with_no_more_bytes_than_it_may(self, url, journal):
        send(url, *(str(number) for number in range(40)))
        other = Journal(of("realtime", url))

        floor, rows = other.newest(1000, 500)

        assert sum(len(row.fields[b"event"]) for row in rows) <= 500
        assert floor == (rows[0].offset - 1 if rows else other.last)
        other.close()

    def test_reads_again_from_any_place(self, url, journal):
        send(url, "a", "b", "c")
        [a, b, c] = read(journal, 3)

        assert [row.offset for row in journal.page(a.offset)[0]] == [b.offset, c.offset]
        assert journal.page(c.offset) == ([], None)

    def test_reads_a_bounded_part_at_a_time(self, url, journal, monkeypatch):
        send(url, *"abcd")
        found = read(journal, 4)
        monkeypatch.setattr(rabbitmq, "_PAGE", 2)

        rows, missing = journal.page(found[0].offset)

        assert subjects(rows) == ["b", "c"]
        assert missing is None

    def test_says_where_it_put_an_event(self, url, journal):
        place = journal.append(entry("a", "custom.robot.reading.v1"))
        again = journal.append(entry("b", "custom.robot.reading.v1"))

        assert [row.offset for row in read(journal, 2)] == [place, again]

    def test_adds_nothing_before_it_knows_where_it_is(self, url):
        with pytest.raises(buses.BusAway, match="not known yet"):
            Journal(of("realtime", url)).append(entry("a"))

    def test_says_so_when_the_stream_is_silent(self, url, journal, monkeypatch):
        monkeypatch.setattr(rabbitmq, "_PATIENCE_SECONDS", 0.2)
        run = rabbitmq._Run(of("realtime", url), streams.EVENTS, journal.last + 1000)

        with pytest.raises(buses.BusAway, match="silent"):
            next(run.until(bool))
        run.close()

    def test_goes_on_where_it_was_after_a_broken_connection(self, url, journal):
        send(url, "a")
        read(journal, 1)
        journal._tail._line._connection.transport.sock.shutdown(2)
        with pytest.raises(buses.BusAway):
            journal.follow(journal.last)
        send(url, "b")

        assert subjects(read(journal, 1)) == ["b"]


@pytest.fixture(scope="module")
def small():
    """A RabbitMQ that keeps few events."""
    pattern = r'268435456, "x-stream-max-segment-size-bytes": 16777216'
    few = '200000, "x-stream-max-segment-size-bytes": 50000'
    yield from start_rabbitmq("worker", change=(pattern, few))


class TestSmallAndMortal:
    """A stream of few entries, and a broker that dies."""

    def test_tells_of_what_was_trimmed(self, small):
        journal = Journal(of("realtime", small.url), block_seconds=0.5)
        journal.newest(10, 1 << 20)
        start = journal.last
        sender = Sender(small.url)
        slow = Journal(of("realtime", small.url), block_seconds=0.5)
        slow.newest(10, 1 << 20)
        slow._close_tail()
        while journal._one("first") <= start + 1:
            sender.send(dict(enumerate(entry("x" * 500) for _ in range(100))))
        read(journal)

        rows, missing = journal.page(start)

        assert rows == []
        assert missing == journal._one("first") - 1
        rows, missing = journal.page(missing)
        assert missing is None
        # What was sent last, at least.
        assert len(rows) >= 100
        with pytest.raises(rabbitmq.Restarted, match="gone"):
            slow.follow(start)
        # A leap alone is no loss: some offsets are the broker's own.
        assert journal._missing(rows[-1].offset - 2, rows[-1:]) is None
        sender.close()
        slow.close()
        journal.close()

    def test_loses_nothing_when_the_broker_is_killed(
        self,
        small,
        make_settings,
        database_url,
        rows,
        put,
        effects,
    ):
        settings = make_settings(database_url=database_url, event_bus_url=small.url)
        relay = Relay(settings, "worker")
        journal = Journal(of("realtime", small.url), block_seconds=0.5)
        journal.newest(10, 1 << 20)
        names = [f"n{number}" for number in range(60)]

        def write_mine(session, events):
            # What the test before has left is nobody's.
            write(session, [e for e in events if e.envelope["subject"][0] == "n"])

        consumer = Consumer(settings, GROUP, write_mine, frozenset({TYPE}))
        with (
            in_thread(relay.work, relay.stop),
            in_thread(consumer.work, consumer.stop),
        ):
            put(*names[:20])
            eventually(lambda: waiting(rows) == 0)
            put(*names[20:40])
            small.process.kill()
            small.process.wait()
            put(*names[40:])
            small.start()
            eventually(
                lambda: waiting(rows) == 0 and sorted(effects()) == sorted(names)
            )
        assert effects() == names
        found = []
        while len(set(found)) < 60:
            try:
                found += subjects(journal.follow(journal.last))
            except buses.BusAway:
                continue
        # Repeats are allowed, in order; what is missing is not.
        assert list(dict.fromkeys(one for one in found if one[0] == "n")) == names
        journal.close()

    def test_knows_that_the_stream_is_another(self, small):
        journal = Journal(of("realtime", small.url), block_seconds=0.5)
        journal.newest(10, 1 << 20)
        small.process.kill()
        small.process.wait()
        shutil.rmtree(Path(small.process.args[2]) / "data")
        small.start()

        def another():
            try:
                journal.follow(journal.last)
            except rabbitmq.Restarted:
                return True
            return False

        eventually(another)
        journal.close()

    def test_is_told_again_what_it_lost(
        self, small, make_settings, database_url, rows, put
    ):
        settings = make_settings(database_url=database_url, event_bus_url=small.url)
        relay = Relay(settings, "worker")

        def look():
            relay._begun_at = float("-inf")
            relay.repeat_forgotten(rows)
            return relay.step(rows)

        put(*"abc")
        assert relay.step(rows) == 3
        assert look() == 0
        small.process.kill()
        small.process.wait()
        small.start()
        assert eventually(lambda: look() == 0)

        small.process.kill()
        small.process.wait()
        shutil.rmtree(Path(small.process.args[2]) / "data")
        small.start()

        assert eventually(look) == 3
        journal = Journal(of("realtime", small.url), block_seconds=0.5)
        _, told = journal.newest(10, 1 << 20)
        assert subjects(told) == ["a", "b", "c"]
        assert look() == 0
        relay._bus.close()
        journal.close()
