"""Ends open streams whose token has expired or was revoked, or that are old."""

import time
from collections.abc import Iterator

import redis
import structlog

from .clients import EventLog
from .roster import Grant, Roster, Subscriber

log = structlog.get_logger()

_NAMES_PER_CALL = 1000
_STREAMS_PER_TURN = 1000


class Warden:
    """Looks at every open stream, one round at a time.

    A token is checked when its stream opens; a stream then lives on for minutes, so
    what ends the token has to end the stream too.
    """

    def __init__(self, roster: Roster, event_log: EventLog) -> None:
        self._roster = roster
        self._log = event_log

    def look(self, now: float, monotonic_now: float) -> None:
        """Do one round.

        :param now: seconds since the epoch.
        :param monotonic_now: what `time.monotonic` says at that time.
        """
        everyone = self._roster.everyone()
        for number, subscriber in enumerate(everyone):
            grant = subscriber.ticket.grant
            if grant is not None and now >= grant.expires_at:
                subscriber.end("token-expired")
            elif monotonic_now >= subscriber.rotate_at:
                subscriber.end("age")
            if number % _STREAMS_PER_TURN == _STREAMS_PER_TURN - 1:
                time.sleep(0)
        self._end_revoked(everyone)

    def _end_revoked(self, everyone: list[Subscriber]) -> None:
        holders = [(s, s.ticket.grant) for s in everyone if s.ticket.grant is not None]
        names = {name for _s, grant in holders for name in _names(grant)}
        try:
            marks = {}
            for part in _parts(sorted(names)):
                marks.update(self._log.marks(part))
        except redis.RedisError as error:
            # Streams only read: while nobody can tell, they go on until they expire.
            log.warning("denylist_unreachable", error=type(error).__name__)
            return
        for subscriber, grant in holders if marks else ():
            if _revoked(grant, marks):
                subscriber.end("token-revoked")


def _names(grant: Grant) -> list[str]:
    return [f"denylist:sub:{grant.sub}", *_own_names(grant)]


def _own_names(grant: Grant) -> list[str]:
    marked = {"jti": grant.jti, "sid": grant.sid, "gid": grant.gid, "kid": grant.kid}
    return [f"denylist:{kind}:{value}" for kind, value in marked.items() if value]


def _revoked(grant: Grant, marks: dict[str, bytes]) -> bool:
    since = marks.get(f"denylist:sub:{grant.sub}")
    if since is not None and grant.issued_at <= int(since):
        # An account's mark is a time: what was issued after it is a new sign-in.
        return True
    return any(name in marks for name in _own_names(grant))


def _parts(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _NAMES_PER_CALL):
        yield names[start : start + _NAMES_PER_CALL]
