"""Who is asking: access tokens checked against auth's public keys (RFC 9068)."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, cast

import jwt as pyjwt
import redis
import structlog
from flask import Flask, current_app, g, request
from flask_jwt_extended import JWTManager, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from structlog.contextvars import bind_contextvars

from . import dpop, health, shared
from .denylist import PREFIX, Denylist
from .errors import Failure, Forbidden, Unauthenticated, Unavailable
from .keyring import ALGORITHM, Jwks, KeyRing, KeysUnavailable, fetch_from

__all__ = [
    "AUDIENCE",
    "Caller",
    "KeyRing",
    "KeysUnavailable",
    "RevocationUnknown",
    "ScopeMissing",
    "TokenInvalid",
    "TokenMissing",
    "caller",
    "caller_if_any",
    "caller_if_proven",
    "init_app",
    "open_route",
    "requires",
]

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")
AUDIENCE = "flagon-api"
_COMPACT = re.compile(r"\A[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_LONGEST_TOKEN = 8192
_LEEWAY_SECONDS = 5
_MOST_REMEMBERED = 2_000
"""About 3 KB each."""
# What can be revoked: a token, the grant or the session that it came from, an account.
_MARKED = ("jti", "gid", "sid", "sub")
# All that decoding hostile input raises.
_UNREADABLE = (
    *(pyjwt.PyJWTError, JWTExtendedException),
    *(ValueError, TypeError, OverflowError, RecursionError),
)
# RFC 7515 section 4.1: these say where a key is, or change what is signed. Our tokens
# have none of them, and a verifier that looks at one can be led by the attacker.
_STEERING = frozenset({"crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "enc"})


def _challenge(scheme: str, error: str, description: str, **more: str) -> str:
    """Return the `WWW-Authenticate` header of RFC 6750 section 3 (RFC 9449: 7.1)."""
    words = {"realm": AUDIENCE, "error": error, "error_description": description}
    return f"{scheme} " + ", ".join(f'{k}="{v}"' for k, v in {**words, **more}.items())


class TokenMissing(Unauthenticated):
    """The request needs an access token."""


class TokenInvalid(Unauthenticated):
    """The access token is not valid."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.challenge = _challenge("Bearer", "invalid_token", detail)


class TokenUnproven(Unauthenticated):
    """The access token is bound to a key that the request does not prove to hold."""

    def __init__(self, detail: str, error: str = "invalid_token") -> None:
        super().__init__(detail)
        algs = " ".join(dpop.ALGORITHMS)
        self.challenge = _challenge("DPoP", error, detail, algs=algs)


class ScopeMissing(Forbidden):
    """The access token does not allow this."""

    def __init__(self, scopes: tuple[str, ...], lacking: list[str]) -> None:
        detail = f"The scope {' '.join(lacking)} is needed."
        super().__init__(detail, scopes=lacking)
        self.challenge = _challenge(
            "Bearer", "insufficient_scope", detail, scope=" ".join(scopes)
        )


class RevocationUnknown(Unavailable):
    """Whether the access token was revoked cannot be told right now."""


@dataclass(frozen=True)
class Caller:
    """The account or service that a valid access token speaks for."""

    sub: str
    """The account's id, or the client's for a service."""
    scopes: frozenset[str]
    roles: frozenset[str]
    client_id: str
    sid: str | None
    """The session the token belongs to; None for a service."""
    gid: str | None
    """What the person granted, from which the token came; None for a service."""
    kid: str
    """The key that signed the token."""
    token: str
    """The token itself, to be passed on to another service."""
    expires_at: int
    """Seconds since the epoch."""
    claims: dict[str, Any]


@dataclass(frozen=True)
class _Proof:
    """A token whose signature and claims were found good."""

    caller: Caller
    key: pyjwt.PyJWK
    marks: dict[str, str]
    """The names in the denylist that would end it, with their kind (`jti`, `sid`, …)."""


class _Memory:
    """Tokens that were checked not long ago, by digest: a signature is checked once.

    What can change is checked each time: expiry, the key, the denylist.
    """

    def __init__(self) -> None:
        self._proofs: OrderedDict[bytes, _Proof] = OrderedDict()

    def get(self, token: str) -> _Proof | None:
        """Return what is known of this token, to the last character."""
        return self._proofs.get(_digest(token))

    def put(self, token: str, proof: _Proof) -> None:
        """Remember a token; the oldest is forgotten for it."""
        self._proofs[_digest(token)] = proof
        if len(self._proofs) > _MOST_REMEMBERED:
            self._proofs.popitem(last=False)


def _digest(token: str) -> bytes:
    # Not the token itself: a dump of the memory must hold nothing that opens doors.
    return hashlib.sha256(token.encode()).digest()


