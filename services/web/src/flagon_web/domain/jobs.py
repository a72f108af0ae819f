"""Jobs as the jobs API shows them, with what pages ask of them."""

from datetime import datetime
from typing import Any

from pydantic import Field, field_validator

from .products import Shown

FINISHED = frozenset({"succeeded", "failed", "cancelled"})


class Progress(Shown):
    """How far a job is."""

    done: int = 0
    total: int | None = None
    unit: str = ""
    message: str = ""

    @property
    def percent(self) -> int | None:
        """0 to 100; None while nobody knows how much there is."""
        if not self.total:
            return None
        return max(0, min(100, self.done * 100 // self.total))


class Result(Shown):
    """What an import did to the catalog."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0


class Artefact(Shown):
    """A file that a job left behind."""

    name: str
    url: str

    @field_validator("url")
    @classmethod
    def _on_this_site(cls, url: str) -> str:
        # The address becomes a link: nothing but a path of the jobs API will do.
        if not url.startswith("/api/v1/jobs/"):
            raise ValueError("not an address of the jobs API")
        return url


class Upload(Shown):
    """The file that came with a job."""

    name: str


class Job(Shown):
    """One piece of work that runs on its own."""

    id: str
    kind: str
    state: str
    progress: Progress = Field(default_factory=Progress)
    result: Result | None = None
    error: Any = None
    attempts: int = 0
    cancel_requested: bool = False
    upload: Upload | None = None
    artefacts: list[Artefact] = Field(default_factory=list)
    params: dict[str, Any] = Field(default_factory=dict)
    owner: str = ""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    version: int = 1

    @field_validator("progress", mode="before")
    @classmethod
    def _no_progress_yet(cls, value: object) -> object:
        return value or {}

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in FINISHED

    @property
    def dry_run(self) -> bool:
        """Whether the job only checks its file."""
        return bool(self.params.get("dry_run"))

    @property
    def title(self) -> str:
        """What it does, in words: `Import of books.csv`."""
        words = self.kind.replace("_", " ").capitalize()
        if self.dry_run:
            words = "Check"
        return f"{words} of {self.upload.name}" if self.upload else words

    @property
    def outcome(self) -> list[tuple[str, int]]:
        """Pairs of (what, how many rows), without what did not happen."""
        counts = self.result.model_dump() if self.result else {}
        return [(what, count) for what, count in counts.items() if count]

    @property
    def seconds(self) -> float | None:
        """How long it ran; None until it has finished."""
        if self.started_at and self.finished_at:
            return max(0.0, (self.finished_at - self.started_at).total_seconds())
        return None

    @property
    def why(self) -> str:
        """The error in words; empty when there is none."""
        if isinstance(self.error, dict):
            return str(self.error.get("detail") or self.error.get("title") or "")
        return str(self.error or "")


class JobPage(Shown):
    """Some jobs, newest first, and where the next ones begin."""

    items: list[Job]
    next_cursor: str | None = None
