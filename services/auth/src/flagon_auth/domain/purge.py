"""Forgetting: rows that say nothing any more, however somebody asks."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from flagon_auth.models import (
    AccessToken,
    DeviceCode,
    EmailToken,
    LogoutNotice,
    Mail,
    RefreshToken,
)

from . import grants

KEPT = timedelta(days=7)
"""How long what is over can still be looked up by who wonders what happened."""
MOST = 5000
"""Rows of one table that go at once: what is left goes at the next time."""


def purge(session: Session, *, now: datetime) -> dict[str, int] | None:
    """Forget what is over; return how many rows of each kind went.

    Safe to run at any time and anywhere: None means that another process does it now.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(728_114_030))):
        return None
    before = now - KEPT
    return {
        "grants": grants.purge(session, now=now),
        # A used refresh token tells of theft for as long as it would have lived.
        "refresh_tokens": _forget(
            session, RefreshToken.token_hash, RefreshToken.expires_at < before
        ),
        "access_tokens": _forget(
            session, AccessToken.jti, AccessToken.expires_at < before
        ),
        "device_codes": _forget(
            session, DeviceCode.code_hash, DeviceCode.expires_at < before
        ),
        "logout_notices": _forget(
            session, LogoutNotice.id, LogoutNotice.created_at < before
        ),
        "mails": _forget(
            session,
            Mail.id,
            or_(Mail.sent_at < before, Mail.expires_at < before),
        ),
        "email_tokens": _forget(session, EmailToken.id, EmailToken.expires_at < before),
    }


def _forget(
    session: Session, key: InstrumentedAttribute[Any], over: ColumnElement[bool]
) -> int:
    some = select(key).where(over).limit(MOST)
    gone = session.execute(
        delete(key.class_).where(key.in_(some)).returning(key),
        execution_options={"synchronize_session": False},
    )
    return len(gone.all())
