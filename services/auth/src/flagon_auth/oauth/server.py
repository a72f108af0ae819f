"""OAuth 2.0 and OpenID Connect as Authlib runs them, each step calling the domain.

What Authlib accepts and RFC 9700 or the certification suite do not is refused here:
PKCE without S256, parameters given twice or in the wrong place, two kinds of client
authentication at once.
"""

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import unquote_plus

from authlib.common.urls import add_params_to_uri
from authlib.consts import default_json_headers
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    ClientMixin,
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
    OAuth2Payload,
    OAuth2Request,
    UnauthorizedClientError,
    grants as stock,
)
from authlib.oauth2.rfc7009 import RevocationEndpoint as StockRevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge as StockCodeChallenge
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oauth2.rfc9207 import IssuerParameter as StockIssuerParameter
from flask import Request, Response
from flask.json import dumps
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from flagon_auth.domain import accounts, clients, grants, tokens
from flagon_auth.domain.tokens import Issuer, Spent
from flagon_auth.models import (
    Account,
    AuthorizationCode,
    Client,
    RefreshToken,
    TokenGrant,
)

RESPONSE_TYPES = ("code",)
PROMPTS = frozenset({"none", "login", "consent", "select_account"})
CODE_LENGTH = 48

_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]
# Postgres stores no NUL, and no honest parameter holds another control character.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VALUE_LENGTH_MAX = 4096
# PKCE's S256 challenge is 32 bytes in base64url.
_CHALLENGE = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")


@dataclass(frozen=True)
class SignIn:
    """The sign-in session that an authorization is given in."""

    sid: str
    auth_time: datetime
    amr: list[str]


class Payload(OAuth2Payload):  # type: ignore[misc]
    """The parameters of one request."""

    def __init__(self, parameters: MultiDict[str, str]) -> None:
        self._parameters = parameters

    @property
    def data(self) -> MultiDict[str, str]:
        """Return every parameter's first value."""
        return self._parameters

    @property
    def datalist(self) -> dict[str, list[str]]:
        """Return every parameter's values."""
        return dict(self.data.lists())


class OAuthRequest(OAuth2Request):  # type: ignore[misc]
    """One request, the transaction it runs in and what must be refused after it.

    :param session: open until the answer is made.
    """

    def __init__(
        self,
        session: Session,
        parameters: MultiDict[str, str],
        *,
        method: str,
        authorization: str | None = None,
        now: datetime,
        sign_in: SignIn | None = None,
    ) -> None:
        headers = {"Authorization": authorization} if authorization else {}
        # Authlib insists on https here. The gateway ends TLS, and `Settings` decides
        # where plain http is acceptable.
        super().__init__(method, "https://gateway/", headers=headers)
        self.payload = Payload(parameters)
        self.session = session
        self.now = now
        self.sign_in = sign_in
        self.spent: list[Spent] = []

    @property
    def args(self) -> MultiDict[str, str]:
        """Return the parameters."""
        return self.payload.data  # type: ignore[no-any-return]

    @property
    def form(self) -> MultiDict[str, str]:
        """Return the parameters."""
        return self.payload.data  # type: ignore[no-any-return]


