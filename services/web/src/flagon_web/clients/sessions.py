"""The session: a random cookie here, everything else in Redis.

One Redis hash per session, `web:session:<sha256 of the cookie>`, whose contents are
sealed with a key that only the cookie yields: a stolen copy of the store opens no session
and shows no token, not even with all our settings. Its fields are written by different
hands and must not overwrite each other: `data` by the request that changed the session,
`tokens` by whoever refreshed them. The whole hash has one lifetime.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from hmac import digest as hmac_digest
from typing import Any, cast

import redis
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask import Flask, Request, Response, request
from flask.sessions import SessionInterface, SessionMixin
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.datastructures import CallbackDict

from flagon_chassis import stores
from flagon_chassis.errors import Unavailable
from flagon_web.i18n import gettext as _

log = structlog.get_logger()

# Neither static files nor probes nor auth nor Alertmanager have anything to do with who asks.
_WITHOUT_SESSION = (
    "/static/",
    "/livez",
    "/readyz",
    "/metrics",
    "/_debug_toolbar/",
    "/backchannel-logout",
    "/internal/alerts",
)
_LONGEST_ID = 128
_REFRESH_SECONDS = 10.0
_NONCE_BYTES = 12


class SessionStoreDown(Unavailable):
    """Your session cannot be reached right now."""


class RefreshBusy(Unavailable):
    """Your session is being renewed; try again in a moment."""


@dataclass(frozen=True)
class Tokens:
    """What auth gave for one signed-in person; never leaves the store but for services."""

    access_token: str
    refresh_token: str
    id_token: str
    expires_at: float
    """Seconds since the epoch at which the access token ends."""


class Session(CallbackDict[str, Any], SessionMixin):
    """The session of one browser, as Flask shows it to views.

    Reading and writing work as with any Flask session. A person is signed in when it
    holds `sub`.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        *,
        sid: str | None = None,
        created_at: float = 0.0,
        down: bool = False,
    ) -> None:
        def changed(_self: object) -> None:
            self.modified = True

        super().__init__(data, changed)
        self.modified = False
        self.accessed = True
        self.new = sid is None
        self.sid = sid
        self.created_at = created_at
        self.down = down
        """The store did not answer: who this is cannot be told."""
        self.leaves: str | None = None
        """The id that this session had before it was rotated."""
        self.fresh_tokens: Tokens | None = None
        """Tokens to be stored together with the session."""

    def rotate(self) -> None:
        """Give the session a new id, so that one known before sign-in opens nothing."""
        self.leaves, self.sid = self.leaves or self.sid, None
        self.created_at = 0.0
        self.modified = True


def open_store(url: str) -> redis.Redis:
    """Return a client of the Redis that keeps what it is given, for pages."""
    # A page must not wait for a dead Redis: one try, then say so.
    return stores.client(
        url,
        decode_responses=True,
        retry=Retry(NoBackoff(), 1),
        socket_timeout=1.0,
        socket_connect_timeout=0.5,
    )


