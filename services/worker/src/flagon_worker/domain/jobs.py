"""Jobs as their owners see them: handed in, shown, cancelled, forgotten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis import events
from flagon_chassis.errors import Conflict, NotFound
from flagon_worker.models import FINISHED, Job

from . import audit, history

TASK = "worker.run_job"
"""The task whose message wakes a worker for one job."""
FOLDED = {"interactive": 8}
"""Queues of short jobs, and how many wake-ups one message of theirs may stand for."""


class JobNotFound(NotFound):
    """There is no such job."""


class JobUnfinished(Conflict):
    """The job has not finished."""


class JobFinished(Conflict):
    """The job has finished already."""


class JobSucceeded(Conflict):
    """The job did what it was to do."""


class JobDead(Conflict):
    """The job takes its workers down; only an operator may start it again."""


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
        "dead": job.dead,
        "attempts": job.attempts,
        "log_lines": min(job.log_lines, history.LINES_MAX),
        "cancel_requested": job.cancel_requested,
        "artefacts": [
            {"name": name, "url": f"/api/v1/jobs/{job.id}/artefacts/{name}"}
            for name in job.artefacts
        ],
        "params": job.params,
        "upload": job.upload,
        "owner": job.owner,
        "created_at": history.stamp(job.created_at),
        "started_at": history.stamp(job.started_at),
        "finished_at": history.stamp(job.finished_at),
        "version": job.version,
    }


def topics_of(job: Job) -> list[str]:
    """Return where the events of a job are delivered."""
    mine = f"users/{job.owner}"
    return ["jobs", f"jobs/{job.id}", mine, f"{mine}/jobs", f"{mine}/jobs/{job.id}"]


def tell(
    session: Session, job: Job, changed: Sequence[str], event: str = "job.changed.v1"
) -> None:
    """Add the event of a change, named by the members of `show` that changed."""
    events.put(session, news(job, changed, event))


def news(
    job: Job,
    changed: Sequence[str],
    event: str = "job.changed.v1",
    headers: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return the outbox row that `tell` would add.

    :param headers: trace and request id, where they are not those at hand.
    """
    data = {**show(job), "changed": list(changed)}
    return events.prepare([(event, str(job.id), data, topics_of(job))], headers)


def wake(session: Session, job: Job) -> None:
    """Add the message that makes a worker look for a job of this one's queue.

    It bears the job's own trace, but the worker takes whose turn it is.
    """
    events.put(session, [wake_up(job)])


def wake_up(job: Job, times: int = 1, *, alone: bool = False) -> dict[str, Any]:
    """Return the outbox row that `wake` would add.

    :param times: how many wake-ups it stands for.
    :param alone: whether each needs a worker of its own.
    """
    # The queue says what to look for; the job, whom it was sent for.
    kwargs: dict[str, Any] = {"job_id": str(job.id), "queue": job.queue}
    if times > 1:
        kwargs["times"] = times
    body: dict[str, Any] = {"queue": job.queue, "kwargs": kwargs}
    if job.queue in FOLDED and times == 1 and not alone:
        body["fold"] = FOLDED[job.queue]
    return {
        "id": uuid7(),
        "channel": "task",
        "name": TASK,
        "subject": str(job.id),
        "body": body,
        "headers": job.headers,
    }


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
        log_lines=0,
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
    told = news(job, sorted(set(show(job)) - {"id", "version"}))
    events.put(session, [wake_up(job), *told])
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


def _visible(statement: Select[Job], viewer: Viewer) -> Select[Job]:
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
    before = audit.members(job)
    if job.lease_token is None:
        history.end_attempt(session, job, "cancelled", line="Cancelled while waiting.")
        finish(job, "cancelled")
        changed = ["state", "result", "artefacts", "finished_at"]
    else:
        job.cancel_requested = True
        job.version += 1
        history.write_line(session, job, "info", "To be cancelled.")
        changed = ["cancel_requested"]
    session.flush()
    tell(session, job, changed)
    audit.record(session, "cancelled", job, before=before)
    return job


def retry_job(
    session: Session, job: Job, *, manages: bool, resend_seconds: float
) -> Job:
    """Queue a failed or cancelled job again, under its id.

    It goes on where it was, if its kind can; attempts and log lines go on counting, what
    was counted against it starts anew.

    :param job: locked by this transaction.
    :param manages: whether the caller may start jobs that take workers down.
    :raises JobUnfinished: it waits or runs.
    :raises JobSucceeded: there is nothing left to do.
    :raises JobDead: it takes its workers down.
    """
    if job.state not in FINISHED:
        raise JobUnfinished("The job is on its way.", state=job.state)
    if job.state == "succeeded":
        raise JobSucceeded("Submit the job again to have it done again.")
    if job.dead == "poison" and not manages:
        raise JobDead("Tell an operator the job's id.")
    before = audit.members(job)
    at = now()
    job.state = "queued"
    job.error = job.dead = job.result = None
    job.artefacts = []
    job.started_at = job.finished_at = job.troubled_since = None
    job.crashes = job.troubles = 0
    if job.checkpoint is None:
        job.progress_done, job.progress_total = 0, None
    job.progress_message = ""
    job.queued_at = at
    job.wake_at = at + timedelta(seconds=resend_seconds)
    job.version += 1
    history.write_line(session, job, "info", "Queued again.")
    session.flush()
    wake(session, job)
    changed = {"state", "error", "dead", "result", "artefacts", "progress"}
    tell(session, job, sorted(changed | {"started_at", "finished_at", "log_lines"}))
    audit.record(session, "retried", job, before=before)
    return job


def finish(job: Job, state: str) -> None:
    """Bring a job to a final state; who does so tells it."""
    so_far = job.checkpoint or {}
    job.result = so_far.get("result")
    job.artefacts = so_far.get("artefacts", [])
    job.state = state
    job.finished_at = now()
    job.lease_token = job.lease_until = None
    job.cancel_requested = False
    job.version += 1


def delete_job(session: Session, job: Job) -> None:
    """Forget a finished job; its files are the caller's to remove.

    :raises JobUnfinished: it has to be cancelled first.
    """
    if job.state not in FINISHED:
        raise JobUnfinished("Cancel the job before you delete it.", state=job.state)
    audit.record(session, "deleted", job)
    session.delete(job)


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
