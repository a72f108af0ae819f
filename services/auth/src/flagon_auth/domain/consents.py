"""Consents: what a person lets a program of somebody else do."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import Client, Consent


def needs_consent(
    session: Session, *, account_id: UUID, client: Client, scope: str
) -> bool:
    """Say whether the person must be asked before the client gets this scope."""
    if client.first_party:
        return False
    given = session.scalar(
        select(Consent.scope).filter_by(account_id=account_id, client_id=client.id)
    )
    return not set(scope.split()) <= set((given or "").split())


def give_consent(
    session: Session, *, account_id: UUID, client_id: str, scope: str, now: datetime
) -> None:
    """Remember that the person agreed, in addition to what was agreed before."""
    before = session.scalar(
        select(Consent.scope).filter_by(account_id=account_id, client_id=client_id)
    )
    together = " ".join(sorted({*(before or "").split(), *scope.split()}))
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
