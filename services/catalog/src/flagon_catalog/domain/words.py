"""The words of products, and what to search for instead of words that no product has."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Insert,
    Text,
    bindparam,
    cast,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.orm import Session

from flagon_catalog.models import Product, word

WORDS_MAX = 60
"""Most words of one product that are kept, those of its name first."""
VALUE_MAX = 200
"""Longest attribute whose words are kept, in characters: others are descriptions."""
ASKED_MAX = 16
"""Most words of a search; a longer one is searched for as it is."""
REPLACED_MAX = 4
"""Most words that are replaced in a search."""
NEAR_MAX = 20
"""Most words that are looked at for each; the best of them must be on a product."""
_TRIED = 3
_PRODUCTS = 500
_WORDS = 200
_LONGEST = timedelta(minutes=5)
"""Longer than any transaction that writes products."""

_ACCENTS = re.compile("[\u0300-\u036f]")
# Letters alone: there is no telling which number or SKU was meant.
_PLAIN = r"(?<!\w)[^\W\d_]{3,40}(?!\w)"
_WORD = re.compile(_PLAIN)
# What must not be found needs no help: `-word`, `-"a phrase"`.
_ASKED = re.compile(rf'(?<!\w)-(?:"[^"]*"?|\S*)|(?P<word>{_PLAIN})')

_KNOWN = text(
    """
    SELECT asked.text FROM unnest(cast(:words AS text[])) AS asked (text)
    WHERE numnode(plainto_tsquery('english', asked.text)) = 0 OR exists (
        WITH found AS MATERIALIZED (
            SELECT status FROM product
            WHERE search @@ (plainto_tsquery('english', asked.text)
                || plainto_tsquery('simple', asked.text))
        )
        SELECT FROM found WHERE status = ANY (cast(:statuses AS text[]))
    )
    """
).columns(text=Text)
"""Which words a search finds alone, stop words included. Materialized, or the planner,
who does not know the word, expects to meet it after a few rows of the whole table."""

_NEAR = text(
    """
    SELECT asked.text, ARRAY(
        SELECT near.text FROM word AS near WHERE near.text % asked.text
        GROUP BY near.text
        ORDER BY similarity(near.text, asked.text) DESC, near.text COLLATE "C"
        LIMIT :most
    ) AS near
    FROM unnest(cast(:words AS text[])) AS asked (text)
    """
).columns(text=Text, near=ARRAY(Text))


_FORGET = text(
    """
    WITH gone AS MATERIALIZED (
        SELECT asked.text FROM unnest(cast(:words AS text[])) AS asked (text)
        WHERE numnode(plainto_tsquery('english', asked.text)) > 0 AND NOT exists (
            SELECT FROM product
            WHERE search @@ (plainto_tsquery('english', asked.text)
                || plainto_tsquery('simple', asked.text))
        )
    ), copy AS MATERIALIZED (
        SELECT word.ctid AS place, word.text,
            row_number() OVER (PARTITION BY word.text ORDER BY word.ctid) AS number
        FROM word WHERE word.text = ANY (cast(:words AS text[]))
    )
    DELETE FROM word WHERE word.ctid IN (
        SELECT place FROM copy WHERE number > 1 OR text IN (SELECT text FROM gone)
    )
    RETURNING word.text
    """
).columns(text=Text)
"""Takes words out that are on no product, and all but the first copy of the others."""


@dataclass(frozen=True)
class Step:
    """What came of one of many steps through the words."""

    after: str | None
    """Where the next one goes on; None: there is no more."""
    looked_at: int
    written: int
    """Words that were added or taken out."""
    at: datetime
    """When it began, by the database's clock."""


def folded(text: str) -> str:
    """Return a text without its accents, which the index of searches has none of."""
    return _ACCENTS.sub("", unicodedata.normalize("NFD", text))


