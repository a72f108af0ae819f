"""Signing in and out, and the session's token for the gateway."""

from dataclasses import asdict
from typing import Any

import redis
import structlog
from flask import (
    Blueprint,
    Response,
    flash,
    jsonify,
    redirect,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue

from flagon_chassis.auth import open_route
from flagon_chassis.errors import Unavailable
from flagon_web.clients import backends
from flagon_web.clients.identity import (
    Attempt,
    LogoutRefused,
    SignedOut,
    SignInRefused,
)
from flagon_web.clients.sessions import SessionStoreDown
from flagon_web.i18n import gettext as _

from . import access

bp = Blueprint("account", __name__)
log = structlog.get_logger()

_SAFE = {"GET", "HEAD", "OPTIONS"}
_MOST_ATTEMPTS = 4


@bp.get("/sign-in")
@open_route
def sign_in() -> ResponseReturnValue:
    """Send the browser to auth, to come back to `next` signed in."""
    if access.current().down:
        raise SessionStoreDown(_("Signing in waits for it."), retry_after_seconds=2)
    next_page = access.own_page(request.args.get("next"))
    if access.visitor():
        return redirect(next_page, 303)
    attempt, location = backends().identity.begin(
        redirect_uri=url_for("account.callback", _external=True), next_page=next_page
    )
    # One per open tab; the oldest is forgotten first.
    pending = [known for known in session.get("sign_in", []) if isinstance(known, dict)]
    session["sign_in"] = [*pending, asdict(attempt)][-_MOST_ATTEMPTS:]
    return redirect(location, 303)


@bp.get("/callback")
@open_route
def callback() -> ResponseReturnValue:
    """Take auth's answer: check that it is ours, redeem the code, begin a session."""
    if access.current().down:
        raise SessionStoreDown(_("Signing in waits for it."), retry_after_seconds=2)
    attempt = _take_attempt(request.args.get("state", ""))
    identity = backends().identity
    identity.check_issuer(request.args.get("iss"))
    if "error" in request.args:
        log.info("sign_in_denied", error=request.args["error"][:60])
        flash(_("You were not signed in."), "warning")
        return redirect(attempt.next, 303)
    code = request.args.get("code", "")
    if not code:
        raise SignInRefused(_("The answer holds no code. Please try again."))
    person, tokens = identity.finish(attempt, code)
    # First a new id, then a new content: an id planted before sign-in opens nothing.
    ours = access.current()
    ours.rotate()
    ours.clear()
    ours.update(
        sub=person.sub,
        name=person.name,
        email=person.email,
        scopes=person.scopes,
        roles=person.roles,
        provider_sid=person.provider_sid,
    )
    ours.fresh_tokens = tokens
    log.info("signed_in", sub=person.sub)
    return redirect(attempt.next, 303)


def _take_attempt(state: str) -> Attempt:
    """Return the attempt that this answer belongs to, which is used up by that."""
    pending: list[dict[str, Any]] = session.get("sign_in", [])
    found = next((known for known in pending if known["state"] == state), None)
    if not state or found is None:
        raise SignInRefused(
            _("This sign-in was not begun in this browser, or too long ago.")
        )
    session["sign_in"] = [known for known in pending if known is not found]
    return Attempt(**found)


@bp.post("/sign-out")
@open_route
def sign_out() -> ResponseReturnValue:
    """End the session here and at auth, and make its tokens worthless."""
    ours = access.current()
    if ours.down:
        raise SessionStoreDown(_("Signing out waits for it."), retry_after_seconds=2)
    back_to = url_for("shop.home", _external=True)
    location = url_for("shop.home")
    tokens = backends().sessions.tokens(ours.sid) if ours.sid else None
    if tokens:
        identity = backends().identity
        identity.revoke(tokens)
        try:
            location = identity.sign_out_path(tokens.id_token, back_to=back_to)
        except Unavailable:
            # Our own session ends all the same.
            log.warning("sign_out_at_auth_failed")
    ours.clear()
    return redirect(location, 303)


@bp.post("/backchannel-logout")
@open_route
def backchannel_logout() -> ResponseReturnValue:
    """End the sessions here of a session that ended at auth, as auth tells us.

    OpenID Connect Back-Channel Logout 1.0: only auth can sign the token that says so.
    The gateway does not serve this to the outside.
    """
    try:
        ended = backends().identity.end_by_logout_token(
            request.form.get("logout_token", "")
        )
    except LogoutRefused as refused:
        log.warning("logout_token_refused", reason=refused.detail)
        answer = jsonify(error="invalid_request", error_description=refused.detail)
        answer.status_code = 400
    except redis.RedisError as error:
        raise SessionStoreDown("Tell us again.", retry_after_seconds=2) from error
    else:
        log.info("sessions_ended_by_auth", sessions=ended)
        answer = Response(status=200)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@bp.get("/internal/session")
@open_route
def exchange_session() -> ResponseReturnValue:
    """Tell the gateway the access token of the session whose cookie it was sent.

    The gateway serves nothing below `/internal/` to the outside. A request that changes
    something must prove that it comes from one of our pages.
    """
    response = Response(status=204)
    response.headers["Cache-Control"] = "no-store"
    ours = access.current()
    if ours.sid is None or "sub" not in ours:
        return response
    if request.headers.get("X-Original-Method", "GET") not in _SAFE and not _our_page():
        return Response(status=403, headers={"Cache-Control": "no-store"})
    try:
        token = backends().identity.access_token(ours.sid)
    except (SignedOut, Unavailable, redis.RedisError) as failure:
        # Without a token the request goes on as a stranger's, and is told so.
        log.info("session_without_token", reason=type(failure).__name__)
        return response
    response.headers["X-Access-Token"] = token
    return response


def _our_page() -> bool:
    origin = request.headers.get("Origin")
    if origin and origin != request.host_url.rstrip("/"):
        return False
    return access.holds_token(request.headers.get("X-CSRF-Token"))
