"""Answers that the cache Redis keeps for as long as what they show stays the same.

Each is kept with the content it was made from: a random word in Redis, another one after
every commit that told an event. What was made from an older content is never given out,
so nothing has to be searched for and deleted, and a slow answer that is stored late is
worthless instead of wrong. Of many who ask for the same at once, one does the work.

Redis may forget, freeze or be away: then every answer is made anew.
"""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import TypeVar, cast

import redis
import structlog
from cachelib.serializers import BaseSerializer
from flask import Flask, Response
from flask_caching import Cache
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import event
from sqlalchemy.orm import Session

from . import events, metrics, stores
from .content import OPTIONS, Content
from .settings import ServiceSettings

log = structlog.get_logger()

T = TypeVar("T")

KEPT_HEADERS = ("Content-Type", "Cache-Control", "Vary", "Link", "ETag")
"""What of an answer's head is about its content; all else is about the request."""

_PAUSE_SECONDS = 1.0
_TURN_SECONDS = 6
_ROUNDS = 3


_HEAD = TypeAdapter(dict[str, str])


class _Plain(BaseSerializer):
    """Bytes as they are: the library's default is pickle, which runs what it reads."""

    def dumps(self, value: bytes) -> bytes:  # type: ignore[override]
        return value

    def loads(self, value: bytes | None) -> bytes | None:
        return value


@dataclass(frozen=True)
class _Turn:
    """The right to make an answer and to keep it."""

    key: str
    content: bytes
    """What is made from now on is made from this, or from something newer."""
    ours: str | None
    """What others know the turn by who wait for its end; None: nobody does."""


