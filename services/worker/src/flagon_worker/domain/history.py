"""What became of a job, attempt by attempt and line by line, for its owner."""

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from flagon_worker.models import Attempt, Job, LogLine

LINES_MAX = 1000
"""Most lines of one job's log; older ones go."""
ATTEMPTS_MAX = 100
"""Most attempts of one job that are kept; older ones go."""
_TEXT_MAX = 2000

Level = Literal["info", "warning", "error"]


def write_line(session: Session, job: Job, level: Level, text: str) -> None:
    """Add a line to the job's log, in the transaction of what it tells of.

    :param job: locked by this transaction, which gives the lines their order.
    :param text: for the job's owner; cut off after 2,000 characters.
    """
    job.log_lines += 1
    # The counter is written with what else changes in the job.
    with session.no_autoflush:
        session.execute(
            insert(LogLine).values(
                job_id=job.id,
                number=job.log_lines,
                at=datetime.now(UTC),
                level=level,
                # Postgres takes every character but this one, and files hold anything.
                text=text.replace("\0", "\ufffd")[:_TEXT_MAX],
            )
        )
    if job.log_lines > LINES_MAX:
        session.execute(
            delete(LogLine).where(
                LogLine.job_id == job.id, LogLine.number <= job.log_lines - LINES_MAX
            )
        )


def begin_attempt(session: Session, job: Job, worker: str) -> None:
    """Write down that an attempt, the job's newest, has begun."""
    session.execute(
        insert(Attempt).values(
            job_id=job.id,
            number=job.attempts,
            started_at=datetime.now(UTC),
            worker=worker,
        )
    )
    forget_attempts(session, job)


def forget_attempts(session: Session, job: Job) -> None:
    """Let only the newest attempts stay."""
    if job.attempts > ATTEMPTS_MAX:
        session.execute(
            delete(Attempt).where(
                Attempt.job_id == job.id,
                Attempt.number <= job.attempts - ATTEMPTS_MAX,
            )
        )


def continue_attempt(session: Session, job: Job, worker: str) -> None:
    """Write down who has the attempt at hand now."""
    _change(session, job, worker=worker)


def end_attempt(
    session: Session,
    job: Job,
    outcome: str,
    *,
    error: str | None = None,
    level: Level = "info",
    line: str,
) -> None:
    """Write down how the attempt at hand ended, and say so in the log.

    :param outcome: a final state, or `paused`, `handed_back`, `crashed`.
    """
    _change(session, job, ended_at=datetime.now(UTC), outcome=outcome, error=error)
    write_line(session, job, level, line)


def _change(session: Session, job: Job, **values: object) -> None:
    with session.no_autoflush:
        session.execute(
            update(Attempt)
            .where(
                Attempt.job_id == job.id,
                Attempt.number == job.attempts,
                Attempt.ended_at.is_(None),
            )
            .values(values)
            # Nobody has attempts in the session.
            .execution_options(synchronize_session=False)
        )


def list_attempts(
    session: Session, job_id: UUID, *, before: int | None, limit: int
) -> list[Attempt]:
    """Return attempts, newest first.

    :param before: only those with a smaller number.
    """
    statement = select(Attempt).where(Attempt.job_id == job_id)
    if before is not None:
        statement = statement.where(Attempt.number < before)
    return list(session.scalars(statement.order_by(Attempt.number.desc()).limit(limit)))


def list_lines(
    session: Session, job_id: UUID, *, after: int, limit: int
) -> list[LogLine]:
    """Return lines of the job's log in the order they were written.

    :param after: only those with a greater number.
    """
    return list(
        session.scalars(
            select(LogLine)
            .where(LogLine.job_id == job_id, LogLine.number > after)
            .order_by(LogLine.number)
            .limit(limit)
        )
    )


def show_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as the API shows it."""
    return {
        "number": attempt.number,
        "started_at": stamp(attempt.started_at),
        "ended_at": stamp(attempt.ended_at),
        "worker": attempt.worker,
        "outcome": attempt.outcome,
        "error": attempt.error,
    }


def show_line(line: LogLine) -> dict[str, Any]:
    """Return a line of a log as the API shows it."""
    return {
        "number": line.number,
        "at": stamp(line.at),
        "level": line.level,
        "text": line.text,
    }


def stamp(at: datetime | None) -> str | None:
    """Return a time as the API shows it."""
    if at is None:
        return None
    text = at.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
