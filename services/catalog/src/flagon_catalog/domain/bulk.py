"""Many products at once: one statement decides, writes and tells what it did."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Row, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_catalog.models import PRODUCT_VIEW, RATING, Product
from flagon_chassis.audit import VALUE_CHARACTERS_MAX
from flagon_chassis.errors import Invalid, Unavailable
from flagon_chassis.events import EMITTED

from . import audit, holds, slugs
from .attribute_schemas import Budget, Error, Rule, misfits, same
from .categories import ensure_categories
from .markup import article_of
from .products import View, broken_rule, emit_changed
from .shapes import Shape
from .tags import ensure_tags
from .words import words_of

if TYPE_CHECKING:
    import psycopg

Item = Mapping[str, Any]
"""The fields that one item gives; what it leaves out keeps its value."""

_ATTEMPTS = 5
_PROGRAM_LIMIT = "54000"
"""What Postgres says of a text that is too long for its search (SQLSTATE)."""


class BulkDisturbed(Unavailable):
    """Other changes keep getting in the way of this one."""


class TooMuchText(Invalid):
    """A product has more words than the search can hold."""


class _RaceLost(Exception):
    """Another transaction made one of the products meanwhile."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item."""

    outcome: str
    """`created`, `updated`, `unchanged` or `refused`."""
    lacking: tuple[str, ...] = ()
    """What a refused item would have needed to make a new product."""
    held: int | None = None
    """How much is held, where an item is refused because its stock would be less."""
    misfits: list[Error] = field(default_factory=list)
    """What is wrong with a refused item's attributes."""
    stale: str = ""
    """Why the version that a refused item names is not the one to change."""


# Locks the rows that exist, in the order of their SKU, so that two batches with the same
# products cannot wait for each other in a circle. A statement of its own: one that waits
# for a row sees that row as it then is, but its tags as they were when the wait began.
_LOCK = text(
    "SELECT id, sku, version, versions_sold, stock FROM product"
    " WHERE sku = ANY(:skus) ORDER BY sku FOR UPDATE"
).columns(id=Uuid)

_PRESENT = Shape(
    frozenset(
        {
            "id",
            "sku",
            "version",
            "name",
            "price_minor",
            "currency",
            "status",
            "stock",
            "available",
            "category",
        }
    )
)
"""What a report tells of a product as it is: what is short of it."""

# What is needed to check attributes, as of one moment and in one statement, whatever the
# number of items: the products that there are, and the categories that they are or will
# be in, each with the rules on its way up. Schemas come once and not for each product.
_ASKED = text(
    """
    WITH kept AS MATERIALIZED (
        SELECT sku, attributes, category_id FROM product WHERE sku = ANY(:skus)
    ), shelf AS MATERIALIZED (
        SELECT id, path FROM category
        WHERE id = ANY(:ids) OR id IN (SELECT category_id FROM kept)
    )
    SELECT 'product' AS kind, sku AS key, category_id AS id, attributes,
        cast(NULL AS text[]) AS path, NULL AS name, NULL AS schema
    FROM kept
    UNION ALL SELECT 'shelf', NULL, id, NULL, path, NULL, NULL FROM shelf
    UNION ALL SELECT 'rule', slug, id, NULL, NULL, name, cast(attribute_schema AS text)
    FROM category
    WHERE attribute_schema IS NOT NULL
        AND slug IN (SELECT unnest(shelf.path) FROM shelf)
    """
).columns(
    kind=Text,
    key=Text,
    id=Uuid,
    attributes=JSONB,
    path=ARRAY(Text),
    name=Text,
    schema=Text,
)

