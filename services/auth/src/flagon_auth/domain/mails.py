"""Mails to people: a row and an errand in the transaction that makes them necessary.

The row says whom and what about. What the mail says, links included, is made when the
worker asks for it and is stored nowhere. The errand is over when the worker has said what
became of the mail: until then it is asked for again, whatever its queue forgets.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_auth.models import Account, EmailToken, Mail
from flagon_chassis import errands
from flagon_chassis.errors import Conflict, NotFound

from . import accounts, audit, email_tokens
from .letters import LETTERS, Letter

Outcome = Literal["sent", "returned", "refused"]
TASK = "worker.send_mail"
_LEASE = timedelta(minutes=3)
"""Longer than the worker's task for a mail can run."""
_PAUSE_SECONDS = 300.0
"""Longer than the worker waits between two attempts."""
_KEPT = timedelta(days=7)
_SAME_AGAIN = timedelta(hours=1)


class MailOver(NotFound):
    """There is nothing to send."""


class MailUnderWay(Conflict):
    """Another attempt is sending this mail."""


@dataclass(frozen=True)
class Composed:
    """What a mail says, and to whom."""

    email: str
    locale: str
    letter: Letter
    values: dict[str, str]
    token: EmailToken | None


def send(
    session: Session,
    account: Account,
    template: str,
    *,
    email: str | None = None,
    locale: str | None = None,
    now: datetime,
    **values: str,
) -> UUID:
    """Have a mail sent once the transaction is committed; return its id.

    :param template: a name of `letters.LETTERS`.
    :param email: where it goes, if not to the account's address.
    :param locale: the language, if the account has none.
    :param values: what the letter's lines name; nothing secret.
    """
    return _send(
        session,
        account_id=account.id,
        email=email or account.email,
        template=template,
        locale=account.locale or locale or "en",
        values=values,
        now=now,
    )


def send_to_whom_it_concerns(
    session: Session, email: str, template: str, *, locale: str, now: datetime
) -> UUID:
    """Have a mail sent to the account with this address, if there is one.

    Whether there is, is found out when the mail is composed: the one who asks for it can
    tell neither by the answer nor by the time.
    """
    return _send(
        session,
        account_id=None,
        email=email,
        template=template,
        locale=locale,
        values={},
        now=now,
    )


def send_farewell(session: Session, account: Account, *, now: datetime) -> UUID:
    """Have a last mail sent to an account that will be gone by then."""
    return _send(
        session,
        account_id=None,
        email=account.email,
        template="account_deleted",
        locale=account.locale or "en",
        values={},
        now=now,
    )


def order(
    session: Session,
    mail_id: UUID,
    account_id: UUID,
    template: str,
    values: dict[str, str],
    *,
    now: datetime,
) -> None:
    """Have a mail sent that a service of ours asks for; safe to ask again by its id.

    :param template: a name of `letters.LETTERS` without a purpose.
    :raises MailOver: there is no such account, or its address was never proved: anybody
        could have strangers written to.
    """
    account = accounts.find_account_if_enabled(session, account_id)
    if account is None or account.email_verified_at is None:
        raise MailOver("Nobody is to get it.")
    _send(
        session,
        mail_id=mail_id,
        account_id=account.id,
        email=account.email,
        template=template,
        locale=account.locale or "en",
        values=values,
        now=now,
    )


def _send(
    session: Session,
    *,
    mail_id: UUID | None = None,
    account_id: UUID | None,
    email: str,
    template: str,
    locale: str,
    values: dict[str, str],
    now: datetime,
) -> UUID:
    mail_id = mail_id or uuid7()
    # An account that was made in this very transaction.
    session.flush()
    made = session.scalar(
        insert(Mail)
        .values(
            id=mail_id,
            account_id=account_id,
            email=email,
            template=template,
            locale=locale,
            values=values,
            created_at=now,
            expires_at=now + LETTERS[template].lives,
        )
        .on_conflict_do_nothing(index_elements=[Mail.id])
        .returning(Mail.id)
    )
    # Else it was ordered before: it is on its way, or was sent.
    if made is not None:
        errands.send(
            session,
            TASK,
            queue="mail",
            tasks=[(str(mail_id), {"mail_id": str(mail_id)})],
            lives=LETTERS[template].lives,
        )
    return mail_id


