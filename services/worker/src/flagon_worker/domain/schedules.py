"""Schedules as operators see them: made, changed, paused, run at once, forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis import events
from flagon_chassis.errors import Conflict, Invalid, NotFound
from flagon_worker.models import Job, Schedule, ScheduleFiring

from . import audit, jobs
from .firing import delayed
from .kinds import KINDS
from .times import Timing

TIMING = frozenset({"cron", "interval_seconds", "time_zone"})
PLATFORM_CHANGES = frozenset({"interval_seconds", "enabled", "jitter_seconds"})
"""What may be changed of the platform's own schedules."""


class ScheduleNotFound(NotFound):
    """There is no such schedule."""


class ScheduleNameTaken(Conflict):
    """Another schedule has this name."""


class ScheduleFixed(Conflict):
    """The platform needs this schedule as it is."""


class IntervalOutOfBounds(Invalid):
    """The platform does not bear this interval."""


@dataclass(frozen=True)
class Seen:
    """A schedule and its last firing."""

    schedule: Schedule
    firing: ScheduleFiring | None
    job_state: str | None

    def show(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        schedule = self.schedule
        bounds = None
        if schedule.least_seconds is not None:
            bounds = {
                "least_seconds": schedule.least_seconds,
                "most_seconds": schedule.most_seconds,
            }
        names = (
            "id name kind task params owner cron interval_seconds time_zone"
            " jitter_seconds catch_up enabled next_run_at last_run_at created_at"
            " updated_at version"
        )
        return {
            **{name: getattr(schedule, name) for name in names.split()},
            "bounds": bounds,
            "last_firing": self._firing(),
        }

    def _firing(self) -> dict[str, Any] | None:
        firing = self.firing
        if firing is None:
            return None
        if firing.error is not None:
            outcome = "refused"
        elif firing.job_id is not None:
            outcome = self.job_state or "forgotten"
        else:
            outcome = "sent"
        return {
            "due_at": firing.due_at,
            "fired_at": firing.fired_at,
            "cause": firing.cause,
            "outcome": outcome,
            "job_id": firing.job_id,
            "error": firing.error,
        }


def present(session: Session) -> datetime:
    """Return the database's time, which is also beat's."""
    at: datetime = session.scalars(select(func.clock_timestamp())).one()
    return at.astimezone(UTC)


def _whole() -> Select[Schedule, ScheduleFiring, str]:
    return (
        select(Schedule, ScheduleFiring, Job.state)
        .outerjoin(ScheduleFiring, ScheduleFiring.id == Schedule.last_firing_id)
        .outerjoin(Job, Job.id == ScheduleFiring.job_id)
    )


def create_schedule(session: Session, *, owner: str, **fields: Any) -> Seen:  # noqa: ANN401
    """Add a schedule and return it.

    :param fields: as the API takes them, valid.
    :raises ScheduleNameTaken: another one has its name.
    """
    at = present(session)
    schedule = Schedule(
        id=uuid7(),
        owner=owner,
        anchor_at=at,
        created_at=at,
        updated_at=at,
        version=1,
        **fields,
    )
    _wait(schedule, at)
    columns = {
        column.key: getattr(schedule, column.key)
        for column in Schedule.__table__.columns
    }
    added = session.scalar(
        insert(Schedule)
        .values(columns)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Schedule.id)
    )
    if added is None:
        raise _taken(schedule.name)
    audit.record(session, "created", schedule)
    return find_schedule(session, added)


def _taken(name: str) -> ScheduleNameTaken:
    return ScheduleNameTaken(f"There is a schedule called {name}.", name=name)


def _wait(schedule: Schedule, at: datetime) -> None:
    """Have it wait for its next due time from now on."""
    due = timing(schedule).after(at) if schedule.enabled else None
    schedule.next_due_at = due
    schedule.next_run_at = delayed(due, schedule.jitter_seconds or 0.0)


def timing(schedule: Schedule) -> Timing:
    """Return when a schedule is due."""
    return Timing(
        schedule.cron,
        schedule.interval_seconds,
        schedule.anchor_at,
        schedule.time_zone,
    )


