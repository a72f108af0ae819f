"""What OAuth clients call, and what sends people to sign in and back."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from apiflask import APIBlueprint
from authlib.oauth2.rfc6749 import AccessDeniedError, OAuth2Error
from flask import (
    Flask,
    Response,
    current_app,
    g,
    jsonify,
    redirect,
    render_template,
    request,
    session,
)
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from flagon_auth.clients import LoginSession, parts
from flagon_auth.domain import accounts, consents, keys, tokens
from flagon_auth.domain.addresses import form_target
from flagon_auth.forms import ActionForm
from flagon_auth.models import Account
from flagon_chassis import auth
from flagon_chassis.db import transaction

from . import requests as oauth
from .grants import AUTH_METHODS, final_scope
from .requests import OAuthRequest, SignIn
from .server import Server

bp = APIBlueprint("oauth", __name__, enable_openapi=False)

_REMEMBERED_CONSENTS = 5
# For caches on the way; verifiers keep keys for five minutes, and a key is published
# ten minutes before it signs.
_METADATA_SECONDS = 60


def own_keys(app: Flask) -> dict[str, Any]:
    """Return the public keys to auth itself, which checks tokens as all services do."""
    with app.app_context(), transaction() as db:
        return keys.published(db, parts().issuer.sealer, now=datetime.now(UTC))


def _server() -> Server:
    return cast("Server", current_app.extensions["flagon.oauth"])


def _login_session() -> LoginSession:
    return cast("LoginSession", session)


@dataclass(frozen=True)
class _Person:
    """Who is signed in, and since when."""

    account: Account
    sign_in: SignIn


def _person(db: Session) -> _Person | None:
    here = _login_session()
    if here.sid is None or here.auth_time is None:
        return None
    account = accounts.find_account_if_enabled(db, UUID(here["_user_id"]))
    if account is None:
        return None
    since = datetime.fromtimestamp(here.auth_time, tz=UTC)
    return _Person(account, SignIn(here.sid, since, here["amr"]))


@bp.get("/oauth/authorize")
@auth.open_route
def authorize() -> ResponseReturnValue:
    """Start an authorization: sign in if need be, ask if need be, send the code."""
    return _authorize(request.args)


@bp.post("/oauth/authorize")
@auth.open_route
def authorize_by_post() -> ResponseReturnValue:
    """Turn a posted authorization request into a GET.

    Browsers send no SameSite=Lax cookie with a POST from another site, but they do with
    the GET that follows.
    """
    try:
        asked = oauth.authorization_parameters(request.values)
    except OAuth2Error as error:
        return _error_page(error)
    return redirect(f"/oauth/authorize?{urlencode(list(asked.items()))}", 303)


def _authorize(parameters: MultiDict[str, str]) -> ResponseReturnValue:
    now = datetime.now(UTC)
    with transaction() as db:
        person = _person(db)
        try:
            asked = OAuthRequest(
                db,
                oauth.authorization_parameters(parameters),
                method="GET",
                now=now,
                sign_in=person.sign_in if person else None,
            )
            grant = _server().get_consent_grant(
                asked, end_user=person.account if person else None
            )
            if person is None or _must_sign_in_again(db, asked, person, now=now):
                return _to_sign_in(asked, parameters, now=now)
            scope = final_scope(asked)
            if _must_consent(db, asked, person, scope):
                return _ask_consent(asked, person, scope, parameters)
        except OAuth2Error as error:
            return _authorization_error(error, parameters)
        _login_session().pop("reauthentication", None)
        return cast(
            "Response",
            _server().create_authorization_response(
                asked, grant_user=person.account, grant=grant
            ),
        )


def _must_sign_in_again(
    db: Session, asked: OAuthRequest, person: _Person, *, now: datetime
) -> bool:
    """Say whether the request wants a fresher password than the session has."""
    given_at = person.sign_in.auth_time
    somebody_else = _means_somebody_else(db, asked, person)
    marker = session.get("reauthentication", {})
    if marker.get("request") == _digest(asked.payload.data):
        # This very request has sent the person to sign in before.
        if given_at.timestamp() < float(marker["since"]):
            return True
        if somebody_else:
            raise oauth.error_with("login_required", "Somebody else signed in.", asked)
        return False
    max_age = oauth.max_age(asked)
    too_old = max_age is not None and (now - given_at).total_seconds() > max_age
    wanted = bool(oauth.prompts(asked) & {"login", "select_account"})
    return too_old or wanted or somebody_else


def _means_somebody_else(db: Session, asked: OAuthRequest, person: _Person) -> bool:
    hint = asked.payload.data.get("id_token_hint")
    if not hint:
        return False
    try:
        meant = tokens.read_hint(db, parts().issuer, hint)
    except tokens.TokenUnreadable as error:
        raise oauth.error_with(
            "invalid_request", "The id_token_hint is not ours.", asked
        ) from error
    return meant.sub != str(person.account.id)


def _to_sign_in(
    asked: OAuthRequest, parameters: MultiDict[str, str], *, now: datetime
) -> ResponseReturnValue:
    if "none" in oauth.prompts(asked):
        raise oauth.error_with("login_required", "The person must sign in.", asked)
    session["reauthentication"] = {
        "request": _digest(asked.payload.data),
        "since": now.timestamp(),
    }
    here = f"/oauth/authorize?{urlencode(list(parameters.items()))}"
    query = {"next": here}
    if parameters.get("login_hint"):
        query["login_hint"] = parameters["login_hint"]
    return redirect(f"/login?{urlencode(query)}", 303)


def _must_consent(
    db: Session, asked: OAuthRequest, person: _Person, scope: str
) -> bool:
    prompts = oauth.prompts(asked)
    needed = "consent" in prompts or consents.needs_consent(
        db, account_id=person.account.id, client=asked.client.row, scope=scope
    )
    if needed and "none" in prompts:
        raise oauth.error_with("consent_required", "The person must agree.", asked)
    return needed


def _ask_consent(
    asked: OAuthRequest,
    person: _Person,
    scope: str,
    parameters: MultiDict[str, str],
) -> ResponseReturnValue:
    key = secrets.token_urlsafe(12)
    waiting = dict(session.get("consents", {}))
    waiting[key] = {"query": urlencode(list(parameters.items())), "scope": scope}
    session["consents"] = dict(list(waiting.items())[-_REMEMBERED_CONSENTS:])
    g.form_targets = [form_target(asked.payload.redirect_uri)]
    return render_template(
        "consent.html",
        form=ActionForm(data={"request": key}),
        client=asked.client.row,
        account=person.account,
        scopes=scope.split(),
    )


@bp.post("/oauth/consent")
@auth.open_route
def consent() -> ResponseReturnValue:
    """Carry out what the person chose on the consent page."""
    form = ActionForm()
    waiting = dict(session.get("consents", {}))
    chosen = waiting.pop(form.request.data or "", None)
    if chosen is None:
        return _error_page(
            OAuth2Error("The question was answered before; start again.")
        )
    session["consents"] = waiting
    parameters = MultiDict(parse_qsl(chosen["query"], keep_blank_values=True))
    now = datetime.now(UTC)
    with transaction() as db:
        person = _person(db)
        if person is None:
            return redirect(f"/oauth/authorize?{chosen['query']}", 303)
        asked = OAuthRequest(
            db, parameters, method="GET", now=now, sign_in=person.sign_in
        )
        try:
            grant = _server().get_consent_grant(asked, end_user=person.account)
            if form.choice.data != "allow":
                raise AccessDeniedError(redirect_uri=parameters["redirect_uri"])
        except OAuth2Error as error:
            return _authorization_error(error, parameters)
        consents.give_consent(
            db,
            account_id=person.account.id,
            client_id=asked.client.row.id,
            scope=chosen["scope"],
            now=now,
        )
        _login_session().pop("reauthentication", None)
        return cast(
            "Response",
            _server().create_authorization_response(
                asked, grant_user=person.account, grant=grant
            ),
        )


def _authorization_error(
    error: OAuth2Error, parameters: MultiDict[str, str]
) -> ResponseReturnValue:
    if error.redirect_uri:
        return _server().authorization_error(error, parameters.get("state"))
    return _error_page(error)


def _error_page(error: OAuth2Error) -> ResponseReturnValue:
    # Without a proven redirect URI the person is told and nobody else: a redirect to
    # an address that the request brought would be an open one.
    return (
        render_template(
            "error.html",
            status=400,
            title="This request cannot be carried out",
            detail=error.description,
        ),
        400,
    )


def _digest(parameters: MultiDict[str, str]) -> str:
    text = urlencode(sorted(parameters.items()))
    return hashlib.sha256(text.encode()).hexdigest()


@bp.post("/oauth/token")
@auth.open_route
def token() -> ResponseReturnValue:
    """Give tokens for a code, a refresh token or a client's own credentials."""
    return _client_request(_server().create_token_response)


