"""Signing keys: made here, sealed in the database, published ahead of their use."""

import json
from datetime import datetime, timedelta
from functools import lru_cache
from os import urandom
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc.jwk import ECKey, KeySet, RSAKey
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flagon_auth.models import SigningKey
from flagon_chassis.errors import Conflict

ACCESS_ALG = "ES256"
ID_ALG = "RS256"
ALGS = (ACCESS_ALG, ID_ALG)

LEAD = timedelta(minutes=10)
"""How long a key is published before it signs, so that every verifier knows it then.

Covers the set's cache life at the gateway and the verifiers (60 s + 300 s), the pause
after a failed look-up (30 s) and a margin.
"""
_NONCE_BYTES = 12

Key = ECKey | RSAKey


class KeyTooYoung(Conflict):
    """The next key has not been published for long enough to sign."""


class Sealer:
    """Encrypts private keys for the database; only this process can open them.

    :param key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, kid: str, private: bytes) -> bytes:
        """Return the private key encrypted and bound to its id."""
        nonce = urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, private, kid.encode())

    def open(self, kid: str, sealed: bytes) -> bytes:
        """Return what was sealed under this id.

        :raises cryptography.exceptions.InvalidTag: other key, other id or altered.
        """
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return self._aead.decrypt(nonce, body, kid.encode())


def ensure_keys(session: Session, sealer: Sealer, *, now: datetime) -> None:
    """See to it that each algorithm has a key that signs and one that will.

    Safe to run twice and at once.
    """
    _lock(session)
    for alg in ALGS:
        states = set(session.scalars(select(SigningKey.state).filter_by(alg=alg)))
        if "active" not in states:
            _make(session, sealer, alg=alg, state="active", now=now)
        if "pending" not in states:
            _make(session, sealer, alg=alg, state="pending", now=now)
    session.flush()


def rotate_keys(
    session: Session,
    sealer: Sealer,
    *,
    access_seconds: int,
    now: datetime,
    at_once: bool = False,
) -> list[SigningKey]:
    """Let the published next keys sign, retire the present ones and publish new ones.

    :param access_seconds: life of an access token: its key must be published so long.
    :param at_once: skip the waiting time; tokens may be refused for half a minute.
    :raises KeyTooYoung: verifiers may not know the next key yet.
    """
    ensure_keys(session, sealer, now=now)
    for alg in ALGS:
        active = _in_state(session, alg, "active")
        pending = _in_state(session, alg, "pending")
        ready_at = pending.created_at + LEAD
        if now < ready_at and not at_once:
            raise KeyTooYoung(f"It may sign from {ready_at.isoformat()} on.", alg=alg)
        active.state = "retiring"
        active.private_sealed = None
        # ID tokens come back as hints long after; those are checked against the
        # database, so here the life of a token and a minute for slow clocks suffice.
        active.retire_at = now + timedelta(seconds=access_seconds + 60)
        session.flush()
        pending.state = "active"
        pending.activated_at = now
        session.flush()
        _make(session, sealer, alg=alg, state="pending", now=now)
    session.flush()
    return list_keys(session)


def list_keys(session: Session) -> list[SigningKey]:
    """Return every key there ever was, oldest first."""
    return list(
        session.scalars(
            select(SigningKey).order_by(SigningKey.created_at, SigningKey.kid)
        )
    )


def published(session: Session, sealer: Sealer, *, now: datetime) -> dict[str, Any]:
    """Return the JWK set (RFC 7517): keys that will sign, sign, or have just signed.

    The very first call makes the keys.
    """
    if not list_keys(session):
        ensure_keys(session, sealer, now=now)
    rows = [
        row for row in list_keys(session) if not row.retire_at or row.retire_at > now
    ]
    return {"keys": [row.public_jwk for row in rows]}


def signing_key(
    session: Session, sealer: Sealer, alg: str, *, now: datetime
) -> tuple[str, Key]:
    """Return the id and the private key that sign with this algorithm now.

    The very first call makes the keys.
    """
    statement = select(SigningKey).filter_by(alg=alg, state="active")
    row = session.scalars(statement).one_or_none()
    if row is None:
        ensure_keys(session, sealer, now=now)
        row = _in_state(session, alg, "active")
    return row.kid, _opened(sealer, row.kid, row.private_sealed or b"")


def verification_keys(session: Session, alg: str) -> KeySet:
    """Return the public keys of all times, to read tokens that we once made."""
    rows = session.scalars(select(SigningKey.public_jwk).filter_by(alg=alg))
    return KeySet.import_key_set({"keys": list(rows)})


def _in_state(session: Session, alg: str, state: str) -> SigningKey:
    return session.scalars(select(SigningKey).filter_by(alg=alg, state=state)).one()


def _lock(session: Session) -> None:
    session.execute(select(func.pg_advisory_xact_lock(728_114_010)))


def _make(
    session: Session, sealer: Sealer, *, alg: str, state: str, now: datetime
) -> None:
    key: Key = (
        ECKey.generate_key("P-256") if alg == "ES256" else RSAKey.generate_key(2048)
    )
    kid = key.thumbprint()
    private = json.dumps(key.as_dict(private=True)).encode()
    session.add(
        SigningKey(
            kid=kid,
            alg=alg,
            state=state,
            public_jwk={
                **key.as_dict(private=False),
                "kid": kid,
                "alg": alg,
                "use": "sig",
            },
            private_sealed=sealer.seal(kid, private),
            created_at=now,
            activated_at=now if state == "active" else None,
        )
    )


# Opening and parsing a key costs more than signing with it.
@lru_cache(maxsize=16)
def _opened(sealer: Sealer, kid: str, sealed: bytes) -> Key:
    jwk = json.loads(sealer.open(kid, sealed))
    kind = ECKey if jwk["kty"] == "EC" else RSAKey
    return kind.import_key(jwk)
