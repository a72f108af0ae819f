"""The outbox's relay: hands committed messages to the stream and to the queue.

One relay per outbox is active (a session advisory lock says which), so events of one
subject are sent in the order in which they were committed. A message is marked as sent
after Redis has it: a crash anywhere repeats it, with the same id, and never loses it.

Kept small in memory: no Flask and no SQLAlchemy, and Celery only where tasks are sent.
"""

import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import redis
import structlog
from psycopg.rows import class_row
from structlog.contextvars import bound_contextvars

from . import buses, logs, metrics, sentry, server, stores, streams, tracing
from .plain import stop_at_signals
from .settings import DatabaseSettings

if TYPE_CHECKING:
    from celery import Celery

    from .redis_queue import RedisQueue

log = structlog.get_logger()

KEPT_ENTRIES = 100_000
"""Most events that the stream keeps."""
KEPT_BYTES = 64 * 1024 * 1024
"""About the most memory that they may take; large events are kept for a shorter time."""

_BATCH = 200
_POLL_SECONDS = 1.0
_LINGER_SECONDS = 0.01
_MEASURE_SECONDS = 5.0
_PURGE_SECONDS = 60.0
_PURGE_STEP = 1000
_LONGEST_PAUSE_SECONDS = 5.0
_ASK_SECONDS = 5.0
_ASKED_AT_ONCE = 200
_MOST_COUNTED = 100_000

# Every relay of a database takes the same lock; the number is "outbox" as bytes.
_LOCK = int.from_bytes(b"outbox")

_SELECT = """
select sequence, id, channel, name, subject, body, headers, created_at
from outbox where sent_at is null and sequence <> all(%s) and channel <> all(%s)
order by sequence limit %s
"""
_MARK = "update outbox set sent_at = now() where sequence = any(%s)"
_MEASURE = """
select count(*), coalesce(extract(epoch from now() - min(created_at)), 0)
from (select created_at from outbox where sent_at is null
      order by sequence limit %s) as pending
"""
_PURGE = """
delete from outbox where sequence in (
  select sequence from outbox where sent_at < now() - interval '1 day'
  order by sent_at limit %s)
"""
_FORGOTTEN = """
update outbox set sent_at = null, headers = headers || '{"repeated": "yes"}'
where channel = 'event'
and sent_at > now() - interval '1 hour' and sent_at < to_timestamp(%s)
"""
# The answers to repeated requests (idempotency.py) live beside the outbox where a service
# keeps them, and have nobody else who would forget them.
_HAS_KEYS = "select to_regclass('idempotency_key') is not null"
_PURGE_KEYS = """
delete from idempotency_key where (scope, key) in (
  select scope, key from idempotency_key where created_at < now() - interval '1 day'
  order by created_at limit %s)
"""

# What somebody waits for until it is done (errands.py), again when nothing was heard of it:
# with the same id, and not while it is still here.
_HAS_ERRANDS = "select to_regclass('errand') is not null"
_ASK = """
with due as (
  select * from errand where ask_at <= now() and until > now() and not exists (
    select from outbox where outbox.id = errand.id and outbox.sent_at is null)
  order by ask_at limit %s for update skip locked
), put as (
  insert into outbox (id, channel, name, subject, body, headers)
  select id, 'task', name, subject, body, headers from due
  on conflict (id) do update set sent_at = null, created_at = now()
)
update errand set asks = errand.asks + 1,
  ask_at = now() + least(3600, 60 * 2 ^ least(errand.asks, 10)) * interval '1 second'
from due where errand.name = due.name and errand.subject = due.subject
returning errand.name
"""
_FORGET_ERRANDS = "delete from errand where until <= now() returning name"
_MEASURE_ERRANDS = """
select name, extract(epoch from now() - min(created_at)) from errand group by name
"""


@dataclass(frozen=True)
class Message:
    """One row of the outbox."""

    sequence: int
    id: UUID
    channel: str
    name: str
    subject: str
    body: dict[str, Any]
    headers: dict[str, str]
    created_at: datetime


