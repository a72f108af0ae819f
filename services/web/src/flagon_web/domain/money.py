"""Amounts of money as people write and read them."""

import re

from flagon_chassis.errors import Invalid

_DECIMALS = {"JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "KWD": 3, "BHD": 3, "TND": 3}
_SYMBOLS = {"EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥", "KRW": "₩", "INR": "₹"}
_AMOUNT = re.compile(r"\A([0-9]{1,9})(?:[.,]([0-9]{1,3}))?\Z")

CURRENCIES = ("EUR", "USD", "GBP", "CHF", "SEK", "PLN", "CZK", "JPY")
"""What the forms offer; the catalog knows more."""


class AmountUnreadable(Invalid):
    """The amount of money cannot be read."""


def decimals(currency: str) -> int:
    """Return how many digits follow the decimal point in this currency."""
    return _DECIMALS.get(currency, 2)


def plain(price_minor: int, currency: str) -> str:
    """Return the amount with a decimal point and nothing else, as forms hold it."""
    places = decimals(currency)
    if places == 0:
        return str(price_minor)
    whole, part = divmod(price_minor, 10**places)
    return f"{whole}.{part:0{places}d}"


def readable(price_minor: int, currency: str) -> str:
    """Return the amount for people, in the form that browsers give it in English."""
    whole, dot, part = plain(price_minor, currency).partition(".")
    amount = f"{int(whole):,}{dot}{part}"
    symbol = _SYMBOLS.get(currency)
    # A no-break space keeps code and amount on one line.
    return f"{symbol}{amount}" if symbol else f"{currency}\N{NO-BREAK SPACE}{amount}"


def minor_units(amount: str, currency: str) -> int:
    """Return the minor units of an amount written with a decimal comma or point.

    :raises AmountUnreadable: not an amount, or more decimals than the currency has.
    """
    found = _AMOUNT.match(amount.strip())
    if found is None:
        raise AmountUnreadable("Write an amount such as 12.99, without separators.")
    places = decimals(currency)
    part: str = found[2] or ""
    if len(part) > places:
        raise AmountUnreadable(f"{currency} amounts have {places} decimals at most.")
    return int(found[1] + part.ljust(places, "0"))
