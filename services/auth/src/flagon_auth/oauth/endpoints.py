"""What OAuth clients call, and what sends people to sign in and back."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import structlog
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

from flagon_auth import keeper
from flagon_auth.clients import LoginSession, parts
from flagon_auth.domain import (
    accounts,
    audit,
    consents,
    factors,
    grants,
    pushed,
    tokens,
)
from flagon_auth.domain.addresses import form_target
from flagon_auth.forms import ActionForm
from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account
from flagon_chassis import auth
from flagon_chassis.db import transaction

from . import metadata, par
from . import requests as oauth
from .grants import final_scope, granted_claims
from .requests import OAuthRequest, SignIn
from .server import Server

R = TypeVar("R")

log = structlog.get_logger()

bp = APIBlueprint("oauth", __name__, enable_openapi=False)

# How many requests of one browser wait for its person at a time.
_REMEMBERED_REQUESTS = 5
# For caches on the way; verifiers keep keys for five minutes, and a key is published
# ten minutes before it signs.
_METADATA_SECONDS = 60


def own_keys(app: Flask) -> dict[str, Any]:
    """Return the public keys to auth itself, which checks tokens as all services do."""
    with app.app_context():
        return keeper.published(now=datetime.now(UTC))


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
    return _Person(account, SignIn(here.sid, since, here["amr"], here.acr))


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


def _authorize(brought: MultiDict[str, str]) -> ResponseReturnValue:
    now = datetime.now(UTC)
    parameters: MultiDict[str, str] = MultiDict()
    with transaction() as db:
        person = _person(db)
        try:
            asked = _read(db, brought, person, now=now)
            parameters = asked.payload.data
            grant = _server().get_consent_grant(
                asked, end_user=person.account if person else None
            )
            if person is None or _must_sign_in_again(db, asked, person, now=now):
                return _to_sign_in(asked, brought, now=now)
            if _must_step_up(db, asked, person):
                return redirect(
                    f"/login/mfa?{urlencode({'next': _here(asked, brought)})}", 303
                )
            scope = final_scope(asked)
            if _must_consent(db, asked, person, scope):
                return _ask_consent(asked, person, scope)
        except OAuth2Error as error:
            _finish(brought)
            return _authorization_error(error, parameters)
        _finish(brought)
        return cast(
            "Response",
            _server().create_authorization_response(
                asked, grant_user=person.account, grant=grant
            ),
        )


def _read(
    db: Session, brought: MultiDict[str, str], person: _Person | None, *, now: datetime
) -> OAuthRequest:
    """Return what the browser brought, or what was pushed ahead and it refers to.

    :raises OAuth2Error: it is ambiguous, or the reference is not good (any more).
    """
    parameters, jkt = oauth.authorization_parameters(brought), None
    referred = par.is_reference(parameters)
    if referred:
        parameters, jkt = _pushed_request(db, parameters, now=now)
    asked = OAuthRequest(
        db,
        parameters,
        method="GET",
        issuer=parts().issuer.url,
        now=now,
        sign_in=person.sign_in if person else None,
        pushed=referred,
    )
    asked.jkt = jkt
    return asked


def _pushed_request(
    db: Session, parameters: MultiDict[str, str], *, now: datetime
) -> tuple[MultiDict[str, str], str | None]:
    """Return a pushed request; the browser that brought it first keeps it meanwhile.

    The reference works once. But a person may have to sign in first, which takes longer
    than it lives, and comes back with it.
    """
    client_id, name = parameters.get("client_id", ""), _reference(parameters)
    here = session.get("pushed", {})
    if name not in here or here[name]["client_id"] != client_id:
        try:
            found, jkt = pushed.take(
                db, parameters["request_uri"], client_id=client_id, now=now
            )
        except pushed.PushedRequestUnknown as unknown:
            raise OAuth2Error(unknown.detail, error="invalid_request_uri") from unknown
        here = {**here, name: {"client_id": client_id, "asked": found, "jkt": jkt}}
        session["pushed"] = dict(list(here.items())[-_REMEMBERED_REQUESTS:])
    return MultiDict(here[name]["asked"]), here[name]["jkt"]


def _reference(parameters: MultiDict[str, str]) -> str:
    return hashlib.sha256(parameters["request_uri"].encode()).hexdigest()


def _finish(brought: MultiDict[str, str]) -> None:
    """Forget what was kept in the session for a request that is answered now."""
    here = _login_session()
    if "reauthentication" in here:
        here.pop("reauthentication")
    waiting = here.get("pushed", {})
    if waiting and par.is_reference(brought):
        name = _reference(brought)
        here["pushed"] = {key: one for key, one in waiting.items() if key != name}


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
    here = str(person.account.id)
    if asked.wanted.sub not in {None, here}:
        return True
    hint = asked.payload.data.get("id_token_hint")
    if not hint:
        return False
    try:
        meant = tokens.read_hint(db, parts().issuer, hint)
    except tokens.TokenUnreadable as error:
        raise oauth.error_with(
            "invalid_request", "The id_token_hint is not ours.", asked
        ) from error
    return meant.sub != here


def _must_step_up(db: Session, asked: OAuthRequest, person: _Person) -> bool:
    """Say whether a second factor is wanted that the person has and has not used.

    :raises OAuth2Error: it is essential, and cannot be had.
    """
    wanted = asked.wanted
    known = [acr for acr in wanted.acr if acr in factors.ACR_VALUES]
    reached = factors.ACR_VALUES.index(person.sign_in.acr)
    # A stronger sign-in than asked for is as good.
    good = [acr for acr in known if factors.ACR_VALUES.index(acr) <= reached]
    if (good and good[0] == known[0]) or not (known or wanted.acr_essential):
        return False
    able = bool(known) and factors.find_factors(db, person.account.id).second_step
    silent = "none" in oauth.prompts(asked)
    if able and not silent:
        return True
    if good or not wanted.acr_essential:
        return False
    if able:
        raise oauth.error_with("login_required", "A second factor is needed.", asked)
    raise oauth.error_with(
        "unmet_authentication_requirements",
        "The person cannot sign in as surely as that.",
        asked,
    )


def _to_sign_in(
    asked: OAuthRequest, brought: MultiDict[str, str], *, now: datetime
) -> ResponseReturnValue:
    if "none" in oauth.prompts(asked):
        raise oauth.error_with("login_required", "The person must sign in.", asked)
    session["reauthentication"] = {
        "request": _digest(asked.payload.data),
        "since": now.timestamp(),
    }
    query = {"next": _here(asked, brought)}
    login_hint = asked.payload.data.get("login_hint")
    if login_hint:
        query["login_hint"] = login_hint
    return redirect(f"/login?{urlencode(query)}", 303)


def _here(asked: OAuthRequest, brought: MultiDict[str, str]) -> str:
    """Return our address that carries the request on, after something else."""
    parameters = dict(brought.items())
    if asked.pushed:
        # For our own pages, which need to know where this ends and in which language;
        # the request itself stays the pushed one.
        for name in ("redirect_uri", "ui_locales"):
            if name in asked.payload.data:
                parameters[name] = asked.payload.data[name]
    return f"/oauth/authorize?{urlencode(list(parameters.items()))}"


def _must_consent(
    db: Session, asked: OAuthRequest, person: _Person, scope: str
) -> bool:
    prompts = oauth.prompts(asked)
    needed = "consent" in prompts or consents.needs_consent(
        db,
        account_id=person.account.id,
        client=asked.client.row,
        scope=_agreed_scope(asked, scope),
    )
    if needed and "none" in prompts:
        raise oauth.error_with("consent_required", "The person must agree.", asked)
    return needed


def _agreed_scope(asked: OAuthRequest, scope: str) -> str:
    """Return what people agree to: single claims count as the scope that brings them."""
    named = {
        tokens.CLAIM_SCOPES[name]
        for names in granted_claims(asked).values()
        for name in names
    }
    return " ".join([*scope.split(), *sorted(named - set(scope.split()))])


def _ask_consent(
    asked: OAuthRequest, person: _Person, scope: str
) -> ResponseReturnValue:
    key = secrets.token_urlsafe(12)
    agreed = _agreed_scope(asked, scope)
    waiting = dict(session.get("consents", {}))
    waiting[key] = {
        "query": urlencode(list(asked.payload.data.items())),
        "scope": agreed,
        "pushed": asked.pushed,
        "jkt": asked.jkt,
    }
    session["consents"] = dict(list(waiting.items())[-_REMEMBERED_REQUESTS:])
    g.form_targets = [form_target(asked.payload.redirect_uri)]
    return render_template(
        "consent.html",
        form=ActionForm(data={"request": key}),
        client=asked.client.row,
        account=person.account,
        scopes=agreed.split(),
        agreed=_agreed_before(asked, person),
    )


def _agreed_before(asked: OAuthRequest, person: _Person) -> set[str]:
    """Return what the person let the client do before, to tell it from what is new."""
    agreed = consents.agreed_scope(
        asked.session, account_id=person.account.id, client_id=asked.client.row.id
    )
    return set(agreed.split())


@bp.post("/oauth/consent")
@auth.open_route
def consent() -> ResponseReturnValue:
    """Carry out what the person chose on the consent page."""
    form = ActionForm()
    waiting = dict(session.get("consents", {}))
    chosen = waiting.pop(form.request.data or "", None)
    if chosen is None:
        return _page_of_error(_("The question was answered before. Start again."))
    session["consents"] = waiting
    parameters = MultiDict(parse_qsl(chosen["query"], keep_blank_values=True))
    now = datetime.now(UTC)
    with transaction() as db:
        person = _person(db)
        if person is None:
            # A pushed request is used up; its client begins anew.
            return redirect(f"/oauth/authorize?{chosen['query']}", 303)
        asked = OAuthRequest(
            db,
            parameters,
            method="GET",
            issuer=parts().issuer.url,
            now=now,
            sign_in=person.sign_in,
            pushed=chosen["pushed"],
        )
        asked.jkt = chosen["jkt"]
        try:
            grant = _server().get_consent_grant(asked, end_user=person.account)
            if form.choice.data != "allow":
                raise AccessDeniedError(redirect_uri=parameters["redirect_uri"])
        except OAuth2Error as error:
            _finish(parameters)
            return _authorization_error(error, parameters)
        consents.give_consent(
            db,
            account_id=person.account.id,
            client_id=asked.client.row.id,
            scope=chosen["scope"],
            now=now,
        )
        _finish(parameters)
        response = cast(
            "Response",
            _server().create_authorization_response(
                asked, grant_user=person.account, grant=grant
            ),
        )
        audit.record(
            db,
            "consent_given",
            account_id=person.account.id,
            actor=str(person.account.id),
            address=request.remote_addr,
            now=now,
            client=asked.client.row.id,
            scope=chosen["scope"],
        )
        return response


def _authorization_error(
    error: OAuth2Error, parameters: MultiDict[str, str]
) -> ResponseReturnValue:
    if error.redirect_uri:
        return _server().authorization_error(error, parameters.get("state"))
    return _error_page(error)


def _error_page(error: OAuth2Error) -> ResponseReturnValue:
    return _page_of_error(
        _(
            "The program that sent you here made a mistake, which you cannot mend."
            " Its makers may want to know: %(detail)s",
            detail=error.description or error.error,
        )
    )


def _page_of_error(detail: str) -> ResponseReturnValue:
    # Without a proven redirect URI the person is told and nobody else: a redirect to
    # an address that the request brought would be an open one.
    title = _("This request cannot be carried out")
    return render_template("error.html", status=400, title=title, detail=detail), 400


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


@bp.post("/oauth/introspect")
@auth.open_route
def introspect() -> ResponseReturnValue:
    """Tell a client what a token is worth (RFC 7662)."""
    return _client_request(partial(_server().create_endpoint_response, "introspection"))


@bp.post("/oauth/par")
@auth.open_route
def push() -> ResponseReturnValue:
    """Take an authorization request from a client before its browser comes (RFC 9126)."""
    return _client_request(
        partial(_server().create_endpoint_response, "pushed_authorization_request")
    )


@bp.post("/oauth/device_authorization")
@auth.open_route
def authorize_device() -> ResponseReturnValue:
    """Let a device wait until somebody lets it in elsewhere (RFC 8628)."""
    return _client_request(
        partial(_server().create_endpoint_response, "device_authorization")
    )


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
            issuer=parts().issuer.url,
            path=request.path,
            authorization=request.headers.get("Authorization"),
            dpop=request.headers.get("DPoP"),
            now=now,
        )
        response = respond(asked)
        if asked.replayed is not None and asked.replayed.first:
            _record_replay(db, asked.replayed, now=now)
    # Only what is committed may be refused elsewhere, and all of it must be.
    if asked.spent:
        parts().denylist.refuse_tokens(asked.spent, now=now)
    return response


def _record_replay(
    db: Session, replayed: grants.GrantReplayed, *, now: datetime
) -> None:
    log.warning("token_replayed", client=replayed.grant.client_id)
    audit.record(
        db,
        "token_replayed",
        account_id=replayed.grant.account_id,
        actor=replayed.grant.client_id,
        address=request.remote_addr,
        now=now,
        client_id=replayed.grant.client_id,
        sid=replayed.grant.sid,
    )


def _token_in_body(view: Callable[[], R]) -> Callable[[], R | Response]:
    """Let the access token be in a posted form as well (RFC 6750 section 2.2)."""

    @wraps(view)
    def reading() -> R | Response:
        given = request.form.getlist("access_token")
        if given and request.method == "POST":
            if "Authorization" in request.headers or len(given) > 1:
                return _ambiguous_token()
            request.environ["HTTP_AUTHORIZATION"] = f"Bearer {given[0]}"
        return view()

    return reading


def _ambiguous_token() -> Response:
    response = jsonify(error="invalid_request", error_description="Send one token.")
    response.status_code = 400
    response.headers["WWW-Authenticate"] = 'Bearer error="invalid_request"'
    return response


@bp.route("/oauth/userinfo", methods=["GET", "POST"])
@auth.open_route
@_token_in_body
@auth.requires("openid", when_redis_down="allow")
def userinfo() -> ResponseReturnValue:
    """Return what the token's scopes tell about the person."""
    caller = auth.caller()
    with transaction() as db:
        account = accounts.find_account_if_enabled(db, UUID(caller.sub))
        if account is None:
            raise auth.TokenInvalid("The account is gone.")
        grant = grants.find_by_access_token(db, UUID(caller.claims["jti"]))
        named = ((grant and grant.claims) or {}).get("userinfo", ())
        claims = tokens.person_claims(account, " ".join(caller.scopes), named)
    response = jsonify(claims)
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/.well-known/jwks.json")
@auth.open_route
def jwks() -> ResponseReturnValue:
    """Return the public keys, those that will sign next included."""
    return _cacheable(jsonify(keeper.published(now=datetime.now(UTC))))


@bp.get("/.well-known/openid-configuration")
@auth.open_route
def openid_configuration() -> ResponseReturnValue:
    """Return the metadata of OpenID Connect Discovery 1.0."""
    return _cacheable(jsonify(metadata.provider(parts().issuer.url)))


@bp.get("/.well-known/oauth-authorization-server")
@auth.open_route
def authorization_server() -> ResponseReturnValue:
    """Return the metadata of RFC 8414."""
    return _cacheable(jsonify(metadata.server(parts().issuer.url)))


def _cacheable(response: Response) -> Response:
    # An old answer may serve while a new one comes, and for a day while we are away:
    # whoever verifies tokens can go on. A key that was dropped is refused all the same,
    # by the denylist.
    response.headers["Cache-Control"] = (
        f"public, max-age={_METADATA_SECONDS},"
        f" stale-while-revalidate={_METADATA_SECONDS}, stale-if-error=86400"
    )
    response.add_etag()
    return cast("Response", response.make_conditional(request))
