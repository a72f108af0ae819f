"""Lists as Relay's cursor connections: https://relay.dev/graphql/connections.htm."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import strawberry

T = TypeVar("T")
C = TypeVar("C")


@strawberry.type(description="Where a page is in its list.")
class PageInfo:
    """Where a page is in its list."""

    has_next_page: bool
    has_previous_page: bool = strawberry.field(
        description="Whether the page was asked for with `after`."
    )
    start_cursor: str | None
    end_cursor: str | None = strawberry.field(
        description="For `after` of the next page."
    )


@strawberry.type(description="An item of a list, and where it is.")
class Edge(Generic[T]):
    """An item of a list, and where it is."""

    cursor: str
    node: T


@strawberry.type(description="A page of a list.")
class Connection(Generic[T]):
    """A page of a list; cursors are signed only where somebody asks for them."""

    nodes: list[T]
    _cursors: strawberry.Private[Sequence[Callable[[], str]]]
    _more: strawberry.Private[bool]
    _onward: strawberry.Private[bool]

    @strawberry.field
    def edges(self) -> list[Edge[T]]:
        """Return each item with its cursor."""
        return [
            Edge(cursor=cursor(), node=node)
            for cursor, node in zip(self._cursors, self.nodes, strict=True)
        ]

    @strawberry.field
    def page_info(self) -> PageInfo:
        """Return where the page is in its list."""
        return PageInfo(
            has_next_page=self._more,
            has_previous_page=self._onward,
            start_cursor=self._cursors[0]() if self._cursors else None,
            end_cursor=self._cursors[-1]() if self._cursors else None,
        )


def connection(
    kind: type[T],
    rows: Sequence[Mapping[str, Any]],
    show: Callable[[Mapping[str, Any]], T],
    *,
    limit: int,
    onward: bool,
    cursor: Callable[[Mapping[str, Any]], str],
    made: type[C] | None = None,
    **more: object,
) -> C:
    """Return a page of rows, of which there is one more than asked for if more follow.

    :param onward: whether the page was asked for with a cursor.
    :param cursor: gives the cursor of a row.
    :param made: the connection to make, if it is one with more than others.
    :param more: what it has beside what all of them have.
    """
    page = rows[:limit]
    make: Any = made or Connection[kind]  # type: ignore[valid-type]
    return make(  # type: ignore[no-any-return]
        nodes=[show(row) for row in page],
        _cursors=[lambda row=row: cursor(row) for row in page],
        _more=len(rows) > limit,
        _onward=onward,
        **more,
    )
