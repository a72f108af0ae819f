"""The life of a job: handed in, taken up under a lease, moved on, finished.

The row is the truth and a message only a wake-up: a message that is lost is sent again by
`reap`, one that comes twice finds nothing to do. Whoever writes to a running job shows
its lease token, so a worker that was thought dead cannot write any more.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis import events
from flagon_chassis.errors import Conflict, NotFound
from flagon_chassis.tables import outbox

from ..models import FINISHED, Job

TASK = "worker.run_job"
"""The task whose message wakes a worker for one job."""

_REAP_MAX = 500


class JobNotFound(NotFound):
    """There is no such job."""


class JobUnfinished(Conflict):
    """The job has not finished."""


class JobFinished(Conflict):
    """The job has finished already."""


class LeaseLost(Exception):
    """The job is another worker's now (or nobody's); this one must stop writing."""


class JobFailed(Exception):
    """The job cannot succeed; the message says why and what to do."""


class Trouble(Exception):
    """Another service does not answer at the moment; trying again will help."""


class Interrupted(Exception):
    """The worker is about to stop and hands its job back."""


class SliceOver(Exception):
    """The job has worked long enough in one go and lets others have their turn."""


class Cancelled(Exception):
    """Its owner does not want the job any more."""


@dataclass(frozen=True)
class Upload:
    """The file that came with a job."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Viewer:
    """Who looks at jobs."""

    sub: str
    manages: bool
    """Whether other people's jobs are to be seen, too."""


@dataclass(frozen=True)
class Patience:
    """How trouble is borne."""

    lease_seconds: float
    crashes_max: int
    patience_seconds: float
    backoff_seconds: float
    resend_seconds: float


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def show(job: Job) -> dict[str, Any]:
    """Return a job as the API and its events show it."""
    return {
        "id": str(job.id),
        "kind": job.kind,
        "state": job.state,
        "progress": {
            "done": job.progress_done,
            "total": job.progress_total,
            "unit": job.progress_unit,
            "message": job.progress_message,
        },
        "result": job.result,
        "error": job.error,
        "attempts": job.attempts,
        "cancel_requested": job.cancel_requested,
        "artefacts": [
            {"name": name, "url": f"/api/v1/jobs/{job.id}/artefacts/{name}"}
            for name in job.artefacts
        ],
        "params": job.params,
        "upload": job.upload,
        "owner": job.owner,
        "created_at": _stamp(job.created_at),
        "started_at": _stamp(job.started_at),
        "finished_at": _stamp(job.finished_at),
        "version": job.version,
    }


def _stamp(at: datetime | None) -> str | None:
    if at is None:
        return None
    text = at.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def topics_of(job: Job) -> list[str]:
    """Return where the events of a job are delivered."""
    mine = f"users/{job.owner}"
    return ["jobs", f"jobs/{job.id}", mine, f"{mine}/jobs", f"{mine}/jobs/{job.id}"]


def _tell(
    session: Session, job: Job, changed: Sequence[str], event: str = "job.changed.v1"
) -> None:
    events.emit(
        session,
        event,
        subject=str(job.id),
        data={**show(job), "changed": list(changed)},
        topics=topics_of(job),
    )


def _wake(session: Session, job: Job) -> None:
    """Add the message that makes a worker look at the job, in the job's own trace."""
    session.execute(
        insert(outbox).values(
            id=uuid7(),
            channel="task",
            name=TASK,
            subject=str(job.id),
            body={"queue": job.queue, "kwargs": {"job_id": str(job.id)}},
            headers=job.headers,
        )
    )
    events.wake_relay(session)


# --- what callers do ----------------------------------------------------------------


