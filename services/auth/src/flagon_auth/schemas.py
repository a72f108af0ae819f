"""JSON in and out of `/api/v1/me` and `/api/v1/users`."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from flagon_chassis.paging import LIMIT_MAX
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Role = Literal["customer", "merchandiser", "operator", "admin"]


def _clean(name: str) -> str:
    if not name.isprintable() or not name.strip():
        raise ValueError("must be printable text")
    return name.strip()


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_clean)]


class AccountView(BaseModel):
    """One account."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    roles: list[Role]
    disabled: bool
    version: int
    created_at: datetime
    updated_at: datetime


class AccountPage(BaseModel):
    """One page of accounts."""

    items: list[AccountView]
    next_cursor: str | None


class AccountsQuery(BaseModel, extra="forbid"):
    """What a list of accounts may be asked for."""

    limit: int = Field(default=50, ge=1, le=LIMIT_MAX)
    cursor: str | None = Field(default=None, max_length=500)


class AccountChange(BaseModel, extra="forbid"):
    """Body of `PATCH /api/v1/users/<id>`: only what is to change."""

    name: Name | None = None
    roles: list[Role] | None = Field(default=None, max_length=10)
    disabled: bool | None = None
