"""Work on a job under a lease, which one worker at a time can have.

The row is the truth and a message only a wake-up: a message that is lost is sent again by
the rescue, one that comes twice finds nothing to do. Whoever writes to a running job
shows its lease's token, so a worker that was thought dead cannot write any more.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import bindparam, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from flagon_worker.models import Job

from . import fairness, history
from .jobs import finish, news, now, tell, wake


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
class Patience:
    """How trouble is borne."""

    lease_seconds: float
    crashes_max: int
    patience_seconds: float
    backoff_seconds: float
    resend_seconds: float


@dataclass(frozen=True)
class Step:
    """How far a job is."""

    place: dict[str, Any]
    """Where its kind goes on after an interruption."""
    result: dict[str, Any]
    """What was done so far; shown when the job ends, however it ends."""
    artefacts: Sequence[str]
    """The files made so far."""
    done: int
    total: int | None
    unit: str
    message: str


def claim(
    session: Session,
    job_id: UUID,
    *,
    token: UUID,
    lease_seconds: float,
    worker: str = "",
) -> Job | None:
    """Take a job up and return it, or None where there is nothing to do.

    Of any number of workers that try at once exactly one gets it.

    :param worker: who takes it, for people: host and process.
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
    if continued:
        history.continue_attempt(session, job, worker)
    else:
        job.attempts += 1
        history.begin_attempt(session, job, worker)
        job.started_at = job.started_at or at
        job.version += 1
        session.flush()
        tell(session, job, ["state", "attempts", "started_at"])
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
    return bool(cancel)


def wanted(session: Session, job_id: UUID, *, token: UUID) -> bool:
    """Say whether our job is to be cancelled.

    :raises LeaseLost: it is not ours any more.
    """
    cancel = session.scalar(
        select(Job.cancel_requested).where(Job.id == job_id, Job.lease_token == token)
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
    session: Session, job: Job, step: Step, *, lease_seconds: float, news: bool
) -> None:
    """Confirm a step: from here the job goes on, whatever happens to its worker.

    :param job: held by this transaction.
    :param news: whether this step is worth an event.
    """
    job.checkpoint = {
        "place": step.place,
        "result": step.result,
        "artefacts": list(step.artefacts),
    }
    job.progress_done = step.done
    job.progress_total = step.total
    job.progress_unit = step.unit
    job.progress_message = step.message
    job.lease_until = now() + timedelta(seconds=lease_seconds)
    job.crashes = job.troubles = 0
    job.troubled_since = None
    if news:
        job.version += 1
        session.flush()
        tell(session, job, ["progress"], "job.progressed.v1")


def succeed(session: Session, job: Job, result: dict[str, Any]) -> None:
    """End a job well."""
    history.end_attempt(session, job, "succeeded", line="Done.")
    finish(job, "succeeded")
    job.result = result
    session.flush()
    tell(session, job, ["state", "progress", "result", "artefacts", "finished_at"])


_SUCCEED = text(
    """
with done as (
    update job set
        state = 'succeeded', result = cast(:result as jsonb), finished_at = :at,
        lease_token = null, lease_until = null, log_lines = :line, version = :version
    where id = :id and lease_token = :token and version = :version - 1
    returning id
),
ended as (
    update job_attempt set ended_at = :at, outcome = 'succeeded' from done
    where job_id = done.id and number = :attempt and ended_at is null
),
logged as (
    insert into job_log (job_id, number, at, level, text)
    select id, :line, :at, 'info', 'Done.' from done
),
told as (
    insert into outbox (id, channel, name, subject, body, headers)
    select :event_id, 'event', :name, :subject, cast(:body as jsonb),
           cast(:headers as jsonb)
    from done
)
select pg_notify('outbox', ''), case when :choosing then LOCK end from done
""".replace("LOCK", fairness.LOCK)
).bindparams(
    bindparam("result", type_=JSONB),
    bindparam("body", type_=JSONB),
    bindparam("headers", type_=JSONB),
)


