"""The real processes: each that serves ends what has expired, and none of them twice."""

import os
import signal
import subprocess
import sys
import time
from uuid import uuid4

import psycopg
import pytest

from flagon_chassis.testing import free_port

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
def serve(database, redis_server, tmp_path):
    """Start a catalog of two processes that look often."""
    started = []

    def serve():
        environment = {
            **os.environ,
            "CATALOG_ENVIRONMENT": "testing",
            "CATALOG_SECRET_KEY": "s" * 32,
            "CATALOG_DATABASE_URL": database,
            "CATALOG_REDIS_STORE_URL": redis_server.url,
            "CATALOG_REDIS_CACHE_URL": redis_server.url,
            "CATALOG_BIND": f"127.0.0.1:{free_port()}",
            "CATALOG_IMAGES_DIR": str(tmp_path / "images"),
            "CATALOG_SWEEP_SECONDS": "0.05",
            "CATALOG_DRAIN_SECONDS": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "flagon_catalog", "serve"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield serve
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(WAIT)


@pytest.fixture
def overdue(rows):
    """Make as many reservations whose time is over."""

    def overdue(number):
        rows.execute(
            "insert into reservation (id, product_id, quantity, state, holder,"
            " expires_at) select gen_random_uuid(), %s, 1, 'held', 'x', now()"
            " from generate_series(1, %s)",
            [uuid4(), number],
        )

    return overdue


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
        states = rows.execute("select distinct state, version from reservation")
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
