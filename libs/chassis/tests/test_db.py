import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import psutil
import psycopg
import pytest
from alembic import command
from flask import Flask
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flagon_chassis import auth, db, health, tables, web

from .conftest import SECRET, eventually, sample


@pytest.fixture
def app(make_settings, database_url):
    app = Flask("things")
    db.init_app(app, make_settings(database_url=database_url, threads=2))
    with app.app_context():
        yield app
    app.extensions["flagon.sessions"].kw["bind"].dispose()


class TestTransaction:
    def test_commits_at_the_end(self, app, rows):
        with db.transaction() as session:
            session.execute(text("create table thing (id int)"))

        assert rows.execute("select count(*) from thing").fetchone() == (0,)

    def test_rolls_back_on_an_error(self, app, rows):
        def fail():
            with db.transaction() as session:
                session.execute(text("create table thing (id int)"))
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            fail()

        assert rows.execute("select to_regclass('thing')").fetchone() == (None,)

    def test_no_statement_runs_for_ever(self, app):
        with db.transaction() as session:
            assert session.scalar(text("show statement_timeout")) == "5s"
            assert session.scalar(text("show lock_timeout")) == "2s"

    def test_survives_a_connection_that_the_server_closed(self, app, rows):
        with db.transaction() as session:
            pid = session.scalar(text("select pg_backend_pid()"))
        # It waits until the process is gone.
        rows.execute("select pg_terminate_backend(%s, 5000)", [pid])

        with db.transaction() as session:
            assert session.scalar(text("select 1")) == 1

    def test_asks_a_connection_that_was_idle_whether_it_is_there(
        self, app, rows, monkeypatch
    ):
        with db.transaction() as session:
            pid = session.scalar(text("select pg_backend_pid()"))
        rows.execute("select pg_terminate_backend(%s, 5000)", [pid])
        # As when the end of the connection has never come here.
        monkeypatch.setattr(db, "_quiet", lambda _connection: True)
        monkeypatch.setattr(db, "_TRUSTED_SECONDS", 0.0)

        with db.transaction() as session:
            assert session.scalar(text("select 1")) == 1

    def test_survives_a_connection_that_was_closed_here(self, app):
        with db.reading() as session:
            connection = session.connection().connection.dbapi_connection
        connection.close()

        with db.reading() as session:
            assert session.scalar(text("select 1")) == 1

    def test_makes_all_connections_anew_when_one_is_gone(self, app, rows):
        with db.transaction() as session, db.transaction() as other:
            pids = [
                one.scalar(text("select pg_backend_pid()")) for one in (session, other)
            ]
        for pid in pids:
            rows.execute("select pg_terminate_backend(%s, 5000)", [pid])

        with db.transaction() as session, db.transaction() as other:
            found = [
                one.scalar(text("select pg_backend_pid()")) for one in (session, other)
            ]

        assert not set(found) & set(pids)

    def test_does_not_ask_one_that_was_in_use_a_moment_ago(self, app, monkeypatch):
        with db.transaction() as session:
            session.execute(text("select 1"))
        pool = app.extensions["flagon.sessions"].kw["bind"]
        pings = []
        monkeypatch.setattr(pool.dialect, "do_ping", pings.append)

        with db.transaction() as session:
            session.execute(text("select 1"))

        assert pings == []

    def test_reads_documents_of_any_depth(self, app):
        deep = "[" * 500 + "]" * 500
        with db.transaction() as session:
            found = session.scalar(text(f"select '{deep}'::jsonb"))

        assert json.dumps(found) == deep


