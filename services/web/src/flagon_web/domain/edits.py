"""What two people made of the same product, field by field.

A form carries a mark of each value that it was filled with, so that whoever reads it later
knows what its writer changed, without the values themselves
(docs/adr/0062-conflicts-are-merged-by-field.md).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from json import dumps
from typing import Any, Literal

_MARK = re.compile(r"([a-z_]+)=([0-9a-f]{12})(?:\s|\Z)")
# An amount means nothing without its currency, so nobody chooses between halves of it.
_PRICE = ("price_minor", "currency")

FIELDS = (
    "name",
    "sku",
    "slug",
    "description",
    *_PRICE,
    "status",
    "stock",
    "category",
    "tags",
    "attributes",
)
"""What people may change in a product."""


@dataclass(frozen=True)
class Difference:
    """A part of a product of which two people made two things."""

    name: str
    mine: Any
    theirs: Any
    by: Literal["me", "them", "both"]
    """Who has changed it since the form was filled in."""


def parts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is changed as a whole: each field by itself, price and currency as one.

    :param fields: as the catalog has them; what is missing stays missing.
    """
    found = {name: fields[name] for name in FIELDS if name in fields}
    if "price_minor" in found:
        found["price"] = [found.pop(name) for name in _PRICE]
    if "description" in found:
        # Browsers send other ends of lines than they were given.
        found["description"] = _lines(found["description"])
    return found


def fields(whole: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return some parts as fields of the catalog."""
    found = {name: whole[name] for name in names}
    if "price" in found:
        found.update(zip(_PRICE, found.pop("price"), strict=True))
    return found


def fields_of(names: Iterable[str]) -> list[str]:
    """Return the fields of the catalog that these parts are made of."""
    return [
        field for name in names for field in (_PRICE if name == "price" else (name,))
    ]


def marks(whole: Mapping[str, Any]) -> dict[str, str]:
    """Return a short mark of each part, which differs where the part does."""
    return {name: _mark(value) for name, value in whole.items()}


def written(marks: Mapping[str, str]) -> str:
    """Return marks as a form holds them: `name=0123456789ab stock=…`."""
    return " ".join(f"{name}={mark}" for name, mark in marks.items())


def read(text: str) -> dict[str, str]:
    """Return the marks that a form holds; what is none is left out."""
    return dict(_MARK.findall(text))


def changed(mine: Mapping[str, Any], seen: Mapping[str, str]) -> set[str]:
    """Return the parts that are not what was seen; without a mark all count."""
    return {name for name, value in mine.items() if _mark(value) != seen.get(name)}


def differences(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], seen: Mapping[str, str]
) -> list[Difference]:
    """Return what has to be agreed upon, in the order of the form.

    :param seen: marks of what both began with.
    """
    ours, others = changed(mine, seen), changed(theirs, seen)
    return [
        Difference(
            name,
            value,
            theirs[name],
            "me" if name not in others else "both" if name in ours else "them",
        )
        for name, value in mine.items()
        if _mark(value) != _mark(theirs[name])
    ]


def patch(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch (RFC 7396) that makes one object of another.

    A null that is wanted in place of something else cannot be said in one: it goes.
    """
    told: dict[str, Any] = {name: None for name in present if name not in wanted}
    for name, value in wanted.items():
        now = present.get(name)
        if isinstance(value, dict) and isinstance(now, dict):
            inner = patch(now, value)
            told |= {name: inner} if inner else {}
        elif name not in present or _mark(now) != _mark(value):
            told[name] = value
    return told


def _mark(value: object) -> str:
    # As JSON, for which true is not 1.
    text = dumps(value, sort_keys=True)
    return blake2b(text.encode(), digest_size=6).hexdigest()


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