def init_app(
    app: Flask,
    *,
    issuer: str,
    jwks: str | Callable[[], Jwks],
    redis_url: str | None = None,
    remember_marks: bool = True,
    all_need_tokens: bool = False,
) -> None:
    """Let the app check access tokens.

    :param issuer: the only issuer whose tokens count.
    :param jwks: where the public keys are: a URL, or a function in auth itself.
    :param redis_url: the store that holds the denylist; None: nothing is revoked early.
    :param remember_marks: False for who revokes and must see it at the next request.
    :param all_need_tokens: whether the service is of no use before it has auth's keys, and
        so not ready; once it has them, auth may go away for a day.
    """
    # ES256 alone: the library's default, HS256, would let a public key sign tokens.
    app.config["JWT_ALGORITHM"] = ALGORITHM
    app.config["JWT_DECODE_ALGORITHMS"] = [ALGORITHM]
    app.config["JWT_DECODE_AUDIENCE"] = AUDIENCE
    app.config["JWT_DECODE_ISSUER"] = issuer
    app.config["JWT_DECODE_LEEWAY"] = _LEEWAY_SECONDS
    manager = JWTManager(app)
    fetch = fetch_from(jwks) if isinstance(jwks, str) else jwks
    ring = KeyRing(fetch, common=shared.jwks)
    app.extensions["flagon.keys"] = ring
    if isinstance(jwks, str):
        health.check(app, "keys", ring.check, required=all_need_tokens)
    app.extensions["flagon.proofs"] = _Memory()
    app.extensions["flagon.denylist"] = (
        Denylist(redis_url, keys_changed=ring.refetch, remember=remember_marks)
        if redis_url
        else None
    )

    @manager.decode_key_loader
    def key_of(header: dict[str, Any], _claims: dict[str, Any]) -> pyjwt.PyJWK:
        # This runs before the signature is checked: everything in it is hostile.
        kind, kid = header.get("typ"), header.get("kid")
        if not isinstance(kind, str) or kind.lower() not in {
            "at+jwt",
            "application/at+jwt",
        }:
            raise pyjwt.InvalidTokenError("not an access token")
        if not isinstance(kid, str) or not _STEERING.isdisjoint(header):
            raise pyjwt.InvalidTokenError("no key id, or a header that steers")
        g.flagon_kid = kid
        return ring.find(kid)


def _sent_token() -> tuple[str, str]:
    """Return the scheme and the token of the request; nothing is known of it yet.

    :raises TokenMissing: there is none.
    """
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() not in {"bearer", "dpop"}:
        raise TokenMissing("Send `Authorization: Bearer <access token>`.")
    return scheme.lower(), token.strip()


def _check_possession(scheme: str, caller: Caller) -> None:
    """See to it that a token that is bound to a key comes with a proof (RFC 9449).

    :raises TokenUnproven: it does not, or the proof was used before.
    """
    jkt = caller.claims.get("cnf", {}).get("jkt")
    if scheme == "bearer" and jkt is None:
        return
    if scheme == "bearer" or jkt is None:
        raise TokenUnproven("A token goes by DPoP exactly if it is bound to a key.")
    try:
        proof = dpop.check(
            request.headers.get("DPoP", ""),
            method=request.method,
            # Not the host that the request names: a proof that a client made for
            # another server would fit there.
            url=current_app.config["JWT_DECODE_ISSUER"] + request.path,
            access_token=caller.token,
            now=time.time(),
        )
    except dpop.ProofInvalid as error:
        raise TokenUnproven(error.detail, "invalid_dpop_proof") from error
    if proof.jkt != jkt:
        raise TokenUnproven("The proof is signed by another key.")
    denylist: Denylist | None = current_app.extensions["flagon.denylist"]
    if denylist is None:
        return
    try:
        first = denylist.claim(
            f"{current_app.name}:dpop:{proof.digest}", dpop.REMEMBERED_SECONDS
        )
    except redis.RedisError as error:
        log.warning("proofs_unreachable", error=type(error).__name__)
        g.flagon_revocation_unknown = True
        return
    if not first:
        raise TokenUnproven("The proof was used before.", "invalid_dpop_proof")


def _prove(token: str) -> _Proof:
    """Return what a token proves; not whether it was revoked.

    :raises TokenInvalid: nothing.
    :raises KeysUnavailable: nobody can tell.
    """
    if len(token) > _LONGEST_TOKEN:
        raise TokenInvalid("The token is too long.")
    ring: KeyRing = current_app.extensions["flagon.keys"]
    memory: _Memory = current_app.extensions["flagon.proofs"]
    known = memory.get(token)
    try:
        if (
            known is not None
            and ring.find(known.caller.kid) is known.key
            and time.time() < known.caller.expires_at
        ):
            return known
        if not _COMPACT.match(token):
            raise pyjwt.InvalidTokenError("not a compact JWS")
        claims = decode_token(token)
    except pyjwt.ExpiredSignatureError as error:
        raise TokenInvalid("The token has expired.") from error
    except _UNREADABLE as error:
        raise TokenInvalid("The token is malformed.") from error
    if not _complete(claims):
        raise TokenInvalid("The token lacks a required claim.")
    kid = cast("str", g.flagon_kid)
    marks = {kind: claims[kind] for kind in _MARKED if claims.get(kind)}
    proof = _Proof(
        caller=Caller(
            sub=claims["sub"],
            scopes=frozenset(claims.get("scope", "").split()),
            roles=frozenset(claims.get("roles", ())),
            client_id=claims["client_id"],
            sid=claims.get("sid"),
            gid=claims.get("gid"),
            kid=kid,
            token=token,
            expires_at=claims["exp"],
            claims=claims,
        ),
        key=ring.find(kid),
        marks={
            f"{PREFIX}{kind}:{value}": kind
            for kind, value in {**marks, "kid": kid}.items()
        },
    )
    memory.put(token, proof)
    return proof


