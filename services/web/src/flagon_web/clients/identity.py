"""auth as an OpenID Connect provider: sign-in by code with PKCE, refresh, sign-out.

The browser goes to auth by a path of the very origin it is on; this process reaches auth
by its inner address. What the provider says about itself is believed only if it names
the issuer that we were configured with.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import structlog
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from flagon_chassis.errors import Invalid, Unauthenticated, Unavailable
from flagon_chassis.http import Client, Refused, Unreachable
from flagon_web.i18n import gettext as _

from .sessions import Sessions, Tokens

log = structlog.get_logger()

SCOPE = (
    "openid profile email offline_access reviews:write jobs:read jobs:write"
    " jobs:manage catalog:write ops:read users:read users:write"
    " catalog:purge"
)
"""Everything that any page could need; a token gets what its owner's roles allow."""
_ALGORITHMS = ["RS256", "ES256"]
_METADATA_SECONDS = 300.0
_LATELY_SECONDS = 1.0
_LEEWAY_SECONDS = 60
_LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
_LOGOUT_TYPES = {"logout+jwt", "application/logout+jwt"}
_LONGEST_LOGOUT_TOKEN = 8192
# A forged token must not make us fetch keys each time.
_FRESH_KEYS_SECONDS = 30.0


class SignInUnavailable(Unavailable):
    """Signing in is not possible at the moment."""


class SignInRefused(Unauthenticated):
    """The sign-in could not be completed."""


class ProviderUntrusted(Unavailable):
    """The sign-in service does not identify itself as expected."""


class LogoutRefused(Invalid):
    """The logout token cannot be believed."""


class SignedOut(Unauthenticated):
    """You are not signed in any more."""


@dataclass(frozen=True)
class Attempt:
    """A sign-in that was begun and has not come back yet."""

    state: str
    nonce: str
    verifier: str
    """PKCE's secret (RFC 7636)."""
    redirect_uri: str
    next: str
    """The page to go on to: a path of this site."""


@dataclass(frozen=True)
class Person:
    """Who signed in, by the ID token and the access token's scope."""

    sub: str
    name: str
    email: str
    scopes: list[str]
    roles: list[str]
    provider_sid: str
    """The session at auth that this came out of."""


