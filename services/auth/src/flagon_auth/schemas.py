"""JSON in and out of `/api/v1`: accounts, API keys, clients and signing keys."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flagon_chassis.paging import LIMIT_MAX

from .domain.accounts import NAME_LENGTH_MAX
from .domain.api_keys import LIFE_DAYS_MAX

Role = Literal["customer", "merchandiser", "operator", "admin"]
Uri = Annotated[str, Field(min_length=1, max_length=500)]
Amount = Annotated[str, Field(pattern=r"^\d{1,20}(\.\d{1,4})?$")]


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


class NewAccount(BaseModel, extra="forbid"):
    """Body of `POST /api/v1/users`; no password: nobody but its owner knows one."""

    email: str = Field(min_length=3, max_length=254)
    name: str = Field(min_length=1, max_length=NAME_LENGTH_MAX)
    roles: list[Role] = Field(default=["customer"], max_length=10)


class SessionView(BaseModel):
    """One browser that is signed in."""

    model_config = ConfigDict(from_attributes=True)

    sid: str
    created_at: datetime
    seen_at: datetime
    """When it last asked for something, a minute more or less."""
    address: str | None
    agent: str
    amr: list[str]
    acr: str


class SessionList(BaseModel):
    """Every browser in which an account is signed in, the latest first."""

    items: list[SessionView]
    next_cursor: None = None


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


class MailAttempt(BaseModel, extra="forbid"):
    """Who is about to send a mail."""

    attempt: str = Field(min_length=16, max_length=64)


class MailOrder(BaseModel, extra="forbid"):
    """A mail that a service of ours wants sent: that a watched product got cheaper."""

    account_id: UUID
    letter: Literal["price_dropped"]
    product: str = Field(min_length=1, max_length=500)
    product_id: UUID
    previous_price: Amount
    price: Amount
    currency: str = Field(pattern=r"^[A-Z]{3}$")


class MailView(BaseModel):
    """What a mail says."""

    to: str
    language: str
    subject: str
    text: str
    html: str


class NoticeRefusal(BaseModel, extra="forbid"):
    """What a client answered that would not hear of a logout."""

    status: int = Field(ge=100, le=599)


AuthMethod = Literal[
    "client_secret_basic",
    "client_secret_post",
    "client_secret",
    "private_key_jwt",
    "none",
]
GrantType = Literal[
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:device_code",
]
IdTokenAlg = Literal["RS256", "ES256"]


class ClientView(BaseModel):
    """One program that may ask for tokens."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    redirect_uris: list[str]
    post_logout_redirect_uris: list[str]
    backchannel_logout_uri: str | None
    grant_types: list[GrantType]
    scope: str
    token_endpoint_auth_method: AuthMethod
    jwks: dict[str, Any] | None
    id_token_signed_response_alg: IdTokenAlg
    dpop_bound_access_tokens: bool
    require_pushed_authorization_requests: bool
    first_party: bool
    disabled: bool
    version: int
    created_at: datetime
    updated_at: datetime


class ClientsQuery(BaseModel, extra="forbid"):
    """What a list of clients may be asked for."""

    limit: int = Field(default=50, ge=1, le=LIMIT_MAX)
    cursor: str | None = Field(default=None, max_length=500)


class ClientPage(BaseModel):
    """One page of clients."""

    items: list[ClientView]
    next_cursor: str | None


class NewClientView(ClientView):
    """A client that was just registered."""

    client_secret: str | None
    """Shown only now; null for a client that has none."""


class NewSecretView(BaseModel):
    """A new secret of a client."""

    client_secret: str
    """Shown only now."""
    previous_works_until: datetime | None


class NewSecret(BaseModel, extra="forbid"):
    """Body of `POST /api/v1/clients/<id>/secret`."""

    overlap_seconds: int = Field(default=86_400, ge=0, le=90 * 86_400)
    """How long the present secret goes on working; 0 ends one that leaked."""


class NewClient(BaseModel, extra="forbid"):
    """Body of `POST /api/v1/clients`."""

    name: str = Field(min_length=1, max_length=NAME_LENGTH_MAX)
    redirect_uris: list[Uri] = Field(default=[], max_length=20)
    post_logout_redirect_uris: list[Uri] = Field(default=[], max_length=20)
    backchannel_logout_uri: Uri | None = None
    grant_types: list[GrantType] = Field(
        default=["authorization_code", "refresh_token"], min_length=1, max_length=5
    )
    scope: str = Field(default="openid profile email", max_length=1000)
    token_endpoint_auth_method: AuthMethod = "client_secret_basic"  # noqa: S105 (a name)
    jwks: dict[str, Any] | None = None
    id_token_signed_response_alg: IdTokenAlg = "RS256"  # noqa: S105 (a name)
    dpop_bound_access_tokens: bool = False
    require_pushed_authorization_requests: bool = False


class ClientChange(BaseModel, extra="forbid"):
    """Body of `PATCH /api/v1/clients/<id>`: only what is to change."""

    name: str | None = Field(default=None, min_length=1, max_length=NAME_LENGTH_MAX)
    redirect_uris: list[Uri] | None = Field(default=None, max_length=20)
    post_logout_redirect_uris: list[Uri] | None = Field(default=None, max_length=20)
    backchannel_logout_uri: Uri | None = None
    """null: the client is told of logouts no more."""
    grant_types: list[GrantType] | None = Field(
        default=None, min_length=1, max_length=5
    )
    scope: str | None = Field(default=None, max_length=1000)
    jwks: dict[str, Any] | None = None
    id_token_signed_response_alg: IdTokenAlg | None = None
    dpop_bound_access_tokens: bool | None = None
    require_pushed_authorization_requests: bool | None = None
    disabled: bool | None = None


class KeyView(BaseModel):
    """One key that signs tokens: its public half and its life."""

    model_config = ConfigDict(from_attributes=True)

    kid: str
    alg: str
    state: Literal["pending", "active", "retiring", "retired"]
    public_jwk: dict[str, Any]
    created_at: datetime
    activated_at: datetime | None
    retire_at: datetime | None


class KeyList(BaseModel):
    """Every signing key."""

    items: list[KeyView]
    next_cursor: None = None


class KeyRotation(BaseModel, extra="forbid"):
    """Body of `POST /api/v1/keys/rotate`."""

    at_once: bool = False
    """Do not wait until every verifier has had the time to learn the next keys."""
