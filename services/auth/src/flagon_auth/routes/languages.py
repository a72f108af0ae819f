"""The language that the pages speak."""

from apiflask import APIBlueprint
from flask import abort, redirect, request
from flask.typing import ResponseReturnValue

from flagon_auth.domain.addresses import safe_next
from flagon_auth.i18n import LANGUAGES
from flagon_chassis import auth
from flagon_chassis.languages import remember

bp = APIBlueprint("languages", __name__, enable_openapi=False)


@bp.get("/account/language/<code>")
@auth.open_route
def choose_language(code: str) -> ResponseReturnValue:
    """Remember the language in this browser and show the page again."""
    if code not in LANGUAGES:
        abort(404)
    answer = redirect(safe_next(request.args.get("next")), 303)
    remember(answer, code)
    return answer
