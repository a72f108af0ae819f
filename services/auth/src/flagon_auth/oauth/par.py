"""Pushed authorization requests (PAR, RFC 9126)."""

from typing import Any, ClassVar, cast

from authlib.consts import default_json_headers
from authlib.oauth2.rfc6749 import InvalidRequestError, OAuth2Error, TokenEndpoint
from werkzeug.datastructures import MultiDict

from flagon_auth.domain import pushed

from . import dpop
from .grants import AUTH_METHODS
from .requests import OAuthRequest

# What proves who the client is, is no part of what it asks for.
_CREDENTIALS = {"client_secret", "client_assertion", "client_assertion_type"}


class PushEndpoint(TokenEndpoint):  # type: ignore[misc]
    """A client gives its authorization request to us, not to the browser."""

    ENDPOINT_NAME = "pushed_authorization_request"
    CLIENT_AUTH_METHODS: ClassVar = AUTH_METHODS

    def create_endpoint_request(self, request: OAuthRequest) -> OAuthRequest:
        """Return the request, which is made before Authlib sees it."""
        return request

    def __call__(
        self, request: OAuthRequest
    ) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Check the request as if a browser had brought it, and keep it.

        :raises OAuth2Error: it cannot be carried out; told to the client directly.
        """
        client = self.authenticate_endpoint_client(request).row
        asked = MultiDict(
            (name, value)
            for name, value in request.form.items()
            if name not in _CREDENTIALS
        )
        if "request_uri" in asked:
            raise InvalidRequestError("A pushed request names no request_uri.")
        asked["client_id"] = client.id
        ahead = OAuthRequest(
            request.session,
            asked,
            method="GET",
            issuer=self.server.issuer.url,
            now=request.now,
            pushed=True,
        )
        ahead.jkt = request.jkt
        try:
            self.server.get_consent_grant(ahead)
            jkt = dpop.asked_key(ahead)
        except OAuth2Error as error:
            # Nobody is redirected anywhere yet.
            error.redirect_uri = None
            raise
        uri = pushed.push(
            request.session,
            client_id=client.id,
            parameters=dict(asked.items()),
            dpop_jkt=jkt,
            now=request.now,
        )
        answer = {"request_uri": uri, "expires_in": pushed.LIFE_SECONDS}
        return 201, answer, cast("list[tuple[str, str]]", default_json_headers)


def is_reference(parameters: MultiDict[str, str]) -> bool:
    """Say whether the request stands elsewhere: was pushed to us."""
    return parameters.get("request_uri", "").startswith(pushed.PREFIX)
