"""JSON in and out of the webhooks API."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from .schedule_schemas import ABSENT, PageQuery

Url = Annotated[
    str,
    Field(
        max_length=2000,
        description="HTTPS, on port 443 or 8443, at an address of the open network.",
        examples=["https://shop.example.com/hooks/flagon"],
    ),
]
EventType = Annotated[
    str,
    Field(pattern=r"^(\*|market\.flagon(\.[a-z0-9_]+)*(\.\*)?)$", max_length=200),
]
EventTypes = Annotated[
    list[EventType],
    Field(
        min_length=1,
        max_length=50,
        description="Names; `market.flagon.product.*` is all that begin so, `*` all.",
        examples=[["market.flagon.product.changed.v1"]],
    ),
]
Description = Annotated[str, Field(max_length=200)]


class NewWebhook(BaseModel, extra="forbid"):
    """An endpoint to be."""

    url: Url
    event_types: EventTypes
    description: Description = ""
    enabled: bool = True


class WebhookChange(BaseModel, extra="forbid"):
    """What is to be changed of an endpoint."""

    # No default is ever used: what was not given is not changed.
    url: Url = Field(default_factory=ABSENT)
    event_types: EventTypes = Field(default_factory=ABSENT)
    description: Description = Field(default_factory=ABSENT)
    enabled: bool = Field(default_factory=ABSENT)


class WebhookView(BaseModel):
    """An endpoint as the API shows it."""

    id: UUID
    url: str
    event_types: list[str]
    description: str
    enabled: bool
    owner: str
    circuit: Literal["closed", "open", "half_open"] = Field(
        description="Whether it gets anything: `open` after failures in a row, until"
        " `paused_until`; then one delivery tries whether it may close."
    )
    failures: int
    paused_until: datetime | None
    previous_secret_until: datetime | None = Field(
        description="Until then the secret before the last rotation signs, too."
    )
    created_at: datetime
    updated_at: datetime
    version: int


class WebhookWithSecret(WebhookView):
    """An endpoint with its new secret, which is shown this once."""

    secret: str = Field(
        description="Verify with it, as Standard Webhooks says.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="],
    )


class WebhookPage(BaseModel):
    """A page of endpoints, newest first."""

    items: list[WebhookView]
    next_cursor: str | None


class AttemptView(BaseModel):
    """One attempt at a delivery."""

    at: datetime
    status: int | None
    duration_ms: int
    answer: str = Field(description="How the answer began.")
    error: str | None


class DeliveryView(BaseModel):
    """One event on its way to one endpoint; its id is the `webhook-id` of the request."""

    id: UUID
    event_id: UUID
    event_type: str
    state: Literal["waiting", "delivered", "dead"]
    attempts: int
    due_at: datetime | None = Field(description="When it is tried next.")
    log: list[AttemptView]
    created_at: datetime
    ended_at: datetime | None


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    items: list[DeliveryView]
    next_cursor: str | None


class DeliveryQuery(PageQuery):
    """Which deliveries."""

    state: Literal["waiting", "delivered", "dead"] | None = None
