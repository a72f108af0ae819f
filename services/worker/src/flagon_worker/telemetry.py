"""What the worker counts."""

from typing import TYPE_CHECKING, Any

import structlog
from celery import signals
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from flagon_chassis import metrics, queue
from flagon_chassis.db import transaction

from .domain import fairness, watches
from .domain.runs import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from flagon_chassis.redis_queue import RedisQueue

log = structlog.get_logger()


def measure_queues(
    celery: "Celery", rules: fairness.Rules, elsewhere: "Iterable[RedisQueue]" = ()
) -> None:
    """Set the metrics of every queue, for scrapes that come when no worker runs.

    What waits is the messages or the jobs that could start, whichever are more: mails
    have no jobs, and jobs whose messages were lost wait all the same.

    :param elsewhere: queues that RQ has, with what is left of them in the broker.
    """
    try:
        messages = queue.look(celery, queue.QUEUES)
        for source in elsewhere:
            left, oldest = messages[source.name]
            depth, age = source.look()
            messages[source.name] = (left + depth, max(oldest, age))
        with transaction() as session:
            waiting = fairness.waiting(session, rules)
            held = watches.count_watches(session)
    except (OperationalError, RedisError, SQLAlchemyError, OSError) as error:
        log.warning("queues_not_measured", error=type(error).__name__)
        return
    metrics.gauge(
        "flagon_watches_held", "Products that people watch.", mode="livemostrecent"
    ).set(held)
    for name, (depth, oldest_seconds) in messages.items():
        found = waiting.get(name, fairness.Waiting(0, (), 0.0))
        queue.show(
            name,
            max(depth, found.slots),
            max(oldest_seconds, found.oldest_seconds),
        )


def count_in_flight() -> None:
    """Show from now on how many tasks this process and its children have in hand.

    It is the worker's word, whatever the broker: RabbitMQ tells its clients what is ready,
    and not what it has given out.
    """
    gauge = metrics.gauge(
        "flagon_queue_in_flight", "Tasks that a worker has in hand.", "queue"
    )
    for name in queue.QUEUES:
        gauge.labels(name).set(0)

    def begin(task: Any, **_signal: object) -> None:  # noqa: ANN401 (Celery's)
        gauge.labels(_queue(task)).inc()

    def end(task: Any, **_signal: object) -> None:  # noqa: ANN401 (as above)
        gauge.labels(_queue(task)).dec()

    signals.task_prerun.connect(begin, weak=False, dispatch_uid="flagon.in_flight")
    signals.task_postrun.connect(end, weak=False, dispatch_uid="flagon.in_flight")


def _queue(task: Any) -> str:  # noqa: ANN401 (Celery's)
    return str((task.request.delivery_info or {}).get("routing_key", "direct"))


def count_watch(outcome: str) -> None:
    """Count what became of the watch of a price."""
    metrics.counter(
        "flagon_watches_total", "Watches of prices by what became of them.", "outcome"
    ).labels(outcome).inc()


def count_ended(kind: str, outcome: str) -> None:
    """Count a turn at a job (or a cancelled one that never had any) by how it ended."""
    metrics.counter(
        "flagon_jobs_total", "Turns at jobs by how they ended.", "kind", "outcome"
    ).labels(kind, outcome).inc()


def count_logout(outcome: str) -> None:
    """Count one attempt to tell a client of a logout."""
    metrics.counter(
        "flagon_logouts_total", "Attempts to tell clients of a logout.", "outcome"
    ).labels(outcome).inc()


def count_mail(outcome: str) -> None:
    """Count one attempt to send a mail by how it ended."""
    metrics.counter(
        "flagon_mails_total", "Attempts to send mails by how they ended.", "outcome"
    ).labels(outcome).inc()


def observe(outcome: Outcome) -> None:
    """Record one turn at a job."""
    count_ended(outcome.kind, outcome.name)
    metrics.histogram(
        "flagon_job_queue_seconds", "Time from readiness to the start.", "kind"
    ).labels(outcome.kind).observe(outcome.queued_seconds)
    if outcome.run_seconds is not None:
        metrics.histogram(
            "flagon_job_run_seconds", "Time from the first start to the end.", "kind"
        ).labels(outcome.kind).observe(outcome.run_seconds)
