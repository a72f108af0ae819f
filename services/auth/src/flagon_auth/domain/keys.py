"""Signing keys: made here, sealed in the database, published ahead of their use."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from os import urandom
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc.jwk import ECKey, KeySet, RSAKey
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from flagon_auth.models import SigningKey
from flagon_chassis.errors import Conflict, NotFound

ACCESS_ALG = "ES256"
ID_ALG = "RS256"
ALGS = (ACCESS_ALG, ID_ALG)

CLOCKS = timedelta(seconds=60)
"""How long a key is published after its last token expired, for clocks that differ."""
HINTS = timedelta(days=90)
"""How long a public half is kept after that, to read ID tokens that come as hints."""
_NONCE_BYTES = 12
_LOCK = 728_114_010

Key = ECKey | RSAKey

_PUBLISHED = (
    select(SigningKey.public_jwk, SigningKey.retire_at)
    .where(SigningKey.state != "retired")
    .order_by(SigningKey.created_at, SigningKey.kid)
)


class KeyTooYoung(Conflict):
    """The next key has not been published for long enough to sign."""


class KeyNotFound(NotFound):
    """There is no such signing key."""


@dataclass(frozen=True)
class Plan:
    """When keys change by themselves."""

    every: timedelta | None
    """How long a key signs; None: until somebody rotates by hand."""
    lead: timedelta
    """How long a key is published before it signs."""
    token_life: timedelta
    """How long the longest-lived token that it signed goes on."""


class Sealer:
    """Encrypts private keys for the database; only this process can open them.

    :param key: 32 bytes.
    :param previous: the key before this one, which still opens and seals nothing.
    """

    def __init__(self, key: bytes, previous: bytes | None = None) -> None:
        self._aead = AESGCM(key)
        self._previous = AESGCM(previous) if previous else None

    def seal(self, kid: str, private: bytes) -> bytes:
        """Return the private key encrypted and bound to its id."""
        nonce = urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, private, kid.encode())

    def open(self, kid: str, sealed: bytes) -> bytes:
        """Return what was sealed under this id.

        :raises cryptography.exceptions.InvalidTag: other key, other id or altered.
        """
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, body, kid.encode())
        except InvalidTag:
            if self._previous is None:
                raise
            return self._previous.decrypt(nonce, body, kid.encode())

    def reseal(self, kid: str, sealed: bytes) -> bytes:
        """Return the same sealed under the present key.

        :raises cryptography.exceptions.InvalidTag: no key of ours opens it.
        """
        return self.seal(kid, self.open(kid, sealed))


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
    plan: Plan,
    now: datetime,
    at_once: bool = False,
) -> list[SigningKey]:
    """Let the published next keys sign, retire the present ones and publish new ones.

    :param at_once: skip the waiting time; a verifier that is not told that the keys
        changed may refuse tokens for half a minute.
    :raises KeyTooYoung: verifiers may not know the next key yet.
    """
    ensure_keys(session, sealer, now=now)
    for alg in ALGS:
        ready_at = _in_state(session, alg, "pending").created_at + plan.lead
        if now < ready_at and not at_once:
            raise KeyTooYoung(f"It may sign from {ready_at.isoformat()} on.", alg=alg)
    for alg in ALGS:
        _rotate(session, sealer, alg, token_life=plan.token_life, now=now)
    return list_keys(session)


def keep_keys(
    session: Session, sealer: Sealer, *, plan: Plan, now: datetime
) -> list[str]:
    """Do what is due: make missing keys, rotate old ones, forget retired ones.

    Safe to run at any time and by many at once: one of them does it, and who comes
    later finds nothing due.

    :returns: the algorithms whose keys changed.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
        return []
    ensure_keys(session, sealer, now=now)
    rotated = []
    for alg in ALGS:
        active = _in_state(session, alg, "active")
        pending = _in_state(session, alg, "pending")
        due = plan.every and (active.activated_at or now) + plan.every <= now
        if due and pending.created_at + plan.lead <= now:
            _rotate(session, sealer, alg, token_life=plan.token_life, now=now)
            rotated.append(alg)
    retire_keys(session, now=now)
    return rotated