# Reads, decides and writes in one go:
# - `old` has what is locked, so that a field that an item leaves out keeps the value that
#   is current, not one that was read earlier;
# - `held` is true because nothing can be reserved of what is locked;
# - only what differs is written: an unchanged row costs no new version and no event;
# - `learned` waits for nobody (`words.LEARN`);
# - a row whose id is not the one that we gave it, without being in `old`, was made by
#   somebody else after our snapshot, and one in `old` that is not locked just before it:
#   the caller tries again.
_UPSERT = text(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(cast(:items AS jsonb)) AS item (
            position int, id uuid, sku text, slug text, slug_else text, name text,
            description text, description_html text, price_minor bigint, currency text,
            status text, stock int, category_given bool, category_id uuid, tags text[],
            attributes jsonb
        )
    ), old AS MATERIALIZED (
        SELECT product.id, sku, product.name, product.description,
            product.description_html, product.price_minor,
            product.currency, product.status, product.stock, product.category_id,
            ARRAY(
                SELECT tag.slug FROM product_tag JOIN tag ON tag.id = tag_id
                WHERE product_id = product.id ORDER BY tag.slug COLLATE "C"
            ) AS tags, product.attributes, (
                SELECT coalesce(sum(quantity), 0) FROM reservation
                WHERE product_id = product.id AND ended_at IS NULL
            ) AS held
        FROM product JOIN item USING (sku)
    ), wanted AS (
        SELECT item.id, sku, old.id AS old_id, position,
            CASE WHEN exists (SELECT FROM product WHERE product.slug = item.slug)
                THEN item.slug_else ELSE item.slug END AS slug,
            coalesce(item.name, old.name) AS name,
            coalesce(item.description, old.description, '') AS description,
            CASE WHEN item.description IS NULL AND old.id IS NOT NULL
                THEN old.description_html ELSE coalesce(item.description_html, '')
                END AS description_html,
            coalesce(item.price_minor, old.price_minor) AS price_minor,
            coalesce(item.currency, old.currency, 'EUR') AS currency,
            coalesce(item.status, old.status, 'active') AS status,
            coalesce(item.stock, old.stock, 0) AS stock,
            CASE WHEN item.category_given THEN item.category_id
                ELSE old.category_id END AS category_id,
            coalesce(item.tags, old.tags, '{}') AS tags,
            coalesce(item.attributes, old.attributes, '{}') AS attributes
        FROM item LEFT JOIN old USING (sku)
        WHERE coalesce(item.stock >= old.held, old.id IS NOT NULL)
            OR (old.id IS NULL
                AND item.name IS NOT NULL AND item.price_minor IS NOT NULL)
    ), written AS (
        INSERT INTO product (id, sku, slug, name, description, description_html,
            price_minor, currency, status, stock, category_id, attributes)
        SELECT id, sku, slug, name, description, description_html, price_minor,
            currency, status, stock, category_id, attributes
        FROM wanted
        WHERE old_id IS NULL OR NOT exists (
            SELECT FROM old WHERE old.id = wanted.old_id
            AND (old.name, old.description, old.price_minor, old.currency, old.status,
                 old.stock, old.tags, old.attributes)
              = (wanted.name, wanted.description, wanted.price_minor, wanted.currency,
                 wanted.status, wanted.stock, wanted.tags, wanted.attributes)
            AND old.category_id IS NOT DISTINCT FROM wanted.category_id
        )
        ORDER BY sku
        ON CONFLICT (sku) DO UPDATE SET
            name = excluded.name, description = excluded.description,
            description_html = excluded.description_html,
            price_minor = excluded.price_minor, currency = excluded.currency,
            status = excluded.status, stock = excluded.stock,
            category_id = excluded.category_id, attributes = excluded.attributes,
            version = product.version + 1, versions_sold = 0,
            updated_at = clock_timestamp()
        RETURNING id, sku, slug, name, description, price_minor, currency, status, stock,
            category_id, attributes, rating_count, rating_sum, version, created_at,
            updated_at
    ), untagged AS (
        DELETE FROM product_tag USING written, wanted, tag
        WHERE product_id = written.id AND wanted.sku = written.sku
            AND tag.id = tag_id AND tag.slug <> ALL (wanted.tags)
    ), tagged AS (
        INSERT INTO product_tag (product_id, tag_id)
        SELECT written.id, tag.id
        FROM written JOIN wanted USING (sku) JOIN tag ON tag.slug = ANY (wanted.tags)
        ON CONFLICT DO NOTHING
    ), priced AS (
        INSERT INTO price (product_id, version, price_minor, currency, "from")
        SELECT written.id, written.version, written.price_minor, written.currency,
            written.updated_at
        FROM written LEFT JOIN old USING (sku)
        WHERE (written.price_minor, written.currency)
            IS DISTINCT FROM (old.price_minor, old.currency)
    ), learned AS (
        INSERT INTO word (text)
        SELECT text FROM unnest(cast(:words AS text[])) AS new (text)
        WHERE NOT exists (SELECT FROM word WHERE word.text = new.text)
    )
    SELECT item.position, item.id AS given_id, old.id AS old_id,
        CASE WHEN item.stock < old.held THEN old.held END AS held,
        array_remove(ARRAY[
            CASE WHEN written.name <> old.name THEN 'name' END,
            CASE WHEN written.description <> old.description THEN 'description' END,
            CASE WHEN written.price_minor <> old.price_minor THEN 'price_minor' END,
            CASE WHEN written.currency <> old.currency THEN 'currency' END,
            CASE WHEN written.status <> old.status THEN 'status' END,
            CASE WHEN written.stock <> old.stock THEN 'stock' END,
            CASE WHEN written.stock <> old.stock THEN 'available' END,
            CASE WHEN written.category_id IS DISTINCT FROM old.category_id
                THEN 'category' END,
            CASE WHEN wanted.tags <> old.tags THEN 'tags' END,
            CASE WHEN written.attributes <> old.attributes THEN 'attributes' END
        ], NULL) AS changed,
        CASE WHEN written.id = old.id THEN jsonb_build_object(
            'name', old.name, 'description', left(old.description, {shown}),
            'price_minor', old.price_minor, 'currency', old.currency,
            'status', old.status, 'stock', old.stock, 'category', shelf.slug,
            'tags', old.tags, 'attributes', old.attributes
        ) END AS before,
        written.id, written.sku, written.slug, written.name, written.description,
        written.price_minor, written.currency, written.status, written.stock,
        written.stock - coalesce(old.held, 0) AS available, category.slug AS category,
        wanted.tags, written.attributes, {rating} AS rating, written.version,
        written.created_at, written.updated_at
    FROM item
    LEFT JOIN old USING (sku)
    LEFT JOIN wanted USING (sku)
    LEFT JOIN written USING (sku)
    LEFT JOIN category ON category.id = written.category_id
    LEFT JOIN category AS shelf ON shelf.id = old.category_id
    ORDER BY item.position
    """.replace("{rating}", RATING.format("written"))
    # One more than is told, so that it can be told that there was more.
    .replace("{shown}", str(VALUE_CHARACTERS_MAX + 1))
)


def try_products(session: Session, items: Sequence[Item]) -> list[Outcome]:
    """Return what would become of each item of `upsert_products`, and change nothing.

    Parameters and failures are the same.
    """
    told = session.info.get(EMITTED, False)
    with session.begin_nested() as attempt:
        outcomes = upsert_products(session, items)
        attempt.rollback()
    # Its events went back with it: kept answers are as good as before.
    session.info[EMITTED] = told
    return outcomes


def find_present(session: Session, skus: Iterable[str]) -> dict[str, View]:
    """Return those of these products that are there, by SKU, as a report tells them."""
    rows = session.execute(_PRESENT.select().where(Product.sku.in_(set(skus))))
    return {row.sku: _PRESENT.show(row._asdict()) for row in rows}


def upsert_products(session: Session, items: Sequence[Item]) -> list[Outcome]:
    """Create or change many products by SKU and return what became of each.

    Safe to repeat: what is already so stays as it is. An item without a name or a price
    can only change a product. Categories and tags that do not exist are made.

    :param items: valid ones; a SKU may occur again, and then the later item finds what
        the earlier one left. One with a `version` changes a product that nobody has
        edited since, and no other.
    :raises BulkDisturbed: others wrote the same new products at the same time.
    :raises TooMuchText: of one of them; nothing is written.
    """
    categories = ensure_categories(
        session, (item["category"] for item in items if item.get("category"))
    )
    ensure_tags(session, (slug for item in items for slug in item.get("tags", ())))
    budget = Budget()
    outcomes: dict[int, Outcome] = {}
    for turn in _turns(items):
        rows, refused = _upsert(session, turn, categories, budget)
        outcomes |= refused
        for row in rows:
            outcomes[row.position] = _outcome(row, items[row.position])
    return [outcomes[position] for position in range(len(items))]


def _turns(items: Sequence[Item]) -> list[list[tuple[int, Item]]]:
    """Return the items with their positions, no SKU twice in one turn."""
    turns: list[list[tuple[int, Item]]] = []
    seen: Counter[str] = Counter()
    for position, item in enumerate(items):
        turn = seen[item["sku"]]
        if turn == len(turns):
            turns.append([])
        turns[turn].append((position, item))
        seen[item["sku"]] += 1
    return turns


def _upsert(
    session: Session,
    turn: list[tuple[int, Item]],
    categories: Mapping[str, UUID],
    budget: Budget,
) -> tuple[Sequence[Row[Any]], dict[int, Outcome]]:
    """Write the items of a turn whose attributes fit.

    Returns what became of them, and the outcomes of the others by position.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with session.begin_nested():
                locked = _lock(session, [item["sku"] for _, item in turn])
                refused = _stale(turn, locked)
                current = [pair for pair in turn if pair[0] not in refused]
                refused |= _unfit(session, current, categories, budget)
                fit = [pair for pair in turn if pair[0] not in refused]
                rows = session.execute(
                    _UPSERT,
                    {
                        "items": _parameter(fit, categories, attempt),
                        "words": words_of(item for _, item in fit),
                    },
                ).all()
                _check_race(rows, {row.id for row in locked})
        except _RaceLost:
            continue
        except IntegrityError as error:
            # Two transactions found the same slug free.
            if broken_rule(error) != "uq_product_slug":
                raise
            continue
        except OperationalError as error:
            if cast("psycopg.Error", error.orig).sqlstate != _PROGRAM_LIMIT:
                raise
            raise TooMuchText("Give shorter attributes.") from error
        changed = [(row.before, *_change(row)) for row in rows if row.id is not None]
        emit_changed(session, ((view, names) for _, view, names in changed))
        audit.record(session, "product", changed)
        return rows, refused
    raise BulkDisturbed("Send it again.", retry_after_seconds=1)