class TestPool:
    """What is counted of it adds up over the tests of the run."""

    @pytest.fixture
    def app(self, make_settings, database_url, monkeypatch):
        monkeypatch.setattr(db, "_POOL_SECONDS", 0.1)
        settings = make_settings(database_url=database_url, threads=2)
        app = web.create_app(__name__, settings, name="things", openapi=False)
        db.init_app(app, settings)
        with app.app_context():
            yield app
        app.extensions["flagon.sessions"].kw["bind"].dispose()

    @pytest.fixture
    def shown(self, app):
        """What `/metrics` says of the pool, by the end of the name."""

        def shown():
            text = app.test_client().get("/metrics").text
            found = re.findall(r"^flagon_db_pool_(\w+) (\S+)$", text, re.MULTILINE)
            return {name: float(value) for name, value in found}

        return shown

    def test_that_is_used_up_is_seen(self, app, shown):
        before = shown()
        with db.reading() as one, db.transaction() as two:
            for session in (one, two):
                session.execute(text("select 1"))
            with db.transaction() as third, pytest.raises(PoolTimeout):
                third.execute(text("select 1"))
            full = shown()
        after = shown()

        assert (full["size"], full["in_use"]) == (2, 2)
        assert full["timeouts_total"] - before["timeouts_total"] == 1
        assert full["wait_seconds_count"] - before["wait_seconds_count"] == 3
        assert full["wait_seconds_sum"] - before["wait_seconds_sum"] > 0.1
        assert (after["size"], after["in_use"]) == (2, 0)

    def test_counts_a_connection_that_is_made_anew_once(self, app, rows, shown):
        with db.transaction() as session:
            pid = session.scalar(text("select pg_backend_pid()"))
        rows.execute("select pg_terminate_backend(%s, 5000)", [pid])

        with db.transaction() as session:
            session.execute(text("select 1"))
            during = shown()["in_use"]

        assert (during, shown()["in_use"]) == (1, 0)

    def test_counts_no_connection_that_could_not_be_made_anew(self, app, rows, shown):
        pool = app.extensions["flagon.sessions"].kw["bind"]
        with db.transaction() as session:
            pid = session.scalar(text("select pg_backend_pid()"))
        rows.execute("select pg_terminate_backend(%s, 5000)", [pid])
        before = shown()

        @event.listens_for(pool, "do_connect")
        def refuse(*_connecting):
            raise psycopg.OperationalError("on purpose")

        with db.transaction() as session, pytest.raises(OperationalError):
            session.execute(text("select 1"))

        assert before["in_use"] == shown()["in_use"] == 0
        assert shown()["timeouts_total"] == before["timeouts_total"]

    def test_that_is_disposed_of_has_no_places(self, app, shown):
        with db.reading() as session:
            session.execute(text("select 1"))

        app.extensions["flagon.sessions"].kw["bind"].dispose()

        assert shown()["size"] == 0


class TestPoolOfSeveralProcesses:
    def test_goes_with_its_process(
        self, make_settings, things_process, database_url, redis_url, tmp_path
    ):
        settings = make_settings(
            database_url=database_url,
            redis_store_url=redis_url,
            metrics_dir=str(tmp_path / "metrics"),
            workers=2,
            threads=3,
        )
        service = things_process(
            "from flagon_chassis import server;"
            "server.serve(settings, 'things_app:create_app()')",
            settings,
        )
        children = psutil.Process(service.process.pid).children

        def size():
            # It has a pool who was asked whether its database is there.
            service.get("/readyz")
            text = service.get("/metrics")[1]
            return float(
                re.search(r"^flagon_db_pool_size (\S+)$", text, re.MULTILINE)[1]
            )

        # Not of the parent, which was the first to connect.
        assert eventually(lambda: size() == 6)
        gone = children()[0]
        gone.kill()
        eventually(lambda: len({*children()} - {gone}) == 2)

        assert eventually(lambda: size() == 6)
        assert not [*(tmp_path / "metrics").glob(f"gauge_live*_{gone.pid}.db")]


class TestReading:
    def test_reads_without_a_transaction(self, app, rows):
        with db.reading() as session:
            pid = session.scalar(text("select pg_backend_pid()"))
            state = rows.execute(
                "select state from pg_stat_activity where pid = %s", [pid]
            ).fetchone()

        assert state == ("idle",)


