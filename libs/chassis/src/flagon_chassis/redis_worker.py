"""The process that runs what waits in RQ: Celery's tasks, with Celery's limits.

RQ finds what is to be run by importing a name that stands in Redis, and unpickles what
stands beside it. Here a name is looked up among the tasks, all else is JSON, and fields of
a message that name more to run are not read: who can write to Redis can ask for a task, as
with Celery, and for nothing else.

Import it after a `RedisQueue` was made, which says below which prefix RQ has its keys.
"""

import faulthandler
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, MaxRetriesExceededError, Retry
from redis import ConnectionError as RedisUnreachable
from redis import Redis, RedisError
from redis import TimeoutError as RedisSilent
from rq import Queue, SimpleWorker
from rq import Retry as Later
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.timeouts import UnixSignalDeathPenalty

from . import health, queue, sentry, server, tracing
from .redis_queue import RETRIES, RedisQueue
from .settings import DatabaseSettings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from celery import Celery
    from flask import Flask
    from redis.client import Pipeline
    from rq.job import JobStatus

log = structlog.get_logger()

_WATCH_SECONDS = 5
_PAUSES = (0, 1, 5, 30, 60, 240)
"""Seconds before a task that broke is run again; the last one for all that follow."""
_MARGIN_SECONDS = 10
"""Between the end of a process that hangs and the return of its message."""
_ANSWER_SECONDS = 4
_WORKER_SECONDS = 30
"""How long a worker that gives no sign of life is listed as one."""


class RedisAway(RedisError):
    """Redis does not answer, which is not waited for here: whoever stops us would wait."""


class UnknownTask(LookupError):
    """No task of the queue has this name."""


class _Executions(ExecutionRegistry):
    """Who runs a message, without the dead.

    RQ's own raises when it finds one whose entry has run out: a message whose first worker
    was killed could then never be taken for done.
    """

    def get_executions(self, start: int = 0, end: int = -1) -> list[Execution]:
        """Return those that are known."""
        found = []
        for execution_id in self.get_execution_ids(start, end):
            execution = Execution(execution_id, self.job_id, self.connection)
            if self.connection.exists(execution.key):
                found.append(execution)
        return found