class ClientView(ClientMixin):  # type: ignore[misc]
    """A client as Authlib asks about it."""

    def __init__(self, client: Client) -> None:
        self.row = client

    def __repr__(self) -> str:
        """Show the id alone."""
        return f"<ClientView {self.row.id}>"

    def get_client_id(self) -> str:
        """Return the id."""
        return self.row.id

    def get_default_redirect_uri(self) -> None:
        """Return nothing: every authorization request names its redirect URI."""

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """Return what of the scope the client may have, None if nothing."""
        wanted = set((scope or self.row.scope).split())
        return " ".join(wanted & set(self.row.scope.split())) or None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Say whether codes may be sent there."""
        return clients.redirect_allowed(self.row, redirect_uri)

    def check_response_type(self, response_type: str) -> bool:
        """Say whether the client may start an authorization."""
        return response_type in RESPONSE_TYPES and self.check_grant_type(
            "authorization_code"
        )

    def check_grant_type(self, grant_type: str) -> bool:
        """Say whether the client may use this grant."""
        return grant_type in self.row.grant_types


class CodeChallenge(StockCodeChallenge):  # type: ignore[misc]
    """PKCE (RFC 7636) for every client, with S256 alone (RFC 9700 section 2.1.1)."""

    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar = ["S256"]
    CODE_CHALLENGE_METHODS: ClassVar = {
        "S256": lambda verifier, challenge: hmac.compare_digest(
            create_s256_code_challenge(verifier), challenge
        )
    }

    def validate_code_challenge(
        self, grant: "AuthorizationCodeGrant", _redirect_uri: object
    ) -> None:
        """Refuse an authorization request without a usable challenge."""
        asked = grant.request.payload.data
        if asked.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required: code_challenge_method=S256.")
        if not _CHALLENGE.match(asked.get("code_challenge", "")):
            raise InvalidRequestError("The code_challenge is missing or malformed.")

    def get_authorization_code_challenge_method(self, _code: AuthorizationCode) -> str:
        """Return the only method there is."""
        return "S256"


class AuthorizationCodeGrant(stock.AuthorizationCodeGrant):  # type: ignore[misc]
    """Codes: asked for in the browser, redeemed by the client."""

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = _AUTH_METHODS
    AUTHORIZATION_CODE_LENGTH = CODE_LENGTH

    @staticmethod
    def validate_authorization_redirect_uri(
        request: OAuthRequest, client: ClientView
    ) -> str:
        """Return the redirect URI; errors from here on are sent to it."""
        uri: str | None = request.payload.redirect_uri
        if not uri or not client.check_redirect_uri(uri):
            raise InvalidRequestError("The redirect_uri is not registered.")
        return uri

    def validate_authorization_request(self) -> str:
        """Return the redirect URI of a request that can be carried out."""
        redirect_uri: str = super().validate_authorization_request()
        try:
            _refuse_unsupported(self.request.payload.data)
            prompts(self.request)
            max_age(self.request)
        except OAuth2Error as error:
            error.redirect_uri = redirect_uri
            raise
        return redirect_uri

    def save_authorization_code(self, code: str, request: OAuthRequest) -> None:
        """Start the grant that the code belongs to."""
        asked = request.payload.data
        sign_in = request.sign_in
        assert sign_in is not None  # noqa: S101 (a code is made for who signed in)
        grants.authorize(
            request.session,
            self.server.issuer,
            account=request.user,
            client=request.client.row,
            scope=final_scope(request),
            redirect_uri=asked["redirect_uri"],
            code_challenge=asked["code_challenge"],
            nonce=asked.get("nonce"),
            sid=sign_in.sid,
            auth_time=sign_in.auth_time,
            amr=sign_in.amr,
            code=code,
            now=request.now,
        )

    def query_authorization_code(self, code: str, client: ClientView) -> "CodeView":
        """Return the code, locked until the transaction ends."""
        request = self.request
        try:
            row = grants.find_code(
                request.session, code, client_id=client.row.id, now=request.now
            )
        except grants.GrantReplayed as replayed:
            request.spent += replayed.spent
            raise InvalidGrantError(replayed.detail) from replayed
        except grants.GrantRefused as refused:
            raise InvalidGrantError(refused.detail) from refused
        return CodeView(row)

    def authenticate_user(self, code: "CodeView") -> Account | None:
        """Return the account, unless it was disabled meanwhile."""
        return _enabled(self.request.session, code.row.grant)

    def generate_token(
        self, user: Account, scope: str, *, include_refresh_token: bool, **_: object
    ) -> dict[str, Any]:
        """Return the answer that the code is worth."""
        code: AuthorizationCode = self.request.authorization_code.row
        grants.use_code(code, now=self.request.now)
        answer = _token_answer(
            self.request,
            self.server.issuer,
            user,
            code.grant,
            scope=scope,
            nonce=code.nonce,
        )
        if include_refresh_token:
            answer["refresh_token"] = grants.rotate(
                self.request.session,
                self.server.issuer,
                code.grant,
                now=self.request.now,
            )
        return answer

    def delete_authorization_code(self, _code: "CodeView") -> None:
        """Keep the code, marked as used: so a second use is noticed."""


class CodeView:
    """A code as Authlib asks about it."""

    def __init__(self, row: AuthorizationCode) -> None:
        self.row = row
        self.code_challenge = row.code_challenge

    def get_redirect_uri(self) -> str:
        """Return the address that the code was sent to."""
        return self.row.redirect_uri

    def get_scope(self) -> str:
        """Return what was granted."""
        return self.row.grant.scope


class RefreshTokenGrant(stock.RefreshTokenGrant):  # type: ignore[misc]
    """Refresh tokens: each works once and brings the next."""

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = _AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, token: str) -> "RefreshView":
        """Return the token, locked until the transaction ends."""
        request = self.request
        try:
            row = grants.find_refresh_token(
                request.session,
                token,
                client_id=request.client.row.id,
                now=request.now,
            )
        except grants.GrantReplayed as replayed:
            request.spent += replayed.spent
            raise InvalidGrantError(replayed.detail) from replayed
        except grants.GrantRefused as refused:
            raise InvalidGrantError(refused.detail) from refused
        if _enabled(request.session, row.grant) is None:
            raise InvalidGrantError("The account is disabled.")
        return RefreshView(row)

    def authenticate_user(self, token: "RefreshView") -> Account | None:
        """Return the account."""
        return _enabled(self.request.session, token.row.grant)

    def generate_token(self, user: Account, scope: str, **_: object) -> dict[str, Any]:
        """Return the answer: new tokens with what the roles allow today."""
        used: RefreshToken = self.request.refresh_token.row
        answer = _token_answer(
            self.request, self.server.issuer, user, used.grant, scope=scope
        )
        answer["refresh_token"] = grants.rotate(
            self.request.session,
            self.server.issuer,
            used.grant,
            used=used,
            now=self.request.now,
        )
        return answer

    def revoke_old_credential(self, _token: "RefreshView") -> None:
        """Do nothing: making the next token used this one up."""


class RefreshView:
    """A refresh token as Authlib asks about it."""

    def __init__(self, row: RefreshToken) -> None:
        self.row = row

    def check_client(self, client: ClientView) -> bool:
        """Say whether the token was issued to this client."""
        return self.row.grant.client_id == client.row.id

    def get_scope(self) -> str:
        """Return what was granted."""
        return self.row.grant.scope


class ClientCredentialsGrant(stock.ClientCredentialsGrant):  # type: ignore[misc]
    """A service acts for itself."""

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = _AUTH_METHODS[:2]

    def generate_token(self, scope: str | None = None, **_: object) -> dict[str, Any]:
        """Return the answer for the scopes that the client is registered for."""
        client: Client = self.request.client.row
        granted = grants.allowed_scope(scope, client, None)
        if not granted:
            raise InvalidScopeError
        token = tokens.client_token(
            self.request.session,
            self.server.issuer,
            client_id=client.id,
            scope=granted,
            now=self.request.now,
        )
        return _bearer(self.server.issuer, token, granted)


class RevocationEndpoint(StockRevocationEndpoint):  # type: ignore[misc]
    """A client gives a token back (RFC 7009)."""

    CLIENT_AUTH_METHODS: ClassVar = _AUTH_METHODS

    def create_endpoint_response(
        self, request: OAuthRequest
    ) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """End what the token belongs to; an unknown token is no failure."""
        client: Client = self.authenticate_endpoint_client(request).row
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
        self.register_endpoint(RevocationEndpoint)
        self._issuer_parameter = IssuerParameter(issuer.url)
        self.register_extension(self._issuer_parameter)

    def query_client(self, client_id: str) -> ClientView | None:
        """Return the client; only used while a request of ours is at hand."""
        raise NotImplementedError(client_id)

    def create_oauth2_request(self, request: OAuthRequest) -> OAuthRequest:
        """Return the request, which is made before Authlib sees it."""
        return request

    def get_authorization_grant(self, request: OAuthRequest) -> AuthorizationCodeGrant:
        """Return the one grant that begins in a browser.

        Authlib would put the caller's text into the error; a quote in it is a crash.
        """
        asked = request.payload.data
        client = _find_client(request, asked.get("client_id"))
        if client is None:
            raise InvalidClientError(description="There is no such client.")
        uri = AuthorizationCodeGrant.validate_authorization_redirect_uri(
            request, client
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
        self, request: OAuthRequest, methods: list[str], _endpoint: str = "token"
    ) -> ClientView:
        """Return the client, which has proved who it is if it can.

        A wrong secret and an unknown client get the same answer after the same work.
        """
        client_id, candidates, method = _credentials(request)
        client = _find_client(request, client_id)
        row = client.row if client else None
        proved = clients.secret_matches(row, *candidates)
        if method == "none":
            proved = row is not None and row.secret_hash is None
        if client is None or not proved or method not in methods:
            raise InvalidClientError(
                "The client could not be authenticated.", status_code=401
            )
        request.auth_method = method
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
        return _find_client(self._request, client_id)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (all else is the server's)
        return getattr(self._server, name)


def token_parameters(request: Request) -> MultiDict[str, str]:
    """Return the parameters of a request to a token endpoint.

    :raises InvalidRequestError: they are not in the body, or not each there once.
    """
    if request.mimetype != "application/x-www-form-urlencoded":
        raise InvalidRequestError("Send the parameters as a form in the body.")
    if request.args:
        raise InvalidRequestError("Parameters in the address are not read.")
    parameters = request.form
    _refuse_ambiguous(parameters)
    if "Authorization" in request.headers and (
        "client_secret" in parameters or "client_assertion" in parameters
    ):
        raise InvalidRequestError("Authenticate the client in one way only.")
    return parameters


def authorization_parameters(
    parameters: MultiDict[str, str],
) -> MultiDict[str, str]:
    """Return the parameters of an authorization request.

    :raises InvalidRequestError: they are not each there once, or not plain text.
    """
    _refuse_ambiguous(parameters)
    return parameters


def final_scope(request: OAuthRequest) -> str:
    """Return what is granted: asked for, allowed to the client and to the person.

    :raises InvalidScopeError: that is nothing.
    """
    account: Account = request.user
    scope = grants.allowed_scope(
        request.payload.scope, request.client.row, account.roles
    )
    if not scope:
        raise InvalidScopeError(redirect_uri=request.payload.redirect_uri)
    return scope


def prompts(request: OAuthRequest) -> frozenset[str]:
    """Return what the client wants the person to be asked for.

    :raises InvalidRequestError: that is unknown or contradicts itself.
    """
    asked = frozenset(request.payload.data.get("prompt", "").split())
    if not asked <= PROMPTS or ("none" in asked and len(asked) > 1):
        raise InvalidRequestError("The prompt is not one we know.")
    return asked


def max_age(request: OAuthRequest) -> int | None:
    """Return how many seconds ago the password may have been given.

    :raises InvalidRequestError: it is no number of seconds.
    """
    text = request.payload.data.get("max_age")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidRequestError("The max_age must be a number of seconds.")
    return int(text)


def error_with(error: str, description: str, request: OAuthRequest) -> OAuth2Error:
    """Return an error that is sent to the client's redirect URI."""
    return OAuth2Error(
        description, error=error, redirect_uri=request.payload.redirect_uri
    )


