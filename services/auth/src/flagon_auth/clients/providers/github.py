"""GitHub, or what behaves like it: OAuth without ID tokens."""

from typing import cast

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from flagon_auth.domain.identities import Profile

from .provider import Provider, ProviderUntrusted, text


class GitHubProvider(Provider):
    """GitHub, or what behaves like it: OAuth without ID tokens."""

    def authorization_url(
        self, *, redirect_uri: str, state: str, nonce: str, verifier: str, fresh: bool
    ) -> str:
        """Return the address of an authorization request with PKCE and state."""
        del nonce, fresh
        return str(
            prepare_grant_uri(
                cast("str", self.about.authorize_url),
                self.about.client_id,
                "code",
                redirect_uri=redirect_uri,
                scope=" ".join(self.about.scopes or ["read:user", "user:email"]),
                state=state,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    def check_issuer(self, claimed: str | None) -> None:
        """Refuse a foreign `iss`; GitHub sends none."""
        if claimed not in {None, self.about.issuer}:
            raise ProviderUntrusted("The answer comes from another provider.")

    def identify(
        self,
        *,
        code: str,
        redirect_uri: str,
        nonce: str,
        verifier: str,
        proved_after: float | None,
    ) -> Profile:
        """Return whom the token belongs to, as its API says."""
        del nonce
        if proved_after is not None:
            raise ProviderUntrusted("It cannot ask the person again.")
        about = self.about
        answer = self._redeem(
            cast("str", about.token_url),
            {
                "client_id": about.client_id,
                "client_secret": about.client_secret.get_secret_value(),
                "code": code,
                "redirect_uri": redirect_uri,
                "code_verifier": verifier,
            },
            None,
        )
        token, api = answer["access_token"], cast("str", about.api_url).rstrip("/")
        person = self._read(f"{api}/user", token=token)
        number = person.get("id") if isinstance(person, dict) else None
        # The number stays when the name changes hands.
        if not isinstance(number, int) or isinstance(number, bool):
            raise ProviderUntrusted("It does not say who signed in.")
        return Profile(
            provider=about.name,
            issuer=about.issuer,
            subject=str(number),
            email=(email := _primary(self._read(f"{api}/user/emails", token=token))),
            email_verified=email is not None,
            name=text(person.get("name")) or text(person.get("login")),
        )


def _primary(addresses: object) -> str | None:
    """Return the address that GitHub has verified and the person uses."""
    if not isinstance(addresses, list):
        return None
    for row in addresses:
        if (
            isinstance(row, dict)
            and row.get("primary") is True
            and row.get("verified") is True
        ):
            return text(row.get("email"))
    return None
