"""Sign-in sessions: how one begins once somebody proved who they are, and how it ends."""

from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import structlog
from flask import redirect, request, session
from flask.typing import ResponseReturnValue
from flask_login import UserMixin, login_user
from sqlalchemy.orm import Session

from flagon_auth.clients import LoginSession, parts
from flagon_auth.domain import accounts, audit, grants
from flagon_auth.models import Account
from flagon_chassis import metrics
from flagon_chassis.db import transaction

log = structlog.get_logger()


class SignedIn(UserMixin):  # type: ignore[misc]
    """The account of the present session, as templates see it."""

    def __init__(self, account: Account) -> None:
        self.id = str(account.id)
        self.account = account


def load_signed_in(account_id: str) -> SignedIn | None:
    """Return who the session belongs to, unless the account was disabled."""
    with transaction() as db:
        account = accounts.find_account_if_enabled(db, UUID(account_id))
        return SignedIn(account) if account else None


def login_session() -> LoginSession:
    """Return the session of the request's browser."""
    return cast("LoginSession", session)


def first_factor_passed(
    account: Account, *, amr: list[str], onward: str
) -> ResponseReturnValue:
    """Return the answer to who has just proved to own the account.

    Every way to sign in ends here.

    :param amr: how they proved it (RFC 8176).
    :param onward: the page they wanted; one of ours.
    """
    begin(account, amr=amr)
    return redirect(onward, 303)


def begin(account: Account, *, amr: list[str]) -> None:
    """Start the account's session in this browser, with a new cookie."""
    now, here = datetime.now(UTC), login_session()
    if here.sid and here.get("_user_id") != str(account.id):
        end(here.sid, "another account signed in", now=now)
    sid = here.begin(account.id, amr=amr, now=now.timestamp())
    login_user(SignedIn(account))
    with transaction() as db:
        record(db, "signed_in", account_id=account.id, now=now, sid=sid, amr=amr)
    count_login("success")
    log.info("signed_in", sub=str(account.id))


def end(sid: str, reason: str, *, now: datetime | None = None) -> None:
    """End one session and every grant given in it, wherever its browser is."""
    now = now or datetime.now(UTC)
    with transaction() as db:
        spent = grants.revoke_session(db, sid, reason, now=now)
    parts().end_session(sid, spent, now=now)
    log.info("signed_out")


def record(
    db: Session,
    action: str,
    *,
    account_id: UUID | None,
    now: datetime,
    **details: object,
) -> None:
    """Add what a person did on our pages to the audit log, last in its transaction."""
    here = login_session()
    audit.record(
        db,
        action,
        account_id=account_id,
        actor=here.get("_user_id"),
        address=request.remote_addr,
        now=now,
        **details,
    )


def count_login(outcome: str) -> None:
    """Count one attempt to sign in."""
    metrics.counter("flagon_logins_total", "Sign-ins by outcome.", "outcome").labels(
        outcome
    ).inc()
