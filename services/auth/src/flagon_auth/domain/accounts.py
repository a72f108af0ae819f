"""Accounts: who they are, how they prove it and what their roles allow."""

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, lazyload
from uuid_utils.compat import uuid7

from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account, AccountRole
from flagon_chassis import events
from flagon_chassis.errors import Conflict, Invalid, NotFound, Unauthenticated

from . import passwords
from .passwords import Hasher

_OWN_SCOPES = {
    "customer": ("reviews:write", "jobs:read"),
    "merchandiser": ("catalog:write", "jobs:write"),
    "operator": ("ops:read", "jobs:manage"),
    "admin": ("users:read", "users:write", "catalog:purge"),
}
ROLES = tuple(_OWN_SCOPES)
"""From the least to the most powerful; each may what those before it may."""
ADMIN = ROLES[-1]
"""The role whose owners may change accounts."""
IDENTITY_SCOPES = ("openid", "profile", "email", "offline_access")
"""Scopes that concern the person, whatever the role."""
API_SCOPES = ("catalog:read", *(scope for own in _OWN_SCOPES.values() for scope in own))
"""Scopes of the platform's APIs; `catalog:read` is for services."""
INSIDE_SCOPES = ("mails:send", "logout:deliver", "tokens:introspect", "events:write")
"""Scopes for our own services and for programs that an operator trusts by the command
line; no person has them."""

_EMAIL = re.compile(
    r"\A[^@\s\x00-\x1f\x7f\"(),:;<>\[\\\]]{1,64}@([a-z0-9-]+\.)+[a-z0-9-]+\Z"
)
_EMAIL_LENGTH = 254
_TAKE_TURN = select(func.pg_advisory_xact_lock(728_114_021))
NAME_LENGTH_MAX = 100


_ADMINISTRATORS = select(Account.id).where(
    Account.disabled.is_(False), Account.assigned.any(AccountRole.role == ADMIN)
)


class EmailInvalid(Invalid):
    """This is not an e-mail address."""


class NameInvalid(Invalid):
    """This is not a name."""


class EmailTaken(Conflict):
    """Another account has this e-mail address."""


class RoleUnknown(Invalid):
    """There is no such role."""


class LastAdministrator(Conflict):
    """Nobody would be left who may change accounts."""


class AccountNotFound(NotFound):
    """There is no such account."""


class SignInRefused(Unauthenticated):
    """E-mail address or password is not right."""


def email_key(email: str) -> str:
    """Return the form in which addresses are compared.

    :raises EmailInvalid: it cannot be an address.
    """
    key = unicodedata.normalize("NFKC", email).strip().casefold()
    if len(key) > _EMAIL_LENGTH or not _EMAIL.match(key):
        raise EmailInvalid(
            _("This is not an e-mail address. Write it like name@example.com.")
        )
    return key


def clean_name(name: str) -> str:
    """Return the name with single blanks.

    :raises NameInvalid: it is empty, too long or holds what nobody can read.
    """
    cleaned = " ".join(name.split())
    if not 0 < len(cleaned) <= NAME_LENGTH_MAX or not cleaned.isprintable():
        raise NameInvalid(
            _("Use 1 to %(most)s readable characters.", most=NAME_LENGTH_MAX)
        )
    return cleaned


def scopes_of(roles: Iterable[str]) -> frozenset[str]:
    """Return what the roles together allow, those of lesser roles included."""
    highest = max((ROLES.index(role) for role in roles if role in ROLES), default=-1)
    allowed = [scope for role in ROLES[: highest + 1] for scope in _OWN_SCOPES[role]]
    return frozenset(allowed)


def create_account(
    session: Session,
    hasher: Hasher,
    *,
    email: str,
    name: str,
    password: str,
    roles: Iterable[str] = ("customer",),
    now: datetime,
) -> Account:
    """Add one account and return it.

    :raises EmailInvalid: it is not an address.
    :raises NameInvalid: it is empty, too long or holds what nobody can read.
    :raises EmailTaken: another account has it; found out after hashing, so a taken
        address takes as long as a free one.
    :raises PasswordWeak: it can be guessed.
    """
    key = email_key(email)
    name = clean_name(name)
    context = [key, *key.split("@"), *name.split()]
    return add_account(
        session,
        email=email,
        name=name,
        password_hash=hasher.hash_new(password, context=context),
        roles=roles,
        now=now,
    )


