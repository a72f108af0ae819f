"""What belongs to an account: counted under a lock, and gone with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

_DELETED = "market.flagon.user.deleted.v1"


def hold(session: Session, owner: str, what: str) -> None:
    """Let nobody else add to or rename what an account has until the transaction ends.

    :param what: such as `watches`.
    """
    take = text("select pg_advisory_xact_lock(hashtextextended(:name, 0))")
    session.execute(take, {"name": f"{what} of {owner}"})


def gone(envelopes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the accounts that these events say are deleted."""
    return [
        envelope["data"]["id"] for envelope in envelopes if envelope["type"] == _DELETED
    ]
