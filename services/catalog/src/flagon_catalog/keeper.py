"""What time itself does: reservations end, and what nobody needs any more goes."""

import random
import threading
import time
from collections.abc import Callable
from functools import partial

import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flagon_chassis import audit
from flagon_chassis.db import transaction
from flagon_chassis.errors import Unavailable

from .domain import holds, images

log = structlog.get_logger()

_BATCH = 500
"""Reservations of one transaction: short enough that nobody waits for it."""
_PICTURES = 100
_PURGE_SECONDS = 3600.0
"""How often each process looks for rows that are too old."""


def sweep() -> int:
    """Write down and tell which reservations have expired; return how many.

    Any number of processes may do so at once. Nothing waits for it: whoever reads or
    reserves goes by the time.
    """
    ended = _in_batches(partial(holds.sweep, limit=_BATCH), full=_BATCH)
    if ended:
        log.info("reservations_expired", number=ended)
    return ended


def tidy() -> int:
    """Remove the files of pictures that no image shows; return how many pictures.

    Any number of processes may do so at once.
    """
    storage = current_app.extensions["flagon.images"]
    with transaction() as session:
        gone = images.remove_unused(session, storage, limit=_PICTURES)
    if gone:
        log.info("pictures_removed", number=gone)
    return gone


def purge() -> int:
    """Delete audit rows that are older than the setting says; return how many.

    Any number of processes may do so at once.
    """
    days = current_app.extensions["flagon.settings"].audit_days
    gone = _in_batches(partial(audit.purge, days=days))
    if gone:
        log.info("audit_purged", number=gone, days=days)
    return gone


def purge_reservations() -> int:
    """Delete reservations that ended longer ago than the setting says; return how many.

    Any number of processes may do so at once. Nobody is told: to whoever follows the
    events a reservation is over when it ends.
    """
    days = current_app.extensions["flagon.settings"].reservation_days
    gone = _in_batches(partial(holds.purge, days=days, limit=_BATCH))
    if gone:
        log.info("reservations_purged", number=gone, days=days)
    return gone


def _in_batches(work: Callable[[Session], int], *, full: int = 1) -> int:
    """Do it in one transaction after the other; return how many it were in all.

    :param full: as many as there are when there may be more.
    """
    total = 0
    while True:
        with transaction() as session:
            found = work(session)
        total += found
        if found < full:
            return total


def start(
    app: Flask, *, seconds: float, stop: threading.Event | None = None
) -> threading.Thread:
    """Sweep in a thread, for as long as the process lives.

    :param seconds: about how often.
    """
    stop = stop or threading.Event()

    def look_after() -> None:
        purged_at = -_PURGE_SECONDS
        # Not all processes at the moment at which all of them started.
        while not stop.wait(random.uniform(0, 2 * seconds)):  # noqa: S311
            with app.app_context():
                _attempt(sweep)
                _attempt(tidy)
                now = time.monotonic()
                if now - purged_at > _PURGE_SECONDS:
                    # Each in any case: one that fails is no reason to leave out another.
                    done = [_attempt(purge), _attempt(purge_reservations)]
                    purged_at = now if all(done) else purged_at

    thread = threading.Thread(target=look_after, name="keeper", daemon=True)
    thread.start()
    return thread


def _attempt(step: Callable[[], int]) -> bool:
    """Do one of the above; say whether nothing that it needs was away."""
    try:
        step()
    except (SQLAlchemyError, OSError, Unavailable) as error:
        log.warning("sweep_failed", step=step.__name__, error=type(error).__name__)
        return False
    return True
