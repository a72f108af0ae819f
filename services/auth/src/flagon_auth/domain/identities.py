"""Identities: accounts at outside providers, and which of our accounts they open.

An identity is known by issuer and subject, never by an e-mail address: addresses change
hands, and a provider may say whatever it likes about them.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account, Identity, Passkey
from flagon_chassis.errors import Conflict, Forbidden, Invalid, NotFound

from . import accounts


class IdentityTaken(Conflict):
    """This account of the provider belongs to another account here."""


class IdentityNotFound(NotFound):
    """There is no such connection."""


class LastWayIn(Conflict):
    """Without this connection nobody could sign in to the account any more."""


class AddressUnverified(Invalid):
    """The e-mail address must be proved first."""


class AddressInUse(Conflict):
    """An account with this e-mail address exists.

    Whose address it is now does not tell whose account it is: the owner signs in to it
    and connects the two there.
    """

    def __init__(self, account_id: UUID) -> None:
        super().__init__("Sign in to it to connect the two.")
        self.account_id = account_id


class AccountClosed(Forbidden):
    """The account cannot be used."""


@dataclass(frozen=True)
class Profile:
    """What a provider says about the person who has just signed in there."""

    provider: str
    """Its name in our settings."""
    issuer: str
    subject: str
    email: str | None
    email_verified: bool
    """Whether the provider says that it made sure of the address."""
    name: str | None


def identity_key(issuer: str, subject: str) -> str:
    """Return what an identity is called in addresses and forms."""
    return hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:32]


def sign_in(session: Session, profile: Profile, *, now: datetime) -> Account | None:
    """Return the account that the identity opens; None if it opens none yet.

    :raises AccountClosed: the account is disabled.
    """
    found = session.get(Identity, (profile.issuer, profile.subject))
    if found is None:
        return None
    account = accounts.find_account(session, found.account_id)
    if account.disabled:
        raise AccountClosed(_("Ask who runs this platform."))
    found.last_used_at = now
    found.email = profile.email
    return account


def find_account_of(session: Session, profile: Profile) -> Account | None:
    """Return the account that the identity opens, if it opens one."""
    found = session.get(Identity, (profile.issuer, profile.subject))
    return accounts.find_account(session, found.account_id) if found else None


def register(session: Session, profile: Profile, *, now: datetime) -> Account:
    """Add an account for a person who is new here, opened by the identity.

    :raises AddressUnverified: the provider vouches for no address.
    :raises AddressInUse: an account has the address; it is not touched.
    """
    key = _verified(profile)
    name = profile.name or key.split("@")[0]
    try:
        name = accounts.clean_name(name[: accounts.NAME_LENGTH_MAX])
    except accounts.NameInvalid:
        name = key.split("@")[0]
    try:
        account = accounts.add_account(
            session,
            email=profile.email or key,
            name=name,
            password_hash=None,
            email_verified_at=now,
            now=now,
        )
    except accounts.EmailTaken:
        other = accounts.find_account_by_email(session, key)
        raise AddressInUse(other.id) from None
    _add(session, account.id, profile, now=now)
    return account


def link(
    session: Session, account_id: UUID, profile: Profile, *, now: datetime
) -> Account:
    """Let the identity open the account from now on, and return it. Safe to repeat.

    :raises IdentityTaken: it opens another account.
    :raises AddressUnverified: nobody has proved the account's address. Whoever
        registered somebody else's address could otherwise keep a way in when the owner
        of the address takes the account over by a mailed link.
    """
    account = accounts.find_account(session, account_id, lock=True)
    if account.email_verified_at is None:
        raise AddressUnverified(_("Confirm your e-mail address first."))
    _add(session, account_id, profile, now=now)
    return account


def unlink(
    session: Session, account_id: UUID, key: str, *, issuers: Collection[str]
) -> tuple[Account, Identity]:
    """Take an identity from the account; return the account and what it lost.

    :param key: as `identity_key` gives it.
    :param issuers: the providers with which people can sign in today.
    :raises IdentityNotFound: the account has none of this key.
    :raises LastWayIn: there is no password, passkey or other identity.
    """
    # Two at once must not take the last two.
    account = accounts.find_account(session, account_id, lock=True)
    found = list_identities(session, account_id)
    meant = next(
        (row for row in found if identity_key(row.issuer, row.subject) == key), None
    )
    if meant is None:
        raise IdentityNotFound("It was removed before.")
    others = [row for row in found if row is not meant and row.issuer in issuers]
    if not others and account.password_hash is None and not _passkeys(session, account):
        raise LastWayIn(_("Choose a password or add a passkey first."))
    session.delete(meant)
    session.flush()
    return account, meant


def list_identities(session: Session, account_id: UUID) -> list[Identity]:
    """Return the identities of an account, oldest first."""
    statement = (
        select(Identity)
        .filter_by(account_id=account_id)
        .order_by(Identity.created_at, Identity.issuer, Identity.subject)
    )
    return list(session.scalars(statement))


def _verified(profile: Profile) -> str:
    if not profile.email or not profile.email_verified:
        raise AddressUnverified("The provider has not verified it.")
    try:
        return accounts.email_key(profile.email)
    except accounts.EmailInvalid as error:
        raise AddressUnverified("The provider gave none that works.") from error


def _add(
    session: Session, account_id: UUID, profile: Profile, *, now: datetime
) -> None:
    session.execute(
        insert(Identity)
        .values(
            issuer=profile.issuer,
            subject=profile.subject,
            provider=profile.provider,
            account_id=account_id,
            email=profile.email,
            created_at=now,
            last_used_at=now,
        )
        .on_conflict_do_nothing(index_elements=["issuer", "subject"])
    )
    row = session.get_one(Identity, (profile.issuer, profile.subject))
    if row.account_id != account_id:
        raise IdentityTaken(_("Sign in with it, and disconnect it there first."))


def _passkeys(session: Session, account: Account) -> int:
    statement = select(func.count()).select_from(Passkey)
    return session.scalar(statement.filter_by(account_id=account.id)) or 0