@dataclass
class Relay:
    """The relay of one service's outbox; `run` makes and runs one.

    :param told: is called whenever events are in the stream, before they are marked.
    :param errands: tasks that are asked for until they are done (errands.py).
    :param stop: ends `work` within about a second, between two batches.
    """

    settings: DatabaseSettings
    service: str
    told: Callable[[], object] | None = None
    errands: Sequence[str] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    kept_entries: int = KEPT_ENTRIES
    kept_bytes: int = KEPT_BYTES

    def __post_init__(self) -> None:
        self._bus = buses.sender(self.settings, self.kept_entries, self.kept_bytes)
        url = self.settings.redis_store_url.get_secret_value()
        self._copied = streams.connect(url) if stores.watched(url) else None
        """The store, where there are several: what it was given has to be with two."""
        self._publishers: dict[str, Celery] = {}
        self._rq: dict[tuple[str, str], RedisQueue] = {}
        self._unsendable: set[int] = set()
        self._failures = 0
        self._put_off: dict[str, tuple[int, float]] = {}
        """Channels that wait for their bus or broker: failures in a row, and until when."""
        self.trouble: dict[str, str] = {"postgres": "not connected yet"}
        self._measured_at = self._purged_at = self._asked_at = float("-inf")
        self._pending = metrics.gauge(
            "flagon_outbox_pending", "Messages that wait to be sent."
        )
        self._oldest = metrics.gauge(
            "flagon_outbox_oldest_seconds", "Age of the oldest message that waits."
        )
        self._published = metrics.counter(
            "flagon_events_published_total", "Events handed to the stream.", "type"
        )
        self._tasks = metrics.counter(
            "flagon_tasks_published_total", "Tasks handed to the queue.", "task"
        )
        self._errands = metrics.gauge(
            "flagon_errand_oldest_seconds",
            "Age of the oldest task that is not known to be done.",
            "task",
        )
        self._asked = metrics.counter(
            "flagon_errands_total",
            "Tasks that were asked for again, or given up.",
            "task",
            "outcome",
        )
        self._known = set(self.errands)
        for name in self._known:
            self._errands.labels(name).set(0)
        self._begun = float("-inf")
        self._begun_at = float("-inf")

    def probe(self, dependency: str) -> None:
        """Raise if the last use of a dependency failed; for readiness."""
        if dependency in self.trouble:
            raise ConnectionError(self.trouble[dependency])

    def work(self) -> None:
        """Send messages until told to stop, whatever goes away and comes back."""
        while not self.stop.is_set():
            try:
                with self._connection() as connection:
                    self.trouble.pop("postgres", None)
                    self._until_lost(connection)
            # Without its table the owner has not migrated yet: wait for that as well.
            except (psycopg.OperationalError, psycopg.errors.UndefinedTable) as error:
                self._note("postgres", error)
                self._failures += 1
                # Jitter: all relays lost the same Postgres at the same moment.
                pause = min(_LONGEST_PAUSE_SECONDS, 0.2 * 2 ** min(self._failures, 10))
                self.stop.wait(random.uniform(0.1, pause))  # noqa: S311 (no secret)
        self._bus.close()
        if self._copied is not None:
            self._copied.close()

    def _until_lost(self, connection: psycopg.Connection[Any]) -> None:
        if not self._become_active(connection):
            return
        connection.execute("listen outbox")
        failures = 0
        while not self.stop.is_set():
            try:
                sent = self.step(connection)
                self.repeat_forgotten(connection)
            except queue_errors() as error:
                self._note(self._culprit(error), error)
                failures += 1
                self.housekeeping(connection, idle=False)
                self.stop.wait(_pause(failures))
                continue
            failures = self._failures = 0
            if not self._put_off:
                self.trouble.clear()
            self.housekeeping(connection, idle=sent < _BATCH)
            if sent < _BATCH:
                # One notification is enough: the batch takes all there is.
                for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
                    pass
            if 0 < sent < _BATCH:
                # Where one has come more are coming: one batch for all of them.
                self.stop.wait(_LINGER_SECONDS)

    def _connection(self) -> psycopg.Connection[Any]:
        url = self.settings.database_url.get_secret_value()
        return psycopg.connect(
            url.replace("postgresql+psycopg:", "postgresql:", 1),
            autocommit=True,
            connect_timeout=3,
            application_name=f"{self.service}-relay",
            # Both sides notice a dead peer within seconds; the server then drops the
            # lock, so that the relay that stands by can take over.
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
            options="-c statement_timeout=10000 -c lock_timeout=5000"
            " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2"
            " -c tcp_keepalives_count=3",
        )

    def _become_active(self, connection: psycopg.Connection[Any]) -> bool:
        waiting = False
        while not self.stop.is_set():
            row = connection.execute(
                "select pg_try_advisory_lock(%s)", [_LOCK]
            ).fetchone()
            if row and row[0]:
                log.info("relay_active", waited=waiting)
                # What another relay found unsendable may work in this one.
                self._unsendable.clear()
                return True
            if not waiting:
                log.info("relay_standby")
                waiting = True
            self.stop.wait(_POLL_SECONDS)
        return False

    def step(self, connection: psycopg.Connection[Any]) -> int:
        """Send one batch and return how many messages it held.

        Events stay behind, for a while, when their bus does not answer, and tasks when
        their broker does not.

        :raises Exception: those of `queue_errors`, when bus and broker are one and do not
            answer; nothing is marked that they do not have.
        """
        now = time.monotonic()
        with connection.cursor(row_factory=class_row(Message)) as cursor:
            left_out = [name for name, (_, at) in self._put_off.items() if now < at]
            batch = cursor.execute(
                _SELECT, [list(self._unsendable), left_out, _BATCH]
            ).fetchall()
        for channel, send in (("event", self._send_events), ("task", self._send_tasks)):
            messages = [message for message in batch if message.channel == channel]
            if not messages:
                continue
            try:
                send(connection, messages)
            except queue_errors() as error:
                # Without what both need there is nothing to do.
                if self._bus.name == self.settings.broker:
                    raise
                self._note(self._culprit(error), error)
                failures = self._put_off.get(channel, (0, 0.0))[0] + 1
                self._put_off[channel] = (failures, now + _pause(failures))
            else:
                self._put_off.pop(channel, None)
        return len(batch)

    def _send_events(
        self, connection: psycopg.Connection[Any], events: list[Message]
    ) -> None:
        self._publish_events(events)
        if self._bus.name == "redis":
            self._copy()
        if self.told is not None:
            self.told()
        connection.execute(_MARK, [[message.sequence for message in events]])
        for message in events:
            self._published.labels(message.name).inc()
        self.trouble.pop(self._bus.name, None)

    def _send_tasks(
        self, connection: psycopg.Connection[Any], tasks: list[Message]
    ) -> None:
        handed: list[int] = []
        try:
            known = {message.sequence: message for message in tasks}
            for message, sequences in fold(tasks):
                folded = [known[one] for one in sequences[1:]]
                if self._publish_task(message, folded):
                    # One by one: when the broker goes away, those before are sent.
                    handed += sequences
        finally:
            if handed:
                self._copy()
                connection.execute(_MARK, [handed])
        self.trouble.pop(self.settings.broker, None)

    def _culprit(self, error: Exception) -> str:
        """Return what does not answer, as readiness calls it."""
        if isinstance(error, redis.RedisError):
            return "redis"
        bus = isinstance(error, buses.BusAway)
        return self._bus.name if bus else self.settings.broker

    def _copy(self) -> None:
        """Have a replica know what was sent: what is marked here nobody sends again."""
        if self._copied is not None:
            stores.copy(self._copied, f"{self.service}:relay")

    def _publish_events(self, events: list[Message]) -> None:
        spans: list[tracing.Span] = []
        # What is told once more has its span; making others takes five times the rest.
        fresh = [one for one in events if not one.headers.get("repeated")]
        for message in fresh:
            # What they share, the command to the bus, shows in the trace of the first.
            first = [tracing.traceparent_of(spans[0])] if spans else []
            attributes: dict[str, object] = {
                "messaging.system": self._bus.name,
                "messaging.destination.name": streams.EVENTS,
                "messaging.message.id": str(message.id),
                "messaging.batch.message_count": len(events),
            }
            if request_id := message.headers.get("request_id"):
                attributes[logs.SPAN_REQUEST_ID] = request_id
            spans.append(
                tracing.start(
                    message.headers.get("traceparent"),
                    f"publish {message.name}",
                    kind="producer",
                    attributes=attributes,
                    links=first,
                )
            )
        entries = {
            message.sequence: streams.encode(
                message.id,
                message.name,
                {**message.body, "sequence": str(message.sequence)},
            )
            for message in events
        }
        try:
            with contextlib.ExitStack() as stack:
                if spans:
                    before = fresh[0].headers.get("traceparent")
                    stack.enter_context(tracing.use(spans[0], before))
                self._bus.send(entries)
        except buses.AWAY as error:
            for span in spans:
                span.record_exception(error)
            raise
        finally:
            for span in spans:
                span.end()

    def _publish_task(self, message: Message, folded: list[Message]) -> bool:
        """Send one task; say whether it is sent.

        :param folded: further ones that it stands for.
        """
        headers: dict[str, object] = {
            **message.headers,
            "enqueued_at": message.created_at.timestamp(),
        }
        with (
            _request(message),
            tracing.continue_from(
                message.headers.get("traceparent"),
                f"send {message.name}",
                kind="producer",
                attributes={"messaging.message.id": str(message.id)},
                links=[one.headers.get("traceparent") for one in folded],
            ),
        ):
            traced: dict[str, str] = {}
            tracing.inject(traced)
            times = {"times": 1 + len(folded)} if folded else {}
            try:
                self._hand_over(
                    message,
                    kwargs={**message.body["kwargs"], **times},
                    headers={**headers, **traced},
                )
            except queue_errors():
                raise
            except Exception as error:
                # A row that can never be sent must not hold up all that follow. It stays
                # in the table, counted as pending, and is tried again after a restart.
                self._unsendable.update(one.sequence for one in (message, *folded))
                log.exception("message_unsendable", sequence=message.sequence)
                sentry.report(error)
                return False
        self._tasks.labels(message.name).inc()
        return True

    def _hand_over(
        self,
        message: Message,
        *,
        kwargs: dict[str, object],
        headers: dict[str, object],
    ) -> None:
        # A task is called after the service that runs it, `<service>.<verb_noun>`, and
        # waits under that service's keys; what we may send there, Redis decides.
        receiver, name = message.name.partition(".")[0], message.body["queue"]
        task_id = str(message.id)
        if name in self.settings.rq_queues:
            from .redis_queue import RedisQueue  # noqa: PLC0415 (memory, as below)

            if (receiver, name) not in self._rq:
                url = self.settings.redis_store_url.get_secret_value()
                self._rq[receiver, name] = RedisQueue(url, receiver, name)
            self._rq[receiver, name].publish(
                message.name, kwargs=kwargs, headers=headers, task_id=task_id
            )
            return
        from . import queue  # noqa: PLC0415 (20 MB that only senders of tasks pay)

        if receiver not in self._publishers:
            self._publishers[receiver] = queue.publisher(self.settings, receiver)
        queue.publish(
            self._publishers[receiver],
            message.name,
            queue=name,
            kwargs=kwargs,
            headers=headers,
            task_id=task_id,
            expires_seconds=message.body.get("expires_seconds"),
        )

    def repeat_forgotten(self, connection: psycopg.Connection[Any]) -> None:
        """Send events of the last hour again if the stream was emptied since.

        In their order and with their ids: who had read them knows them.

        :raises AWAY: the bus does not answer (`buses.AWAY`).
        """
        now = time.monotonic()
        if now - self._begun_at < _MEASURE_SECONDS or "event" in self._put_off:
            return
        self._begun_at = now
        begun = self._bus.beginning()
        if begun == self._begun:
            return
        # Some may have been on their way from the old stream to their mark.
        margin = 1.0 if 0 <= self._begun < float("inf") else 0.0
        again = connection.execute(_FORGOTTEN, [begun + margin]).rowcount
        self._begun = begun
        if again:
            log.warning("stream_forgot_events", number=again)

    def housekeeping(self, connection: psycopg.Connection[Any], *, idle: bool) -> None:
        """Measure and purge when that is due; purge only while there is time."""
        now = time.monotonic()
        if now - self._measured_at >= _MEASURE_SECONDS:
            self._measured_at = now
            self.measure(connection)
        if idle and now - self._asked_at >= _ASK_SECONDS:
            asked = self.ask_again(connection)
            # A full step means that there is more, as below.
            self._asked_at = now if asked < _ASKED_AT_ONCE else float("-inf")
        if idle and now - self._purged_at >= _PURGE_SECONDS:
            gone = connection.execute(_PURGE, [_PURGE_STEP]).rowcount
            if connection.execute(_HAS_KEYS).fetchone() == (True,):
                connection.execute(_PURGE_KEYS, [_PURGE_STEP])
            # A full step means that there is more: go on at the next idle moment.
            self._purged_at = now if gone < _PURGE_STEP else float("-inf")

    def ask_again(self, connection: psycopg.Connection[Any]) -> int:
        """Have tasks sent again of which nothing was heard; return how many."""
        if connection.execute(_HAS_ERRANDS).fetchone() != (True,):
            return 0
        known: dict[str, float] = dict(connection.execute(_MEASURE_ERRANDS).fetchall())
        for name in self._known - known.keys():
            self._errands.labels(name).set(0)
        for name, oldest in known.items():
            self._errands.labels(name).set(float(oldest))
        self._known |= known.keys()
        asked = connection.execute(_ASK, [_ASKED_AT_ONCE]).fetchall()
        given_up = connection.execute(_FORGET_ERRANDS).fetchall()
        for outcome, names in (("asked_again", asked), ("given_up", given_up)):
            for name, number in Counter(row[0] for row in names).items():
                self._asked.labels(name, outcome).inc(number)
                log.warning("errands", task=name, outcome=outcome, number=number)
        return len(asked)

    def measure(self, connection: psycopg.Connection[Any]) -> None:
        """Set the metrics of what waits."""
        row = connection.execute(_MEASURE, [_MOST_COUNTED]).fetchone()
        pending, oldest = row or (0, 0)
        self._pending.set(pending)
        self._oldest.set(float(oldest))

    def _note(self, dependency: str, error: Exception) -> None:
        name = type(error).__name__
        if self.trouble.get(dependency) != name:
            log.warning("relay_interrupted", dependency=dependency, error=repr(error))
        self.trouble[dependency] = name


