"""Everything that the pages reach over a socket, made once per process."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from .audit import Audit, JobAudit
from .catalog import Catalog
from .categories import Categories
from .dead import DeadLetters
from .gather import Gather
from .identity import Identity
from .jobs import Jobs
from .notices import Notices
from .pictures import Pictures
from .products import Products
from .profiles import Profiles
from .prometheus import Prometheus
from .readiness import Readiness
from .registered_clients import RegisteredClients
from .reviews import Reviews
from .schedules import Schedules
from .sessions import Sessions
from .signing_keys import SigningKeys
from .spool import Spool
from .traces import Traces
from .users import Users
from .watches import Watches
from .webhooks import Webhooks


@dataclass(frozen=True)
class Backends:
    """The other services and stores, as this process knows them."""

    catalog: Catalog
    products: Products
    categories: Categories
    pictures: Pictures
    jobs: Jobs
    profiles: Profiles
    dead: DeadLetters
    schedules: Schedules
    watches: Watches
    webhooks: Webhooks
    identity: Identity
    notices: Notices
    prometheus: Prometheus
    readiness: Readiness
    reviews: Reviews
    sessions: Sessions
    spool: Spool
    traces: Traces
    signing_keys: SigningKeys
    users: Users
    audit: Audit
    job_audit: JobAudit
    registered_clients: RegisteredClients
    gather: Gather
    gather_aside: Gather
    """For what may be slow without the shop being slow: it has threads of its own."""


def backends() -> Backends:
    """Return the backends of the app at hand."""
    return cast("Backends", current_app.extensions["flagon.web"])
