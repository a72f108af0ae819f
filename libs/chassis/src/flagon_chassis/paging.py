"""Keyset pages: an opaque signed cursor instead of an offset."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from flask import current_app
from itsdangerous import BadData, URLSafeSerializer

from .errors import Invalid

LIMIT_MAX = 100
"""Most items that one page may hold."""


T = TypeVar("T")


class CursorInvalid(Invalid):
    """The cursor is not one that this list gave."""


class Asked(Protocol):
    """The query of a list."""

    @property
    def cursor(self) -> str | None:
        """The cursor of the page; None for the first."""

    @property
    def limit(self) -> int:
        """Most items that it may hold."""


def page(
    purpose: str,
    asked: Asked,
    read: Callable[[Any, int], Sequence[T]],
    position: Callable[[T], Any],
) -> tuple[Sequence[T], str | None]:
    """Return one page of a list, and the cursor for the next unless it is the last.

    :param purpose: see `encode`.
    :param read: returns what comes after a position, None for the beginning, but no more
        than so many.
    :param position: the sort values of an item: a JSON value.
    :raises CursorInvalid: it was altered or belongs to another list.
    """
    after = None if asked.cursor is None else decode(purpose, asked.cursor)[0]
    # One more than fits tells whether there is another page.
    found = read(after, asked.limit + 1)
    items = found[: asked.limit]
    more = len(found) > asked.limit
    return items, encode(purpose, [position(items[-1])]) if more else None


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
