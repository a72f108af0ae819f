"""Schedules as the jobs API shows them, with what pages ask of them."""

from datetime import datetime
from typing import Any

from pydantic import Field

from .products import Shown

CATCH_UP = {
    "once": "Run the last one",
    "skip": "Leave them out",
    "all": "Run each, the last 100",
}
"""What becomes of times that passed while nobody looked, in words."""
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


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
        return f"every {span(self.interval_seconds or 0)}"


class SchedulePage(Shown):
    """Some schedules, by name."""

    items: list[Schedule]
    next_cursor: str | None = None


def plain(number: float | None) -> str:
    """Return a number as people write it: `30`, `0.5`; empty for none."""
    return "" if number is None else f"{number:.15g}"


def span(seconds: float) -> str:
    """Return a length of time in its largest whole unit: `hour`, `90 seconds`."""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return unit if count == 1 else f"{count:,} {unit}s"
    return f"{plain(seconds)} seconds"
