"""Tokens that are bound to a key of the client (DPoP, RFC 9449): the provider's side."""

import re
from datetime import timedelta

from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidRequestError, OAuth2Error

from flagon_auth.domain import clients, proofs
from flagon_auth.models import Client, TokenGrant
from flagon_chassis import dpop

from .requests import OAuthRequest

_THUMBPRINT = re.compile(r"\A[A-Za-z0-9_-]{43}\Z")


def proven_key(request: OAuthRequest) -> str | None:
    """Return the thumbprint of the key that a request proves to hold, None without proof.

    :raises OAuth2Error: `invalid_dpop_proof`.
    """
    if request.dpop is None:
        return None
    try:
        proof = dpop.check(
            request.dpop,
            method=request.method,
            url=request.address,
            now=request.now.timestamp(),
        )
    except dpop.ProofInvalid as invalid:
        raise _refused(invalid.detail) from invalid
    until = request.now + timedelta(seconds=dpop.REMEMBERED_SECONDS)
    if not proofs.use_once(request.session, "dpop", proof.jkt, proof.jti, until=until):
        raise _refused("The proof was used before; each works once.")
    return proof.jkt


def require_key(request: OAuthRequest, client: Client) -> None:
    """Learn which key the tokens of this answer are bound to.

    :raises OAuth2Error: the proof is bad, or missing where the client must have one.
    """
    request.jkt = proven_key(request)
    if client.dpop_bound_access_tokens and request.jkt is None:
        raise _refused("This client gets tokens only with a DPoP proof.")


def asked_key(request: OAuthRequest) -> str | None:
    """Return the thumbprint that an authorization request wants its code bound to.

    :raises OAuth2Error: it is none, or not the one that the request itself proves.
    """
    named: str | None = request.payload.data.get("dpop_jkt")
    if named is not None and not _THUMBPRINT.match(named):
        raise InvalidRequestError("The dpop_jkt is not a SHA-256 thumbprint.")
    if named is not None and request.jkt not in {None, named}:
        raise _refused("The dpop_jkt is not the key of the proof.")
    return named or request.jkt


def bind(request: OAuthRequest, grant: TokenGrant, code_jkt: str | None = None) -> None:
    """Bind a grant to the key that the request proves, or see that it is the same.

    A grant that began bound stays so. The refresh tokens of a public client need the
    very key: nothing else protects them. A confidential client proves who it is anyway
    and may change its key (RFC 9449 section 5).

    :param code_jkt: the key that the code was bound to.
    :raises OAuth2Error: the proof is missing, or by another key.
    """
    if code_jkt is not None and request.jkt != code_jkt:
        raise InvalidGrantError("The code is bound to another DPoP key.")
    if grant.dpop_jkt is not None:
        if request.jkt is None:
            raise _refused("The grant is bound to a DPoP key: send a proof.")
        if clients.is_public(request.client.row) and request.jkt != grant.dpop_jkt:
            raise InvalidGrantError("The refresh token is bound to another DPoP key.")
    grant.dpop_jkt = request.jkt


def _refused(description: str) -> OAuth2Error:
    return OAuth2Error(description, error="invalid_dpop_proof")