def compose(
    session: Session, mail_id: UUID, attempt: str, *, now: datetime
) -> Composed | None:
    """Return what a mail says, for this attempt alone; None if it is not to be sent.

    Safe to repeat by the same attempt. What it decides must be committed.

    :param attempt: random; another one has to wait until this one is over.
    :raises MailUnderWay: another attempt has it.
    """
    mail = session.get(Mail, mail_id, with_for_update=True)
    if mail is None or mail.sent_at is not None:
        # It was sent, was given up or never was.
        errands.done(session, TASK, str(mail_id))
        return None
    held = mail.leased_until is not None and mail.leased_until > now
    if held and mail.attempt != attempt:
        raise MailUnderWay("Another attempt has it.", retry_after_seconds=30)
    letter = LETTERS[mail.template]
    account = token = None
    wanted = mail.expires_at > now
    if wanted and mail.template != "account_deleted":
        account = _concerned(session, mail)
        wanted = account is not None and not _needless(session, mail, account, now=now)
    if not wanted:
        session.delete(mail)
        errands.done(session, TASK, str(mail.id))
        return None
    if account is not None and letter.purpose is not None:
        token = _token(session, mail, account, letter.purpose, now=now)
    mail.attempt, mail.leased_until = attempt, now + _LEASE
    errands.postpone(session, TASK, str(mail.id), _LEASE.total_seconds())
    return Composed(
        email=mail.email,
        locale=mail.locale,
        letter=letter,
        values={name: str(value) for name, value in mail.values.items()},
        token=token,
    )


def _concerned(session: Session, mail: Mail) -> Account | None:
    """Return the account that the mail is for, unless it must not get it any more."""
    if mail.account_id is None:
        try:
            account = accounts.find_account_by_email(session, mail.email)
        except (accounts.AccountNotFound, accounts.EmailInvalid):
            return None
        # As the account has it, not as somebody typed it: what we compare as
        # equal, a mail server need not.
        mail.email, mail.account_id = account.email, account.id
        mail.locale = account.locale or mail.locale
    else:
        account = session.get_one(Account, mail.account_id)
    if account.disabled:
        return None
    # The address changed meanwhile: who has the old one gets no link to the account.
    to_own = LETTERS[mail.template].purpose in {"verify", "reset"}
    return None if to_own and mail.email != account.email else account


def _needless(session: Session, mail: Mail, account: Account, *, now: datetime) -> bool:
    """Say whether what the mail asks for was done, perhaps by an earlier copy of it."""
    known = mail.values.get("token")
    token = session.get(EmailToken, UUID(known)) if known else None
    if token is not None and token.used_at is not None:
        return True
    match LETTERS[mail.template].purpose:
        case "verify":
            return account.email_verified_at is not None
        case "reset":
            # Also by another mail: who asked twice and had one answer needs no second.
            changed_at = account.password_changed_at
            return changed_at is not None and changed_at > mail.created_at
        case "change":
            return mail.email == account.email
        case _:
            return _told_already(session, mail, now=now)


def _told_already(session: Session, mail: Mail, *, now: datetime) -> bool:
    """Say whether the person was told the same within the hour.

    Anybody can register an address again and again, from anywhere: that must not fill
    its mailbox, and the one who does it must not learn by a refusal that it is taken.
    """
    if mail.template != "known_address":
        return False
    statement = select(Mail.id).where(
        Mail.account_id == mail.account_id,
        Mail.template == mail.template,
        Mail.sent_at > now - _SAME_AGAIN,
    )
    return session.scalars(statement.limit(1)).first() is not None


def _token(
    session: Session,
    mail: Mail,
    account: Account,
    purpose: email_tokens.Purpose,
    *,
    now: datetime,
) -> EmailToken:
    """Return the row of the mail's link: the same at every attempt while it works."""
    known = mail.values.get("token")
    token = session.get(EmailToken, UUID(known)) if known else None
    if token is None or token.expires_at <= now:
        token = email_tokens.create_token(
            session, account, purpose, mail.email, now=now
        )
        mail.values = {**mail.values, "token": str(token.id)}
        if purpose == "reset":
            audit.record(
                session, "password_reset_requested", account_id=account.id, now=now
            )
    return token


def end(session: Session, mail_id: UUID, outcome: Outcome, *, now: datetime) -> None:
    """Take down what became of a mail that was composed; safe to say twice."""
    mail = session.get(Mail, mail_id, with_for_update=True)
    if outcome == "returned":
        errands.postpone(session, TASK, str(mail_id), _PAUSE_SECONDS)
    else:
        errands.done(session, TASK, str(mail_id))
    if mail is None:
        return
    mail.attempt = mail.leased_until = None
    if outcome == "sent" and mail.account_id is None:
        # The account is gone: nothing is to keep the address.
        session.delete(mail)
    elif outcome == "sent":
        mail.sent_at = mail.sent_at or now
    elif outcome == "refused":
        account_id, template = mail.account_id, mail.template
        session.delete(mail)
        session.flush()
        if account_id is not None:
            audit.record(
                session, "mail_refused", account_id=account_id, now=now, mail=template
            )
    session.execute(
        delete(Mail).where(
            or_(Mail.sent_at < now - _KEPT, Mail.expires_at < now - _KEPT)
        )
    )
