"""Amounts of money as people write and read them."""

import re
from decimal import Decimal

from flagon_chassis.errors import Invalid
from flagon_web import i18n
from flagon_web.i18n import gettext as _
from flagon_web.i18n import ngettext

_DECIMALS = {"JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "KWD": 3, "BHD": 3, "TND": 3}
_AMOUNT = re.compile(r"\A([0-9]{1,12})(?:[.,]([0-9]{1,3}))?\Z")

CURRENCIES = ("EUR", "USD", "GBP", "CHF", "SEK", "PLN", "CZK", "JPY")
"""What the forms offer; the catalog knows more."""


class AmountUnreadable(Invalid):
    """The amount of money cannot be read."""


def decimals(currency: str) -> int:
    """Return how many digits follow the decimal point in this currency."""
    return _DECIMALS.get(currency, 2)


def plain(price_minor: int, currency: str) -> str:
    """Return the amount with a decimal point and nothing else."""
    places = decimals(currency)
    if places == 0:
        return str(price_minor)
    whole, part = divmod(price_minor, 10**places)
    return f"{whole}.{part:0{places}d}"


def readable(price_minor: int, currency: str) -> str:
    """Return the amount for people, as browsers give it in their language."""
    value = Decimal(price_minor).scaleb(-decimals(currency))
    return i18n.amount(value, currency, decimals(currency))


def writable(price_minor: int, currency: str) -> str:
    """Return the amount as people write it into a form in their language."""
    return plain(price_minor, currency).replace(".", i18n.decimal_sign())


def minor_units(amount: str, currency: str) -> int:
    """Return the minor units of an amount written with a decimal comma or point.

    :raises AmountUnreadable: not an amount, or more decimals than the currency has.
    """
    found = _AMOUNT.match(amount.strip())
    if found is None:
        example = f"12{i18n.decimal_sign()}99"
        raise AmountUnreadable(
            _(
                "Write an amount such as %(example)s, without separators.",
                example=example,
            )
        )
    places = decimals(currency)
    part: str = found[2] or ""
    if len(part) > places:
        raise AmountUnreadable(
            ngettext(
                "%(currency)s amounts have %(num)s decimal at most.",
                "%(currency)s amounts have %(num)s decimals at most.",
                places,
                currency=currency,
            )
        )
    return int(found[1] + part.ljust(places, "0"))
