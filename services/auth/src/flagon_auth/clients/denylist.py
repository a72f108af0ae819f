"""The denylist: what must not work any more although its signature still holds."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast
from uuid import UUID, uuid4

import redis

from flagon_auth.domain.tokens import Spent
from flagon_chassis.denylist import KEYS_CHANGED
from flagon_chassis.keyring import KeyRing

# Verifiers allow for clocks that differ; an entry must outlive the token by more.
_MARGIN_SECONDS = 60
# A verifier that cannot reach us keeps a key for so long; and whoever stole it can make
# tokens that never expire.
_KEY_SECONDS = int(KeyRing.hard_seconds) + 3600


class Denylist:
    """Marks in the store Redis that every service looks at before it trusts a token.

    :param access_seconds: life of an access token; no mark is of use for longer.
    """

    def __init__(self, store: redis.Redis, access_seconds: int) -> None:
        self._store = store
        self._seconds = access_seconds + _MARGIN_SECONDS

    def refuse_tokens(self, spent: Iterable[Spent], *, now: datetime) -> None:
        """Refuse access tokens one by one, or all that came and will come of a grant."""
        pipe = self._store.pipeline(transaction=False)
        for token in spent:
            left = int((token.expires_at - now).total_seconds())
            if left > -_MARGIN_SECONDS and token.jti:
                pipe.set(f"denylist:jti:{token.jti}", "1", ex=left + _MARGIN_SECONDS)
            if token.gid:
                pipe.set(f"denylist:gid:{token.gid}", "1", ex=self._seconds)
        pipe.execute()

    def refuses(self, claims: dict[str, Any]) -> bool:
        """Say whether a token with these claims is refused.

        :raises redis.RedisError: nobody can tell.
        """
        kinds = [kind for kind in ("jti", "gid", "sid", "sub") if claims.get(kind)]
        names = [f"denylist:{kind}:{claims[kind]}" for kind in kinds]
        found = cast("list[str | None]", self._store.mget(names))
        marks = dict(zip(kinds, found, strict=True))
        # An account's mark is a time: what was issued after it is a new sign-in.
        since = marks.pop("sub", None)
        outdated = since is not None and int(claims["iat"]) <= int(since)
        return outdated or any(marks.values())

    def refuse_session(self, sid: str) -> None:
        """Refuse every access token that came out of one sign-in session."""
        self._store.set(f"denylist:sid:{sid}", "1", ex=self._seconds)

    def refuse_key(self, kid: str) -> None:
        """Refuse every token that was signed with this key, whatever it says."""
        self._store.set(f"denylist:kid:{kid}", "1", ex=_KEY_SECONDS)

    def keys_changed(self) -> None:
        """Let every verifier fetch the keys at once."""
        self._store.set(KEYS_CHANGED, uuid4().hex, ex=_KEY_SECONDS)

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
