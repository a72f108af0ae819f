"""When a schedule is due: cron expressions in a time zone, or intervals.

Neither Flask nor SQLAlchemy: this is what beat reckons with.
"""

import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

CatchUp = Literal["skip", "once", "all"]
"""What becomes of times that passed while nobody looked: none, the last, each of them."""
CATCH_UP_MAX = 100
"""Firings that `all` makes up for at most; the older ones are left out."""
LATE_SECONDS = 60.0
"""How late a firing may be that `skip` does not leave out."""

_CRON_FIELDS = 5
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+/-]{0,63}")
_FIRST_LOOK = timedelta(hours=1)


class TimingInvalid(ValueError):
    """Nobody can tell when this is due; the text says why."""


@dataclass(frozen=True)
class Timing:
    """When something is due, again and again."""

    cron: str | None
    """Minute, hour, day, month, day of the week; as Debian's cron takes them."""
    interval_seconds: float | None
    """Instead of `cron`."""
    anchor_at: datetime
    """Where intervals are counted from, so that they stay on their grid."""
    time_zone: str = "UTC"
    """IANA name; `cron` means the clock on the wall there."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first due time after a moment, in UTC; None: there is none.

        Where clocks go forward, a time that does not exist is due at the first minute
        that does. Where they go back, a time of day is due once, at its first occurrence;
        an expression whose minute or hour begins with `*` goes by elapsed time instead.

        :raises TimingInvalid: nobody can tell.
        """
        if self.interval_seconds is not None:
            step = timedelta(seconds=self.interval_seconds)
            return self.anchor_at + ((moment - self.anchor_at) // step + 1) * step
        for due in self._cron(moment.astimezone(zone(self.time_zone))):
            # In the hour that occurs twice the library counts by the clock on the wall,
            # and so begins with times that have been.
            if due.astimezone(UTC) > moment:
                return due.astimezone(UTC)
        return None

    def _cron(self, local: datetime) -> CronSim:
        expression = self.cron or ""
        if len(expression.split()) != _CRON_FIELDS:
            message = "is not five fields: minute, hour, day, month, day of the week"
            raise TimingInvalid(message)
        try:
            return CronSim(expression, local)
        # The library's own parser asserts, or mixes types, on some that are no cron.
        except (CronSimError, AssertionError, TypeError, ValueError) as error:
            message = f"is no cron expression: {error or 'it cannot be read'}"
            raise TimingInvalid(message) from error

    def missed(self, since: datetime, until: datetime, most: int) -> list[datetime]:
        """Return due times from `since` on up to `until`, of many the newest.

        :param since: a due time itself.
        :param most: how many at most.
        """
        before = since - timedelta(microseconds=1)
        look = _FIRST_LOOK
        if self.interval_seconds is not None:
            look = timedelta(seconds=self.interval_seconds * most)
        while True:
            start = max(before, until - look)
            found: deque[datetime] = deque(maxlen=most)
            due = self.after(start)
            while due is not None and due <= until:
                found.append(due)
                due = self.after(due)
            if len(found) == most or start == before:
                return list(found)
            look *= 4


@dataclass(frozen=True)
class Turn:
    """What is to be done about a schedule whose time has come."""

    fire: datetime | None
    """The due time to fire for; None: it is left out."""
    next_due: datetime | None
    """What it waits for then; None: for nothing any more."""


def turn(
    timing: Timing,
    *,
    due: datetime,
    now: datetime,
    catch_up: CatchUp,
    jitter_seconds: float,
) -> Turn:
    """Return which due time to fire for and what to wait for next.

    :param due: what it has waited for, not after `now`.
    :raises TimingInvalid: nobody can tell.
    """
    most = CATCH_UP_MAX if catch_up == "all" else 1
    missed = timing.missed(due, now, most)
    if not missed:
        # The rules of a time zone changed, so what it waited for is no due time now.
        return Turn(None, timing.after(now))
    if catch_up == "all" and len(missed) > 1:
        return Turn(missed[0], missed[1])
    last = missed[-1]
    late = (now - last).total_seconds() - jitter_seconds
    left_out = catch_up == "skip" and late > LATE_SECONDS
    return Turn(None if left_out else last, timing.after(last))


def zone(name: str) -> ZoneInfo:
    """Return a time zone.

    :raises TimingInvalid: there is none of this name.
    """
    # The library takes names for paths: only what cannot leave its folder gets there.
    if _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    message = f"{name[:64]!r} is no time zone, as `Europe/Berlin` is one"
    raise TimingInvalid(message)
