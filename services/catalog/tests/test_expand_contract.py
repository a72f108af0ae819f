"""The three revisions that split `state` of reservations, one by one.

The release before them is represented by its statements, the last one by today's code.
"""

import base64
import json
import os
import signal
import subprocess
import sys

import psycopg
import pytest
from alembic import command
from uuid_utils.compat import uuid7

from flagon_catalog.__main__ import MIGRATIONS
from flagon_chassis import db

from .conftest import PRODUCTS

BEFORE, EXPAND, MIGRATE, CONTRACT = "0012", "0013", "0014", "0015"
WAIT = 30


@pytest.fixture
def url(make_database):
    url = make_database()
    command.upgrade(db.config(url, MIGRATIONS), BEFORE)
    return url


@pytest.fixture
def step(url):
    """Go one revision up or down."""

    def step(revision, go=command.upgrade):
        go(db.config(url, MIGRATIONS), revision)

    return step


@pytest.fixture
def rows(url):
    plain = url.replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(url, make_app):
    return make_app(url).test_client()


@pytest.fixture
def product(client, merchandiser, new_product):
    answer = client.post(PRODUCTS, json=new_product(stock=99), headers=merchandiser)
    assert answer.status_code == 201, answer.text
    return answer.json["id"]


class Old:
    """What the release before did."""

    def __init__(self, rows, product, holder):
        self.rows, self.product, self.holder = rows, product, holder

    def reserve(self):
        id_ = str(uuid7())
        self.rows.execute(
            "insert into reservation (id, product_id, quantity, state, holder,"
            " expires_at) values (%s, %s, 1, 'held', %s, now() + interval '1 hour')",
            [id_, self.product, self.holder],
        )
        return id_

    def end(self, id_, state):
        done = self.rows.execute(
            "update reservation set state = %s, version = version + 1,"
            " updated_at = clock_timestamp() where id = %s and state = 'held'",
            [state, id_],
        )
        assert done.rowcount == 1

    def states(self):
        found = self.rows.execute("select id::text, state from reservation")
        return dict(found.fetchall())

    def held(self):
        return self.rows.execute(
            "select coalesce(sum(quantity), 0)::int from reservation"
            " where product_id = %s and state = 'held' and expires_at > now()",
            [self.product],
        ).fetchone()[0]


class New:
    """What today's code does, through the API."""

    ENDS = {"committed": "commit", "released": "release"}  # noqa: RUF012 (a constant)

    def __init__(self, client, headers, product):
        self.client, self.headers, self.product = client, headers, product

    def ask(self, method, path, **options):
        answer = self.client.open(path, method=method, headers=self.headers, **options)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json

    def reserve(self):
        path = f"{PRODUCTS}/{self.product}/reservations"
        return self.ask("POST", path, json={"quantity": 1})["id"]

    def end(self, id_, state):
        self.ask("POST", f"/api/v1/reservations/{id_}/{self.ENDS[state]}")

    def states(self):
        items = self.ask("GET", "/api/v1/reservations?limit=100")["items"]
        return {item["id"]: item["state"] for item in items}

    def held(self):
        product = self.ask("GET", f"{PRODUCTS}/{self.product}")
        return product["stock"] - product["available"]


@pytest.fixture
def old(rows, product, merchandiser):
    """For the same holder as today's code."""
    claims = merchandiser["Authorization"].split(".")[1] + "=="
    return Old(rows, product, json.loads(base64.urlsafe_b64decode(claims))["sub"])


@pytest.fixture
def new(client, merchandiser, product):
    return New(client, merchandiser, product)


class Story:
    """Reservations that are made and ended by all sorts of code, and what must be."""

    def __init__(self):
        self.expected = {}

    def go_on(self, *codes):
        """Let each write, and each see what all have written."""
        for code in codes:
            for state in ("held", "committed", "released"):
                id_ = code.reserve()
                if state != "held":
                    code.end(id_, state)
                self.expected[id_] = state
        self.check(*codes)

    def check(self, *codes):
        for code in codes:
            assert code.states() == self.expected
            assert code.held() == list(self.expected.values()).count("held")


