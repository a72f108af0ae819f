"""Find jobs whose worker or message was lost, and set them going again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from flagon_chassis.tables import outbox
from flagon_worker.models import Job

from . import fairness
from .jobs import FOLDED, TASK, now, wake
from .leases import Patience, crash, stop

_REAP_MAX = 500
_TIMES = outbox.c.body["kwargs"]["times"].as_integer()


@dataclass(frozen=True)
class Reaped:
    """What one round of the reaper did."""

    ended: Sequence[tuple[str, str]] = ()
    """Kind and outcome of each turn whose worker was lost."""
    poisoned: int = 0
    """Jobs that failed for crashing too often."""
    woken: int = 0


def reap(
    session: Session,
    *,
    depths: Mapping[str, int],
    patience: Patience,
    rules: fairness.Rules,
) -> Reaped:
    """Rescue jobs whose worker or message was lost; safe to run at any time and twice.

    :param depths: messages that wait in the broker, by queue. While a queue holds as
        many as there are jobs that could start, none was lost and none is sent again.
    """
    at = now()
    lost = session.scalars(
        select(Job)
        .where(Job.state == "running", Job.lease_until < at)
        .order_by(Job.id)
        .limit(_REAP_MAX)
        .with_for_update(skip_locked=True)
    ).all()
    ended, poisoned = [], 0
    for job in lost:
        if job.cancel_requested:
            stop(session, job)
            ended.append((job.kind, "cancelled"))
        else:
            poisoned += crash(session, job, patience)
            ended.append((job.kind, "crashed"))
        if job.finished_at:
            fairness.release(session, job, rules)
    woken = _wake_paused(session, at, patience)
    woken += _replace_messages(session, at, depths, patience, rules)
    return Reaped(ended, poisoned, woken)


def _wake_paused(session: Session, at: datetime, patience: Patience) -> int:
    """Send for jobs whose pause is over; `pause` left that to this."""
    over = session.scalars(
        select(Job)
        .where(*fairness.READY, Job.wake_at <= at, Job.wake_at == Job.queued_at)
        .order_by(Job.wake_at)
        .limit(_REAP_MAX)
        .with_for_update(skip_locked=True)
    ).all()
    _wake(session, over, at, patience)
    return len(over)


def _replace_messages(
    session: Session,
    at: datetime,
    depths: Mapping[str, int],
    patience: Patience,
    rules: fairness.Rules,
) -> int:
    """Send messages where a queue has fewer than jobs that could start."""
    unsent: dict[str, int] = dict(
        session.execute(
            select(
                outbox.c.body["queue"].astext.label("queue"),
                func.sum(func.coalesce(_TIMES, 1)),
            )
            .where(outbox.c.sent_at.is_(None), outbox.c.name == TASK)
            .group_by(text("queue"))
        ).all()
    )
    woken = 0
    for queue, waiting in fairness.waiting(session, rules).items():
        # Each may stand for several. If it does not, its worker is sent for the rest once
        # it is used up: while messages wait no worker is idle.
        sent = depths.get(queue, 0) * FOLDED.get(queue, 1)
        missing = waiting.slots - sent - int(unsent.get(queue, 0))
        if missing <= 0:
            continue
        overdue = session.scalars(
            select(Job)
            .where(
                *fairness.READY,
                Job.queue == queue,
                Job.queued_at <= at,
                # A message that is missing may be in a worker's hand just now. Those of
                # kinds that wait for their rate are used up for sure.
                or_(Job.wake_at <= at, Job.kind.in_(waiting.rated)),
            )
            .order_by(Job.wake_at)
            .limit(min(missing, _REAP_MAX))
            .with_for_update(skip_locked=True)
        ).all()
        _wake(session, overdue, at, patience)
        woken += len(overdue)
    return woken


def _wake(
    session: Session, found: Sequence[Job], at: datetime, patience: Patience
) -> None:
    for job in found:
        job.wake_at = at + timedelta(seconds=patience.resend_seconds)
        wake(session, job)
