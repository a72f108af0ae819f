"""Second factors: which an account has, and what a sign-in with them is worth.

The names of levels follow NIST SP 800-63B, those of methods RFC 8176.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.orm import Session

from flagon_auth.models import Account, Passkey, RecoveryCode, TotpCredential
from flagon_chassis.errors import Unauthenticated

AAL1 = "aal1"
"""One factor: a password, or what an outside provider says."""
AAL2 = "aal2"
"""Two factors, or one authenticator that is two: a passkey that verified its user."""
ACR_VALUES = (AAL1, AAL2)
"""From the weaker to the stronger."""


class SecondStepRefused(Unauthenticated):
    """The code is not right."""


@dataclass(frozen=True)
class Factors:
    """What an account can prove itself with, beside its password."""

    totp: bool
    passkeys: int
    recovery_codes: int
    """How many are left."""

    @property
    def second_step(self) -> bool:
        """Say whether one factor alone signs nobody in any more."""
        return self.totp or self.passkeys > 0


def acr_of(amr: list[str]) -> str:
    """Return the level of a sign-in by these methods."""
    return AAL2 if "mfa" in amr else AAL1


# Made once: this runs in every sign-in, and making it costs as much as running it.
_FACTORS = select(
    select(func.count())
    .select_from(TotpCredential)
    .where(
        TotpCredential.account_id == bindparam("account_id"),
        TotpCredential.confirmed_at.is_not(None),
    )
    .scalar_subquery(),
    select(func.count())
    .select_from(Passkey)
    .where(Passkey.account_id == bindparam("account_id"))
    .scalar_subquery(),
    select(func.count())
    .select_from(RecoveryCode)
    .where(
        RecoveryCode.account_id == bindparam("account_id"),
        RecoveryCode.used_at.is_(None),
    )
    .scalar_subquery(),
)


def find_factors(session: Session, account_id: UUID) -> Factors:
    """Return which factors an account has."""
    totp, passkeys, codes = session.execute(_FACTORS, {"account_id": account_id}).one()
    return Factors(totp=totp > 0, passkeys=passkeys, recovery_codes=codes)


def first_factor_still_counts(account: Account, amr: list[str], since: float) -> bool:
    """Say whether a first factor may be completed by a second one.

    :param since: when the first was passed; a password that was changed later was
        somebody else's.
    """
    changed_at = account.password_changed_at
    outdated = changed_at is not None and changed_at.timestamp() > since
    return not account.disabled and not ("pwd" in amr and outdated)


def remove_factors(session: Session, account_id: UUID) -> Factors:
    """Take every second factor from an account; return what it had.

    For somebody who has lost them all and has proved otherwise who they are.
    """
    found = find_factors(session, account_id)
    for kind in (TotpCredential, Passkey, RecoveryCode):
        session.execute(delete(kind).where(kind.account_id == account_id))
    return found
