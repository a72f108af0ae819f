"""Links in mails: derived when they are written, checked against what they are to change.

The database knows that there is a link and what for, never the link itself. A link is
void once it was used, its time is over, or what it is about has changed meanwhile.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account, EmailToken
from flagon_chassis.errors import Invalid

Purpose = Literal["verify", "reset", "change"]
LIVES: dict[Purpose, timedelta] = {
    "verify": timedelta(hours=24),
    "reset": timedelta(minutes=15),
    "change": timedelta(hours=24),
}
"""How long a link works, by what it is for."""
_ID_BYTES = 16
_MAC_BYTES = 32
_KEPT = timedelta(days=7)


class LinkVoid(Invalid):
    """This link does not work any more."""

    status = 400


@dataclass(frozen=True)
class Linker:
    """Derives what stands in a link.

    :param key: 32 bytes that serve for nothing else.
    """

    key: bytes

    def code(self, token: EmailToken) -> str:
        """Return the secret part of the link."""
        mac = self._mac(token)
        return base64.urlsafe_b64encode(token.id.bytes + mac).rstrip(b"=").decode()

    def fits(self, token: EmailToken, mac: bytes) -> bool:
        """Say whether a link was made from this row."""
        return hmac.compare_digest(self._mac(token), mac)

    def _mac(self, token: EmailToken) -> bytes:
        parts = (
            token.purpose.encode(),
            token.id.bytes,
            token.account_id.bytes,
            token.fingerprint,
            token.email.encode(),
        )
        # Lengths in front: no two sets of parts make one message.
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self.key, message, "sha256")


def create_token(
    session: Session, account: Account, purpose: Purpose, email: str, *, now: datetime
) -> EmailToken:
    """Add the row of one link and return it.

    :param email: the address that the link goes to and proves.
    """
    session.execute(delete(EmailToken).where(EmailToken.expires_at < now - _KEPT))
    token = EmailToken(
        id=uuid7(),
        account_id=account.id,
        purpose=purpose,
        email=email,
        fingerprint=_fingerprint(account, purpose),
        created_at=now,
        expires_at=now + LIVES[purpose],
    )
    session.add(token)
    session.flush()
    return token


def find_token(
    session: Session,
    linker: Linker,
    code: str,
    *purposes: Purpose,
    now: datetime,
    lock: bool = False,
) -> tuple[EmailToken, Account]:
    """Return the row of a link and its account. Looking does not use it up.

    :param lock: keep others from using either until the transaction ends.
    :raises LinkVoid: for every reason alike.
    """
    id_, mac = _taken_apart(code)
    found = session.get(EmailToken, id_) if id_ else None
    account = (
        session.get(Account, found.account_id, with_for_update=lock or None)
        if found
        else None
    )
    token = (
        session.get(EmailToken, id_, with_for_update=True, populate_existing=True)
        if lock and found
        else found
    )
    if (
        token is None
        or account is None
        or account.disabled
        or token.purpose not in purposes
        or not linker.fits(token, mac)
        or token.used_at is not None
        or token.expires_at <= now
        or token.fingerprint != _fingerprint(account, token.purpose)
    ):
        raise LinkVoid(_("It was used, is too old, or something newer took its place."))
    return token, account


def use_token(session: Session, token: EmailToken, *, now: datetime) -> None:
    """Make a link and all others of its kind worthless."""
    token.used_at = now
    session.execute(
        update(EmailToken)
        .where(
            EmailToken.account_id == token.account_id,
            EmailToken.purpose == token.purpose,
            EmailToken.used_at.is_(None),
        )
        .values(used_at=now)
    )


def pending_address(session: Session, account: Account, *, now: datetime) -> str | None:
    """Return the new address that waits for its confirmation, if any."""
    token = session.scalars(
        select(EmailToken)
        .filter_by(account_id=account.id, purpose="change", used_at=None)
        .where(EmailToken.expires_at > now)
        .order_by(EmailToken.created_at.desc())
        .limit(1)
    ).one_or_none()
    if token is None or token.fingerprint != _fingerprint(account, "change"):
        return None
    return token.email


def _fingerprint(account: Account, purpose: str) -> bytes:
    """Return a digest of what makes a link void when it changes."""
    about = [purpose, str(account.id), account.email_key]
    if purpose != "verify":
        about.append(account.password_hash or "")
    return hashlib.sha256("\0".join(about).encode()).digest()


def _taken_apart(code: str) -> tuple[UUID | None, bytes]:
    try:
        raw = base64.b64decode(
            code + "=" * (-len(code) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError):
        return None, b""
    if len(raw) != _ID_BYTES + _MAC_BYTES:
        return None, b""
    return UUID(bytes=raw[:_ID_BYTES]), raw[_ID_BYTES:]