def words_of(products: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the words that a slip of the pen may have meant, each once, sorted.

    :param products: fields of products; `name` and `attributes` count, if they are there.
    """
    found: set[str] = set()
    for product in products:
        texts = chain((product.get("name", ""),), _texts(product.get("attributes", {})))
        matches = _WORD.finditer(folded("\n".join(texts)).lower())
        found.update(match[0] for match in islice(matches, WORDS_MAX))
    return sorted(found)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 (attributes are any JSON)
    if isinstance(value, str):
        if len(value) <= VALUE_MAX:
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _learn() -> Insert:
    given = bindparam("words", type_=ARRAY(Text))
    new = func.unnest(cast(given, ARRAY(Text))).column_valued("new")
    known = select(word.c.text).where(word.c.text == new).exists()
    return insert(word).from_select(["text"], select(new).where(~known))


LEARN = _learn()
"""A part of a statement that adds those of `words` that are not there.

It waits for nobody: two that add a word at the same moment leave it there twice.
"""
_LEARNED = LEARN.returning(word.c.text)


def learn_some(session: Session, *, after: UUID | None, since: datetime | None) -> Step:
    """Add the words of some products that are not there; safe to repeat.

    :param after: the last product of the call before, None to begin.
    :param since: only products that were written since then, or shortly before.
    """
    statement = select(Product.id, Product.name, Product.attributes)
    if after is not None:
        statement = statement.where(Product.id > after)
    if since is not None:
        statement = statement.where(Product.updated_at > since - _LONGEST)
    found = session.execute(statement.order_by(Product.id).limit(_PRODUCTS)).all()
    new = words_of(row._asdict() for row in found)
    added = session.scalars(_LEARNED, {"words": new}).all() if new else ()
    after = found[-1].id if found else None
    return Step(after and str(after), len(found), len(added), _now(session))


def forget_some(session: Session, *, after: str) -> Step:
    """Take out some words that no search finds a product by, and those there twice.

    Safe to repeat. A product that brings such a word at this moment may find it there
    and see it go: `learn_some` for what was written since heals that.

    :param after: the last word of the call before, an empty one to begin.
    """
    statement = select(word.c.text).where(word.c.text > after).distinct()
    some = session.scalars(statement.order_by(word.c.text).limit(_WORDS)).all()
    if not some:
        return Step(None, 0, 0, _now(session))
    # The planner, who does not know the words, may expect to meet each soon and read the
    # whole table for those that are gone.
    session.execute(text("SET LOCAL enable_seqscan = off"))
    gone = session.scalars(_FORGET, {"words": list(some)}).all()
    return Step(some[-1], len(some), len(gone), _now(session))


def _now(session: Session) -> datetime:
    return session.scalars(select(func.now())).one()


def corrected(session: Session, q: str, statuses: Sequence[str]) -> str | None:
    """Return a search with the words that no product has replaced by near ones.

    None, when every word is there, or there is nothing near one that is not.

    :param q: a search that finds nothing.
    :param statuses: of the products that count: others must not be guessed from this.
    """
    plain = folded(q).lower()
    asked = sorted({match["word"] for match in _ASKED.finditer(plain)} - {None})
    if not asked or len(asked) > ASKED_MAX:
        return None
    known = _known(session, asked, statuses)
    unknown = [each for each in asked if each not in known]
    if not unknown or len(unknown) > REPLACED_MAX:
        return None
    rows = session.execute(_NEAR, {"words": unknown, "most": NEAR_MAX})
    tried = {row.text: _best(row.text, row.near) for row in rows}
    there = _known(session, sorted(set(chain(*tried.values()))), statuses)
    better = {
        each: next((one for one in near if one in there), each)
        for each, near in tried.items()
    }
    instead = _ASKED.sub(lambda match: better.get(match[0], match[0]), plain)
    instead = unicodedata.normalize("NFC", instead)
    return None if all(old == new for old, new in better.items()) else instead


def _known(
    session: Session, words: Sequence[str], statuses: Sequence[str]
) -> frozenset[str]:
    if not words:
        return frozenset()
    values = {"words": words, "statuses": list(statuses)}
    return frozenset(session.scalars(_KNOWN, values))


def _best(asked: str, near: Sequence[str]) -> list[str]:
    """Return those that few slips of the pen make of a word, the fewest first."""
    # One in a short word, three in a long one: more, and it is another word.
    most = min(3, (len(asked) + 1) // 3)
    slips = {
        each: _slips(asked, each)
        for each in near
        if abs(len(each) - len(asked)) <= most
    }
    # Sorting is stable: among equals, the most similar.
    return sorted(
        (each for each, count in slips.items() if count <= most), key=slips.__getitem__
    )[:_TRIED]


def _slips(one: str, other: str) -> int:
    """Return how many letters were left out, added, changed or swapped with the next.

    It is the optimal string alignment distance.
    """
    before: list[int] = []
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = above, row, [i]
        for j, match in enumerate(other, 1):
            least = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != match))
            if i > 1 < j and letter == other[j - 2] and one[i - 2] == match:
                least = min(least, before[j - 2] + 1)
            row.append(least)
    return row[-1]
