"""Sign-out, by the person or by a client (OpenID Connect RP-Initiated Logout 1.0)."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from apiflask import APIBlueprint
from authlib.common.urls import add_params_to_uri
from flask import g, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from flask_login import current_user
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from flagon_auth.clients import LoginSession, parts
from flagon_auth.domain import clients, devices, grants, tokens
from flagon_auth.domain.addresses import form_target
from flagon_auth.forms import ActionForm
from flagon_auth.i18n import gettext as _
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import end, login_session

bp = APIBlueprint("sign_out", __name__, enable_openapi=False)

_PARAMETERS = (
    "id_token_hint",
    "logout_hint",
    "client_id",
    "post_logout_redirect_uri",
    "state",
    "ui_locales",
)


class _Wrong(Exception):
    """The client made a mistake, so the browser is not sent back to it."""


@dataclass(frozen=True)
class _Asked:
    """A logout request that is sound."""

    target: str
    """Where to go afterwards: registered by the client; empty: nowhere."""
    sid: str = ""
    """The session that the client's ID token is from, if it showed one."""
    account_id: UUID | None = None
    """Whose that is."""
    abandoned: bool = False
    """Whether tokens are all that is left of that session."""

    def means(self, here: LoginSession, logout_hint: str | None) -> bool:
        """Say whether the session ends without a question.

        It does if it is the one of this browser. One that no browser has any more ends
        as well, with what is left of it. But one that lives in another browser is not
        ended from here: an ID token that leaked would sign its owner out.

        :param logout_hint: whom the client means: a name that we gave, or an address.
        """
        if here.sid is None:
            return self.abandoned
        names = {self.sid, str(self.account_id)}
        if current_user.is_authenticated:
            names.add(current_user.account.email_key)
        meant = logout_hint is None or logout_hint.strip().casefold() in names
        return here.sid == self.sid and meant


@bp.route("/logout", methods=["GET", "POST"])
@bp.route("/oauth/end_session", methods=["GET", "POST"])
@auth.open_route
def logout() -> ResponseReturnValue:
    """Sign out, asked by the person or by a client (RP-Initiated Logout 1.0).

    A client that proves with an ID token which session it means is obeyed; otherwise
    the person is asked, because any page on the web can send a browser here.
    """
    here = login_session()
    given = _given()
    if request.method == "POST" and here.sid is None:
        # Browsers send no SameSite=Lax cookie with a POST from another site, but they do
        # with the GET that follows: who is signed in is known only then.
        return redirect(f"/oauth/end_session?{urlencode(given)}", 303)
    with transaction() as db:
        try:
            asked = _read(db, given)
        except _Wrong as wrong:
            return _question("", mistake=str(wrong)), 400
    if asked.means(here, given.get("logout_hint")):
        end(asked.sid, "signed out by a client", account_id=asked.account_id)
        here.end()
    elif here.sid is not None:
        return _question(asked.target)
    return _onward(asked.target)


@bp.post("/account/sign-out")
@auth.open_route
def sign_out() -> ResponseReturnValue:
    """Sign out; the person has pressed the button."""
    here = login_session()
    waiting = here.get("signing_out", {})
    # Only the page that was asked leads back to the client, none that comes later.
    known = ActionForm().request.data == waiting.get("key")
    target = waiting["target"] if waiting and known else ""
    if here.sid:
        end(here.sid, "signed out")
    here.end()
    return _onward(target)


def _given() -> MultiDict[str, str]:
    """Return what the request says; a parameter that is there twice says nothing."""
    everything = request.values
    return MultiDict(
        (name, values[0])
        for name in _PARAMETERS
        for values in [everything.getlist(name)]
        if len(values) == 1 and values[0]
    )


def _read(db: Session, given: MultiDict[str, str]) -> _Asked:
    """Return what is asked for.

    :raises _Wrong: it cannot be believed; section 4 forbids to send anybody back then.
    """
    hint = None
    if "id_token_hint" in given:
        try:
            hint = tokens.read_hint(db, parts().issuer, given["id_token_hint"])
        except tokens.TokenUnreadable as error:
            raise _Wrong(_("It showed no ID token of ours.")) from error
    client_id = given.get("client_id", hint.client_id if hint else "")
    if hint and client_id != hint.client_id:
        raise _Wrong(_("It showed an ID token of another program."))
    target = _target(db, client_id, given)
    if hint is None or hint.sid is None:
        return _Asked(target)
    # A device never had a browser; what it has is ended by itself or by its owner.
    abandoned = (
        not hint.sid.startswith(devices.SID_PREFIX)
        and not parts().sessions.lives(hint.sid)
        and grants.session_has_grants(db, hint.sid, now=datetime.now(UTC))
    )
    return _Asked(target, hint.sid, UUID(hint.sub), abandoned)


def _target(db: Session, client_id: str, given: MultiDict[str, str]) -> str:
    uri = given.get("post_logout_redirect_uri", "")
    if not uri:
        return ""
    client = clients.find_client(db, client_id)
    if client is None or client.disabled:
        # Nobody is known who could have registered the address (section 3).
        raise _Wrong(_("It did not say which program it is."))
    if uri not in client.post_logout_redirect_uris:
        raise _Wrong(_("It is not registered for the address it named."))
    if "state" in given:
        return str(add_params_to_uri(uri, {"state": given["state"]}))
    return uri


def _question(target: str, *, mistake: str = "") -> str:
    """Return the page that asks whether to sign out, or says that nobody is signed in."""
    if login_session().sid is None:
        return render_template("signed_out.html", mistake=mistake)
    key = secrets.token_urlsafe(12)
    session["signing_out"] = {"key": key, "target": target}
    g.form_targets = [form_target(target)] if target else []
    known = current_user.account.email if current_user.is_authenticated else ""
    form = ActionForm(formdata=None, data={"request": key})
    return render_template("logout.html", form=form, email=known, mistake=mistake)


def _onward(target: str) -> ResponseReturnValue:
    if target:
        return redirect(target, 303)
    return render_template("signed_out.html")
