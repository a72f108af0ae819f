"""Whose turn it is: a message wakes a worker, which then takes the fairest job.

Messages of one queue are interchangeable. What has to hold so that no job is forgotten:
a queue has at least as many messages under way as jobs that could start at once ("slots":
for each owner the ready jobs, but no more than the cap leaves). It holds because

- whatever makes a job ready sends one message, in the same transaction;
- whoever takes a job uses up one message and one slot;
- a message is used up for nothing only where there is no slot (`choose` waits for the
  queue's lock and for locked rows, so it never overlooks one);
- a slot that opens because a job of an owner at the cap ends gets a message (`release`).

Broken brokers and workers lose messages; the reaper counts slots and messages and sends
what is missing. That is also what wakes jobs whose kind has used up its rate.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_worker.models import Bucket, Job, Turn

from .jobs import now, wake

READY = (Job.state.in_(("queued", "running")), Job.lease_token.is_(None))
"""Jobs that nobody has; they may start once their time has come."""


@dataclass(frozen=True)
class Rate:
    """How often jobs may start: `count` in `seconds`, and as many at once."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Rules:
    """What keeps one owner or one kind from taking everything."""

    owner_max: Mapping[str, int] = field(default_factory=dict)
    """Jobs of one owner that may run at once, by queue; no limit for others."""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    """By kind; no limit for others."""


# One statement, because it is asked for each message. The owners are found by jumps
# through the index, so the time depends on how many they are, not on their jobs.
_FAIREST = text("""
with recursive waiting(owner) as (
    (select owner from job
     where queue = :queue and state in ('queued', 'running') and lease_token is null
     order by owner limit 1)
  union all
    select (select owner from job
            where queue = :queue and state in ('queued', 'running')
              and lease_token is null and owner > waiting.owner
            order by owner limit 1)
    from waiting where waiting.owner is not null
),
held as (
    select owner, count(*) as running from job
    where queue = :queue and lease_token is not null group by owner
)
select first.id
from waiting
cross join lateral (
    select id, queued_at from job
    where queue = :queue and owner = waiting.owner
      and state in ('queued', 'running') and lease_token is null
      and queued_at <= :at and (state = 'running' or kind <> all(cast(:spent as text[])))
    order by queued_at, id limit 1
) as first
left join held on held.owner = waiting.owner
left join job_turn as turn on turn.queue = :queue and turn.owner = waiting.owner
where coalesce(held.running, 0) < :owner_max
order by coalesce(held.running, 0), turn.served_at nulls first, first.queued_at, first.id
limit 1
""")


