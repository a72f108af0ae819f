"""The language that the pages speak."""

from urllib.parse import urlsplit

from flask import Blueprint, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from flagon_chassis.auth import open_route
from flagon_chassis.languages import remember
from flagon_web.i18n import LANGUAGES
from flagon_web.i18n import gettext as _

from . import access

bp = Blueprint("languages", __name__)


@bp.post("/language")
@open_route
def choose_language() -> ResponseReturnValue:
    """Remember the language in this browser and show the page again.

    Every page holds the form, so on those of strangers it carries no token: a token
    begins a session, which they have no use for. The browser says who sends it.
    """
    if not _sent_by_us() or (
        access.visitor() and not access.holds_token(request.form.get("csrf_token"))
    ):
        raise BadRequest(_("This form has expired. Reload the page and send it again."))
    code = request.form.get("language", "")
    if code not in LANGUAGES:
        raise BadRequest(_("We do not speak that language."))
    answer = redirect(access.own_page(request.form.get("back")), 303)
    remember(answer, code)
    return answer


def _sent_by_us() -> bool:
    # Each browser sends one of them with a form; pages of others cannot forge them.
    said = request.headers.get("Origin") or request.headers.get("Referer", "")
    sender, ours = urlsplit(said), urlsplit(request.host_url)
    return (sender.scheme, sender.netloc) == (ours.scheme, ours.netloc)
