"""Token introspection (RFC 7662): what a token is worth at this moment."""

from typing import Any, ClassVar

from authlib.consts import default_json_headers
from authlib.oauth2.rfc6749 import InvalidRequestError, TokenEndpoint

from flagon_auth.clients import parts
from flagon_auth.domain import introspection
from flagon_auth.models import Client

from .grants import CONFIDENTIAL_METHODS
from .requests import OAuthRequest

EVERY_TOKEN = "tokens:introspect"  # noqa: S105 (a scope)
"""Registered for this scope a client may ask about the tokens of all."""


class IntrospectionEndpoint(TokenEndpoint):  # type: ignore[misc]
    """A client asks about one of its tokens; a resource server about anybody's."""

    ENDPOINT_NAME = "introspection"
    # Who can prove nothing must not try out tokens.
    CLIENT_AUTH_METHODS: ClassVar = CONFIDENTIAL_METHODS

    def create_endpoint_request(self, request: OAuthRequest) -> OAuthRequest:
        """Return the request, which is made before Authlib sees it."""
        return request

    def __call__(
        self, request: OAuthRequest
    ) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """Return what the token says; of one that is none of theirs, that it is dead."""
        client: Client = self.authenticate_endpoint_client(request).row
        token = request.form.get("token")
        if not token:
            raise InvalidRequestError("The parameter token is missing.")
        # The hint only says where to look first, and looking twice is cheap.
        found = introspection.describe(
            request.session, self.server.issuer, token, now=request.now
        )
        if found is None or not _may_know(client, found):
            return 200, {"active": False}, default_json_headers
        if parts().denylist.refuses(found):
            return 200, {"active": False}, default_json_headers
        return 200, {"active": True, **found}, default_json_headers


def _may_know(client: Client, found: dict[str, Any]) -> bool:
    return found["client_id"] == client.id or EVERY_TOKEN in client.scope.split()
