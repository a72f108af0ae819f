"""The language that the pages speak."""

from apiflask import APIBlueprint
from flask import abort, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from flagon_auth.domain.addresses import safe_next
from flagon_auth.i18n import COOKIE, LANGUAGES
from flagon_chassis import auth

bp = APIBlueprint("languages", __name__, enable_openapi=False)

_YEAR_SECONDS = 365 * 86_400


@bp.get("/account/language/<code>")
@auth.open_route
def choose_language(code: str) -> ResponseReturnValue:
    """Remember the language in this browser and show the page again."""
    if code not in LANGUAGES:
        abort(404)
    answer = redirect(safe_next(request.args.get("next")), 303)
    remember_language(answer, code)
    return answer


def remember_language(answer: Response, code: str) -> None:
    """Let this browser's pages be in a language from now on."""
    answer.set_cookie(
        COOKIE,
        code,
        max_age=_YEAR_SECONDS,
        httponly=True,
        secure=request.is_secure,
        samesite="Lax",
    )