@bp.post("/oauth/revoke")
@auth.open_route
def revoke() -> ResponseReturnValue:
    """Take back a token and what grew out of it (RFC 7009)."""
    return _client_request(partial(_server().create_endpoint_response, "revocation"))


def _client_request(respond: Callable[[OAuthRequest], Response]) -> Response:
    now = datetime.now(UTC)
    with transaction() as db:
        try:
            parameters = oauth.token_parameters(request)
        except OAuth2Error as error:
            return cast("Response", _server().handle_error_response(None, error))
        asked = OAuthRequest(
            db,
            parameters,
            method="POST",
            authorization=request.headers.get("Authorization"),
            now=now,
        )
        response = respond(asked)
    # Only what is committed may be refused elsewhere, and all of it must be.
    if asked.spent:
        parts().denylist.refuse_tokens(asked.spent, now=now)
    return response


@bp.route("/oauth/userinfo", methods=["GET", "POST"])
@auth.requires("openid", when_redis_down="allow")
def userinfo() -> ResponseReturnValue:
    """Return what the token's scopes tell about the person."""
    caller = auth.caller()
    with transaction() as db:
        account = accounts.find_account_if_enabled(db, UUID(caller.sub))
        if account is None:
            raise auth.TokenInvalid("The account is gone.")
        claims = tokens.person_claims(account, " ".join(caller.scopes))
    response = jsonify(claims)
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/.well-known/jwks.json")
@auth.open_route
def jwks() -> ResponseReturnValue:
    """Return the public keys, those that will sign next included."""
    with transaction() as db:
        found = keys.published(db, parts().issuer.sealer, now=datetime.now(UTC))
    return _cacheable(jsonify(found))


