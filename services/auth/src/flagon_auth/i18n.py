"""English and German: the language of a request, and texts in it.

English is the source; other languages are `locale/<language>/LC_MESSAGES/messages.po`.
`make translations` collects the texts and compiles what was translated.
"""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from flask import request
from werkzeug.exceptions import HTTPException

from flagon_chassis import languages
from flagon_chassis.languages import COOKIE, LANGUAGES, fitting, speaking

__all__ = [
    "COOKIE",
    "LANGUAGES",
    "LazyText",
    "_",
    "fitting",
    "gettext",
    "init_app",
    "language",
    "ngettext",
    "speaking",
    "spoken_amount",
]


def spoken_amount(amount: str, currency: str) -> str:
    """Return an amount of money as the language at hand writes it.

    :param amount: with a decimal point, if any.
    """
    # A no-break space keeps code and amount on one line.
    if language() == "de":
        return f"{amount.replace('.', ',')}\N{NO-BREAK SPACE}{currency}"
    return f"{currency}\N{NO-BREAK SPACE}{amount}"


def _ui_locales() -> str:
    """Return what the client asked for, now or with the request that waits meanwhile.

    `ui_locales`, OpenID Connect Core section 3.1.2.1.
    """
    asked = request.args.get("ui_locales")
    if asked is None:
        waiting = urlsplit(request.args.get("next") or _next_in_form())
        asked = parse_qs(waiting.query).get("ui_locales", [""])[0]
    return asked


def _next_in_form() -> str:
    try:
        return request.form.get("next", "")
    except HTTPException:
        # The form is what the page to write is about: too long, or no form at all.
        return ""


_texts = languages.Texts(Path(__file__).parent / "locale", asked=_ui_locales)
init_app = _texts.init_app
language = _texts.language
ngettext = _texts.ngettext
_ = gettext = _texts.gettext


class LazyText(languages.LazyText):
    """A text of auth that is translated when it is shown."""

    texts = _texts
