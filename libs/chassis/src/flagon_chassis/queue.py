"""Celery, fitted to a Flask app and to its broker so that no task is lost.

A task is sent by a row in the outbox, in the transaction that makes it necessary; the
relay publishes it. Workers run it in the app's context, in the trace of its request.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import structlog
from billiard import util
from celery import Celery, Task, signals
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from structlog.contextvars import bound_contextvars, clear_contextvars

from . import brokers, logs, sentry, tracing
from .settings import DatabaseSettings

if TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.orm import Session

log = structlog.get_logger()

QUEUES = ("interactive", "bulk", "mail", "maintenance")
"""Queues by urgency: a person waits, much work, letters, housekeeping."""

_SOFT_SECONDS = 60
_HARD_SECONDS = 90
_WATCH_SECONDS = 5.0


class UnknownQueue(ValueError):
    """No worker takes tasks from this queue; the code that names it is wrong."""


class QueueUnfit(ValueError):
    """With this configuration tasks would run twice at once, or get lost."""


def configuration(
    settings: DatabaseSettings,
    service: str,
    *,
    queues: Sequence[str] = QUEUES,
    soft_seconds: int = _SOFT_SECONDS,
    hard_seconds: int = _HARD_SECONDS,
    socket_seconds: float = 5.0,
) -> dict[str, Any]:
    """Return Celery's configuration; each value keeps a task from getting lost.

    :param service: whose tasks they are; the broker keeps them apart from others'.
    :param soft_seconds: a task is asked to stop after this.
    :param hard_seconds: a task is killed after this; no task may set a longer limit.
    :param socket_seconds: longest wait for the broker; shorter where a person waits.
    """
    return {
        **brokers.of(brokers.url(settings)).configuration(
            brokers.Wants(
                service,
                queues,
                # Longer than any task, or the task runs twice at once.
                again_seconds=hard_seconds * 2 + 120,
                socket_seconds=socket_seconds,
            )
        ),
        # A task is done when it has ended, not when it was taken.
        "task_acks_late": True,
        # Without this the task of a killed child counts as failed and is gone.
        "task_reject_on_worker_lost": True,
        # One task at a time: what waits in a process cannot be done by another.
        "worker_prefetch_multiplier": 1,
        # Results are rows of the service's own; a result backend in the broker's Redis
        # loses tasks when Redis restarts.
        "task_ignore_result": True,
        "result_backend": None,
        "task_soft_time_limit": soft_seconds,
        "task_time_limit": hard_seconds,
        # A killed task is acknowledged by mistake when the connection is lost.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # At SIGTERM running tasks have this long; then they go back to the queue.
        "worker_soft_shutdown_timeout": settings.grace_seconds,
        # A queue that nobody reads would keep a misspelt task for ever.
        "task_create_missing_queues": False,
        "task_default_queue": queues[0],
        "task_default_routing_key": queues[0],
        # Pickle would run what anyone who can write to the broker sends.
        "task_serializer": "json",
        "accept_content": ["json"],
        "broker_connection_retry_on_startup": True,
        # For ever: the process is of no use without the broker.
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 1,
        "task_publish_retry": True,
        "task_publish_retry_policy": {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        },
        # The chassis logs; Celery must neither reformat nor catch standard output.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "enable_utc": True,
        "timezone": "UTC",
    }


def init_app(
    app: "Flask",
    settings: DatabaseSettings,
    *,
    queues: Sequence[str] = QUEUES,
    soft_seconds: int = _SOFT_SECONDS,
    hard_seconds: int = _HARD_SECONDS,
) -> Celery:
    """Give the app a task queue; its tasks run in the app's context.

    The Celery app becomes the default one, so `@shared_task` works, and
    `app.extensions["celery"]`.

    :param soft_seconds: a task is asked to stop after this.
    :param hard_seconds: a task is killed after this; no task may set a longer limit.
    """

    class AppTask(Task):  # type: ignore[type-arg]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with app.app_context(), message_at_hand(self):
                return self.run(*args, **kwargs)

    make = brokers.of(brokers.url(settings)).celery
    celery: Celery = make(app.name, task_cls=AppTask, set_as_current=True)
    celery.conf.update(
        configuration(
            settings,
            app.name,
            queues=queues,
            soft_seconds=soft_seconds,
            hard_seconds=hard_seconds,
        )
    )
    celery.set_default()
    app.extensions["celery"] = celery
    signals.before_task_publish.connect(_stamp, dispatch_uid="flagon")
    return celery


def publisher(settings: DatabaseSettings, service: str) -> Celery:
    """Return a Celery app that can send tasks of any name and run none."""
    make = brokers.of(brokers.url(settings)).celery
    celery: Celery = make(service, set_as_current=False)
    celery.conf.update(configuration(settings, service, socket_seconds=2.0))
    return celery


def send(
    session: "Session", task: str, *, queue: str, subject: str = "", **kwargs: object
) -> None:
    """Write a task message to the outbox, in the session's transaction.

    :param task: the task's registered name, `<service>.<verb_noun>`.
    :param subject: what the task is about; messages of one subject keep their order.
    :param kwargs: the task's keyword arguments, JSON values.
    :raises UnknownQueue: no worker would ever take the task.
    """
    from . import events  # noqa: PLC0415 (relays send tasks without a database session)

    if queue not in QUEUES:
        raise UnknownQueue(f"{queue} is none of {', '.join(QUEUES)}.")
    events.emit_task(session, task, queue=queue, subject=subject, **kwargs)


def publish(
    celery: Celery,
    task: str,
    *,
    queue: str,
    kwargs: Mapping[str, object],
    headers: Mapping[str, object],
    task_id: str,
    expires_seconds: float | None = None,
) -> None:
    """Hand one task to the broker; the relay does this with outbox rows.

    :param headers: `traceparent`, `request_id` and `enqueued_at` (seconds since the
        epoch), as far as known.
    :param task_id: stays the same when a row is sent twice.
    :param expires_seconds: a task that nobody has taken until then is thrown away.
    :raises kombu.exceptions.OperationalError: the broker does not answer.
    """
    celery.send_task(
        task,
        kwargs=dict(kwargs),
        queue=queue,
        headers=dict(headers),
        task_id=task_id,
        expires=expires_seconds,
        # The queue's list is all it takes: who only sends to a service needs, and has,
        # no right to change where its messages go.
        declare=[],
    )


def _stamp(headers: dict[str, Any], **_signal: object) -> None:
    # Tasks that tasks, retries and the schedule send; the relay's have all of it.
    if headers.get("retries") and headers.get("traceparent"):
        # A further attempt is a child of what asked for the task, as the first one was.
        headers["attempt_before"] = tracing.current_traceparent()
    else:
        tracing.inject(headers)
    headers.setdefault("request_id", logs.request_id())
    headers.setdefault("enqueued_at", time.time())


@contextmanager
def message_at_hand(task: Any) -> Iterator[None]:  # noqa: ANN401 (Celery's task, or RQ's like it)
    """Tie logs, trace and metrics of the block to the message that asked for it.

    :param task: with its `name`, and `request` as Celery has it.
    """
    from . import metrics  # noqa: PLC0415 (after server.share_metrics)

    message = task.request
    name = str(task.name)
    delivery = message.delivery_info or {}
    queue = str(delivery.get("routing_key", "direct"))
    enqueued_at = getattr(message, "enqueued_at", None)
    # What is tried again, or was given out before, did not wait all the time since.
    again = message.retries or delivery.get("redelivered")
    if enqueued_at is not None and not again:
        metrics.histogram(
            "flagon_task_wait_seconds",
            "Time from the wish for a task until it started.",
            "queue",
        ).labels(queue).observe(max(0.0, time.time() - float(enqueued_at)))
    started = time.perf_counter()
    outcome = "failed"
    clear_contextvars()
    with (
        bound_contextvars(
            request_id=getattr(message, "request_id", None) or logs.new_request_id(),
            task=name,
            task_id=message.id,
        ),
        tracing.continue_from(
            getattr(message, "traceparent", None),
            f"run {name}",
            kind="consumer",
            attributes={"messaging.destination.name": queue},
            links=[getattr(message, "attempt_before", None)],
        ) as span,
    ):
        try:
            yield
            outcome = "succeeded"
        except Retry:
            outcome = "retried"
            raise
        except (Ignore, Reject):
            outcome = "rejected"
            raise
        except MaxRetriesExceededError:
            # Who tries again says what it means that this was the last time.
            raise
        # Whatever it is goes on to the queue: it is only told of, where the task is known.
        except Exception as error:
            sentry.report(error)
            raise
        finally:
            seconds = time.perf_counter() - started
            span.set_attribute("flagon.outcome", outcome)
            metrics.histogram(
                "flagon_task_run_seconds",
                "Duration of one attempt at a task.",
                "task",
                "outcome",
            ).labels(name, outcome).observe(seconds)
            log.info(
                "task",
                outcome=outcome,
                attempt=(message.retries or 0) + 1,
                duration_ms=round(seconds * 1000, 2),
            )


_NEEDED: dict[str, tuple[object, str]] = {
    "task_acks_late": (True, "the task of a killed worker would be gone"),
    "task_reject_on_worker_lost": (True, "the task of a killed process would be gone"),
    "worker_prefetch_multiplier": (1, "tasks would wait in a busy process"),
    "task_ignore_result": (True, "results would be kept where nobody reads them"),
    "result_backend": (None, "a restart of its Redis would lose tasks"),
}


def check(celery: Celery, grace_seconds: float) -> None:
    """Make sure that the configuration loses no task and runs none twice at once.

    :param grace_seconds: time that tasks have to finish after SIGTERM.
    :raises QueueUnfit: it does; the message says what to change.
    """
    conf = celery.conf
    for name, (needed, otherwise) in _NEEDED.items():
        if conf[name] != needed:
            message = f"Set {name} to {needed}, not {conf[name]}: {otherwise}."
            raise QueueUnfit(message)
    limits = {"task_time_limit": conf.task_time_limit}
    for name, task in celery.tasks.items():
        if not task.acks_late:
            message = (
                f"Set acks_late of {name} to True: {_NEEDED['task_acks_late'][1]}."
            )
            raise QueueUnfit(message)
        if task.time_limit is not None:
            limits[f"time_limit of {name}"] = task.time_limit
    visible = _broker(celery).again_seconds(celery)
    for name, limit in limits.items():
        longest = (limit or float("inf")) + grace_seconds
        if visible <= longest:
            message = (
                f"Lower {name} ({limit} s) or the grace after SIGTERM ({grace_seconds:g}"
                f" s): together they must be less than the {visible:g} s after which the "
                "broker gives a task out again, or it runs twice at once."
            )
            raise QueueUnfit(message)


def run_worker(
    settings: DatabaseSettings,
    app: str,
    *,
    queues: Sequence[str],
    concurrency: int,
    tasks_per_process: int | None = None,
) -> int:
    """Run tasks of the given queues in child processes until SIGTERM.

    Then running tasks have `grace_seconds` to finish; what is left goes back to its
    queue. A second SIGTERM does not wait.

    :param app: where the app is made, `package.module:factory()`.
    :param concurrency: tasks at a time, each in a process of its own.
    :param tasks_per_process: after so many a process makes room for a new one, and gives
        back what libraries keep; None for no end.
    :return: the exit status; 1 at once where the configuration could lose tasks.
    """
    from . import server  # noqa: PLC0415

    flask_app, celery = load(settings, app)
    try:
        check(celery, settings.grace_seconds)
    except QueueUnfit as unfit:
        log.critical("worker_unfit", reason=str(unfit))
        return 1
    on_process_start(flask_app, _forget_inherited(flask_app))
    worker: Any = celery.Worker(
        hostname=f"{'-'.join(queues)}@%h",
        queues=",".join(queues),
        concurrency=concurrency,
        max_tasks_per_child=tasks_per_process,
        pool="prefork",
        loglevel=settings.log_level,
        quiet=True,
        # Workers need to know nothing of each other: no start-up chatter, no gossip.
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
    )

    def ready(**_signal: object) -> None:
        _stop_softly_at_sigterm(worker)
        # Threads come after the pool: a fork in the midst of a thread's work could
        # leave a child with a lock that nobody holds.
        server.sidecar(settings.bind, probes(flask_app, _broker_probe(celery)))
        threading.Thread(
            target=watch,
            args=(celery, queues, threading.Event()),
            name="queues",
            daemon=True,
        ).start()
        log.info("worker_ready", queues=list(queues), concurrency=concurrency)

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_process_init.connect(_begin_process(flask_app), weak=False)
    signals.worker_process_shutdown.connect(_end_process, weak=False)
    # A connected receiver keeps Celery from configuring logging.
    signals.setup_logging.connect(_keep_logging, weak=False)
    signals.worker_before_create_process.connect(_before_process, weak=False)
    server.warm_up(flask_app)
    # Children ask the kernel to die with their parent, for which Billiard loads a parser
    # of C declarations: 6 MB that they share when it is loaded here. Where the kernel
    # does not answer, they go without as well.
    with contextlib.suppress(OSError):
        cast("Any", util).get_pdeathsig()
    worker.start()
    tracing.shutdown()
    return int(worker.exitcode or 0)


def run_beat(settings: DatabaseSettings, app: str) -> None:
    """Send the app's scheduled tasks (`beat_schedule`) when they are due.

    The schedule lives in memory: intervals start anew with the process. Run one of
    these; tasks must bear being sent twice, as always. An app whose schedule is somewhere
    else gives what makes its scheduler as `app.extensions["flagon.scheduler"]`.
    """
    from celery.beat import Scheduler  # noqa: PLC0415

    from . import server  # noqa: PLC0415

    flask_app, celery = load(settings, app)
    scheduler = flask_app.extensions.get("flagon.scheduler", Scheduler)
    signals.setup_logging.connect(_keep_logging, weak=False)
    server.sidecar(settings.bind, probes(flask_app, _broker_probe(celery)))
    beat: Any = celery.Beat(
        scheduler_cls=cast("Any", scheduler),
        # Also the longest time that a changed clock goes unnoticed.
        max_interval=5,
        loglevel=settings.log_level,
        quiet=True,
    )
    beat.setup_logging = lambda *_args, **_kwargs: None
    log.info("beat_ready", tasks=sorted(celery.conf.beat_schedule))
    beat.run()


def on_process_start(app: "Flask", step: Callable[[], object]) -> None:
    """Have `step` called at the start of each worker process.

    If it raises, the process ends and the pool starts another, or ends the worker when
    none can start: a process that only half works would fail every task it takes.
    """
    app.extensions.setdefault("flagon.process_steps", []).append(step)


def load(settings: DatabaseSettings, app: str) -> tuple["Flask", Celery]:
    """Return the app that runs tasks, and its Celery; comes before any metric.

    :param app: where the app is made, `package.module:factory()`.
    """
    from . import server  # noqa: PLC0415

    server.share_metrics(settings.metrics_dir)
    flask_app = server.make_app(app)
    celery = cast("Celery", flask_app.extensions["celery"])
    # Celery imports the rest of itself with another search path of modules, which nothing
    # that another thread imports may meet.
    celery.loader.init_worker()
    celery.finalize()
    return flask_app, celery


def _forget_inherited(app: "Flask") -> Callable[[], None]:
    def forget() -> None:
        sessions = app.extensions.get("flagon.sessions")
        if sessions is not None:
            # The parent's connections: closing them here would end them there.
            sessions.kw["bind"].dispose(close=False)

    return forget


def _begin_process(app: "Flask") -> Callable[..., None]:
    def begin(**_signal: object) -> None:
        try:
            for step in app.extensions.get("flagon.process_steps", []):
                step()
        # Celery would swallow it and go on with a process that fails every task: it is
        # told and the process ends.
        except BaseException:
            log.exception("worker_process_broken")
            os._exit(1)

    return begin


def _before_process(**_signal: object) -> None:
    from . import server  # noqa: PLC0415

    # Of a child that was killed the pool says nothing, but it starts another in its place.
    server.forget_lost_metrics()
    server.share_memory()


def _end_process(**_signal: object) -> None:
    from . import server  # noqa: PLC0415

    # Pool processes end without atexit.
    tracing.flush()
    # What a process counted stays; what it showed of itself goes with it.
    server.forget_metrics(os.getpid())


def _keep_logging(**_signal: object) -> None:
    """Leave logging as the chassis set it up."""


def _stop_softly_at_sigterm(worker: object) -> None:
    from celery.apps import worker as worker_app  # noqa: PLC0415
    from celery.worker import state  # noqa: PLC0415

    from . import health  # noqa: PLC0415 (after server.share_metrics)

    def stop(_number: int, _frame: object) -> None:
        # Seen in the children as well: a task that works in steps asks `draining` and
        # ends early, with its work written down, instead of being cut off.
        health.drain()
        # Celery's own handler for SIGTERM waits for running tasks without an end, so
        # the supervisor's SIGKILL would come first and the tasks return after minutes.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            cast("Any", worker_app).on_cold_shutdown(worker)
        finally:
            cast("Any", state).should_terminate = 0

    signal.signal(signal.SIGTERM, stop)


def _broker_probe(celery: Celery) -> Callable[[], object]:
    def probe() -> None:
        with celery.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=1)

    return probe


def probes(
    app: "Flask", broker: Callable[[], object]
) -> dict[str, Callable[[], object]]:
    """Return what a process that runs tasks needs, by name.

    :param broker: raises when tasks cannot be had.
    """
    checks = app.extensions.get("flagon.checks", {})
    return {
        **{name: probe for name, (probe, required) in checks.items() if required},
        "queue": broker,
    }


def watch(celery: Celery, queues: Sequence[str], stop: threading.Event) -> None:
    """Measure the waiting tasks every few seconds until `stop` is set."""
    while True:
        try:
            measure(celery, queues)
        except (RedisError, OperationalError, OSError) as error:
            log.warning("queues_not_measured", error=type(error).__name__)
        if stop.wait(_WATCH_SECONDS):
            return


def measure(celery: Celery, queues: Sequence[str]) -> None:
    """Set the metrics of the waiting tasks: how many, and the age of the oldest."""
    for queue, (depth, oldest_seconds) in look(celery, queues).items():
        show(queue, depth, oldest_seconds)


def show(queue: str, depth: int, oldest_seconds: float) -> None:
    """Set the metrics of one queue."""
    from . import metrics  # noqa: PLC0415

    # Of several processes the one that looked last is right, not the one that saw most.
    metrics.gauge(
        "flagon_queue_depth", "Tasks that wait.", "queue", mode="livemostrecent"
    ).labels(queue).set(depth)
    metrics.gauge(
        "flagon_queue_oldest_seconds",
        "Age of the task that is next.",
        "queue",
        mode="livemostrecent",
    ).labels(queue).set(oldest_seconds)


def look(celery: Celery, queues: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Return how many tasks wait, and the age of the oldest in seconds, by queue.

    :raises kombu.exceptions.OperationalError: the broker does not answer.
    """
    broker, found = _broker(celery), {}
    with _channel(celery) as channel:
        for queue in queues:
            depth = broker.depth(celery, channel, queue)
            headers = broker.next_headers(celery, channel, queue)
            age = time.time() - float(headers.get("enqueued_at") or time.time())
            found[queue] = (depth, max(0.0, age))
    return found


def depths(celery: Celery, queues: Sequence[str]) -> dict[str, int]:
    """Return how many tasks wait, by queue, without a look at any.

    :raises kombu.exceptions.OperationalError: the broker does not answer.
    """
    broker = _broker(celery)
    with _channel(celery) as channel:
        return {queue: broker.depth(celery, channel, queue) for queue in queues}


def _broker(celery: Celery) -> brokers.Broker:
    return brokers.of(celery.conf.broker_url)


@contextmanager
def _channel(celery: Celery) -> Iterator[Any]:
    with celery.connection_for_read() as connection:
        try:
            yield connection.default_channel
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise OperationalError(str(error)) from error
