"""Consents: what a person lets a program of somebody else do."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import (
    AccessToken,
    Client,
    Consent,
    DeviceCode,
    RefreshToken,
    TokenGrant,
)
from flagon_chassis.errors import NotFound

from . import grants, logouts
from .accounts import API_SCOPES, IDENTITY_SCOPES, INSIDE_SCOPES
from .tokens import Spent


class NotConnected(NotFound):
    """The program is not connected to the account."""


@dataclass(frozen=True)
class Connection:
    """A program that a person has let do something, or that has something of theirs."""

    client_id: str
    name: str
    first_party: bool
    scopes: list[str]
    since: datetime
    used_at: datetime
    """When it last got tokens."""
    grants: int
    """How many sign-ins and devices of it are alive."""


def agreed_scope(session: Session, *, account_id: UUID, client_id: str) -> str:
    """Return what the person lets the client do, separated by spaces."""
    given = session.scalar(
        select(Consent.scope).filter_by(account_id=account_id, client_id=client_id)
    )
    return given or ""


def needs_consent(
    session: Session, *, account_id: UUID, client: Client, scope: str
) -> bool:
    """Say whether the person must be asked before the client gets this scope."""
    if client.first_party:
        return False
    given = agreed_scope(session, account_id=account_id, client_id=client.id)
    return not set(scope.split()) <= set(given.split())


def give_consent(
    session: Session, *, account_id: UUID, client_id: str, scope: str, now: datetime
) -> None:
    """Remember that the person agreed, in addition to what was agreed before."""
    before = agreed_scope(session, account_id=account_id, client_id=client_id)
    together = " ".join(sorted({*before.split(), *scope.split()}))
    session.execute(
        insert(Consent)
        .values(
            account_id=account_id, client_id=client_id, scope=together, granted_at=now
        )
        .on_conflict_do_update(
            index_elements=["account_id", "client_id"],
            set_={"scope": together, "granted_at": now},
        )
    )


def list_connections(
    session: Session, account_id: UUID, *, now: datetime
) -> list[Connection]:
    """Return the programs of an account by name: agreed to, or with a living grant."""
    found: dict[str, Connection] = {}
    agreed = session.execute(
        select(Consent, Client)
        .join(Client, Client.id == Consent.client_id)
        .where(Consent.account_id == account_id)
    )
    for consent, client in agreed:
        found[client.id] = Connection(
            client_id=client.id,
            name=client.name,
            first_party=client.first_party,
            scopes=_in_order(consent.scope.split()),
            since=consent.granted_at,
            used_at=consent.granted_at,
            grants=0,
        )
    for grant, client, refreshed_at in _living(session, account_id, now=now):
        used_at = refreshed_at or grant.created_at
        before = found.get(client.id)
        found[client.id] = Connection(
            client_id=client.id,
            name=client.name,
            first_party=client.first_party,
            scopes=_in_order(
                {*(before.scopes if before else ()), *grant.scope.split()}
            ),
            since=min(before.since, grant.created_at) if before else grant.created_at,
            used_at=max(before.used_at, used_at) if before else used_at,
            grants=(before.grants if before else 0) + 1,
        )
    return sorted(found.values(), key=lambda one: (one.name.casefold(), one.client_id))


def _in_order(scopes: Iterable[str]) -> list[str]:
    known = [*IDENTITY_SCOPES, *API_SCOPES, *INSIDE_SCOPES]
    given = set(scopes)
    # One that we do not know any more may still stand in an old agreement.
    return [name for name in known if name in given] + sorted(given - set(known))


def withdraw(
    session: Session, *, account_id: UUID, client_id: str, reason: str, now: datetime
) -> tuple[str, list[Spent]]:
    """Take back everything that a person lets a program do.

    Its grants end, devices included, and it is told of their sessions as if the person
    had signed out of it.

    :return: what it could do, and its access tokens that still live.
    :raises NotConnected: it could do nothing.
    """
    gone = session.execute(
        delete(Consent)
        .where(Consent.account_id == account_id, Consent.client_id == client_id)
        .returning(Consent.scope)
    ).scalar_one_or_none()
    own = (TokenGrant.account_id == account_id, TokenGrant.client_id == client_id)
    living = session.scalars(
        select(TokenGrant)
        .where(*own, TokenGrant.revoked_at.is_(None), TokenGrant.expires_at > now)
        .with_for_update()
    ).all()
    if gone is None and not living:
        raise NotConnected("It may do nothing as it is.")
    scope = {*(gone or "").split(), *(one for g in living for one in g.scope.split())}
    logouts.notify(session, TokenGrant.id.in_([grant.id for grant in living]), now=now)
    spent = [
        token
        for grant in living
        for token in grants.revoke(session, grant, reason, now=now)
    ]
    return " ".join(sorted(scope)), spent


def _living(
    session: Session, account_id: UUID, *, now: datetime
) -> list[tuple[TokenGrant, Client, datetime | None]]:
    """Return the grants that are worth something, with the time of the last refresh.

    A code or device code that was never redeemed is not.
    """
    refreshed = (
        select(func.max(RefreshToken.created_at))
        .where(RefreshToken.token_grant_id == TokenGrant.id)
        .scalar_subquery()
    )
    rows = session.execute(
        select(TokenGrant, Client, refreshed)
        .join(Client, Client.id == TokenGrant.client_id)
        .where(
            TokenGrant.account_id == account_id,
            TokenGrant.revoked_at.is_(None),
            TokenGrant.expires_at > now,
            refreshed.is_not(None)
            | select(AccessToken.jti)
            .where(
                AccessToken.token_grant_id == TokenGrant.id,
                AccessToken.expires_at > now,
            )
            .exists()
            | select(DeviceCode.code_hash)
            .where(
                DeviceCode.token_grant_id == TokenGrant.id,
                DeviceCode.state == "approved",
                DeviceCode.expires_at > now,
            )
            .exists(),
        )
    )
    return [(grant, client, at) for grant, client, at in rows]
