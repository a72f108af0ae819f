"""Sign-in sessions: a random cookie in the browser, everything else in the store Redis."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import redis
import structlog
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin

from flagon_chassis import problems

log = structlog.get_logger()

_COOKIE = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")
# A session that is merely looked at is written back at most this often.
_TOUCH_SECONDS = 60.0
# What an interrupted request needs after the person has signed in (see `begin`).
_KEPT_AT_SIGN_IN = ("reauthentication", "pushed", "social_found")
_PENDING = "second_step"
_AGENT_LENGTH = 300
PENDING_SECONDS = 600
"""How long the second step of a sign-in may take."""


@dataclass(frozen=True)
class PendingSignIn:
    """Somebody who has passed one factor and must pass another."""

    account_id: UUID
    amr: list[str]
    onward: str
    since: float


@dataclass(frozen=True)
class ActiveSession:
    """One browser that is signed in."""

    sid: str
    """Its public id."""
    created_at: float
    seen_at: float
    """When it last asked for something, a minute more or less; seconds since the epoch."""
    address: str | None
    """Where it last was."""
    agent: str
    """What its browser says it is."""
    amr: list[str]
    acr: str


class LoginSession(SessionMixin):
    """One browser's session; read from Redis when somebody first looks into it.

    A request that never looks, such as one with a token, costs nothing and works
    without Redis.
    """

    def __init__(self, store: "SessionStore", cookie: str | None) -> None:
        self._store = store
        self._secret = cookie
        self._retired: str | None = None
        self._renewed = False
        self._loaded: dict[str, Any] | None = None
        self._created_at = 0.0
        self._seen_at = 0.0
        self.modified = False
        self.accessed = False

    @property
    def _data(self) -> dict[str, Any]:
        self.accessed = True
        if self._loaded is None:
            self._loaded = {}
            found = self._store.read(self._secret) if self._secret else None
            if found is None:
                # An unknown id is not adopted: the browser gets one that we chose.
                self._secret = None
            else:
                self._loaded = found["data"]
                self._created_at, self._seen_at = found["created"], found["seen"]
        return self._loaded

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 (as a session is)
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401
        self._data[key] = value
        self.modified = True

    def __delitem__(self, key: str) -> None:
        del self._data[key]
        self.modified = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    @property
    def sid(self) -> str | None:
        """The public id of the sign-in, as tokens carry it; None before."""
        return cast("str | None", self.get("sid"))

    @property
    def auth_time(self) -> float | None:
        """When the person last signed in with everything, in seconds since the epoch."""
        return cast("float | None", self.get("auth_time"))

    @property
    def acr(self) -> str:
        """How well the person proved who they are: `aal1` or `aal2`."""
        return cast("str", self.get("acr", "aal1"))

    @property
    def proved_at(self) -> float:
        """When the person last proved anything at all, one factor included."""
        return max(self.auth_time or 0.0, cast("float", self.get("confirmed_at", 0.0)))

    def begin(
        self,
        account_id: UUID,
        *,
        amr: list[str],
        acr: str = "aal1",
        now: float,
        auth_time: float | None = None,
    ) -> str:
        """Sign an account in: a new cookie, and nothing of what was there before.

        The same account signing in once more keeps its public id, so that signing out
        later reaches the tokens of both.

        :param auth_time: when they signed in, if this only adds a factor to that.
        :return: the public id of the session.
        """
        same = self.get("_user_id") == str(account_id)
        sid = self.sid if same and self.sid else secrets.token_urlsafe(16)
        kept = {name: self[name] for name in _KEPT_AT_SIGN_IN if name in self}
        if auth_time is None:
            self._forget()
        else:
            # One factor brings no session back that was ended meanwhile.
            self.renew()
        self._loaded = {
            **kept,
            "sid": sid,
            "auth_time": now if auth_time is None else auth_time,
            "confirmed_at": now,
            "amr": amr,
            "acr": acr,
        }
        # A session that gains a factor lives no longer for it.
        self._created_at = now if auth_time is None else self._created_at
        self.modified = True
        return sid

    def await_second_step(
        self, account_id: UUID, *, amr: list[str], onward: str, now: float
    ) -> None:
        """Remember who passed one of two factors, under a new cookie.

        Nobody is signed in by that. Who was, as the same account, still is.

        :param onward: where they go once the second step is done; one of our pages.
        """
        if self.get("_user_id") == str(account_id):
            self.renew()
        else:
            kept = {name: self[name] for name in _KEPT_AT_SIGN_IN if name in self}
            self._forget()
            self._loaded = kept
            self._created_at = now
        self[_PENDING] = {
            "account": str(account_id),
            "amr": amr,
            "onward": onward,
            "since": now,
        }

    def pending(self, now: float) -> PendingSignIn | None:
        """Return who has passed the first of two factors, for ten minutes."""
        found = self.get(_PENDING)
        if not found or found["since"] + PENDING_SECONDS < now:
            return None
        return PendingSignIn(
            UUID(found["account"]), found["amr"], found["onward"], found["since"]
        )

    def forget_pending(self) -> None:
        """Make the first factor count for nothing."""
        self.pop(_PENDING, None)

    def confirm(self, now: float) -> None:
        """Remember that the person proved once more who they are; a new cookie."""
        self.renew()
        self["confirmed_at"] = now

    def renew(self) -> None:
        """Give the session a new cookie, unless it ends meanwhile."""
        if self.get("sid") and self._secret:
            self._forget()
            self._renewed = True
            self.modified = True

    def end(self) -> None:
        """Sign out: the session is gone at once and the cookie means nothing."""
        self._forget()
        self._loaded = {}
        self.modified = True

    def _forget(self) -> None:
        # Written with what comes next, in one step.
        if self._secret:
            self._retired = self._secret
        self._secret = None
        self._renewed = False
        self._seen_at = 0.0

    def save(
        self, now: float, *, address: str | None = None, agent: str = ""
    ) -> str | None:
        """Write what changed; return the cookie if the browser must learn a new one.

        :param address: where the browser is.
        :param agent: what it says it is.
        """
        if self._loaded is None:
            return None
        if not self.modified and (
            not self._secret or now - self._seen_at < _TOUCH_SECONDS
        ):
            return None
        if not self._loaded and not self._secret:
            if self._retired:
                self._store.delete(self._retired)
            return None
        known = self._secret is not None
        self._secret = self._secret or secrets.token_urlsafe(32)
        self._created_at = self._created_at or now
        written = self._store.write(
            self._secret,
            {
                "data": self._loaded,
                "created": self._created_at,
                "seen": now,
                "address": address,
                "agent": agent[:_AGENT_LENGTH],
            },
            only_if_there=known,
            instead_of=self._retired,
            renewed=self._renewed,
        )
        if not written:
            log.info("session_ended_meanwhile")
            return None
        return None if known else self._secret


class SessionStore(SessionInterface):
    """Keeps sessions in Redis under the hash of their cookie.

    A copy of Redis therefore opens no session. Sessions are found by the public id and
    by the account as well, so that they can be ended from elsewhere.

    :param cookie: its name; over https `__Host-` comes before it.
    :param idle_seconds: a session that is not used ends after this.
    :param absolute_seconds: any session ends after this.
    :param anonymous_seconds: one in which nobody is signed in ends after this.
    """

    def __init__(
        self,
        store: redis.Redis,
        *,
        cookie: str,
        idle_seconds: int,
        absolute_seconds: int,
        anonymous_seconds: int = 900,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._anonymous_seconds = min(anonymous_seconds, idle_seconds)
        self._redis = store
        self._cookie = cookie
        self._idle_seconds = idle_seconds
        self._absolute_seconds = absolute_seconds
        self._clock = clock

    def cookie_name(self, request: Request) -> str:
        """Return the cookie's name for the scheme at hand.

        The prefix makes browsers refuse the cookie unless it is Secure, for this host
        and for all paths, so no neighbour on another port or subdomain can plant one.
        """
        return f"__Host-{self._cookie}" if request.is_secure else self._cookie

    def open_session(self, app: Flask, request: Request) -> LoginSession:
        """Return the session of the request's cookie; Redis is not asked yet."""
        del app
        cookie = request.cookies.get(self.cookie_name(request), "")
        return LoginSession(self, cookie if _COOKIE.match(cookie) else None)

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Write the session back; the response becomes a 503 where that fails."""
        from flask import request  # noqa: PLC0415 (the interface does not pass it)

        assert isinstance(session, LoginSession)  # noqa: S101 (made by open_session)
        if session.accessed:
            response.vary.add("Cookie")
            response.headers.setdefault("Cache-Control", "no-store")
        try:
            cookie = session.save(
                self._clock(),
                address=request.remote_addr,
                agent=request.headers.get("User-Agent", ""),
            )
        except redis.RedisError as error:
            log.warning("session_not_saved", error=type(error).__name__)
            _become_unavailable(app, response)
            return
        name = self.cookie_name(request)
        if cookie:
            response.set_cookie(
                name,
                cookie,
                httponly=True,
                secure=request.is_secure,
                samesite="Lax",
                path="/",
            )
        elif session.modified and not session and name in request.cookies:
            response.delete_cookie(
                name,
                httponly=True,
                secure=request.is_secure,
                samesite="Lax",
                path="/",
            )

    def read(self, secret: str) -> dict[str, Any] | None:
        """Return what is stored under a cookie, unless the session has run out."""
        stored = cast("str | None", self._redis.get(_key(secret)))
        found: dict[str, Any] | None = json.loads(stored) if stored else None
        if found and found["created"] + self._absolute_seconds < self._clock():
            return None
        return found

    def write(
        self,
        secret: str,
        content: dict[str, Any],
        *,
        only_if_there: bool,
        instead_of: str | None = None,
        renewed: bool = False,
    ) -> bool:
        """Store a session and return whether it was.

        :param only_if_there: do not bring back one that was ended meanwhile.
        :param instead_of: the cookie of a session that is over.
        :param renewed: it is the same session under a new cookie, and must not come
            back either.
        """
        if renewed and instead_of and not self._move(instead_of, secret):
            return False
        data = content["data"]
        left = content["created"] + self._absolute_seconds - self._clock()
        # Whoever only looks at a form leaves little, and that not for long.
        idle = self._idle_seconds if "_user_id" in data else self._anonymous_seconds
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(
            _key(secret),
            json.dumps(content),
            ex=max(1, int(min(idle, left))),
            xx=only_if_there,
        )
        if instead_of:
            pipe.delete(_key(instead_of))
        sid, account = data.get("sid"), data.get("_user_id")
        if sid and account:
            pipe.set(_sid_key(sid), _digest(secret), ex=self._absolute_seconds)
            name, now = _account_key(account), self._clock()
            pipe.zadd(name, {sid: now + self._absolute_seconds})
            pipe.zremrangebyscore(name, "-inf", now)
            pipe.expire(name, self._absolute_seconds)
        return bool(pipe.execute()[0])

    def claim_once(self, what: str, seconds: int) -> bool:
        """Say whether this is the first time that somebody claims this.

        :param what: purpose and content; only its hash is stored.
        :param seconds: how long it is remembered.
        """
        name = f"auth:claimed:{_digest(what)}"
        return bool(self._redis.set(name, "1", nx=True, ex=seconds))

    def _move(self, old: str, new: str) -> bool:
        try:
            self._redis.rename(_key(old), _key(new))
        except redis.ResponseError:
            # It was ended while this request was under way.
            return False
        return True

    def delete(self, secret: str) -> None:
        """Forget the session of a cookie."""
        self._redis.delete(_key(secret))

    def lives(self, sid: str) -> bool:
        """Say whether some browser is signed in under this public id."""
        digest = cast("str | None", self._redis.get(_sid_key(sid)))
        return bool(digest and self._redis.exists(_PREFIX + digest))

    def list_active(self, account_id: UUID) -> list[ActiveSession]:
        """Return the browsers in which an account is signed in, the latest first."""
        sids = self.sids(account_id)
        if not sids:
            # Without keys there is nothing to ask for.
            return []
        digests = cast(
            "list[str | None]", self._redis.mget([_sid_key(sid) for sid in sids])
        )
        keys = [_PREFIX + (digest or "") for digest in digests]
        found = []
        for sid, stored in zip(
            sids, cast("list[str | None]", self._redis.mget(keys)), strict=False
        ):
            content = json.loads(stored) if stored else None
            over = self._clock() - self._absolute_seconds
            if content is None or content["created"] < over:
                continue
            found.append(
                ActiveSession(
                    sid=sid,
                    created_at=content["created"],
                    seen_at=content["seen"],
                    address=content.get("address"),
                    agent=content.get("agent", ""),
                    amr=content["data"].get("amr", []),
                    acr=content["data"].get("acr", "aal1"),
                )
            )
        return sorted(found, key=lambda one: one.seen_at, reverse=True)

    def sids(self, account_id: UUID) -> list[str]:
        """Return the public ids of an account's sessions, some of them over."""
        return cast(
            "list[str]", self._redis.zrange(_account_key(str(account_id)), 0, -1)
        )

    def end(self, sid: str) -> None:
        """Forget the session with this public id, wherever its browser is."""
        digest = cast("str | None", self._redis.get(_sid_key(sid)))
        if digest:
            self._redis.delete(_PREFIX + digest)
        self._redis.delete(_sid_key(sid))

    def end_all(self, account_id: UUID) -> list[str]:
        """Forget every session of an account; return their public ids."""
        name = _account_key(str(account_id))
        sids = self.sids(account_id)
        for sid in sids:
            self.end(sid)
        self._redis.delete(name)
        return sids


_PREFIX = "auth:session:"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(secret: str) -> str:
    return _PREFIX + _digest(secret)


def _sid_key(sid: str) -> str:
    return f"auth:sid:{sid}"


def _account_key(account_id: str) -> str:
    return f"auth:account:{account_id}:sids"


def _become_unavailable(app: Flask, response: Response) -> None:
    with app.app_context():
        failure = problems.DependencyDown(
            "Signing in is not possible right now; try again shortly.",
            retry_after_seconds=2,
        )
        told = problems.from_failure(failure)
    response.status_code = told.status_code
    response.set_data(told.get_data())
    response.headers.pop("Location", None)
    for name in ("Content-Type", "Retry-After", "Cache-Control"):
        response.headers[name] = told.headers[name]
