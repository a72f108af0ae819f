"""Clients of single tests, and the assertions that they sign."""

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from flagon_auth.domain import clients
from flagon_auth.domain.clients import Registration
from flagon_chassis import db

from .conftest import CALLBACK, ISSUER

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRET = "p" * 40
EC = ECKey.generate_key("P-256", {"kid": "ec", "use": "sig", "alg": "ES256"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})


def jwks(*keys):
    return {"keys": [key.as_dict(private=False) for key in keys or (EC, RSA)]}


def register(app, client_id, **changes):
    """Register a client that may do everything, and return its id."""
    given = {
        "name": "Test",
        "client_secret": SECRET,
        "redirect_uris": [CALLBACK],
        "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
        "scope": "openid profile email offline_access reviews:write jobs:read",
        "first_party": True,
        **changes,
    }
    if given.get("token_endpoint_auth_method") == "private_key_jwt":
        given = {"jwks": jwks(), **given, "client_secret": None}
    if given["client_secret"] is None and "jwks" not in given:
        given["grant_types"] = ["authorization_code", "refresh_token"]
    with app.app_context(), db.transaction() as session:
        clients.put_client(
            session, Registration(client_id, **given), now=datetime.now(UTC)
        )
    return client_id


def assertion(client_id, key=EC, *, alg="ES256", header=None, **claims):
    """Return a client assertion; a claim or header given as None is left out."""
    now = int(time.time())
    payload = {
        "iss": client_id,
        "sub": client_id,
        "aud": ISSUER,
        "jti": uuid4().hex,
        "iat": now,
        "exp": now + 60,
        **claims,
    }
    head = {"alg": alg, "kid": key.kid, **(header or {})}
    return jws.serialize_compact(
        {name: value for name, value in head.items() if value is not None},
        json.dumps({name: one for name, one in payload.items() if one is not None}),
        key,
        [alg],
    )


def asserted(client_id, **changes):
    """Return the form fields by which a client proves who it is."""
    return {
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion(client_id, **changes),
    }


def post(app, path, headers=None, **form):
    given = {name: value for name, value in form.items() if value is not None}
    return app.test_client().post(path, data=given, headers=headers)
