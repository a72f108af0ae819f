"""Connected programs: what they may do in a person's name, and taking it back."""

from datetime import UTC, datetime
from urllib.parse import urlencode

from apiflask import APIBlueprint
from flask import flash, redirect, render_template
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import parts
from flagon_auth.domain import clients, consents
from flagon_auth.forms import ActionForm
from flagon_auth.i18n import gettext as _
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import record

bp = APIBlueprint("apps", __name__, enable_openapi=False)

_PAGE = "/account/apps"


@bp.get(_PAGE)
@auth.open_route
def list_apps() -> ResponseReturnValue:
    """Show the programs that are connected to the account."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': _PAGE})}", 303)
    with transaction() as db:
        found = consents.list_connections(
            db, current_user.account.id, now=datetime.now(UTC)
        )
    return render_template("apps.html", form=ActionForm(formdata=None), apps=found)


@bp.post(f"{_PAGE}/withdraw")
@auth.open_route
def withdraw() -> ResponseReturnValue:
    """Disconnect one program: its tokens end within a second."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': _PAGE})}", 303)
    now, account_id = datetime.now(UTC), current_user.account.id
    named = ActionForm().request.data or ""
    try:
        with transaction() as db:
            client = clients.find_client(db, named)
            client_id = client.id if client else ""
            scope, spent = consents.withdraw(
                db,
                account_id=account_id,
                client_id=client_id,
                reason="withdrawn by the person",
                now=now,
            )
            record(
                db,
                "consent_withdrawn",
                account_id=account_id,
                now=now,
                client=client_id,
                scope=scope,
            )
    except consents.NotConnected:
        flash(_("That program was not connected any more."))
        return redirect(_PAGE, 303)
    parts().denylist.refuse_tokens(spent, now=now)
    flash(_("Disconnected. The program can do nothing in your name any more."))
    return redirect(_PAGE, 303)
