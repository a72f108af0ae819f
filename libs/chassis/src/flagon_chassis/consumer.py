"""Reading the events so that every one of them has its effect exactly once.

The bus delivers at least once; the `inbox` table, written in the transaction of the
effect, makes a repeat do nothing. What a dead consumer left is taken over, and an event
that cannot be handled ends in `events:dead` with its error instead of blocking the rest.
"""

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID  # noqa: TC003 (beside what is used, as everywhere)

import structlog
from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy import create_engine, delete, func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from structlog.contextvars import bound_contextvars

from . import buses, logs, metrics, sentry, server, streams, tracing
from .errors import Unavailable
from .plain import stop_at_signals
from .settings import DatabaseSettings
from .streams import Entry, Event
from .tables import inbox

log = structlog.get_logger()

Handle = Callable[[Session, Sequence[Event]], None]
"""Makes the events' effect in the session's transaction; never commits."""

_BATCH = 100
_CLAIM_SECONDS = 10.0
_PURGE_SECONDS = 60.0
_PURGE_STEP = 1000
# A repeat can come as long as the stream keeps an event; double that to be safe.
_INBOX_HOURS = 48
_LONGEST_PAUSE_SECONDS = 5.0


class Crashed(Exception):
    """The process died each time it handled this event."""


@dataclass
class Consumer:
    """One member of a consumer group; `run` makes and runs one.

    :param group: the group's name; each event has its effect once per group.
    :param types: the types that it handles, all if it names none. Others are
        acknowledged unread and leave nothing in the inbox.
    :param attempts: how often a failing event is tried before it is set aside.
    :param claim_seconds: after this without an answer an event is taken from the
        consumer that has it; longer than any batch takes.
    :param stop: ends `work` within about a second, between two batches.
    """

    settings: DatabaseSettings
    group: str
    handle: Handle
    types: frozenset[str] = frozenset()
    attempts: int = 5
    claim_seconds: float = 30.0
    name: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # The same after a restart, so that it finds at once what it had begun.
        self.name = self.name or f"{socket.gethostname()}:{self.settings.bind}"
        self._types = {type_.encode() for type_ in self.types}
        self._bus = buses.group(
            self.settings, self.group, self.name, self.claim_seconds
        )
        self._engine = create_engine(
            self.settings.database_url.get_secret_value(),
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 3,
                "application_name": f"{self.group}-consumer",
                "options": "-c statement_timeout=15000 -c lock_timeout=5000"
                " -c idle_in_transaction_session_timeout=30000",
            },
        )
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)
        self._claimed_at = self._purged_at = float("-inf")
        self.trouble: dict[str, str] = {self._bus.name: "not connected yet"}
        self._before: dict[UUID, str | None] = {}
        self._seconds = metrics.histogram(
            "flagon_event_consume_seconds",
            "Time from when an event happened until its effect was committed.",
            "consumer",
        )
        self._consumed = metrics.counter(
            "flagon_events_consumed_total",
            "Events by what became of them.",
            "consumer",
            "type",
            "outcome",
        )

    def probe(self, dependency: str) -> None:
        """Raise if the last use of `postgres` or the bus failed; for readiness."""
        if dependency in self.trouble:
            raise ConnectionError(self.trouble[dependency])

    def work(self) -> None:
        """Handle events until told to stop, whatever goes away and comes back."""
        failures = 0
        joined = False
        while not self.stop.is_set():
            try:
                if not joined:
                    self.join()
                    # What this consumer had begun before it last ended.
                    self.resume()
                    joined = True
                self.step()
            except _Stopped:
                break
            except buses.AWAY as error:
                # A flushed Redis has lost the group as well: join again.
                joined = False
                self._note(self._bus.name, error)
                failures += 1
                pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10))
                self.stop.wait(random.uniform(0.05, pause))  # noqa: S311
            else:
                failures = 0
                self.trouble.pop(self._bus.name, None)
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._bus.close()
        self._engine.dispose()

    def step(self) -> None:
        """Handle the next batch, waiting up to a second for it; then tidy up.

        :raises buses.AWAY: the bus does not answer, or the group is gone.
        """
        self._handle_all(self._bus.take(_BATCH))
        now = time.monotonic()
        if now - self._claimed_at >= min(_CLAIM_SECONDS, self.claim_seconds):
            self._claimed_at = now
            for entry, delivered in self._bus.left():
                log.info("event_taken_over", entry=entry[0])
                self._handle_begun(entry, delivered)
                if self.stop.is_set():
                    break
        if now - self._purged_at >= _PURGE_SECONDS:
            self._purged_at = now
            self._until_done(self.purge)

    def join(self) -> None:
        """Make the group if there is none; safe to repeat."""
        self._bus.join()

    def resume(self) -> None:
        """Handle what a consumer of this name had begun before it ended."""
        for entry, delivered in self._bus.begun():
            self._handle_begun(entry, delivered)
            if self.stop.is_set():
                break

    def _handle_begun(self, entry: Entry, delivered: int) -> None:
        """Handle an entry that was delivered before, unless that went wrong too often."""
        if delivered > self.attempts + self._bus.spare:
            self._bury(entry, Crashed(f"delivered {delivered} times"), delivered)
        else:
            self._handle_all([entry])

    def _handle_all(self, entries: list[Entry]) -> None:
        events: list[Event] = []
        done: list[str] = []
        for entry_id, fields in entries:
            if not fields:
                # Trimmed before anyone handled it; the group must not keep asking.
                log.warning("event_trimmed", entry=entry_id)
                done.append(entry_id)
                continue
            if self._types and fields.get(b"type") not in self._types:
                done.append(entry_id)
                continue
            try:
                events.append(streams.decode(entry_id, fields))
            except ValueError as error:
                self._bury((entry_id, fields), error, 1)
        if done:
            self._bus.done(done)
        if not events:
            return
        try:
            self._until_done(partial(self._effect, events))
        except buses.BusAway:
            # No event's fault: they come again.
            raise
        # Whatever the handler raises: an event that it cannot bear is tried again and then
        # laid aside with its error, or it would stop all that follow for ever.
        except Exception as error:  # noqa: BLE001
            if len(events) > 1:
                # One of them is at fault; the others need not wait for it.
                for event in events:
                    self._handle_one(event)
            else:
                self._handle_one(events[0], failed=error)

    def _handle_one(self, event: Event, *, failed: Exception | None = None) -> None:
        tried = 1 if failed else 0
        while tried < self.attempts and not self.stop.is_set():
            if failed:
                log.warning(
                    "event_failed", entry=event.entry_id, type=event.type, tried=tried
                )
                self.stop.wait(random.uniform(0, 0.05 * 2**tried))  # noqa: S311
            tried += 1
            try:
                self._until_done(partial(self._effect, [event]))
            except buses.BusAway:
                raise
            # As above; the dead letter tells it.
            except Exception as error:  # noqa: BLE001
                failed = error
            else:
                return
        self._before.pop(event.id, None)
        if failed and tried >= self.attempts:
            fields = {
                b"id": str(event.id).encode(),
                b"type": event.type.encode(),
                b"topics": " ".join(event.topics).encode(),
                b"event": event.raw,
            }
            self._bury((event.entry_id, fields), failed, tried)

    def _effect(self, events: list[Event]) -> None:
        """Commit the effect of those events that had none, then acknowledge all."""
        spans: list[tracing.Span] = []
        for event in events:
            # What they share shows in the trace of the first; the attempt before is kept
            # with its error.
            first = tracing.traceparent_of(spans[0]) if spans else None
            attributes = {
                "messaging.system": self._bus.name,
                "messaging.consumer.group.name": self.group,
                "messaging.message.id": str(event.id),
                "messaging.batch.message_count": len(events),
            }
            spans.append(
                tracing.start(
                    event.traceparent,
                    f"consume {event.type}",
                    kind="consumer",
                    attributes=attributes,
                    links=[first, self._before.pop(event.id, None)],
                )
            )
        try:
            # The statements of a batch show in the trace of its first event.
            with (
                bound_contextvars(request_id=logs.new_request_id()),
                tracing.use(spans[0], events[0].traceparent),
                self._sessions.begin() as session,
            ):
                fresh = self._fresh(session, events)
                if fresh:
                    self.handle(session, fresh)
        # Only looked at: the trace of each event shows how it failed.
        except Exception as error:
            for event, span in zip(events, spans, strict=True):
                span.record_exception(error)
                self._before[event.id] = tracing.traceparent_of(span)
            raise
        finally:
            for span in spans:
                span.end()
        self._bus.done([event.entry_id for event in events])
        now = datetime.now(UTC)
        new = {event.id for event in fresh}
        for event in events:
            outcome = "handled" if event.id in new else "repeated"
            self._consumed.labels(self.group, _label(event.type), outcome).inc()
            happened = datetime.fromisoformat(event.envelope["time"])
            self._seconds.labels(self.group).observe(
                max(0.0, (now - happened).total_seconds())
            )

    def _fresh(self, session: Session, events: list[Event]) -> list[Event]:
        # Sorted, so that two consumers with the same repeats cannot lock each other.
        ids = sorted({event.id for event in events})
        rows = [{"consumer": self.group, "event_id": id_} for id_ in ids]
        found = session.execute(
            insert(inbox)
            .values(rows)
            .on_conflict_do_nothing()
            .returning(inbox.c.event_id)
        )
        new = set(found.scalars())
        fresh = []
        for event in events:
            if event.id in new:
                # The same event can be in one batch twice.
                new.discard(event.id)
                fresh.append(event)
        return fresh

    def _until_done(self, action: Callable[[], None]) -> None:
        """Do it, again and again while it is the database that is away.

        :raises _Stopped: told to stop meanwhile.
        """
        failures = 0
        while True:
            try:
                action()
            # An outage has the exceptions of three libraries: `is_outage` knows them, and
            # what is none goes on.
            except Exception as error:
                if not is_outage(error):
                    raise
                self._note("postgres", error)
                failures += 1
                pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10))
                if self.stop.wait(random.uniform(0.05, pause)):  # noqa: S311
                    raise _Stopped from error
                self._bus.rest()
            else:
                self.trouble.pop("postgres", None)
                return

    def _bury(self, entry: Entry, error: Exception, tried: int) -> None:
        entry_id, fields = entry
        dead: dict[Any, Any] = {
            **fields,
            "entry": entry_id,
            "group": self.group,
            "error": f"{type(error).__name__}: {error}"[:2000],
            "attempts": str(tried),
            "failed_at": datetime.now(UTC).isoformat(),
        }
        self._bus.bury(entry_id, dead)
        log.error("event_dead", entry=entry_id, error=repr(error), tried=tried)
        sentry.report(error)
        type_ = fields.get(b"type", b"unreadable").decode()
        self._consumed.labels(self.group, _label(type_), "dead").inc()

    def purge(self) -> None:
        """Forget some ids of events that the stream no longer holds."""
        with self._sessions.begin() as session:
            old = func.now() - text(f"interval '{_INBOX_HOURS} hours'")
            some = (
                inbox.select()
                .with_only_columns(inbox.c.event_id)
                .where(inbox.c.consumer == self.group, inbox.c.received_at < old)
                .limit(_PURGE_STEP)
            )
            session.execute(
                delete(inbox).where(
                    inbox.c.consumer == self.group, inbox.c.event_id.in_(some)
                )
            )

    def _note(self, dependency: str, error: Exception) -> None:
        name = type(error).__name__
        if self.trouble.get(dependency) != name:
            log.warning(
                "consumer_interrupted", dependency=dependency, error=repr(error)
            )
        self.trouble[dependency] = name


