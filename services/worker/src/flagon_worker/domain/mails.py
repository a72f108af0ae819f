"""Sending mails that auth wrote: each once, late if need be, and never with a stray header.

What a mail says is asked for when it is sent and is not kept here: it may hold a link that
opens an account.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

from .deliveries import NotYet

Outcome = Literal["sent", "returned", "refused"]
"""What became of a mail: on its way, to be tried again, or never to arrive."""
KEPT_MAX = 500
"""Files of mails that the folder keeps; older ones go."""


class Undeliverable(Exception):
    """The mail server will never take this mail."""


@dataclass(frozen=True)
class Sender:
    """Whom mails come from."""

    name: str
    address: str
    host: str
    """Ends the ids of messages."""


class Auth(Protocol):
    """Who writes the mails."""

    def compose_mail(self, mail_id: UUID, attempt: str) -> dict[str, Any] | None:
        """Return what a mail says, for this attempt alone; None when it is over."""

    def mail_ended(self, mail_id: UUID, outcome: Outcome) -> None:
        """Take down what became of it."""


class Post(Protocol):
    """Who takes mails."""

    def send(self, message: EmailMessage) -> None:
        """Hand over a mail.

        :raises NotYet: not now.
        :raises Undeliverable: never.
        """


def deliver(auth: Auth, post: Post, sender: Sender, mail_id: UUID) -> str:
    """Send one mail and return `sent`, `refused` or `over`.

    Auth gives a mail to one attempt at a time and to none once it was sent, so a task
    that comes twice sends once. Only a crash after the server took the mail and before
    auth knew brings a second copy, with the same Message-ID.

    :raises NotYet: to be tried again.
    """
    composed = auth.compose_mail(mail_id, uuid.uuid4().hex)
    if composed is None:
        return "over"
    outcome: Outcome = "sent"
    try:
        post.send(message(composed, sender, mail_id))
    except Undeliverable:
        outcome = "refused"
    except NotYet:
        # If this fails as well, the mail is free again in a few minutes.
        auth.mail_ended(mail_id, "returned")
        raise
    auth.mail_ended(mail_id, outcome)
    return outcome


def message(composed: Mapping[str, str], sender: Sender, mail_id: UUID) -> EmailMessage:
    """Return the mail as it travels.

    :raises Undeliverable: a header would hold a line break, or the address is none.
    """
    # The policy refuses line breaks in headers, and the address is taken apart: nothing
    # that a person typed can add a header or a recipient.
    mail = EmailMessage(policy=policy.SMTP)
    try:
        mail["From"] = Address(sender.name, addr_spec=sender.address)
        mail["To"] = Address(addr_spec=composed["to"])
        mail["Subject"] = composed["subject"]
    except (ValueError, IndexError, MessageError) as error:
        raise Undeliverable("The address or the subject is none.") from error
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = f"<{mail_id}@{sender.host}>"
    # RFC 3834: no out-of-office answers, please.
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail.set_content(composed["text"], cte="quoted-printable")
    mail.add_alternative(composed["html"], subtype="html", cte="quoted-printable")
    mail["Content-Language"] = composed["language"]
    return mail


def keep(folder: Path, mail: EmailMessage) -> Path:
    """Write a mail into the folder as a file that mail programs open, and return it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    name = f"{stamp}-{mail['Message-ID'].strip('<>').partition('@')[0]}.eml"
    half = folder / f".{name}"
    half.write_bytes(mail.as_bytes())
    # Whole or not at all.
    path = half.rename(folder / name)
    for old in sorted(folder.glob("*.eml"))[:-KEPT_MAX]:
        old.unlink(missing_ok=True)
    return path


def kept(folder: Path, *, to: str | None = None, limit: int) -> Iterable[EmailMessage]:
    """Return the newest mails of the folder, oldest first.

    :param to: only those to this address.
    """
    found: list[EmailMessage] = []
    for path in sorted(folder.glob("*.eml"), reverse=True):
        mail = message_from_bytes(path.read_bytes(), policy=policy.default)
        if to is None or mail["To"].addresses[0].addr_spec.casefold() == to.casefold():
            found.append(mail)
        if len(found) == limit:
            break
    return found[::-1]