@bp.get("/.well-known/openid-configuration")
@auth.open_route
def openid_configuration() -> ResponseReturnValue:
    """Return the metadata of OpenID Connect Discovery 1.0."""
    issuer = parts().issuer.url
    return _cacheable(
        jsonify(
            {
                **_metadata(issuer),
                "userinfo_endpoint": f"{issuer}/oauth/userinfo",
                "end_session_endpoint": f"{issuer}/oauth/end_session",
                "backchannel_logout_supported": True,
                "backchannel_logout_session_supported": True,
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [keys.ID_ALG],
                "claim_types_supported": ["normal"],
                "claims_supported": [
                    *("iss", "sub", "aud", "exp", "iat", "auth_time", "nonce"),
                    *("amr", "at_hash", "sid", "name", "updated_at"),
                    *("email", "email_verified"),
                ],
                "claims_parameter_supported": False,
                "request_parameter_supported": False,
                "request_uri_parameter_supported": False,
                "prompt_values_supported": sorted(oauth.PROMPTS),
            }
        )
    )


@bp.get("/.well-known/oauth-authorization-server")
@auth.open_route
def authorization_server() -> ResponseReturnValue:
    """Return the metadata of RFC 8414."""
    return _cacheable(jsonify(_metadata(parts().issuer.url)))


def _metadata(issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "scopes_supported": [*accounts.IDENTITY_SCOPES, *accounts.API_SCOPES],
        "response_types_supported": list(oauth.RESPONSE_TYPES),
        "response_modes_supported": ["query"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
        ],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }


def _cacheable(response: Response) -> Response:
    response.headers["Cache-Control"] = f"public, max-age={_METADATA_SECONDS}"
    return response
