"""OAuth clients: the programs that may ask for tokens."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import Client
from flagon_chassis.errors import Invalid

from .accounts import API_SCOPES, IDENTITY_SCOPES

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")
_ID = re.compile(r"\A[A-Za-z0-9._~-]{1,100}\Z")
_SECRET_LENGTH_MIN = 32
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Compared when there is no secret, so that both cases do the same work.
_NO_SECRET = hashlib.sha256(secrets.token_bytes(32)).digest()


class ClientInvalid(Invalid):
    """The client cannot be registered like this."""


@dataclass(frozen=True)
class Registration:
    """What is registered about one client."""

    client_id: str
    name: str
    client_secret: str | None = None
    """At least 32 random characters; None for a public client."""
    redirect_uris: list[str] = field(default_factory=list)
    post_logout_redirect_uris: list[str] = field(default_factory=list)
    grant_types: list[str] = field(
        default_factory=lambda: ["authorization_code", "refresh_token"]
    )
    scope: str = "openid profile email"
    first_party: bool = False


def new_client_id() -> str:
    """Return an id that no client has."""
    return secrets.token_hex(12)


def new_secret() -> str:
    """Return 256 random bits as text; shown once and stored as a hash."""
    return secrets.token_urlsafe(32)


def put_client(session: Session, registration: Registration, *, now: datetime) -> None:
    """Register a client, or replace what is registered under its id.

    :raises ClientInvalid: an address, a scope, a grant type or the secret is not usable.
    """
    _check(registration)
    secret = registration.client_secret
    values: dict[str, Any] = {
        "secret_hash": None if secret is None else hash_secret(secret),
        "name": registration.name,
        "redirect_uris": registration.redirect_uris,
        "post_logout_redirect_uris": registration.post_logout_redirect_uris,
        "grant_types": registration.grant_types,
        "scope": " ".join(registration.scope.split()),
        "first_party": registration.first_party,
        "token_endpoint_auth_method": (
            "none" if secret is None else "client_secret_basic"
        ),
    }
    session.execute(
        insert(Client)
        .values(id=registration.client_id, created_at=now, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def find_client(session: Session, client_id: str) -> Client | None:
    """Return the client with this id, if there is one; any text is safe to ask for."""
    # Postgres cannot store a NUL, so the driver refuses to send one.
    return session.get(Client, client_id) if _ID.match(client_id) else None


def list_clients(session: Session) -> list[Client]:
    """Return every client, by id."""
    return list(session.scalars(select(Client).order_by(Client.id)))


def hash_secret(secret: str) -> bytes:
    """Return the stored form of a secret.

    A fast hash is right here: the secret is random and long, so it cannot be guessed.
    """
    return hashlib.sha256(secret.encode()).digest()


def secret_matches(client: Client | None, *candidates: str) -> bool:
    """Say whether one of the texts is the client's secret; takes the same time for all."""
    stored = (client.secret_hash if client else None) or _NO_SECRET
    found = [
        hmac.compare_digest(stored, hash_secret(candidate)) for candidate in candidates
    ]
    return any(found)


def redirect_allowed(client: Client, uri: str) -> bool:
    """Say whether codes may be sent to this address.

    Exactly a registered one. A public client that registered a loopback address without
    a port may use any port of it (RFC 8252 section 7.3): it takes what is free.
    """
    if uri in client.redirect_uris:
        return True
    if client.secret_hash is not None:
        return False
    return any(
        uri == with_port
        for registered in client.redirect_uris
        for with_port in [_same_port(registered, uri)]
    )


def _same_port(registered: str, uri: str) -> str | None:
    try:
        base, port = urlsplit(registered), urlsplit(uri).port
    except ValueError:
        return None
    literal = base.hostname in {"127.0.0.1", "::1"}
    if base.scheme != "http" or not literal or base.port is not None or port is None:
        return None
    return base._replace(netloc=f"{base.netloc}:{port}").geturl()


def _check(registration: Registration) -> None:
    if not _ID.match(registration.client_id):
        raise ClientInvalid("An id is 1 to 100 letters, digits or any of . _ ~ -")
    secret = registration.client_secret
    if secret is not None and len(secret) < _SECRET_LENGTH_MIN:
        raise ClientInvalid(f"A secret has at least {_SECRET_LENGTH_MIN} characters.")
    _check_known("grant type", registration.grant_types, GRANT_TYPES)
    _check_known("scope", registration.scope.split(), (*IDENTITY_SCOPES, *API_SCOPES))
    if secret is None and "client_credentials" in registration.grant_types:
        raise ClientInvalid("A public client has no credentials to grant anything for.")
    signs_in = "authorization_code" in registration.grant_types
    if signs_in and not registration.redirect_uris:
        raise ClientInvalid("A client that signs people in needs a redirect URI.")
    for uri in (*registration.redirect_uris, *registration.post_logout_redirect_uris):
        _check_uri(uri)


def _check_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ClientInvalid(f"There is no {what} {', '.join(unknown)}.")


def _check_uri(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise ClientInvalid(f"{uri} is not an address.") from error
    if not uri.isascii() or not uri.isprintable() or " " in uri or "*" in uri:
        raise ClientInvalid(f"{uri} must be plain ASCII without blanks and wildcards.")
    if parts.fragment or uri.endswith("#"):
        raise ClientInvalid(f"{uri} must not have a fragment.")
    if parts.username is not None or parts.password is not None:
        raise ClientInvalid(f"{uri} must not hold credentials.")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    # An app's own scheme is the reverse of a domain name it owns (RFC 8252 section 7.1).
    if "." in parts.scheme and not parts.netloc:
        return
    raise ClientInvalid(f"{uri} must be https, a loopback address or an app's scheme.")
