"""The audit: what a service adds and reads, and what it can never take back."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine, update
from sqlalchemy.orm import sessionmaker
from structlog.contextvars import bound_contextvars

from flagon_chassis import audit
from flagon_chassis.tables import audit as log

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine(make_database):
    engine = create_engine(make_database())
    with engine.begin() as connection:
        audit.create(connection)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with sessionmaker(engine)() as session:
        yield session
        session.rollback()


@pytest.fixture
def add(session):
    """Adds one row for each version, a minute after the other, and returns its entity."""

    def add(*versions, entity="thing", begin=NOON):
        id_ = uuid4()
        for version in versions:
            row = {"action": "updated", "id": id_, "version": version, "changes": {}}
            audit.add_rows(session, entity, [row])
            at = begin + timedelta(minutes=version)
            session.execute(
                update(log)
                .where(log.c.entity_id == id_, log.c.version == version)
                .values(at=at)
            )
        return id_

    return add


@pytest.fixture
def listed(session):
    """A function that returns the versions of the rows that fit, the newest first."""

    def listed(**wanted):
        wanted = {"limit": 100, **wanted}
        return [row["version"] for row in audit.list_rows(session, **wanted)]

    return listed


class TestAddRows:
    def test_says_who_and_in_which_request(self, session, add):
        with bound_contextvars(sub="me", client_id="script", request_id="r-1"):
            id_ = add(1)

        (row,) = audit.list_rows(session, limit=9, id=id_)
        assert (row["actor"], row["client"]) == ("me", "script")
        assert (row["request_id"], row["trace_id"]) == ("r-1", None)
        assert list(row)[:6] == [
            "sequence",
            "at",
            "actor",
            "client",
            "action",
            "entity",
        ]

    def test_names_nobody_where_nobody_asked(self, session, add):
        (row,) = audit.list_rows(session, limit=9, id=add(1))

        assert (row["actor"], row["client"]) == (audit.SYSTEM, None)

    def test_adds_nothing_of_nothing(self, session, listed):
        audit.add_rows(session, "thing", [])

        assert listed() == []


class TestTold:
    def test_of_a_change_has_both_sides(self):
        before, after = {"a": 1, "b": "", "c": [1]}, {"a": 0, "b": "x", "c": None}

        assert audit.told(before, after, ["a", "b", "c"]) == {
            "a": {"from": 1, "to": 0},
            "b": {"from": "", "to": "x"},
            "c": {"from": [1], "to": None},
        }

    def test_of_what_is_new_or_gone_leaves_out_what_was_never_set(self):
        view = {"zero": 0, "no": False, "none": None, "text": "", "set": "x"}

        told = audit.told(None, view, view), audit.told(view, None, view)

        assert told[0] == {"zero": {"to": 0}, "no": {"to": False}, "set": {"to": "x"}}
        assert set(told[1]) == {"zero", "no", "set"}

    def test_names_without_values_what_is_nobodys_business(self):
        assert audit.told({"a": 1}, {"a": 2}, ["a"], named_only={"a"}) == {"a": {}}

    def test_is_bounded(self):
        most = audit.VALUE_CHARACTERS_MAX
        before, after = {"a": "x" * most}, {"a": ["y" * most]}

        assert audit.told(before, after, ["a"]) == {
            "a": {"from": "x" * most, "to": '["' + "y" * (most - 2), "cut": True}
        }


class TestListRows:
    def test_filters(self, add, listed):
        one, _ = add(1, 2), add(3, entity="other")

        assert listed(id=one) == [2, 1]
        assert listed(entity="other") == [3]
        assert listed(actor=audit.SYSTEM) == [3, 2, 1]
        assert listed(actor="nobody") == []

    def test_goes_on_where_the_page_before_ended(self, session, add, listed):
        add(1, 2, 3)
        last = audit.list_rows(session, limit=1)[0]["sequence"]

        assert listed(before=last, limit=1) == [2]

    def test_filters_by_time(self, add, listed):
        add(1, 2, 3)
        minute = timedelta(minutes=1)

        assert listed(since=NOON + 2 * minute) == [3, 2]
        assert listed(until=NOON + 2 * minute) == [1]
        assert listed(since=NOON + 2 * minute, until=NOON + 3 * minute) == [2]


@pytest.fixture(scope="module")
def database(make_database):
    """The log, its owner's connection, and two roles that were there when it was made."""
    url = make_database()
    role = sql.Identifier(f"service_{uuid4().hex[:12]}")
    reader = sql.Identifier(f"reader_{uuid4().hex[:12]}")
    engine = create_engine(url)
    # As deploy/postgres/roles.sh does.
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as owner:
        for name in (role, reader):
            owner.execute(sql.SQL("create role {}").format(name))
            owner.execute(sql.SQL("grant usage on schema public to {}").format(name))
        for statement, name in (
            ("grant select, insert, update, delete on tables to {}", role),
            ("grant usage, select on sequences to {}", role),
            ("grant execute on functions to {}", role),
            ("grant select on tables to {}", reader),
        ):
            owner.execute(
                sql.SQL(
                    "alter default privileges in schema public " + statement
                ).format(name)
            )
        with engine.begin() as connection:
            audit.create(connection)
        for days in (0, 29, 31, 401):
            owner.execute(
                "insert into audit (at, actor, action, entity, entity_id, version,"
                " changes) values (now() - make_interval(days => %s), 'a',"
                " 'created', 'tag', gen_random_uuid(), 1, '{}')",
                [days],
            )
        yield owner, role, reader
        with engine.begin() as connection:
            audit.drop(connection)
        for name in (role, reader):
            owner.execute(sql.SQL("drop owned by {}").format(name))
            owner.execute(sql.SQL("drop role {}").format(name))
    engine.dispose()


