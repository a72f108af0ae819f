"""JSON in and out of `/api/v1`: accounts, API keys, clients and signing keys."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flagon_chassis.paging import LIMIT_MAX

from .domain.accounts import NAME_LENGTH_MAX
from .domain.api_keys import LIFE_DAYS_MAX

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
    email: str | None = Field(default=None, max_length=254)
    """Only the account with this address."""
    role: Role | None = None
    """Only accounts to which this role is assigned."""
    disabled: bool | None = None


class AuditQuery(BaseModel, extra="forbid"):
    """What the audit log may be asked for."""

    limit: int = Field(default=50, ge=1, le=LIMIT_MAX)
    cursor: str | None = Field(default=None, max_length=500)


class AuditView(BaseModel):
    """One record of the audit log."""

    model_config = ConfigDict(from_attributes=True)

    sequence: int
    occurred_at: datetime
    action: str
    account_id: UUID | None
    actor: str | None
    address: str | None
    details: dict[str, Any]


class AuditPage(BaseModel):
    """One page of the audit log, newest first."""

    items: list[AuditView]
    next_cursor: str | None


class AccountChange(BaseModel, extra="forbid"):
    """Body of `PATCH /api/v1/users/<id>`: only what is to change."""

    name: str | None = Field(default=None, min_length=1, max_length=NAME_LENGTH_MAX)
    roles: list[Role] | None = Field(default=None, max_length=10)
    disabled: bool | None = None


class ApiKeyView(BaseModel):
    """One API key, without what proves it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    prefix: str
    """The readable beginning, after `flg_`."""
    name: str
    scope: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class NewApiKeyView(ApiKeyView):
    """A key that was just made."""

    key: str
    """The key itself; shown only now."""


class ApiKeyList(BaseModel):
    """Every key of one account."""

    items: list[ApiKeyView]
    next_cursor: None = None


class NewApiKey(BaseModel, extra="forbid"):
    """Body of `POST /api/v1/api-keys`."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH_MAX)
    scope: str = Field(min_length=1, max_length=500)
    """Scopes separated by spaces, of those that the own roles allow."""
    expires_in_days: int = Field(default=90, ge=1, le=LIFE_DAYS_MAX)


class NoticeView(BaseModel):
    """A logout notice that is to be delivered now."""

    uri: str
    logout_token: str


class NoticeRefusal(BaseModel, extra="forbid"):
    """What a client answered that would not hear of a logout."""

    status: int = Field(ge=100, le=599)
