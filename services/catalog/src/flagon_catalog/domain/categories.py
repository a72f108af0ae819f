"""Categories: the shelves of the shop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    func,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, array, insert
from sqlalchemy.orm import QueryableAttribute, Session, aliased
from sqlalchemy.orm.attributes import flag_modified
from uuid_utils.compat import uuid7

from flagon_catalog.models import CATEGORY_VIEW, LEVELS_MAX, Category, Product
from flagon_chassis import events
from flagon_chassis.errors import Conflict, Invalid, NotFound

from . import audit
from .attribute_schemas import Rule, check_schema, same
from .slugs import slug_of


class CategoryNotFound(NotFound):
    """There is no such category."""


class CategorySlugTaken(Conflict):
    """Another category already has this slug."""


class CategorySlugFixed(Conflict):
    """A category keeps the slug that it was made with."""


class CategoryInUse(Conflict):
    """Products are still in this category."""


class CategoryHasChildren(Conflict):
    """Other categories are still in this category."""


class CategoryInItself(Conflict):
    """A category cannot be inside itself."""


class CategoryTooDeep(Conflict):
    """Categories are nested only so deep."""


class ParentUnknown(Invalid):
    """The category that this one is to be in does not exist."""


@dataclass(frozen=True)
class Shelf:
    """A category as its products need it."""

    id: UUID
    rules: tuple[Rule, ...]
    """What it and those above it ask of attributes, in no order."""


# Whoever gives a category a place waits here for whoever is at it: a place is right only
# as long as everything above it stays where it is.
_TAKE_TURN = select(func.pg_advisory_xact_lock(728_114_050))


_OWN = ("name", "description", "parent", "path", "attribute_schema")


def create_category(
    session: Session,
    *,
    name: str,
    slug: str | None,
    description: str,
    parent: str | None = None,
    attribute_schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add one category and return it as the API shows it.

    :param slug: made of the name when None.
    :param parent: slug of the category that it is in, or None.
    :param attribute_schema: what it asks of the attributes of products in it.
    :raises AttributeSchemaInvalid: that cannot be used.
    :raises CategorySlugTaken: a category with this slug exists.
    :raises ParentUnknown: there is no category with the parent's slug.
    :raises CategoryTooDeep: the parent is on the lowest level.
    """
    if attribute_schema is not None:
        check_schema(attribute_schema)
    slug = slug or slug_of(name) or f"category-{uuid7().hex[-12:]}"
    parent_id, path = None, [slug]
    if parent is not None:
        session.execute(_TAKE_TURN)
        parent_id, path = _place(session, slug, parent)
    created = _insert(
        session,
        [
            {
                "name": name,
                "slug": slug,
                "description": description,
                "parent_id": parent_id,
                "path": path,
                "attribute_schema": attribute_schema,
            }
        ],
    )
    if not created:
        detail = f"{slug} is in use."
        raise CategorySlugTaken(
            detail, errors=[{"pointer": "#/slug", "detail": detail}]
        )
    return created[0]


def ensure_categories(
    session: Session, wanted: Iterable[str], names: Mapping[str, str] | None = None
) -> dict[str, UUID]:
    """Return the ids of these categories by slug, creating those that are missing.

    They cannot be deleted before the transaction ends.

    :param names: of new ones, by slug; by default made of the slug.
    """
    slugs = sorted(set(wanted))
    if not slugs:
        return {}
    known = lock_category_ids(session, slugs)
    missing = [slug for slug in slugs if slug not in known]
    if not missing:
        return known
    _insert(
        session,
        [
            {
                "name": (names or {}).get(slug) or slug.replace("-", " ").title(),
                "slug": slug,
                "description": "",
                "parent_id": None,
                "path": [slug],
                "attribute_schema": None,
            }
            for slug in missing
        ],
    )
    return lock_category_ids(session, slugs)


def _place(
    session: Session, slug: str, parent: str | None, *, levels: int = 1
) -> tuple[UUID | None, list[str]]:
    """Return the id of a category's parent and the category's path.

    :param levels: how many the category has with what is in it.
    :raises ParentUnknown: there is no category with the parent's slug.
    :raises CategoryInItself: the parent is the category, or is in it.
    :raises CategoryTooDeep: there would be more than `LEVELS_MAX` levels.
    """
    if parent is None:
        return None, [slug]
    row = session.execute(
        select(Category.id, Category.path)
        .where(Category.slug == parent)
        .with_for_update(read=True, key_share=True)
    ).one_or_none()
    if row is None:
        detail = f"There is no category {parent}."
        raise ParentUnknown(detail, errors=[{"pointer": "#/parent", "detail": detail}])
    if slug in row.path:
        raise CategoryInItself(f"{parent} is in {slug} or the same.")
    if len(row.path) + levels > LEVELS_MAX:
        raise CategoryTooDeep(f"There may be {LEVELS_MAX} levels.", most=LEVELS_MAX)
    return row.id, [*row.path, slug]


