"""Codes of an authenticator app (TOTP, RFC 6238): six digits, a new one every 30 s.

SHA-1 and six digits, because that is what every app reads from a QR code; the shared
secret has 160 bits, so the hash's collisions do not matter (RFC 4226 appendix B).
"""

import base64
import hmac
import secrets
import struct
from datetime import datetime
from urllib.parse import quote, urlencode
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import TotpCredential
from flagon_chassis.errors import Conflict

from .factors import SecondStepRefused
from .keys import Sealer

STEP_SECONDS = 30
DIGITS = 6
_SECRET_BYTES = 20
# One step to either side: clocks of phones are off, and typing takes a while.
_DRIFT_STEPS = (0, -1, 1)


class TotpMissing(Conflict):
    """No authenticator app is being set up."""


class TotpPresent(Conflict):
    """An authenticator app is set up already."""


def offer_totp(
    session: Session, sealer: Sealer, account_id: UUID, *, now: datetime
) -> None:
    """Make the secret of a new app; it counts once a first code has confirmed it.

    Starting again makes another secret.

    :raises TotpPresent: the account has a confirmed one.
    """
    secret = secrets.token_bytes(_SECRET_BYTES)
    row = {
        "secret_sealed": sealer.seal(_purpose(account_id), secret),
        "last_step": 0,
        "created_at": now,
    }
    made = session.scalar(
        insert(TotpCredential)
        .values(account_id=account_id, **row)
        .on_conflict_do_update(
            index_elements=["account_id"],
            set_=row,
            where=TotpCredential.confirmed_at.is_(None),
        )
        .returning(TotpCredential.account_id)
    )
    if made is None:
        raise TotpPresent("Remove it first.")


def offered_secret(session: Session, sealer: Sealer, account_id: UUID) -> str:
    """Return the secret that is being set up, as people type it (base32).

    :raises TotpMissing: none is being set up; a confirmed one is never shown again.
    """
    row = session.get(TotpCredential, account_id)
    if row is None or row.confirmed_at is not None:
        raise TotpMissing("Start again.")
    return base64.b32encode(_opened(sealer, row)).decode()


def provisioning_uri(secret: str, *, issuer: str, account_name: str) -> str:
    """Return what the QR code says.

    The form is Google's, which every app reads:
    https://github.com/google/google-authenticator/wiki/Key-Uri-Format

    :param secret: in base32.
    """
    label = quote(f"{issuer}:{account_name}", safe="")
    query = urlencode(
        {
            "secret": secret,
            "issuer": issuer,
            "algorithm": "SHA1",
            "digits": DIGITS,
            "period": STEP_SECONDS,
        },
        quote_via=quote,
    )
    return f"otpauth://totp/{label}?{query}"


def confirm_totp(
    session: Session, sealer: Sealer, account_id: UUID, code: str, *, now: datetime
) -> None:
    """Let the app count from now on, because its first code is right.

    :raises TotpMissing: none is being set up.
    :raises SecondStepRefused: the code is not right.
    """
    row = session.get(TotpCredential, account_id)
    if row is None or row.confirmed_at is not None:
        raise TotpMissing("Start again.")
    step = _matching_step(_opened(sealer, row), code, now=now)
    confirmed = session.execute(
        update(TotpCredential)
        .where(
            TotpCredential.account_id == account_id,
            TotpCredential.confirmed_at.is_(None),
            # Not another one that was offered meanwhile.
            TotpCredential.secret_sealed == row.secret_sealed,
        )
        .values(confirmed_at=now, last_step=step)
        .returning(TotpCredential.account_id)
    ).one_or_none()
    if confirmed is None:
        raise TotpMissing("Start again.")


def use_code(
    session: Session, sealer: Sealer, account_id: UUID, code: str, *, now: datetime
) -> None:
    """Accept a code, once.

    The same code never works again, nor does one before it (RFC 6238 section 5.2):
    of several at the same moment the database lets one through.

    :raises SecondStepRefused: it is wrong, was used or the account has no app.
    """
    row = session.scalars(
        select(TotpCredential)
        .filter_by(account_id=account_id)
        .where(TotpCredential.confirmed_at.is_not(None))
    ).one_or_none()
    if row is None:
        raise SecondStepRefused("Check it and try again.")
    step = _matching_step(_opened(sealer, row), code, now=now, after=row.last_step)
    accepted = session.execute(
        update(TotpCredential)
        .where(
            TotpCredential.account_id == account_id,
            TotpCredential.confirmed_at.is_not(None),
            TotpCredential.last_step < step,
        )
        .values(last_step=step)
        .returning(TotpCredential.account_id)
    ).one_or_none()
    if accepted is None:
        raise SecondStepRefused("Check it and try again.")


def remove_totp(session: Session, account_id: UUID) -> bool:
    """Forget the app; return whether there was a confirmed one. Safe to run twice."""
    confirmed_at = session.execute(
        delete(TotpCredential)
        .where(TotpCredential.account_id == account_id)
        .returning(TotpCredential.confirmed_at)
    ).one_or_none()
    return confirmed_at is not None and confirmed_at[0] is not None


def code_at(secret: bytes, step: int) -> str:
    """Return the code of one time step (RFC 4226 section 5.3)."""
    digest = hmac.digest(secret, struct.pack(">Q", step), "sha1")
    offset = digest[-1] & 0x0F
    number = struct.unpack_from(">I", digest, offset)[0] & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def _matching_step(secret: bytes, code: str, *, now: datetime, after: int = -1) -> int:
    typed = "".join(code.split()).encode(errors="replace")
    present = int(now.timestamp()) // STEP_SECONDS
    # All are compared, so that the time says nothing about which one was near.
    matches = [
        step
        for step in (present + drift for drift in _DRIFT_STEPS)
        if hmac.compare_digest(code_at(secret, step).encode(), typed) and step > after
    ]
    if not matches:
        raise SecondStepRefused("Check it and try again.")
    return matches[0]


def reseal(session: Session, sealer: Sealer) -> int:
    """Encrypt every secret under the present key-encryption key; return how many.

    Safe to repeat.
    """
    rows = list(session.scalars(select(TotpCredential).with_for_update()))
    for row in rows:
        row.secret_sealed = sealer.reseal(_purpose(row.account_id), row.secret_sealed)
    session.flush()
    return len(rows)


def _opened(sealer: Sealer, row: TotpCredential) -> bytes:
    return sealer.open(_purpose(row.account_id), row.secret_sealed)


def _purpose(account_id: UUID) -> str:
    # What is sealed for one account opens for no other, nor as a signing key.
    return f"totp:{account_id}"
