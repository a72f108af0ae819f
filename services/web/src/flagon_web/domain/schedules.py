"""Schedules as the jobs API shows them, with what pages ask of them."""

from datetime import datetime
from typing import Any

from pydantic import Field

from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext, ngettext

from .products import Shown

CATCH_UP = {
    "once": _("Run the last one"),
    "skip": _("Leave them out"),
    "all": _("Run each, the last 100"),
}
"""What becomes of times that passed while nobody looked, in words."""
_UNITS = (86_400, 3600, 60, 1)


class Bounds(Shown):
    """What intervals the platform bears."""

    least_seconds: float
    most_seconds: float


class Firing(Shown):
    """A time that a schedule was fired."""

    fired_at: datetime
    cause: str = "time"
    outcome: str = ""
    job_id: str | None = None
    error: str | None = None


class Schedule(Shown):
    """Something that happens again and again."""

    id: str
    name: str
    kind: str | None = None
    task: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    owner: str | None = None
    cron: str | None = None
    interval_seconds: float | None = None
    time_zone: str = "UTC"
    jitter_seconds: float = 0
    catch_up: str = "once"
    enabled: bool = True
    bounds: Bounds | None = None
    next_run_at: datetime | None = None
    last_run_at: datetime | None = None
    last_firing: Firing | None = None
    version: int = 1
    etag: str = ""

    @property
    def fixed(self) -> bool:
        """Whether it is the platform's own: never deleted, only its pace changes."""
        return self.task is not None

    @property
    def timing(self) -> str:
        """When it happens, in words: `every 5 minutes`, `30 2 * * * (Europe/Berlin)`."""
        if self.cron is not None:
            return f"{self.cron} ({self.time_zone})"
        return span(self.interval_seconds or 0)


class SchedulePage(Shown):
    """Some schedules, by name."""

    items: list[Schedule]
    next_cursor: str | None = None


def plain(number: float | None) -> str:
    """Return a number as people write it: `30`, `0.5`; empty for none."""
    return "" if number is None else f"{number:.15g}"


def span(seconds: float) -> str:
    """Return an interval in its largest whole unit: `every hour`."""
    for size in _UNITS:
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return {
                86_400: ngettext("every day", "every %(num)s days", count),
                3600: ngettext("every hour", "every %(num)s hours", count),
                60: ngettext("every minute", "every %(num)s minutes", count),
                1: ngettext("every second", "every %(num)s seconds", count),
            }[size]
    return gettext("every %(seconds)s seconds", seconds=plain(seconds))
