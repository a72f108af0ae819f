"""The real processes: each that serves ends what has expired, and none of them twice."""

import os
import re
import signal
import time
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from flagon_catalog import keeper
from flagon_catalog.domain import holds

WAIT = 30


@pytest.fixture
def database(migrated):
    return migrated()


@pytest.fixture
def rows(database):
    url = database.replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def serve(database, run_catalog):
    """Start a catalog of two processes that look often."""
    return partial(
        run_catalog, "serve", database, SWEEP_SECONDS="0.05", DRAIN_SECONDS="0"
    )


@pytest.fixture
def overdue(rows):
    """Make as many reservations whose time is over."""

    def overdue(number):
        rows.execute(
            "insert into reservation (id, product_id, quantity, holder, expires_at)"
            " select gen_random_uuid(), %s, 1, 'x', now()"
            " from generate_series(1, %s)",
            [uuid4(), number],
        )

    return overdue


@pytest.fixture
def reservations(rows):
    """Make as many that began and ended so many days ago; the quantity tells the age."""

    def reservations(number, outcome, *, began, ended):
        made = int(time.time() - began * 86400) * 1000 << 80
        with rows.cursor() as cursor:
            cursor.executemany(
                "insert into reservation (id, product_id, quantity, holder, expires_at,"
                " outcome, ended_at) values (%s, gen_random_uuid(), %s, 'x',"
                " now() + interval '1 hour', %s::text, case when %s::text is not null"
                " then now() - make_interval(days => %s) end)",
                [
                    (
                        UUID(int=made | uuid4().int >> 48),
                        ended + 1,
                        outcome,
                        outcome,
                        ended,
                    )
                    for _ in range(number)
                ],
            )

    return reservations


def wait_for(rows, number):
    """Return what the events are about once there are so many."""
    rows.execute("listen outbox")
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        subjects = rows.execute("select subject from outbox").fetchall()
        if len(subjects) >= number:
            return subjects
        for _ in rows.notifies(timeout=1, stop_after=1):
            pass
    pytest.fail("nobody swept")


class TestKeeper:
    def test_of_many_processes_tells_of_each_once_and_survives_a_kill(
        self, serve, rows, overdue
    ):
        first, _ = serve(), serve()
        overdue(700)

        assert len(set(wait_for(rows, 700))) == 700
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(WAIT)
        overdue(700)

        told = wait_for(rows, 1400)
        assert len(told) == len(set(told)) == 1400
        states = rows.execute("select distinct outcome, version from reservation")
        assert states.fetchall() == [("expired", 2)]

    def test_removes_what_the_audit_has_kept_long_enough(self, serve, rows):
        rows.execute(
            "insert into audit (at, actor, action, entity, entity_id, version, changes)"
            " select now() - make_interval(days => age), 'a', 'created', 'tag',"
            " gen_random_uuid(), age, '{}'"
            " from generate_series(1, 12000), unnest(array[399, 401]) age"
        )

        serve()

        end = time.monotonic() + WAIT
        count = "select version, count(*) from audit group by version order by version"
        while time.monotonic() < end:
            if rows.execute(count).fetchall() == [(399, 12000)]:
                return
            rows.execute("select pg_sleep(0.05)")
        pytest.fail("nobody purged")

    def test_removes_what_has_ended_long_ago_and_nothing_else(
        self, serve, rows, reservations
    ):
        for outcome in ("committed", "released", "expired"):
            reservations(700, outcome, began=92, ended=91)
            reservations(3, outcome, began=92, ended=89)
        reservations(2, None, began=99, ended=99)

        # Slow enough to be met in the midst of it.
        rows.execute(
            "create function slow() returns trigger language plpgsql as"
            " 'begin perform pg_sleep(0.001); return old; end';"
            "create trigger slow before delete on reservation"
            " for each row execute function slow()"
        )
        ended = "select count(*) from reservation where quantity = 92"
        others = (
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        )

        def until(query, right):
            end = time.monotonic() + WAIT
            while not right(rows.execute(query).fetchone()[0]):
                assert time.monotonic() < end, query
                rows.execute("select pg_sleep(0.01)")

        first = serve()
        until(ended, lambda left: left < 2100)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(WAIT)
        # Postgres gives up what the killed one had begun.
        until(others, lambda number: number == 0)
        assert rows.execute(ended).fetchone()[0] > 0
        serve()
        until(ended, lambda left: left == 0)

        kept = rows.execute(
            "select outcome, quantity, count(*) from reservation"
            " group by outcome, quantity order by outcome"
        ).fetchall()
        assert kept == [
            ("committed", 90, 3),
            ("expired", 90, 3),
            ("released", 90, 3),
            (None, 100, 2),
        ]
        assert rows.execute("select count(*) from outbox").fetchone() == (0,)


class TestReservationDays:
    @pytest.mark.parametrize("days", [6, 0, -1])
    def test_are_a_week_at_least(self, make_settings, database, days):
        with pytest.raises(ValueError, match="reservation_days"):
            make_settings(database, reservation_days=days)

    def test_keep_what_an_older_setting_would_have_purged(
        self, make_app, database, rows, reservations
    ):
        reservations(1, "committed", began=8, ended=8)
        for days, left in ((9, 1), (7, 0)):
            app = make_app(database, reservation_days=days)
            with app.app_context():
                assert keeper.purge_reservations() == 1 - left

            count = rows.execute("select count(*) from reservation").fetchone()
            assert count == (left,)

    def test_are_looked_up_by_the_primary_key(self, database, reservations):
        reservations(1, "committed", began=8, ended=8)
        sent = []
        engine = create_engine(database, poolclass=NullPool)
        event.listen(
            engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, values, *_: sent.append((statement, values)),
        )
        with Session(engine) as session:
            # A table of one row is read as a whole, whatever there is beside it.
            session.execute(text("set local enable_seqscan = off"))
            assert holds.purge(session, days=7, limit=9) == 1
            statement, values = sent[-1]
            plan = session.connection().exec_driver_sql(f"explain {statement}", values)
            lines = "\n".join(plan.scalars())

        assert re.search(
            r"Index Scan using pk_reservation on reservation *\S* .*\n"
            r"\s+Index Cond: \(id <",
            lines,
        ), lines

    def test_are_left_alone_while_somebody_else_holds_them(
        self, make_app, database, rows, reservations
    ):
        reservations(3, "released", began=9, ended=9)
        app = make_app(database, reservation_days=7)
        with psycopg.connect(rows.info.dsn) as other, app.app_context():
            other.execute("select 1 from reservation limit 1 for update")
            assert keeper.purge_reservations() == 2
            other.rollback()
            assert keeper.purge_reservations() == 1
