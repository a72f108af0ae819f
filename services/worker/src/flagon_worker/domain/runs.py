"""One worker's turn at one job: lease, heartbeat, reasons to stop, and what follows."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_worker.models import Job

from . import fairness, jobs, leases

log = structlog.get_logger()

Begin = Callable[[], AbstractContextManager[Session]]
"""Opens a transaction; unlike `db.transaction` it works in every thread."""

_TELL_SECONDS = 0.3
_LOOK_SECONDS = 0.5
"""How often a running job looks whether it is to be cancelled."""


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
    cancel_grace_seconds: float = float("inf")
    """How long the job has to notice that it is to be cancelled."""
    kill: Callable[[Job], None] | None = None
    """Ends this process at once, without its cooperation."""
    rules: fairness.Rules = field(default_factory=fairness.Rules)
    clock: Callable[[], float] = time.monotonic
    _cancel: bool = False
    _lost: bool = False
    _began: float = field(init=False)
    _told: float = float("-inf")

    def __post_init__(self) -> None:
        self._began = self.clock()

    def check(self, *, turn: bool = True) -> None:
        """Return when the job may go on; to be called between its steps.

        :param turn: whether the job could make room for others here.
        :raises leases.LeaseLost: another worker has it.
        :raises leases.Cancelled: its owner cancelled it.
        :raises leases.Interrupted: this worker is about to stop.
        :raises leases.SliceOver: others want their turn.
        """
        if self._lost:
            raise leases.LeaseLost(str(self.job.id))
        if self._cancel:
            raise leases.Cancelled
        if self.stopping():
            raise leases.Interrupted
        if turn and self.clock() - self._began > self.slice_seconds:
            raise leases.SliceOver

    @contextmanager
    def step(self) -> Iterator[tuple[Session, Job]]:
        """Open a transaction that may write to the job, because it holds its lease.

        Until it ends no other worker can get the job, so files may be written, too.

        :raises leases.LeaseLost: another worker has it.
        """
        with self.begin() as session:
            yield session, leases.hold(session, self.job.id, self.token)

    def advance(self, session: Session, job: Job, step: leases.Step) -> None:
        """Confirm a step; tells the world at most a few times a second."""
        at = self.clock()
        news = at - self._told >= _TELL_SECONDS
        if news:
            self._told = at
        leases.advance(session, job, step, lease_seconds=self.lease_seconds, news=news)
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
        cancelled: float | None = None
        # A third of the lease: two beats may fail before it runs out.
        renew_seconds = self.lease_seconds / 3
        while not done.wait(min(_LOOK_SECONDS, renew_seconds)):
            due = self.clock() - renewed >= renew_seconds
            try:
                with self.begin() as session:
                    # Only looking costs no write.
                    cancel = (
                        leases.renew(
                            session,
                            self.job.id,
                            token=self.token,
                            lease_seconds=self.lease_seconds,
                        )
                        if due
                        else leases.wanted(session, self.job.id, token=self.token)
                    )
                if due:
                    renewed = self.clock()
                if cancel:
                    self._cancel = True
                    cancelled = self.clock() if cancelled is None else cancelled
                    if self.clock() - cancelled >= self.cancel_grace_seconds:
                        self._cut_off()
            except leases.LeaseLost:
                self._lost = True
                return
            except (DBAPIError, PoolTimeout) as error:
                log.warning("lease_not_renewed", error=type(error).__name__)
                if self.clock() - renewed > self.lease_seconds:
                    self._lost = True
                    return

    def _cut_off(self) -> None:
        """End a job that does not hear: first its row, then the process.

        :raises leases.LeaseLost: the job ended while we made up our mind.
        """
        if self.kill is None:
            return
        with self.step() as (session, job):
            leases.stop(session, job, "Cancelled; its process was ended.")
            fairness.release(session, job, self.rules)
        log.warning("job_cut_off", job_id=str(job.id))
        self.kill(job)


Kind = Callable[[Run], dict[str, Any]]
"""Does the work of one kind of job and returns its result."""


Within = Callable[[Job], AbstractContextManager[object]]
"""Gives what surrounds the work on a job."""


@dataclass(frozen=True)
class Outcome:
    """How a turn ended."""

    kind: str
    name: str
    """A final state, or `paused`, `handed_back`, `turn`, `crashed`, `lost`."""
    queued_seconds: float
    """Time between readiness and the start of the turn."""
    run_seconds: float | None = None
    """Time between the first start and the end; None when it has not ended."""
    failure: Exception | None = None
    """What nobody expected."""


def run_job(
    begin: Begin,
    job_id: UUID,
    *,
    kinds: Mapping[str, Kind],
    patience: leases.Patience,
    slice_seconds: float,
    stopping: Callable[[], bool],
    too_long: type[Exception],
    worker: str = "",
    cancel_grace_seconds: float = float("inf"),
    kill: Callable[[Job], None] | None = None,
    queue: str | None = None,
    rules: fairness.Rules | None = None,
    within: Within = nullcontext,
) -> Outcome | None:
    """Take a job up, work on it and record how that ended; None: nothing to do.

    Safe to call any number of times for one job, at once and after each other.

    :param job_id: for whom the message was sent; taken where it names no queue, as
        messages of older releases.
    :param queue: where to take the job whose turn it is.
    :param rules: what keeps one owner or kind from taking everything.
    :param within: is entered with the job while it is at work, for logs and traces.
    :param too_long: what the queue raises when the task has taken too long.
    :param worker: who works, for people: host and process.
    :param cancel_grace_seconds: how long a job may ignore that it is to be cancelled.
    :param kill: ends this process at once, when the job ignores it for longer.
    """
    token = uuid7()
    rules = rules or fairness.Rules()
    with begin() as session:
        found = fairness.choose(session, queue, rules) if queue else job_id
        job = (
            leases.claim(
                session,
                found,
                token=token,
                lease_seconds=patience.lease_seconds,
                worker=worker,
            )
            if found
            else None
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
        cancel_grace_seconds=cancel_grace_seconds,
        kill=kill,
        rules=rules,
    )
    try:
        with within(job):
            name, finished_at, failure = _work(run, kinds[job.kind], patience, too_long)
    except leases.LeaseLost:
        log.warning("lease_lost", job_id=str(job.id))
        return Outcome(job.kind, "lost", queued_seconds)
    started_at = job.started_at or jobs.now()
    return Outcome(
        job.kind,
        name,
        queued_seconds,
        (finished_at - started_at).total_seconds() if finished_at else None,
        failure,
    )


def _work(
    run: Run, kind: Kind, patience: leases.Patience, too_long: type[Exception]
) -> tuple[str, datetime | None, Exception | None]:
    """Work, write down how it ended, and return that, when, and what was unexpected."""
    result: dict[str, Any] = {}
    reason: Exception | None = None
    try:
        with run.heartbeat():
            result = kind(run)
    except leases.LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, the job's row must tell)
        reason = error
    # The last thing that the lease is good for.
    with run.step() as (session, job):
        name = _end(session, job, result=result, reason=reason, patience=patience)
        if job.finished_at or name == "paused":
            fairness.release(session, job, run.rules)
    # What was foreseen needs no report; who was too slow is known by name.
    unexpected = name == "crashed" and not isinstance(reason, too_long)
    if job.finished_at:
        # A crash, or trouble that lasts, can be the last straw.
        name = job.state
    return name, job.finished_at, reason if unexpected else None


def _end(
    session: Session,
    job: Job,
    *,
    result: dict[str, Any],
    reason: Exception | None,
    patience: leases.Patience,
) -> str:
    """Bring the job to the state that follows and return how the turn ended."""
    match reason:
        case None:
            leases.succeed(session, job, result)
            return "succeeded"
        case leases.JobFailed():
            leases.fail(session, job, str(reason))
            return "failed"
        case leases.Cancelled():
            leases.stop(session, job)
            return "cancelled"
        case leases.Interrupted():
            leases.hand_back(session, job, patience)
            return "handed_back"
        case leases.SliceOver():
            leases.take_turns(session, job, patience)
            return "turn"
        case leases.Trouble():
            leases.pause(session, job, str(reason), patience)
            return "paused"
        case OperationalError() | PoolTimeout():
            leases.pause(session, job, "The database does not answer.", patience)
            return "paused"
        case OSError():
            # A full disk, above all: somebody will make room.
            leases.pause(session, job, f"A file: {reason.strerror}.", patience)
            return "paused"
        case _:
            leases.crash(session, job, patience)
            return "crashed"
