"""Outside providers that people can sign in with: OpenID Connect, and GitHub's own way.

Everything that comes from a provider is checked against what the settings say about it,
and nothing that it gives us is kept but who the person is.
"""

import base64
import hashlib
import hmac
import json
import math
import time
from abc import ABC, abstractmethod
from binascii import Error as BinasciiError
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import httpx2
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, model_validator

from flagon_auth.domain.identities import Profile
from flagon_chassis import http
from flagon_chassis.errors import Forbidden, Unavailable
from flagon_chassis.settings import ServiceSettings

Algorithm = Literal["RS256", "PS256", "ES256"]

# What providers answer is small; one that is not is broken or hostile.
_ANSWER_BYTES = 256 * 1024
_TOKEN_LENGTH_MAX = 16 * 1024
_SUBJECT_LENGTH_MAX = 255
_TEXT_LENGTH_MAX = 320
_LEEWAY_SECONDS = 60
# An ID token is made for us at the moment we ask.
_ID_TOKEN_AGE_SECONDS = 600
_METADATA_SECONDS = 3600.0
_JWKS_SECONDS = 300.0
_STALE_SECONDS = 86_400.0
# Made-up key ids must not make us ask again and again.
_REFETCH_SECONDS = 30.0
_RSA_BITS_MIN = 2048
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class ProviderUnavailable(Unavailable):
    """The outside provider does not answer."""


class ProviderUntrusted(Forbidden):
    """The outside provider's answer cannot be trusted."""


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
            if not _safe(url):
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


