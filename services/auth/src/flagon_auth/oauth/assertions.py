"""Clients that prove who they are with a signed assertion (RFC 7523, private_key_jwt)."""

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from joserfc import jws
from joserfc.errors import JoseError

from flagon_auth.domain import clients, proofs
from flagon_auth.models import Client

if TYPE_CHECKING:
    from .requests import OAuthRequest

LIFE_SECONDS_MAX = 3600
"""How far away the end of an assertion may be.

A minute would do, and some libraries make them an hour long. Each works once, and until
its end we remember that it was used.
"""
_LEEWAY_SECONDS = 10


def subject(assertion: str) -> str:
    """Return the client that an assertion, not checked yet, claims to be; "" if none."""
    try:
        body = assertion.split(".")[1]
        claims = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        name = claims["sub"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def proves(request: "OAuthRequest", client: Client, assertion: str) -> bool:
    """Say whether the client signed this for us, just now and for the first time."""
    if client.jwks is None:
        return False
    claims = _signed_claims(client.jwks, assertion)
    if claims is None or not _fits(claims, client, request):
        return False
    # Whole seconds: an end in fractions of one must not be forgotten too early.
    ends = datetime.fromtimestamp(int(claims["exp"]) + _LEEWAY_SECONDS + 1, tz=UTC)
    return proofs.use_once(
        request.session, "assertion", client.id, claims["jti"], until=ends
    )


def _signed_claims(jwks: dict[str, Any], assertion: str) -> dict[str, Any] | None:
    keys = clients.assertion_keys(jwks)
    try:
        header = jws.extract_compact(assertion.encode()).headers()
        kid, alg = header.get("kid"), header.get("alg")
        if alg not in clients.ASSERTION_ALGS or "crit" in header:
            return None
        # A key without an id is the client's only one.
        known = [keys.get(kid, keys.get("", []))] if kid else keys.values()
        for key, fits in chain.from_iterable(known):
            if fits == alg and (claims := _verified(assertion, key, alg)) is not None:
                return claims
    except (JoseError, ValueError, TypeError, RecursionError):
        pass
    return None


def _verified(assertion: str, key: Any, alg: str) -> dict[str, Any] | None:  # noqa: ANN401
    try:
        claims = json.loads(jws.deserialize_compact(assertion, key, [alg]).payload)
    except (JoseError, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def _fits(claims: dict[str, Any], client: Client, request: "OAuthRequest") -> bool:
    now, jti = request.now.timestamp(), claims.get("jti")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    return (
        claims.get("iss") == claims.get("sub") == client.id
        # Somebody else's name beside ours: it could be used there, or came from there.
        and bool(named)
        and all(isinstance(name, str) and name in request.audiences for name in named)
        and isinstance(jti, str)
        and bool(jti)
        and _between(claims.get("exp"), now - _LEEWAY_SECONDS, now + LIFE_SECONDS_MAX)
        and _between(claims.get("nbf", 0), 0, now + _LEEWAY_SECONDS)
        and _between(claims.get("iat", 0), 0, now + _LEEWAY_SECONDS)
    )


def _between(time: object, earliest: float, latest: float) -> bool:
    return isinstance(time, int | float) and earliest <= time <= latest