class TestRetrying:
    @pytest.fixture
    def thing(self, rows):
        rows.execute("create table thing (id int primary key, value int)")
        rows.execute("insert into thing values (1, 0), (2, 0)")

    @pytest.fixture
    def repeated(self):
        """How often a transaction was tried again since the test began."""
        name = "flagon_transaction_retries_total"
        before = {
            reason: sample(name, reason=reason) or 0
            for reason in ("serialization", "deadlock", "connection")
        }

        def repeated(reason):
            return (sample(name, reason=reason) or 0) - before[reason]

        return repeated

    def add(self, session, id_):
        session.execute(
            text("update thing set value = value + 1 where id = :id"), {"id": id_}
        )

    def kill(self, session, rows):
        pid = session.scalar(text("select pg_backend_pid()"))
        rows.execute("select pg_terminate_backend(%s, 5000)", [pid])

    def both(self, app, work):
        """Run `work` with 0 and with 1 at the same time."""

        def run(number):
            with app.app_context():
                return work(number)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(run, (0, 1)))

    def values(self, rows):
        return rows.execute("select value from thing order by id").fetchall()

    def test_repeats_what_a_deadlock_ended(self, app, rows, thing, repeated, logged):
        met = Barrier(2)
        tries = [0, 0]

        def cross(number):
            def work():
                tries[number] += 1
                with db.transaction() as session:
                    self.add(session, 1 + number)
                    if tries[number] == 1:
                        met.wait(10)
                    self.add(session, 2 - number)
                return number

            return db.retrying(work)

        assert self.both(app, cross) == [0, 1]
        assert sorted(tries) == [1, 2]
        assert self.values(rows) == [(2,), (2,)]
        assert repeated("deadlock") == 1
        (line,) = [x for x in logged if x["event"] == "transaction_repeated"]
        assert (line["reason"], line["attempt"]) == ("deadlock", 1)

    def test_repeats_what_could_not_be_put_in_order(self, app, rows, thing, repeated):
        met = Barrier(2)
        tries = [0, 0]

        def sum_up(number):
            """Write what depends on what the other one writes: found at the commit."""

            def work():
                tries[number] += 1
                with db.transaction() as session:
                    session.connection(
                        execution_options={"isolation_level": "SERIALIZABLE"}
                    )
                    total = session.scalar(text("select sum(value) from thing"))
                    if tries[number] == 1:
                        met.wait(10)
                    session.execute(
                        text("update thing set value = :sum + 1 where id = :id"),
                        {"sum": total, "id": 1 + number},
                    )
                    if tries[number] == 1:
                        met.wait(10)

            return db.retrying(work)

        self.both(app, sum_up)

        assert sorted(self.values(rows)) == [(1,), (2,)]
        assert repeated("serialization") == 1

    def test_repeats_what_lost_its_connection_before_the_end(
        self, app, rows, thing, repeated
    ):
        tries = []

        def work():
            tries.append(1)
            with db.transaction() as session:
                self.add(session, 1)
                if len(tries) == 1:
                    self.kill(session, rows)
                self.add(session, 2)

        db.retrying(work)

        assert self.values(rows) == [(1,), (1,)]
        assert repeated("connection") == 1

    def test_repeats_a_reading(self, app, rows):
        tries = []

        def work():
            tries.append(1)
            with db.reading() as session:
                if len(tries) == 1:
                    self.kill(session, rows)
                return session.scalar(text("select 7"))

        assert db.retrying(work, harmless=True) == 7
        assert len(tries) == 2

    @pytest.fixture
    def lose(self, app):
        """Lose the connection of the first commit; say whether before or after it."""

        def lose(*, after):
            engine = app.extensions["flagon.sessions"].kw["bind"]
            left = [1]

            def commit(connection):
                if left and left.pop():
                    driver = connection.connection.driver_connection
                    if after:
                        driver.commit()
                    driver.close()

            event.listen(engine, "commit", commit)

        return lose

    @pytest.mark.parametrize("after", [False, True])
    def test_tells_that_nobody_knows_when_it_was_lost_at_the_end(
        self, app, rows, thing, lose, repeated, after
    ):
        lose(after=after)

        def work():
            with db.transaction() as session:
                self.add(session, 1)

        with pytest.raises(db.OutcomeUnknown):
            db.retrying(work)

        assert self.values(rows)[0] == (int(after),)
        assert repeated("connection") == 0

    @pytest.mark.parametrize("after", [False, True])
    def test_repeats_what_has_a_key_even_then(self, app, rows, thing, lose, after):
        lose(after=after)

        def work():
            with db.transaction() as session:
                db.keyed(session)
                # As the table of answers does it.
                session.execute(
                    text("insert into thing values (3, 1) on conflict do nothing")
                )

        db.retrying(work)

        assert self.values(rows) == [(0,), (0,), (1,)]

    def test_repeats_nothing_after_its_commit(self, app, rows, thing):
        def work():
            with db.transaction() as session:
                self.add(session, 1)
            with db.reading() as session:
                self.kill(session, rows)
                session.scalar(text("select 1"))

        with pytest.raises(OperationalError):
            db.retrying(work)

        assert self.values(rows)[0] == (1,)

    def test_repeats_nothing_that_would_fail_again(self, app, thing):
        tries = []

        def work():
            tries.append(1)
            with db.transaction() as session:
                session.execute(text("select 1 / 0"))

        with pytest.raises(DataError):
            db.retrying(work)

        assert len(tries) == 1

    def test_gives_up_in_the_end(self, app, rows, thing):
        tries = []

        def work():
            tries.append(1)
            with db.transaction() as session:
                self.kill(session, rows)
                self.add(session, 1)

        with pytest.raises(OperationalError):
            db.retrying(work)

        assert len(tries) == db.ATTEMPTS
        assert self.values(rows)[0] == (0,)


class TestRetryViews:
    @pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 503)])
    def test_knows_which_methods_only_read(
        self, make_settings, database_url, method, status
    ):
        settings = make_settings(database_url=database_url)
        app = web.create_app(__name__, settings, name="things")
        db.init_app(app, settings)
        tries = []

        @app.route("/", methods=["GET", "POST"])
        @auth.open_route
        def view():
            tries.append(1)
            with db.transaction() as session:
                driver = session.connection().connection.driver_connection
                if len(tries) == 1:
                    event.listen(
                        session, "before_commit", lambda _session: driver.close()
                    )
            return "done"

        db.retry_views(app)

        answer = app.test_client().open(method=method)

        assert answer.status_code == status
        if status == 503:
            assert answer.json["type"].endswith("#outcome-unknown")
        app.extensions["flagon.sessions"].kw["bind"].dispose()