class Provider(ABC):
    """One provider that people can sign in with."""

    def __init__(
        self,
        about: ProviderSettings,
        settings: ServiceSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.about = about
        self.clock = clock
        self._http = http.Client(
            about.issuer,
            settings,
            name=f"social-{about.name}",
            deadline_seconds=about.timeout_seconds,
            retries=1,
            response_bytes=_ANSWER_BYTES,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    @property
    def origin(self) -> str:
        """Where a form that starts here will probably be redirected to."""
        return _origin(self.about.authorize_url or self.about.issuer)

    @abstractmethod
    def authorization_url(
        self, *, redirect_uri: str, state: str, nonce: str, verifier: str, fresh: bool
    ) -> str:
        """Return the address at the provider where the person signs in.

        :param fresh: let them prove who they are although they are signed in there.
        :raises ProviderUnavailable: it does not answer.
        :raises ProviderUntrusted: it says that it is somebody else.
        """

    @abstractmethod
    def check_issuer(self, claimed: str | None) -> None:
        """Refuse an answer that another provider gave (RFC 9207).

        :raises ProviderUntrusted: it did, or its name is missing.
        """

    @abstractmethod
    def identify(
        self,
        *,
        code: str,
        redirect_uri: str,
        nonce: str,
        verifier: str,
        proved_after: float | None,
    ) -> Profile:
        """Return who has signed in, in exchange for the code.

        :param proved_after: the person must have signed in there since then.
        :raises ProviderUnavailable: it does not answer.
        :raises ProviderUntrusted: it does not accept the code, or its answer is not
            what it must be.
        """

    def _read(self, url: str, **options: Any) -> Any:  # noqa: ANN401 (JSON)
        return self._json(lambda: self._http.get(url, **options))

    def _redeem(
        self, url: str, form: Mapping[str, str], auth: tuple[str, str] | None
    ) -> dict[str, Any]:
        answer = self._json(lambda: self._http.post(url, data=form, auth=auth))
        if not isinstance(answer, dict) or not isinstance(
            answer.get("access_token"), str
        ):
            raise ProviderUntrusted("It gave no token.")
        if str(answer.get("token_type", "")).lower() != "bearer":
            raise ProviderUntrusted("It gave a token of another kind.")
        return answer

    def _json(self, call: Callable[[], httpx2.Response]) -> Any:  # noqa: ANN401
        try:
            response = call()
        except http.Unreachable as error:
            raise ProviderUnavailable(
                f"{self.about.label} does not answer.",
                retry_after_seconds=error.retry_after_seconds,
            ) from error
        except http.Refused as error:
            # What it says may quote the code; the status is enough.
            raise ProviderUntrusted(f"It refused with status {error.status}.") from None
        if response.status_code != HTTPStatus.OK:
            raise ProviderUntrusted(f"It answered with status {response.status_code}.")
        return _parsed(response.content)


class OpenIdProvider(Provider):
    """A provider that speaks OpenID Connect."""

    def __init__(
        self,
        about: ProviderSettings,
        settings: ServiceSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(about, settings, clock=clock)
        self._metadata = _Kept(self._fetch_metadata, _METADATA_SECONDS, clock)
        self._keys = _Kept(self._fetch_keys, _JWKS_SECONDS, clock)

    def authorization_url(
        self, *, redirect_uri: str, state: str, nonce: str, verifier: str, fresh: bool
    ) -> str:
        """Return the address of an authorization request with PKCE, state and nonce."""
        scopes = dict.fromkeys(["openid", *(self.about.scopes or ["email", "profile"])])
        more = {"prompt": "login", "max_age": "0"} if fresh else {}
        return str(
            prepare_grant_uri(
                self._metadata.get()["authorization_endpoint"],
                self.about.client_id,
                "code",
                redirect_uri=redirect_uri,
                scope=" ".join(scopes),
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
                **more,
            )
        )

    def check_issuer(self, claimed: str | None) -> None:
        """Refuse a foreign `iss`, and a missing one where the provider promises it."""
        promised = self._metadata.get().get(
            "authorization_response_iss_parameter_supported"
        )
        if claimed is None and promised is not True:
            return
        if claimed != self.about.issuer:
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
        """Return who the ID token speaks of."""
        metadata, about = self._metadata.get(), self.about
        secret = about.client_secret.get_secret_value()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        basic = about.token_endpoint_auth_method == "client_secret_basic"  # noqa: S105
        if not basic:
            form |= {"client_id": about.client_id, "client_secret": secret}
        answer = self._redeem(
            metadata["token_endpoint"],
            form,
            (about.client_id, secret) if basic else None,
        )
        claims = self._claims(answer.get("id_token"), answer["access_token"], nonce)
        proved_at = _seconds(claims.get("auth_time"))
        if proved_after is not None and not (
            proved_at > proved_after - _LEEWAY_SECONDS
        ):
            raise ProviderUntrusted("It did not ask the person again.")
        if "email" not in claims and metadata.get("userinfo_endpoint"):
            told = self._read(
                metadata["userinfo_endpoint"], token=answer["access_token"]
            )
            # OpenID Connect Core, section 5.3.2.
            if not isinstance(told, dict) or told.get("sub") != claims["sub"]:
                raise ProviderUntrusted("It speaks of another person.")
            claims = {**told, **claims}
        return Profile(
            provider=about.name,
            issuer=about.issuer,
            subject=claims["sub"],
            email=_text(claims.get("email")),
            # A text "false" would be true.
            email_verified=claims.get("email_verified") is True,
            name=_text(claims.get("name")),
        )

    def _claims(self, token: object, access_token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token that passed OpenID Connect Core 3.1.3.7."""
        if not isinstance(token, str) or len(token) > _TOKEN_LENGTH_MAX:
            raise ProviderUntrusted("It gave no ID token.")
        header = _header(token)
        alg = header.get("alg")
        # The settings decide, not the provider's metadata: those are the attacker's too
        # where somebody gets between us and the provider.
        if alg not in self.about.signing_algs or "crit" in header:
            raise ProviderUntrusted("The ID token is signed in a way we do not accept.")
        key = self._key(header, str(alg))
        try:
            claims = jwt.decode(token, key, algorithms=[str(alg)]).claims
        except (JoseError, ValueError, TypeError) as error:
            raise ProviderUntrusted("The ID token's signature is wrong.") from error
        wrong = self._wrong(claims, access_token, nonce)
        if wrong:
            raise ProviderUntrusted(f"The ID token's {wrong} is not what it must be.")
        return claims

    def _wrong(
        self, claims: dict[str, Any], access_token: str, nonce: str
    ) -> str | None:
        """Return the first claim that is not as it must be."""
        now, own = self.clock(), self.about.client_id
        audience = claims.get("aud")
        subject = claims.get("sub")
        issued = _seconds(claims.get("iat"))
        at_hash = claims.get("at_hash")
        rules = {
            "iss": claims.get("iss") == self.about.issuer,
            # Another audience beside us is one we do not trust.
            "aud": audience in (own, [own]),
            "azp": claims.get("azp", own) == own,
            "sub": isinstance(subject, str)
            and 0 < len(subject) <= _SUBJECT_LENGTH_MAX
            and subject.isascii()
            and subject.isprintable(),
            "exp": _seconds(claims.get("exp")) > now - _LEEWAY_SECONDS,
            "iat": now - _ID_TOKEN_AGE_SECONDS < issued < now + _LEEWAY_SECONDS,
            "nbf": "nbf" not in claims
            or _seconds(claims["nbf"]) < now + _LEEWAY_SECONDS,
            "nonce": hmac.compare_digest(
                str(claims.get("nonce")).encode(errors="replace"), nonce.encode()
            ),
            "at_hash": at_hash is None or at_hash == _half_hash(access_token),
        }
        return next((name for name, right in rules.items() if not right), None)

    def _key(self, header: dict[str, Any], alg: str) -> RSAKey | ECKey:
        for fresh in (False, True):
            published = self._keys.get(fresh=fresh)
            found = [key for key in published if _fits(key, header, alg)]
            if len(found) == 1:
                try:
                    key = JWKRegistry.import_key(found[0])
                except (JoseError, ValueError, TypeError, KeyError) as error:
                    raise ProviderUntrusted("Its key is not readable.") from error
                assert isinstance(key, RSAKey | ECKey)  # noqa: S101 (see `_fits`)
                if isinstance(key, RSAKey) and _bits(key) < _RSA_BITS_MIN:
                    raise ProviderUntrusted("Its key is too short.")
                return key
        raise ProviderUntrusted("The ID token is signed by no key of the provider.")

    def _fetch_metadata(self) -> dict[str, Any]:
        issuer = self.about.issuer
        found = self._read(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        # Whoever runs one tenant of a provider must not speak for another.
        if not isinstance(found, dict) or found.get("issuer") != issuer:
            raise ProviderUntrusted("It says that it is somebody else.")
        wanted = ["authorization_endpoint", "token_endpoint", "jwks_uri"]
        if found.get("userinfo_endpoint") is not None:
            wanted.append("userinfo_endpoint")
        for name in wanted:
            url = found.get(name)
            # An https provider has no business on plain http, nor on our own machine.
            local_too = urlsplit(issuer).hostname in _LOCAL
            if not isinstance(url, str) or not _safe(url, local_too=local_too):
                raise ProviderUntrusted(f"Its {name} is no safe address.")
        return cast("dict[str, Any]", found)

    def _fetch_keys(self) -> list[dict[str, Any]]:
        found = self._read(self._metadata.get()["jwks_uri"])
        keys = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(keys, list):
            raise ProviderUntrusted("Its keys are not readable.")
        return [key for key in keys if isinstance(key, dict)]


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
            name=_text(person.get("name")) or _text(person.get("login")),
        )


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


class _Kept:
    """Something of the provider that is kept for a while, and longer if it is away."""

    def __init__(
        self, fetch: Callable[[], Any], seconds: float, clock: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._clock = clock
        self._present: Any = None
        self._fetched_at = 0.0
        self._tried_at = 0.0

    def get(self, *, fresh: bool = False) -> Any:  # noqa: ANN401
        now = self._clock()
        age = now - self._fetched_at
        wanted = age > self._seconds or (fresh and age > _REFETCH_SECONDS)
        if self._present is not None and not wanted:
            return self._present
        try:
            self._present = self._fetch()
        except ProviderUnavailable:
            if self._present is None or age > _STALE_SECONDS:
                raise
        else:
            self._fetched_at = now
        return self._present


def _fits(key: dict[str, Any], header: dict[str, Any], alg: str) -> bool:
    """Say whether a published key may have made the signature (RFC 7517, RFC 8725)."""
    shape = ("EC", "P-256") if alg == "ES256" else ("RSA", None)
    operations = key.get("key_ops", ["verify"])
    return (
        (key.get("kty"), key.get("crv")) == shape
        and key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and key.get("alg", alg) == alg
        and ("kid" not in header or key.get("kid") == header["kid"])
    )


def _bits(key: RSAKey) -> int:
    return int(key.public_key.key_size)


def _header(token: str) -> dict[str, Any]:
    first = token.split(".", maxsplit=1)[0]
    try:
        decoded = base64.b64decode(
            first + "=" * (-len(first) % 4), altchars=b"-_", validate=True
        )
    except (BinasciiError, ValueError) as error:
        raise ProviderUntrusted("The ID token is not readable.") from error
    header = _parsed(decoded)
    if not isinstance(header, dict):
        raise ProviderUntrusted("The ID token is not readable.")
    return header


def _parsed(content: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ProviderUntrusted("Its answer is no JSON.") from error


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
            return _text(row.get("email"))
    return None


def _half_hash(access_token: str) -> str:
    digest = hashlib.sha256(access_token.encode(errors="replace")).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def _seconds(value: object) -> float:
    """Return a time; what is none is neither before nor after any other."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(cast("float", value)) if number else math.nan


def _text(value: object) -> str | None:
    """Return a text that Postgres can keep; None for anything else."""
    if not isinstance(value, str) or not value or not value.isprintable():
        return None
    return value[:_TEXT_LENGTH_MAX]


def _safe(url: str, *, local_too: bool = True) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if parts.username or parts.password or not host:
        return False
    if host in _LOCAL:
        return local_too and parts.scheme in {"http", "https"}
    return parts.scheme == "https"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
