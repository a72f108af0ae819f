"""Proofs that work once: client assertions and DPoP proofs, remembered while they live."""

import hashlib
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_auth.models import UsedProof


def use_once(
    session: Session, kind: str, signer: str, jti: str, *, until: datetime
) -> bool:
    """Use a proof up and return whether this was the first time.

    A twin in another transaction waits until this one ends, so of many at once exactly
    one is first.

    :param kind: `assertion` or `dpop`.
    :param signer: the client's id, or the key's thumbprint.
    :param until: when the proof is too old anyway.
    """
    text = f"{kind}\n{signer}\n{jti}".encode(errors="surrogatepass")
    first = session.execute(
        insert(UsedProof)
        .values(digest=hashlib.sha256(text).digest(), expires_at=until)
        .on_conflict_do_nothing()
        .returning(UsedProof.digest)
    )
    return first.one_or_none() is not None


def purge(session: Session, *, now: datetime) -> int:
    """Forget proofs that are too old to be used again; return how many."""
    gone = session.execute(
        delete(UsedProof).where(UsedProof.expires_at < now).returning(UsedProof.digest)
    )
    return len(gone.all())
