"""OAuth clients as auth shows them to administrators, with what pages ask of them."""

from datetime import datetime
from typing import Any

from pydantic import Field

from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from .products import Shown

AUTH_METHODS = {
    "client_secret_basic": _("By a secret, in a header"),
    "client_secret_post": _("By a secret, in the form"),
    "client_secret": _("By a secret, in either place"),
    "private_key_jwt": _("By a key of its own (JWT)"),
    "none": _("Not at all: it runs where it can keep no secret"),
}
"""How a client proves who it is, in words."""
_SECRETS = ("client_secret_basic", "client_secret_post", "client_secret")
GRANT_TYPES = {
    "authorization_code": _("Sign people in"),
    "refresh_token": _("Stay signed in"),
    "client_credentials": _("Act for itself"),
    "urn:ietf:params:oauth:grant-type:device_code": _("Devices without a keyboard"),
}
"""What a client may do to get tokens, in words."""
OVERLAPS = {
    "86400": _("for another day"),
    "604800": _("for another week"),
    "3600": _("for another hour"),
    "0": _("no more: it leaked"),
}
"""How long the secret before a new one works, by seconds."""


class RegisteredClient(Shown):
    """A program that may ask for tokens."""

    id: str
    name: str = ""
    redirect_uris: list[str] = Field(default_factory=list)
    post_logout_redirect_uris: list[str] = Field(default_factory=list)
    backchannel_logout_uri: str | None = None
    grant_types: list[str] = Field(default_factory=list)
    scope: str = ""
    token_endpoint_auth_method: str = "none"  # noqa: S105 (a name)
    jwks: dict[str, Any] | None = None
    id_token_signed_response_alg: str = "RS256"  # noqa: S105 (a name)
    dpop_bound_access_tokens: bool = False
    require_pushed_authorization_requests: bool = False
    first_party: bool = False
    disabled: bool = False
    version: int = 1
    created_at: datetime
    updated_at: datetime | None = None
    etag: str = ""
    client_secret: str | None = Field(default=None, repr=False)
    """Only in the answer that registered it."""

    @property
    def proof(self) -> str:
        """How it proves who it is, in words."""
        method = self.token_endpoint_auth_method
        return str(AUTH_METHODS.get(method, method))

    @property
    def has_secret(self) -> bool:
        """Whether it has a secret that can be exchanged."""
        return self.token_endpoint_auth_method in _SECRETS

    @property
    def grants(self) -> list[str]:
        """What it may do, in words."""
        return [str(GRANT_TYPES.get(one, one)) for one in self.grant_types]

    @property
    def state(self) -> tuple[str, str]:
        """How it is: the tone of the badge, and a word."""
        if self.disabled:
            return "failed", gettext("Disabled")
        if self.first_party:
            return "running", gettext("Built in")
        return "succeeded", gettext("Active")


class RegisteredClientPage(Shown):
    """Some clients, by id."""

    items: list[RegisteredClient]
    next_cursor: str | None = None


class ClientSecret(Shown):
    """A new secret."""

    client_secret: str = Field(repr=False)
    previous_works_until: datetime | None = None
