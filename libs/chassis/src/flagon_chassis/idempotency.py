"""`Idempotency-Key`: a repeated POST gets the first answer and has no second effect."""

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

from flask import Response, request
from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from . import db
from .auth import caller
from .errors import Conflict, Invalid
from .tables import idempotency_key

_FORM = re.compile(r"\A[\x21-\x7e]{1,200}\Z")
_HEADERS = ("Content-Type", "Location", "ETag")


class IdempotencyKeyMalformed(Invalid):
    """The Idempotency-Key is not usable."""


class IdempotencyKeyReused(Invalid):
    """The Idempotency-Key was used for another request."""


class TwinInProgress(Conflict):
    """The same request is being carried out right now."""


class Sealer(Protocol):
    """Encrypts what is stored, bound to a name."""

    def seal(self, name: str, content: bytes, /) -> bytes:
        """Return the content encrypted."""

    def open(self, name: str, sealed: bytes, /) -> bytes:
        """Return what was sealed under this name."""


def once(
    session: Session,
    respond: Callable[[], Response],
    *,
    body: bytes | None = None,
    sealer: Sealer | None = None,
) -> Response:
    """Return the answer of `respond`, or of an earlier request with the same key.

    The answer is stored in the session's transaction, so it exists exactly if the effect
    does, for 24 hours: the relay forgets older ones. Without the header `respond` is
    simply called. A failure that `respond` raises is not stored: nothing was changed,
    and trying again may work.

    :param body: what tells two requests apart; the request's body by default. Give a
        digest where the body is a stream.
    :param sealer: for answers that hold a secret: the database never sees them readable.
    :raises IdempotencyKeyReused: the key came with another body before.
    :raises TwinInProgress: a request with this key has not finished.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return respond()
    if not _FORM.match(key):
        raise IdempotencyKeyMalformed("Use 1 to 200 visible ASCII characters.")
    db.keyed(session)
    scope = f"{caller().sub} {request.method} {request.path}"
    # The lock lives as long as the transaction; a twin does not wait but is told.
    free = session.scalar(
        select(text("pg_try_advisory_xact_lock(hashtextextended(:name, 0))")).params(
            name=f"{scope} {key}"
        )
    )
    if not free:
        raise TwinInProgress("Ask again for its answer.", retry_after_seconds=1)
    fingerprint = hashlib.sha256(request.get_data() if body is None else body).digest()
    stored = session.execute(
        select(idempotency_key).where(
            idempotency_key.c.scope == scope, idempotency_key.c.key == key
        )
    ).one_or_none()
    if stored is not None:
        if stored.fingerprint != fingerprint:
            raise IdempotencyKeyReused("Use a new key for a new request.")
        content = sealer.open(f"{scope} {key}", stored.body) if sealer else stored.body
        replayed = Response(content, stored.status, stored.headers)
        replayed.headers["Idempotent-Replayed"] = "true"
        return replayed
    response = respond()
    content = response.get_data()
    session.execute(
        insert(idempotency_key).values(
            scope=scope,
            key=key,
            fingerprint=fingerprint,
            status=response.status_code,
            headers={
                name: response.headers[name]
                for name in _HEADERS
                if name in response.headers
            },
            body=sealer.seal(f"{scope} {key}", content) if sealer else content,
        )
    )
    return response
