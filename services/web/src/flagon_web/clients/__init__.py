"""Everything that the pages reach over a socket, made once per process."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from .catalog import Catalog
from .dead import DeadLetters
from .gather import Gather
from .identity import Identity
from .jobs import Jobs
from .readiness import Readiness
from .reviews import Reviews
from .schedules import Schedules
from .sessions import Sessions
from .spool import Spool
from .webhooks import Webhooks


@dataclass(frozen=True)
class Backends:
    """The other services and stores, as this process knows them."""

    catalog: Catalog
    jobs: Jobs
    dead: DeadLetters
    schedules: Schedules
    webhooks: Webhooks
    identity: Identity
    readiness: Readiness
    reviews: Reviews
    sessions: Sessions
    spool: Spool
    gather: Gather


def backends() -> Backends:
    """Return the backends of the app at hand."""
    return cast("Backends", current_app.extensions["flagon.web"])