class Sessions:
    """The sessions in Redis, and the tokens that belong to them."""

    def __init__(
        self,
        url: str,
        *,
        idle_seconds: int,
        absolute_seconds: int,
        anonymous_seconds: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = open_store(url)
        self._idle = idle_seconds
        self._absolute = absolute_seconds
        self._anonymous = anonymous_seconds
        self._clock = clock

    def ping(self) -> None:
        """Raise when the store does not answer."""
        self._redis.ping()

    def load(self, sid: str) -> Session | None:
        """Return the session with this id and keep it alive; None when there is none.

        :raises redis.RedisError: the store does not answer.
        """
        key = _key(sid)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(key, "data")
            pipe.expire(key, self._idle)
            raw = pipe.execute()[0]
        stored = _opened(sid, "data", raw)
        if stored is None:
            return None
        age = self._clock() - stored["created_at"]
        data = stored["data"]
        if age >= (self._absolute if "sub" in data else self._anonymous):
            self._redis.delete(key)
            return None
        return Session(data, sid=sid, created_at=stored["created_at"])

    def save(self, session: Session) -> None:
        """Write a changed session; a session that ended meanwhile stays ended.

        :raises redis.RedisError: the store does not answer.
        """
        begins = session.sid is None
        if begins:
            session.sid = secrets.token_urlsafe(32)
            session.created_at = self._clock()
        sid = cast("str", session.sid)
        key = _key(sid)
        content = {"created_at": session.created_at, "data": dict(session)}
        fields = {"data": _sealed(sid, "data", content)}
        if "sub" in session:
            # For auth, which ends sessions without their cookie.
            fields["sub"] = session["sub"]
        if session.fresh_tokens:
            fields["tokens"] = _sealed(sid, "tokens", asdict(session.fresh_tokens))
        if begins:
            lifetime = self._idle if "sub" in session else self._anonymous
            with self._redis.pipeline() as pipe:
                pipe.hset(key, mapping=cast("Any", fields))
                pipe.expire(key, lifetime)
                for index in _indexes(session.get("provider_sid"), session.get("sub")):
                    ends = self._clock() + self._absolute
                    pipe.zadd(index, {key: ends})
                    pipe.zremrangebyscore(index, "-inf", self._clock())
                    pipe.expire(index, self._absolute)
                if session.leaves:
                    pipe.delete(_key(session.leaves))
                pipe.execute()
        else:
            self._write_if_alive(key, fields)

    def end(self, sid: str) -> None:
        """Forget a session and its tokens.

        :raises redis.RedisError: the store does not answer.
        """
        self._redis.delete(_key(sid))

    def end_at_provider(self, *, provider_sid: str | None, sub: str | None) -> int:
        """Forget the sessions that came out of one at auth; return how many there were.

        :param provider_sid: the session there; None: all that the person has here.
        :raises redis.RedisError: the store does not answer.
        """
        ended = 0
        for index in _indexes(provider_sid, None if provider_sid else sub):
            for key in cast("list[str]", self._redis.zrange(index, 0, -1)):
                # Who may end it says whose it is, if they say so.
                if sub in {None, self._redis.hget(key, "sub")}:
                    ended += self._redis.delete(key)
        return ended

    def first_use(self, jti: str, seconds: int) -> bool:
        """Say whether a logout token is seen for the first time.

        :param seconds: for how long it could come again and still be valid.
        :raises redis.RedisError: the store does not answer.
        """
        return bool(
            self._redis.set(f"web:logout:{_digest(jti)}", "1", ex=seconds, nx=True)
        )

    def tokens(self, sid: str) -> Tokens | None:
        """Return the tokens of a session; None when it has ended.

        :raises redis.RedisError: the store does not answer.
        """
        raw = cast("str | None", self._redis.hget(_key(sid), "tokens"))
        stored = _opened(sid, "tokens", raw)
        return Tokens(**stored) if stored else None

    def keep_tokens(self, sid: str, tokens: Tokens) -> None:
        """Replace the tokens of a session unless it ended meanwhile.

        :raises redis.RedisError: the store does not answer.
        """
        sealed = _sealed(sid, "tokens", asdict(tokens))
        self._write_if_alive(_key(sid), {"tokens": sealed})

    @contextmanager
    def alone(self, sid: str) -> Iterator[None]:
        """Let one process at a time refresh the tokens of a session.

        A refresh token works once; its second use looks like theft and would end the
        session everywhere.

        :raises RefreshBusy: another process takes longer than it should.
        """
        lock = self._redis.lock(
            f"web:refresh:{_digest(sid)}",
            # Dies with its holder; longer than the call to auth may take.
            timeout=_REFRESH_SECONDS,
            blocking_timeout=_REFRESH_SECONDS / 2,
            sleep=0.05,
        )
        if not lock.acquire():
            raise RefreshBusy(_("Reload the page."), retry_after_seconds=1)
        try:
            yield
        finally:
            try:
                lock.release()
            except redis.exceptions.LockError:
                log.warning("refresh_lock_lost")

    def _write_if_alive(self, key: str, fields: dict[str, str]) -> None:
        def write(pipe: redis.client.Pipeline) -> None:
            alive = pipe.exists(key)
            pipe.multi()
            if alive:
                pipe.hset(key, mapping=cast("Any", fields))

        self._redis.transaction(write, key)


class RedisSessions(SessionInterface):
    """Flask's way to the sessions.

    Visitors who do nothing that must be remembered get no cookie and no entry.
    """

    def __init__(self, store: Sessions, cookie: str) -> None:
        self._store = store
        self._cookie = cookie

    def cookie_name(self, *, secure: bool) -> str:
        """Return the cookie's name; `__Host-` binds it to this very host over https."""
        return f"__Host-{self._cookie}" if secure else self._cookie

    def open_session(self, app: Flask, request: Request) -> Session:
        """Return the session that the request's cookie names, else an empty one."""
        del app
        sid = request.cookies.get(self.cookie_name(secure=request.is_secure))
        if not sid or len(sid) > _LONGEST_ID:
            return Session()
        if request.path.startswith(_WITHOUT_SESSION):
            return Session()
        try:
            # An id that we did not make is never adopted.
            return self._store.load(sid) or Session()
        except redis.RedisError as error:
            log.warning("session_store_down", error=type(error).__name__)
            return Session(down=True)

    def save_session(  # type: ignore[override]
        self, app: Flask, session: Session, response: Response
    ) -> None:
        """Write what changed and tell the browser the id when it is new."""
        del app
        response.vary.add("Cookie")
        if session or session.down:
            # What was made for one person must not be shown to another.
            response.headers["Cache-Control"] = "no-store"
        if not session.modified:
            return
        try:
            self._write(session, response)
        except redis.RedisError as error:
            log.warning("session_store_down", error=type(error).__name__)
            # The answer would promise what was not kept.
            response.status_code = 503
            response.headers.pop("Location", None)
            response.headers["Retry-After"] = "2"
            response.mimetype = "text/plain"
            response.set_data("Your session cannot be kept right now. Try again soon.")

    def _write(self, session: Session, response: Response) -> None:
        name = self.cookie_name(secure=request.is_secure)
        if not session:
            for sid in {session.sid, session.leaves} - {None}:
                self._store.end(cast("str", sid))
            response.delete_cookie(
                name, secure=request.is_secure, httponly=True, samesite="Lax"
            )
            return
        known = session.sid
        self._store.save(session)
        if session.sid != known:
            response.set_cookie(
                name,
                cast("str", session.sid),
                secure=request.is_secure,
                httponly=True,
                samesite="Lax",
            )


def _digest(sid: str) -> str:
    return sha256(sid.encode()).hexdigest()


def _key(sid: str) -> str:
    return f"web:session:{_digest(sid)}"


def _sealed(sid: str, field: str, content: dict[str, Any]) -> str:
    """Return the content, readable only with the session's cookie."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    box = _cipher(sid).encrypt(nonce, json.dumps(content).encode(), field.encode())
    return (nonce + box).hex()


def _opened(sid: str, field: str, sealed: str | None) -> dict[str, Any] | None:
    """Return what was sealed; None where there is nothing that we wrote."""
    try:
        box = bytes.fromhex(sealed or "")
        nonce, box = box[:_NONCE_BYTES], box[_NONCE_BYTES:]
        content = _cipher(sid).decrypt(nonce, box, field.encode())
    except (ValueError, InvalidTag):
        return None
    return cast("dict[str, Any]", json.loads(content))


def _cipher(sid: str) -> AESGCM:
    # The cookie is 256 random bits; the store knows another digest of it as the key's
    # name, from which this one does not follow.
    return AESGCM(hmac_digest(sid.encode(), b"flagon web session", "sha256"))


def _indexes(provider_sid: str | None, sub: str | None) -> list[str]:
    named = (("provider", provider_sid), ("person", sub))
    return [f"web:sessions:{of}:{_digest(name)}" for of, name in named if name]
