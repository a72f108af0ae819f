"""Recovery codes: a way in for who has lost the phone or the key.

Ten codes of 120 random bits. That many bits cannot be guessed, so a fast hash is right;
each works once, and new ones make all older ones worthless.
"""

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from flagon_auth.models import RecoveryCode

from .factors import SecondStepRefused

COUNT = 10
FEW = 3
"""With so many left it is time for new ones."""
# Without letters and digits that look alike on paper (Crockford's base32).
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_GROUPS, _GROUP_LENGTH = 6, 4
_LOOK_ALIKE = str.maketrans("ilo", "110")


def replace_codes(session: Session, account_id: UUID, *, now: datetime) -> list[str]:
    """Return new codes in place of all older ones; only their hashes are kept."""
    forget_codes(session, account_id)
    codes = [_make() for _ in range(COUNT)]
    session.add_all(
        RecoveryCode(
            code_hash=_hash(account_id, code), account_id=account_id, created_at=now
        )
        for code in codes
    )
    session.flush()
    return codes


def use_code(session: Session, account_id: UUID, code: str, *, now: datetime) -> int:
    """Accept a code, once; return how many are left.

    :raises SecondStepRefused: it is wrong, was used or is another account's.
    """
    used = session.execute(
        update(RecoveryCode)
        .where(
            RecoveryCode.code_hash == _hash(account_id, code),
            RecoveryCode.account_id == account_id,
            RecoveryCode.used_at.is_(None),
        )
        .values(used_at=now)
        .returning(RecoveryCode.account_id)
    ).one_or_none()
    if used is None:
        raise SecondStepRefused("Check it and try again.")
    return count_codes(session, account_id)


def count_codes(session: Session, account_id: UUID) -> int:
    """Return how many codes are left."""
    left = session.scalar(
        select(func.count())
        .select_from(RecoveryCode)
        .where(RecoveryCode.account_id == account_id, RecoveryCode.used_at.is_(None))
    )
    return left or 0


def forget_codes(session: Session, account_id: UUID) -> None:
    """Make all codes of an account worthless."""
    session.execute(delete(RecoveryCode).where(RecoveryCode.account_id == account_id))


def _make() -> str:
    return "-".join(
        "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH))
        for _ in range(_GROUPS)
    )


def _hash(account_id: UUID, code: str) -> bytes:
    # However it was typed: in capitals, with blanks or hyphens, O for zero.
    letters = (letter for letter in code.lower() if letter.isalnum())
    typed = "".join(letters).translate(_LOOK_ALIKE)
    message = f"recovery:{account_id}:{typed}"
    return hashlib.sha256(message.encode("utf-8", "replace")).digest()