class _Stopped(BaseException):
    """Told to stop while the database was away; the events stay pending.

    No error, so that nothing takes it for a failure of an event.
    """


def is_outage(error: Exception) -> bool:
    """Say whether trying again later is likely to help and the event is not at fault."""
    if isinstance(error, OperationalError | PoolTimeout | Unavailable):
        return True
    # A table or column that is missing comes with the next migration; setting every
    # event aside until then would help nobody.
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated
        or isinstance(error.orig, UndefinedTable | UndefinedColumn)
    )


def run(
    settings: DatabaseSettings,
    service: str,
    group: str,
    handle: Handle,
    *,
    types: frozenset[str] = frozenset(),
) -> None:
    """Consume the event stream until SIGTERM.

    Serves `/livez`, `/readyz` and `/metrics` at `settings.bind`.

    :param group: the consumer group, named after what it does with the events.
    :param handle: makes the effect of a batch in the given session's transaction.
    :param types: the types that it handles, all if it names none.
    """
    logs.configure(service, settings.log_level)
    sentry.init(settings, f"{service}-consumer")
    tracing.init(settings, service)
    metrics.say_build(settings, service)
    consumer = Consumer(settings, group, handle, types)
    stop_at_signals(consumer.stop)
    sidecar = server.sidecar(
        settings.bind,
        {
            name: partial(consumer.probe, name)
            for name in ("postgres", settings.event_bus)
        },
    )
    log.info("consumer_started", group=group)
    consumer.work()
    sidecar.shutdown()
    sidecar.server_close()
    tracing.shutdown()
    log.info("consumer_stopped", group=group)


def _label(type_: str) -> str:
    """Return what metrics call a type: clients make up their own, without an end."""
    return type_ if type_.startswith("market.flagon.") else "custom"
