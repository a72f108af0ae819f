"""Jobs as the jobs API shows them, with what pages ask of them."""

from datetime import datetime
from typing import Any

from pydantic import Field, field_validator

from flagon_web.i18n import LazyText
from flagon_web.i18n import gettext as _

from .products import Shown
from .terms import capitalized, term

_IMPORTED = ("created", "updated", "unchanged", "refused")
FINISHED = frozenset({"succeeded", "failed", "cancelled"})
STATES = ("queued", "running", "succeeded", "failed", "cancelled")
DEAD = {
    "poison": LazyText("It took down every worker that tried it."),
    "exhausted": LazyText("What it needs stayed away for too long."),
}
"""Why a job is a dead letter, in words."""


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


class Artefact(Shown):
    """A file that a job left behind."""

    name: str
    url: str

    @property
    def title(self) -> str:
        """What it is, for people."""
        if self.name == "refused.csv":
            return _("Report of the refused rows")
        return _("Download %(name)s", name=self.name)

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
    bytes: int = 0


class Job(Shown):
    """One piece of work that runs on its own."""

    id: str
    kind: str
    state: str
    progress: Progress = Field(default_factory=Progress)
    result: dict[str, Any] | None = None
    error: Any = None
    dead: str | None = None
    attempts: int = 0
    log_lines: int = 0
    cancel_requested: bool = False
    upload: Upload | None = None
    artefacts: list[Artefact] = Field(default_factory=list)
    params: dict[str, Any] = Field(default_factory=dict)
    owner: str = ""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    version: int = 1
    etag: str = ""

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
        words = capitalized(term(self.kind))
        if self.dry_run:
            words = _("Check")
        if not self.upload:
            return words
        return _("%(work)s of %(file)s", work=words, file=self.upload.name)

    @property
    def counts(self) -> list[tuple[str, int]]:
        """Pairs of (what, how many) in its result; an import has always the same."""
        found = self.result or {}
        if self.dry_run and self.result is not None:
            # The catalog was not asked, so nobody knows which of them are new to it.
            refused = found.get("refused", 0)
            return [("usable", self.progress.done - refused), ("refused", refused)]
        if self.kind == "import" and self.result is not None:
            found = {what: found.get(what, 0) for what in _IMPORTED}
        return [
            (what.replace("_", " "), count)
            for what, count in found.items()
            if isinstance(count, int) and not isinstance(count, bool)
        ]

    @property
    def outcome(self) -> list[tuple[str, int]]:
        """Its counts without what did not happen."""
        return [(what, count) for what, count in self.counts if count]

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

    @property
    def why_dead(self) -> str:
        """Why nobody tries it again by itself; empty when it is no dead letter."""
        return (
            str(DEAD.get(self.dead, _("Nobody tries it again."))) if self.dead else ""
        )

    @property
    def cancellable(self) -> bool:
        """Whether the jobs API would cancel it."""
        return not self.finished and not self.cancel_requested

    def retryable(self, *, manages: bool) -> bool:
        """Say whether the jobs API would queue it again.

        :param manages: whether the person may start jobs that take workers down.
        """
        if self.state not in {"failed", "cancelled"}:
            return False
        return manages or self.dead != "poison"


class JobPage(Shown):
    """Some jobs, newest first, and where the next ones begin."""

    items: list[Job]
    next_cursor: str | None = None


class Attempt(Shown):
    """One attempt at a job."""

    number: int
    started_at: datetime
    ended_at: datetime | None = None
    worker: str = ""
    outcome: str | None = None
    error: str | None = None

    @property
    def words(self) -> str:
        """How it ended, for people."""
        return (self.outcome or "running").replace("_", " ")


class AttemptPage(Shown):
    """Some attempts, newest first."""

    items: list[Attempt]
    next_cursor: str | None = None


class Line(Shown):
    """One line of a job's log."""

    number: int
    at: datetime
    level: str = "info"
    text: str


class LinePage(Shown):
    """Some lines of a log, oldest first."""

    items: list[Line]
    next_cursor: str | None = None


class Kind(Shown):
    """A kind of job."""

    kind: str
    title: str = ""
    scope: str = ""
    takes_file: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return capitalized(term(self.kind))


class KindList(Shown):
    """All kinds of jobs."""

    items: list[Kind]


class DeadLetter(Job):
    """A job that nobody tries again by itself, with what helps to judge it."""

    last_attempts: list[Attempt] = Field(default_factory=list)
    last_lines: list[Line] = Field(default_factory=list)


class Replayed(Shown):
    """What came of queueing many dead letters again."""

    replayed: int = 0
    left: int = 0