def with_parameters(uri: str, **parameters: str | None) -> str:
    """Return the address with parameters added; those that are None are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return str(add_params_to_uri(uri, given)) if given else uri


def _token_answer(
    request: OAuthRequest,
    issuer: Issuer,
    account: Account,
    grant: TokenGrant,
    *,
    scope: str,
    nonce: str | None = None,
) -> dict[str, Any]:
    scope = grants.allowed_scope(scope, request.client.row, account.roles)
    if not scope:
        raise InvalidScopeError
    token = tokens.account_token(
        request.session,
        issuer,
        account=account,
        grant=grant,
        scope=scope,
        now=request.now,
    )
    answer = _bearer(issuer, token, scope)
    if "openid" in scope.split():
        answer["id_token"] = tokens.id_token(
            request.session,
            issuer,
            account=account,
            grant=grant,
            scope=scope,
            access_token=token,
            nonce=nonce,
            now=request.now,
        )
    return answer


def _bearer(issuer: Issuer, token: str, scope: str) -> dict[str, Any]:
    return {
        "token_type": "Bearer",
        "access_token": token,
        "expires_in": issuer.access_seconds,
        "scope": scope,
    }


def _enabled(session: Session, grant: TokenGrant) -> Account | None:
    return accounts.find_account_if_enabled(session, grant.account_id)


def _find_client(request: OAuthRequest, client_id: str | None) -> ClientView | None:
    row = clients.find_client(request.session, client_id or "")
    return ClientView(row) if row else None


def _credentials(request: OAuthRequest) -> tuple[str, list[str], str]:
    """Return the client's id, what may be its secret, and how it authenticates."""
    header = request.headers.get("Authorization")
    given_id = request.form.get("client_id", "")
    if header is not None:
        client_id, candidates = _basic(header)
        if given_id not in {"", client_id}:
            raise InvalidRequestError("The client_id is not the authenticated one.")
        return client_id, candidates, "client_secret_basic"
    if "client_secret" in request.form:
        return given_id, [request.form["client_secret"]], "client_secret_post"
    return given_id, [], "none"


