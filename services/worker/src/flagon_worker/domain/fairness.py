"""Whose turn it is: a message wakes a worker, which then takes the fairest job.

Messages of one queue are interchangeable. What has to hold so that no job is forgotten:
a queue has at least as many messages under way as jobs that could start at once ("slots":
for each owner the ready jobs, but no more than the cap leaves). It holds because

- whatever makes a job ready sends one message, in the same transaction;
- whoever takes a job uses up one message and one slot;
- a message is used up for nothing only where there is no slot (`take` waits for the
  queue's lock and for locked rows, so it never overlooks one);
- a slot that opens because a job of an owner at the cap ends gets a message (`release`),
  or whoever ended it takes the next job without using one up.

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

from flagon_chassis import events
from flagon_worker.models import Bucket, Job, Turn

from . import history
from .jobs import news, now, wake, wake_up

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


LOCK = "pg_advisory_xact_lock(hashtextextended('turns ' || :queue, 0))"
"""SQL: waits until no other worker chooses in a queue."""
CHOOSING = "worker.choosing"
"""In the `info` of a session whose transaction has that lock: the queue."""
_LOCK = text(f"select {LOCK}")

# One statement, because each is a round trip. The owners are found by jumps through the
# index, so the time depends on how many they are, not on their jobs. It returns no row
# where there is no job, and a row without a job where another was faster.
_TAKE = text(
    """
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
),
found as materialized (
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
),
-- Not SKIP LOCKED: who has the row may leave it as it is, and then this message would have
-- been used up for nothing.
mine as (
    select id, state = 'queued' as fresh, wake_at = queued_at as unsent from job
    where id = (select id from found)
      and state in ('queued', 'running') and lease_token is null and queued_at <= :at
    for update
),
taken as (
    update job set
        state = 'running', lease_token = :token, lease_until = :until,
        attempts = attempts + fresh::int, version = version + fresh::int,
        started_at = coalesce(started_at, :at)
    from mine where job.id = mine.id
    returning job.*, fresh, unsent
),
turn as (
    insert into job_turn (queue, owner, served_at) select queue, owner, :at from taken
    on conflict (queue, owner) do update set served_at = excluded.served_at
),
begun as (
    insert into job_attempt (job_id, number, started_at, worker)
    select id, attempts, :at, :worker from taken where fresh
),
continued as (
    update job_attempt set worker = :worker from taken
    where not fresh and job_id = id and number = attempts and ended_at is null
)
select taken.* from found left join taken on taken.id = found.id
"""
)
_COLUMNS = tuple(each.name for each in Job.__table__.c)


def take(
    session: Session,
    queue: str,
    rules: Rules,
    *,
    token: UUID,
    lease_seconds: float,
    worker: str = "",
) -> Job | None:
    """Take up the job of a queue whose turn it is, or None: there is none.

    First come owners with the fewest running jobs, of those who waited longest since
    their last turn, of one owner's jobs the oldest. Until the transaction ends no other
    worker chooses in this queue, so a cap cannot be overstepped by two at once.

    :param worker: who takes it, for people: host and process.
    :return: the row as it is now, in no session: whoever writes to it loads it anew.
    """
    # A statement of its own: the next one must see what was committed while it waited.
    if session.info.pop(CHOOSING, None) != queue:
        session.execute(_LOCK, {"queue": queue})
    while True:
        at = now()
        # Not by the session: to make an entity of it takes longer than all the rest.
        row = (
            session.connection()
            .execute(
                _TAKE,
                {
                    "queue": queue,
                    "at": at,
                    "spent": [
                        kind
                        for kind, rate in rules.rates.items()
                        if tokens(session, kind, rate) < 1
                    ],
                    "owner_max": rules.owner_max.get(queue, 2**31 - 1),
                    "token": token,
                    "until": at + timedelta(seconds=lease_seconds),
                    "worker": worker,
                },
            )
            .first()
        )
        if row is None:
            return None
        if row.id is not None:
            break
    job = Job(**{name: row._mapping[name] for name in _COLUMNS})  # noqa: SLF001
    told = []
    if row.fresh:
        _pay(session, job, at, rules)
        history.forget_attempts(session, job)
        told = news(job, ["state", "attempts", "started_at"], headers=job.headers)
    if row.unsent:
        # It paused, and nobody has sent a message for it: this one was another job's.
        told.append(wake_up(job))
    events.put(session, told)
    return job


def _pay(session: Session, job: Job, at: datetime, rules: Rules) -> None:
    rate = rules.rates.get(job.kind)
    if rate:
        left = tokens(session, job.kind, rate) - 1
        bucket = insert(Bucket).values(kind=job.kind, tokens=left, filled_at=at)
        session.execute(
            bucket.on_conflict_do_update(
                index_elements=["kind"], set_={"tokens": left, "filled_at": at}
            )
        )


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
    held = (
        select(func.count()).select_from(Job).where(*mine, Job.lease_token.is_not(None))
    )
    following = session.execute(
        select(Job, held.scalar_subquery())
        .where(*mine, *READY, Job.queued_at <= now())
        .order_by(Job.queued_at)
        .limit(max(cap, 1))
    ).all()
    # With fewer of them each had its slot before, and has its message.
    if following and len(following) >= cap - following[0][1]:
        wake(session, following[0][0])


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
