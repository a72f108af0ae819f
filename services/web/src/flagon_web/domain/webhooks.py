"""Webhooks as the jobs API shows them, with what pages ask of them."""

from datetime import datetime

from pydantic import Field

from flagon_web.i18n import gettext as _

from .products import Shown

STATES = ("waiting", "delivered", "dead")
"""Of a delivery."""
_BADGES = {"waiting": "queued", "delivered": "succeeded", "dead": "failed"}


class Webhook(Shown):
    """An endpoint that gets events."""

    id: str
    url: str
    event_types: list[str] = Field(default_factory=list)
    description: str = ""
    enabled: bool = True
    owner: str = ""
    circuit: str = "closed"
    failures: int = 0
    paused_until: datetime | None = None
    previous_secret_until: datetime | None = None
    version: int = 1
    etag: str = ""
    secret: str = Field(default="", repr=False)
    """Only in the answer that made it."""

    @property
    def state(self) -> tuple[str, str]:
        """How it does: the tone of the badge, and a word."""
        if not self.enabled:
            return "queued", _("Disabled")
        if self.circuit == "open":
            return "failed", _("Failing")
        if self.circuit == "half_open":
            return "queued", _("Tried again")
        return "succeeded", _("Well")


class WebhookPage(Shown):
    """Some webhooks, newest first."""

    items: list[Webhook]
    next_cursor: str | None = None


class Attempt(Shown):
    """One attempt at a delivery."""

    at: datetime
    status: int | None = None
    duration_ms: int = 0
    answer: str = ""
    error: str | None = None


class Delivery(Shown):
    """One event on its way to one endpoint."""

    id: str
    event_id: str = ""
    event_type: str
    state: str
    attempts: int = 0
    due_at: datetime | None = None
    log: list[Attempt] = Field(default_factory=list)
    created_at: datetime
    ended_at: datetime | None = None

    @property
    def tone(self) -> str:
        """The tone of its badge."""
        return _BADGES.get(self.state, "cancelled")


class DeliveryPage(Shown):
    """Some deliveries, newest first."""

    items: list[Delivery]
    next_cursor: str | None = None
