"""Which outside providers there are, as the operator registered us with them."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, TypeAdapter, model_validator

Algorithm = Literal["RS256", "PS256", "ES256"]

LOCAL = {"localhost", "127.0.0.1", "::1"}
"""Hosts that need no https."""


class ProviderSettings(BaseModel, extra="forbid", frozen=True):
    """One provider, as the operator registered us there."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    """Its word in our addresses."""
    label: str = Field(min_length=1, max_length=40)
    """What people read on the button."""
    kind: Literal["oidc", "github"] = "oidc"
    issuer: str
    """Exactly as the provider writes it; with `github`, the site's address."""
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    scopes: list[str] = []
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post"] = (
        "client_secret_basic"  # noqa: S105 (a method's name)
    )
    signing_algs: list[Algorithm] = Field(
        default=["RS256", "ES256", "PS256"], min_length=1
    )
    """Signatures accepted on ID tokens, whatever the provider's metadata say."""
    authorize_url: str | None = None
    token_url: str | None = None
    api_url: str | None = None
    """These three only with `github`."""
    timeout_seconds: float = Field(default=5.0, gt=0, le=15)

    @model_validator(mode="after")
    def _addresses_are_safe(self) -> "ProviderSettings":
        given = [self.authorize_url, self.token_url, self.api_url]
        if (self.kind == "github") != all(given) or (
            self.kind == "oidc" and any(given)
        ):
            raise ValueError("authorize_url, token_url, api_url belong to kind github")
        for url in (self.issuer, *(url for url in given if url)):
            if not is_safe(url):
                raise ValueError(f"{url} must be https, or http on this machine")
        if urlsplit(self.issuer).query or urlsplit(self.issuer).fragment:
            raise ValueError("an issuer has no query and no fragment")
        return self


def read_providers(file: Path | None) -> list[ProviderSettings]:
    """Return the providers of a JSON file, a list of objects; none without a file.

    :raises ValueError: it is no such file, or two providers share a name or issuer.
    """
    if file is None:
        return []
    found = TypeAdapter(list[ProviderSettings]).validate_json(file.read_bytes())
    for names in ([one.name for one in found], [one.issuer for one in found]):
        if len(set(names)) < len(names):
            raise ValueError(f"{file} names a provider twice")
    return found


def is_safe(url: str, *, local_too: bool = True) -> bool:
    """Say whether an address is https, or http on this machine.

    :param local_too: whether this machine is a place to go to at all.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if parts.username or parts.password or not host:
        return False
    if host in LOCAL:
        return local_too and parts.scheme in {"http", "https"}
    return parts.scheme == "https"


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
