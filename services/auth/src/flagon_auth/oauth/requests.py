"""What a client or a browser asks: read strictly, before Authlib sees it."""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from authlib.oauth2.rfc6749 import (
    ClientMixin,
    InvalidClientError,
    InvalidRequestError,
    OAuth2Error,
    OAuth2Payload,
    OAuth2Request,
)
from flask import Request
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from flagon_auth.domain import clients, grants, tokens
from flagon_auth.models import Client

from . import assertions, claims
from .claims import Wanted

RESPONSE_TYPES = ("code",)
PROMPTS = frozenset({"none", "login", "consent", "select_account"})

# Postgres stores no NUL, and no honest parameter holds another control character.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VALUE_LENGTH_MAX = 4096
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class SignIn:
    """The sign-in session that an authorization is given in."""

    sid: str
    auth_time: datetime
    amr: list[str]
    acr: str


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
    :param issuer: our own name: where the request went is told from it.
    :param path: where the client sent it.
    :param dpop: the header of that name (RFC 9449).
    :param pushed: whether the client pushed it ahead (RFC 9126).
    """

    def __init__(
        self,
        session: Session,
        parameters: MultiDict[str, str],
        *,
        method: str,
        issuer: str,
        path: str = "/oauth/authorize",
        authorization: str | None = None,
        dpop: str | None = None,
        now: datetime,
        sign_in: SignIn | None = None,
        pushed: bool = False,
    ) -> None:
        headers = {"Authorization": authorization} if authorization else {}
        # Authlib insists on https here. The gateway ends TLS, and `Settings` decides
        # where plain http is acceptable.
        super().__init__(method, "https://gateway/", headers=headers)
        self.payload = Payload(parameters)
        self.session = session
        self.now = now
        self.sign_in = sign_in
        self.address = issuer + path
        self.audiences = {issuer, f"{issuer}/oauth/token", self.address}
        """What an assertion for this request may name as its audience."""
        self.dpop = dpop
        self.jkt: str | None = None
        """Thumbprint of the key that was proven, or that the code shall be bound to."""
        self.pushed = pushed
        self.issuer = issuer
        self.spent: list[tokens.Spent] = []
        self.replayed: grants.GrantReplayed | None = None
        """What shows that somebody has a copy of a code or a refresh token."""

    @property
    def wanted(self) -> Wanted:
        """What the client wants to know, and how sure it wants to be."""
        asked = self.payload.data
        return claims.read(asked.get("claims"), asked.get("acr_values"))

    @property
    def args(self) -> MultiDict[str, str]:
        """Return the parameters."""
        return self.payload.data

    @property
    def form(self) -> MultiDict[str, str]:
        """Return the parameters."""
        return self.payload.data


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
    ways = [
        "Authorization" in request.headers,
        "client_secret" in parameters,
        "client_assertion" in parameters or "client_assertion_type" in parameters,
    ]
    if sum(ways) > 1:
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


def find_client(request: OAuthRequest, client_id: str | None) -> ClientView | None:
    """Return the client, if there is one and it may do anything."""
    row = clients.find_client(request.session, client_id or "")
    return ClientView(row) if row and not row.disabled else None


@dataclass(frozen=True)
class Credentials:
    """What a client says about itself, to be checked."""

    client_id: str
    method: str
    """How it authenticates, by the name that RFC 7591 has for it."""
    secrets: tuple[str, ...] = ()
    """What may be its secret."""
    assertion: str = ""


def credentials(request: OAuthRequest) -> Credentials:
    """Return how the client authenticates, and by what.

    :raises OAuth2Error: it contradicts itself, or nobody can read it.
    """
    header = request.headers.get("Authorization")
    given_id = request.form.get("client_id", "")
    if header is not None:
        client_id, candidates = _basic(header)
        if given_id not in {"", client_id}:
            raise InvalidRequestError("The client_id is not the authenticated one.")
        return Credentials(client_id, "client_secret_basic", tuple(candidates))
    if "client_secret" in request.form:
        secret = request.form["client_secret"]
        return Credentials(given_id, "client_secret_post", (secret,))
    if "client_assertion_type" in request.form or "client_assertion" in request.form:
        if request.form.get("client_assertion_type") != _ASSERTION_TYPE:
            raise InvalidRequestError(
                "The client_assertion_type is not the JWT bearer."
            )
        assertion = request.form.get("client_assertion", "")
        client_id = assertions.subject(assertion)
        if given_id not in {"", client_id}:
            raise InvalidRequestError("The client_id is not the authenticated one.")
        return Credentials(client_id, "private_key_jwt", assertion=assertion)
    return Credentials(given_id, "none")


def _basic(header: str) -> tuple[str, list[str]]:
    scheme, _, encoded = header.partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    client_id, colon, secret = text.partition(":")
    if scheme.lower() != "basic" or not colon or _CONTROL.search(text):
        raise InvalidClientError(
            "The Authorization header is not readable.", status_code=401
        )
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


def refuse_unsupported(asked: MultiDict[str, str]) -> None:
    """Refuse what OpenID Connect lets a provider not have, by the errors it names."""
    for name in ("request", "request_uri", "registration"):
        if name in asked:
            raise OAuth2Error(
                f"The parameter {name} is not supported.", error=f"{name}_not_supported"
            )


def refuse_other_resources(request: OAuthRequest) -> None:
    """Refuse to give tokens for servers that are none of ours (RFC 8707).

    Ours are one audience, whatever address of theirs a client names.

    :raises OAuth2Error: `invalid_target`.
    """
    for resource in request.payload.data.getlist("resource"):
        if resource != request.issuer and not resource.startswith(request.issuer + "/"):
            raise OAuth2Error(
                "There are no tokens for this resource here.", error="invalid_target"
            )
