"""The task that has people told by mail of lower prices."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from flask import current_app

from . import telemetry
from .domain import deliveries, watches
from .tasks import again

if TYPE_CHECKING:
    from celery import Task

log = structlog.get_logger()


@shared_task(
    name=watches.TASK,
    bind=True,
    # For hours; what is told later than that is no news.
    max_retries=60,
    soft_time_limit=30,
)
def tell_price(
    self: "Task[Any, Any]",
    /,
    *,
    drop_id: str,
    order: dict[str, object],
    **_newer: object,
) -> None:
    """Have auth write a mail about a lower price, again and again until it has the order.

    Safe to run twice: auth sends one mail for one id.

    :param drop_id: UUID of the drop, which the mail gets, as text.
    :param order: to whom and what about, as auth's `/internal/mails` takes it.
    """
    begin = current_app.extensions["flagon.sessions"].begin
    letters = current_app.extensions["flagon.identity"]
    try:
        outcome = watches.tell(begin, letters, UUID(drop_id), order)
    except (deliveries.NotYet, SoftTimeLimitExceeded) as failure:
        log.info("price_postponed", drop=drop_id, reason=str(failure))
        again(self, deliveries.pause_seconds(self.request.retries + 1))
    telemetry.count_watch(outcome)
    log.info("price_told", drop=drop_id, outcome=outcome)
