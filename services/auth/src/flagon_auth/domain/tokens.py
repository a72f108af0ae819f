"""Tokens: what is signed, for how long, and what can be read back out of it."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from joserfc import jws, jwt
from joserfc.errors import JoseError
from sqlalchemy import delete
from sqlalchemy.orm import Session

from flagon_auth.models import AccessToken, Account, TokenGrant
from flagon_chassis.errors import Invalid

from . import keys

AUDIENCE = "flagon-api"


CLAIM_SCOPES = {
    "name": "profile",
    "locale": "profile",
    "updated_at": "profile",
    "email": "email",
    "email_verified": "email",
}
"""What we know about a person, by the scope that brings it (OpenID Connect 5.4)."""


class TokenUnreadable(Invalid):
    """This is not a token that we made."""


@dataclass(frozen=True)
class Issuer:
    """Who signs, with what, and for how long things last."""

    url: str
    sealer: keys.Sealer
    code_seconds: int = 60
    access_seconds: int = 300
    id_seconds: int = 300
    refresh_idle_seconds: int = 14 * 86_400
    refresh_absolute_seconds: int = 90 * 86_400
    session_absolute_seconds: int = 12 * 3600


def account_token(
    session: Session,
    issuer: Issuer,
    *,
    account: Account,
    grant: TokenGrant,
    scope: str,
    jkt: str | None = None,
    now: datetime,
) -> str:
    """Return an access token (RFC 9068) for what a person granted.

    Its id is kept with the grant until it expires, so that revoking reaches it.

    :param jkt: thumbprint of the key that it is bound to (RFC 9449).
    """
    jti = uuid4()
    ends = now + timedelta(seconds=issuer.access_seconds)
    session.execute(
        delete(AccessToken).where(
            AccessToken.token_grant_id == grant.id, AccessToken.expires_at < now
        )
    )
    session.add(AccessToken(jti=jti, token_grant_id=grant.id, expires_at=ends))
    return _sign_access_token(
        session,
        issuer,
        {
            "sub": str(account.id),
            "client_id": grant.client_id,
            "scope": scope,
            "roles": account.roles,
            "sid": grant.sid,
            "gid": str(grant.id),
            "auth_time": int(grant.auth_time.timestamp()),
            "acr": grant.acr,
            "amr": grant.amr,
            "jti": str(jti),
            **_bound_to(jkt),
        },
        now=now,
    )


def key_token(
    session: Session,
    issuer: Issuer,
    *,
    account: Account,
    key_id: UUID,
    sid: str,
    scope: str,
    now: datetime,
) -> str:
    """Return the access token that an API key is worth.

    :param sid: stands for the key: one mark in the denylist ends all of its tokens.
    """
    jti = uuid4()
    session.execute(
        delete(AccessToken).where(
            AccessToken.api_key_id == key_id, AccessToken.expires_at < now
        )
    )
    ends = now + timedelta(seconds=issuer.access_seconds)
    session.add(AccessToken(jti=jti, api_key_id=key_id, expires_at=ends))
    claims = {
        "sub": str(account.id),
        "client_id": "api-key",
        "scope": scope,
        "roles": account.roles,
        "sid": sid,
        "jti": str(jti),
    }
    return _sign_access_token(session, issuer, claims, now=now)


def client_token(
    session: Session,
    issuer: Issuer,
    *,
    client_id: str,
    scope: str,
    jkt: str | None = None,
    now: datetime,
) -> str:
    """Return an access token with which a client acts for itself.

    :param jkt: thumbprint of the key that it is bound to (RFC 9449).
    """
    claims = {
        "sub": client_id,
        "client_id": client_id,
        "scope": scope,
        "roles": [],
        "jti": str(uuid4()),
        **_bound_to(jkt),
    }
    return _sign_access_token(session, issuer, claims, now=now)


def _bound_to(jkt: str | None) -> dict[str, Any]:
    return {"cnf": {"jkt": jkt}} if jkt else {}


def _sign_access_token(
    session: Session, issuer: Issuer, claims: dict[str, Any], *, now: datetime
) -> str:
    kid, key = keys.signing_key(session, issuer.sealer, keys.ACCESS_ALG, now=now)
    issued_at = int(now.timestamp())
    times = {"iat": issued_at, "exp": issued_at + issuer.access_seconds}
    return jwt.encode(
        {"typ": "at+jwt", "alg": keys.ACCESS_ALG, "kid": kid},
        {"iss": issuer.url, "aud": AUDIENCE, **claims, **times},
        key,
        [keys.ACCESS_ALG],
    )


def id_token(
    session: Session,
    issuer: Issuer,
    *,
    account: Account,
    grant: TokenGrant,
    scope: str,
    access_token: str,
    alg: str = keys.ID_ALG,
    nonce: str | None = None,
    now: datetime,
) -> str:
    """Return an ID token (OpenID Connect Core section 2).

    :param alg: what the client is registered for.
    :param nonce: of the authorization request; absent when refreshing (12.2).
    """
    kid, key = keys.signing_key(session, issuer.sealer, alg, now=now)
    issued_at = int(now.timestamp())
    half = hashlib.sha256(access_token.encode()).digest()[:16]
    claims = {
        "iss": issuer.url,
        "aud": grant.client_id,
        "iat": issued_at,
        "exp": issued_at + issuer.id_seconds,
        "auth_time": int(grant.auth_time.timestamp()),
        "acr": grant.acr,
        "amr": grant.amr,
        "sid": grant.sid,
        "at_hash": urlsafe_b64encode(half).rstrip(b"=").decode(),
        **person_claims(account, scope, (grant.claims or {}).get("id_token", ())),
        **({"nonce": nonce} if nonce else {}),
    }
    return jwt.encode({"alg": alg, "kid": kid}, claims, key, [alg])


def person_claims(
    account: Account, scope: str, names: Iterable[str] = ()
) -> dict[str, Any]:
    """Return what a client may know about the person.

    :param scope: brings the claims of each scope (OpenID Connect Core 5.4).
    :param names: single claims that were granted in addition (5.5).
    """
    known = {
        "name": account.name,
        "locale": account.locale,
        "updated_at": int(account.updated_at.timestamp()),
        "email": account.email,
        "email_verified": account.email_verified_at is not None,
    }
    scopes, named = scope.split(), set(names)
    told = {
        name: value
        for name, value in known.items()
        # What we do not know is left out rather than null (5.3.2).
        if value is not None and (CLAIM_SCOPES[name] in scopes or name in named)
    }
    return {"sub": str(account.id), **told}


@dataclass(frozen=True)
class Hint:
    """What an ID token that came back says, whether or not it has expired."""

    sub: str
    client_id: str
    sid: str | None


def read_hint(session: Session, issuer: Issuer, token: str) -> Hint:
    """Return what one of our ID tokens says; an expired one is as good.

    :raises TokenUnreadable: we did not sign it, or it is no ID token.
    """
    header, claims = _decode(session, issuer, token, *keys.ALGS)
    if header.get("typ", "JWT") != "JWT" or not isinstance(claims.get("aud"), str):
        raise TokenUnreadable("This is not an ID token.")
    return Hint(sub=claims["sub"], client_id=claims["aud"], sid=claims.get("sid"))


@dataclass(frozen=True)
class Spent:
    """One access token that must not work any more, or all of a grant."""

    jti: UUID | None
    expires_at: datetime
    gid: UUID | None = None
    """The grant, if it was revoked: a twin that is being made right now is of it too."""


def read_access_token(
    session: Session, issuer: Issuer, token: str
) -> tuple[str, Spent]:
    """Return the client that one of our access tokens is for, and how to refuse it.

    :raises TokenUnreadable: we did not sign it, or it is no access token.
    """
    claims = read_access_claims(session, issuer, token)
    ends = datetime.fromtimestamp(claims["exp"], tz=UTC)
    return claims["client_id"], Spent(UUID(claims["jti"]), ends)


def read_access_claims(session: Session, issuer: Issuer, token: str) -> dict[str, Any]:
    """Return the claims of one of our access tokens, expired or not.

    :raises TokenUnreadable: we did not sign it, or it is no access token.
    """
    header, claims = _decode(session, issuer, token, keys.ACCESS_ALG)
    if header.get("typ") != "at+jwt":
        raise TokenUnreadable("This is not an access token.")
    return claims


def _decode(
    session: Session, issuer: Issuer, token: str, *algs: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        alg = jws.extract_compact(token.encode()).headers()["alg"]
        if alg not in algs:
            raise TokenUnreadable("We did not sign this.")
        found = jwt.decode(token, keys.verification_keys(session, alg), [alg])
    except (JoseError, ValueError, KeyError, RecursionError) as error:
        raise TokenUnreadable("We did not sign this.") from error
    if found.claims.get("iss") != issuer.url:
        raise TokenUnreadable("We did not sign this.")
    return dict(found.header), dict(found.claims)
