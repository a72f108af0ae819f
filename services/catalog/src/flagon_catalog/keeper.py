"""What time itself does: reservations end, and what nobody needs any more goes."""

import random
import threading
import time

import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from flagon_chassis.db import transaction

from .domain import audit, holds, images

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
    ended = 0
    while True:
        with transaction() as session:
            found = holds.sweep(session, limit=_BATCH)
        ended += found
        if found < _BATCH:
            break
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
    gone = 0
    while True:
        with transaction() as session:
            found = audit.purge(session, days=days)
        gone += found
        if not found:
            break
    if gone:
        log.info("audit_purged", number=gone, days=days)
    return gone


def purge_reservations() -> int:
    """Delete reservations that ended longer ago than the setting says; return how many.

    Any number of processes may do so at once. Nobody is told: to whoever follows the
    events a reservation is over when it ends.
    """
    days = current_app.extensions["flagon.settings"].reservation_days
    gone = 0
    while True:
        with transaction() as session:
            found = holds.purge(session, days=days, limit=_BATCH)
        gone += found
        if not found:
            break
    if gone:
        log.info("reservations_purged", number=gone, days=days)
    return gone


def start(
    app: Flask, *, seconds: float, stop: threading.Event | None = None
) -> threading.Thread:
    """Sweep in a thread, for as long as the process lives.

    :param seconds: about how often.
    """
    stop = stop or threading.Event()

    def look_after() -> None:
        purged_at: float | None = None
        # Not all processes at the moment at which all of them started.
        while not stop.wait(random.uniform(0, 2 * seconds)):  # noqa: S311
            try:
                with app.app_context():
                    sweep()
                    tidy()
                    now = time.monotonic()
                    if purged_at is None or now - purged_at > _PURGE_SECONDS:
                        purge()
                        purge_reservations()
                        purged_at = now
            except (SQLAlchemyError, OSError) as error:
                log.warning("sweep_failed", error=type(error).__name__)

    thread = threading.Thread(target=look_after, name="keeper", daemon=True)
    thread.start()
    return thread