def _unfit(
    session: Session,
    turn: list[tuple[int, Item]],
    categories: Mapping[str, UUID],
    budget: Budget,
) -> dict[int, Outcome]:
    """Return the refusals of locked products whose attributes would not fit.

    Those whose attributes and category stay what they are need not fit.
    """
    about = [
        pair for pair in turn if "attributes" in pair[1] or pair[1].get("category")
    ]
    if not about:
        return {}
    found = session.execute(
        _ASKED,
        {
            "skus": [item["sku"] for _, item in about],
            "ids": list(categories.values()),
        },
    ).all()
    kept = {row.key: row for row in found if row.kind == "product"}
    paths = {row.id: row.path for row in found if row.kind == "shelf"}
    rules = {
        row.key: Rule(row.key, row.name, row.schema)
        for row in found
        if row.kind == "rule"
    }
    refused = {}
    for position, item in about:
        old = kept.get(item["sku"])
        if old is None and not {"name", "price_minor"} <= item.keys():
            # It will be refused for what it lacks.
            continue
        before = (old.attributes, old.id) if old else ({}, None)
        attributes = item.get("attributes", before[0])
        shelf = (
            categories.get(item["category"] or "") if "category" in item else before[1]
        )
        asked = [rules[slug] for slug in paths.get(shelf, ()) if slug in rules]
        if old and shelf == before[1] and same(attributes, before[0]):
            continue
        wrong = misfits(attributes, asked, budget)
        if wrong:
            refused[position] = Outcome("refused", misfits=wrong)
    return refused


