"""OAuth clients: the programs that may ask for tokens."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import Client
from flagon_chassis.errors import Conflict, Invalid, NotFound

from .accounts import API_SCOPES, IDENTITY_SCOPES, INSIDE_SCOPES
from .keys import ACCESS_ALG, ID_ALG

AUTH_METHODS = (
    "client_secret_basic",
    "client_secret_post",
    "client_secret",
    "private_key_jwt",
    "none",
)
"""How a client may be registered to authenticate.

`client_secret` is either of the two before it: for a client whose library decides.
"""
SECRET_METHODS = AUTH_METHODS[:3]
ASSERTION_ALGS = ("ES256", "PS256", "RS256")
"""What assertions may be signed with; the key says which of them."""
ID_TOKEN_ALGS = (ID_ALG, ACCESS_ALG)
GRANT_TYPES = (
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:device_code",
)
_ID = re.compile(r"\A[A-Za-z0-9._~-]{1,100}\Z")
_SECRET_LENGTH_MIN = 32
# 2048 bits in base64url.
_RSA_MODULUS_LENGTH_MIN = 342
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Compared when there is no secret, so that both cases do the same work.
_NO_SECRET = hashlib.sha256(secrets.token_bytes(32)).digest()


class ClientInvalid(Invalid):
    """The client cannot be registered like this."""


class ClientNotFound(NotFound):
    """There is no such client."""


class NoSecret(Conflict):
    """The client has no secret that could be changed."""


@dataclass(frozen=True)
class Registration:
    """What is registered about one client."""

    client_id: str
    name: str
    client_secret: str | None = None
    """At least 32 random characters; None for a client that has none."""
    redirect_uris: list[str] = field(default_factory=list)
    post_logout_redirect_uris: list[str] = field(default_factory=list)
    grant_types: list[str] = field(
        default_factory=lambda: ["authorization_code", "refresh_token"]
    )
    scope: str = "openid profile email"
    first_party: bool = False
    token_endpoint_auth_method: str | None = None
    """One of `AUTH_METHODS`; None: by a secret if there is one, else not at all."""
    jwks: dict[str, Any] | None = None
    """Public keys (RFC 7517) of a client that authenticates by `private_key_jwt`."""
    id_token_signed_response_alg: str = ID_ALG
    dpop_bound_access_tokens: bool = False
    require_pushed_authorization_requests: bool = False
    backchannel_logout_uri: str | None = None

    @property
    def auth_method(self) -> str:
        """Return how the client authenticates."""
        if self.token_endpoint_auth_method is not None:
            return self.token_endpoint_auth_method
        return "none" if self.client_secret is None else "client_secret_basic"


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
        "token_endpoint_auth_method": registration.auth_method,
        "jwks": registration.jwks,
        "id_token_signed_response_alg": registration.id_token_signed_response_alg,
        "dpop_bound_access_tokens": registration.dpop_bound_access_tokens,
        "require_pushed_authorization_requests": (
            registration.require_pushed_authorization_requests
        ),
        "backchannel_logout_uri": registration.backchannel_logout_uri,
    }
    session.execute(
        insert(Client)
        .values(id=registration.client_id, created_at=now, updated_at=now, **values)
        .on_conflict_do_update(
            index_elements=["id"],
            set_={**values, "updated_at": now, "version": Client.version + 1},
        )
    )


def rotate_secret(
    session: Session, client_id: str, *, overlap_seconds: int, now: datetime
) -> str:
    """Give the client a new secret and return it; the present one works on for a while.

    So the client's operator can change it everywhere without an outage. Zero seconds
    end a secret that leaked at once. The one before the present one ends in any case.

    :raises ClientNotFound: there is no such client.
    :raises NoSecret: it is public or authenticates by a key.
    """
    client = session.get(
        Client, client_id if _ID.match(client_id) else "", with_for_update=True
    )
    if client is None:
        raise ClientNotFound(f"No client has the id {client_id}.")
    if client.secret_hash is None:
        raise NoSecret("It authenticates by a key, or is public.")
    secret = new_secret()
    client.previous_secret_hash = client.secret_hash if overlap_seconds else None
    client.previous_secret_until = (
        now + timedelta(seconds=overlap_seconds) if overlap_seconds else None
    )
    client.secret_hash = hash_secret(secret)
    client.version += 1
    client.updated_at = now
    session.flush()
    return secret


def find_client(session: Session, client_id: str) -> Client | None:
    """Return the client with this id, if there is one; any text is safe to ask for."""
    # Postgres cannot store a NUL, so the driver refuses to send one.
    return session.get(Client, client_id) if _ID.match(client_id) else None


def list_clients(
    session: Session, *, limit: int | None = None, after: str = ""
) -> list[Client]:
    """Return clients by id.

    :param after: the id that the page follows.
    """
    statement = select(Client).where(Client.id > after).order_by(Client.id).limit(limit)
    return list(session.scalars(statement))


def get_client(session: Session, client_id: str, *, lock: bool = False) -> Client:
    """Return the client with this id.

    :param lock: keep others from changing it until the transaction ends.
    :raises ClientNotFound: there is none.
    """
    known = client_id if _ID.match(client_id) else ""
    client = session.get(Client, known, with_for_update=lock or None)
    if client is None:
        raise ClientNotFound("No client has this id.")
    return client


def change_client(
    client: Client, changes: dict[str, Any], *, now: datetime
) -> list[str]:
    """Apply changes to one client and return the names of what really changed.

    :param changes: any of what is registered, but id, secret and how it authenticates;
        and `disabled`.
    :raises ClientInvalid: the client could not be registered like this.
    """
    registered = {
        f.name: getattr(client, f.name)
        for f in fields(Registration)
        if f.name not in {"client_id", "client_secret"}
    }
    # Of the secret only the hash is known; that it is there is all that counts.
    secret = client.id.ljust(_SECRET_LENGTH_MIN) if client.secret_hash else None
    wanted = {**registered, **changes}
    disabled = wanted.pop("disabled", client.disabled)
    _check(Registration(client_id=client.id, client_secret=secret, **wanted))
    wanted = {
        **wanted,
        "disabled": disabled,
        "scope": " ".join(wanted["scope"].split()),
    }
    changed = [name for name, value in wanted.items() if getattr(client, name) != value]
    for name in changed:
        setattr(client, name, wanted[name])
    if changed:
        client.version += 1
        client.updated_at = now
    return changed


def delete_client(session: Session, client: Client) -> None:
    """Forget a client with everything that was granted to it."""
    session.delete(client)
    session.flush()


def hash_secret(secret: str) -> bytes:
    """Return the stored form of a secret.

    A fast hash is right here: the secret is random and long, so it cannot be guessed.
    """
    return hashlib.sha256(secret.encode()).digest()


def secret_matches(client: Client | None, *candidates: str, now: datetime) -> bool:
    """Say whether one of the texts is the client's secret; takes the same time for all.

    After a rotation that may for a while be the one before.
    """
    present = previous = _NO_SECRET
    if client is not None:
        present = client.secret_hash or _NO_SECRET
        until = client.previous_secret_until
        if client.previous_secret_hash and until is not None and now < until:
            previous = client.previous_secret_hash
    found = [
        hmac.compare_digest(stored, hash_secret(candidate))
        for candidate in candidates
        for stored in (present, previous)
    ]
    return any(found)


def uses_method(client: Client, method: str) -> bool:
    """Say whether the client is registered to authenticate in this way."""
    registered = client.token_endpoint_auth_method
    if registered == "client_secret":
        return method in SECRET_METHODS
    return method == registered


def is_public(client: Client) -> bool:
    """Say whether the client can prove nothing about itself."""
    return client.token_endpoint_auth_method == "none"  # noqa: S105 (no secret)


def redirect_allowed(client: Client, uri: str) -> bool:
    """Say whether codes may be sent to this address.

    Exactly a registered one. A public client that registered a loopback address without
    a port may use any port of it (RFC 8252 section 7.3): it takes what is free.
    """
    if uri in client.redirect_uris:
        return True
    if not is_public(client):
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
    _check_known(
        "scope",
        registration.scope.split(),
        (*IDENTITY_SCOPES, *API_SCOPES, *INSIDE_SCOPES),
    )
    _check_authentication(registration)
    if registration.id_token_signed_response_alg not in ID_TOKEN_ALGS:
        raise ClientInvalid(f"ID tokens are signed by {' or '.join(ID_TOKEN_ALGS)}.")
    signs_in = "authorization_code" in registration.grant_types
    if signs_in and not registration.redirect_uris:
        raise ClientInvalid("A client that signs people in needs a redirect URI.")
    for uri in (*registration.redirect_uris, *registration.post_logout_redirect_uris):
        _check_uri(uri)
    if registration.backchannel_logout_uri is not None:
        _check_logout_uri(
            registration.backchannel_logout_uri, inside=registration.first_party
        )


def _check_logout_uri(uri: str, *, inside: bool) -> None:
    # We go there ourselves: only an administrator says where, and only a part of this
    # platform is reached without TLS.
    if inside and uri.startswith("http://"):
        _check_uri(f"https://{uri.removeprefix('http://')}")
        return
    _check_uri(uri)
    if not uri.startswith(("https:", "http:")):
        raise ClientInvalid("Logout tokens are delivered by http or https.")


def _check_authentication(registration: Registration) -> None:
    method, secret = registration.auth_method, registration.client_secret
    _check_known("way to authenticate", [method], AUTH_METHODS)
    if (secret is not None) != (method in SECRET_METHODS):
        raise ClientInvalid(f"With {method} there is {'no' if secret else 'a'} secret.")
    if (registration.jwks is not None) != (method == "private_key_jwt"):
        raise ClientInvalid("Keys go with private_key_jwt, and it needs them.")
    if registration.jwks is not None:
        assertion_keys(registration.jwks)
    if method == "none" and "client_credentials" in registration.grant_types:
        raise ClientInvalid("A public client has no credentials to grant anything for.")


def assertion_keys(jwks: dict[str, Any]) -> dict[str, list[tuple[ECKey | RSAKey, str]]]:
    """Return a client's keys by id (without: ""), each with its algorithm.

    An RSA key that does not name one is for PS256 and RS256 both.

    :raises ClientInvalid: a key is private, weak, for something else or not unique.
    """
    found: dict[str, list[tuple[ECKey | RSAKey, str]]] = {}
    entries = jwks.get("keys")
    if not isinstance(entries, list) or not entries:
        raise ClientInvalid("A key set is an object with a list of keys.")
    for entry in entries:
        if not isinstance(entry, dict):
            raise ClientInvalid("A key is an object (RFC 7517).")
        kid = entry.get("kid", "")
        if not isinstance(kid, str) or kid in found or (kid == "" and len(entries) > 1):
            raise ClientInvalid("Each key of several needs an id of its own.")
        found[kid] = _assertion_key(entry)
    return found


def _assertion_key(entry: dict[str, Any]) -> list[tuple[ECKey | RSAKey, str]]:
    if {"d", "p", "q", "k"} & set(entry):
        raise ClientInvalid("Only public keys are registered; this one is lost now.")
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get(
        "key_ops", ["verify"]
    ):
        raise ClientInvalid("The key is not meant for signatures.")
    try:
        key: ECKey | RSAKey
        algs: list[str]
        if entry.get("kty") == "EC" and entry.get("crv") == "P-256":
            key, algs = ECKey.import_key(entry), ["ES256"]
        elif entry.get("kty") == "RSA" and len(entry["n"]) >= _RSA_MODULUS_LENGTH_MIN:
            key, algs = RSAKey.import_key(entry), ["PS256", "RS256"]
        else:
            raise ClientInvalid("A key is EC on P-256, or RSA of 2048 bits or more.")
        # Only now the numbers are looked at.
        _ = key.public_key
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise ClientInvalid("A key is not readable (RFC 7517).") from error
    named = entry.get("alg")
    if named is not None and named not in algs:
        raise ClientInvalid(f"The key is for {' or '.join(algs)}.")
    return [(key, alg) for alg in algs if named in {None, alg}]


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
