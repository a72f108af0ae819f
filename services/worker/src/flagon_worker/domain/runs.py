"""One worker's turn at one job: lease, heartbeat, reasons to stop, and what follows."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from ..models import Job
from . import jobs

log = structlog.get_logger()

Begin = Callable[[], AbstractContextManager[Session]]
"""Opens a transaction; unlike `db.transaction` it works in every thread."""

_TELL_SECONDS = 0.3


@dataclass
class Run:
    """A turn at a running job; only while its lease holds may anything be written."""

    begin: Begin
    job: Job
    """As it was when the turn began."""
    token: UUID
    lease_seconds: float
    slice_seconds: float
    stopping: Callable[[], bool]
    """Whether this worker is about to stop."""
    clock: Callable[[], float] = time.monotonic
    result: dict[str, Any] | None = None
    """What has been done so far; kept by the kind of job."""
    artefacts: list[str] = field(default_factory=list)
    """Files made so far; kept by the kind of job."""
    _cancel: bool = False
    _lost: bool = False
    _began: float = field(init=False)
    _told: float = float("-inf")

    def __post_init__(self) -> None:
        self._began = self.clock()

    def check(self, *, turn: bool = True) -> None:
        """Return when the job may go on; to be called between its steps.

        :param turn: whether the job could make room for others here.
        :raises jobs.LeaseLost: another worker has it.
        :raises jobs.Cancelled: its owner cancelled it.
        :raises jobs.Interrupted: this worker is about to stop.
        :raises jobs.SliceOver: others want their turn.
        """
        if self._lost:
            raise jobs.LeaseLost(str(self.job.id))
        if self._cancel:
            raise jobs.Cancelled
        if self.stopping():
            raise jobs.Interrupted
        if turn and self.clock() - self._began > self.slice_seconds:
            raise jobs.SliceOver

    @contextmanager
    def step(self) -> Iterator[tuple[Session, Job]]:
        """Open a transaction that may write to the job, because it holds its lease.

        Until it ends no other worker can get the job, so files may be written, too.

        :raises jobs.LeaseLost: another worker has it.
        """
        with self.begin() as session:
            yield session, jobs.hold(session, self.job.id, self.token)

    def advance(
        self,
        session: Session,
        job: Job,
        *,
        checkpoint: dict[str, Any],
        done: int,
        total: int | None,
        unit: str,
        message: str,
    ) -> None:
        """Confirm a step; tells the world at most a few times a second."""
        at = self.clock()
        tell = at - self._told >= _TELL_SECONDS
        if tell:
            self._told = at
        jobs.advance(
            session,
            job,
            checkpoint=checkpoint,
            done=done,
            total=total,
            unit=unit,
            message=message,
            lease_seconds=self.lease_seconds,
            tell=tell,
        )
        self._cancel = self._cancel or job.cancel_requested

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Renew the lease from a thread while the block works."""
        done = threading.Event()
        thread = threading.Thread(
            target=self._beat, args=(done,), name="heartbeat", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, done: threading.Event) -> None:
        renewed = self.clock()
        # A third: two beats may fail before the lease runs out.
        while not done.wait(self.lease_seconds / 3):
            try:
                with self.begin() as session:
                    self._cancel = jobs.renew(
                        session,
                        self.job.id,
                        token=self.token,
                        lease_seconds=self.lease_seconds,
                    )
                renewed = self.clock()
            except jobs.LeaseLost:
                self._lost = True
                return
            except DBAPIError as error:
                log.warning("lease_not_renewed", error=type(error).__name__)
                if self.clock() - renewed > self.lease_seconds:
                    self._lost = True
                    return


Kind = Callable[[Run], dict[str, Any]]
"""Does the work of one kind of job and returns its result."""


@dataclass(frozen=True)
class Outcome:
    """How a turn ended."""

    kind: str
    name: str
    """A final state, or `paused`, `handed_back`, `turn`, `crashed`, `lost`."""
    queued_seconds: float | None
    """Time between readiness and start; None when the job only went on."""
    run_seconds: float | None = None
    """Time between the first start and the end; None when it has not ended."""
    failure: Exception | None = None
    """What nobody expected."""


def run_job(
    begin: Begin,
    job_id: UUID,
    *,
    kinds: Mapping[str, Kind],
    patience: jobs.Patience,
    slice_seconds: float,
    stopping: Callable[[], bool],
    too_long: type[Exception],
) -> Outcome | None:
    """Take a job up, work on it and record how that ended; None: nothing to do.

    Safe to call any number of times for one job, at once and after each other.

    :param too_long: what the queue raises when the task has taken too long.
    """
    token = uuid7()
    with begin() as session:
        job = jobs.claim(
            session, job_id, token=token, lease_seconds=patience.lease_seconds
        )
    if job is None:
        return None
    queued_seconds = (jobs.now() - job.queued_at).total_seconds()
    run = Run(
        begin,
        job,
        token,
        lease_seconds=patience.lease_seconds,
        slice_seconds=slice_seconds,
        stopping=stopping,
    )
    try:
        ending, failure = _work(run, kinds[job.kind], patience, too_long)
    except jobs.LeaseLost:
        log.warning("lease_lost", job_id=str(job_id))
        return Outcome(job.kind, "lost", queued_seconds)
    return Outcome(
        job.kind,
        ending.name,
        queued_seconds,
        _run_seconds(job, ending.finished_at),
        failure,
    )


def _run_seconds(job: Job, finished_at: datetime | None) -> float | None:
    if finished_at is None or job.started_at is None:
        return None
    return (finished_at - job.started_at).total_seconds()


@dataclass(frozen=True)
class _Ending:
    name: str
    finished_at: datetime | None


def _work(
    run: Run, kind: Kind, patience: jobs.Patience, too_long: type[Exception]
) -> tuple[_Ending, Exception | None]:
    """Work and write down the ending, which is the last thing the lease is good for."""
    failure: Exception | None = None
    end: Callable[[Session, Job], object]
    try:
        with run.heartbeat():
            result = kind(run)
        name, end = (
            "succeeded",
            lambda session, job: jobs.succeed(
                session,
                job,
                result=result,
                artefacts=run.artefacts,
                message=job.progress_message,
            ),
        )
    except jobs.JobFailed as refusal:
        error = str(refusal)
        name, end = (
            "failed",
            lambda session, job: jobs.fail(
                session, job, error, result=run.result, artefacts=run.artefacts
            ),
        )
    except jobs.Cancelled:
        name, end = (
            "cancelled",
            lambda session, job: jobs.stop(
                session, job, result=run.result, artefacts=run.artefacts
            ),
        )
    except jobs.Trouble as trouble:
        reason = str(trouble)
        name, end = (
            "paused",
            lambda session, job: jobs.pause(session, job, reason, patience),
        )
    except jobs.Interrupted:
        name, end = (
            "handed_back",
            lambda session, job: jobs.hand_back(session, job, patience),
        )
    except jobs.SliceOver:
        name, end = "turn", lambda session, job: jobs.take_turns(session, job, patience)
    except jobs.LeaseLost:
        raise
    except Exception as unexpected:  # noqa: BLE001 (told to the caller, counted, and tried again a few times)
        failure = None if isinstance(unexpected, too_long) else unexpected
        name, end = "crashed", lambda session, job: jobs.crash(session, job, patience)
    with run.step() as (session, job):
        end(session, job)
    state = job.state if job.finished_at else name
    return _Ending(state, job.finished_at), failure