def find_schedule(session: Session, schedule_id: UUID, *, lock: bool = False) -> Seen:
    """Return one schedule.

    :param lock: keep others, beat among them, from changing it.
    :raises ScheduleNotFound: there is none.
    """
    statement = _whole().where(Schedule.id == schedule_id)
    if lock:
        statement = statement.with_for_update(of=Schedule)
    found = session.execute(
        statement.execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise ScheduleNotFound(f"There is no schedule {schedule_id}.")
    return Seen(*found)


def list_schedules(session: Session, *, after: str | None, limit: int) -> list[Seen]:
    """Return schedules by name.

    :param after: only names after this one.
    """
    statement = _whole().order_by(Schedule.name).limit(limit)
    if after is not None:
        statement = statement.where(Schedule.name > after)
    return [Seen(*found) for found in session.execute(statement)]


def change_schedule(
    session: Session, schedule: Schedule, changes: Mapping[str, Any]
) -> Seen:
    """Change a schedule and return it; times that it waited for are forgotten.

    :param schedule: locked by this transaction.
    :raises ScheduleNameTaken: another one has the new name.
    :raises ScheduleFixed: the platform needs it as it is.
    :raises IntervalOutOfBounds: the platform does not bear the interval.
    """
    changed = {
        name: value
        for name, value in changes.items()
        if getattr(schedule, name) != value
    }
    if not changed:
        return find_schedule(session, schedule.id)
    _refuse_for_platform(schedule, changed)
    if "name" in changed and session.scalar(
        select(Schedule.id).where(Schedule.name == changed["name"]).with_for_update()
    ):
        raise _taken(changed["name"])
    at = present(session)
    before = audit.members(schedule)
    for name, value in changed.items():
        setattr(schedule, name, value)
    if TIMING & changed.keys():
        schedule.anchor_at = at
    if (TIMING | {"enabled", "jitter_seconds"}) & changed.keys():
        _wait(schedule, at)
    schedule.updated_at = at
    schedule.version += 1
    session.flush()
    audit.record(session, "updated", schedule, before=before)
    return find_schedule(session, schedule.id)


def _refuse_for_platform(schedule: Schedule, changed: Mapping[str, Any]) -> None:
    if schedule.least_seconds is None or schedule.most_seconds is None:
        return
    fixed = sorted(changed.keys() - PLATFORM_CHANGES)
    if fixed:
        allowed = ", ".join(sorted(PLATFORM_CHANGES))
        raise ScheduleFixed(
            f"Of the platform's own schedules only {allowed} can change.", fields=fixed
        )
    seconds = changed.get("interval_seconds", schedule.interval_seconds)
    if not schedule.least_seconds <= (seconds or 0) <= schedule.most_seconds:
        raise IntervalOutOfBounds(
            f"Choose {schedule.least_seconds:g} to {schedule.most_seconds:g} seconds.",
            least_seconds=schedule.least_seconds,
            most_seconds=schedule.most_seconds,
        )


def delete_schedule(session: Session, schedule: Schedule) -> None:
    """Forget a schedule and its firings; jobs that came of them stay.

    :raises ScheduleFixed: it is the platform's own; it can be paused.
    """
    if schedule.task is not None:
        raise ScheduleFixed("The platform's own schedules can be paused, not deleted.")
    audit.record(session, "deleted", schedule)
    session.delete(schedule)


def run_schedule(
    session: Session,
    schedule: Schedule,
    *,
    headers: Mapping[str, str],
    resend_seconds: float,
) -> Seen:
    """Run a schedule now, besides its times and also while it is paused.

    :param schedule: locked by this transaction.
    :param headers: trace and request id of the request.
    """
    at = present(session)
    firing = ScheduleFiring(
        id=uuid7(), schedule_id=schedule.id, due_at=at, fired_at=at, cause="person"
    )
    session.add(firing)
    schedule.last_run_at = at
    schedule.last_firing_id = firing.id
    session.flush()
    if schedule.task is not None:
        events.emit_task(
            session,
            schedule.task,
            queue=schedule.task_queue or "",
            subject=schedule.name,
        )
    else:
        _start(session, schedule, firing, headers, resend_seconds)
    session.flush()
    audit.record(session, "run", schedule, job_id=firing.job_id)
    return find_schedule(session, schedule.id)


def start_scheduled(
    session: Session,
    firing_id: UUID,
    *,
    headers: Mapping[str, str],
    resend_seconds: float,
) -> str:
    """Make a job of a firing; return `started`, `refused` or `over`.

    Safe to run any number of times, also at once: the firing's row says whether it has
    become one.
    """
    firing = session.scalar(
        select(ScheduleFiring)
        .where(ScheduleFiring.id == firing_id, ScheduleFiring.ask_at.is_not(None))
        .with_for_update()
    )
    if firing is None:
        return "over"
    schedule = session.get_one(Schedule, firing.schedule_id)
    _start(session, schedule, firing, headers, resend_seconds)
    return "refused" if firing.error else "started"


def _start(
    session: Session,
    schedule: Schedule,
    firing: ScheduleFiring,
    headers: Mapping[str, str],
    resend_seconds: float,
) -> None:
    firing.ask_at = None
    kind = KINDS.get(schedule.kind or "")
    if kind is None:
        firing.error = f"There is no kind of job called {schedule.kind} any more."
        return
    job = jobs.submit_job(
        session,
        job_id=uuid7(),
        kind=kind.name,
        queue=kind.queue,
        owner=schedule.owner or "",
        params=schedule.params,
        upload=None,
        headers=headers,
        resend_seconds=resend_seconds,
    )
    firing.job_id = job.id


def purge_firings(session: Session, *, keep: timedelta) -> int:
    """Forget old firings: of jobs after `keep`, of the platform's tasks after an hour."""
    at = present(session)
    gone = session.scalars(
        delete(ScheduleFiring)
        .where(
            (ScheduleFiring.fired_at < at - keep)
            | (
                (ScheduleFiring.fired_at < at - timedelta(hours=1))
                & ScheduleFiring.schedule_id.in_(
                    select(Schedule.id).where(Schedule.task.is_not(None))
                )
            ),
            ScheduleFiring.ask_at.is_(None),
        )
        .returning(ScheduleFiring.id)
    )
    return len(gone.all())
