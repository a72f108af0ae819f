"""Why a search found a product: its text with the words marked, as safe HTML."""

import re
from collections.abc import Callable, Sequence
from html import escape, unescape
from uuid import UUID

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from flagon_catalog.models import Product

from .products import query_of

# Of Unicode's private use: no text has a meaning for them, and HTML needs no escape.
_BEGIN, _END = "\ue000", "\ue001"
_MARK = re.compile(f"([{_BEGIN}{_END}])")
_TAGS = {_BEGIN: "<mark>", _END: "</mark>"}
# What people read of a description, without the signs that it is written with.
_SHOWN = func.coalesce(
    func.regexp_replace(Product.description_html, "<[^>]*>", " ", "g"),
    func.replace(Product.description, "&", "&amp;"),
)
_MARKS = f"StartSel={_BEGIN}, StopSel={_END}"
_NAME = f"{_MARKS}, HighlightAll=true"
_DESCRIPTION = (
    f'{_MARKS}, MaxFragments=2, MinWords=8, MaxWords=24, FragmentDelimiter=" … "'
)


def highlights(
    session: Session, q: str, ids: Sequence[UUID]
) -> dict[str, dict[str, str]]:
    """Return name and excerpts of the description of each product, by its id.

    Both are HTML: the text escaped, each word that was searched for in `<mark>`. A word
    that is written with an accent is found without it, and then not marked.

    :param ids: at most a page of them; each takes Postgres about as long as its text is.
    """
    query = query_of(q)
    rows = session.execute(
        select(
            Product.id,
            *(
                func.ts_headline(
                    literal_column("'english'::regconfig"),
                    func.translate(text, _BEGIN + _END, ""),
                    query,
                    options,
                )
                for text, options in (
                    (Product.name, _NAME),
                    (_SHOWN, _DESCRIPTION),
                )
            ),
        ).where(Product.id.in_(ids))
    )
    return {
        str(id_): {
            "name": _marked(name),
            "description": _marked(description, decode=unescape),
        }
        for id_, name, description in rows
    }


def _marked(text: str, *, decode: Callable[[str], str] = str) -> str:
    # Not before: Postgres would take a mark apart, and count tags as words.
    parts = _MARK.split(text)
    return "".join(_TAGS.get(part) or escape(decode(part)) for part in parts)