def _stale(
    turn: list[tuple[int, Item]], locked: Sequence[Row[Any]]
) -> dict[int, Outcome]:
    """Return the refusals of items that name another version than the locked one.

    As with `If-Match` on one product: what was only sold since is no obstacle, unless the
    item sets the stock.
    """
    about = [pair for pair in turn if "version" in pair[1]]
    if not about:
        return {}
    present = {row.sku: row for row in locked}
    refused = {}
    for position, item in about:
        now = present.get(item["sku"])
        if now is None:
            why = "There is no such product."
        elif item["version"] == now.version or (
            now.version - now.versions_sold <= item["version"] < now.version
            and item.get("stock", now.stock) == now.stock
        ):
            continue
        else:
            why = f"Its version is {now.version}."
        refused[position] = Outcome("refused", stale=why)
    return refused


def _lock(session: Session, skus: Sequence[str]) -> Sequence[Row[Any]]:
    """Let nobody reserve or change these products; return those that there are."""
    found = session.execute(_LOCK, {"skus": skus}).all()
    # What is held is what has not ended: time alone counts for nothing from here on.
    holds.expire_overdue(session, [row.id for row in found])
    return found


def _check_race(rows: Sequence[Row[Any]], locked: set[UUID]) -> None:
    for row in rows:
        made_meanwhile = row.id not in {None, row.old_id or row.given_id}
        if made_meanwhile or not {row.old_id} <= locked | {None}:
            raise _RaceLost


def _parameter(
    turn: list[tuple[int, Item]], categories: Mapping[str, UUID], attempt: int
) -> str:
    used: set[str] = set()
    rows = []
    for position, item in turn:
        id_ = uuid7()
        choices = slugs.choices(item.get("name") or "", item["sku"], id_)
        slug = next(slug for slug in choices if slug not in used)
        used.add(slug)
        rows.append(
            {
                **item,
                "description_html": article_of(item.get("description", "")),
                "position": position,
                "id": id_,
                "slug": slug,
                # The second try takes what nobody else can take.
                "slug_else": choices[-1 if attempt or slug != choices[0] else 1],
                "category_given": "category" in item,
                "category_id": categories.get(item.get("category") or ""),
            }
        )
    return to_json(rows).decode()


def _change(row: Row[Any]) -> tuple[View, Sequence[str]]:
    view = {column.key: getattr(row, column.key) for column in PRODUCT_VIEW}
    return view, row.changed if row.old_id else list(view)


def _outcome(row: Row[Any], item: Item) -> Outcome:
    if row.old_id is None and row.id is None:
        return Outcome(
            "refused",
            tuple(name for name in ("name", "price_minor") if name not in item),
        )
    if row.held is not None:
        return Outcome("refused", held=row.held)
    if row.id is None:
        return Outcome("unchanged")
    return Outcome("updated" if row.old_id else "created")