def retire_keys(session: Session, *, now: datetime) -> int:
    """Take keys out of the set whose tokens have all expired; return how many.

    Forgets those that no hint can need any more. Safe to run at any time.
    """
    ended = list(
        session.scalars(
            select(SigningKey)
            .filter_by(state="retiring")
            .where(SigningKey.retire_at <= now)
            .with_for_update()
        )
    )
    for row in ended:
        row.state = "retired"
    session.flush()
    session.execute(
        delete(SigningKey).where(
            SigningKey.state == "retired", SigningKey.retire_at < now - HINTS
        )
    )
    return len(ended)


def drop_key(
    session: Session, sealer: Sealer, kid: str, *, now: datetime
) -> SigningKey:
    """Believe nothing any more that this key signed or will sign: it is in wrong hands.

    If it was the one that signs, the next one does so at once. Safe to repeat. Verifiers
    must be told besides: see the denylist.

    :raises KeyNotFound: there is no such key.
    """
    _lock(session)
    row = session.get(SigningKey, kid)
    if row is None:
        raise KeyNotFound(f"There is no key {kid}.")
    was = row.state
    row.state = "retired"
    row.private_sealed = None
    row.retire_at = row.retire_at or now
    row.dropped_at = row.dropped_at or now
    session.flush()
    if was == "active":
        heir = session.scalars(
            select(SigningKey).filter_by(alg=row.alg, state="pending")
        ).one_or_none()
        if heir:
            heir.state, heir.activated_at = "active", now
            session.flush()
    if was in {"active", "pending"}:
        ensure_keys(session, sealer, now=now)
    return row


def reseal(session: Session, sealer: Sealer) -> int:
    """Encrypt every private key under the present key-encryption key; return how many.

    Safe to repeat; afterwards the previous one is of no use for them.
    """
    _lock(session)
    rows = list(
        session.scalars(
            select(SigningKey).where(SigningKey.private_sealed.is_not(None))
        )
    )
    for row in rows:
        row.private_sealed = sealer.reseal(row.kid, row.private_sealed or b"")
    session.flush()
    return len(rows)


def list_keys(session: Session) -> list[SigningKey]:
    """Return every key there ever was, oldest first."""
    return list(
        session.scalars(
            select(SigningKey).order_by(SigningKey.created_at, SigningKey.kid)
        )
    )


def published(session: Session, *, now: datetime) -> dict[str, Any]:
    """Return the JWK set (RFC 7517): keys that will sign, sign, or have just signed."""
    rows = session.execute(_PUBLISHED)
    # Who retires them comes by once in a while; the set is right before that.
    return {"keys": [jwk for jwk, end in rows if end is None or end > now]}


def signing_since(session: Session) -> list[tuple[str, datetime]]:
    """Return, for each algorithm, since when its present key signs."""
    rows = session.execute(
        select(SigningKey.alg, SigningKey.activated_at).where(
            SigningKey.state == "active", SigningKey.activated_at.is_not(None)
        )
    )
    return [(alg, since) for alg, since in rows if since]


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
    """Return the public keys of the last months, to read tokens that we once made.

    Not those that were dropped: what they signed may be somebody else's.
    """
    rows = session.scalars(
        select(SigningKey.public_jwk).filter_by(alg=alg, dropped_at=None)
    )
    return KeySet.import_key_set({"keys": list(rows)})


def _in_state(session: Session, alg: str, state: str) -> SigningKey:
    return session.scalars(select(SigningKey).filter_by(alg=alg, state=state)).one()


def _lock(session: Session) -> None:
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _rotate(
    session: Session, sealer: Sealer, alg: str, *, token_life: timedelta, now: datetime
) -> None:
    active = _in_state(session, alg, "active")
    pending = _in_state(session, alg, "pending")
    active.state = "retiring"
    active.private_sealed = None
    active.retire_at = now + token_life + CLOCKS
    session.flush()
    pending.state = "active"
    pending.activated_at = now
    session.flush()
    _make(session, sealer, alg=alg, state="pending", now=now)
    session.flush()


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
