"""What time itself does: reservations that nobody has ended end by themselves."""

import random
import threading

import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from flagon_chassis.db import transaction

from .domain import holds

log = structlog.get_logger()

_BATCH = 500
"""Reservations of one transaction: short enough that nobody waits for it."""


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


def start(
    app: Flask, *, seconds: float, stop: threading.Event | None = None
) -> threading.Thread:
    """Sweep in a thread, for as long as the process lives.

    :param seconds: about how often.
    """
    stop = stop or threading.Event()

    def look_after() -> None:
        # Not all processes at the moment at which all of them started.
        while not stop.wait(random.uniform(0, 2 * seconds)):  # noqa: S311
            try:
                with app.app_context():
                    sweep()
            except SQLAlchemyError as error:
                log.warning("sweep_failed", error=type(error).__name__)

    thread = threading.Thread(target=look_after, name="keeper", daemon=True)
    thread.start()
    return thread
