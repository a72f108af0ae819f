"""Keyset pages: an opaque signed cursor instead of an offset."""

from typing import Any

from flask import current_app
from itsdangerous import BadData, URLSafeSerializer

from .errors import Invalid

LIMIT_MAX = 100
"""Most items that one page may hold."""


class CursorInvalid(Invalid):
    """The cursor is not one that this list gave."""


def encode(purpose: str, position: list[Any]) -> str:
    """Return the cursor for what comes after `position`.

    :param purpose: the list and everything that orders or filters it; a cursor is valid
        for that alone.
    :param position: the last item's sort values, JSON values.
    """
    return _serializer(purpose).dumps(position)


def decode(purpose: str, cursor: str) -> list[Any]:
    """Return the position in a cursor.

    :raises CursorInvalid: it was altered or belongs to another list.
    """
    try:
        position = _serializer(purpose).loads(cursor)
    except BadData as error:
        raise CursorInvalid(
            "Start again without a cursor, or keep the filters that it came with."
        ) from error
    return list(position)


def _serializer(purpose: str) -> URLSafeSerializer:
    return URLSafeSerializer(current_app.secret_key or "", salt=f"cursor:{purpose}")
