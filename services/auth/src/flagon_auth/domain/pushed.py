"""Authorization requests that clients push ahead (PAR, RFC 9126)."""

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flagon_auth.models import PushedRequest
from flagon_chassis.errors import Invalid

PREFIX = "urn:ietf:params:oauth:request_uri:"
LIFE_SECONDS = 90
"""How long the browser may take from the client to us."""


class PushedRequestUnknown(Invalid):
    """There is no such pushed request."""


def push(
    session: Session,
    *,
    client_id: str,
    parameters: dict[str, str],
    dpop_jkt: str | None,
    now: datetime,
) -> str:
    """Keep a request and return the `request_uri` that stands for it, once.

    :param parameters: those of the authorization request; no credentials.
    """
    uri = PREFIX + secrets.token_urlsafe(32)
    session.add(
        PushedRequest(
            uri_hash=_hash(uri),
            client_id=client_id,
            parameters=parameters,
            dpop_jkt=dpop_jkt,
            expires_at=now + timedelta(seconds=LIFE_SECONDS),
        )
    )
    return uri


def take(
    session: Session, uri: str, *, client_id: str, now: datetime
) -> tuple[dict[str, str], str | None]:
    """Use a `request_uri` up; return the parameters and the key they are bound to.

    :raises PushedRequestUnknown: it is made up, used, too old or another client's.
    """
    row = session.scalars(
        select(PushedRequest).filter_by(uri_hash=_hash(uri)).with_for_update()
    ).one_or_none()
    if row is None or row.client_id != client_id:
        raise PushedRequestUnknown("The request_uri is not valid.")
    if row.used_at is not None or row.expires_at <= now:
        raise PushedRequestUnknown("The request_uri was used before, or is too old.")
    row.used_at = now
    return dict(row.parameters), row.dpop_jkt


def purge(session: Session, *, now: datetime) -> int:
    """Forget requests that are too old to be used; return how many."""
    gone = session.execute(
        delete(PushedRequest)
        .where(PushedRequest.expires_at < now)
        .returning(PushedRequest.uri_hash)
    )
    return len(gone.all())


def _hash(uri: str) -> bytes:
    return hashlib.sha256(uri.encode(errors="surrogatepass")).digest()
