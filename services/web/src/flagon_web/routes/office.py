"""What the pages of the back office have in common: its start, and its way to fail."""

import re
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from json import dumps
from typing import Any
from uuid import uuid4

from flask import Blueprint, flash, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from flagon_chassis.http import Refused, Unreachable
from flagon_chassis.problems import from_failure
from flagon_web.forms import Seen
from flagon_web.i18n import LazyText, gettext
from flagon_web.i18n import LazyText as _

from . import access

Text = str | LazyText

bp = Blueprint("office", __name__, url_prefix="/back-office")

MARKED = _("Look at the marked fields.")
AWAY = _(
    "The jobs service does not answer. What you wrote is still here:"
    " send it again in a moment."
)
_LATE = {
    HTTPStatus.CONFLICT: _("That is not possible any more."),
    HTTPStatus.PRECONDITION_FAILED: _(
        "It changed since you looked, so nothing was done."
        " Look at it as it is now and try again."
    ),
}


@bp.get("")
@access.needs("jobs:write")
def office() -> ResponseReturnValue:
    """Show what the back office has for the person who is signed in."""
    return render_template("office.html")


def degrades(pages: Blueprint) -> None:
    """Give pages that live on the jobs API something to show while it is away."""
    pages.register_error_handler(Unreachable, _down)


def _down(failure: Unreachable) -> ResponseReturnValue:
    response = from_failure(failure)
    if response.mimetype == "text/html":
        acted = request.method != "GET"
        response.set_data(render_template("office_down.html", acted=acted))
    return response


def act(change: Callable[[], object], done: Text, *, gone: Text = "") -> bool:
    """Make a change and tell the person what came of it; return whether it was made.

    Somebody else may have been faster: that is told, and no error.

    :param done: the sentence for success.
    :param gone: the sentence for what is no longer there; without it that is a 404.
    """
    try:
        change()
    except Refused as refused:
        found = {**_LATE, HTTPStatus.NOT_FOUND: gone}.get(HTTPStatus(refused.status))
        if not found:
            raise
        words = str(found)
        if refused.status == HTTPStatus.CONFLICT and refused.detail:
            words = refused.detail
        flash(words, "warning")
        return False
    # The session keeps it until the next page.
    flash(str(done), "success")
    return True


def seen_etag() -> str:
    """Return the entity tag in the form that was sent.

    :raises BadRequest: there is none, or it is none of ours.
    """
    form = Seen()
    if not form.validate_on_submit():
        raise BadRequest(gettext("Reload the page and send the form again."))
    return str(form.etag.data)


def sent_key() -> str:
    """Return the key in the form that was sent, or a new one."""
    key = request.form.get("key", "")
    return key if re.fullmatch(r"[0-9a-f]{32}", key) else uuid4().hex


def key_of(form: Any, fields: dict[str, Any]) -> str:  # noqa: ANN401 (wtforms)
    """Return what is the same whenever a form is sent with the same contents."""
    told = dumps([form.key.data, fields], sort_keys=True)
    return sha256(told.encode()).hexdigest()