def _basic(header: str) -> tuple[str, list[str]]:
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError("another scheme")
        text = base64.b64decode(encoded.strip(), validate=True).decode()
        client_id, colon, secret = text.partition(":")
        if not colon or _CONTROL.search(text):
            raise ValueError("no credentials")
    except (binascii.Error, ValueError) as error:
        raise InvalidClientError(
            "The Authorization header is not readable.", status_code=401
        ) from error
    # RFC 6749 section 2.3.1 wants both form-encoded; many clients do not do it.
    return unquote_plus(client_id), [secret, unquote_plus(secret)]


def _refuse_ambiguous(parameters: MultiDict[str, str]) -> None:
    for name, values in parameters.lists():
        if len(values) > 1:
            raise InvalidRequestError("A parameter is there more than once.")
        if _CONTROL.search(name) or _CONTROL.search(values[0]):
            raise InvalidRequestError("A parameter holds a control character.")
        if len(values[0]) > _VALUE_LENGTH_MAX:
            raise InvalidRequestError("A parameter is too long.")


def _refuse_unsupported(asked: MultiDict[str, str]) -> None:
    for name in ("request", "request_uri", "registration"):
        if name in asked:
            raise OAuth2Error(
                f"The parameter {name} is not supported.", error=f"{name}_not_supported"
            )
