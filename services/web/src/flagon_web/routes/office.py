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
from flagon_web.domain.terms import term
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
SILENT = _(
    "The service behind it does not answer. What you wrote is still here:"
    " send it again in a moment."
)
STALE = '"0"'
"""An entity tag that no version has: a change that names it is refused."""
_NO_JOBS = _("Jobs cannot be shown right now.")
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


def degrades(
    pages: Blueprint,
    missing: Text = _NO_JOBS,
    start: str = "jobs.jobs",
) -> None:
    """Give pages that live on another service something to show while it is away.

    :param missing: the sentence for what cannot be shown.
    :param start: the endpoint to look at before a step is repeated.
    """

    def down(failure: Unreachable) -> ResponseReturnValue:
        response = from_failure(failure)
        if response.mimetype == "text/html":
            acted = request.method != "GET"
            page = render_template(
                "office_down.html", acted=acted, words=missing, start=start
            )
            response.set_data(page)
        return response

    pages.register_error_handler(Unreachable, down)


def is_about(refused: Refused, slug: str) -> bool:
    """Say whether a refusal is this kind of problem, by its name in `docs/problems.md`."""
    return str(refused.problem.get("type", "")).endswith(f"#{slug}")


def act(
    change: Callable[[], object], done: Text, *, gone: Text = "", judged: str = ""
) -> bool:
    """Make a change and tell the person what came of it; return whether it was made.

    Somebody else may have been faster: that is told, and no error.

    :param done: the sentence for success.
    :param gone: the sentence for what is no longer there; without it that is a 404.
    :param judged: the problem that the caller tells in its place.
    :raises Refused: of that kind, or for a reason that is no part of working together.
    """
    try:
        change()
    except Refused as refused:
        found = {**_LATE, HTTPStatus.NOT_FOUND: gone}.get(HTTPStatus(refused.status))
        if not found or (judged and is_about(refused, judged)):
            raise
        words = str(found)
        if refused.status == HTTPStatus.CONFLICT and refused.detail:
            words = term(refused.detail)
        flash(words, "warning")
        return False
    # The session keeps it until the next page.
    flash(str(done), "success")
    return True


def renewed(
    form: Any,  # noqa: ANN401 (wtforms has no types)
    present: Any,  # noqa: ANN401 (whatever has an entity tag)
    words: Callable[[str, Any], str],
) -> list[tuple[str, str]]:
    """Let the next attempt be made against what the person now sees.

    :param words: returns a member and its value as people read it.
    :return: pairs of (label, value) of what somebody else wrote meanwhile.
    """
    form.etag.process_data(present.etag)
    form.etag.raw_data = None
    told = form.fields()
    return [
        (str(form[name].label.text), words(name, value))
        for name, value in present.model_dump(include=set(told)).items()
        if value != told[name]
    ]


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
    return key_with(form.key.data, fields)


def key_with(key: str, contents: object) -> str:
    """Return what is the same whenever a key is sent with the same contents."""
    return sha256(dumps([key, contents], sort_keys=True).encode()).hexdigest()