def within(slug: str | QueryableAttribute[str]) -> ColumnElement[bool]:
    """Return whether a category is this one or somewhere in it."""
    return Category.path.contains([slug] if isinstance(slug, str) else array([slug]))


def _insert(session: Session, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add those categories whose slug is free and return them."""
    created = session.execute(
        insert(Category)
        .values([{**row, "id": uuid7(), "version": 1} for row in rows])
        .on_conflict_do_nothing()
        .returning(*CATEGORY_VIEW)
    )
    views = [row._asdict() for row in created]
    _emit_changed(session, *views)
    audit.record(session, "category", ((None, view, None) for view in views))
    return views


def lock_category_ids(session: Session, slugs: list[str]) -> dict[str, UUID]:
    """Return the ids of those categories that exist, by slug.

    Nobody can delete them before the transaction ends.
    """
    rows = session.execute(
        select(Category.slug, Category.id)
        .where(Category.slug.in_(slugs))
        # Everybody locks in the same order, so nobody waits in a circle.
        .order_by(Category.slug)
        .with_for_update(read=True, key_share=True)
    )
    return {row.slug: row.id for row in rows}


def _shelf_of_slug() -> Select[Any]:
    above = aliased(Category)
    now = aliased(Category)
    rules = (
        select(
            func.jsonb_agg(
                func.jsonb_build_array(
                    above.slug, above.name, cast(above.attribute_schema, Text)
                ),
                type_=JSONB,
            )
        )
        .where(
            above.slug == func.any(Category.path), above.attribute_schema.is_not(None)
        )
        .correlate(Category)
        .scalar_subquery()
    )
    seen = (
        select(now.version)
        .where(now.id == Category.id)
        .correlate(Category)
        .scalar_subquery()
    )
    return (
        select(Category.id, Category.version, seen.label("seen"), rules.label("rules"))
        .where(Category.slug == bindparam("slug"))
        .with_for_update(read=True, key_share=True, of=Category)
    )


# Every write of a product asks this, and making it takes as long as asking it.
_SHELF = _shelf_of_slug()


def lock_shelf(session: Session, slug: str) -> Shelf | None:
    """Return a category and what it and those above it ask for, as of one moment.

    Nobody can delete it before the transaction ends, nor change what it asks for itself.
    What is asked for above it can change; a product goes by what was asked before or
    after, and never by some of each.
    """
    row = session.execute(_SHELF, {"slug": slug}).one_or_none()
    if row is not None and row.version != row.seen:
        # Who waits for a row sees it as it then is, but what it is read with as it was
        # when the wait began: read again, now that it is ours.
        row = session.execute(_SHELF, {"slug": slug}).one()
    if row is None:
        return None
    return Shelf(row.id, tuple(Rule(*rule) for rule in row.rules or ()))


def find_category(
    session: Session, *, id: UUID | None = None, slug: str | None = None
) -> dict[str, Any]:
    """Return one category as the API shows it, by its id or by its slug.

    :raises CategoryNotFound: there is none.
    """
    statement = select(*CATEGORY_VIEW)
    if id is not None:
        statement = statement.where(Category.id == id)
    else:
        statement = statement.where(Category.slug == slug)
    row = session.execute(statement).one_or_none()
    if row is None:
        raise CategoryNotFound(f"There is no category {id or slug}.")
    return row._asdict()


def list_categories(
    session: Session,
    *,
    parent: str | None = None,
    limit: int,
    after: Sequence[Any] | None = None,
) -> list[dict[str, Any]]:
    """Return categories in the order of their names, ignoring case.

    :param parent: slug of the one that they are directly in; empty for those that are in
        none, and None for all.
    :param after: folded name and id of the last category of the page before.
    """
    order = (func.lower(Category.name), Category.id)
    statement = (
        select(*CATEGORY_VIEW, order[0].label("position")).order_by(*order).limit(limit)
    )
    if parent == "":
        statement = statement.where(Category.parent_id.is_(None))
    elif parent is not None:
        above = aliased(Category)
        statement = statement.where(
            Category.parent_id
            == select(above.id).where(above.slug == parent).scalar_subquery()
        )
    if after is not None:
        statement = statement.where(tuple_(*order) > tuple(after))
    return [row._asdict() for row in session.execute(statement)]


def find_categories(
    session: Session, slugs: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return those of these categories that exist, by slug, as the API shows them."""
    rows = session.execute(select(*CATEGORY_VIEW).where(Category.slug.in_(set(slugs))))
    return {row.slug: row._asdict() for row in rows}


def list_categories_in(
    session: Session,
    parents: Sequence[str],
    *,
    limit: int,
    after: Sequence[Any] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return one page of what is directly in each of these categories, in one statement.

    Each page is the one that `list_categories` gives for that parent.

    :param parents: slugs.
    """
    above = aliased(Category)
    order = (func.lower(Category.name), Category.id)
    inside = (
        select(*CATEGORY_VIEW, order[0].label("position"))
        .where(Category.parent_id == above.id)
        .order_by(*order)
        .limit(limit)
        .correlate(above)
    )
    if after is not None:
        inside = inside.where(tuple_(*order) > tuple(after))
    page = inside.lateral("page")
    rows = session.execute(
        select(above.slug.label("above"), *page.c)
        .join(page, true())
        .where(above.slug.in_(parents))
        .order_by(page.c.position, page.c.id)
    )
    pages: dict[str, list[dict[str, Any]]] = {slug: [] for slug in parents}
    for row in rows:
        view = row._asdict()
        pages[view.pop("above")].append(view)
    return pages


def lock_category(session: Session, *, id: UUID) -> Category:
    """Return a category that nobody else can change before the transaction ends.

    Nor can they move another one: what is above and in it stays there.

    :raises CategoryNotFound: there is none.
    """
    # Before the row: who moves a category also changes the rows that are in it.
    session.execute(_TAKE_TURN)
    category = session.get(Category, id, with_for_update=True)
    if category is None:
        raise CategoryNotFound(f"There is no category {id}.")
    return category


def change_category(
    session: Session,
    category: Category,
    *,
    name: str,
    slug: str | None,
    description: str,
    parent: str | None,
    attribute_schema: dict[str, Any] | None,
) -> dict[str, Any]:
    """Set the fields of a locked category and return it as the API shows it.

    When nothing differs there is no new version and no event. What is in a category moves
    with it and gets a new version as well, because it is shown with its path. Products
    stay as they are, whatever is asked of them from now on.

    :param slug: the one that it has, or None.
    :param attribute_schema: what it asks of the attributes of products in it.
    :raises AttributeSchemaInvalid: that is another one and cannot be used.
    :raises CategorySlugFixed: it is another one.
    :raises ParentUnknown: there is no category with the parent's slug.
    :raises CategoryInItself: the parent is the category, or is in it.
    :raises CategoryTooDeep: there would be more than `LEVELS_MAX` levels.
    """
    if slug not in {None, category.slug}:
        raise CategorySlugFixed("Make a new category and move the products to it.")
    before = category.view()
    category.name, category.description = name, description
    if not same(category.attribute_schema, attribute_schema):
        if attribute_schema is not None:
            check_schema(attribute_schema)
        category.attribute_schema = attribute_schema
        # Python would not tell 1 from true.
        flag_modified(category, "attribute_schema")
    moved = [] if parent == category.parent else _move(session, category, parent)
    session.flush()
    after = category.view()
    changed = [key for key in _OWN if not same(before[key], after[key])]
    if changed:
        _emit_changed(session, after, changed=changed)
        audit.record(session, "category", [(before, after, changed)])
    _emit_changed(session, *moved, changed=["path"])
    old, new = before["path"][:-1], after["path"][:-1]
    audit.record(
        session,
        "category",
        (
            ({"path": [*old, *view["path"][len(new) :]]}, view, ["path"])
            for view in moved
        ),
    )
    return after


def _move(
    session: Session, category: Category, parent: str | None
) -> list[dict[str, Any]]:
    """Put a locked category into another one and return what was in it, with new paths."""
    above = len(category.path) - 1
    inside = within(category.slug)
    deepest = session.scalar(
        select(func.max(func.cardinality(Category.path))).where(inside)
    )
    category.parent_id, category.path = _place(
        session, category.slug, parent, levels=deepest - above
    )
    moved = session.execute(
        update(Category)
        .where(inside, Category.id != category.id)
        .values(
            path=func.array_cat(
                category.path[:-1], Category.path[above + 1 : LEVELS_MAX]
            ),
            version=Category.version + 1,
        )
        .returning(*CATEGORY_VIEW)
        .execution_options(synchronize_session=False)
    )
    return sorted((row._asdict() for row in moved), key=lambda view: view["path"])


def delete_category(session: Session, category: Category) -> None:
    """Delete a locked, empty category.

    :raises CategoryInUse: products are in it.
    :raises CategoryHasChildren: other categories are in it.
    """
    # The lock on the category keeps new products out, so the answer stays true.
    used = session.scalar(
        select(Product.id).where(Product.category_id == category.id).limit(1)
    )
    if used is not None:
        raise CategoryInUse("Move its products to another category first.")
    inside = session.scalar(
        select(Category.id).where(Category.parent_id == category.id).limit(1)
    )
    if inside is not None:
        raise CategoryHasChildren("Move or delete the categories in it first.")
    view = category.view()
    session.delete(category)
    session.flush()
    audit.record(session, "category", [(view, None, None)])
    events.emit(
        session,
        "category.deleted.v1",
        subject=str(category.id),
        data={"id": str(category.id), "slug": category.slug},
        topics=["categories", f"categories/{category.id}"],
    )


def _emit_changed(
    session: Session, *views: dict[str, Any], changed: list[str] | None = None
) -> None:
    """Add an event for each category; in a new one everything has changed."""
    events.emit_many(
        session,
        [
            (
                "category.changed.v1",
                str(view["id"]),
                {**to_jsonable_python(view), "changed": changed or list(view)},
                ["categories", f"categories/{view['id']}"],
            )
            for view in views
        ],
    )
