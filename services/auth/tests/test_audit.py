"""The audit log: complete, in order, and honest about having been changed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import text

from flagon_auth.domain import audit
from flagon_chassis import db

from .test_commands import run


@pytest.fixture
def session(fresh_app):
    with fresh_app.app_context(), db.transaction() as session:
        yield session


def write(session, count=3):
    for number in range(count):
        audit.record(
            session,
            "password_changed",
            account_id=uuid4(),
            actor="cli",
            address="192.0.2.7",
            now=datetime.now(UTC),
            number=number,
        )


class TestVerify:
    def test_counts_what_was_written(self, session):
        write(session)
        session.expire_all()

        assert audit.verify(session) == 3

    @pytest.mark.parametrize(
        "attack",
        [
            "update audit_event set action = 'nothing' where sequence = 2",
            "update audit_event set details = '{}' where sequence = 2",
            "update audit_event set address = null where sequence = 2",
            "update audit_event set occurred_at = now() where sequence = 2",
            "update audit_event set account_id = null where sequence = 2",
            "delete from audit_event where sequence = 2",
            "delete from audit_event where sequence = 1",
            "update audit_event set previous_hash = hash where sequence = 3",
        ],
    )
    def test_notices(self, session, attack):
        write(session)
        session.execute(text(attack))
        session.expire_all()

        with pytest.raises(audit.AuditLogBroken):
            audit.verify(session)


class TestCommands:
    def test_verify_says_that_all_is_well(self, fresh_app):
        with fresh_app.app_context(), db.transaction() as session:
            write(session, 2)

        assert run(fresh_app, "audit", "verify") == [{"records": 2, "intact": True}]

    def test_verify_fails_where_it_is_not(self, fresh_app):
        with fresh_app.app_context(), db.transaction() as session:
            write(session, 2)
            session.execute(text("update audit_event set actor = 'eve'"))

        result = run(fresh_app, "audit", "verify", ok=False)

        assert "Record 1 is not what was written" in result.output

    def test_list_prints_the_newest_first(self, fresh_app):
        with fresh_app.app_context(), db.transaction() as session:
            write(session, 3)

        lines = run(fresh_app, "audit", "list", "--limit", "2")

        assert [line["sequence"] for line in lines] == [3, 2]
        assert lines[0]["number"] == 2


class TestRecord:
    def test_takes_turns_with_others(self, fresh_app):
        """Eight at once leave eight records in one chain."""

        def one(_):
            with fresh_app.app_context(), db.transaction() as session:
                write(session, 1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))

        assert run(fresh_app, "audit", "verify") == [{"records": 8, "intact": True}]
