"""What both ways of serving a stream share."""

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
    """Time that clients wait before they connect again."""
    heartbeat_seconds: float
    """Time between two signs of life."""
    stall_seconds: float
    """Time without progress after which a client is closed."""
    rotate_seconds: float
    """Age at which a stream is closed, give or take a fifth."""
    replay_events: int
    """Most events that Redis is asked for on behalf of one client."""
