"""Errands: tasks that are asked for until it is known that they were done.

The outbox holds a message until the queue has it. What happens to it there, nobody tells
the sender: a store that is emptied takes everything along that waits. So who sends what
must not get lost keeps a row until the effect is known, and the relay sends the message
again, with the same id and ever more rarely, for as long as the row is there.

The task must be safe to run twice.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from . import events
from .tables import errand

FIRST_SECONDS = 30
"""When a message is sent again of which nothing was heard; then after twice as long."""


def send(
    session: Session,
    name: str,
    *,
    queue: str,
    tasks: list[tuple[str, dict[str, Any]]],
    lives: timedelta,
) -> None:
    """Have tasks run once the transaction is committed, also if their messages get lost.

    :param tasks: what each is about, and its keyword arguments, JSON values. One that is
        sent for already starts anew.
    :param lives: after this it is given up.
    """
    rows = events.prepare_tasks(name, queue=queue, tasks=tasks)
    if not rows:
        return
    events.put(session, rows)
    times = {
        "created_at": func.now(),
        "ask_at": func.now() + timedelta(seconds=FIRST_SECONDS),
        "until": func.now() + lives,
    }
    new = insert(errand).values(times)
    message = ("id", "body", "headers")
    again = {column: new.excluded[column] for column in message}
    session.execute(
        new.on_conflict_do_update(
            index_elements=["name", "subject"], set_={**again, **times, "asks": 0}
        ),
        [
            {column: row[column] for column in ("name", "subject", *message)}
            for row in rows
        ],
    )


def postpone(session: Session, name: str, subject: str, seconds: float) -> None:
    """Note that somebody is at it: nobody need ask again before so many seconds."""
    session.execute(
        update(errand)
        .where(errand.c.name == name, errand.c.subject == subject)
        .values(asks=0, ask_at=func.now() + timedelta(seconds=seconds))
    )


def done(session: Session, name: str, *subjects: str) -> None:
    """Note that nothing is left to do; safe to repeat."""
    session.execute(
        delete(errand).where(errand.c.name == name, errand.c.subject.in_(subjects))
    )
