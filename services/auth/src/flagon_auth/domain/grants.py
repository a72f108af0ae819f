"""Grants: the family of codes and tokens that grew out of one authorization."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from flagon_auth.models import (
    AccessToken,
    Account,
    AuthorizationCode,
    Client,
    RefreshToken,
    TokenGrant,
)
from flagon_chassis.errors import Invalid

from . import api_keys, logouts, proofs, pushed
from .accounts import API_SCOPES, IDENTITY_SCOPES, INSIDE_SCOPES, scopes_of
from .tokens import Issuer, Spent


class GrantRefused(Invalid):
    """The code or refresh token cannot be used."""


class GrantReplayed(GrantRefused):
    """A code or refresh token that was used up came again: somebody has a copy.

    The whole family is revoked; `spent` are its access tokens that still live.
    """

    def __init__(self, grant: TokenGrant, spent: list[Spent], *, first: bool) -> None:
        super().__init__("It was used before, so the whole grant is revoked.")
        self.grant = grant
        self.spent = spent
        self.first = first
        """Whether the family lived until now: later replays tell nothing new."""


def allowed_scope(
    requested: str | None, client: Client, roles: Iterable[str] | None
) -> str:
    """Return what of a request is granted: within the client's and the person's rights.

    :param requested: scopes separated by spaces; without any, all that is allowed.
    :param roles: the person's; None when the client acts for itself.
    """
    allowed = set(client.scope.split())
    if roles is None:
        allowed -= set(IDENTITY_SCOPES)
    else:
        allowed &= {*IDENTITY_SCOPES, *scopes_of(roles)}
    wanted = set((requested or client.scope).split())
    order = [*IDENTITY_SCOPES, *API_SCOPES, *INSIDE_SCOPES]
    return " ".join(sorted(wanted & allowed, key=order.index))


def authorize(
    session: Session,
    issuer: Issuer,
    *,
    account: Account,
    client: Client,
    scope: str,
    redirect_uri: str,
    code_challenge: str,
    nonce: str | None,
    sid: str,
    auth_time: datetime,
    amr: list[str],
    acr: str,
    code: str,
    dpop_jkt: str | None = None,
    claims: dict[str, list[str]] | None = None,
    now: datetime,
) -> None:
    """Start a grant whose first token comes for this code.

    :param code: random; only its hash is stored.
    :param code_challenge: of PKCE (RFC 7636), method S256.
    :param dpop_jkt: thumbprint of the only key that may redeem the code.
    :param claims: single claims beyond the scope, by where they go.
    """
    offline = "offline_access" in scope.split()
    life = (
        issuer.refresh_absolute_seconds if offline else issuer.session_absolute_seconds
    )
    session.add(
        AuthorizationCode(
            code_hash=_hash(code),
            client_id=client.id,
            redirect_uri=redirect_uri,
            code_challenge=code_challenge,
            dpop_jkt=dpop_jkt,
            nonce=nonce,
            expires_at=now + timedelta(seconds=issuer.code_seconds),
            grant=TokenGrant(
                account_id=account.id,
                client_id=client.id,
                sid=sid,
                scope=scope,
                auth_time=auth_time,
                amr=amr,
                acr=acr,
                claims=claims or None,
                created_at=now,
                # Without offline access a grant lives no longer than its session can.
                expires_at=(now if offline else auth_time) + timedelta(seconds=life),
            ),
        )
    )
    session.flush()


def find_code(
    session: Session, code: str, *, client_id: str, now: datetime
) -> AuthorizationCode:
    """Return the unused code and keep twins waiting until the transaction ends.

    :raises GrantReplayed: it was used before; the revocation must be committed.
    :raises GrantRefused: there is no such code for this client, or it is too old.
    """
    row = session.scalars(
        select(AuthorizationCode).filter_by(code_hash=_hash(code)).with_for_update()
    ).one_or_none()
    if row is None or row.client_id != client_id:
        raise GrantRefused("The code is not valid.")
    if row.used_at is not None:
        raise _replayed(session, row.grant, "code replayed", now=now)
    if row.expires_at <= now or row.grant.revoked_at is not None:
        raise GrantRefused("The code is not valid any more.")
    return row


def use_code(code: AuthorizationCode, *, now: datetime) -> None:
    """Mark the code as used up."""
    code.used_at = now


def find_refresh_token(
    session: Session, token: str, *, client_id: str, now: datetime
) -> RefreshToken:
    """Return the unused refresh token and keep twins waiting.

    :raises GrantReplayed: it was used before; the revocation must be committed.
    :raises GrantRefused: there is no such token for this client, or it has ended.
    """
    row = session.scalars(
        select(RefreshToken).filter_by(token_hash=_hash(token)).with_for_update()
    ).one_or_none()
    if row is None or row.grant.client_id != client_id:
        raise GrantRefused("The refresh token is not valid.")
    if row.used_at is not None:
        raise _replayed(session, row.grant, "refresh token reused", now=now)
    ended = min(row.expires_at, row.grant.expires_at) <= now
    if ended or row.grant.revoked_at is not None:
        raise GrantRefused("The refresh token is not valid any more.")
    return row


def rotate(
    session: Session,
    issuer: Issuer,
    grant: TokenGrant,
    *,
    used: RefreshToken | None = None,
    now: datetime,
) -> str:
    """Return the grant's next refresh token.

    :param used: the one that came; it never works again.
    """
    if used is not None:
        used.used_at = now
    token = secrets.token_urlsafe(32)
    idle = now + timedelta(seconds=issuer.refresh_idle_seconds)
    session.add(
        RefreshToken(
            token_hash=_hash(token),
            grant=grant,
            created_at=now,
            expires_at=min(idle, grant.expires_at),
        )
    )
    return token


def find_by_access_token(session: Session, jti: UUID) -> TokenGrant | None:
    """Return the grant that an access token came out of; None for any other token."""
    return session.scalars(
        select(TokenGrant).join(AccessToken).where(AccessToken.jti == jti)
    ).one_or_none()


def revoke(
    session: Session, grant: TokenGrant, reason: str, *, now: datetime
) -> list[Spent]:
    """End one grant and return its access tokens that still live.

    Safe to run twice: the first time and reason stay.
    """
    return _revoke_where(session, TokenGrant.id == grant.id, reason=reason, now=now)


def revoke_refresh_token(
    session: Session, token: str, *, client_id: str, now: datetime
) -> list[Spent]:
    """End the grant that a refresh token belongs to; an unknown token is no failure.

    :raises GrantRefused: the token belongs to another client.
    """
    row = session.get(RefreshToken, _hash(token))
    if row is None:
        return []
    if row.grant.client_id != client_id:
        raise GrantRefused("The token was issued to another client.")
    return revoke(session, row.grant, "revoked by the client", now=now)


def revoke_session(
    session: Session,
    sid: str,
    reason: str,
    *,
    account_id: UUID | None = None,
    now: datetime,
) -> list[Spent]:
    """End every grant given in one sign-in session; return access tokens that live.

    The clients of the session are told, and an event says that it is over.

    :param account_id: whose session it is; only what has grants is found without.
    """
    whose = account_id or session.scalar(
        select(TokenGrant.account_id).filter_by(sid=sid).limit(1)
    )
    if whose is not None:
        logouts.session_ended(
            session, sid=sid, account_id=whose, reason=reason, now=now
        )
    return _revoke_where(session, TokenGrant.sid == sid, reason=reason, now=now)


def session_has_grants(session: Session, sid: str, *, now: datetime) -> bool:
    """Say whether a grant of this sign-in session still lives."""
    living = select(TokenGrant.id).filter_by(sid=sid, revoked_at=None)
    return bool(
        session.scalar(exists(living.where(TokenGrant.expires_at > now)).select())
    )


def revoke_account(
    session: Session,
    account_id: UUID,
    reason: str,
    *,
    sids: Iterable[str] = (),
    now: datetime,
) -> list[Spent]:
    """End every grant of one account; return access tokens that still live.

    The clients of its sessions are told, and an event for each says that it is over.

    :param sids: sessions that exist; those with a living grant are found without.
    """
    logouts.sessions_ended(
        session, account_id=account_id, reason=reason, sids=sids, now=now
    )
    spent = _revoke_where(
        session, TokenGrant.account_id == account_id, reason=reason, now=now
    )
    return [*spent, *api_keys.live_tokens(session, account_id, now=now)]


def revoke_client(
    session: Session, client_id: str, reason: str, *, now: datetime
) -> list[Spent]:
    """End everything that was granted to a client; return access tokens that live."""
    return _revoke_where(
        session, TokenGrant.client_id == client_id, reason=reason, now=now
    )


def cut_off(
    session: Session, account: Account, changed: Iterable[str], *, now: datetime
) -> list[Spent]:
    """Return the access tokens that a change of the account makes wrong.

    Disabling ends every grant; other roles only make tokens say too much or too little,
    so the next refresh puts that right.

    :param changed: the names of what changed about the account.
    """
    if "disabled" in changed and account.disabled:
        return revoke_account(session, account.id, "account disabled", now=now)
    if "roles" in changed:
        return [
            *_live(session, TokenGrant.account_id == account.id, now=now),
            *api_keys.live_tokens(session, account.id, now=now),
        ]
    return []


def purge(session: Session, *, now: datetime) -> int:
    """Forget grants that ended so long ago that even a replay would say nothing.

    Codes and tokens go with them, and what was kept to refuse repeats. Safe to run at
    any time; returns how many went.
    """
    proofs.purge(session, now=now)
    pushed.purge(session, now=now)
    before = now - timedelta(days=7)
    unused = (
        select(AuthorizationCode.token_grant_id)
        .where(AuthorizationCode.used_at.is_(None))
        .where(AuthorizationCode.expires_at < before)
    )
    gone = session.execute(
        delete(TokenGrant)
        .where(
            or_(
                TokenGrant.expires_at < before,
                TokenGrant.revoked_at < before,
                TokenGrant.id.in_(unused),
            )
        )
        .returning(TokenGrant.id)
    )
    return len(gone.all())


def _replayed(
    session: Session, grant: TokenGrant, reason: str, *, now: datetime
) -> GrantReplayed:
    first = grant.revoked_at is None
    return GrantReplayed(grant, revoke(session, grant, reason, now=now), first=first)


def _revoke_where(
    session: Session,
    condition: ColumnElement[bool],
    *,
    reason: str,
    now: datetime,
) -> list[Spent]:
    session.flush()
    revoked = session.scalars(
        update(TokenGrant)
        .where(condition, TokenGrant.revoked_at.is_(None))
        .values(revoked_at=now, revoked_reason=reason)
        .returning(TokenGrant.id)
    ).all()
    return [
        *_live(session, condition, now=now),
        # Of tokens that another request is making at this moment there is no row yet.
        *(Spent(None, now, gid=grant_id) for grant_id in revoked),
    ]


def _live(
    session: Session, condition: ColumnElement[bool], *, now: datetime
) -> list[Spent]:
    rows = session.execute(
        select(AccessToken.jti, AccessToken.expires_at)
        .join(TokenGrant)
        .where(condition, AccessToken.expires_at > now)
    )
    return [Spent(jti, expires_at) for jti, expires_at in rows]


def _hash(secret: str) -> bytes:
    # A fast hash is right: codes and refresh tokens are 256 random bits.
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
