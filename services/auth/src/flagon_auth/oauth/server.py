"""Authlib's server on our tables, in the transaction of the request at hand."""

from typing import Any, ClassVar

from authlib.consts import default_json_headers
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    OAuth2Error,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc7009 import RevocationEndpoint as StockRevocationEndpoint
from authlib.oauth2.rfc9207 import IssuerParameter as StockIssuerParameter
from flask import Response
from flask.json import dumps

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import clients, grants, tokens
from flagon_auth.domain.tokens import Issuer

from . import assertions, dpop
from .device import DeviceAuthorizationEndpoint, DeviceCodeGrant
from .grants import (
    AUTH_METHODS,
    AuthorizationCodeGrant,
    ClientCredentialsGrant,
    CodeChallenge,
    RefreshTokenGrant,
)
from .introspection import IntrospectionEndpoint
from .par import PushEndpoint
from .requests import (
    RESPONSE_TYPES,
    ClientView,
    OAuthRequest,
    credentials,
    find_client,
    refuse_other_resources,
)

_BOUND_ENDPOINTS = {"token", PushEndpoint.ENDPOINT_NAME}


class RevocationEndpoint(StockRevocationEndpoint):  # type: ignore[misc]
    """A client gives a token back (RFC 7009)."""

    CLIENT_AUTH_METHODS: ClassVar = AUTH_METHODS

    def create_endpoint_response(
        self, request: OAuthRequest
    ) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """End what the token belongs to; an unknown token is no failure."""
        client = self.authenticate_endpoint_client(request).row
        token = request.form.get("token")
        if not token:
            raise InvalidRequestError("The parameter token is missing.")
        # The hint only says where to look first, and looking twice is cheap.
        try:
            request.spent += grants.revoke_refresh_token(
                request.session, token, client_id=client.id, now=request.now
            )
        except grants.GrantRefused as refused:
            raise InvalidGrantError(refused.detail) from refused
        try:
            owner, spent = tokens.read_access_token(
                request.session, self.server.issuer, token
            )
        except tokens.TokenUnreadable:
            return 200, {}, default_json_headers
        if owner != client.id:
            raise InvalidGrantError("The token was issued to another client.")
        request.spent.append(spent)
        return 200, {}, default_json_headers


class IssuerParameter(StockIssuerParameter):  # type: ignore[misc]
    """`iss` in every authorization response (RFC 9207)."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer

    def get_issuer(self) -> str:
        """Return our own name."""
        return self._issuer


class Server(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server on our tables, in our transaction."""

    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self.issuer = issuer
        self.register_grant(AuthorizationCodeGrant, [CodeChallenge()])
        self.register_grant(RefreshTokenGrant)
        self.register_grant(ClientCredentialsGrant)
        self.register_grant(DeviceCodeGrant)
        self.register_endpoint(RevocationEndpoint)
        self.register_endpoint(IntrospectionEndpoint)
        self.register_endpoint(PushEndpoint)
        self.register_endpoint(DeviceAuthorizationEndpoint)
        self._issuer_parameter = IssuerParameter(issuer.url)
        self.register_extension(self._issuer_parameter)

    def create_oauth2_request(self, request: OAuthRequest) -> OAuthRequest:
        """Return the request, which is made before Authlib sees it."""
        return request

    def get_authorization_grant(self, request: OAuthRequest) -> AuthorizationCodeGrant:
        """Return the one grant that begins in a browser.

        Authlib would put the caller's text into the error; a quote in it is a crash.
        """
        asked = request.payload.data
        client = find_client(request, asked.get("client_id"))
        if client is None:
            raise InvalidClientError(description="There is no such client.")
        uri = AuthorizationCodeGrant.validate_authorization_redirect_uri(
            request, client
        )
        if client.row.require_pushed_authorization_requests and not request.pushed:
            raise InvalidRequestError(
                "This client must push its requests (RFC 9126).", redirect_uri=uri
            )
        if asked.get("response_type") not in RESPONSE_TYPES:
            raise OAuth2Error(
                "The response_type must be code.",
                error="unsupported_response_type",
                redirect_uri=uri,
            )
        if asked.get("response_mode", "query") != "query":
            raise InvalidRequestError(
                "The response_mode must be query.", redirect_uri=uri
            )
        if not client.check_grant_type("authorization_code"):
            raise UnauthorizedClientError(
                "The client may not sign people in.", redirect_uri=uri
            )
        grant = AuthorizationCodeGrant(request, _Bound(self, request))
        CodeChallenge()(grant)
        return grant

    def get_token_grant(self, request: OAuthRequest) -> Any:  # noqa: ANN401
        """Return the grant for a token request, bound to its transaction."""
        grant = super().get_token_grant(request)
        grant.server = _Bound(self, request)
        return grant

    def authenticate_client(
        self, request: OAuthRequest, methods: list[str], endpoint: str = "token"
    ) -> ClientView:
        """Return the client, which has proved who it is if it can.

        A wrong secret and an unknown client get the same answer after the same work.
        Where tokens are given or prepared the proof of their key is read as well.
        """
        given = credentials(request)
        client = find_client(request, given.client_id)
        row = client.row if client else None
        proved = clients.secret_matches(row, *given.secrets, now=request.now)
        if given.method == "private_key_jwt":
            proved = row is not None and assertions.proves(
                request, row, given.assertion
            )
        elif row is not None and given.method == "none":
            proved = clients.is_public(row)
        # By the way that it registered and by no other: an attacker would choose.
        registered = row is not None and clients.uses_method(row, given.method)
        allowed = registered and given.method in methods
        if client is None or not proved or not allowed:
            _count_failure()
            raise InvalidClientError(
                "The client could not be authenticated.", status_code=401
            )
        request.client = client
        request.auth_method = given.method
        if endpoint in _BOUND_ENDPOINTS:
            dpop.require_key(request, client.row)
            refuse_other_resources(request)
        return client

    def save_token(self, _token: dict[str, Any], _request: OAuthRequest) -> None:
        """Do nothing: what is kept of a token was kept when it was made."""

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Do nothing: no part of this service listens."""

    def handle_response(
        self, status: int, body: object, headers: list[tuple[str, str]]
    ) -> Response:
        """Return the answer as Flask's."""
        text = dumps(body) if isinstance(body, dict) else str(body)
        return Response(text, status, headers)

    def authorization_error(self, error: OAuth2Error, state: str | None) -> Response:
        """Return the redirect that tells the client, `state` and `iss` included."""
        error.state = state
        response = self.handle_response(*error(None))
        self._issuer_parameter.add_issuer_parameter(self, response)
        return response


class _Bound:
    """The server as the grants of one request see it: clients come from its session."""

    def __init__(self, server: Server, request: OAuthRequest) -> None:
        self._server = server
        self._request = request

    def query_client(self, client_id: str) -> ClientView | None:
        return find_client(self._request, client_id)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (all else is the server's)
        return getattr(self._server, name)


def _count_failure() -> None:
    """Count a client that could not prove itself, for the place it asks from.

    Who proves itself is not counted and never has to wait: 256 bits are not guessed, so
    this only keeps programs that go on and on from costing much.
    """
    try:
        parts().guesses.fail("client")
    except TooManyAttempts as refused:
        raise OAuth2Error(
            refused.detail, error="temporarily_unavailable", status_code=429
        ) from refused
