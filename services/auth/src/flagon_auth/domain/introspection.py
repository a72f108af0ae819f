"""What a token is worth at this moment, as far as the database knows (RFC 7662)."""

import hashlib
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from flagon_auth.models import AccessToken, Client, RefreshToken, TokenGrant

from . import accounts, tokens
from .tokens import Issuer


def describe(
    session: Session, issuer: Issuer, token: str, *, now: datetime
) -> dict[str, Any] | None:
    """Return the members of an introspection answer, None for a token that is dead.

    Whether an access token is on the denylist is for the caller to look up.
    """
    try:
        claims = tokens.read_access_claims(session, issuer, token)
    except tokens.TokenUnreadable:
        return _refresh_token(session, issuer, token, now=now)
    alive = claims["exp"] > now.timestamp() and _in_use(session, claims)
    if not alive:
        return None
    kind = "DPoP" if "cnf" in claims else "Bearer"
    return {**claims, "token_type": kind}


def _in_use(session: Session, claims: dict[str, Any]) -> bool:
    if claims["sub"] == claims["client_id"]:
        return _client_enabled(session, claims["client_id"])
    # What was issued to a person is kept until it expires, unless they are gone.
    row = session.get(AccessToken, UUID(claims["jti"]))
    if row is None:
        return False
    if row.token_grant_id is None:
        # Of an API key, which ends its tokens through the denylist.
        account_id = UUID(claims["sub"])
        return accounts.find_account_if_enabled(session, account_id) is not None
    grant = session.get(TokenGrant, row.token_grant_id)
    return grant is not None and _grant_lives(session, grant)


def _refresh_token(
    session: Session, issuer: Issuer, token: str, *, now: datetime
) -> dict[str, Any] | None:
    digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
    row = session.get(RefreshToken, digest)
    if row is None or row.used_at is not None:
        return None
    ends = min(row.expires_at, row.grant.expires_at)
    if ends <= now or not _grant_lives(session, row.grant):
        return None
    return {
        "iss": issuer.url,
        "sub": str(row.grant.account_id),
        "client_id": row.grant.client_id,
        "scope": row.grant.scope,
        "sid": row.grant.sid,
        "iat": int(row.created_at.timestamp()),
        "exp": int(ends.timestamp()),
        **({"cnf": {"jkt": row.grant.dpop_jkt}} if row.grant.dpop_jkt else {}),
    }


def _grant_lives(session: Session, grant: TokenGrant) -> bool:
    account = accounts.find_account_if_enabled(session, grant.account_id)
    return (
        grant.revoked_at is None
        and account is not None
        and _client_enabled(session, grant.client_id)
    )


def _client_enabled(session: Session, client_id: str) -> bool:
    client = session.get(Client, client_id)
    return client is not None and not client.disabled
