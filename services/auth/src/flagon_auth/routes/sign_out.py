"""Sign-out, by the person or by a client (OpenID Connect RP-Initiated Logout 1.0)."""

from datetime import UTC, datetime

from apiflask import APIBlueprint
from authlib.common.urls import add_params_to_uri
from flask import g, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from flagon_auth.clients import parts
from flagon_auth.domain import clients, tokens
from flagon_auth.domain.addresses import form_target
from flagon_auth.forms import ActionForm
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import end, login_session

bp = APIBlueprint("sign_out", __name__, enable_openapi=False)


@bp.route("/logout", methods=["GET", "POST"])
@auth.open_route
def logout() -> ResponseReturnValue:
    """Sign out, asked by the person or by a client (RP-Initiated Logout 1.0).

    A client that proves with an ID token which session it means is obeyed; otherwise
    the person is asked, because any page on the web can send a browser here.
    """
    asked = request.values
    now = datetime.now(UTC)
    here = login_session()
    with transaction() as db:
        hint = _hint(db, asked)
        client_id = hint.client_id if hint else asked.get("client_id", "")
        agreed = hint is None or asked.get("client_id", client_id) == client_id
        client = clients.find_client(db, client_id) if agreed else None
        target = asked.get("post_logout_redirect_uri", "")
        if client is None or target not in client.post_logout_redirect_uris:
            target = ""
    if target and asked.get("state"):
        target = str(add_params_to_uri(target, {"state": asked["state"]}))
    if hint and hint.sid and here.sid in {None, hint.sid}:
        end(hint.sid, "signed out", now=now)
        here.end()
        return redirect(target, 303) if target else _signed_out()
    if here.sid is None:
        return redirect(target, 303) if target else _signed_out()
    session["signed_out_target"] = target
    g.form_targets = [form_target(target)] if target else []
    return render_template("logout.html", form=ActionForm(formdata=None))


@bp.post("/account/sign-out")
@auth.open_route
def sign_out() -> ResponseReturnValue:
    """Sign out; the person has pressed the button."""
    here = login_session()
    target = here.get("signed_out_target")
    if here.sid:
        end(here.sid, "signed out")
    here.end()
    return redirect(target, 303) if target else _signed_out()


def _hint(db: Session, asked: MultiDict[str, str]) -> tokens.Hint | None:
    try:
        return tokens.read_hint(db, parts().issuer, asked["id_token_hint"])
    except (KeyError, tokens.TokenUnreadable):
        return None


def _signed_out() -> ResponseReturnValue:
    return render_template("signed_out.html")
