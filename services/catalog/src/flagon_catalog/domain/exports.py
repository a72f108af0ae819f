"""Products by the thousand, as text that the database itself writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import (
    ARRAY,
    CHAR,
    JSON,
    ColumnElement,
    DateTime,
    Select,
    Text,
    case,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from flagon_catalog.models import Product

from .products import Filter, matching
from .shapes import WHOLE

if TYPE_CHECKING:
    import psycopg

BATCH = 2_000
"""Products that are read at a time: megabytes of memory, and milliseconds of a lock."""

# Quotation marks that no JSON holds, because it escapes them: COPY adds none of its own.
_RAW = "format csv, quote E'\\x01', delimiter E'\\x02'"


@dataclass(frozen=True)
class Batch:
    """Some products, written."""

    text: bytes
    last: UUID | None
    """The id that the next batch comes after; None: there is none."""


def read_batch(
    session: Session, wanted: Filter, *, kind: str, after: UUID | None = None
) -> Batch:
    """Return the next products by id, a line each.

    Nobody holds a transaction, a connection or a snapshot between two batches, however
    slowly the lines are read: each product is as it was when its batch was.

    :param kind: `csv`, without a header, or `ndjson`.
    """
    some = matching(WHOLE.select(), wanted)
    if after is not None:
        some = some.where(Product.id > after)
    ids = some.with_only_columns(Product.id, maintain_column_froms=True)
    last = session.scalar(ids.order_by(Product.id).offset(BATCH - 1).limit(1))
    if last is not None:
        some = some.where(Product.id <= last)
    return Batch(_copied(session, some, kind), last)


def copy_command(some: Select[Any], kind: str) -> tuple[str, Mapping[str, Any]]:
    """Return the command that makes Postgres write selected products, by id.

    :returns: the command, and the values of its parameters.
    """
    products = some.subquery("product_view")
    if kind == "csv":
        wanted = select(*map(_cell, products.c)).order_by(products.c.id)
        how = "format csv"
    else:
        whole = func.row_to_json(literal_column(products.name)).label("line")
        wanted = select(whole).select_from(products).order_by(products.c.id)
        how = _RAW
    query = wanted.compile(
        dialect=postgresql.psycopg.dialect(),  # type: ignore[no-untyped-call]
        compile_kwargs={"render_postcompile": True},
    )
    # No type of SQLAlchemy's is asked on the way to `COPY`: documents go as their text.
    values = {
        name: to_json(value).decode() if isinstance(value, dict) else value
        for name, value in query.params.items()
    }
    return f"copy ({query}) to stdout with ({how})", values


def _copied(session: Session, some: Select[Any], kind: str) -> bytes:
    connection = session.connection().connection
    driver = cast("psycopg.Connection[Any]", connection.driver_connection)
    command, values = copy_command(some, kind)
    with driver.cursor() as cursor, cursor.copy(command.encode(), values) as lines:
        return b"".join(map(bytes, lines))


def _cell(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as `formats.written` writes it."""
    if isinstance(column.type, DateTime):
        utc = func.timezone("UTC", column)
        return func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    if isinstance(column.type, ARRAY):
        return func.to_jsonb(column).cast(Text)
    if isinstance(column.type, JSON):
        return column.cast(Text)
    if isinstance(column.type, Text) and not isinstance(column.type, CHAR):
        return case(
            (column.regexp_match(r"^'*[=+\-@\t\r]"), "'" + column), else_=column
        )
    return column
