"""English and German: the language of a request, and texts in it.

English is the source; other languages are `locale/<language>/LC_MESSAGES/messages.po`.
`make translations` collects the texts and compiles what was translated.
"""

import gettext as catalogs
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from flask import Flask, g, has_request_context, request
from werkzeug.exceptions import HTTPException

LANGUAGES = {"en": "English", "de": "Deutsch"}
"""What people can choose, each in its own words; the first where nothing fits."""
COOKIE = "flagon_language"
"""Remembers a choice; it says nothing about the person and needs no session."""
_FIRST = next(iter(LANGUAGES))
_LOCALE = Path(__file__).parent / "locale"
# Set while something is written for another person than the one who asks: a mail.
_spoken: ContextVar[str | None] = ContextVar("spoken", default=None)


class LazyText:
    """A text that is translated when it is shown, because it is written down earlier."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __str__(self) -> str:
        return gettext(self.message)


def init_app(app: Flask) -> None:
    """Let templates use `_()`, `ngettext()` and `{% trans %}`."""
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.policies["ext.i18n.trimmed"] = True
    # The extension above adds the method; the type of an environment knows nothing of it.
    app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]
        gettext, ngettext, newstyle=True
    )
    # WTForms' own messages: see `forms.Form`, which names the language.
    app.config["WTF_I18N_ENABLED"] = False


def gettext(message: str, **values: object) -> str:
    """Return a text in the language at hand.

    :param values: of its `%(name)s`; without any, a percent sign is itself.
    """
    text = _catalog(language()).gettext(message) if message else ""
    return text % values if values else text


def ngettext(one: str, many: str, number: int, **values: object) -> str:
    """Return the form of a text that fits a number, which it can show as `%(num)s`."""
    text = _catalog(language()).ngettext(one, many, number)
    return text % {"num": number, **values}


_ = gettext


def language() -> str:
    """Return the language at hand: one of `LANGUAGES`.

    What the person chose counts most, then what the client asked for (`ui_locales`,
    OpenID Connect Core section 3.1.2.1), then what the browser prefers.
    """
    spoken = _spoken.get()
    if spoken is not None:
        return spoken
    if not has_request_context():
        return _FIRST
    if "flagon_language" not in g:
        g.flagon_language = _negotiated()
    return str(g.flagon_language)


@contextmanager
def speaking(code: str | None) -> Iterator[None]:
    """Write in another language for a while: that of the person who will read it."""
    token = _spoken.set(code if code in LANGUAGES else _FIRST)
    try:
        yield
    finally:
        _spoken.reset(token)


def spoken_amount(amount: str, currency: str) -> str:
    """Return an amount of money as the language at hand writes it.

    :param amount: with a decimal point, if any.
    """
    # A no-break space keeps code and amount on one line.
    if language() == "de":
        return f"{amount.replace('.', ',')}\N{NO-BREAK SPACE}{currency}"
    return f"{currency}\N{NO-BREAK SPACE}{amount}"


def fitting(tags: str) -> str | None:
    """Return the first language of a list of BCP 47 tags that we speak, if any."""
    for tag in tags.split():
        code = tag.split("-", 1)[0].lower()
        if code in LANGUAGES:
            return code
    return None


def _negotiated() -> str:
    chosen = request.cookies.get(COOKIE)
    if chosen in LANGUAGES:
        return chosen
    return (
        fitting(_ui_locales())
        or fitting(" ".join(request.accept_languages.values()))
        or _FIRST
    )


def _ui_locales() -> str:
    """Return what the client asked for, now or with the request that waits meanwhile."""
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


@cache
def _catalog(code: str) -> catalogs.NullTranslations:
    return catalogs.translation("messages", _LOCALE, [code], fallback=code == _FIRST)
