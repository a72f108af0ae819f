"""What follows when a sign-in session ends: an event, and notices to its clients.

A client that was given tokens in the session and registered an address for it is told
there (OpenID Connect Back-Channel Logout 1.0). The notice is a row and an errand in the
transaction that ends the session, so that none is forgotten and none sent for nothing.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from joserfc import jwt
from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session

from flagon_auth.models import Client, LogoutNotice, TokenGrant
from flagon_chassis import errands, events
from flagon_chassis.errors import NotFound

from . import audit, keys
from .tokens import Issuer

TASK = "worker.deliver_logout"
EVENT = "http://schemas.openid.net/event/backchannel-logout"
"""What a logout token says has happened."""
TOKEN_SECONDS = 120
"""Life of a logout token; each attempt to deliver a notice gets a new one."""
_LIVES = timedelta(days=7)
"""Longer than any client is tried: who asks last writes down that it is given up."""
_PAUSE_SECONDS = 360.0
"""Longer than an attempt and the worker's pause after it."""
REFUSALS_MAX = 3
"""So often a client may say no; it may only have old keys, or trouble of its own."""


class NoticeOver(NotFound):
    """There is nothing to deliver: it has arrived, was given up or never was."""


def session_ended(
    session: Session, *, sid: str, account_id: UUID, reason: str, now: datetime
) -> None:
    """Tell everybody whom it concerns that one sign-in session is over."""
    announce(session, sid=sid, account_id=account_id, reason=reason)
    notify(session, TokenGrant.sid == sid, now=now)


def sessions_ended(
    session: Session,
    *,
    account_id: UUID,
    reason: str,
    sids: Iterable[str] = (),
    now: datetime,
) -> None:
    """Tell everybody whom it concerns that an account's sessions are over, all of them.

    To be called before its grants are revoked.

    :param sids: sessions that are known to exist; those with a grant that lives are
        found without.
    """
    own = TokenGrant.account_id == account_id
    living = session.scalars(
        select(TokenGrant.sid)
        .where(own, TokenGrant.revoked_at.is_(None), TokenGrant.expires_at > now)
        .distinct()
    )
    for sid in sorted({*sids, *living}):
        announce(session, sid=sid, account_id=account_id, reason=reason)
    notify(session, own, now=now)


def announce(session: Session, *, sid: str, account_id: UUID, reason: str) -> None:
    """Emit the event that a session is over."""
    events.emit(
        session,
        "session.ended.v1",
        subject=sid,
        data={"id": sid, "user_id": str(account_id), "reason": reason},
        topics=[f"users/{account_id}"],
    )


def notify(
    session: Session, condition: ColumnElement[bool], *, now: datetime
) -> list[UUID]:
    """Have clients told that sessions are over in which they were given something.

    A client is told once about a session, unless it was given more after that.

    :param condition: which grants it is about.
    :return: the ids of the notices.
    """
    told = exists().where(
        LogoutNotice.client_id == TokenGrant.client_id,
        LogoutNotice.sid == TokenGrant.sid,
        LogoutNotice.created_at >= TokenGrant.created_at,
    )
    concerned = session.execute(
        select(TokenGrant.client_id, TokenGrant.account_id, TokenGrant.sid)
        .join(Client, Client.id == TokenGrant.client_id)
        .where(condition, Client.backchannel_logout_uri.is_not(None), ~told)
        .distinct()
    )
    notices = [
        LogoutNotice(
            client_id=client_id, account_id=account_id, sid=sid, created_at=now
        )
        for client_id, account_id, sid in concerned
    ]
    session.add_all(notices)
    session.flush()
    errands.send(
        session,
        TASK,
        queue="mail",
        tasks=[(str(one.id), {"notice_id": str(one.id)}) for one in notices],
        lives=_LIVES,
    )
    return [notice.id for notice in notices]


def compose(
    session: Session,
    issuer: Issuer,
    notice_id: UUID,
    *,
    patience_seconds: int,
    now: datetime,
) -> tuple[str, str] | None:
    """Return where a notice goes and the logout token that says it.

    None when there is nothing to deliver. When it has waited for longer than
    `patience_seconds` it is given up. What this decides must be committed.
    """
    notice = _waiting(session, notice_id)
    client = session.get_one(Client, notice.client_id) if notice else None
    if not (notice and client and client.backchannel_logout_uri) or client.disabled:
        errands.done(session, TASK, str(notice_id))
        return None
    errands.postpone(session, TASK, str(notice_id), _PAUSE_SECONDS)
    if notice.created_at + timedelta(seconds=patience_seconds) <= now:
        _give_up(session, notice, "no answer in time", now=now)
        return None
    token = _logout_token(session, issuer, client, notice, now=now)
    return client.backchannel_logout_uri, token


def delivered(session: Session, notice_id: UUID, *, now: datetime) -> None:
    """Remember that the client knows; safe to say twice."""
    session.execute(
        update(LogoutNotice)
        .where(LogoutNotice.id == notice_id, LogoutNotice.delivered_at.is_(None))
        .values(delivered_at=now)
    )
    errands.done(session, TASK, str(notice_id))


def refused(session: Session, notice_id: UUID, *, status: int, now: datetime) -> None:
    """Remember that the client would not hear it; after some times it is given up.

    :param status: of the client's answer.
    :raises NoticeOver: it has arrived or was given up meanwhile.
    """
    notice = _waiting(session, notice_id)
    if notice is None:
        raise NoticeOver("It has arrived, was given up or never was.")
    notice.refusals += 1
    if notice.refusals >= REFUSALS_MAX:
        _give_up(session, notice, f"refused with status {status}", now=now)


def _waiting(session: Session, notice_id: UUID) -> LogoutNotice | None:
    notice = session.get(LogoutNotice, notice_id, with_for_update=True)
    if notice is None or notice.delivered_at or notice.given_up_at:
        return None
    return notice


def _give_up(
    session: Session, notice: LogoutNotice, reason: str, *, now: datetime
) -> None:
    notice.given_up_at = now
    errands.done(session, TASK, str(notice.id))
    audit.record(
        session,
        "logout_not_delivered",
        account_id=notice.account_id,
        now=now,
        client=notice.client_id,
        sid=notice.sid,
        reason=reason,
    )


def _logout_token(
    session: Session,
    issuer: Issuer,
    client: Client,
    notice: LogoutNotice,
    *,
    now: datetime,
) -> str:
    # Back-Channel Logout section 2.4: signed as the client's ID tokens are, of a type of
    # its own, and never with a nonce, so that neither passes for the other.
    alg = client.id_token_signed_response_alg
    kid, key = keys.signing_key(session, issuer.sealer, alg, now=now)
    issued_at = int(now.timestamp())
    claims: dict[str, Any] = {
        "iss": issuer.url,
        "sub": str(notice.account_id),
        "aud": client.id,
        "iat": issued_at,
        "exp": issued_at + TOKEN_SECONDS,
        "jti": str(uuid4()),
        "sid": notice.sid,
        "events": {EVENT: {}},
    }
    return jwt.encode({"typ": "logout+jwt", "alg": alg, "kid": kid}, claims, key, [alg])