def everything(rows, columns):
    return rows.execute(
        f"select id, {columns}, version, expires_at from reservation order by id"
    ).fetchall()


class TestEachStep:
    def test_up_is_fine_for_the_code_before_and_after_it(self, step, old, new):
        story = Story()
        story.go_on(old)

        step(EXPAND)
        story.go_on(old)
        step(MIGRATE)
        # Both serve while one takes the other's place.
        story.go_on(old, new)
        story.go_on(new, old)
        step(CONTRACT)
        story.go_on(new)

    def test_down_is_fine_for_the_code_before_and_after_it(self, step, old, new):
        story = Story()
        story.go_on(old)
        for revision in (EXPAND, MIGRATE, CONTRACT):
            step(revision)
        story.go_on(new)

        step(MIGRATE, command.downgrade)
        story.go_on(new, old)
        story.go_on(old, new)
        step(EXPAND, command.downgrade)
        story.go_on(old)
        step(BEFORE, command.downgrade)
        story.go_on(old)

    def test_ends_what_the_other_code_has_begun(self, step, old, new):
        step(EXPAND)
        step(MIGRATE)
        mine, other = old.reserve(), new.reserve()

        old.end(other, "committed")
        new.end(mine, "released")

        expected = {mine: "released", other: "committed"}
        assert old.states() == new.states() == expected

    def test_down_and_up_again_loses_nothing(self, step, rows, old, new):
        story = Story()
        story.go_on(old)
        first = everything(rows, "state, updated_at")
        for revision in (EXPAND, MIGRATE, CONTRACT):
            step(revision)
        for revision in (MIGRATE, EXPAND, BEFORE):
            step(revision, command.downgrade)
        assert everything(rows, "state, updated_at") == first

        for revision in (EXPAND, MIGRATE, CONTRACT):
            step(revision)
        story.go_on(new)
        split = everything(rows, "outcome, ended_at, updated_at")
        for revision in (MIGRATE, EXPAND, BEFORE):
            step(revision, command.downgrade)
        story.check(old)
        for revision in (EXPAND, MIGRATE, CONTRACT):
            step(revision)
        assert everything(rows, "outcome, ended_at, updated_at") == split


class TestTrigger:
    def test_revives_nothing_that_was_not_migrated_yet(self, step, rows, old):
        id_ = old.reserve()
        old.end(id_, "committed")
        step(EXPAND)

        rows.execute("update reservation set reference = 'x'")

        found = "select state, outcome, ended_at = updated_at from reservation"
        assert rows.execute(found).fetchall() == [("committed", "committed", True)]

    def test_ends_nothing_that_is_held(self, step, rows, old):
        old.reserve()
        step(EXPAND)

        rows.execute("update reservation set reference = 'x'")

        found = "select state, outcome, ended_at from reservation"
        assert rows.execute(found).fetchall() == [("held", None, None)]

    def test_lets_no_side_contradict_the_other(self, step, rows, old):
        step(EXPAND)
        step(MIGRATE)
        id_ = old.reserve()

        rows.execute(
            "update reservation set state = 'released', outcome = 'committed',"
            " ended_at = now() where id = %s",
            [id_],
        )

        found = "select state, outcome from reservation"
        assert rows.execute(found).fetchall() == [("committed", "committed")]


