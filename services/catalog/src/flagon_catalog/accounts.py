"""What is done here when an account is gone, which auth tells by an event."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from .settings import SOURCE

if TYPE_CHECKING:
    from flagon_chassis.streams import Event

log = structlog.get_logger()

GROUP = "catalog-accounts"
"""The consumer group; another name would read all that the stream keeps once more."""
TYPES = frozenset({"market.flagon.user.deleted.v1"})
"""All that the catalog wants to know of others."""


def forget(session: Session, gone: Sequence["Event"]) -> None:
    """Delete all that these accounts wrote, in the session's transaction.

    :raises KeyError, ValueError: an event does not say whose account it was.
    """
    subjects = [UUID(event.envelope["data"]["id"]) for event in gone]
    # Only now: accounts go rarely, and until the first does a process has no need of the
    # tables, of Flask and of what renders Markdown, which are a third of its memory.
    from flask import Flask  # noqa: PLC0415

    from flagon_chassis import events  # noqa: PLC0415

    from .domain import reviews  # noqa: PLC0415

    # As little of an app as events need: what is deleted is told.
    app = Flask(__package__)
    events.init_app(app, SOURCE, Path(str(files(__package__) / "events")))
    with app.app_context():
        count = sum(reviews.forget_subject(session, subject) for subject in subjects)
    log.info("reviews_forgotten", accounts=len(subjects), number=count)