def _complete(claims: dict[str, Any]) -> bool:
    """Say whether all is there that RFC 9068 section 2.2 requires, in the right form.

    The library accepts a token that never expires, and sets a missing id to None.
    """
    roles = claims.get("roles", [])
    return (
        all(isinstance(claims.get(name), str) for name in ("sub", "client_id", "jti"))
        and all(type(claims.get(name)) is int for name in ("exp", "iat"))
        and all(isinstance(claims.get(name, ""), str) for name in ("scope", "gid"))
        and isinstance(claims.get("sid"), str | None)
        # Bound to a key in another way than we can check: better not at all.
        and _binding_known(claims.get("cnf", {}))
        and isinstance(roles, list)
        and all(isinstance(role, str) for role in roles)
    )


def _binding_known(confirmation: object) -> bool:
    return isinstance(confirmation, dict) and all(
        name == "jkt" and isinstance(value, str) for name, value in confirmation.items()
    )


def _revoked(proof: _Proof) -> bool:
    """Say whether auth has revoked it; leaves a note when nobody can tell."""
    denylist: Denylist | None = current_app.extensions["flagon.denylist"]
    if denylist is None:
        return False
    try:
        found = denylist.marks(list(proof.marks))
    except redis.RedisError as error:
        log.warning("denylist_unreachable", error=type(error).__name__)
        g.flagon_revocation_unknown = True
        return False
    for name, mark in found.items():
        # An account's mark is a time: what was issued after it is a new sign-in.
        if proof.marks[name] != "sub" or proof.caller.claims["iat"] <= int(mark):
            return True
    return False


def requires(
    *scopes: str, when_redis_down: Literal["allow", "refuse"] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only callers in whose token has every scope.

    Without a valid token the answer is a 401 problem, without a scope a 403.

    :param when_redis_down: what to do when nobody can tell whether the token was
        revoked; by default reading is allowed and changing refused.
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            allowed = _verify(when_redis_down).scopes
            lacking = [scope for scope in scopes if scope not in allowed]
            if lacking:
                raise ScopeMissing(scopes, lacking)
            return cast("R", current_app.ensure_sync(view)(*args, **kwargs))

        guarded.__dict__["flagon_scopes"] = scopes
        return guarded

    return decorate


def open_route(view: Callable[P, R]) -> Callable[P, R]:
    """Mark a view that anyone may call; a test refuses views with neither mark."""
    view.__dict__["flagon_open"] = True
    return view


def caller_if_proven() -> Caller | None:
    """Return who is asking if a valid token says so, else None; never raises."""
    if "flagon.keys" not in current_app.extensions:
        return None
    if "Authorization" not in request.headers:
        return None
    try:
        return _check()
    except Failure:
        return None


def _check() -> Caller:
    """Return who is asking, after one check for the whole request.

    :raises Unauthenticated: no token, or one that is not valid.
    :raises KeysUnavailable: nobody can tell.
    """
    if "flagon_caller" in g:
        return cast("Caller", g.flagon_caller)
    if "flagon_refusal" in g:
        raise g.flagon_refusal
    try:
        scheme, token = _sent_token()
        proof = _prove(token)
        if _revoked(proof):
            raise TokenInvalid("The token was revoked.")
        _check_possession(scheme, proof.caller)
    except Failure as refusal:
        g.flagon_refusal = refusal
        raise
    g.flagon_caller = proof.caller
    bind_contextvars(sub=proof.caller.sub, client_id=proof.caller.client_id)
    return proof.caller


def _verify(when_redis_down: Literal["allow", "refuse"] | None) -> Caller:
    who = _check()
    if "flagon_revocation_unknown" in g:
        policy = when_redis_down or (
            "allow" if request.method in {"GET", "HEAD", "OPTIONS"} else "refuse"
        )
        if policy == "refuse":
            raise RevocationUnknown(
                "Changes wait until the session store answers again.",
                retry_after_seconds=2,
            )
    return who


def caller() -> Caller:
    """Return who is asking; only inside a view that `requires` guards."""
    return cast("Caller", g.flagon_caller)


def caller_if_any(
    *, when_redis_down: Literal["allow", "refuse"] | None = None
) -> Caller | None:
    """Return who is asking on a route that also serves strangers, None for a stranger.

    A token that is sent must be valid: a bad one is a 401, never a stranger.

    :param when_redis_down: as for `requires`.
    """
    if "Authorization" not in request.headers:
        return None
    return _verify(when_redis_down)
