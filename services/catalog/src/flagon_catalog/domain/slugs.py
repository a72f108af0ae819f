"""How names become parts of addresses."""

import re
import unicodedata
from uuid import UUID

LONGEST = 120
_GAPS = re.compile(r"[^a-z0-9]+")
# Letters that no decomposition turns into a plain one.
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th"}
)


def slug_of(name: str) -> str:
    """Return the name in lower case, in ASCII, joined by hyphens; maybe empty."""
    # Apostrophes vanish, so that `sorcerer's` is one word.
    plain = name.lower().translate(_LETTERS).replace("'", "").replace("\u2019", "")
    letters = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return _GAPS.sub("-", letters).strip("-")[:LONGEST].strip("-")


def choices(name: str, sku: str, id_: UUID) -> tuple[str, str, str]:
    """Return slugs for a new product, from the nicest to one that is surely free."""
    short = slug_of(sku)[:40].strip("-")
    long = slug_of(name) or short or "product"
    return (
        long,
        _join(long, short or "product"),
        # The last 48 bits of a UUIDv7 are random.
        _join(long, id_.hex[-12:]),
    )


def _join(long: str, short: str) -> str:
    return f"{long[: LONGEST - 1 - len(short)].strip('-')}-{short}"
