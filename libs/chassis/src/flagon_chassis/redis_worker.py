"""The process that runs what waits in RQ: Celery's tasks, with Celery's limits.

RQ finds what is to be run by importing a name that stands in Redis, and unpickles what
stands beside it. Here a name is looked up among the tasks, all else is JSON, and fields of
a message that name more to run are not read: who can write to Redis can ask for a task, as
with Celery, and for nothing else.

Import it after a `RedisQueue` was made, which says below which prefix RQ has its keys.
"""

import faulthandler
import math
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import MaxRetriesExceededError, Retry
from redis import RedisError
from rq import Queue, SimpleWorker
from rq import Retry as Later
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.timeouts import UnixSignalDeathPenalty

from . import health, queue, sentry, server, tracing
from .redis_queue import RedisQueue
from .settings import DatabaseSettings

if TYPE_CHECKING:
    from celery import Celery
    from flask import Flask
    from redis.client import Pipeline
    from rq.job import JobStatus

log = structlog.get_logger()

_WATCH_SECONDS = 5
_MARGIN_SECONDS = 10
"""Between the end of a process that hangs and the return of its message."""
_WORKER_SECONDS = 30
"""How long a worker that gives no sign of life is listed as one."""


class UnknownTask(LookupError):
    """No task of the queue has this name."""


class Message(Job):
    """A message as far as it is read: what task, with what, and how often it was tried."""

    _READ = frozenset(
        {
            *("data", "meta", "origin", "description", "status", "created_at"),
            *("enqueued_at", "started_at", "ended_at", "last_heartbeat", "worker_name"),
            *("result_ttl", "failure_ttl"),
            *("number_of_retries", "retries_left", "retry_intervals"),
        }
    )
    """Not among them: callbacks and webhooks, which RQ would call, results, dependencies
    and limits of time."""
    work: "Worker"

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take from Redis what is read, and nothing else."""
        super().restore(
            {
                name: value
                for name, value in raw_data.items()
                if name.decode("ascii", "replace") in self._READ
            }
        )

    def set_status(self, status: "JobStatus", pipeline: "Pipeline | None" = None) -> None:
        """Note a status in one transaction with what else changes, or not yet.

        By itself RQ writes "scheduled" first and schedules then: who is killed between
        the two leaves a message that nobody wakes.
        """
        if pipeline is None:
            self._status = status
        else:
            super().set_status(status, pipeline)

    def _execute(self) -> Later | None:
        return self.work.attempt(self)


@dataclass
class _Attempt:
    """One attempt at a task, as tasks see their Celery task."""

    name: str
    request: SimpleNamespace
    max_retries: int | None

    def retry(self, *, countdown: float) -> NoReturn:
        """Have the task run again after a while.

        :raises celery.exceptions.Retry: always, while there are attempts left.
        """
        if self.max_retries is not None and self.request.retries >= self.max_retries:
            raise MaxRetriesExceededError(f"{self.name} was tried often enough.")
        raise Retry(when=countdown)


class _Queue(Queue):
    """RQ's queue, whose cleaner may be killed at it."""

    def acquire_maintenance_lock(self) -> bool:
        """Be the one who cleans, for half a minute instead of a quarter of an hour."""
        key = self.registry_cleaning_key
        return bool(
            self.connection.set(key, 1, nx=True, ex=_WORKER_SECONDS)
        )


class Worker(SimpleWorker):
    """Runs one task at a time in this process, whose connections and token stay."""

    # Redis may be away for long; then one look every few seconds is enough.
    max_connection_wait_time = 5.0

    def __init__(
        self, app: "Flask", source: RedisQueue, *, hard_seconds: int, grace_seconds: float
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
        self._scheduler = RQScheduler(
            self.queues,
            connection=source.connection,
            logging_level="WARNING",
            serializer=waiting.serializer,
        )

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
        """Take no more; what runs has half of the grace before it is asked to stop.

        RQ's own way is an exception wherever the process happens to be: also between
        taking a message and noting that.
        """
        health.drain()
        self._stop_requested = True
        left = signal.alarm(0)
        if left:
            signal.alarm(min(left, math.ceil(self._grace_seconds / 2)))

    def dequeue_job_and_maintain_ttl(
        self,
        timeout: int | None,
        max_idle_time: int | None = None,  # noqa: ARG002 (as the library's)
    ) -> tuple[Job, Queue] | None:
        """Wait for a message, a second at a time; meanwhile wake those whose time came."""
        while not self._stop_requested:
            self._wake()
            found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time=1)
            if found:
                return found
        return None

    def _wake(self) -> None:
        # In this process instead of one more. The lock is given back at once: if its
        # owner is killed later, nobody has to wait for it to run out.
        if self._scheduler.acquire_locks():
            self._scheduler.enqueue_scheduled_jobs()
            self._scheduler.release_locks()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one message; a process that hangs for too long ends, and says where."""
        if isinstance(job, Message):
            job.work = self
        job.timeout = self._hard_seconds
        faulthandler.dump_traceback_later(
            self._hard_seconds + _MARGIN_SECONDS / 2, exit=True, file=sys.__stderr__
        )
        try:
            super().execute_job(job, queue)
        finally:
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
                UnixSignalDeathPenalty(soft_seconds, SoftTimeLimitExceeded),
            ):
                type(task).run(this, **job.kwargs)
        except Retry as later:
            job.meta["attempt_before"] = request.trace
            return Later(max=sys.maxsize, interval=math.ceil(later.when))
        return None

    def handle_exception(self, job: Job, *exc_info: Any) -> None:  # noqa: ANN401 (as the library's)
        """Report what a task did not expect; RQ would log its arguments."""
        sentry.report(exc_info[1])
        log.error("task_broken", task_id=job.id, exc_info=exc_info)


def run(settings: DatabaseSettings, app: str, source: RedisQueue, *, hard_seconds: int) -> int:
    """Run tasks that wait in RQ until SIGTERM, one at a time.

    :param app: where the app is made, `package.module:factory()`.
    :param hard_seconds: a process whose task takes longer is ended; a killed one's task
        is with another a few seconds after that time.
    :return: the exit status.
    """
    flask_app, _celery = queue.load(settings, app)
    server.sidecar(
        settings.bind, queue.probes(flask_app, source.connection.ping)
    )
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