class Identity:
    """The OAuth client that this service is.

    :param http: reaches auth.
    :param issuer: the only issuer whose answers count.
    """

    def __init__(
        self,
        http: Client,
        sessions: Sessions,
        *,
        issuer: str,
        client_id: str,
        client_secret: str,
        refresh_before_seconds: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._sessions = sessions
        self._issuer = issuer
        self._client_id = client_id
        self._auth = (client_id, client_secret)
        self._refresh_before_seconds = refresh_before_seconds
        self._clock = clock
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._fetching = threading.Lock()
        self._fresh_at = float("-inf")

    # -- Signing in --------------------------------------------------------------------

    def begin(self, *, redirect_uri: str, next_page: str) -> tuple[Attempt, str]:
        """Return a new sign-in attempt and the path to send the browser to.

        :raises SignInUnavailable: auth does not answer.
        :raises ProviderUntrusted: it is not the issuer we know.
        """
        # Who is sent to an auth that is away gets the gateway's error, and no page of ours.
        self._metadata(_LATELY_SECONDS)
        attempt = Attempt(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            redirect_uri=redirect_uri,
            next=next_page,
        )
        location = prepare_grant_uri(
            self._front("authorization_endpoint"),
            self._client_id,
            "code",
            redirect_uri=redirect_uri,
            scope=SCOPE,
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=create_s256_code_challenge(attempt.verifier),
            code_challenge_method="S256",
        )
        return attempt, str(location)

    def check_issuer(self, iss: str | None) -> None:
        """Make sure that an answer in the front channel comes from our issuer.

        RFC 9207: another provider's answer must not be taken for ours (mix-up).

        :raises SignInRefused: it does not.
        """
        if iss != self._issuer:
            raise SignInRefused(_("The answer does not come from our sign-in service."))

    def finish(self, attempt: Attempt, code: str) -> tuple[Person, Tokens]:
        """Redeem the code and return who signed in and their tokens.

        :raises SignInRefused: auth refuses the code, or its answer is not sound.
        :raises SignInUnavailable: auth does not answer.
        """
        try:
            answer = self._http.post(
                self._back("token_endpoint"),
                data={
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": attempt.redirect_uri,
                    "code_verifier": attempt.verifier,
                },
                auth=self._auth,
            ).json()
            id_token = str(answer.get("id_token", ""))
            claims = self._verified(id_token, attempt.nonce, answer["access_token"])
        except Unreachable as error:
            raise SignInUnavailable(
                _("Try again in a moment."), retry_after_seconds=2
            ) from error
        except Refused as error:
            raise SignInRefused(
                _("The sign-in has expired. Please try again.")
            ) from error
        except (JoseError, ValueError, KeyError, TypeError) as error:
            log.warning("id_token_refused", error=type(error).__name__)
            raise SignInRefused(_("The answer of the sign-in is not sound.")) from error
        person = Person(
            sub=str(claims["sub"]),
            name=str(claims.get("name") or claims.get("email") or "You"),
            email=str(claims.get("email") or ""),
            scopes=str(answer.get("scope", "")).split(),
            roles=[str(role) for role in claims.get("roles") or ()],
            provider_sid=str(claims.get("sid") or ""),
        )
        return person, self._tokens(answer, id_token)

    def _verified(self, id_token: str, nonce: str, access_token: str) -> dict[str, Any]:
        """Return the claims of an ID token (OpenID Connect Core 3.1.3.7)."""
        token = self._decoded(id_token)
        claims = CodeIDToken(
            token.claims,
            token.header,
            {
                "iss": {"essential": True, "values": [self._issuer]},
                "aud": {"essential": True, "values": [self._client_id]},
                "sub": {"essential": True},
                "nonce": {"essential": True, "value": nonce},
            },
            {
                "nonce": nonce,
                "client_id": self._client_id,
                "access_token": access_token,
            },
        )
        claims.validate(now=int(self._clock()), leeway=_LEEWAY_SECONDS)
        return dict(claims)

    def _decoded(self, token: str) -> jwt.Token:
        """Return a token whose signature is auth's.

        :raises JoseError: it is not.
        """
        try:
            return jwt.decode(token, self._keys(), algorithms=_ALGORITHMS)
        except (JoseError, ValueError):
            # The key may be newer than our copy of the set.
            if self._clock() - self._fresh_at < _FRESH_KEYS_SECONDS:
                raise
            self._fresh_at = self._clock()
            keys = self._keys(fresh=True)
            return jwt.decode(token, keys, algorithms=_ALGORITHMS)

    # -- Staying signed in -------------------------------------------------------------

    def access_token(self, sid: str) -> str:
        """Return an access token of a session that is good for a while.

        Refreshed by one process at a time; the others wait and take what it got.

        :raises SignedOut: auth ended the session; ours is ended too.
        :raises SignInUnavailable: auth does not answer and the old token has expired.
        """
        tokens = self._sessions.tokens(sid)
        if tokens is None:
            raise SignedOut(_("Please sign in again."))
        if not self._stale(tokens):
            return tokens.access_token
        with self._sessions.alone(sid):
            tokens = self._sessions.tokens(sid)
            if tokens is None:
                raise SignedOut(_("Please sign in again."))
            if not self._stale(tokens):
                return tokens.access_token
            return self._refresh(sid, tokens).access_token

    def _stale(self, tokens: Tokens) -> bool:
        return tokens.expires_at - self._clock() < self._refresh_before_seconds

    def _refresh(self, sid: str, tokens: Tokens) -> Tokens:
        try:
            answer = self._http.post(
                self._back("token_endpoint"),
                data={
                    "grant_type": "refresh_token",
                    "refresh_token": tokens.refresh_token,
                },
                auth=self._auth,
            ).json()
        except (Unreachable, SignInUnavailable) as error:
            if tokens.expires_at > self._clock() + 1:
                log.warning("refresh_postponed")
                return tokens
            raise SignInUnavailable(
                _("Your session cannot be renewed right now."), retry_after_seconds=2
            ) from error
        except Refused as error:
            log.info("session_ended_by_auth", status=error.status)
            self._sessions.end(sid)
            raise SignedOut(_("Please sign in again.")) from error
        fresh = self._tokens(answer, tokens.id_token, tokens.refresh_token)
        self._sessions.keep_tokens(sid, fresh)
        return fresh

    # -- Signing out -------------------------------------------------------------------

    def revoke(self, tokens: Tokens) -> None:
        """Make the tokens of a session worthless; a failure leaves them to expire."""
        try:
            self._http.post(
                self._back("revocation_endpoint"),
                data={
                    "token": tokens.refresh_token,
                    "token_type_hint": "refresh_token",
                },
                auth=self._auth,
            )
        except (Unreachable, Refused, SignInUnavailable, ProviderUntrusted) as error:
            log.warning("revocation_failed", error=str(error))

    def sign_out_path(self, id_token: str, *, back_to: str) -> str:
        """Return the path at auth that ends the sign-in there as well.

        :param back_to: absolute URL to come back to; must be registered with auth.
        :raises SignInUnavailable: auth does not answer.
        """
        query = urlencode(
            {
                "id_token_hint": id_token,
                "client_id": self._client_id,
                "post_logout_redirect_uri": back_to,
            }
        )
        return f"{self._front('end_session_endpoint')}?{query}"

    def end_by_logout_token(self, token: str) -> int:
        """End the sessions that auth says are over; return how many there were here.

        OpenID Connect Back-Channel Logout 1.0, section 2.6.

        :raises LogoutRefused: the token is not sound, or was used before.
        :raises SignInUnavailable: auth's keys cannot be fetched.
        :raises redis.RedisError: the store does not answer.
        """
        if not token or len(token) > _LONGEST_LOGOUT_TOKEN:
            raise LogoutRefused("There is no logout token.")
        try:
            found = self._decoded(token)
        except (JoseError, ValueError) as error:
            raise LogoutRefused("The signature is not auth's.") from error
        reason = self._objection(found.header, found.claims)
        if reason:
            raise LogoutRefused(reason)
        claims = found.claims
        left = int(claims["exp"] - self._clock()) + 2 * _LEEWAY_SECONDS
        if not self._sessions.first_use(claims["jti"], max(1, left)):
            raise LogoutRefused("The token was used before.")
        return self._sessions.end_at_provider(
            provider_sid=claims.get("sid"), sub=claims.get("sub")
        )

    def _objection(self, header: dict[str, Any], claims: dict[str, Any]) -> str | None:
        """Return what is wrong with a logout token whose signature is right."""
        aud, events, now = claims.get("aud"), claims.get("events"), self._clock()
        times = [claims.get("iat"), claims.get("exp")]
        names = [claims.get("sid"), claims.get("sub")]
        kind = header.get("typ")
        if not isinstance(kind, str) or kind.lower() not in _LOGOUT_TYPES:
            return "It is a token of another type."
        if claims.get("iss") != self._issuer:
            return "It is another issuer's."
        if self._client_id not in (aud if isinstance(aud, list) else [aud]):
            return "It is for another client."
        # An integer: true and 1e9 are none.
        if not all(type(time_) is int for time_ in times):
            return "It does not say when it was made and ends."
        iat, exp = cast("list[int]", times)
        if iat > now + _LEEWAY_SECONDS or exp <= now - _LEEWAY_SECONDS:
            return "It is not of the present."
        if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT), dict):
            return "It tells of no logout."
        if "nonce" in claims:
            return "It has a nonce, as an ID token has."
        if not isinstance(claims.get("jti"), str) or not claims["jti"]:
            return "It has no id."
        if not any(names) or not all(n is None or isinstance(n, str) for n in names):
            return "It says neither whose session is over nor which."
        return None

    # -- What auth says about itself ---------------------------------------------------

    def _front(self, endpoint: str) -> str:
        """Return an endpoint as a path, which keeps browsers on the origin they use."""
        return str(urlsplit(self._metadata()[endpoint]).path)

    # The path is the same inside; only the host differs.
    _back = _front

    def _metadata(self, seconds: float = _METADATA_SECONDS) -> dict[str, Any]:
        found = self._fetched("/.well-known/openid-configuration", seconds)
        if found.get("issuer") != self._issuer:
            log.error("issuer_unexpected", issuer=str(found.get("issuer"))[:200])
            self._known.clear()
            raise ProviderUntrusted(_("Sign-in is closed until this is looked into."))
        return found

    def _keys(self, *, fresh: bool = False) -> KeySet:
        path = urlsplit(self._metadata()["jwks_uri"]).path
        return KeySet.import_key_set(
            self._fetched(path, 0.0 if fresh else _METADATA_SECONDS)  # type: ignore[arg-type]
        )

    def _fetched(self, path: str, seconds: float) -> dict[str, Any]:
        # Who has what is new enough does not wait for who asks.
        found = self._lately(path, seconds)
        if found is None:
            with self._fetching:
                found = self._lately(path, seconds) or self._asked(path)
        return found

    def _lately(self, path: str, seconds: float) -> dict[str, Any] | None:
        at, found = self._known.get(path, (float("-inf"), {}))
        return found if self._clock() - at < seconds else None

    def _asked(self, path: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._http.get(path).json()
        except (Unreachable, Refused) as error:
            raise SignInUnavailable(
                _("Try again in a moment."), retry_after_seconds=2
            ) from error
        self._known[path] = (self._clock(), found)
        return found

    def _tokens(
        self, answer: dict[str, Any], id_token: str, refresh_token: str = ""
    ) -> Tokens:
        return Tokens(
            access_token=str(answer["access_token"]),
            # Rotated at each use; a provider that keeps the old one says nothing.
            refresh_token=str(answer.get("refresh_token") or refresh_token),
            id_token=str(answer.get("id_token") or id_token),
            expires_at=self._clock() + float(answer.get("expires_in", 60)),
        )
