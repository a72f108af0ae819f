"""The denylist: what must not work any more although its signature still holds."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import redis

from flagon_auth.domain.tokens import Spent

# Verifiers allow for clocks that differ; an entry must outlive the token by more.
_MARGIN_SECONDS = 60


class Denylist:
    """Marks in the store Redis that every service looks at before it trusts a token.

    :param access_seconds: life of an access token; no mark is of use for longer.
    """

    def __init__(self, store: redis.Redis, access_seconds: int) -> None:
        self._store = store
        self._seconds = access_seconds + _MARGIN_SECONDS

    def refuse_tokens(self, spent: Iterable[Spent], *, now: datetime) -> None:
        """Refuse single access tokens."""
        pipe = self._store.pipeline(transaction=False)
        for token in spent:
            left = int((token.expires_at - now).total_seconds())
            if left > -_MARGIN_SECONDS:
                pipe.set(f"denylist:jti:{token.jti}", "1", ex=left + _MARGIN_SECONDS)
        pipe.execute()

    def refuse_session(self, sid: str) -> None:
        """Refuse every access token that came out of one sign-in session."""
        self._store.set(f"denylist:sid:{sid}", "1", ex=self._seconds)

    def refuse_account(self, account_id: UUID, *, now: datetime) -> None:
        """Refuse the access tokens that the account got before this second.

        Those of this very second are told apart by their ids: see `refuse_tokens`.
        """
        before = int(now.timestamp()) - 1
        self._store.set(f"denylist:sub:{account_id}", str(before), ex=self._seconds)

    def refuse_client(self, client_id: str, *, now: datetime) -> None:
        """Refuse the access tokens with which a client acts for itself, until now.

        Their ids are not kept; one that it gets in this very second is refused too.
        """
        until = int(now.timestamp())
        self._store.set(f"denylist:sub:{client_id}", str(until), ex=self._seconds)
