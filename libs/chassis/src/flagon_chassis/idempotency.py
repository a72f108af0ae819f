"""`Idempotency-Key`: a repeated POST gets the first answer and has no second effect."""

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

from flask import Response, request
from sqlalchemy import and_, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from . import db
from .auth import caller
from .errors import Conflict, Invalid
from .tables import idempotency_key

_FORM = re.compile(r"\A[\x21-\x7e]{1,200}\Z")
_HEADERS = ("Content-Type", "Location", "ETag")
# One round trip for both. The lock lives as long as the transaction; a twin does not wait
# but is told.
_LOOK = (
    select(
        func.pg_try_advisory_xact_lock(
            func.hashtextextended(bindparam("name"), 0)
        ).label("free"),
        idempotency_key.c.fingerprint,
        idempotency_key.c.status,
        idempotency_key.c.headers,
        idempotency_key.c.body,
    )
    .select_from(select(literal(1)).subquery("one"))
    .outerjoin(
        idempotency_key,
        and_(
            idempotency_key.c.scope == bindparam("scope"),
            idempotency_key.c.key == bindparam("key"),
        ),
    )
)
_KEEP = (
    insert(idempotency_key).on_conflict_do_nothing().returning(idempotency_key.c.status)
)


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
    own = {"name": f"{scope} {key}", "scope": scope, "key": key}
    stored = session.connection().execute(_LOOK, own).one()
    if not stored.free:
        raise _twin()
    fingerprint = hashlib.sha256(request.get_data() if body is None else body).digest()
    if stored.status is not None:
        if stored.fingerprint != fingerprint:
            raise IdempotencyKeyReused("Use a new key for a new request.")
        content = sealer.open(f"{scope} {key}", stored.body) if sealer else stored.body
        replayed = Response(content, stored.status, stored.headers)
        replayed.headers["Idempotent-Replayed"] = "true"
        return replayed
    response = respond()
    content = response.get_data()
    kept = session.connection().execute(
        _KEEP,
        {
            "scope": scope,
            "key": key,
            "fingerprint": fingerprint,
            "status": response.status_code,
            "headers": {
                name: response.headers[name]
                for name in _HEADERS
                if name in response.headers
            },
            "body": sealer.seal(f"{scope} {key}", content) if sealer else content,
        },
    )
    if kept.one_or_none() is None:
        # A twin ended between the look and the lock. All that was done here is undone.
        raise _twin()
    return response


def _twin() -> TwinInProgress:
    return TwinInProgress("Ask again for its answer.", retry_after_seconds=1)