class Message(Job):
    """A message as far as it is read: what task, with what, and how often it was tried."""

    _READ = frozenset(
        {
            *("data", "meta", "origin", "description", "status", "created_at"),
            *("enqueued_at", "started_at", "ended_at", "last_heartbeat", "worker_name"),
            *("result_ttl", "failure_ttl", "number_of_retries", "retries_left"),
        }
    )
    """Not among them: callbacks and webhooks, which RQ would call, results, dependencies
    and limits of time."""
    work: "Worker"

    @classmethod
    def fetch(cls, id: str, *arguments: Any, **options: Any) -> Job:  # noqa: ANN401 (as the library's)
        """Return a message.

        :raises NoSuchJobError: there is none, or none that can be read. Of all else that is
            raised here the worker would end, and find the same at its next start.
        """
        try:
            return super().fetch(id, *arguments, **options)
        except (ValueError, TypeError, RecursionError) as error:
            _leave_out(id, error)
            raise NoSuchJobError(id) from error

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take from Redis what is read, and nothing else."""
        super().restore(
            {
                name: value
                for name, value in raw_data.items()
                if name.decode("ascii", "replace") in self._READ
            }
        )

    def set_status(
        self, status: "JobStatus", pipeline: "Pipeline | None" = None
    ) -> None:
        """Note a status in one transaction with what else changes, or not yet.

        By itself RQ writes "scheduled" first and schedules then: who is killed between
        the two leaves a message that nobody wakes.
        """
        if pipeline is None:
            self._status = status
        else:
            super().set_status(status, pipeline)

    @property
    def execution_registry(self) -> ExecutionRegistry:
        """Who runs it."""
        return _Executions(self.id, connection=self.connection)

    def get_retry_interval(self) -> int:
        """Return the pause after a task broke or its worker was killed."""
        used = RETRIES - (self.retries_left or 0)
        return _PAUSES[max(0, min(used, len(_PAUSES) - 1))]

    def _execute(self) -> Later | None:
        return self.work.attempt(self)


# The library gives it no types.
_penalty = cast("Callable[..., AbstractContextManager[None]]", UnixSignalDeathPenalty)


@dataclass
class _Attempt:
    """One attempt at a task, as tasks see their Celery task."""

    name: str
    request: SimpleNamespace
    max_retries: int | None
    span: str | None = None
    """The attempt in traces, for the next one to name."""

    def retry(self, *, countdown: float) -> NoReturn:
        """Have the task run again after a while.

        :raises celery.exceptions.Retry: always, while there are attempts left.
        """
        if self.max_retries is not None and self.request.retries >= self.max_retries:
            raise MaxRetriesExceededError(f"{self.name} was tried often enough.")
        self.span = tracing.current_traceparent()
        raise Retry(when=cast("Any", countdown))


def _leave_out(message_id: str, error: Exception) -> None:
    from . import metrics  # noqa: PLC0415 (after server.share_metrics)

    metrics.counter(
        "flagon_messages_unreadable_total",
        "Messages that nobody can read: thrown away.",
    ).inc()
    log.warning("message_unreadable", task_id=message_id, error=type(error).__name__)


class _Taken(IntermediateQueue):
    """What was taken and is not noted yet, without what is no text.

    RQ's own reads each entry as UTF-8 and ends by one that is none, before it could be
    thrown away: the next worker would end by it as well.
    """

    def get_job_ids(self) -> list[str]:
        """Return the ids."""
        entries = cast("list[bytes]", self.connection.lrange(self.key, 0, -1))
        return [entry.decode() for entry in entries if self.is_text(entry)]

    def is_text(self, entry: bytes) -> bool:
        """Say whether an entry is text; what is none goes."""
        try:
            entry.decode()
        except UnicodeDecodeError as error:
            self.connection.lrem(self.key, 1, cast("str", entry))
            _leave_out(repr(entry[:80]), error)
            return False
        return True


class _Queue(Queue):
    """RQ's queue, whose cleaner may be killed at it, and which may hold anything."""

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        """What was taken from it and is not noted yet."""
        return _Taken(self.key, self.connection)

    @classmethod
    def lmove(
        cls, connection: Redis, queue_key: str, timeout: int | None
    ) -> tuple[str, bytes] | None:
        """Take an entry.

        :raises rq.exceptions.DequeueTimeout: there is none, or it was no text.
        """
        found: tuple[str, bytes] | None = super().lmove(connection, queue_key, timeout)
        if found and not _Taken(queue_key, connection).is_text(found[1]):
            raise DequeueTimeout(timeout, queue_key)
        return found

    def acquire_maintenance_lock(self) -> bool:
        """Be the one who cleans, for half a minute instead of a quarter of an hour."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=_WORKER_SECONDS))


class Worker(SimpleWorker):
    """Runs one task at a time in this process, whose connections and token stay."""

    def __init__(
        self,
        app: "Flask",
        source: RedisQueue,
        *,
        hard_seconds: int,
        grace_seconds: float,
    ) -> None:
        waiting = source.queue()
        super().__init__(
            [source.name],
            connection=source.connection,
            serializer=waiting.serializer,
            job_class=Message,
            queue_class=_Queue,
            worker_ttl=_WORKER_SECONDS,
            maintenance_interval=_WATCH_SECONDS,
            # Arguments stay out of the log.
            log_job_description=False,
        )
        self._app = app
        self._celery: Celery = app.extensions["celery"]
        self._hard_seconds = hard_seconds
        self._grace_seconds = grace_seconds
        self._when_done = ExitStack()
        self._at_hand: tuple[Job, Queue] | tuple[()] = ()

    @property
    def connection_timeout(self) -> int:
        """Return the longest wait for an answer of Redis, which waits a second at most."""
        return _ANSWER_SECONDS

    def subscribe(self) -> None:
        """Take no orders by Redis."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed to."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 (as the library's)
        """Return when a message goes to another worker: never while this one lives."""
        return self._hard_seconds + _MARGIN_SECONDS

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGTERM, self.request_stop)
        signal.signal(signal.SIGINT, self.request_stop)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 (as the library's)
        """Take no more; what runs is asked to stop after half of the grace.

        RQ's own way is an exception wherever the process happens to be: also between
        taking a message and noting that.
        """
        health.drain()
        self._stop_requested = True
        left = signal.alarm(0)
        if left:
            soon = min(float(left), self._grace_seconds / 2)
            signal.setitimer(signal.ITIMER_REAL, soon)
            end = threading.Timer(self._grace_seconds, self._hand_back, self._at_hand)
            end.daemon = True
            end.start()
            self._when_done.callback(end.cancel)

    def _hand_back(self, job: Job, waiting: Queue) -> None:
        """Put what runs back into its queue, and end without waiting for it."""
        try:
            with self.connection.pipeline(transaction=True) as pipeline:
                waiting.enqueue_job(job, pipeline=pipeline)
                self.cleanup_execution(job, pipeline, self.execution)
                pipeline.execute()
            log.warning("task_handed_back", task_id=job.id)
            tracing.flush()
        finally:
            # Also where Redis is away: then it comes back by itself, later.
            os._exit(0)

    def dequeue_job_and_maintain_ttl(
        self,
        timeout: int | None,
        max_idle_time: int | None = None,  # noqa: ARG002 (as the library's)
    ) -> tuple[Job, Queue] | None:
        """Wait for a message, a second at a time; meanwhile wake those whose time came."""
        while not (self._stop_requested or health.draining()):
            self._wake()
            found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time=1)
            if found:
                return found
        return None

    def heartbeat(
        self, timeout: int | None = None, pipeline: "Pipeline | None" = None
    ) -> None:
        """Give a sign of life.

        :raises RedisAway: Redis does not answer.
        """
        try:
            super().heartbeat(timeout, pipeline)
        except (RedisUnreachable, RedisSilent) as error:
            raise RedisAway(str(error)) from error

    def _wake(self) -> None:
        # RQ's own scheduler is one more process, and reads messages as they come.
        for waiting in self.queues:
            registry = waiting.scheduled_job_registry
            for job_id in registry.get_jobs_to_schedule():
                job = waiting.fetch_job(job_id)
                with self.connection.pipeline(transaction=True) as pipeline:
                    if job is not None:
                        waiting.enqueue_job(job, pipeline=pipeline)
                    registry.remove(job_id, pipeline=pipeline)
                    pipeline.execute()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one message; a process that hangs for too long ends, and says where."""
        cast("Message", job).work = self
        job.timeout = self._hard_seconds
        self._at_hand = job, queue
        faulthandler.dump_traceback_later(
            self._hard_seconds + _MARGIN_SECONDS / 2, exit=True
        )
        try:
            super().execute_job(job, queue)
        finally:
            self._when_done.close()
            faulthandler.cancel_dump_traceback_later()

    def attempt(self, job: Job) -> Later | None:
        """Run a message's task once; say when to try again, if at all.

        :raises UnknownTask: there is no such task.
        """
        name = str(job.func_name)
        task: Any = self._celery.tasks.get(name)
        if task is None:
            raise UnknownTask(name)
        headers = {**job.meta, "retries": job.number_of_retries or 0}
        request = SimpleNamespace(
            id=job.id, delivery_info={"routing_key": job.origin}, **headers
        )
        this = _Attempt(name, request, task.max_retries)
        soft_seconds = task.soft_time_limit or self._celery.conf.task_soft_time_limit
        try:
            with (
                self._app.app_context(),
                queue.message_at_hand(this),
                _penalty(soft_seconds, SoftTimeLimitExceeded),
            ):
                # As Celery binds it, where the task wants to know of its attempt.
                alone = isinstance(vars(type(task))["run"], staticmethod)
                type(task).run(*(() if alone else (this,)), **job.kwargs)
        except MaxRetriesExceededError:
            log.warning("task_given_up", task=name, task_id=job.id)
        except Ignore:
            # The task has said what became of it.
            return None
        except Retry as later:
            job.meta["attempt_before"] = this.span
            return Later(max=sys.maxsize, interval=math.ceil(cast("Any", later.when)))
        return None

    def handle_exception(self, job: Job, *exc_info: Any) -> None:  # noqa: ANN401 (as the library's)
        """Report what a task did not expect; RQ would log its arguments."""
        sentry.report(exc_info[1])
        log.error("task_broken", task_id=job.id, exc_info=exc_info)


def run(
    settings: DatabaseSettings, app: str, source: RedisQueue, *, hard_seconds: int
) -> int:
    """Run tasks that wait in RQ until SIGTERM, one at a time.

    :param app: where the app is made, `package.module:factory()`.
    :param hard_seconds: a process whose task takes longer is ended; a killed one's task
        is with another a few seconds after that time.
    :return: the exit status.
    """
    # RQ's worker has its own handlers, later; who is told to stop before that heeds it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: health.drain())
    flask_app, _celery = queue.load(settings, app)
    server.sidecar(settings.bind, queue.probes(flask_app, source.connection.ping))
    stop = threading.Event()
    threading.Thread(
        target=_watch, args=(source, stop), name="queues", daemon=True
    ).start()
    log.info("worker_ready", queues=[source.name], concurrency=1)
    while not health.draining():
        try:
            Worker(
                flask_app,
                source,
                hard_seconds=hard_seconds,
                grace_seconds=settings.grace_seconds,
            ).work(logging_level="WARNING")
        except RedisError as error:
            log.warning("queue_interrupted", error=type(error).__name__)
        if not health.draining():
            stop.wait(1.0)
    stop.set()
    tracing.shutdown()
    return 0


def _watch(source: RedisQueue, stop: threading.Event) -> None:
    while True:
        try:
            queue.show(source.name, *source.look())
        except RedisError as error:
            log.warning("queues_not_measured", error=type(error).__name__)
        if stop.wait(_WATCH_SECONDS):
            return
