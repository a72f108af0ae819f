"""What is over is forgotten, and nothing else."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from flagon_auth import keeper
from flagon_auth.domain import purge
from flagon_auth.models import (
    AccessToken,
    DeviceCode,
    EmailToken,
    LogoutNotice,
    Mail,
    PushedRequest,
    RefreshToken,
    TokenGrant,
    UsedProof,
)
from flagon_chassis import db

from .conftest import bearer_of, me, refresh

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=8)
KINDS = (
    AccessToken,
    DeviceCode,
    EmailToken,
    LogoutNotice,
    Mail,
    PushedRequest,
    RefreshToken,
    TokenGrant,
    UsedProof,
)


@pytest.fixture(autouse=True)
def clean(app):
    yield
    with app.app_context(), db.transaction() as session:
        for table in ("logout_notice", "device_code", "pushed_request", "used_proof"):
            session.execute(text(f"delete from {table}"))


def one_of_each(account, when):
    """Rows that ended at a certain time."""
    grant = TokenGrant(
        id=uuid4(),
        account_id=account.id,
        client_id="web",
        sid="s",
        scope="openid",
        auth_time=when,
        amr=["pwd"],
        created_at=when,
        expires_at=NOW + timedelta(days=30),
    )
    return [
        grant,
        AccessToken(jti=uuid4(), token_grant_id=grant.id, expires_at=when),
        RefreshToken(
            token_hash=uuid4().bytes, grant=grant, created_at=when, expires_at=when
        ),
        DeviceCode(
            code_hash=uuid4().bytes,
            user_code_hash=uuid4().bytes,
            client_id="web",
            scope="openid",
            state="pending",
            interval_seconds=5,
            created_at=when,
            expires_at=when,
        ),
        PushedRequest(
            uri_hash=uuid4().bytes, client_id="web", parameters={}, expires_at=when
        ),
        UsedProof(digest=uuid4().bytes, expires_at=when),
        LogoutNotice(client_id="web", account_id=account.id, sid="s", created_at=when),
        Mail(
            account_id=account.id,
            email="ada@flagon.test",
            template="verify",
            locale="en",
            values={},
            created_at=when,
            expires_at=when,
        ),
        EmailToken(
            account_id=account.id,
            purpose="verify",
            email="ada@flagon.test",
            fingerprint=b"f",
            created_at=when,
            expires_at=when,
        ),
    ]


def put(app, rows):
    with app.app_context(), db.transaction() as session:
        for row in rows:
            session.add(row)
            session.flush()


def counts(app):
    with app.app_context(), db.transaction() as session:
        return {
            kind.__name__: session.scalar(select(func.count()).select_from(kind))
            for kind in KINDS
        }


def forget(app, now=NOW):
    with app.app_context(), db.transaction() as session:
        return purge.purge(session, now=now)


class TestPurge:
    def test_forgets_what_ended_more_than_a_week_ago(self, app, person):
        put(app, one_of_each(person(), LONG_AGO))

        forget(app)

        left = counts(app)
        # Its refresh tokens have run out; the grant has not.
        assert left.pop("TokenGrant") == 1
        assert set(left.values()) == {0}

    def test_keeps_what_lives_or_has_just_ended(self, app, person):
        account = person()
        put(app, one_of_each(account, NOW + timedelta(hours=1)))
        put(app, one_of_each(account, NOW - timedelta(days=6)))

        forget(app)

        left = counts(app)
        # Nobody asks for these once they have run out.
        assert (left.pop("PushedRequest"), left.pop("UsedProof")) == (1, 1)
        assert set(left.values()) == {2}

    def test_leaves_tokens_in_use_alone(self, app, ada):
        tokens = ada.tokens()

        forget(app)

        assert me(app, tokens).status_code == 200
        assert refresh(app, tokens["refresh_token"]).status_code == 200
        assert bearer_of(tokens)

    def test_says_how_many_went(self, app, person):
        put(app, one_of_each(person(), LONG_AGO))

        told = forget(app)

        assert told == {
            "grants": 0,
            "refresh_tokens": 1,
            "access_tokens": 1,
            "device_codes": 1,
            "logout_notices": 1,
            "mails": 1,
            "email_tokens": 1,
        }

    def test_takes_few_at_a_time(self, app, person, monkeypatch):
        account = person()
        for _ in range(3):
            put(app, one_of_each(account, LONG_AGO))
        monkeypatch.setattr(purge, "MOST", 2)

        assert [forget(app)["mails"] for _ in range(3)] == [2, 1, 0]

    def test_is_done_by_one_process_at_a_time(self, app):
        engine = app.extensions["flagon.sessions"].kw["bind"]
        with Session(engine) as other:
            assert purge.purge(other, now=NOW) is not None

            assert forget(app) is None

    def test_happens_by_itself(self, app, person, capsys):
        put(app, one_of_each(person(), LONG_AGO))

        with app.app_context():
            keeper.forget_old(now=NOW)
            keeper.forget_old(now=NOW)

        assert counts(app)["Mail"] == 0
        assert capsys.readouterr().out.count("rows_forgotten") == 1
