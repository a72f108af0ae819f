"""Texts in the language of whoever reads them, by the standard library's catalogs.

English is the source; other languages are `locale/<language>/LC_MESSAGES/messages.po` in
the package of a service. `make translations` collects the texts and compiles what was
translated.
"""

import gettext as catalogs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, cast

from flask import Flask, g, has_request_context, request
from werkzeug.wrappers import Response

LANGUAGES = {"en": "English", "de": "Deutsch"}
"""What people can choose, each in its own words; the first where nothing fits."""
COOKIE = "flagon_language"
"""Remembers a choice; it says nothing about the person and needs no session."""
_FIRST = next(iter(LANGUAGES))
_YEAR_SECONDS = 365 * 86_400
# Set while something is written for another person than the one who asks: a mail.
_spoken: ContextVar[str | None] = ContextVar("spoken", default=None)


class Texts:
    """The texts of one service.

    :param folder: the `locale` folder of its package.
    :param asked: languages that the request names itself, as BCP 47 tags with blanks
        between; they count more than the browser's.
    """

    def __init__(self, folder: Path, asked: Callable[[], str] = str) -> None:
        self._asked = asked

        @cache
        def read(code: str) -> catalogs.NullTranslations:
            return catalogs.translation(
                "messages", folder, [code], fallback=code == _FIRST
            )

        self._catalog = read

    def init_app(self, app: Flask) -> None:
        """Let templates use `_()`, `ngettext()` and `{% trans %}`."""
        app.jinja_env.add_extension("jinja2.ext.i18n")
        app.jinja_env.policies["ext.i18n.trimmed"] = True
        # The extension above adds the method; the type of an environment knows nothing
        # of it.
        cast("Any", app.jinja_env).install_gettext_callables(
            self.gettext, self.plural, newstyle=True
        )
        # WTForms' own messages: its forms name the language themselves.
        app.config["WTF_I18N_ENABLED"] = False

    def gettext(self, message: str, **values: object) -> str:
        """Return a text in the language at hand.

        :param values: of its `%(name)s`; without any, a percent sign is itself.
        """
        text = self._catalog(self.language()).gettext(message) if message else ""
        return text % values if values else text

    def ngettext(self, one: str, many: str, number: int, **values: object) -> str:
        """Return the form of a text that fits a number, shown as `%(num)s`."""
        return self.plural(one, many, number) % {"num": number, **values}

    def plural(self, one: str, many: str, number: int) -> str:
        """Return the form of a text that fits a number, with its places still empty."""
        return self._catalog(self.language()).ngettext(one, many, number)

    def language(self) -> str:
        """Return the language at hand: one of `LANGUAGES`.

        What the person chose counts most, then what the request asks for, then what the
        browser prefers.
        """
        spoken = _spoken.get()
        if spoken is not None:
            return spoken
        if not has_request_context():
            return _FIRST
        if "flagon_language" not in g:
            g.flagon_language = self._negotiated()
        return str(g.flagon_language)

    def _negotiated(self) -> str:
        chosen = request.cookies.get(COOKIE)
        if chosen in LANGUAGES:
            return chosen
        return (
            fitting(self._asked())
            or fitting(" ".join(request.accept_languages.values()))
            or _FIRST
        )


class LazyText:
    """A text that is translated when it is shown, because it is written down earlier."""

    texts: Texts
    """Of the service whose text it is: services make their own class of this one."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __str__(self) -> str:
        return self.texts.gettext(self.message)


@contextmanager
def speaking(code: str | None) -> Iterator[None]:
    """Write in another language for a while: that of the person who will read it."""
    token = _spoken.set(code if code in LANGUAGES else _FIRST)
    try:
        yield
    finally:
        _spoken.reset(token)


def remember(answer: Response, code: str) -> None:
    """Let this browser's pages be in a language from now on."""
    answer.set_cookie(
        COOKIE,
        code,
        max_age=_YEAR_SECONDS,
        httponly=True,
        secure=request.is_secure,
        samesite="Lax",
    )


def fitting(tags: str) -> str | None:
    """Return the first language of a list of BCP 47 tags that we speak, if any."""
    for tag in tags.split():
        code = tag.split("-", 1)[0].lower()
        if code in LANGUAGES:
            return code
    return None
