"""English and German: texts, numbers, money and times in the language of a request.

English is the source; other languages are `locale/<language>/LC_MESSAGES/messages.po`.
How a language writes numbers and times is `locale/<language>/formats.json`, which
`make translations` takes out of CLDR: run time needs neither Babel nor its data.
"""

import json
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flagon_chassis import languages
from flagon_chassis.languages import LANGUAGES, speaking

__all__ = [
    "LANGUAGES",
    "N_",
    "LazyText",
    "_",
    "amount",
    "date_time",
    "decimal_sign",
    "gettext",
    "language",
    "ngettext",
    "ngettext_html",
    "number",
    "size",
    "speaking",
    "texts",
]

_LOCALE = Path(__file__).parent / "locale"
_UNITS = ("B", "kB", "MB", "GB")
_KILO = 1000

texts = languages.Texts(_LOCALE)
language = texts.language
_ = gettext = texts.gettext


class LazyText(languages.LazyText):
    """A text of web that is translated when it is shown."""

    texts = texts


def N_(message: str) -> str:  # noqa: N802 (as translators know it)
    """Return the text as it is; that it is a text lets `make translations` find it."""
    return message


@cache
def _formats(code: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_LOCALE / code / "formats.json").read_text())
    return found


def decimal_sign() -> str:
    """Return what stands between units and tenths."""
    return str(_formats(language())["decimal"])


def number(value: float | Decimal, places: int = 0) -> str:
    """Return a number with its thousands apart.

    :param places: digits after the decimal sign.
    """
    formats = _formats(language())
    exact = Decimal(str(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    english = f"{exact:,}"
    signs = {",": formats["group"], ".": formats["decimal"]}
    return "".join(signs.get(sign, sign) for sign in english)


def ngettext(one: str, many: str, count: int, **values: object) -> str:
    """Return the form of a text that fits a number, shown as `%(num)s`."""
    return texts.ngettext(one, many, count, num=number(count), **values)


def ngettext_html(one: str, many: str, count: int, **values: object) -> Markup:
    """Return the same for a template: what comes from people is escaped."""
    text = Markup(texts.plural(one, many, count))  # noqa: S704 (the text itself is ours)
    return text % {"num": number(count), **values}


def amount(value: Decimal, currency: str, places: int) -> str:
    """Return an amount of money, as browsers write it in this language.

    :param currency: its ISO 4217 code.
    """
    formats = _formats(language())
    symbol, written = formats["symbols"].get(currency, currency), number(value, places)
    # A no-break space keeps both on one line.
    if not formats["symbol_first"]:
        return f"{written}\N{NO-BREAK SPACE}{symbol}"
    gap = "\N{NO-BREAK SPACE}" if symbol[-1].isalpha() else ""
    return f"{symbol}{gap}{written}"


def date_time(at: datetime) -> str:
    """Return a time in UTC."""
    utc, formats = at.astimezone(UTC), _formats(language())
    return _(
        # Translators: a date such as 21 Nov 2026, 08:00 UTC.
        "%(day)s %(month)s %(year)s, %(time)s UTC",
        day=utc.day,
        month=formats["months"][utc.month - 1],
        year=utc.year,
        time=f"{utc:%H:%M}",
    )


def size(count: int) -> str:
    """Return the size of a file.

    :param count: bytes.
    """
    value, unit = float(count), 0
    while value >= _KILO and unit < len(_UNITS) - 1:
        value, unit = value / _KILO, unit + 1
    places = 0 if unit == 0 else 1
    return f"{number(value, places)}\N{NO-BREAK SPACE}{_UNITS[unit]}"
