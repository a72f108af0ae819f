"""How Authlib's grants work here: each step is a call of the domain.

What Authlib accepts and RFC 9700 does not is refused: PKCE that is missing or not S256.
"""

import hmac
import re
from typing import Any, ClassVar

from authlib.oauth2.rfc6749 import (
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
)
from authlib.oauth2.rfc6749 import (
    grants as stock,
)
from authlib.oauth2.rfc7636 import (
    CodeChallenge as StockCodeChallenge,
)
from authlib.oauth2.rfc7636 import (
    create_s256_code_challenge,
)
from sqlalchemy.orm import Session

from flagon_auth.domain import accounts, grants, tokens
from flagon_auth.domain.tokens import Issuer
from flagon_auth.models import (
    Account,
    AuthorizationCode,
    Client,
    RefreshToken,
    TokenGrant,
)

from . import dpop
from .requests import (
    ClientView,
    OAuthRequest,
    max_age,
    prompts,
    refuse_other_resources,
    refuse_unsupported,
)

AUTH_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
CONFIDENTIAL_METHODS = AUTH_METHODS[:-1]

# PKCE's S256 challenge is 32 bytes in base64url.
_CHALLENGE = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")


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

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = AUTH_METHODS
    AUTHORIZATION_CODE_LENGTH = 48

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
            refuse_unsupported(self.request.payload.data)
            prompts(self.request)
            max_age(self.request)
            refuse_other_resources(self.request)
            _ = self.request.wanted
            dpop.asked_key(self.request)
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
            acr=sign_in.acr,
            code=code,
            dpop_jkt=dpop.asked_key(request),
            claims=granted_claims(request),
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
            request.replayed = replayed
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
        dpop.bind(self.request, code.grant, code.dpop_jkt)
        grants.use_code(code, now=self.request.now)
        answer = token_answer(
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

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = AUTH_METHODS
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
            request.replayed = replayed
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
        dpop.bind(self.request, used.grant)
        answer = token_answer(
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

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = CONFIDENTIAL_METHODS

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
            jkt=self.request.jkt,
            now=self.request.now,
        )
        return _answer(self.request, self.server.issuer, token, granted)


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


def granted_claims(request: OAuthRequest) -> dict[str, list[str]]:
    """Return the single claims that the client may know, by where they go.

    They are worth the scope that would bring them: the client must be registered for
    it, and people are asked about it.
    """
    registered = set(request.client.row.scope.split())
    found = {
        place: [name for name in names if tokens.CLAIM_SCOPES[name] in registered]
        for place, names in request.wanted.names.items()
    }
    return {place: names for place, names in found.items() if names}


def token_answer(
    request: OAuthRequest,
    issuer: Issuer,
    account: Account,
    grant: TokenGrant,
    *,
    scope: str,
    nonce: str | None = None,
) -> dict[str, Any]:
    """Return the tokens of a grant that was bound (`dpop.bind`) before.

    :raises InvalidScopeError: the roles of the account allow nothing of it any more.
    """
    scope = grants.allowed_scope(scope, request.client.row, account.roles)
    if not scope:
        raise InvalidScopeError
    token = tokens.account_token(
        request.session,
        issuer,
        account=account,
        grant=grant,
        scope=scope,
        jkt=request.jkt,
        now=request.now,
    )
    answer = _answer(request, issuer, token, scope)
    if "openid" in scope.split():
        answer["id_token"] = tokens.id_token(
            request.session,
            issuer,
            account=account,
            grant=grant,
            scope=scope,
            access_token=token,
            alg=request.client.row.id_token_signed_response_alg,
            nonce=nonce,
            now=request.now,
        )
    return answer


def _answer(
    request: OAuthRequest, issuer: Issuer, token: str, scope: str
) -> dict[str, Any]:
    return {
        "token_type": "DPoP" if request.jkt else "Bearer",
        "access_token": token,
        "expires_in": issuer.access_seconds,
        "scope": scope,
    }


def _enabled(session: Session, grant: TokenGrant) -> Account | None:
    return accounts.find_account_if_enabled(session, grant.account_id)
