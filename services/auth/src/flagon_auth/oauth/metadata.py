"""What we can do, for programs to read: OpenID Connect Discovery 1.0 and RFC 8414.

A test holds every member against what the endpoints do.
"""

from typing import Any

from flagon_auth.domain import accounts, clients, factors, keys, tokens
from flagon_auth.i18n import LANGUAGES
from flagon_chassis import dpop

from . import requests as oauth
from .grants import AUTH_METHODS, CONFIDENTIAL_METHODS


def server(issuer: str) -> dict[str, Any]:
    """Return the metadata of RFC 8414 and of the extensions that register there."""
    algs = list(clients.ASSERTION_ALGS)
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "pushed_authorization_request_endpoint": f"{issuer}/oauth/par",
        "device_authorization_endpoint": f"{issuer}/oauth/device_authorization",
        "token_endpoint": f"{issuer}/oauth/token",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "introspection_endpoint": f"{issuer}/oauth/introspect",
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "scopes_supported": [*accounts.IDENTITY_SCOPES, *accounts.API_SCOPES],
        "response_types_supported": list(oauth.RESPONSE_TYPES),
        "response_modes_supported": ["query"],
        "grant_types_supported": list(clients.GRANT_TYPES),
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "token_endpoint_auth_signing_alg_values_supported": algs,
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_signing_alg_values_supported": algs,
        "introspection_endpoint_auth_methods_supported": CONFIDENTIAL_METHODS,
        "introspection_endpoint_auth_signing_alg_values_supported": algs,
        "code_challenge_methods_supported": ["S256"],
        "dpop_signing_alg_values_supported": list(dpop.ALGORITHMS),
        "require_pushed_authorization_requests": False,
        "authorization_response_iss_parameter_supported": True,
        "ui_locales_supported": list(LANGUAGES),
    }


def provider(issuer: str) -> dict[str, Any]:
    """Return the metadata of OpenID Connect Discovery 1.0."""
    return {
        **server(issuer),
        "userinfo_endpoint": f"{issuer}/oauth/userinfo",
        "end_session_endpoint": f"{issuer}/oauth/end_session",
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [keys.ID_ALG, keys.ACCESS_ALG],
        "acr_values_supported": list(factors.ACR_VALUES),
        "display_values_supported": ["page"],
        "prompt_values_supported": sorted(oauth.PROMPTS),
        "claim_types_supported": ["normal"],
        "claims_supported": [
            *("iss", "sub", "aud", "exp", "iat", "auth_time", "nonce"),
            *("acr", "amr", "at_hash", "sid"),
            *tokens.CLAIM_SCOPES,
        ],
        "claims_parameter_supported": True,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
