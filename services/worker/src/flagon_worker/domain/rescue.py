"""Find jobs whose worker or message was lost, and set them going again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from flagon_chassis.tables import outbox
from flagon_worker.models import Job

from .jobs import TASK, now, wake
from .leases import Patience, crash, stop

_REAP_MAX = 500


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
    )
    unsent: dict[str, int] = dict(
        session.execute(
            select(outbox.c.body["queue"].astext.label("queue"), func.count())
            .where(outbox.c.sent_at.is_(None), outbox.c.name == TASK)
            .group_by(text("queue"))
        ).all()
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
        wake(session, job)
    return len(overdue)
