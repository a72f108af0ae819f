"""One worker's turn at one job: lease, heartbeat, reasons to stop, and what follows."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis import events
from flagon_worker.models import Job

from . import fairness, jobs, leases

log = structlog.get_logger()

Begin = Callable[[], AbstractContextManager[Session]]
"""Opens a transaction; unlike `db.transaction` it works in every thread."""

_TELL_SECONDS = 0.3
_LOOK_SECONDS = 0.5
"""How often a running job looks whether it is to be cancelled."""
_ROW_SECONDS = 1.0
"""How long a worker goes on to another job without another message."""


@dataclass
class Wakes:
    """Wake-ups that a worker has in hand and has taken no job for yet."""

    left: int

    def messages(self, job: Job, *, alone: bool = False) -> list[dict[str, Any]]:
        """Return what hands them on, for the outbox.

        :param job: some job of the queue.
        :param alone: whether each is to get a worker of its own.
        """
        if alone:
            return [jobs.wake_up(job, alone=True) for _ in range(self.left)]
        return [jobs.wake_up(job, self.left)] if self.left else []


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
    wakes: Wakes = field(default_factory=lambda: Wakes(0))
    """Handed on as soon as the job turns out not to be a short one."""
    clock: Callable[[], float] = time.monotonic
    untouched: bool = True
    """Whether the turn has written nothing yet."""
    _cancel: bool = False
    _lost: bool = False
    _cancelled: float | None = None
    _began: float = field(init=False)
    _renewed: float = field(init=False)
    _told: float = float("-inf")

    def __post_init__(self) -> None:
        self._began = self._renewed = self.clock()

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
        self.untouched = False
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

    def look(self) -> None:
        """Renew the lease when that is due, and see whether the job is to be cancelled."""
        if self._lost:
            return
        # A third of the lease: two may fail before it runs out.
        due = self.clock() - self._renewed >= self.lease_seconds / 3
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
                # Others need not wait for a job that is not short.
                events.put(session, self.wakes.messages(self.job, alone=True))
            self.wakes.left = 0
            if due:
                self._renewed = self.clock()
            if cancel:
                self._cancel = True
                if self._cancelled is None:
                    self._cancelled = self.clock()
                if self.clock() - self._cancelled >= self.cancel_grace_seconds:
                    self._cut_off()
        except leases.LeaseLost:
            self._lost = True
        except (DBAPIError, PoolTimeout) as error:
            log.warning("lease_not_renewed", error=type(error).__name__)
            self._lost = self.clock() - self._renewed > self.lease_seconds

    @property
    def short(self) -> bool:
        """Whether the turn is too young to be looked after."""
        return self.clock() - self._began < _LOOK_SECONDS / 2

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


class Heartbeat:
    """A thread that looks after the job at work, one job after the other."""

    def __init__(self, lease_seconds: float) -> None:
        self._pause_seconds = min(_LOOK_SECONDS, lease_seconds / 3)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._thread = threading.Thread(
            target=self._beat, name="heartbeat", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @contextmanager
    def of(self, run: Run) -> Iterator[None]:
        """Look after a turn while the block works."""
        self._run = run
        try:
            yield
        finally:
            # Waits for a look that is under way: it may be about to end this process.
            with self._lock:
                self._run = None

    def _beat(self) -> None:
        while not self._done.wait(self._pause_seconds):
            with self._lock:
                if self._run is not None and not self._run.short:
                    self._run.look()


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


_Taken = tuple[Job, UUID]
"""A job and the token of its lease."""


def run_jobs(
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
    times: int = 1,
    rules: fairness.Rules | None = None,
    within: Within = nullcontext,
) -> Iterator[Outcome]:
    """Take jobs up one after the other, work on each and record how that ended.

    It goes on while the jobs are short, for about a second; nothing to do yields nothing.
    Safe to call any number of times for one job, at once and after each other.

    :param job_id: for whom the message was sent; taken where it names no queue, as
        messages of older releases.
    :param queue: where to take the job whose turn it is.
    :param times: how many wake-ups the message stands for; what is left is handed on.
    :param rules: what keeps one owner or kind from taking everything.
    :param within: is entered with the job while it is at work, for logs and traces.
    :param too_long: what the queue raises when the task has taken too long.
    :param worker: who works, for people: host and process.
    :param cancel_grace_seconds: how long a job may ignore that it is to be cancelled.
    :param kill: ends this process at once, when the job ignores it for longer.
    """
    rules = rules or fairness.Rules()
    wakes = Wakes(times)
    end = time.monotonic() + min(_ROW_SECONDS, slice_seconds)

    def take(session: Session) -> _Taken | None:
        token = uuid7()
        lease: dict[str, Any] = {
            "token": token,
            "lease_seconds": patience.lease_seconds,
            "worker": worker,
        }
        job = (
            fairness.take(session, queue, rules, **lease)
            if queue
            else leases.claim(session, job_id, **lease)
        )
        return (job, token) if job else None

    def follow(session: Session) -> _Taken | None:
        found = take(session)
        if found is None:
            # Nobody could start anything: the rest was used up for nothing.
            wakes.left = 0
        return found

    def goes_on() -> bool:
        return queue is not None and time.monotonic() < end and not stopping()

    with begin() as session:
        taken = take(session)
    if taken is None:
        return
    with Heartbeat(patience.lease_seconds) as heartbeat:
        while taken:
            job, token = taken
            wakes.left = max(0, wakes.left - 1)
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
                wakes=wakes,
            )
            try:
                with within(job):
                    result, reason = _work(run, kinds[job.kind], heartbeat)
                    ended = _finish(run, result, reason, patience, goes_on, follow)
            except leases.LeaseLost:
                log.warning("lease_lost", job_id=str(job.id))
                with begin() as session:
                    events.put(session, wakes.messages(job))
                yield Outcome(job.kind, "lost", queued_seconds)
                return
            taken = ended.following
            started_at = job.started_at or jobs.now()
            # What was foreseen needs no report; who was too slow is known by name.
            foreseen = ended.name != "crashed" or isinstance(reason, too_long)
            yield Outcome(
                job.kind,
                # A crash, or trouble that lasts, can be the last straw.
                ended.job.state if ended.job.finished_at else ended.name,
                queued_seconds,
                (ended.job.finished_at - started_at).total_seconds()
                if ended.job.finished_at
                else None,
                None if foreseen else reason,
            )


def _work(
    run: Run, kind: Kind, heartbeat: Heartbeat
) -> tuple[dict[str, Any], Exception | None]:
    """Work and return the result, and what ended the turn otherwise.

    :raises leases.LeaseLost: another worker has the job.
    """
    try:
        with heartbeat.of(run):
            return kind(run), None
    except leases.LeaseLost:
        raise
    # Whatever a kind raises, the job's row must tell; who calls raises it again once it
    # is written down.
    except Exception as error:  # noqa: BLE001
        return {}, error


@dataclass(frozen=True)
class _Ended:
    """How a turn was written down."""

    job: Job
    name: str
    following: _Taken | None


def _finish(
    run: Run,
    result: dict[str, Any],
    reason: Exception | None,
    patience: leases.Patience,
    goes_on: Callable[[], bool],
    follow: Callable[[Session], _Taken | None],
) -> _Ended:
    """Write down how a turn ended, the last thing that its lease is good for.

    The next job is taken in the same transaction, which saves one; should that fail, the
    end is written alone.

    :raises leases.LeaseLost: another worker has the job.
    """
    if goes_on():
        try:
            return _end_turn(run, result, reason, patience, follow)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("next_not_taken", error=type(error).__name__)
            run.untouched = False
    return _end_turn(run, result, reason, patience, None)


def _end_turn(
    run: Run,
    result: dict[str, Any],
    reason: Exception | None,
    patience: leases.Patience,
    follow: Callable[[Session], _Taken | None] | None,
) -> _Ended:
    with run.begin() as session:
        job, name = run.job, "succeeded"
        quick = reason is None and run.untouched
        if not (
            quick
            and leases.succeed_at_once(
                session, job, run.token, result, choosing=follow is not None
            )
        ):
            job = leases.hold(session, job.id, run.token)
            name = _end(session, job, result=result, reason=reason, patience=patience)
        if follow and name != "crashed":
            return _Ended(job, name, follow(session))
        if job.finished_at or name == "paused":
            fairness.release(session, job, run.rules)
        events.put(session, run.wakes.messages(job))
    return _Ended(job, name, None)


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
