"""The device flow (RFC 8628): how a device begins, and how it asks whether it may."""

from typing import Any, ClassVar

from authlib.consts import default_json_headers
from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    BaseGrant,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
    TokenEndpoint,
    TokenEndpointMixin,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc8628 import (
    AuthorizationPendingError,
    ExpiredTokenError,
    SlowDownError,
)

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, devices, grants

from . import dpop
from .grants import AUTH_METHODS, token_answer
from .requests import OAuthRequest

_DENIALS: dict[type[devices.DeviceWaits], type[OAuth2Error]] = {
    devices.DeviceRefused: InvalidGrantError,
    devices.DeviceTooFast: SlowDownError,
    devices.DevicePending: AuthorizationPendingError,
    devices.DeviceExpired: ExpiredTokenError,
    devices.DeviceDenied: AccessDeniedError,
}


class DeviceAuthorizationEndpoint(TokenEndpoint):  # type: ignore[misc]
    """A device asks for the codes with which it can be let in."""

    ENDPOINT_NAME = "device_authorization"
    CLIENT_AUTH_METHODS: ClassVar = AUTH_METHODS

    def create_endpoint_request(self, request: OAuthRequest) -> OAuthRequest:
        """Return the request, which is made before Authlib sees it."""
        return request

    def __call__(
        self, request: OAuthRequest
    ) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Let the device wait and return its codes (section 3.2).

        :raises OAuth2Error: the client may not, or asks too often.
        """
        client = self.authenticate_endpoint_client(request)
        if not client.check_grant_type(devices.GRANT_TYPE):
            raise UnauthorizedClientError("The client has no device flow.")
        scope = " ".join((request.payload.scope or client.row.scope).split())
        # Whether the person's roles allow it is known only once somebody has signed in.
        if not client.get_allowed_scope(scope):
            raise InvalidScopeError
        try:
            # Each leaves a row behind for a while.
            parts().guesses.spend("device_start")
        except TooManyAttempts as refused:
            raise OAuth2Error(
                refused.detail, error="temporarily_unavailable", status_code=429
            ) from refused
        waiting = devices.start(
            request.session,
            parts().user_codes,
            client=client.row,
            scope=scope,
            dpop_jkt=dpop.proven_key(request),
            now=request.now,
        )
        shown = devices.spoken(waiting.user_code)
        page = f"{self.server.issuer.url}/device"
        answer = {
            "device_code": waiting.device_code,
            "user_code": shown,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={shown}",
            "expires_in": devices.LIFE_SECONDS,
            "interval": devices.INTERVAL_SECONDS,
        }
        return 200, answer, list(default_json_headers)


class DeviceCodeGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]
    """A device asks whether it was let in; the answer is yes once."""

    GRANT_TYPE = devices.GRANT_TYPE
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = AUTH_METHODS

    def validate_token_request(self) -> None:
        """Find out what the person said.

        :raises OAuth2Error: nothing yet, no, or too late (section 3.5).
        """
        request: OAuthRequest = self.request
        client = self.authenticate_token_endpoint_client()
        if not client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError("The client has no device flow.")
        code = request.form.get("device_code")
        if not code:
            raise InvalidRequestError("The parameter device_code is missing.")
        try:
            self._device, self._grant = devices.poll(
                request.session, code, client_id=client.row.id, now=request.now
            )
        except devices.DeviceWaits as denied:
            raise _DENIALS[type(denied)](denied.detail) from denied
        account = accounts.find_account_if_enabled(
            request.session, self._grant.account_id
        )
        if account is None:
            raise InvalidGrantError("The account is disabled.")
        request.user = account
        request.client = client

    def create_token_response(
        self,
    ) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Return the tokens; the code is used up with them."""
        request: OAuthRequest = self.request
        dpop.bind(request, self._grant, self._device.dpop_jkt)
        devices.use(self._device)
        issuer = self.server.issuer
        answer = token_answer(
            request, issuer, request.user, self._grant, scope=self._grant.scope
        )
        if request.client.check_grant_type("refresh_token"):
            answer["refresh_token"] = grants.rotate(
                request.session, issuer, self._grant, now=request.now
            )
        return 200, answer, self.TOKEN_RESPONSE_HEADER
