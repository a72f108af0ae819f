"""The own account."""

from urllib.parse import urlencode

from apiflask import APIBlueprint
from flask import redirect, render_template
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.domain.addresses import HOME
from flagon_auth.forms import ActionForm
from flagon_chassis import auth

bp = APIBlueprint("account", __name__, enable_openapi=False)


@bp.get("/account")
@auth.open_route
def account() -> ResponseReturnValue:
    """Show the own account."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': HOME})}", 303)
    return render_template(
        "account.html", form=ActionForm(formdata=None), person=current_user.account
    )
