"""Who is asking: access tokens checked against auth's public keys (RFC 9068)."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, cast

import jwt as pyjwt
import redis
import structlog
from flask import Flask, Response, current_app, g, request
from flask_jwt_extended import JWTManager, get_jwt, verify_jwt_in_request
from flask_jwt_extended.exceptions import JWTExtendedException
from structlog.contextvars import bind_contextvars

from .errors import Failure, Forbidden, Unauthenticated, Unavailable

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")
Jwks = dict[str, Any]

AUDIENCE = "flagon-api"
_COMPACT = re.compile(r"\A[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_LONGEST_TOKEN = 8192


class TokenMissing(Unauthenticated):
    """The request needs an access token."""


class TokenInvalid(Unauthenticated):
    """The access token is not valid."""


class ScopeMissing(Forbidden):
    """The access token does not allow this."""


class KeysUnavailable(Unavailable):
    """The keys that prove access tokens cannot be fetched."""


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
    token: str
    """The token itself, to be passed on to another service."""
    expires_at: int
    """Seconds since the epoch."""
    claims: dict[str, Any]


class KeyRing:
    """Auth's public keys, fetched rarely and kept while auth is away.

    Fresh for five minutes, then refreshed in the background by one thread; used for a
    day when auth does not answer. An unknown key id causes at most one fetch in thirty
    seconds, so forged ids cost nothing.

    :param fetch: returns a JWK set (RFC 7517); raises when auth does not answer.
    """

    soft_seconds = 300.0
    hard_seconds = 86_400.0
    unknown_seconds = 30.0

    def __init__(
        self, fetch: Callable[[], Jwks], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, pyjwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._busy = threading.Lock()

    def find(self, kid: str) -> pyjwt.PyJWK:
        """Return the key with this id.

        :raises KeysUnavailable: no key was ever fetched, or too long ago.
        :raises jwt.InvalidTokenError: auth has no such key.
        """
        now = self._clock()
        if now - self._fetched_at > self.hard_seconds:
            # Without any key nothing works, so try more often, but not at every request.
            if now - self._tried_at > 1:
                self._refresh()
            if self._clock() - self._fetched_at > self.hard_seconds:
                raise KeysUnavailable(
                    "Try again in a few seconds.", retry_after_seconds=2
                )
        elif kid not in self._keys and now - self._tried_at > self.unknown_seconds:
            self._refresh()
        elif now - max(self._fetched_at, self._tried_at) > self.soft_seconds:
            threading.Thread(target=self._refresh, daemon=True).start()
        if kid not in self._keys:
            raise pyjwt.InvalidTokenError("unknown key")
        return self._keys[kid]

    def _refresh(self) -> None:
        # Who comes while another fetches waits for that fetch and does none of its own.
        before = self._tried_at
        with self._busy:
            if self._tried_at != before:
                return
            try:
                self._keys = _usable(self._fetch())
                self._fetched_at = self._clock()
            except Exception as error:  # noqa: BLE001 (stale keys serve, whatever failed)
                log.warning("jwks_fetch_failed", error=repr(error))
            self._tried_at = self._clock()


def _usable(jwks: Jwks) -> dict[str, pyjwt.PyJWK]:
    """Return the signature keys by id; unsuitable ones are left out."""
    found: dict[str, pyjwt.PyJWK] = {}
    for jwk in jwks["keys"]:
        try:
            key = pyjwt.PyJWK(jwk)
        except pyjwt.PyJWTError:
            continue
        if jwk.get("use", "sig") == "sig" and jwk.get("alg") == "ES256":
            found[str(jwk["kid"])] = key
    if not found:
        raise ValueError("the key set has no usable key")
    return found


def _http_fetch(url: str) -> Callable[[], Jwks]:
    def fetch() -> Jwks:
        import httpx2  # noqa: PLC0415 (slow to import, and needed once per process)

        answer = httpx2.get(url, timeout=2.0)
        answer.raise_for_status()
        return cast("Jwks", answer.json())

    return fetch


def init_app(
    app: Flask,
    *,
    issuer: str,
    jwks: str | Callable[[], Jwks],
    redis_url: str | None = None,
) -> None:
    """Let the app check access tokens.

    :param issuer: the only issuer whose tokens count.
    :param jwks: where the public keys are: a URL, or a function in auth itself.
    :param redis_url: the store that holds the denylist; None: nothing is revoked early.
    """
    # ES256 alone: the library's default, HS256, would let a public key sign tokens.
    app.config["JWT_ALGORITHM"] = "ES256"
    app.config["JWT_DECODE_ALGORITHMS"] = ["ES256"]
    app.config["JWT_DECODE_AUDIENCE"] = AUDIENCE
    app.config["JWT_DECODE_ISSUER"] = issuer
    app.config["JWT_DECODE_LEEWAY"] = 5
    app.config["JWT_TOKEN_LOCATION"] = ["headers"]
    manager = JWTManager(app)
    ring = KeyRing(_http_fetch(jwks) if isinstance(jwks, str) else jwks)
    app.extensions["flagon.keys"] = ring
    app.extensions["flagon.denylist"] = (
        redis.Redis.from_url(
            redis_url,
            # A request must not wait for a dead Redis: one try, then the route's policy.
            retry=None,
            socket_timeout=0.5,
            socket_connect_timeout=0.5,
        )
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
        if not isinstance(kid, str):
            raise pyjwt.InvalidTokenError("no key id")
        return ring.find(kid)

    @manager.token_verification_loader
    def complete(_header: dict[str, Any], claims: dict[str, Any]) -> bool:
        # The library accepts a token that never expires, and sets a missing id to None;
        # RFC 9068 section 2.2 requires all of these.
        required = ("exp", "iat", "jti", "client_id", "sub")
        return all(claims.get(name) is not None for name in required)

    @manager.token_in_blocklist_loader
    def revoked(_header: dict[str, Any], claims: dict[str, Any]) -> bool:
        return _revoked(app, claims)

    manager.expired_token_loader(lambda _h, _c: _challenge("The token has expired."))
    manager.invalid_token_loader(lambda _m: _challenge("The token is malformed."))
    manager.revoked_token_loader(lambda _h, _c: _challenge("The token was revoked."))
    manager.token_verification_failed_loader(
        lambda _h, _c: _challenge("The token lacks a required claim.")
    )
    manager.unauthorized_loader(lambda _m: _missing())


def _revoked(app: Flask, claims: dict[str, Any]) -> bool:
    denylist: redis.Redis | None = app.extensions["flagon.denylist"]
    if denylist is None:
        return False
    names = [
        f"denylist:{kind}:{claims[kind]}"
        for kind in ("jti", "sid", "sub")
        if claims.get(kind)
    ]
    try:
        marks = cast("list[bytes | None]", denylist.mget(names))
    except redis.RedisError as error:
        if g.flagon_when_redis_down == "refuse":
            raise RevocationUnknown(
                "Changes wait until the session store answers again.",
                retry_after_seconds=2,
            ) from error
        log.warning("denylist_unreachable", error=type(error).__name__)
        return False
    found = dict(zip((name.split(":")[1] for name in names), marks, strict=True))
    since = found.pop("sub", None)
    # An account's mark is a time: what was issued after it is a new sign-in.
    return any(found.values()) or (
        since is not None and int(claims["iat"]) <= int(since)
    )


def _challenge(detail: str) -> Response:
    from .problems import from_failure  # noqa: PLC0415 (problems import logs alone)

    response = from_failure(TokenInvalid(detail))
    response.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return response


def _missing() -> Response:
    from .problems import from_failure  # noqa: PLC0415

    response = from_failure(
        TokenMissing("Send `Authorization: Bearer <access token>`.")
    )
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


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
            _verify(when_redis_down)
            lacking = [scope for scope in scopes if scope not in caller().scopes]
            if lacking:
                raise ScopeMissing(
                    f"The scope {' '.join(lacking)} is needed.", scopes=lacking
                )
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
    try:
        return caller_if_any()
    except (Failure, pyjwt.PyJWTError, JWTExtendedException):
        return None


def _verify(when_redis_down: Literal["allow", "refuse"] | None) -> None:
    policy = when_redis_down or (
        "allow" if request.method in {"GET", "HEAD", "OPTIONS"} else "refuse"
    )
    g.flagon_when_redis_down = policy
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (
        len(token) > _LONGEST_TOKEN or not _COMPACT.match(token)
    ):
        raise pyjwt.InvalidTokenError("not a compact JWS")
    verify_jwt_in_request()
    claims = get_jwt()
    g.flagon_caller = Caller(
        sub=str(claims["sub"]),
        scopes=frozenset(str(claims.get("scope", "")).split()),
        roles=frozenset(claims.get("roles") or ()),
        client_id=str(claims["client_id"]),
        sid=claims.get("sid"),
        token=token,
        expires_at=int(claims["exp"]),
        claims=claims,
    )
    bind_contextvars(sub=g.flagon_caller.sub)


def caller() -> Caller:
    """Return who is asking; only inside a view that `requires` guards."""
    return cast("Caller", g.flagon_caller)


def caller_if_any() -> Caller | None:
    """Return who is asking on a route that also serves strangers, None for a stranger.

    A token that is sent must be valid: a bad one is a 401, never a stranger.
    """
    if "Authorization" not in request.headers:
        return None
    if "flagon_caller" not in g:
        _verify(None)
    return caller()