class TestPurge:
    def test_removes_what_is_older_and_says_how_many(self, session, add, listed):
        now = datetime.now(UTC)
        add(1, 2, begin=now - timedelta(days=401))
        add(3, begin=now - timedelta(days=399))

        assert [audit.purge(session, days=400) for _ in range(2)] == [2, 0]
        assert listed() == [3]


class TestAsTheService:
    """What the role of the service can do to the log, once somebody has taken it over."""

    @pytest.fixture(params=["service", "reader"])
    def as_role(self, database, request):
        owner, role, reader = database

        def run(*statements, who=request.param):
            name = role if who == "service" else reader
            with owner.transaction(force_rollback=True):
                owner.execute(sql.SQL("set local role {}").format(name))
                for statement in statements[:-1]:
                    owner.execute(statement)
                return owner.execute(statements[-1]).fetchall()

        run.who = request.param
        return run

    @pytest.mark.parametrize(
        "attack",
        [
            "update audit set actor = 'me'",
            "update audit set changes = '{}' where sequence = 1",
            "delete from audit",
            "truncate audit",
            "drop table audit",
            "alter table audit disable trigger all",
            "create trigger t before insert on audit execute function pg_sleep()",
            "create rule r as on insert to audit do instead nothing",
            "drop function audit_purge(integer)",
            "alter function audit_purge(integer) security invoker",
            "select setval('audit_sequence_seq', 1)",
            "insert into audit overriding system value select * from audit",
            "select * from audit for update",
            "merge into audit using audit a on true when matched then delete",
        ],
    )
    def test_nothing_that_was_written_changes(self, as_role, database, attack):
        owner, *_ = database
        before = owner.execute("select * from audit order by sequence").fetchall()

        with pytest.raises(psycopg.Error) as refused:
            as_role(attack)

        assert refused.value.sqlstate in {"42501", "23505"}
        after = owner.execute("select * from audit order by sequence").fetchall()
        assert after == before

    @pytest.mark.parametrize("days", [29, 0, -1, -(2**31)])
    def test_nothing_young_is_purged(self, as_role, days):
        with pytest.raises(psycopg.Error) as refused:
            as_role(f"select audit_purge({days})")

        young = "22023" if as_role.who == "service" else "42501"
        assert refused.value.sqlstate == young

    def test_what_is_old_is_purged(self, as_role):
        if as_role.who == "reader":
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                as_role("select audit_purge(400)")
        else:
            assert as_role("select audit_purge(400)") == [(1,)]
            assert as_role("select audit_purge(30)") == [(2,)]

    def test_a_table_in_front_does_not_lead_the_purge_astray(self, as_role):
        statements = (
            "create temp table audit (sequence bigint, at timestamptz)",
            "select audit_purge(30)",
        )
        if as_role.who == "service":
            assert as_role(*statements) == [(2,)]
