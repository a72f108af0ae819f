"""What both ways of serving a stream share."""

import random
from dataclasses import dataclass

from .clients import EventLog
from .ring import Ring
from .roster import Roster
from .telemetry import Deliveries


@dataclass(frozen=True)
class Source:
    """Where events come from, who follows them, and how streams behave."""

    ring: Ring
    event_log: EventLog
    roster: Roster
    deliveries: Deliveries
    retry_milliseconds: int
    """Time that clients wait before they connect again, give or take a quarter."""
    heartbeat_seconds: float
    """Time between two signs of life."""
    stall_seconds: float
    """Time without progress after which a client is closed."""
    rotate_seconds: float
    """Age at which a stream is closed, give or take a fifth."""
    replay_events: int
    """Most events that Redis is asked for on behalf of one client."""

    def retry(self) -> int:
        """Return the milliseconds that one client waits before it connects again.

        Clients that lost the same server must not come back in one wave.
        """
        return round(self.retry_milliseconds * random.uniform(0.75, 1.25))  # noqa: S311