class AnswerCache:
    """The answers of one app; `init_app` makes it.

    :param seconds: longest life of an answer, which bounds how old one can be that a
        failed invalidation has left behind.
    :param wait_seconds: how long a request waits for another's answer before it makes
        its own.
    """

    def __init__(
        self, app: Flask, url: str, *, seconds: int, wait_seconds: float = 2.0
    ) -> None:
        self._prefix = f"{app.name}:answers:"
        cache = Cache(
            app,
            config={
                "CACHE_TYPE": "RedisCache",
                "CACHE_REDIS_URL": url,
                "CACHE_KEY_PREFIX": self._prefix,
                "CACHE_DEFAULT_TIMEOUT": seconds,
                "CACHE_SERIALIZER": _Plain,
                "CACHE_OPTIONS": OPTIONS.copy(),
            },
        )
        self._store = app.extensions["cache"][cache]
        self._content = Content(url, app.name)
        self._redis = stores.client(url, **OPTIONS)
        self._wait_seconds = wait_seconds
        # A Redis that freezes meanwhile is noticed all the same.
        patient = OPTIONS | {"socket_timeout": wait_seconds + 0.3}
        self._waiting = stores.client(url, **patient)
        self._away_until = 0.0
        self._requests = metrics.counter(
            "flagon_cache_requests_total",
            "Questions to the answer cache by what became of them.",
            "outcome",
        )

    def answer(self, question: str, make: Callable[[], Response]) -> Response:
        """Return the kept answer to a question, or make and keep it.

        :param question: all that the answer depends on, beside the content.
        :param make: is asked outside of any lock of the process; only a 200 is kept.
        """
        key = sha256(question.encode()).hexdigest()
        found = self._guarded(lambda: self._find(key))
        if isinstance(found, Response):
            return found
        response = None
        try:
            response = make()
        finally:
            if found is not None:
                self._guarded(lambda: self._finish(found, response))
        return response

    def changed(self) -> None:
        """Make all answers so far worthless: the content is another one now."""
        self._content.changed()

    def _guarded(self, ask: Callable[[], T]) -> T | None:
        """Return what Redis says, or None while it is away."""
        if time.monotonic() < self._away_until:
            self._requests.labels("away").inc()
            return None
        try:
            return ask()
        except redis.RedisError as error:
            # Whoever asks next need not wait for the time-out as well.
            self._away_until = time.monotonic() + _PAUSE_SECONDS
            log.warning("cache_away", error=type(error).__name__)
            self._requests.labels("away").inc()
            return None

    def _find(self, key: str) -> Response | _Turn:
        waited = False
        for _ in range(_ROUNDS):
            content, kept = self._store.get_many("content", key)
            if content is None:
                content = self._content.name()
            response = _read(kept, content)
            if response is not None:
                self._requests.labels("waited" if waited else "hit").inc()
                return response
            # Not `add`, which sets the end of the lock in a second step: between the two
            # a killed process would leave it locked for ever.
            ours = secrets.token_hex(8)
            turn = f"{self._prefix}{key}:turn"
            holder = self._redis.set(turn, ours, nx=True, get=True, ex=_TURN_SECONDS)
            if holder is None:
                found = _Turn(key, content, ours)
                # Somebody's turn may have ended after we looked.
                response = _read(self._store.get(key), content)
                if response is None:
                    self._requests.labels("miss").inc()
                    return found
                self._finish(found, None)
                self._requests.labels("hit").inc()
                return response
            waited = True
            if not self._wait(key, cast("bytes", holder).decode()):
                break
        # Whoever has the turn is slow, dead, or had no answer that can be kept.
        self._requests.labels("miss").inc()
        return _Turn(key, content, None)

    def _wait(self, key: str, holder: str) -> bool:
        """Wait until the holder of the turn has ended; say whether that came in time."""
        # Each turn has a baton of its own: that of the last one would wake who waits for
        # this one.
        baton = f"{self._prefix}{key}:done:{holder}"
        if not self._waiting.blpop([baton], timeout=self._wait_seconds):
            return False
        # It wakes one, who hands it on.
        self._pass_on(baton)
        return True

    def _pass_on(self, baton: str) -> None:
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.rpush(baton, 1)
            pipeline.expire(baton, _TURN_SECONDS)
            pipeline.execute()

    def _finish(self, turn: _Turn, response: Response | None) -> None:
        if response is not None and response.status_code == HTTPStatus.OK:
            self._store.set(turn.key, _written(response, turn.content))
        if turn.ours is None:
            return
        name = f"{self._prefix}{turn.key}:turn"
        # Who took too long has lost it to another.
        if self._redis.get(name) == turn.ours.encode():
            self._redis.delete(name)
        self._pass_on(f"{self._prefix}{turn.key}:done:{turn.ours}")


def init_app(app: Flask, settings: ServiceSettings, *, seconds: int) -> AnswerCache:
    """Give the app a cache of answers that forgets at each commit that told an event.

    :param seconds: longest life of an answer.
    """
    cache = AnswerCache(
        app, settings.redis_cache_url.get_secret_value(), seconds=seconds
    )

    def forget(session: Session) -> None:
        # Heard at the end of each savepoint, too, when nobody else sees anything yet.
        if not session.in_nested_transaction() and session.info.pop(
            events.EMITTED, False
        ):
            cache.changed()

    event.listen(app.extensions["flagon.sessions"], "after_commit", forget)
    app.extensions["flagon.answers"] = cache
    return cache


def _written(response: Response, content: bytes) -> bytes:
    head = {
        name: response.headers[name]
        for name in KEPT_HEADERS
        if name in response.headers
    }
    return b"\n".join([content, json.dumps(head).encode(), response.get_data()])


def _read(kept: bytes | None, content: bytes) -> Response | None:
    """Return the kept answer if it was made from this content."""
    made_from, _, rest = (kept or b"").partition(b"\n")
    if not content or made_from != content:
        return None
    head, _, body = rest.partition(b"\n")
    try:
        return Response(body, headers=_HEAD.validate_json(head))
    except ValidationError:
        # Not written by us, or by another version of us.
        return None
