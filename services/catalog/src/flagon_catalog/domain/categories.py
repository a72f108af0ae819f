"""Categories: the shelves of the shop."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_catalog.models import CATEGORY_VIEW, Category, Product
from flagon_chassis import events
from flagon_chassis.errors import Conflict, NotFound

from .slugs import slug_of


class CategoryNotFound(NotFound):
    """There is no such category."""


class CategorySlugTaken(Conflict):
    """Another category already has this slug."""


class CategorySlugFixed(Conflict):
    """A category keeps the slug that it was made with."""


class CategoryInUse(Conflict):
    """Products are still in this category."""


def create_category(
    session: Session, *, name: str, slug: str | None, description: str
) -> dict[str, Any]:
    """Add one category and return it as the API shows it.

    :param slug: made of the name when None.
    :raises CategorySlugTaken: a category with this slug exists.
    """
    slug = slug or slug_of(name) or f"category-{uuid7().hex[-12:]}"
    created = _insert(
        session, [{"name": name, "slug": slug, "description": description}]
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
            }
            for slug in missing
        ],
    )
    return lock_category_ids(session, slugs)


def _insert(session: Session, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Add those categories whose slug is free and return them."""
    created = session.execute(
        insert(Category)
        .values([{**row, "id": uuid7(), "version": 1} for row in rows])
        .on_conflict_do_nothing()
        .returning(*CATEGORY_VIEW)
    )
    views = [row._asdict() for row in created]
    _emit_changed(session, *views)
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
    session: Session, *, limit: int, after: tuple[str, UUID] | None = None
) -> list[dict[str, Any]]:
    """Return categories in the order of their names, ignoring case.

    :param after: folded name and id of the last category of the page before.
    """
    order = (func.lower(Category.name), Category.id)
    statement = (
        select(*CATEGORY_VIEW, order[0].label("position")).order_by(*order).limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(*order) > after)
    return [row._asdict() for row in session.execute(statement)]


def lock_category(session: Session, *, id: UUID) -> Category:
    """Return a category that nobody else can change before the transaction ends.

    :raises CategoryNotFound: there is none.
    """
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
) -> dict[str, Any]:
    """Set the fields of a locked category and return it as the API shows it.

    When nothing differs there is no new version and no event.

    :param slug: the one that it has, or None.
    :raises CategorySlugFixed: it is another one.
    """
    if slug not in {None, category.slug}:
        raise CategorySlugFixed("Make a new category and move the products to it.")
    before = category.view()
    category.name, category.description = name, description
    session.flush()
    after = category.view()
    changed = [key for key in ("name", "description") if before[key] != after[key]]
    if changed:
        _emit_changed(session, after, changed=changed)
    return after


def delete_category(session: Session, category: Category) -> None:
    """Delete a locked, empty category.

    :raises CategoryInUse: products are in it.
    """
    # The lock on the category keeps new products out, so the answer stays true.
    used = session.scalar(
        select(Product.id).where(Product.category_id == category.id).limit(1)
    )
    if used is not None:
        raise CategoryInUse("Move its products to another category first.")
    session.delete(category)
    session.flush()
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
