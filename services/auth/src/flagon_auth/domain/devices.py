"""Devices without a browser of their own, let in from another one (RFC 8628).

The device shows a short code; a person signs in elsewhere, types it in and says yes or
no; meanwhile the device asks and asks with a long code that nobody sees.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import Account, Client, DeviceCode, TokenGrant
from flagon_chassis.errors import Invalid, NotFound

from . import grants
from .tokens import Issuer

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""Without vowels: no code is a word. RFC 8628 section 6.1."""
LENGTH = 8
"""20^8 are 34 bits: enough for ten minutes and a few guesses."""
SID_PREFIX = "device-"
"""Begins the session ids of devices, which no browser has."""
LIFE_SECONDS = 600
INTERVAL_SECONDS = 5
SLOWER_SECONDS = 5
# Requests that were sent in time may arrive closer to each other.
_TOLERANCE_SECONDS = 1.0


class DeviceUnknown(NotFound):
    """No device waits with this code."""


class DeviceWaits(Invalid):
    """The device gets no tokens now."""


class DeviceRefused(DeviceWaits):
    """The device code cannot be used."""


class DevicePending(DeviceWaits):
    """Nobody has answered yet."""


class DeviceTooFast(DeviceWaits):
    """The device asks more often than it was told; from now on it must wait longer."""


class DeviceExpired(DeviceWaits):
    """Nobody answered in time."""


class DeviceDenied(DeviceWaits):
    """The person said no."""


@dataclass(frozen=True)
class UserCodes:
    """Makes short codes and what is stored of them.

    A plain hash of so short a code could be tried out by who has the table.

    :param key: kept outside of the database.
    """

    key: bytes

    def new(self) -> str:
        """Return a random code."""
        return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))

    def digest(self, code: str) -> bytes:
        """Return the stored form of a code, however it was typed."""
        return hmac.digest(self.key, plain(code).encode(), "sha256")


@dataclass(frozen=True)
class Waiting:
    """A device that has just begun to wait."""

    device_code: str
    user_code: str


def plain(code: str) -> str:
    """Return the letters of a code that a person typed."""
    return "".join(char for char in code.upper() if char in ALPHABET)


def spoken(code: str) -> str:
    """Return a code as people read it out."""
    return f"{code[:4]}-{code[4:]}"


def start(
    session: Session,
    codes: UserCodes,
    *,
    client: Client,
    scope: str,
    dpop_jkt: str | None,
    now: datetime,
) -> Waiting:
    """Let a device wait and return its codes; only hashes are stored."""
    device_code = secrets.token_urlsafe(32)
    # Of 2^34 codes another device has this one once in a lifetime.
    while True:
        user_code = codes.new()
        made = session.scalar(
            insert(DeviceCode)
            .values(
                code_hash=_hash(device_code),
                user_code_hash=codes.digest(user_code),
                client_id=client.id,
                scope=scope,
                state="pending",
                dpop_jkt=dpop_jkt,
                interval_seconds=INTERVAL_SECONDS,
                created_at=now,
                expires_at=now + timedelta(seconds=LIFE_SECONDS),
            )
            .on_conflict_do_nothing(index_elements=["user_code_hash"])
            .returning(DeviceCode.code_hash)
        )
        if made is not None:
            return Waiting(device_code, user_code)


def find_waiting(
    session: Session, digest: bytes, *, lock: bool = False, now: datetime
) -> tuple[DeviceCode, Client]:
    """Return the device that waits with a user code, and its client.

    :param digest: of the code: see `UserCodes`.
    :param lock: keep others from answering until the transaction ends.
    :raises DeviceUnknown: no device does, for whatever reason.
    """
    statement = select(DeviceCode).filter_by(user_code_hash=digest)
    if lock:
        statement = statement.with_for_update(of=DeviceCode)
    row = session.scalars(statement).one_or_none()
    if row is None or row.state != "pending" or row.expires_at <= now:
        raise DeviceUnknown("Check the code; it works for ten minutes and once.")
    client = session.get_one(Client, row.client_id)
    if client.disabled or GRANT_TYPE not in client.grant_types:
        raise DeviceUnknown("Check the code; it works for ten minutes and once.")
    return row, client


def approve(
    session: Session,
    issuer: Issuer,
    device: DeviceCode,
    *,
    account: Account,
    scope: str,
    auth_time: datetime,
    amr: list[str],
    acr: str,
    now: datetime,
) -> TokenGrant:
    """Let the device in; it learns of it when it asks next.

    The grant is of a session of its own: signing out of the browser in which it was
    given does not end it, no more than that browser is the device.
    """
    offline = "offline_access" in scope.split()
    life = (
        issuer.refresh_absolute_seconds if offline else issuer.session_absolute_seconds
    )
    device.grant = TokenGrant(
        account_id=account.id,
        client_id=device.client_id,
        sid=SID_PREFIX + secrets.token_urlsafe(16),
        scope=scope,
        auth_time=auth_time,
        amr=amr,
        acr=acr,
        created_at=now,
        expires_at=now + timedelta(seconds=life),
    )
    device.state = "approved"
    session.flush()
    return device.grant


def deny(device: DeviceCode) -> None:
    """Turn the device away."""
    device.state = "denied"


def poll(
    session: Session, device_code: str, *, client_id: str, now: datetime
) -> tuple[DeviceCode, TokenGrant]:
    """Return what a device was granted; twins wait until the transaction ends.

    :raises DeviceRefused: there is no such code for this client, or it is used up.
    :raises DevicePending: nobody has answered yet; how often it asks is noted, which
        must be committed.
    :raises DeviceTooFast: that, and it asked too soon; to be committed as well.
    :raises DeviceExpired: nobody answered in time.
    :raises DeviceDenied: the person said no.
    """
    device = session.scalars(
        select(DeviceCode)
        .filter_by(code_hash=_hash(device_code))
        .with_for_update(of=DeviceCode)
        # Another request may have changed it while this one waited for the lock.
        .execution_options(populate_existing=True)
    ).one_or_none()
    if device is None or device.client_id != client_id or device.state == "used":
        raise DeviceRefused("The device code is not valid.")
    if device.expires_at <= now:
        raise DeviceExpired("Nobody answered in time; begin again.")
    if device.state == "denied":
        raise DeviceDenied("The person said no.")
    if device.grant is None:
        _note_question(device, now=now)
        raise DevicePending("Nobody has answered yet.")
    if device.grant.revoked_at is not None:
        raise DeviceRefused("The device code is not valid any more.")
    return device, device.grant


def use(device: DeviceCode) -> None:
    """Use the device code up: it is worth tokens once."""
    device.state = "used"


def _note_question(device: DeviceCode, *, now: datetime) -> None:
    last, device.last_polled_at = device.last_polled_at, now
    least = timedelta(seconds=device.interval_seconds - _TOLERANCE_SECONDS)
    if last is not None and now - last < least:
        # Section 3.5: for this and all that follow.
        device.interval_seconds += SLOWER_SECONDS
        raise DeviceTooFast(f"Ask every {device.interval_seconds} seconds.")


def allowed_scope(device: DeviceCode, client: Client, account: Account) -> str:
    """Return what of a device's wishes is within its rights and the person's."""
    return grants.allowed_scope(device.scope, client, account.roles)


def _hash(secret: str) -> bytes:
    # A fast hash is right: device codes are 256 random bits.
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
