"""JSON in and out of `/api/v1/me` and `/api/v1/users`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flagon_chassis.paging import LIMIT_MAX

from .domain.accounts import NAME_LENGTH_MAX

Role = Literal["customer", "merchandiser", "operator", "admin"]


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

    name: str | None = Field(default=None, min_length=1, max_length=NAME_LENGTH_MAX)
    roles: list[Role] | None = Field(default=None, max_length=10)
    disabled: bool | None = None
