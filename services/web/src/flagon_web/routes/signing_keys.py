"""The keys that sign tokens: seen, changed, and dropped when one was stolen."""

from functools import partial

from flask import Blueprint, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from flagon_web.clients import backends
from flagon_web.i18n import LazyText as _

from . import access, office

bp = Blueprint("signing_keys", __name__, url_prefix="/back-office/keys")
office.degrades(bp, _("Keys cannot be shown right now."), "signing_keys.signing_keys")


@bp.get("")
@access.needs("users:read")
def signing_keys() -> ResponseReturnValue:
    """Show every key."""
    found = backends().signing_keys.list_keys(token=access.token())
    return render_template("signing_keys.html", keys=found)


@bp.post("/rotate")
@access.needs("users:write")
def rotate_keys() -> ResponseReturnValue:
    """Let the next keys sign."""
    rotate = partial(backends().signing_keys.rotate, token=access.token())
    office.act(rotate, _("The next keys sign from now on."))
    return redirect(url_for("signing_keys.signing_keys"), 303)


@bp.post("/<ref:kid>/drop")
@access.needs("users:write")
def drop_key(kid: str) -> ResponseReturnValue:
    """Refuse all that a stolen key signed."""
    drop = partial(backends().signing_keys.drop, kid, token=access.token())
    office.act(drop, _("Nobody takes what it signed."), gone=_("It is gone already."))
    return redirect(url_for("signing_keys.signing_keys"), 303)