class TestReadiness:
    def test_asks_the_database(self, app):
        assert health.report(app.extensions["flagon.checks"]).ready

    def test_fails_without_one(self, make_settings):
        app = Flask("things")
        db.init_app(app, make_settings())

        assert not health.report(app.extensions["flagon.checks"]).ready


class TestBlockingDriver:
    def test_stops_a_gevent_process_that_loaded_the_driver_too_early(self, monkeypatch):
        monkey = SimpleNamespace(is_module_patched=lambda name: name == "select")
        monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)

        with pytest.raises(db.BlockingDriver):
            db.engine("postgresql+psycopg://", pool_size=1, application_name="a")

    def test_lets_a_driver_pass_that_waits_politely(self, monkeypatch):
        monkey = SimpleNamespace(is_module_patched=lambda _name: True)
        monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
        monkeypatch.setattr("psycopg.waiting.wait", lambda: None)

        db.engine("postgresql+psycopg://", pool_size=1, application_name="a").dispose()


REVISION = '''
"""The first tables."""

from alembic import op
import sqlalchemy as sa
from flagon_chassis import tables

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("thing", sa.Column("id", sa.Integer(), primary_key=True))
    tables.create(op.get_bind(), "outbox", "inbox", "idempotency_key")


def downgrade():
    tables.drop(op.get_bind(), "outbox", "inbox", "idempotency_key")
    op.drop_table("thing")
'''


class TestMigrate:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "0001_first.py").write_text(REVISION)
        return tmp_path

    @pytest.fixture
    def url(self, make_database):
        return make_database()

    @pytest.fixture
    def owner(self, make_settings, url):
        return make_settings(owner_database_url=url)

    def names(self, url):
        engine = create_engine(url)
        found = set(inspect(engine).get_table_names())
        engine.dispose()
        return found

    def test_brings_the_database_to_the_newest_revision(self, owner, folder, url):
        db.migrate(owner, folder)
        db.migrate(owner, folder)

        assert self.names(url) >= {"thing", "outbox", "inbox", "idempotency_key"}

    def test_two_at_once_take_turns(self, folder, url):
        # Two processes, as two containers would do it.
        code = (
            "from pathlib import Path; from flagon_chassis import db;"
            "from flagon_chassis.settings import DatabaseSettings;"
            f"settings = DatabaseSettings(secret_key='{SECRET}',"
            f" database_url='{url}', owner_database_url='{url}');"
            f"db.migrate(settings, Path('{folder}'))"
        )
        both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]

        assert [one.wait(30) for one in both] == [0, 0]
        assert "thing" in self.names(url)

    def test_waits_without_a_transaction(self, owner, folder, url):
        """Whoever has the lock may build an index that waits for all transactions."""
        plain = url.replace("postgresql+psycopg:", "postgresql:")
        asked = (
            "select state from pg_stat_activity where pid <> pg_backend_pid()"
            " and datname = current_database() and query ~ '(try_advisory|ROLLBACK)'"
        )
        with (
            psycopg.connect(plain, autocommit=True) as other,
            ThreadPoolExecutor(1) as pool,
        ):
            other.execute("select pg_advisory_lock(728114001)")
            waiting = pool.submit(db.migrate, owner, folder)
            seen = eventually(lambda: ("idle",) in other.execute(asked).fetchall())
            other.execute("select pg_advisory_unlock(728114001)")
            waiting.result(30)

        assert seen
        assert "thing" in self.names(url)

    def test_can_be_taken_back(self, owner, folder, url):
        db.migrate(owner, folder)

        command.downgrade(db.config(url, folder), "base")

        assert self.names(url) == {"alembic_version"}

    def test_needs_the_owner(self, make_settings, folder):
        with pytest.raises(ValueError, match="OWNER_DATABASE_URL"):
            db.migrate(make_settings(), folder)

    def test_a_revision_is_written_from_the_models(self, owner, folder, url):
        db.migrate(owner, folder)
        models = MetaData(naming_convention=tables.NAMING)
        Table("thing", models, Column("id", Integer, primary_key=True))
        Table("extra", models, Column("id", Integer, primary_key=True))

        db.revise(url, folder, "add extra", [models, tables.METADATA])

        written = next(folder.glob("*add_extra.py")).read_text()
        assert "create_table" in written
        assert "'extra'" in written or '"extra"' in written
        assert "drop_table('thing')" not in written.partition("def downgrade")[0]

    def test_tells_an_unreachable_database(self, make_settings, folder):
        with pytest.raises(OperationalError):
            db.migrate(
                make_settings(
                    owner_database_url="postgresql+psycopg://a@127.0.0.1:1/b"
                ),
                folder,
            )
