"""What beat does: fire what is due, each time once, however many beats there are.

A firing is one transaction on the schedule's row: it takes the row, writes the firing
(unique by schedule and due time), its message for the relay, and what is due next. Who
is killed in it has done nothing, who is killed after it has done all.

A firing of a job is made a job by `worker.start_scheduled`; its message is sent again
until that has happened. Neither Flask nor SQLAlchemy is needed here, nor 40 MB for them.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from uuid_utils.compat import uuid7

from .times import Timing, TimingInvalid, turn

START = "worker.start_scheduled"
"""The task that makes a job of a firing."""
START_QUEUE = "interactive"

_ASK_SECONDS = 10.0
_ASK_SECONDS_MAX = 640.0
_ASKED_AT_ONCE = 100

_TAKE = """
select id, name, kind, task, task_queue, cron, interval_seconds, time_zone, anchor_at,
       jitter_seconds, catch_up, next_due_at
from schedule where enabled and next_run_at <= %(now)s
order by next_run_at limit 1 for update skip locked
"""
_FIRE = """
insert into schedule_firing (id, schedule_id, due_at, fired_at, cause, ask_at)
values (%(id)s, %(schedule_id)s, %(due)s, %(now)s, 'time', %(ask_at)s)
on conflict (schedule_id, due_at) do nothing
"""
_SEND = """
insert into outbox (id, channel, name, subject, body)
values (%(id)s, 'task', %(name)s, %(subject)s, %(body)s)
"""
_MOVE = """
update schedule set next_due_at = %(next_due)s, next_run_at = %(next_run)s,
    last_due_at = coalesce(%(due)s, last_due_at),
    last_run_at = case when %(fired)s::uuid is null then last_run_at else %(now)s end,
    last_firing_id = coalesce(%(fired)s, last_firing_id)
where id = %(id)s
"""
_STOP = """
update schedule set enabled = false, next_due_at = null, next_run_at = null,
    version = version + 1
where id = %(id)s
"""
_FORGOTTEN = """
select id, asks from schedule_firing f where ask_at <= %(now)s and not exists (
    select from outbox where sent_at is null and name = %(name)s and subject = f.id::text
)
order by ask_at limit %(most)s for update skip locked
"""
_ASKED = "update schedule_firing set asks = asks + 1, ask_at = %(at)s where id = %(id)s"
_WAITING = "select min(next_run_at) from schedule where enabled"
_AHEAD = """
select id, cron, interval_seconds, time_zone, anchor_at, jitter_seconds, next_due_at
from schedule where enabled and next_due_at > %(now)s for update
"""
_PULL = """
update schedule set next_due_at = %(next_due)s, next_run_at = %(next_run)s
where id = %(id)s
"""
_SEED = """
insert into schedule (
    id, name, task, task_queue, params, interval_seconds, least_seconds, most_seconds,
    time_zone, anchor_at, jitter_seconds, catch_up, enabled, next_due_at, next_run_at,
    created_at, updated_at
) values (
    %(id)s, %(name)s, %(task)s, %(queue)s, '{}', %(seconds)s, %(least)s, %(most)s, 'UTC',
    %(now)s, 0, 'once', true, %(now)s, %(now)s, %(now)s, %(now)s
)
on conflict (name) do update set task = excluded.task, task_queue = excluded.task_queue,
    interval_seconds = excluded.interval_seconds, anchor_at = excluded.anchor_at,
    least_seconds = excluded.least_seconds, most_seconds = excluded.most_seconds,
    next_due_at = excluded.next_due_at, next_run_at = excluded.next_run_at
where schedule.version = 1 and schedule.task is not null
    and (schedule.interval_seconds, schedule.task, schedule.task_queue)
        is distinct from (excluded.interval_seconds, excluded.task, excluded.task_queue)
"""


@dataclass(frozen=True)
class Fired:
    """What came of one schedule whose time had come."""

    schedule: str
    """Its name."""
    outcome: str
    """`fired`, `left_out` (too late), `repeated` (had been), `stopped` (no valid time)."""
    due_at: datetime | None = None


def now(connection: psycopg.Connection[Any]) -> datetime:
    """Return the database's time: beats on two machines go by one clock."""
    found: Any = connection.execute("select clock_timestamp()").fetchone()
    at: datetime = found[0]
    return at


