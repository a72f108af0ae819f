"""The task that makes jobs of firings."""

from uuid import UUID

import structlog
from celery import shared_task
from flask import current_app

from flagon_chassis import logs, tracing
from flagon_chassis.db import transaction

from .domain import firing, schedules

log = structlog.get_logger()


@shared_task(name=firing.START)
def start_scheduled(*, firing_id: str, **_newer: object) -> None:
    """Make a job of one firing of a schedule.

    Safe to run twice; beat sends the message again until this has happened.

    :param firing_id: UUID of the firing, as text.
    """
    headers = {"request_id": logs.request_id()}
    tracing.inject(headers)
    with transaction() as session:
        outcome = schedules.start_scheduled(
            session,
            UUID(firing_id),
            headers=headers,
            resend_seconds=current_app.extensions["flagon.settings"].resend_seconds,
        )
    log.info("scheduled", firing=firing_id, outcome=outcome)
