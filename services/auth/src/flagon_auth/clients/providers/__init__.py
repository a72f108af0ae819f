"""Outside providers that people can sign in with: OpenID Connect, and GitHub's own way.

Everything that comes from a provider is checked against what the settings say about it,
and nothing that it gives us is kept but who the person is.
"""

import base64
import hmac

from flagon_chassis.settings import ServiceSettings

from .github import GitHubProvider
from .openid import OpenIdProvider
from .provider import Provider, ProviderUnavailable, ProviderUntrusted
from .registration import ProviderSettings, read_providers

__all__ = [
    "KINDS",
    "Provider",
    "ProviderSettings",
    "ProviderUnavailable",
    "ProviderUntrusted",
    "Social",
    "read_providers",
]

KINDS: dict[str, type[Provider]] = {"oidc": OpenIdProvider, "github": GitHubProvider}


class Social:
    """All providers, and the secrets of sign-ins that are under way there.

    What must not be known to others (nonce, code verifier) is derived from the state,
    which only the browser has: the session holds nothing worth stealing.
    """

    def __init__(
        self,
        providers: list[ProviderSettings],
        settings: ServiceSettings,
        *,
        key: bytes,
    ) -> None:
        self.providers = {
            about.name: KINDS[about.kind](about, settings) for about in providers
        }
        self._key = hmac.digest(key, b"social", "sha256")

    @property
    def issuers(self) -> frozenset[str]:
        """The issuers that people can sign in with today."""
        return frozenset(one.about.issuer for one in self.providers.values())

    def nonce(self, state: str) -> str:
        """Return the nonce of the sign-in with this state."""
        return self._derived("nonce", state)

    def verifier(self, state: str) -> str:
        """Return the PKCE verifier of the sign-in with this state."""
        return self._derived("verifier", state)

    def _derived(self, purpose: str, state: str) -> str:
        digest = hmac.digest(self._key, f"{purpose}:{state}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
