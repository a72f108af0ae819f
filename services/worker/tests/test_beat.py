"""Beat: each due time is fired once, whatever dies and however many beats there are."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from flagon_worker.beat import Clock
from flagon_worker.domain import firing, schedule

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(database_url):
    return database_url.replace("+psycopg", "")


@pytest.fixture
def rows(url):
    """A connection to a database without any schedule."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from schedule")
        yield connection
        connection.execute("delete from schedule")


@pytest.fixture
def add(rows):
    """Adds a schedule of jobs that begins at START, and returns its id."""

    def add(name, *, due=START, at=START, **fields):
        values = {
            "id": uuid4(),
            "name": name,
            "kind": "probe",
            "params": "{}",
            "owner": "op",
            "cron": None,
            "interval_seconds": None,
            "time_zone": "UTC",
            "anchor_at": at,
            "jitter_seconds": 0.0,
            "catch_up": "once",
            "enabled": True,
            "next_due_at": due,
            "next_run_at": due,
            "created_at": at,
            "updated_at": at,
            **fields,
        }
        names = ", ".join(values)
        places = ", ".join(f"%({name})s" for name in values)
        rows.execute(f"insert into schedule ({names}) values ({places})", values)
        return values["id"]

    return add


@pytest.fixture
def fired(rows):
    """Returns the due times that were fired, by schedule, in order."""

    def fired(schedule_id):
        found = rows.execute(
            "select due_at from schedule_firing where schedule_id = %s order by due_at",
            [schedule_id],
        )
        return [row[0].astimezone(UTC) for row in found]

    return fired


def messages(rows, name=firing.START):
    found = rows.execute("select subject from outbox where name = %s", [name])
    return Counter(row[0] for row in found)


def assert_told_once(rows):
    ids = rows.execute("select id::text from schedule_firing where ask_at is not null")
    assert messages(rows) == Counter(row[0] for row in ids)


def at(seconds):
    return START + timedelta(seconds=seconds)


class Time:
    """A clock that tests move."""

    def __init__(self):
        self.now = START

    def __call__(self, _connection):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def clock(url, rows, time):
    """A beat without schedules of the platform, at a time that the test sets."""
    clock = Clock(url, {}, time)
    yield clock
    clock.close()


class TestTwoBeats:
    def test_fire_each_time_once_over_ten_minutes(self, url, rows, add, fired, time):
        every = add("every-7-s", interval_seconds=7.0, due=at(7))
        minutes = add("each-minute", cron="* * * * *", due=at(60))
        each = add("all", interval_seconds=10.0, due=at(10), catch_up="all")
        jittery = add("jittery", interval_seconds=30.0, due=at(30), jitter_seconds=20)
        clocks = [Clock(url, {}, time) for _ in range(2)]
        barrier = threading.Barrier(3)

        def beat(clock):
            for _ in range(600):
                barrier.wait(30)
                clock.tick()
                barrier.wait(30)
            clock.close()

        threads = [threading.Thread(target=beat, args=(clock,)) for clock in clocks]
        for thread in threads:
            thread.start()
        for _ in range(600):
            time.now += timedelta(seconds=1)
            barrier.wait(30)
            barrier.wait(30)
        for thread in threads:
            thread.join(30)

        # A firing more, or for another time, would be in these lists; unique as well.
        assert fired(every) == [at(n) for n in range(7, 601, 7)]
        assert fired(minutes) == [at(n) for n in range(60, 601, 60)]
        assert fired(each) == [at(n) for n in range(10, 601, 10)]
        last = fired(jittery)
        assert last == [at(n) for n in range(30, 30 * len(last) + 1, 30)]
        assert len(last) >= 19
        assert_told_once(rows)

    def test_share_what_is_due_at_the_same_moment(self, url, rows, add, fired, time):
        ids = [add(f"s{n}", interval_seconds=60.0) for n in range(40)]
        clocks = [Clock(url, {}, time) for _ in range(2)]
        threads = [threading.Thread(target=clock.tick) for clock in clocks]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for clock in clocks:
            clock.close()

        assert [fired(id_) for id_ in ids] == [[START]] * 40
        assert_told_once(rows)


def _beat_and_die(url, statement):
    """Fire once at START, killed before the statement of this number is sent."""
    count = 0
    execute = psycopg.Cursor.execute

    def counted(self, *given, **named):
        nonlocal count
        count += 1
        if count == statement:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, *given, **named)

    psycopg.Cursor.execute = counted
    with psycopg.connect(url, autocommit=True) as connection:
        firing.fire_next(connection, START)
    os._exit(0)


class TestKilled:
    @pytest.mark.parametrize("statement", range(1, 7))
    def test_between_any_two_steps_fires_once(
        self, url, rows, add, fired, clock, statement
    ):
        id_ = add("s", interval_seconds=60.0)
        process = multiprocessing.get_context("spawn").Process(
            target=_beat_and_die, args=(url, statement)
        )
        process.start()
        process.join(30)

        # Of five statements each was the last of some process, and the sixth is none.
        assert process.exitcode == (-signal.SIGKILL if statement < 6 else 0)
        clock.tick()

        assert fired(id_) == [START]
        assert_told_once(rows)

    def test_in_its_transaction_leaves_the_row_to_another(
        self, url, rows, add, fired, clock
    ):
        id_ = add("s", interval_seconds=60.0)
        with psycopg.connect(url) as dying:
            dying.execute("select 1 from schedule for update")
            # It is another's, so there is nothing to do, and nothing to wait for.
            clock.tick()
            assert fired(id_) == []

        clock.tick()

        assert fired(id_) == [START]


