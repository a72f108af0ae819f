"""What people were told of alerts: the messages of Alertmanager to its receivers.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from .operations import Described
from .products import Shown

State = Literal["firing", "resolved"]
_NAMES_ITSELF = "alertname"


class Member(Described):
    """An alert of a group."""

    status: State
    # At the ends of time it would be none that can be shown in UTC.
    starts_at: AwareDatetime = Field(
        alias="startsAt",
        ge=datetime(1970, 1, 1, tzinfo=UTC),
        le=datetime(9999, 1, 1, tzinfo=UTC),
    )

    @property
    def firing(self) -> bool:
        """Whether it goes on."""
        return self.status == "firing"


class Group(Shown):
    """A message of Alertmanager: alerts that it grouped, for one of its receivers."""

    version: Literal["4"]
    """Of the form."""
    key: str = Field(alias="groupKey", min_length=1)
    """Names the group and the route that leads to its receiver."""
    receiver: str = Field(min_length=1)
    status: State
    labels: dict[str, str] = Field(alias="groupLabels")
    """What its alerts have in common, by which they are one group."""
    alerts: list[Member] = Field(min_length=1)
    truncated: int = Field(default=0, alias="truncatedAlerts", ge=0)
    """Alerts of the group that the message left out."""

    @property
    def firing(self) -> bool:
        """Whether one of its alerts goes on."""
        return self.status == "firing"

    @property
    def looks(self) -> str:
        """The tone of its badge: `ready` when all is over, `down` when it wakes people."""
        if not self.firing:
            return "ready"
        urgent = any(one.severity == "page" for one in self.alerts)
        return "down" if urgent else "degraded"

    @property
    def since(self) -> datetime:
        """When the first of its alerts began."""
        return min(one.starts_at for one in self.alerts)

    @property
    def name(self) -> str:
        """What its alerts are called."""
        return self.labels.get(_NAMES_ITSELF) or self.alerts[0].name

    @property
    def about(self) -> list[str]:
        """What else its alerts have in common."""
        return [v for name, v in sorted(self.labels.items()) if name != _NAMES_ITSELF]

    @property
    def runbook(self) -> str:
        """The name of the page that says what to do; empty without one."""
        return next((one.runbook for one in self.alerts if one.runbook), "")


class Notice(Shown):
    """A group as people were told of it."""

    group: Group
    told_at: float
    """In seconds since 1970."""
    until: float
    """When it is old."""

    @property
    def told(self) -> datetime:
        """When people were told of it, the last time."""
        return datetime.fromtimestamp(self.told_at, UTC)


def sorted_notices(notices: Iterable[Notice]) -> list[Notice]:
    """Return notices, what goes on first, then the newest ones."""
    return sorted(notices, key=lambda one: (not one.group.firing, -one.told_at))
