"""The audit log: complete, in order, and honest about having been changed."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import text

from flagon_auth.domain import audit
from flagon_chassis import db


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
