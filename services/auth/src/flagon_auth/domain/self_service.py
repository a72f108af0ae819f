"""What people do with their own account, from the first mail to the last."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, delete, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_auth.i18n import LANGUAGES
from flagon_auth.i18n import gettext as _
from flagon_auth.models import (
    Account,
    AccountRole,
    ApiKey,
    AuditEvent,
    Consent,
    Identity,
    Passkey,
    RecoveryCode,
    TokenGrant,
    TotpCredential,
)
from flagon_chassis import events
from flagon_chassis.errors import Invalid

from . import accounts, email_tokens, grants, mails
from .accounts import EmailInvalid, EmailTaken
from .email_tokens import Linker
from .passwords import Hasher, PasswordWeak
from .tokens import Spent


class PasswordWrong(Invalid):
    """The present password is not right."""


def register(
    session: Session,
    hasher: Hasher,
    *,
    email: str,
    name: str,
    password: str,
    locale: str,
    now: datetime,
) -> tuple[Account, bool]:
    """Return the account with this address and whether it was made just now.

    Both ways hash once, write alike and end in one mail, so that neither the answer nor
    the time tells which it was; the owner of the address reads it in the mail.

    :raises EmailInvalid: it is not an address.
    :raises NameInvalid: it is empty, too long or holds what nobody can read.
    :raises PasswordWeak: it can be guessed.
    """
    key = accounts.email_key(email)
    name = accounts.clean_name(name)
    phc = hasher.hash_new(password, context=context_of(key, name))
    account_id, made = session.execute(
        insert(Account)
        .values(
            id=uuid7(),
            email=email.strip(),
            email_key=key,
            name=name,
            locale=locale,
            password_hash=phc,
            password_changed_at=now,
            created_at=now,
            updated_at=now,
        )
        # Writes what is there already, to learn the id in the same step.
        .on_conflict_do_update(index_elements=["email_key"], set_={"email_key": key})
        .returning(Account.id, literal_column("xmax = 0", Boolean))
    ).one()
    attempt = session.begin_nested()
    session.execute(
        insert(AccountRole)
        .values(account_id=account_id, role="customer")
        .on_conflict_do_nothing()
    )
    events.emit(
        session,
        "user.registered.v1",
        subject=str(account_id),
        data={"id": str(account_id), "roles": ["customer"]},
        topics=["users", f"users/{account_id}"],
    )
    if made:
        attempt.commit()
    else:
        attempt.rollback()
    account = accounts.find_account(session, account_id)
    letter = "verify_email" if made else "known_address"
    mails.send(session, account, letter, locale=locale, now=now)
    return account, bool(made)


def confirm_address(
    session: Session, linker: Linker, code: str, *, now: datetime
) -> tuple[Account, str | None]:
    """Take the address of a link for proved; return the account and its old address.

    The old address is None unless the link changed it.

    :raises LinkVoid: it does not work any more.
    :raises EmailTaken: another account has proved the address meanwhile.
    """
    token, account = email_tokens.find_token(
        session, linker, code, "verify", "change", now=now, lock=True
    )
    email_tokens.use_token(session, token, now=now)
    old = None
    if token.purpose == "change":
        old = account.email
        account.email = token.email
        account.email_key = accounts.email_key(token.email)
    account.email_verified_at = now
    account.version += 1
    account.updated_at = now
    try:
        with session.begin_nested():
            session.flush()
    except IntegrityError as error:
        raise EmailTaken(_("Another account has this address.")) from error
    if old is not None:
        mails.send(session, account, "address_changed", email=old, now=now)
    return account, old


def ask_for_address(
    session: Session, account: Account, email: str, *, now: datetime
) -> None:
    """Have a link sent to a new address; nothing changes until it is used.

    Whether another account has the address, only its owner gets to know.

    :raises EmailInvalid: it is not an address, or the present one.
    """
    if accounts.email_key(email) == account.email_key:
        raise EmailInvalid(_("This is your address already."))
    mails.send(session, account, "confirm_address", email=email.strip(), now=now)


def change_password(
    session: Session,
    hasher: Hasher,
    account_id: UUID,
    *,
    present: str,
    new: str,
    now: datetime,
) -> Account:
    """Give an account another password and return it.

    :param present: the password so far; of no interest if there is none.
    :raises PasswordWrong: it is not that.
    :raises PasswordWeak: the new one can be guessed, or is the present one.
    """
    account = accounts.find_account(session, account_id, lock=True)
    if account.password_hash and not hasher.matches(account.password_hash, present):
        raise PasswordWrong(_("This is not your present password."))
    if account.password_hash and present == new:
        raise PasswordWeak(_("This is your present password. Choose another one."))
    _set_password(session, hasher, account, new, now=now)
    return account


def reset_password(
    session: Session,
    hasher: Hasher,
    linker: Linker,
    code: str,
    *,
    new: str,
    sids: Iterable[str],
    now: datetime,
) -> tuple[Account, list[Spent]]:
    """Give the account of a link a new password; return what must end with that.

    All sessions and grants end. Second factors stay: who can read the mails has one
    factor. Only an account whose address was never proved loses them, and whatever else
    signs in to it: whoever registered it with somebody else's address must not keep a
    key to it.

    :param sids: the account's sessions.
    :raises LinkVoid: it does not work any more.
    :raises PasswordWeak: the new password can be guessed.
    """
    token, account = email_tokens.find_token(
        session, linker, code, "reset", now=now, lock=True
    )
    _set_password(session, hasher, account, new, now=now)
    email_tokens.use_token(session, token, now=now)
    if account.email_verified_at is None:
        _forget_other_ways_in(session, account.id, now=now)
        account.email_verified_at = now
    spent = grants.revoke_account(
        session, account.id, "password reset", sids=sids, now=now
    )
    return account, spent


def _set_password(
    session: Session, hasher: Hasher, account: Account, new: str, *, now: datetime
) -> None:
    account.password_hash = hasher.hash_new(
        new, context=context_of(account.email_key, account.name)
    )
    account.password_changed_at = account.updated_at = now
    mails.send(session, account, "password_changed", now=now)


def _forget_other_ways_in(session: Session, account_id: UUID, *, now: datetime) -> None:
    for table in (TotpCredential, RecoveryCode, Passkey, Identity, Consent):
        session.execute(delete(table).where(table.account_id == account_id))
    session.execute(
        update(ApiKey)
        .where(ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now)
    )


def context_of(key: str, name: str) -> list[str]:
    """Return the words that somebody who knows the person would try first.

    :param key: the address in its comparable form.
    """
    return [key, *key.split("@"), *name.split()]


def change_profile(
    account: Account, *, name: str, locale: str, now: datetime
) -> list[str]:
    """Change name and language and return the names of what really changed.

    :raises NameInvalid: the name is empty or unreadable.
    """
    changed = accounts.change_account(account, {"name": name}, now=now)
    if locale in LANGUAGES and locale != account.locale:
        account.locale = locale
        changed.append("locale")
    return changed


def sessions_with_grants(session: Session, account_id: UUID) -> set[str]:
    """Return the public ids of sessions, past ones too, whose grants still work."""
    return set(
        session.scalars(
            select(TokenGrant.sid).where(
                TokenGrant.account_id == account_id, TokenGrant.revoked_at.is_(None)
            )
        )
    )


def delete_account(
    session: Session, account_id: UUID, *, sids: Iterable[str], now: datetime
) -> list[Spent]:
    """Delete an account with everything that hangs on it; return what must end with it.

    The audit log keeps its records: they name the account by its id alone.

    :param sids: the account's sessions.
    :raises LastAdministrator: nobody would be left who may change accounts.
    """
    account = accounts.find_account(session, account_id, lock=True)
    accounts.keep_administrator(session, account)
    spent = grants.revoke_account(
        session, account.id, "account deleted", sids=sids, now=now
    )
    mails.send_farewell(session, account, now=now)
    events.emit(
        session,
        "user.deleted.v1",
        subject=str(account.id),
        data={"id": str(account.id)},
        topics=["users", f"users/{account.id}"],
    )
    session.delete(account)
    session.flush()
    return spent


def export_account(
    session: Session, account: Account, *, sessions: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return all that is known about a person, and nothing that opens a door.

    :param sessions: the browsers that are signed in, as they are shown.
    """

    def rows(table: Any, *names: str) -> list[dict[str, Any]]:  # noqa: ANN401
        found = session.scalars(
            select(table).where(table.account_id == account.id)
        ).all()
        return [{name: getattr(row, name) for name in names} for row in found]

    return {
        "profile": {
            name: getattr(account, name)
            for name in (
                *("id", "email", "email_verified_at", "name", "locale", "roles"),
                *("password_changed_at", "created_at", "updated_at"),
            )
        },
        "consents": rows(Consent, "client_id", "scope", "granted_at"),
        "grants": rows(
            TokenGrant,
            *("client_id", "scope", "auth_time", "amr", "acr"),
            *("created_at", "expires_at", "revoked_at", "revoked_reason"),
        ),
        "sessions": sessions,
        "identities": rows(
            Identity,
            *("provider", "issuer", "subject", "email", "created_at", "last_used_at"),
        ),
        "passkeys": rows(
            Passkey, "name", "transports", "backed_up", "created_at", "last_used_at"
        ),
        "authenticator_apps": rows(TotpCredential, "created_at", "confirmed_at"),
        "recovery_codes": rows(RecoveryCode, "created_at", "used_at"),
        "api_keys": rows(
            ApiKey,
            *("prefix", "name", "scope"),
            *("created_at", "expires_at", "last_used_at", "revoked_at"),
        ),
        "events": rows(
            AuditEvent, "sequence", "occurred_at", "action", "address", "details"
        ),
    }