def succeed_at_once(
    session: Session,
    job: Job,
    token: UUID,
    result: dict[str, Any],
    *,
    choosing: bool = False,
) -> bool:
    """End a job well in one statement, if nothing was written to it since it was taken.

    :param job: as it was taken, outside the session; changed here, whatever is returned.
    :param choosing: whether the next job is taken in the same transaction.
    :return: whether it has ended; if not, nothing was done.
    """
    if job.checkpoint is not None or job.log_lines >= history.LINES_MAX:
        return False
    finish(job, "succeeded")
    job.result = result
    job.log_lines += 1
    (event,) = news(job, ["state", "progress", "result", "artefacts", "finished_at"])
    done = (
        session.connection()
        .execute(
            _SUCCEED,
            {
                "id": job.id,
                "token": token,
                "version": job.version,
                "attempt": job.attempts,
                "at": job.finished_at,
                "line": job.log_lines,
                "result": result,
                "event_id": event["id"],
                "name": event["name"],
                "subject": event["subject"],
                "body": event["body"],
                "headers": event["headers"],
                "choosing": choosing,
                "queue": job.queue,
            },
        )
        .first()
    )
    if choosing and done:
        session.info[fairness.CHOOSING] = job.queue
    return done is not None


def fail(
    session: Session,
    job: Job,
    error: str,
    *,
    dead: Literal["poison", "exhausted"] | None = None,
) -> None:
    """End a job that cannot succeed; what it did until then stays done.

    :param error: why, and what to do, for people.
    :param dead: why it is a dead letter, one that an operator may replay; None where the
        job itself is wrong and would fail again.
    """
    history.end_attempt(
        session,
        job,
        "crashed" if dead == "poison" else "failed",
        error=error,
        level="error",
        line=error,
    )
    job.error = error
    finish(job, "failed")
    job.dead = dead
    session.flush()
    tell(session, job, ["state", "error", "dead", "result", "artefacts", "finished_at"])


def stop(
    session: Session, job: Job, line: str = "Cancelled; what was done stays done."
) -> None:
    """End a running job that was cancelled; what it did until then stays done.

    :param line: what its log says of that.
    """
    history.end_attempt(session, job, "cancelled", line=line)
    finish(job, "cancelled")
    session.flush()
    tell(session, job, ["state", "result", "artefacts", "finished_at"])


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
        fail(
            session,
            job,
            f"Gave up waiting: {reason} Retry the job later.",
            dead="exhausted",
        )
        return 0.0
    longest = min(patience.backoff_seconds, 2.0 ** min(job.troubles, 30) / 2)
    wait = longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
    history.end_attempt(
        session,
        job,
        "paused",
        error=reason,
        level="warning",
        line=f"Waiting {wait:.0f} s: {reason}",
    )
    _requeue(job, at + timedelta(seconds=wait))
    job.progress_message = f"Waiting: {reason}"
    session.flush()
    tell(session, job, ["state", "progress"])
    return wait


def hand_back(session: Session, job: Job, patience: Patience) -> None:
    """Give a job up because the worker stops; another one takes it at once."""
    history.end_attempt(
        session, job, "handed_back", line="The worker stops; another one goes on."
    )
    _put_back(session, job, patience)


def _put_back(session: Session, job: Job, patience: Patience) -> None:
    _requeue(job, now())
    job.wake_at += timedelta(seconds=patience.resend_seconds)
    session.flush()
    wake(session, job)
    tell(session, job, ["state"])


def take_turns(session: Session, job: Job, patience: Patience) -> None:
    """Let other jobs have a worker; to its owner the job goes on running."""
    job.lease_token = job.lease_until = None
    job.queued_at = now()
    job.wake_at = job.queued_at + timedelta(seconds=patience.resend_seconds)
    wake(session, job)


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
            "It may hold something that its kind cannot bear; tell an "
            "operator the job's id.",
            dead="poison",
        )
        return True
    history.end_attempt(
        session,
        job,
        "crashed",
        error="The worker was lost.",
        level="warning",
        line="The worker was lost; another one goes on.",
    )
    _put_back(session, job, patience)
    return False


def _requeue(job: Job, at: datetime) -> None:
    job.state = "queued"
    job.lease_token = job.lease_until = None
    job.queued_at = job.wake_at = at
    job.version += 1