def submit_job(
    session: Session,
    *,
    job_id: UUID,
    kind: str,
    queue: str,
    owner: str,
    params: dict[str, Any],
    upload: Upload | None,
    headers: Mapping[str, str],
    resend_seconds: float,
) -> Job:
    """Add a job and the message that starts it, and return it.

    :param headers: trace and request id of the request.
    """
    at = now()
    job = Job(
        id=job_id,
        kind=kind,
        queue=queue,
        owner=owner,
        state="queued",
        params=params,
        upload=vars(upload) if upload else None,
        progress_done=0,
        progress_unit="",
        progress_message="",
        artefacts=[],
        attempts=0,
        crashes=0,
        troubles=0,
        cancel_requested=False,
        wake_at=at + timedelta(seconds=resend_seconds),
        headers=dict(headers),
        created_at=at,
        queued_at=at,
        version=1,
    )
    session.add(job)
    session.flush()
    _wake(session, job)
    _tell(session, job, sorted(set(show(job)) - {"id", "version"}))
    return job


def find_job(
    session: Session, job_id: UUID, viewer: Viewer, *, lock: bool = False
) -> Job:
    """Return one job.

    :param lock: keep others from changing it until the transaction ends.
    :raises JobNotFound: there is none, or it is another's and the viewer manages none.
    """
    statement = _visible(select(Job), viewer).where(Job.id == job_id)
    if lock:
        statement = statement.with_for_update()
    job = session.scalar(statement)
    if job is None:
        raise JobNotFound(f"You have no job {job_id}.")
    return job


def list_jobs(
    session: Session,
    viewer: Viewer,
    *,
    state: str | None,
    kind: str | None,
    before: UUID | None,
    limit: int,
) -> list[Job]:
    """Return jobs, newest first.

    :param before: only jobs older than this one.
    """
    statement = _visible(select(Job), viewer)
    if state:
        statement = statement.where(Job.state == state)
    if kind:
        statement = statement.where(Job.kind == kind)
    if before:
        statement = statement.where(Job.id < before)
    return list(session.scalars(statement.order_by(Job.id.desc()).limit(limit)))


def _visible(statement: Select[tuple[Job]], viewer: Viewer) -> Select[tuple[Job]]:
    return statement if viewer.manages else statement.where(Job.owner == viewer.sub)


def cancel_job(session: Session, job: Job) -> Job:
    """Cancel a job: one that waits at once, one that runs at its next step.

    :param job: locked by this transaction.
    :raises JobFinished: there is nothing left to cancel.
    """
    if job.state in FINISHED:
        raise JobFinished(f"The job has {job.state} already.", state=job.state)
    if job.cancel_requested:
        return job
    if job.lease_token is None:
        _finish(job, "cancelled")
        changed = ["state", "finished_at"]
    else:
        job.cancel_requested = True
        job.version += 1
        changed = ["cancel_requested"]
    session.flush()
    _tell(session, job, changed)
    return job


def delete_job(session: Session, job: Job) -> None:
    """Forget a finished job; its files are the caller's to remove.

    :raises JobUnfinished: it has to be cancelled first.
    """
    if job.state not in FINISHED:
        raise JobUnfinished("Cancel the job before you delete it.", state=job.state)
    session.delete(job)


# --- what workers do ----------------------------------------------------------------


def claim(
    session: Session, job_id: UUID, *, token: UUID, lease_seconds: float
) -> Job | None:
    """Take a job up and return it, or None where there is nothing to do.

    Of any number of workers that try at once exactly one gets it.
    """
    at = now()
    job = session.scalar(
        select(Job)
        .where(
            Job.id == job_id,
            Job.state.in_(("queued", "running")),
            Job.lease_token.is_(None),
            # A job that pauses after trouble is not started by a stray message.
            or_(Job.state == "running", Job.queued_at <= at),
        )
        # Who comes second waits here, and then finds the job taken.
        .with_for_update()
    )
    if job is None:
        return None
    continued = job.state == "running"
    job.state = "running"
    job.lease_token = token
    job.lease_until = at + timedelta(seconds=lease_seconds)
    if not continued:
        job.attempts += 1
        job.started_at = job.started_at or at
        job.version += 1
        session.flush()
        _tell(session, job, ["state", "attempts", "started_at"])
    return job