class TestBackfill:
    ROWS = 4500

    @pytest.fixture
    def ended(self, rows):
        """Reservations from before; their ids, in order."""
        rows.execute(
            "insert into reservation (id, product_id, quantity, state, holder,"
            " expires_at, updated_at) select gen_random_uuid(), gen_random_uuid(), 1,"
            " 'committed', 'x', now(), now() - n * interval '1 minute'"
            f" from generate_series(1, {self.ROWS}) n"
        )
        found = rows.execute("select id from reservation order by id").fetchall()
        return [id_ for (id_,) in found]

    @pytest.fixture
    def migrate(self, url):
        """Start the command that goes all the way."""
        started = []

        def migrate():
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "flagon_catalog", "migrate"],
                    env={
                        **os.environ,
                        "CATALOG_SECRET_KEY": "s" * 32,
                        "CATALOG_DATABASE_URL": url,
                        "CATALOG_OWNER_DATABASE_URL": url,
                        "CATALOG_IMAGES_DIR": "/nowhere",
                    },
                )
            )
            return started[-1]

        yield migrate
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait(WAIT)

    def test_goes_in_batches_and_on_after_a_kill(self, step, rows, ended, migrate):
        step(EXPAND)
        before = everything(rows, "updated_at")
        filled = "select count(*) from reservation where outcome is not null"
        with psycopg.connect(rows.info.dsn) as other:
            # In the midst of the third batch.
            other.execute(
                "select 1 from reservation where id = %s for update", [ended[2500]]
            )
            first = migrate()
            blocked = (
                "select count(*) from pg_locks where not granted"
                " and %s = any(pg_blocking_pids(pid))"
            )
            for _ in range(WAIT * 50):
                if rows.execute(blocked, [other.info.backend_pid]).fetchone()[0]:
                    break
                rows.execute("select pg_sleep(0.02)")
            else:
                pytest.fail("nobody waits")
            # Those who sell wait for none of what is done or to be done.
            rows.execute("set lock_timeout = '1s'")
            for id_ in (ended[10], ended[4400]):
                rows.execute(
                    "update reservation set reference = 'x' where id = %s", [id_]
                )
            assert rows.execute(filled).fetchone()[0] == 2001
            first.send_signal(signal.SIGKILL)
            first.wait(WAIT)
            version = "select version_num from alembic_version"
            assert rows.execute(version).fetchone() == (EXPAND,)
            other.rollback()

        assert migrate().wait(WAIT) == 0

        assert rows.execute(version).fetchone()[0] >= CONTRACT
        assert rows.execute(filled).fetchone()[0] == self.ROWS
        assert everything(rows, "updated_at") == before
        wrong = "select count(*) from reservation where ended_at <> updated_at"
        assert rows.execute(wrong).fetchone()[0] == 0

    def test_of_two_at_once_take_turns(self, step, rows, ended, migrate):
        """Whoever waits for the lock must not keep `concurrently` from its end."""
        step(EXPAND)
        with psycopg.connect(rows.info.dsn) as other:
            other.execute(
                "select 1 from reservation where id = %s for update", [ended[0]]
            )
            both = migrate(), migrate()
            connected = (
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and pid <> all(%s)"
            )
            ours = [rows.info.backend_pid, other.info.backend_pid]
            for _ in range(WAIT * 50):
                if rows.execute(connected, [ours]).fetchone()[0] == 2:
                    break
                rows.execute("select pg_sleep(0.02)")
            else:
                pytest.fail("one of them is not there")
            other.rollback()

        assert [process.wait(WAIT) for process in both] == [0, 0]

    def test_mends_an_index_that_was_left_half_made(self, step, rows, old):
        """As `create index concurrently` leaves it when it is killed."""
        step(EXPAND)
        rows.execute("create index ix_reservation_open on reservation (id)")
        rows.execute(
            "update pg_index set indisvalid = false"
            " where indexrelid = 'ix_reservation_open'::regclass"
        )

        step(MIGRATE)

        valid = (
            "select indisvalid, indnkeyatts from pg_index"
            " where indexrelid = 'ix_reservation_open'::regclass"
        )
        assert rows.execute(valid).fetchone() == (True, 2)


class TestPatience:
    @pytest.mark.parametrize("revision", [EXPAND, CONTRACT])
    def test_gives_up_where_it_would_make_others_wait(self, step, rows, old, revision):
        if revision == CONTRACT:
            step(EXPAND)
            step(MIGRATE)
        old.reserve()
        with psycopg.connect(rows.info.dsn) as other:
            other.execute("select 1 from reservation")

            with pytest.raises(Exception, match="lock timeout"):
                step(revision)

        step(revision)
