"""Everything that auth reaches over a socket beside its own database: the two Redis."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

import redis
from flask import current_app

from flagon_auth.domain.devices import UserCodes
from flagon_auth.domain.email_tokens import Linker
from flagon_auth.domain.keys import Plan
from flagon_auth.domain.passwords import Hasher
from flagon_auth.domain.tokens import Issuer, Spent
from flagon_chassis import stores

from .attempts import Attempts
from .denylist import Denylist
from .devices import DeviceCookie
from .guesses import Guesses, TooManyAttempts
from .providers import Social
from .sessions import ActiveSession, LoginSession, SessionStore

__all__ = [
    "ActiveSession",
    "Attempts",
    "Denylist",
    "DeviceCookie",
    "Guesses",
    "LoginSession",
    "Parts",
    "SessionStore",
    "Social",
    "TooManyAttempts",
    "connect",
    "parts",
]


@dataclass(frozen=True)
class Parts:
    """What the views of one app work with."""

    issuer: Issuer
    hasher: Hasher
    sessions: SessionStore
    denylist: Denylist
    plan: Plan
    guesses: Guesses
    linker: Linker
    user_codes: UserCodes
    social: Social

    def end_session(self, sid: str, spent: list[Spent], *, now: datetime) -> None:
        """Make one sign-in session and its tokens worthless everywhere."""
        self.denylist.refuse_session(sid)
        self.denylist.refuse_tokens(spent, now=now)
        self.sessions.end(sid)

    def end_account(
        self, account_id: UUID, spent: list[Spent], *, now: datetime
    ) -> None:
        """Make every session and token of one account worthless everywhere."""
        self.denylist.refuse_account(account_id, now=now)
        self.denylist.refuse_tokens(spent, now=now)
        for sid in self.sessions.end_all(account_id):
            self.denylist.refuse_session(sid)


def parts() -> Parts:
    """Return the parts of the app at hand."""
    return cast("Parts", current_app.extensions["flagon.auth"])


def connect(url: str) -> redis.Redis:
    """Return a client that gives up soon: a request must not wait for a dead Redis."""
    return stores.client(
        url,
        retry=None,
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
        decode_responses=True,
    )