def add_account(
    session: Session,
    *,
    email: str,
    name: str,
    password_hash: str | None,
    email_verified_at: datetime | None = None,
    roles: Iterable[str] = ("customer",),
    now: datetime,
) -> Account:
    """Add one account whose address and name were looked at, and return it.

    :param password_hash: None for a person who signs in otherwise.
    :raises EmailTaken: another account has the address.
    """
    created_id = session.scalar(
        insert(Account)
        .values(
            id=uuid7(),
            email=email.strip(),
            email_key=email_key(email),
            email_verified_at=email_verified_at,
            name=name,
            password_hash=password_hash,
            password_changed_at=now if password_hash else None,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing(index_elements=["email_key"])
        .returning(Account.id)
    )
    if created_id is None:
        raise EmailTaken("Sign in instead.")
    account = find_account(session, created_id)
    _assign(account, roles)
    session.flush()
    events.emit(
        session,
        "user.registered.v1",
        subject=str(account.id),
        data={"id": str(account.id), "roles": account.roles},
        topics=["users", f"users/{account.id}"],
    )
    return account


def ensure_account(
    session: Session,
    hasher: Hasher,
    *,
    email: str,
    name: str,
    password: str,
    roles: Iterable[str],
    now: datetime,
) -> tuple[Account, bool]:
    """Return the account with this address, password and roles, and whether it is new.

    For demonstration accounts: one that exists is made to match. Safe to run twice.
    """
    try:
        account = find_account_by_email(session, email)
    except AccountNotFound:
        made = create_account(
            session,
            hasher,
            email=email,
            name=name,
            password=password,
            roles=roles,
            now=now,
        )
        # Nobody reads the mails of these.
        made.email_verified_at = now
        return made, True
    if not hasher.matches(account.password_hash, password):
        account.password_hash = hasher.hash_new(password, context=[])
        account.password_changed_at = now
    account.email_verified_at = account.email_verified_at or now
    change_account(account, {"roles": list(roles), "disabled": False}, now=now)
    return account, False


# Made once: making a statement costs as much as running it. The roles are of no interest
# before the password is right.
_BY_ADDRESS = (
    select(Account)
    .options(lazyload(Account.assigned))
    .where(Account.email_key == bindparam("key"))
)


def sign_in(
    session: Session, hasher: Hasher, *, email: str, password: str, now: datetime
) -> Account:
    """Return the account that the address and the password belong to.

    :raises SignInRefused: for every reason alike, after the same time.
    """
    try:
        key = email_key(email)
    except EmailInvalid:
        key = ""
    account = session.scalars(_BY_ADDRESS, {"key": key}).one_or_none()
    # Longer ones cannot have been registered; hashing them would be work for nothing.
    fits = len(password) <= passwords.LENGTH_MAX
    matched = hasher.matches(
        account.password_hash if account and fits else None,
        password[: passwords.LENGTH_MAX],
    )
    if account is None or not matched or account.disabled:
        raise SignInRefused("Check both and try again.")
    if account.password_hash and hasher.outdated(account.password_hash):
        account.password_hash = hasher.hash(password)
        account.updated_at = now
    return account


def find_account(session: Session, account_id: UUID, *, lock: bool = False) -> Account:
    """Return one account.

    :param lock: keep others from changing it until the transaction ends.
    :raises AccountNotFound: there is none with this id.
    """
    account = session.get(Account, account_id, with_for_update=lock or None)
    if account is None:
        raise AccountNotFound(f"No account has the id {account_id}.")
    return account


def find_account_if_enabled(session: Session, account_id: UUID) -> Account | None:
    """Return the account that a session or token speaks for, unless it may not any more."""
    account = session.get(Account, account_id)
    return None if account is None or account.disabled else account


def find_account_by_email(session: Session, email: str) -> Account:
    """Return the account with this address.

    :raises AccountNotFound: there is none.
    """
    statement = select(Account).filter_by(email_key=email_key(email))
    account = session.scalars(statement.with_for_update(of=Account)).one_or_none()
    if account is None:
        raise AccountNotFound("No account has this e-mail address.")
    return account


def list_accounts(
    session: Session,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    email: str | None = None,
    role: str | None = None,
    disabled: bool | None = None,
) -> list[Account]:
    """Return accounts, oldest first.

    :param after: creation time and id of the account that the page follows.
    :param email: only the account with this address.
    :param role: only accounts to which this role is assigned.
    """
    statement = select(Account).order_by(Account.created_at, Account.id).limit(limit)
    if email is not None:
        statement = statement.where(Account.email_key == email_key(email))
    if role is not None:
        statement = statement.where(Account.assigned.any(AccountRole.role == role))
    if disabled is not None:
        statement = statement.where(Account.disabled == disabled)
    if after is not None:
        statement = statement.where(
            tuple_(Account.created_at, Account.id) > tuple_(*after)
        )
    return list(session.scalars(statement))


def change_account(
    account: Account, changes: dict[str, Any], *, now: datetime
) -> list[str]:
    """Apply changes to one account and return the names of what really changed.

    :param changes: any of `name`, `roles` (a list) and `disabled`.
    :raises RoleUnknown: one of the roles does not exist.
    :raises NameInvalid: the name is empty or unreadable.
    """
    changed = []
    if "roles" in changes and sorted(set(changes["roles"])) != account.roles:
        _assign(account, changes["roles"])
        changed.append("roles")
    if "name" in changes:
        changes = {**changes, "name": clean_name(changes["name"])}
    for field in ("name", "disabled"):
        if field in changes and changes[field] != getattr(account, field):
            setattr(account, field, changes[field])
            changed.append(field)
    if changed:
        account.version += 1
        account.updated_at = now
    return changed


def keep_administrator(session: Session, account: Account) -> None:
    """Make sure that somebody else can administer when this account cannot any more.

    Whoever takes a right away waits here for others who do: two administrators who
    demote each other at once are told one after the other.

    :raises LastAdministrator: nobody else could.
    """
    if account.disabled or ADMIN not in account.roles:
        return
    session.execute(_TAKE_TURN)
    others = _ADMINISTRATORS.where(Account.id != account.id).limit(1)
    if session.scalar(others) is None:
        raise LastAdministrator(
            "This is the last account that may change others; give the role to"
            " another one before."
        )


def _assign(account: Account, roles: Iterable[str]) -> None:
    wanted = set(roles)
    unknown = sorted(wanted - set(ROLES))
    if unknown:
        raise RoleUnknown(f"Use {', '.join(ROLES)}.", unknown=unknown)
    kept = [row for row in account.assigned if row.role in wanted]
    new = wanted - {row.role for row in kept}
    account.assigned = sorted(
        [*kept, *(AccountRole(role=role) for role in new)], key=lambda row: row.role
    )