def fire_next(connection: psycopg.Connection[Any], at: datetime) -> Fired | None:
    """Fire one schedule whose time has come; None: there is none that is free.

    Safe to run in any number of processes at once: each has the row of another one.

    :param at: the present.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_TAKE, {"now": at}).fetchone()
        if row is None:
            return None
        try:
            found = turn(
                timing(row),
                due=row["next_due_at"],
                now=at,
                catch_up=row["catch_up"],
                jitter_seconds=row["jitter_seconds"],
            )
        except TimingInvalid:
            # Such as a time zone that is no more: the others need not wait for it.
            cursor.execute(_STOP, {"id": row["id"]})
            return Fired(row["name"], "stopped")
        outcome, firing_id = "left_out", None
        if found.fire is not None:
            firing_id = uuid7()
            outcome = "fired"
            if not _fire(cursor, row, firing_id, found.fire, at):
                # The clock was ahead once, and this time was fired then.
                outcome, firing_id = "repeated", None
        cursor.execute(
            _MOVE,
            {
                "id": row["id"],
                "now": at,
                "due": found.fire,
                "fired": firing_id,
                "next_due": found.next_due,
                "next_run": delayed(found.next_due, row["jitter_seconds"]),
            },
        )
    return Fired(row["name"], outcome, found.fire)


def _fire(
    cursor: psycopg.Cursor[Any],
    row: Mapping[str, Any],
    firing_id: UUID,
    due: datetime,
    at: datetime,
) -> bool:
    """Write a firing and its message; say whether it is the first for its due time."""
    job = row["kind"] is not None
    written = cursor.execute(
        _FIRE,
        {
            "id": firing_id,
            "schedule_id": row["id"],
            "due": due,
            "now": at,
            "ask_at": at + timedelta(seconds=_ASK_SECONDS) if job else None,
        },
    )
    if not written.rowcount:
        return False
    if job:
        _send_start(cursor, firing_id)
    else:
        seconds = row["interval_seconds"]
        body = {
            "queue": row["task_queue"],
            "kwargs": {},
            # What nobody took must not pile up while no worker runs.
            "expires_seconds": max(2 * seconds, 10.0),
        }
        _send(cursor, row["task"], row["name"], body)
    return True


def _send_start(cursor: psycopg.Cursor[Any], firing_id: UUID) -> None:
    body = {"queue": START_QUEUE, "kwargs": {"firing_id": str(firing_id)}}
    _send(cursor, START, str(firing_id), body)


def _send(
    cursor: psycopg.Cursor[Any], name: str, subject: str, body: Mapping[str, Any]
) -> None:
    message = {"id": uuid7(), "name": name, "subject": subject}
    cursor.execute(_SEND, {**message, "body": json.dumps(body)})
    cursor.execute("select pg_notify('outbox', '')")


def ask_again(connection: psycopg.Connection[Any], at: datetime) -> int:
    """Send the messages of firings again that nobody made a job of; return how many.

    Ever more rarely, and never while the relay still has the last one.
    """
    with connection.transaction(), connection.cursor() as cursor:
        known = {"now": at, "name": START, "most": _ASKED_AT_ONCE}
        rows = cursor.execute(_FORGOTTEN, known).fetchall()
        for firing_id, asks in rows:
            pause = min(_ASK_SECONDS_MAX, _ASK_SECONDS * 2.0 ** min(asks, 10))
            _send_start(cursor, firing_id)
            then = at + timedelta(seconds=pause)
            cursor.execute(_ASKED, {"id": firing_id, "at": then})
    return len(rows)


def pull_back(connection: psycopg.Connection[Any], at: datetime) -> int:
    """Have what waits too long wait for its next due time, and return how many.

    When a clock was ahead, schedules wait for what follows that time: after a year's
    error they would be silent for a year. What was fired ahead is not fired again.
    """
    count = 0
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_AHEAD, {"now": at}).fetchall():
            try:
                due = timing(row).after(at)
            except TimingInvalid:
                # To be found when its time has come.
                continue
            if due is not None and due < row["next_due_at"]:
                run = delayed(due, row["jitter_seconds"])
                cursor.execute(
                    _PULL, {"id": row["id"], "next_due": due, "next_run": run}
                )
                count += 1
    return count


def waiting_until(connection: psycopg.Connection[Any]) -> datetime | None:
    """Return when the next schedule is to run; None: none is."""
    found: Any = connection.execute(_WAITING).fetchone()
    at: datetime | None = found[0]
    return at


def seed(
    connection: psycopg.Connection[Any],
    entries: Mapping[str, Mapping[str, Any]],
    at: datetime,
) -> None:
    """Make the platform's own schedules, or have those that nobody edited be as given.

    :param entries: as `schedule.entries` gives them.
    """
    with connection.transaction():
        for name, entry in entries.items():
            seconds = float(entry["schedule"])
            connection.execute(
                _SEED,
                {
                    "id": uuid7(),
                    "name": name,
                    "task": entry["task"],
                    "queue": entry["options"]["queue"],
                    "seconds": seconds,
                    "least": seconds / 5,
                    "most": seconds * 20,
                    "now": at,
                },
            )


def delayed(due: datetime | None, jitter_seconds: float) -> datetime | None:
    """Return when to run what is due: then, or up to so many seconds later."""
    if due is None:
        return None
    return due + timedelta(seconds=random.uniform(0, jitter_seconds))  # noqa: S311


def timing(row: Mapping[str, Any]) -> Timing:
    """Return when the schedule of a row is due."""
    return Timing(
        row["cron"], row["interval_seconds"], row["anchor_at"], row["time_zone"]
    )