def choose(session: Session, queue: str, rules: Rules) -> UUID | None:
    """Return the job of a queue whose turn it is, locked, or None: there is none.

    First come owners with the fewest running jobs, of those who waited longest since
    their last turn, of one owner's jobs the oldest. Until the transaction ends no other
    worker chooses in this queue, so a cap cannot be overstepped by two at once.
    """
    session.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended(f"turns {queue}", 0)))
    )
    while True:
        at = now()
        spent = [
            kind
            for kind, rate in rules.rates.items()
            if tokens(session, kind, rate) < 1
        ]
        found = session.scalar(
            _FAIREST,
            {
                "queue": queue,
                "at": at,
                "spent": spent,
                "owner_max": rules.owner_max.get(queue, 2**31 - 1),
            },
        )
        if found is None:
            return None
        # Not SKIP LOCKED: who has the row may leave it as it is, and then this message
        # would have been used up for nothing.
        job = session.scalar(
            select(Job)
            .where(Job.id == found, *READY, Job.queued_at <= at)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        if job is not None:
            _take_turn(session, job, at, rules)
            return job.id


def _take_turn(session: Session, job: Job, at: datetime, rules: Rules) -> None:
    turn = insert(Turn).values(queue=job.queue, owner=job.owner, served_at=at)
    session.execute(
        turn.on_conflict_do_update(
            index_elements=["queue", "owner"], set_={"served_at": at}
        )
    )
    rate = rules.rates.get(job.kind)
    if rate and job.state == "queued":
        left = tokens(session, job.kind, rate) - 1
        bucket = insert(Bucket).values(kind=job.kind, tokens=left, filled_at=at)
        session.execute(
            bucket.on_conflict_do_update(
                index_elements=["kind"], set_={"tokens": left, "filled_at": at}
            )
        )
    if job.wake_at == job.queued_at:
        # It paused, and nobody has sent a message for it: this one was another job's.
        wake(session, job)


def tokens(session: Session, kind: str, rate: Rate) -> float:
    """Return how many jobs of a kind may start now."""
    bucket = session.get(Bucket, kind, populate_existing=True)
    if bucket is None:
        return float(rate.count)
    gained = (now() - bucket.filled_at).total_seconds() * rate.count / rate.seconds
    return min(float(rate.count), bucket.tokens + gained)


def release(session: Session, job: Job, rules: Rules) -> None:
    """Send a message for the slot that opens because a job ends or pauses.

    :param job: was running, and neither runs nor waits for a worker any more.
    """
    cap = rules.owner_max.get(job.queue)
    if cap is None:
        return
    session.flush()
    mine = (Job.queue == job.queue, Job.owner == job.owner)
    running = (
        session.scalar(
            select(func.count())
            .select_from(Job)
            .where(*mine, Job.lease_token.is_not(None))
        )
        or 0
    )
    following = session.scalars(
        select(Job)
        .where(*mine, *READY, Job.queued_at <= now())
        .order_by(Job.queued_at)
        .limit(max(cap - running, 1))
    ).all()
    # With fewer of them each had its slot before, and has its message.
    if following and len(following) >= cap - running:
        wake(session, following[0])


@dataclass(frozen=True)
class Waiting:
    """What could start in a queue."""

    slots: int
    """Jobs that may start at once."""
    rated: Collection[str]
    """Kinds among them whose rate may keep some waiting."""
    oldest_seconds: float
    """How long the one that waits longest has been ready."""


def waiting(session: Session, rules: Rules) -> dict[str, Waiting]:
    """Return how many jobs could start at once, by queue."""
    mine = (Job.queue, Job.owner)
    held: dict[tuple[str, str], int] = {
        (queue, owner): count
        for queue, owner, count in session.execute(
            select(*mine, func.count())
            .where(Job.lease_token.is_not(None))
            .group_by(*mine)
        )
    }
    left = {
        kind: int(tokens(session, kind, rate)) for kind, rate in rules.rates.items()
    }
    continuing = Job.state == "running"
    at = now()
    slots: dict[tuple[str, str], int] = {}
    oldest: dict[str, datetime] = {}
    kinds: dict[str, set[str]] = {}
    for queue, owner, kind, continues, count, first in session.execute(
        select(*mine, Job.kind, continuing, func.count(), func.min(Job.queued_at))
        .where(*READY, Job.queued_at <= at)
        .group_by(*mine, Job.kind, continuing)
    ):
        may = count
        if kind in left and not continues:
            may = min(count, left[kind])
            left[kind] -= may
            kinds.setdefault(queue, set()).add(kind)
        oldest[queue] = min(first, oldest.get(queue, first))
        slots[queue, owner] = slots.get((queue, owner), 0) + may
    found: dict[str, int] = {}
    for (queue, owner), count in slots.items():
        cap = rules.owner_max.get(queue)
        free = count if cap is None else max(0, cap - held.get((queue, owner), 0))
        found[queue] = found.get(queue, 0) + min(count, free)
    return {
        queue: Waiting(
            count, kinds.get(queue, ()), (at - oldest[queue]).total_seconds()
        )
        for queue, count in found.items()
    }


def purge_turns(session: Session, *, keep: timedelta) -> None:
    """Forget when owners had their turns long ago; they come first then, as new ones."""
    session.execute(delete(Turn).where(Turn.served_at < now() - keep))
