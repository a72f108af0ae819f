"""What Alertmanager told, kept in Redis for all processes of web, until it is old.

The hash `web:notices` has a field for each group and receiver with the last message about
it; the whole of it ends with its newest one.
"""

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import cast

from pydantic import ValidationError

from flagon_web.domain.notices import Group, Notice, sorted_notices

from .sessions import open_store

KEY = "web:notices"
MOST = 100
"""Groups that are kept; of more the newest ones."""
_ENDED_SECONDS = 3600


class Notices:
    """The last message about each group of alerts.

    Every method raises `redis.RedisError` when the store does not answer.

    :param seconds: after which a group is old of which nothing more was said.
    """

    def __init__(
        self, url: str, *, seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._redis = open_store(url)
        self._seconds = seconds
        self._clock = clock

    def keep(self, group: Group) -> None:
        """Keep a message in the place of the one before about this group.

        Safe to do twice, as Alertmanager does when it heard no answer.
        """
        now = self._clock()
        lasts = self._seconds if group.firing else min(_ENDED_SECONDS, self._seconds)
        notice = Notice(group=group, told_at=now, until=now + lasts)
        field = sha256(f"{group.receiver}\n{group.key}".encode()).hexdigest()
        with self._redis.pipeline() as pipe:
            pipe.hset(KEY, field, notice.model_dump_json(by_alias=True))
            pipe.expire(KEY, self._seconds)
            pipe.hgetall(KEY)
            found = cast("dict[str, str]", pipe.execute()[-1])
        # What is old is not shown, and leaves only to make room: between this look and the
        # end of it another process may have written it anew.
        if len(found) > MOST:
            kept = _readable(found, now)
            first = sorted(
                kept,
                key=lambda name: (not kept[name].group.firing, -kept[name].told_at),
            )
            self._redis.hdel(KEY, *set(found).difference(first[:MOST]))

    def list_notices(self) -> list[Notice]:
        """Return what is not old, what goes on first."""
        found = cast("dict[str, str]", self._redis.hgetall(KEY))
        return sorted_notices(_readable(found, self._clock()).values())


def _readable(found: Mapping[str, str], now: float) -> dict[str, Notice]:
    """Return what is not old, and was not written by a release with another form."""
    notices = {}
    for name, text in found.items():
        try:
            notice = Notice.model_validate_json(text)
        except ValidationError:
            continue
        if notice.until > now:
            notices[name] = notice
    return notices
