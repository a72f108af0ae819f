"""JSON in and out: kinds, attempts, logs and dead letters of jobs."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from .domain.history import LINES_MAX
from .schemas import JobView, KindName


class KindView(BaseModel):
    """A kind of job and what it wants to know."""

    kind: str
    title: str
    queue: str
    scope: str
    """What a caller needs, beside `jobs:write`, to submit one."""
    takes_file: bool
    once: str = Field(
        description="Why it has its effect once, however often its worker dies.",
        examples=["Its numbers are stored before it draws."],
    )
    params: dict[str, Any]
    """The JSON Schema of `params`."""


class KindList(BaseModel):
    """Every kind that can be submitted."""

    items: list[KindView]


class AttemptView(BaseModel):
    """One attempt at a job."""

    number: int
    started_at: str
    ended_at: str | None
    worker: str
    outcome: (
        Literal["succeeded", "failed", "cancelled", "paused", "handed_back", "crashed"]
        | None
    )
    """How it ended; null while it goes on."""
    error: str | None


class AttemptPage(BaseModel):
    """A page of attempts, newest first."""

    items: list[AttemptView]
    next_cursor: str | None


class LineView(BaseModel):
    """One line of a job's log."""

    number: int
    at: str
    level: Literal["info", "warning", "error"]
    text: str


class LinePage(BaseModel):
    """A page of a log, oldest first."""

    items: list[LineView]
    next_cursor: str | None


class PageQuery(BaseModel, extra="forbid"):
    """Query of a list without filters."""

    limit: int = Field(default=20, ge=1, le=100)
    cursor: str | None = Field(default=None, max_length=500)


class LogQuery(PageQuery):
    """Query of `GET /api/v1/jobs/<id>/log`."""

    limit: int = Field(default=100, ge=1, le=LINES_MAX)


class DeadQuery(PageQuery):
    """Query of `GET /api/v1/jobs/dead`."""

    kind: KindName | None = None


class DeadView(JobView):
    """A dead letter with what an operator needs to judge it."""

    last_attempts: list[AttemptView]
    """The newest ten, newest first."""
    last_lines: list[LineView]
    """The newest twenty lines of its log, oldest first."""


class Replay(BaseModel, extra="forbid"):
    """Body of `POST /api/v1/jobs/dead/replay`."""

    kind: KindName | None = None
    """Only jobs of this kind."""
    limit: int = Field(default=100, ge=1, le=500)
    """Most jobs to queue again; the oldest come first."""


class Replayed(BaseModel):
    """What a replay did."""

    replayed: int
    left: int
    """Dead letters that remain, of the kind that was asked for."""
