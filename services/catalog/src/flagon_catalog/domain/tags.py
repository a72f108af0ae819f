"""Tags: words that products are marked with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_catalog.models import TAG_VIEW, Tag, product_tag
from flagon_chassis import events
from flagon_chassis.errors import Conflict, Invalid, NotFound

from . import audit
from .slugs import slug_of


class TagNotFound(NotFound):
    """There is no such tag."""


class TagSlugTaken(Conflict):
    """Another tag already has this slug."""


class TagSlugFixed(Conflict):
    """A tag keeps the slug that it was made with."""


class TagInUse(Conflict):
    """Products still have this tag."""


class TagUnknown(Invalid):
    """One of the product's tags does not exist."""


def create_tag(session: Session, *, name: str, slug: str | None) -> dict[str, Any]:
    """Add one tag and return it as the API shows it.

    :param slug: made of the name when None.
    :raises TagSlugTaken: a tag with this slug exists.
    """
    slug = slug or slug_of(name) or f"tag-{uuid7().hex[-12:]}"
    created = _insert(session, {slug: name})
    if not created:
        detail = f"{slug} is in use."
        raise TagSlugTaken(detail, errors=[{"pointer": "#/slug", "detail": detail}])
    return created[0]


def ensure_tags(session: Session, wanted: Iterable[str]) -> None:
    """Create those of these tags that are missing, named after their slugs.

    They cannot be deleted before the transaction ends.
    """
    slugs = sorted(set(wanted))
    if not slugs:
        return
    known = lock_tag_ids(session, slugs)
    missing = [slug for slug in slugs if slug not in known]
    if missing:
        _insert(session, {slug: slug.replace("-", " ").title() for slug in missing})
        lock_tag_ids(session, slugs)


def _insert(session: Session, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Add those tags whose slug is free and return them.

    :param names: by slug.
    """
    created = session.execute(
        insert(Tag)
        .values(
            [
                {"id": uuid7(), "slug": slug, "name": name, "version": 1}
                for slug, name in names.items()
            ]
        )
        .on_conflict_do_nothing()
        .returning(*TAG_VIEW)
    )
    views = [row._asdict() for row in created]
    _emit_changed(session, *views)
    audit.record(session, "tag", ((None, view, None) for view in views))
    return views


def lock_tag_ids(session: Session, slugs: Sequence[str]) -> dict[str, UUID]:
    """Return the ids of those tags that exist, by slug.

    Nobody can delete them before the transaction ends.
    """
    rows = session.execute(
        select(Tag.slug, Tag.id)
        .where(Tag.slug.in_(slugs))
        # Everybody locks in the same order, so nobody waits in a circle.
        .order_by(Tag.slug)
        .with_for_update(read=True, key_share=True)
    )
    return {row.slug: row.id for row in rows}


def find_tag_ids(session: Session, slugs: Sequence[str]) -> list[UUID]:
    """Return the ids of tags that a product is to have.

    Nobody can delete them before the transaction ends.

    :raises TagUnknown: there is no tag with one of these slugs.
    """
    if not slugs:
        return []
    found = lock_tag_ids(session, slugs)
    wrong = [
        {"pointer": f"#/tags/{place}", "detail": f"There is no tag {slug}."}
        for place, slug in enumerate(slugs)
        if slug not in found
    ]
    if wrong:
        raise TagUnknown(wrong[0]["detail"], errors=wrong)
    return list(found.values())


def set_tags(session: Session, product_id: UUID, tag_ids: Sequence[UUID]) -> None:
    """Let a locked or new product have these tags and no others."""
    session.execute(
        delete(product_tag).where(
            product_tag.c.product_id == product_id,
            product_tag.c.tag_id.not_in(tag_ids),
        )
    )
    if tag_ids:
        session.execute(
            insert(product_tag)
            .values([{"product_id": product_id, "tag_id": id_} for id_ in tag_ids])
            .on_conflict_do_nothing()
        )


def find_tag(
    session: Session, *, id: UUID | None = None, slug: str | None = None
) -> dict[str, Any]:
    """Return one tag as the API shows it, by its id or by its slug.

    :raises TagNotFound: there is none.
    """
    wanted = Tag.slug == slug if id is None else Tag.id == id
    row = session.execute(select(*TAG_VIEW).where(wanted)).one_or_none()
    if row is None:
        raise TagNotFound(f"There is no tag {id or slug}.")
    return row._asdict()


def find_tags(session: Session, slugs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return those of these tags that exist, by slug, as the API shows them."""
    rows = session.execute(select(*TAG_VIEW).where(Tag.slug.in_(set(slugs))))
    return {row.slug: row._asdict() for row in rows}


def list_tags(
    session: Session, *, limit: int, after: tuple[str, UUID] | None = None
) -> list[dict[str, Any]]:
    """Return tags in the order of their names, ignoring case.

    :param after: folded name and id of the last tag of the page before.
    """
    order = (func.lower(Tag.name), Tag.id)
    statement = (
        select(*TAG_VIEW, order[0].label("position")).order_by(*order).limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(*order) > after)
    return [row._asdict() for row in session.execute(statement)]


def lock_tag(session: Session, *, id: UUID) -> Tag:
    """Return a tag that nobody else can change before the transaction ends.

    :raises TagNotFound: there is none.
    """
    tag = session.get(Tag, id, with_for_update=True)
    if tag is None:
        raise TagNotFound(f"There is no tag {id}.")
    return tag


def change_tag(
    session: Session, tag: Tag, *, name: str, slug: str | None
) -> dict[str, Any]:
    """Set the name of a locked tag and return it as the API shows it.

    When it does not differ there is no new version and no event.

    :param slug: the one that it has, or None.
    :raises TagSlugFixed: it is another one.
    """
    if slug not in {None, tag.slug}:
        raise TagSlugFixed("Make a new tag and give it to the products.")
    if name == tag.name:
        return tag.view()
    before = tag.view()
    tag.name = name
    session.flush()
    view = tag.view()
    _emit_changed(session, view, changed=["name"])
    audit.record(session, "tag", [(before, view, ["name"])])
    return view


def delete_tag(session: Session, tag: Tag) -> None:
    """Delete a locked tag that no product has.

    :raises TagInUse: products have it.
    """
    # The lock on the tag keeps new products away, so the answer stays true.
    used = session.scalar(
        select(product_tag.c.product_id).where(product_tag.c.tag_id == tag.id).limit(1)
    )
    if used is not None:
        raise TagInUse("Take it from its products first.")
    view = tag.view()
    session.delete(tag)
    session.flush()
    audit.record(session, "tag", [(view, None, None)])
    events.emit(
        session,
        "tag.deleted.v1",
        subject=str(tag.id),
        data={"id": str(tag.id), "slug": tag.slug},
        topics=["tags", f"tags/{tag.id}"],
    )


def _emit_changed(
    session: Session, *views: dict[str, Any], changed: list[str] | None = None
) -> None:
    """Add an event for each tag; in a new one everything has changed."""
    events.emit_many(
        session,
        [
            (
                "tag.changed.v1",
                str(view["id"]),
                {**to_jsonable_python(view), "changed": changed or list(view)},
                ["tags", f"tags/{view['id']}"],
            )
            for view in views
        ],
    )