def renew(session: Session, job_id: UUID, *, token: UUID, lease_seconds: float) -> bool:
    """Keep a lease for longer and say whether the job is to be cancelled.

    :raises LeaseLost: it is not ours any more.
    """
    cancel = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.lease_token == token)
        .values(lease_until=now() + timedelta(seconds=lease_seconds))
        .returning(Job.cancel_requested)
    )
    if cancel is None:
        raise LeaseLost(str(job_id))
    return cancel


def hold(session: Session, job_id: UUID, token: UUID) -> Job:
    """Return our running job, locked, so that the transaction may write to it.

    :raises LeaseLost: it is not ours any more.
    """
    job = session.scalar(
        select(Job)
        .where(Job.id == job_id, Job.lease_token == token)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise LeaseLost(str(job_id))
    return job


def advance(
    session: Session,
    job: Job,
    *,
    checkpoint: dict[str, Any],
    done: int,
    total: int | None,
    unit: str,
    message: str,
    lease_seconds: float,
    tell: bool,
) -> None:
    """Confirm a step: from here the job goes on, whatever happens to its worker.

    :param job: held by this transaction.
    :param tell: whether this step is worth an event.
    """
    job.checkpoint = checkpoint
    job.progress_done = done
    job.progress_total = total
    job.progress_unit = unit
    job.progress_message = message
    job.lease_until = now() + timedelta(seconds=lease_seconds)
    job.crashes = job.troubles = 0
    job.troubled_since = None
    if tell:
        job.version += 1
        session.flush()
        _tell(session, job, ["progress"], "job.progressed.v1")


def succeed(
    session: Session,
    job: Job,
    *,
    result: dict[str, Any],
    artefacts: list[str],
    message: str,
) -> None:
    """End a job well."""
    job.progress_message = message
    job.result = result
    job.artefacts = artefacts
    _finish(job, "succeeded")
    session.flush()
    _tell(session, job, ["state", "progress", "result", "artefacts", "finished_at"])


def fail(
    session: Session,
    job: Job,
    error: str,
    *,
    result: dict[str, Any] | None = None,
    artefacts: Sequence[str] = (),
) -> None:
    """End a job that cannot succeed.

    :param error: why, and what to do, for people.
    :param result: what it had done until then.
    """
    job.error = error
    job.result = result
    job.artefacts = list(artefacts)
    _finish(job, "failed")
    session.flush()
    _tell(session, job, ["state", "error", "result", "artefacts", "finished_at"])


def stop(
    session: Session,
    job: Job,
    *,
    result: dict[str, Any] | None = None,
    artefacts: Sequence[str] = (),
) -> None:
    """End a running job that was cancelled; what it did until then stays done."""
    job.result = result
    job.artefacts = list(artefacts)
    _finish(job, "cancelled")
    session.flush()
    _tell(session, job, ["state", "result", "artefacts", "finished_at"])


def _finish(job: Job, state: str) -> None:
    job.state = state
    job.finished_at = now()
    job.lease_token = job.lease_until = None
    job.cancel_requested = False
    job.version += 1


def pause(session: Session, job: Job, reason: str, patience: Patience) -> float:
    """Put a job back after trouble that is not its own and return the seconds it waits.

    The wait doubles from one second on, with jitter, so that many jobs do not come back
    at once. When the trouble has lasted too long the job fails.

    :param reason: what does not answer, for people.
    """
    at = now()
    job.troubles += 1
    job.troubled_since = job.troubled_since or at
    if (at - job.troubled_since).total_seconds() > patience.patience_seconds:
        fail(session, job, f"Gave up waiting: {reason} Submit the job again later.")
        return 0.0
    longest = min(patience.backoff_seconds, 2.0 ** min(job.troubles, 30) / 2)
    wait = longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
    _requeue(job, at + timedelta(seconds=wait))
    job.progress_message = f"Waiting: {reason}"
    session.flush()
    _tell(session, job, ["state", "progress"])
    return wait


def hand_back(session: Session, job: Job, patience: Patience) -> None:
    """Give a job up because the worker stops; another one takes it at once."""
    _requeue(job, now())
    job.wake_at += timedelta(seconds=patience.resend_seconds)
    session.flush()
    _wake(session, job)
    _tell(session, job, ["state"])


def take_turns(session: Session, job: Job, patience: Patience) -> None:
    """Let other jobs have a worker; to its owner the job goes on running."""
    job.lease_token = job.lease_until = None
    job.queued_at = now()
    job.wake_at = job.queued_at + timedelta(seconds=patience.resend_seconds)
    _wake(session, job)


def crash(session: Session, job: Job, patience: Patience) -> bool:
    """Put a job back whose worker was lost, or fail it; say whether it failed.

    :param job: locked by this transaction.
    """
    job.crashes += 1
    if job.crashes >= patience.crashes_max:
        fail(
            session,
            job,
            f"The job took its worker down {job.crashes} times at the same place. "
            "The file may hold something that the import cannot bear; tell an "
            "operator the job's id.",
        )
        return True
    hand_back(session, job, patience)
    return False


def _requeue(job: Job, at: datetime) -> None:
    job.state = "queued"
    job.lease_token = job.lease_until = None
    job.queued_at = job.wake_at = at
    job.version += 1


# --- what the schedule does ---------------------------------------------------------


@dataclass(frozen=True)
class Reaped:
    """What one round of the reaper did."""

    crashed: int = 0
    poisoned: Sequence[str] = ()
    """The kinds of the jobs that failed for crashing too often."""
    woken: int = 0


def reap(session: Session, *, depths: Mapping[str, int], patience: Patience) -> Reaped:
    """Rescue jobs whose worker or message was lost; safe to run at any time and twice.

    :param depths: messages that wait in the broker, by queue. While a queue holds as
        many as there are jobs waiting for it, none was lost and none is sent again.
    """
    at = now()
    lost = session.scalars(
        select(Job)
        .where(Job.state == "running", Job.lease_until < at)
        .order_by(Job.id)
        .limit(_REAP_MAX)
        .with_for_update(skip_locked=True)
    ).all()
    poisoned = []
    for job in lost:
        if job.cancel_requested:
            stop(session, job)
        elif crash(session, job, patience):
            poisoned.append(job.kind)
    return Reaped(len(lost), poisoned, _wake_overdue(session, at, depths, patience))


def _wake_overdue(
    session: Session, at: datetime, depths: Mapping[str, int], patience: Patience
) -> int:
    waiting = (Job.state.in_(("queued", "running")), Job.lease_token.is_(None))
    # A job that pauses has no message yet; its time has come when `wake_at` has.
    counts = session.execute(
        select(Job.queue, func.count())
        .where(*waiting, Job.queued_at <= at)
        .group_by(Job.queue)
    ).tuples()
    unsent = dict(
        session.execute(
            select(outbox.c.body["queue"].astext, func.count())
            .where(outbox.c.sent_at.is_(None), outbox.c.name == TASK)
            .group_by(outbox.c.body["queue"].astext)
        )
        .tuples()
        .all()
    )
    short = [
        queue
        for queue, count in counts
        if depths.get(queue, 0) + unsent.get(queue, 0) < count
    ]
    overdue = session.scalars(
        select(Job)
        .where(
            *waiting,
            Job.wake_at <= at,
            # A job that paused was never sent for: `pause` leaves that to this.
            or_(Job.queue.in_(short), Job.wake_at == Job.queued_at),
        )
        .order_by(Job.wake_at)
        .limit(_REAP_MAX)
        .with_for_update(skip_locked=True)
    ).all()
    for job in overdue:
        job.wake_at = at + timedelta(seconds=patience.resend_seconds)
        _wake(session, job)
    return len(overdue)


def purge_jobs(session: Session, *, keep: timedelta) -> list[UUID]:
    """Forget jobs that finished long ago and return their ids."""
    return list(
        session.scalars(
            delete(Job).where(Job.finished_at < now() - keep).returning(Job.id)
        )
    )


def existing(session: Session, ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these jobs there are."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(ids))))
