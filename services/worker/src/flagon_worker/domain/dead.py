"""Dead letters: jobs that nobody tries again by themselves, and what to do with them."""

from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from flagon_chassis.errors import NotFound
from flagon_worker.models import Job

from . import jobs


class DeadLetterNotFound(NotFound):
    """There is no such dead letter."""


def list_dead(
    session: Session, *, kind: str | None, before: UUID | None, limit: int
) -> list[Job]:
    """Return dead letters of everybody, newest first.

    :param before: only jobs older than this one.
    """
    statement = select(Job).where(Job.dead.is_not(None))
    if kind:
        statement = statement.where(Job.kind == kind)
    if before:
        statement = statement.where(Job.id < before)
    return list(session.scalars(statement.order_by(Job.id.desc()).limit(limit)))


def find_dead(session: Session, job_id: UUID, *, lock: bool = False) -> Job:
    """Return one dead letter.

    :param lock: keep others from changing it until the transaction ends.
    :raises DeadLetterNotFound: there is none; perhaps somebody replayed it.
    """
    statement = select(Job).where(Job.id == job_id, Job.dead.is_not(None))
    if lock:
        statement = statement.with_for_update()
    job = session.scalar(statement)
    if job is None:
        raise DeadLetterNotFound(f"The job {job_id} is no dead letter.")
    return job


def replay(session: Session, job: Job, *, resend_seconds: float) -> Job:
    """Queue a dead letter again; what was counted against it starts anew.

    :param job: locked by this transaction.
    """
    return jobs.retry_job(session, job, manages=True, resend_seconds=resend_seconds)


def replay_all(
    session: Session, *, kind: str | None, limit: int, resend_seconds: float
) -> tuple[int, int]:
    """Queue the oldest dead letters again and return how many, and how many are left.

    Two operators who do so at once do not wait for each other and replay none twice.
    """
    chosen: list[ColumnElement[bool]] = [Job.dead.is_not(None)]
    if kind:
        chosen.append(Job.kind == kind)
    found = session.scalars(
        select(Job)
        .where(*chosen)
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for job in found:
        replay(session, job, resend_seconds=resend_seconds)
    left = session.scalar(select(func.count()).select_from(Job).where(*chosen))
    return len(found), left or 0
