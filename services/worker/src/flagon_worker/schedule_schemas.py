"""JSON in and out of the schedules API."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, model_validator

from .domain import times

ABSENT = cast("Any", lambda: None)
"""The default of what a change leaves out: none that a document would name."""
_YEAR_SECONDS = 366 * 86_400


def _zone(name: str) -> str:
    times.zone(name)
    return name


def _cron(expression: str) -> str:
    timing = times.Timing(expression, None, datetime.now(UTC))
    if timing.after(datetime.now(UTC)) is None:
        message = "never comes due"
        raise ValueError(message)
    return expression


Cron = Annotated[str, Field(max_length=100), AfterValidator(_cron)]
Zone = Annotated[
    str, Field(max_length=64, examples=["Europe/Berlin"]), AfterValidator(_zone)
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class NewSchedule(BaseModel, extra="forbid"):
    """A schedule to be."""

    name: Name = Field(examples=["nightly-export"])
    kind: str = Field(max_length=64, examples=["probe"])
    params: dict[str, Any] = Field(
        default_factory=dict, description="The parameters of each job, as the kind's."
    )
    cron: Cron | None = Field(
        default=None,
        description="Minute, hour, day, month, day of the week, on the clock of"
        " `time_zone`. Give it or `interval_seconds`.",
        examples=["30 2 * * *"],
    )
    interval_seconds: float | None = Field(
        default=None, ge=10, le=_YEAR_SECONDS, examples=[None]
    )
    time_zone: Zone = "UTC"
    jitter_seconds: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="It runs up to so much later, by chance, so that not all run at once.",
    )
    catch_up: Literal["skip", "once", "all"] = Field(
        default="once",
        description="What becomes of times that passed while the schedule could not be"
        " looked at: none of them, the last, or each (100 at most).",
    )
    enabled: bool = True

    @model_validator(mode="after")
    def _one_timing(self) -> "NewSchedule":
        if (self.cron is None) == (self.interval_seconds is None):
            message = "give cron or interval_seconds, one of them"
            raise ValueError(message)
        interval = self.interval_seconds
        if interval is not None and self.jitter_seconds >= interval:
            message = "jitter_seconds must be less than interval_seconds"
            raise ValueError(message)
        return self


class ScheduleChange(BaseModel, extra="forbid"):
    """What is to be changed of a schedule; null clears `cron` or `interval_seconds`."""

    # No default is ever used: what was not given is not changed.
    name: Name = Field(default_factory=ABSENT, examples=["nightly-export"])
    kind: str = Field(default_factory=ABSENT, max_length=64, examples=["probe"])
    params: dict[str, Any] = Field(default_factory=ABSENT)
    cron: Cron | None = Field(default=None, examples=["0 3 * * *"])
    interval_seconds: float | None = Field(
        default=None, gt=0, le=_YEAR_SECONDS, examples=[None]
    )
    time_zone: Zone = Field(default_factory=ABSENT)
    jitter_seconds: float = Field(default_factory=ABSENT, ge=0, le=3600)
    catch_up: Literal["skip", "once", "all"] = Field(default_factory=ABSENT)
    enabled: bool = Field(default_factory=ABSENT)


class Bounds(BaseModel):
    """What intervals the platform bears."""

    least_seconds: float
    most_seconds: float


class FiringView(BaseModel):
    """A time that a schedule was fired."""

    due_at: datetime
    fired_at: datetime
    cause: Literal["time", "person"]
    outcome: str = Field(
        description="The state of its job; `sent` before there is one and for the"
        " platform's own, `refused` with `error`, `forgotten` when the job is gone.",
        examples=["succeeded"],
    )
    job_id: UUID | None
    error: str | None


class ScheduleView(BaseModel):
    """A schedule as the API shows it."""

    id: UUID
    name: str
    kind: str | None
    task: str | None = Field(description="Of the platform's own schedules.")
    params: dict[str, Any]
    owner: str | None
    cron: str | None
    interval_seconds: float | None
    time_zone: str
    jitter_seconds: float
    catch_up: Literal["skip", "once", "all"]
    enabled: bool
    bounds: Bounds | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_firing: FiringView | None
    created_at: datetime
    updated_at: datetime
    version: int


class SchedulePage(BaseModel):
    """A page of schedules, by name."""

    items: list[ScheduleView]
    next_cursor: str | None


class PageQuery(BaseModel, extra="forbid"):
    """What a list takes."""

    limit: int = Field(default=20, ge=1, le=100)
    cursor: str | None = Field(default=None, max_length=500)
