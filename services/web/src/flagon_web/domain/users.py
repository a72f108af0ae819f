"""Accounts as auth shows them to administrators, with what pages ask of them."""

from datetime import datetime
from json import dumps
from typing import Any
from uuid import UUID

from pydantic import Field

from flagon_web.i18n import LazyText as _

from .products import Shown

ROLES = {
    "customer": _("Buys, writes reviews and sees the own jobs."),
    "merchandiser": _("Changes products, and imports and exports them."),
    "operator": _(
        "Runs the jobs of everybody, schedules and webhooks, and sees the audit."
    ),
    "admin": _("Changes accounts and clients, and deletes products for good."),
}
"""From the least to the most powerful, each with what it adds to those before it."""
ADMIN = "admin"


class Account(Shown):
    """One person's account."""

    id: str
    email: str
    name: str = ""
    roles: list[str] = Field(default_factory=list)
    disabled: bool = False
    version: int = 1
    created_at: datetime
    updated_at: datetime | None = None
    etag: str = ""


class AccountPage(Shown):
    """Some accounts, the oldest first."""

    items: list[Account]
    next_cursor: str | None = None


class SignedIn(Shown):
    """A browser in which somebody is signed in."""

    sid: str
    created_at: datetime
    seen_at: datetime | None = None
    address: str | None = None
    agent: str = ""


class SignedInPage(Shown):
    """All of them, the latest first."""

    items: list[SignedIn]


class SecurityEvent(Shown):
    """Something that matters to the security of an account."""

    occurred_at: datetime
    action: str
    account_id: str | None = None
    actor: str | None = None
    address: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def told(self) -> list[tuple[str, str]]:
        """What else is known, by name."""
        return [(name, plain(value)) for name, value in self.details.items()]


class SecurityEventPage(Shown):
    """Some of them, newest first."""

    items: list[SecurityEvent]
    next_cursor: str | None = None


def plain(value: object) -> str:
    """Return a value as people write it: lists without brackets, texts without quotes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and not isinstance(value[0], dict | list):
        return ", ".join(plain(one) for one in value)
    return dumps(value, ensure_ascii=False)


def is_person(actor: str | None) -> bool:
    """Say whether who did something is an account, and no client or command."""
    try:
        return str(UUID(actor or "")) == actor
    except ValueError:
        return False