def _pause(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, one at least."""
    longest = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10))
    return random.uniform(0.05, longest)  # noqa: S311 (no secret)


def fold(tasks: list[Message]) -> list[tuple[Message, list[int]]]:
    """Return the messages to send, and the rows that each of them stands for.

    A row whose body has `fold` may be sent together with others of its task and queue, so
    many at most: as the first of them, with `times` among its keyword arguments.
    """
    found: list[tuple[Message, list[int]]] = []
    latest: dict[tuple[str, str], list[int]] = {}
    for message in tasks:
        most = message.body.get("fold", 1)
        kind = (message.name, message.body["queue"])
        if most > 1 and len(latest.get(kind, range(most))) < most:
            latest[kind].append(message.sequence)
            continue
        rows = [message.sequence]
        found.append((message, rows))
        if most > 1:
            latest[kind] = rows
    return found


@contextlib.contextmanager
def _request(message: Message) -> Iterator[None]:
    with bound_contextvars(
        request_id=message.headers.get("request_id") or logs.new_request_id()
    ):
        yield


def queue_errors() -> tuple[type[Exception], ...]:
    """Return what means that bus or broker does not answer, without loading Celery."""
    kombu = sys.modules.get("kombu.exceptions")
    return (*buses.AWAY, *([kombu.OperationalError] if kombu else []))


def run(
    settings: DatabaseSettings,
    service: str,
    *,
    told: Callable[[], object] | None = None,
    errands: Sequence[str] = (),
) -> None:
    """Run the relay of a service's outbox until SIGTERM.

    Serves `/livez`, `/readyz` and `/metrics` at `settings.bind`.

    :param told: is called whenever events are in the stream.
    :param errands: tasks that are asked for until they are done (errands.py).
    """
    logs.configure(service, settings.log_level)
    sentry.init(settings, f"{service}-relay")
    tracing.init(settings, service)
    metrics.say_build(settings, service)
    relay = Relay(settings, service, told, errands)
    stop_at_signals(relay.stop)
    sidecar = server.sidecar(
        settings.bind,
        {
            name: partial(relay.probe, name)
            for name in ("postgres", settings.event_bus, settings.broker)
        },
    )
    log.info("relay_started")
    relay.work()
    sidecar.shutdown()
    sidecar.server_close()
    tracing.shutdown()
    log.info("relay_stopped")
