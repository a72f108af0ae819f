"""The scheduler that Celery's beat runs: it has no schedule but the database's."""

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import psycopg
import structlog
from celery.beat import Scheduler

from .domain import firing

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0
_LEAST_PAUSE_SECONDS = 0.01


class Clock:
    """Fires what is due, whatever goes away and comes back.

    :param entries: the platform's own schedules, see `schedule.entries`.
    :param now: the present; the database's by default.
    """

    def __init__(
        self,
        database_url: str,
        entries: Mapping[str, Mapping[str, Any]],
        now: Callable[[psycopg.Connection[Any]], datetime] = firing.now,
    ) -> None:
        self._url = database_url.replace("+psycopg", "", 1)
        self._entries = entries
        self._now = now
        self._connection: psycopg.Connection[Any] | None = None
        self._latest: datetime | None = None
        self._failures = 0
        self.trouble: str | None = "not connected yet"

    def probe(self) -> None:
        """Raise if the last look at the database failed; for readiness."""
        if self.trouble is not None:
            raise ConnectionError(self.trouble)

    def tick(self) -> float:
        """Fire all that is due and return the seconds until there may be more."""
        try:
            pause = self._look(self._connected())
        # Without its table the owner has not migrated yet: wait for that as well.
        except (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            psycopg.errors.UndefinedTable,
        ) as error:
            self.close()
            if self.trouble != type(error).__name__:
                log.warning("beat_interrupted", error=repr(error))
            self.trouble = type(error).__name__
            self._failures += 1
            longest = min(_LONGEST_PAUSE_SECONDS, 0.2 * 2 ** min(self._failures, 10))
            # Jitter: all beats lost the same Postgres at the same moment.
            return random.uniform(0.1, longest)  # noqa: S311
        self.trouble = None
        self._failures = 0
        return pause

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=3,
                application_name="worker-beat",
                # A beat that hangs in a transaction must not keep its row for long.
                options="-c statement_timeout=5000 -c lock_timeout=2000"
                " -c idle_in_transaction_session_timeout=5000",
            )
            firing.seed(self._connection, self._entries, self._now(self._connection))
            self._latest = None
        return self._connection

    def _look(self, connection: psycopg.Connection[Any]) -> float:
        at = self._now(connection)
        if self._latest is None or at < self._latest:
            pulled = firing.pull_back(connection, at)
            if pulled:
                log.warning("schedules_pulled_back", count=pulled)
        self._latest = at
        while (fired := firing.fire_next(connection, at)) is not None:
            log.info(
                "schedule",
                schedule=fired.schedule,
                outcome=fired.outcome,
                due_at=fired.due_at and fired.due_at.isoformat(),
            )
        again = firing.ask_again(connection, at)
        if again:
            log.warning("firings_asked_again", count=again)
        then = firing.waiting_until(connection)
        if then is None:
            return _LOOK_SECONDS
        # What is due and not ours is another beat's, which needs a moment for it.
        wait = (then - at).total_seconds()
        return min(_LOOK_SECONDS, max(_LEAST_PAUSE_SECONDS, wait))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class DatabaseScheduler(Scheduler):
    """Celery's beat with the clock in place of its own schedule."""

    def __init__(self, *args: Any, clock: Clock, **named: Any) -> None:  # noqa: ANN401
        self._clock = clock
        super().__init__(*args, **named)

    def setup_schedule(self) -> None:
        """Set up nothing: the clock does, when the database is there."""

    def tick(self, *_args: object, **_named: object) -> float:
        """Fire all that is due and return the seconds until there may be more."""
        started = time.monotonic()
        pause = self._clock.tick()
        return max(_LEAST_PAUSE_SECONDS, pause - (time.monotonic() - started))

    def close(self) -> None:
        """Close the connection."""
        self._clock.close()
