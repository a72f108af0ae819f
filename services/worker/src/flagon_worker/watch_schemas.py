"""JSON in and out of the watches API."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", examples=["EUR"])]


class Wish(BaseModel, extra="forbid"):
    """When to be told: of every lower price, or of those below a limit alone."""

    below_minor: int | None = Field(
        default=None,
        ge=1,
        le=2**53 - 1,
        description="Minor units: tell only of prices below this one.",
        examples=[1500],
    )
    currency: Currency | None = Field(
        default=None, description="Of `below_minor`: give both or neither."
    )

    @model_validator(mode="after")
    def _whole(self) -> "Wish":
        if (self.below_minor is None) != (self.currency is None):
            message = "give below_minor and currency, or neither"
            raise ValueError(message)
        return self


class SeenPrice(BaseModel):
    """What a product cost when it was last looked at."""

    price_minor: int
    currency: str


class WatchView(BaseModel):
    """A product whose price the account follows."""

    product_id: UUID
    below_minor: int | None
    currency: str | None
    seen: SeenPrice | None = Field(
        description="The price that the next one is compared with; null while the"
        " catalog could not be asked and no event has told."
    )
    told_at: datetime | None = Field(
        description="When the account was last told of a lower price."
    )
    created_at: datetime
    updated_at: datetime
    version: int


class WatchPage(BaseModel):
    """A page of watches, newest first."""

    items: list[WatchView]
    next_cursor: str | None
