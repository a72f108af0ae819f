"""The tasks that deliver webhooks.

They are on the queue `maintenance`: nobody waits for a webhook, and a receiver that takes
its ten seconds must not hold up a mail that somebody does wait for.
"""

from uuid import UUID

import structlog
from celery import shared_task
from flask import current_app

from flagon_chassis import metrics
from flagon_chassis.db import transaction

from .domain import webhooks

log = structlog.get_logger()


@shared_task(name=webhooks.TASK)
def deliver_webhook(*, delivery_id: str, **_newer: object) -> None:
    """Send one webhook to its endpoint and write down what came of it.

    Safe to run twice: one at a time has the row, and none that was delivered.

    :param delivery_id: UUID of the delivery, as text.
    """
    extensions = current_app.extensions
    outcome = webhooks.deliver(
        extensions["flagon.sessions"].begin,
        extensions["flagon.sealer"],
        extensions["flagon.hooks"],
        UUID(delivery_id),
    )
    metrics.counter(
        "flagon_webhooks_total", "Attempts to deliver webhooks.", "outcome"
    ).labels(outcome).inc()
    log.info("webhook", delivery=delivery_id, outcome=outcome)


@shared_task(name="worker.sweep_webhooks")
def sweep_webhooks(**_newer: object) -> None:
    """Wake deliveries whose time has come; sent every few seconds."""
    with transaction() as session:
        woken = webhooks.sweep(session)
    if woken:
        log.info("webhooks_woken", count=woken)
