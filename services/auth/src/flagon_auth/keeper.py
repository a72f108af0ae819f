"""What changes signing keys: commands, the API and time itself; and who is told."""

import random
import threading
from datetime import UTC, datetime
from typing import Any

import redis
import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from flagon_chassis import metrics
from flagon_chassis.db import reading, transaction
from flagon_chassis.errors import Unavailable

from .clients import parts
from .domain import audit, keys, purge, totp
from .models import SigningKey

log = structlog.get_logger()

LOOK_SECONDS = 300.0
"""How often each process looks whether a key is due."""


class DropUntold(Unavailable):
    """The key is dropped, but the services could not be told."""


def rotate_keys(
    *, actor: str, address: str | None = None, at_once: bool = False, now: datetime
) -> list[SigningKey]:
    """Let the next keys sign, and tell every verifier; return all keys.

    :raises flagon_auth.domain.keys.KeyTooYoung: verifiers may not know the next key.
    """
    with transaction() as db:
        found = keys.rotate_keys(
            db, parts().issuer.sealer, plan=parts().plan, now=now, at_once=at_once
        )
        audit.record(
            db,
            "keys_rotated",
            actor=actor,
            address=address,
            now=now,
            algs=list(keys.ALGS),
            at_once=at_once,
        )
    _tell()
    return found


def drop_key(
    kid: str, *, actor: str, address: str | None = None, now: datetime
) -> SigningKey:
    """Make everything that one key signed worthless at every service, within seconds.

    Safe to repeat, as after `DropUntold`.

    :raises flagon_auth.domain.keys.KeyNotFound: there is no such key.
    :raises DropUntold: the key is out of the set, but Redis does not answer; services
        go on believing it until they next fetch the set, five minutes at most.
    """
    with transaction() as db:
        dropped = keys.drop_key(db, parts().issuer.sealer, kid, now=now)
        audit.record(db, "key_dropped", actor=actor, address=address, now=now, kid=kid)
    try:
        parts().denylist.refuse_key(kid)
        parts().denylist.keys_changed()
    except redis.RedisError as error:
        raise DropUntold(
            "Services believe it for up to five minutes more: drop it once again.",
            retry_after_seconds=5,
        ) from error
    return dropped


def reseal() -> dict[str, int]:
    """Encrypt every stored secret under the present key-encryption key."""
    sealer = parts().issuer.sealer
    with transaction() as db:
        return {
            "signing_keys": keys.reseal(db, sealer),
            "totp_secrets": totp.reseal(db, sealer),
        }


def keep_keys(*, now: datetime) -> list[str]:
    """Do what is due; return the algorithms whose keys changed."""
    with transaction() as db:
        rotated = keys.keep_keys(db, parts().issuer.sealer, plan=parts().plan, now=now)
        if rotated:
            audit.record(db, "keys_rotated", actor="schedule", now=now, algs=rotated)
    if rotated:
        log.info("keys_rotated", algs=rotated)
        _tell()
    return rotated


def forget_old(*, now: datetime) -> None:
    """Forget rows that say nothing any more."""
    with transaction() as db:
        gone = purge.purge(db, now=now)
    if gone and any(gone.values()):
        log.info("rows_forgotten", **gone)


def published(*, now: datetime) -> dict[str, Any]:
    """Return the JWK set; the very first call makes the keys."""
    with reading() as db:
        found = keys.published(db, now=now)
        for alg, since in keys.signing_since(db):
            metrics.gauge(
                "flagon_signing_key_since_timestamp_seconds",
                "When the key began to sign that signs now.",
                "alg",
                mode="livemax",
            ).labels(alg).set(since.timestamp())
    if not found["keys"]:
        with transaction() as db:
            keys.ensure_keys(db, parts().issuer.sealer, now=now)
            found = keys.published(db, now=now)
    return found


def start(
    app: Flask, *, seconds: float = LOOK_SECONDS, stop: threading.Event | None = None
) -> threading.Thread:
    """Look after keys and old rows in a thread, for as long as the process lives."""
    stop = stop or threading.Event()

    def look_after() -> None:
        # Not all processes at the moment at which all of them started.
        while not stop.wait(random.uniform(0, 2 * seconds)):  # noqa: S311
            try:
                with app.app_context():
                    keep_keys(now=datetime.now(UTC))
                    forget_old(now=datetime.now(UTC))
            except SQLAlchemyError as error:
                log.warning("keys_not_kept", error=type(error).__name__)

    thread = threading.Thread(target=look_after, name="keeper", daemon=True)
    thread.start()
    return thread


def _tell() -> None:
    try:
        parts().denylist.keys_changed()
    except redis.RedisError as error:
        # Verifiers have known the new key for ten minutes, or ask when they first see it.
        log.warning("keys_change_untold", error=type(error).__name__)