class TestClock:
    def test_that_was_moved_back_fires_nothing_twice(
        self, rows, add, fired, clock, time
    ):
        id_ = add("hourly", cron="0 * * * *")
        clock.tick()

        for seconds in (-5, -3600, 0, 5, 3600):
            time.now = at(seconds)
            clock.tick()

        assert fired(id_) == [at(0), at(3600)]
        assert_told_once(rows)

    def test_that_was_a_year_ahead_does_not_silence_a_schedule(
        self, add, fired, clock, time
    ):
        id_ = add("hourly", cron="0 * * * *")
        time.now = at(365 * 86_400)
        clock.tick()
        assert len(fired(id_)) == 1

        time.now = at(0)
        clock.tick()
        time.now = at(3600)
        clock.tick()

        assert fired(id_) == [at(3600), at(365 * 86_400)]

    def test_that_was_ahead_is_noticed_by_a_beat_that_starts_later(
        self, url, add, fired, time
    ):
        id_ = add("hourly", cron="0 * * * *", due=at(365 * 86_400))
        clock = Clock(url, {}, time)

        clock.tick()
        time.now = at(3600)
        clock.tick()
        clock.close()

        assert fired(id_) == [at(3600)]


class TestTrouble:
    def test_of_one_schedule_does_not_stop_the_others(self, rows, add, fired, clock):
        broken = add("broken", cron="nonsense", due=at(-5))
        gone = add("gone", cron="0 * * * *", time_zone="Mars/Base", due=at(-4))
        ahead = add("ahead", cron="nonsense", due=at(10))
        good = add("good", interval_seconds=60.0)

        clock.tick()

        assert fired(good) == [START]
        assert fired(broken) == fired(gone) == fired(ahead) == []
        found = rows.execute("select name from schedule where not enabled")
        assert {row[0] for row in found} == {"broken", "gone"}

    def test_of_postgres_is_waited_out(
        self, rows, add, fired, clock, time, postgres_server, wait_for
    ):
        id_ = add("s", interval_seconds=60.0, catch_up="all")
        clock.tick()
        name = rows.info.dbname
        with psycopg.connect(postgres_server.url, autocommit=True) as admin:
            admin.execute(f'alter database "{name}" allow_connections false')
            rows.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'worker-beat'"
            )
            time.now = at(150)
            assert 0 < clock.tick() <= 5
            with pytest.raises(ConnectionError):
                clock.probe()
            assert clock.tick() > 0
            admin.execute(f'alter database "{name}" allow_connections true')

        wait_for(lambda: clock.tick() and clock.trouble is None)

        clock.probe()
        assert fired(id_) == [at(0), at(60), at(120)]
        assert_told_once(rows)

    def test_of_tables_that_are_not_there_yet_is_waited_out(self, make_database, time):
        clock = Clock(make_database(), {}, time)

        assert clock.tick() > 0

        assert clock.trouble == "UndefinedTable"
        clock.close()


class TestThePlatformsOwn:
    def test_expire_when_nobody_takes_them(self, url, rows, time):
        clock = Clock(url, schedule.entries(3.0), time)
        clock.tick()
        time.now = at(3)
        clock.tick()
        clock.close()

        found = rows.execute(
            "select name, body from outbox where channel = 'task' order by sequence"
        ).fetchall()

        assert Counter(name for name, _ in found) == {
            "worker.reap_jobs": 2,
            "worker.purge": 1,
            "worker.sweep_webhooks": 1,
        }
        bodies = dict(found)
        assert bodies["worker.reap_jobs"] == {
            "queue": "maintenance",
            "kwargs": {},
            "expires_seconds": 10.0,
        }
        assert bodies["worker.purge"]["expires_seconds"] == 7200.0

    def test_rest_when_they_are_paused(self, url, rows, time):
        clock = Clock(url, schedule.entries(3.0), time)
        clock.tick()
        rows.execute(
            "update schedule set enabled = false, next_run_at = null, version = 2"
            " where name = 'reap'"
        )
        clock.close()

        time.now = at(30)
        clock.tick()
        clock.close()

        assert messages(rows, "worker.reap_jobs")["reap"] == 1


@contextmanager
def running(stack, **processes):
    """Processes that are gone before another test begins."""
    try:
        for name, arguments in processes.items():
            stack.start(name, *arguments.split())
        yield
    finally:
        for name in processes.keys() & stack.processes.keys():
            stack.kill(name)


class TestProcesses:
    def test_two_with_one_killed_again_and_again_fire_each_time_once(
        self, stack, settings, rows, add, fired, wait_for
    ):
        begin = datetime.now(UTC)
        id_ = add("fast", interval_seconds=0.25, at=begin, due=begin, catch_up="all")
        with running(stack, one="beat", two="beat"):
            for _ in range(3):
                before = len(fired(id_))
                wait_for(lambda count=before: len(fired(id_)) >= count + 4)
                stack.kill("one")
                stack.start("one", "beat")
        found = fired(id_)

        step = timedelta(seconds=0.25)
        first = found[0]
        assert found == [first + n * step for n in range(len(found))]
        assert first == begin
        assert_told_once(rows)

    def test_end_at_sigterm(self, stack, settings, rows):
        with running(stack, one="beat"):
            assert stack.stop("one") == 0

    def test_carry_a_schedule_to_a_finished_job(
        self, stack, settings, rows, add, wait_for
    ):
        begin = datetime.now(UTC)
        add(
            "probes",
            interval_seconds=3600.0,
            at=begin,
            due=begin,
            params='{"seconds": 0}',
        )
        worker = "celery --queues interactive --concurrency 1"

        with running(stack, relay="relay", quick=worker, one="beat"):
            wait_for(
                lambda: rows.execute(
                    "select 1 from job where kind = 'probe' and state = 'succeeded'"
                ).fetchone(),
                30,
            )

        count = rows.execute("select count(*) from job").fetchone()
        assert count == (1,)
