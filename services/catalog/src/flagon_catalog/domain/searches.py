"""Searches: lists of products that help where a word was written wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from . import products
from .products import Filter, View
from .shapes import WHOLE, Shape
from .words import corrected


@dataclass(frozen=True)
class Found:
    """A page of products, and what was really searched for."""

    rows: list[View]
    wanted: Filter
    corrected: str | None = None
    """The words that were searched for instead; None: those that were asked for."""


def search_products(
    session: Session,
    wanted: Filter,
    *,
    sort: str,
    limit: int,
    exact: bool = False,
    after: Sequence[Any] | None = None,
    shape: Shape = WHOLE,
) -> Found:
    """Return one page of products, as `list_products` does.

    Where a search finds nothing, words that no product has are replaced by near ones; what
    that finds is returned, if it finds something. A page that comes after another one does
    so as well: nothing comes after nothing, so the first one did.

    :param exact: whether to search for the very words.
    :raises RelevanceUnknown: it is to be sorted by relevance without a search.
    """

    def listed(some: Filter) -> list[View]:
        return products.list_products(
            session, some, sort=sort, limit=limit, after=after, shape=shape
        )

    rows = listed(wanted)
    if rows or exact or wanted.q is None:
        return Found(rows, wanted)
    instead = corrected(session, wanted.q, wanted.statuses)
    if instead is not None:
        better = replace(wanted, q=instead)
        rows = listed(better)
        if rows:
            return Found(rows, better, instead)
    return Found([], wanted)
