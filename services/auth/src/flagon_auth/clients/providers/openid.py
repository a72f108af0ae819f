"""Providers that speak OpenID Connect."""

import base64
import hashlib
import hmac
import math
import time
from binascii import Error as BinasciiError
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from flagon_auth.domain.identities import Profile
from flagon_chassis.settings import ServiceSettings

from .provider import Provider, ProviderUnavailable, ProviderUntrusted, parsed, text
from .registration import LOCAL, ProviderSettings, is_safe

_TOKEN_LENGTH_MAX = 16 * 1024
_SUBJECT_LENGTH_MAX = 255
_LEEWAY_SECONDS = 60
# An ID token is made for us at the moment we ask.
_ID_TOKEN_AGE_SECONDS = 600
_METADATA_SECONDS = 3600.0
_JWKS_SECONDS = 300.0
_STALE_SECONDS = 86_400.0
# Made-up key ids must not make us ask again and again.
_REFETCH_SECONDS = 30.0
_RSA_BITS_MIN = 2048


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
            email=text(claims.get("email")),
            # A text "false" would be true.
            email_verified=claims.get("email_verified") is True,
            name=text(claims.get("name")),
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
            local_too = urlsplit(issuer).hostname in LOCAL
            if not isinstance(url, str) or not is_safe(url, local_too=local_too):
                raise ProviderUntrusted(f"Its {name} is no safe address.")
        return cast("dict[str, Any]", found)

    def _fetch_keys(self) -> list[dict[str, Any]]:
        found = self._read(self._metadata.get()["jwks_uri"])
        keys = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(keys, list):
            raise ProviderUntrusted("Its keys are not readable.")
        return [key for key in keys if isinstance(key, dict)]


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
    header = parsed(decoded)
    if not isinstance(header, dict):
        raise ProviderUntrusted("The ID token is not readable.")
    return header


def _half_hash(access_token: str) -> str:
    digest = hashlib.sha256(access_token.encode(errors="replace")).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def _seconds(value: object) -> float:
    """Return a time; what is none is neither before nor after any other."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(cast("float", value)) if number else math.nan
