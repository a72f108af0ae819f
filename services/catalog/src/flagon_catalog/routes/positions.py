"""Where a list goes on: cursors of what is ordered by a value and an id."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from flagon_chassis import paging


def cursor(purpose: str, position: object, id_: UUID) -> str:
    """Return the cursor for what comes after a position; see `paging.encode`."""
    if isinstance(position, datetime):
        position = position.isoformat()
    return paging.encode(purpose, [position, str(id_)])


def after(purpose: str, given: str | None, *, times: bool) -> Sequence[Any] | None:
    """Return the position and the id in a cursor, None without one.

    :param times: whether the position is a time.
    :raises flagon_chassis.paging.CursorInvalid: it belongs to another list.
    """
    if given is None:
        return None
    position, id_ = paging.decode(purpose, given)
    return datetime.fromisoformat(position) if times else position, UUID(id_)
