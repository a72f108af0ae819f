"""Sign-in sessions: how one begins once somebody proved who they are, and how it ends."""

from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlencode
from uuid import UUID

import structlog
from flask import redirect, request, session
from flask.typing import ResponseReturnValue
from flask_login import UserMixin, current_user, login_user
from sqlalchemy.orm import Session

from flagon_auth.clients import LoginSession, parts
from flagon_auth.domain import accounts, audit, factors, grants, mails
from flagon_auth.domain.addresses import HOME, safe_next
from flagon_auth.i18n import language
from flagon_auth.models import Account
from flagon_chassis import metrics
from flagon_chassis.db import transaction

log = structlog.get_logger()

SECOND_STEP = "/login/mfa"
CONFIRM = "/login/again"
FRESH_SECONDS = 600
"""How old a proof may be that lets the person change what matters to security."""


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

    Every way to sign in ends here. An account with a second factor is not signed in by
    one alone: whoever has passed it is sent to the second step.

    :param amr: how they proved it (RFC 8176).
    :param onward: the page they wanted; one of ours.
    """
    now = datetime.now(UTC)
    _end_somebody_elses(account, now=now)
    enough = factors.acr_of(amr) == factors.AAL2
    with transaction() as db:
        if enough or not factors.find_factors(db, account.id).second_step:
            _begin(db, account, amr=amr, now=now)
            return redirect(onward, 303)
    login_session().await_second_step(
        account.id, amr=amr, onward=onward, now=now.timestamp()
    )
    count_login("second_step")
    return redirect(SECOND_STEP, 303)


def begin(account: Account, *, amr: list[str]) -> None:
    """Start the account's session in this browser, with a new cookie."""
    now = datetime.now(UTC)
    _end_somebody_elses(account, now=now)
    with transaction() as db:
        _begin(db, account, amr=amr, now=now)


def _begin(db: Session, account: Account, *, amr: list[str], now: datetime) -> None:
    acr = factors.acr_of(amr)
    sid = login_session().begin(account.id, amr=amr, acr=acr, now=now.timestamp())
    login_user(SignedIn(account))
    record(db, "signed_in", account_id=account.id, now=now, sid=sid, amr=amr, acr=acr)
    parts().guesses.remember_device(account.email_key)
    count_login("success")
    log.info("signed_in", sub=str(account.id), acr=acr)


def add_factor(account: Account, *, amr: list[str]) -> None:
    """Raise the present session of the account by one more factor, with a new cookie.

    The time of the sign-in stays: a client that asks for a recent one means both.

    :param amr: the methods that came in addition.
    """
    now, here = datetime.now(UTC), login_session()
    together = list(dict.fromkeys([*here["amr"], *amr, "mfa"]))
    sid = here.begin(
        account.id,
        amr=together,
        acr=factors.acr_of(together),
        now=now.timestamp(),
        auth_time=here.auth_time,
    )
    login_user(SignedIn(account))
    with transaction() as db:
        record(db, "stepped_up", account_id=account.id, now=now, sid=sid, amr=together)


def fresh_sign_in(
    max_age_seconds: int = FRESH_SECONDS, *, back: str | None = None
) -> ResponseReturnValue | None:
    """Return where to send the person before they change what matters to security.

    None means: go on. Somebody else at an unlocked computer must not get far, so one
    factor has to be proved anew, and a session from before the account had a second
    factor must pass that first.

    :param back: our page to return to; without it the page at hand, or after a form
        was sent the account page.
    """
    page = request.full_path.rstrip("?") if request.method == "GET" else HOME
    query = urlencode({"next": safe_next(back or page)})
    if not current_user.is_authenticated:
        return redirect(f"/login?{query}", 303)
    here = login_session()
    with transaction() as db:
        found = factors.find_factors(db, UUID(here["_user_id"]))
    if found.second_step and here.acr != factors.AAL2:
        return redirect(f"{SECOND_STEP}?{query}", 303)
    if datetime.now(UTC).timestamp() - here.proved_at > max_age_seconds:
        return redirect(f"{CONFIRM}?{query}", 303)
    return None


def _end_somebody_elses(account: Account, *, now: datetime) -> None:
    here = login_session()
    if here.sid and here.get("_user_id") != str(account.id):
        end(here.sid, "another account signed in", now=now)


def end(
    sid: str,
    reason: str,
    *,
    account_id: UUID | None = None,
    now: datetime | None = None,
) -> None:
    """End one session and every grant given in it, wherever its browser is.

    Its clients are told behind the browser's back, and an event says that it is over.

    :param account_id: whose session it is; without it, who is signed in here.
    """
    now = now or datetime.now(UTC)
    here = login_session().get("_user_id")
    whose = account_id or (UUID(here) if here else None)
    with transaction() as db:
        spent = grants.revoke_session(db, sid, reason, account_id=whose, now=now)
        record(db, "session_ended", account_id=whose, now=now, sid=sid, reason=reason)
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


def record_and_tell(
    db: Session,
    account: Account,
    action: str,
    *,
    now: datetime,
    **details: object,
) -> None:
    """Add a change of how the account signs in to the audit log, and mail its owner."""
    mails.send(
        db, account, "security_changed", locale=language(), now=now, action=action
    )
    record(db, action, account_id=account.id, now=now, **details)


def count_login(outcome: str) -> None:
    """Count one attempt to sign in."""
    metrics.counter("flagon_logins_total", "Sign-ins by outcome.", "outcome").labels(
        outcome
    ).inc()
