"""Reviews: what people say about products, and who decides what of it is shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import ColumnElement, Select, delete, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_catalog.models import PRODUCT_RATING, REVIEW_VIEW, Product, Review
from flagon_chassis import events
from flagon_chassis.errors import Conflict, Forbidden, NotFound

from . import audit
from .markup import html_of
from .products import ProductNotFound, View, emit_changed, lock_product, visible

_PRIVATE = ("subject", "note")
_STAMPS = ("version", "updated_at")
_RENDERED_AT_ONCE = 100


class ReviewNotFound(NotFound):
    """There is no such review."""


class ReviewExists(Conflict):
    """This account has already reviewed the product."""


class ReviewNotYours(Forbidden):
    """Only its author and moderators may change a review."""


class RatingNotYours(Forbidden):
    """Only its author may change a review's rating."""


class ProductArchived(Conflict):
    """Archived products take no new reviews."""


@dataclass(frozen=True)
class Reader:
    """Who looks at reviews or changes them."""

    subject: UUID | None = None
    """The account, None for a stranger."""
    moderator: bool = False


def create_review(
    session: Session,
    *,
    product_id: UUID,
    subject: UUID,
    fields: Mapping[str, Any],
    moderated: bool,
) -> View:
    """Add one review and return it as its author sees it.

    :param fields: `author`, `rating`, `title`, `body` (Markdown) and `language`.
    :param moderated: whether it waits for a moderator.
    :raises ProductNotFound: there is no such product, or it is a draft.
    :raises ProductArchived: it is no longer for sale.
    :raises ReviewExists: the account has reviewed it; the problem links to the review.
    """
    # Before anything is locked: it takes the longest.
    body_html = html_of(fields["body"])
    product = lock_product(session, id=product_id)
    if product["status"] == "draft":
        raise ProductNotFound(f"There is no product {product_id}.")
    if product["status"] == "archived":
        raise ProductArchived("It is no longer for sale.")
    row = session.execute(
        insert(Review)
        .values(
            **fields,
            id=uuid7(),
            product_id=product_id,
            subject=subject,
            body_html=body_html,
            state="pending" if moderated else "published",
            version=1,
        )
        .on_conflict_do_nothing(index_elements=["product_id", "subject"])
        .returning(*REVIEW_VIEW)
    ).one_or_none()
    if row is None:
        known = session.scalar(
            select(Review.id).where(
                Review.product_id == product_id, Review.subject == subject
            )
        )
        raise ReviewExists(
            "Change that review instead.", review=f"/api/v1/reviews/{known}"
        )
    view = row._asdict()
    _tell(session, view, list(view), was_shown=False)
    audit.record(session, "review", [(None, view, None)])
    _count(session, product_id, None, _counted(view))
    return view


def list_product_reviews(
    session: Session,
    *,
    product_id: UUID,
    hidden: bool,
    sort: str,
    limit: int,
    rating: int | None = None,
    language: str | None = None,
    after: Sequence[Any] | None = None,
) -> list[View]:
    """Return one page of a product's published reviews as strangers see them.

    Each has its `position` in the order.

    :param hidden: whether the caller sees products that are not for sale.
    :param sort: `newest`, `highest` (rating first, then the newest) or `lowest`, which is
        the reverse of that.
    :param after: position and id of the last review of the page before.
    :raises ProductNotFound: the caller sees no such product.
    """
    found = list_reviews_of(
        session,
        [product_id],
        hidden=hidden,
        sort=sort,
        limit=limit,
        rating=rating,
        language=language,
        after=after,
    )
    if product_id not in found:
        raise ProductNotFound(f"There is no product {product_id}.")
    return found[product_id]


def list_reviews_of(
    session: Session,
    product_ids: Sequence[UUID],
    *,
    hidden: bool,
    sort: str,
    limit: int,
    rating: int | None = None,
    language: str | None = None,
    after: Sequence[Any] | None = None,
) -> dict[UUID, list[View]]:
    """Return one page of reviews of each of these products, in one statement.

    As `list_product_reviews` does for one; a product that the caller does not see is not
    in the answer.
    """
    conditions = [Review.product_id == Product.id, Review.state == "published"]
    if rating is not None:
        conditions.append(Review.rating == rating)
    if language is not None:
        conditions.append(Review.language == language)
    falling = sort != "lowest"
    page = (
        _page(
            conditions,
            position=Review.created_at if sort == "newest" else Review.rating,
            falling=falling,
            limit=limit,
            after=after,
        )
        .correlate(Product)
        .lateral("page")
    )
    # A product without reviews has one row without any.
    rows = session.execute(
        select(Product.id.label("of"), Product.status, *page.c)
        .select_from(Product)
        .outerjoin(page, true())
        .where(Product.id.in_(product_ids))
    )
    pages: dict[UUID, list[View]] = {}
    for row in rows:
        view = row._asdict()
        of, status = view.pop("of"), view.pop("status")
        if visible(status, hidden=hidden):
            views = pages.setdefault(of, [])
            if view["id"] is not None:
                views.append(_public(view))
    for views in pages.values():
        # Each page comes in order from its index, but nothing promises that it stays so.
        views.sort(key=lambda view: (view["position"], view["id"]), reverse=falling)
    return pages


def list_reviews(
    session: Session,
    *,
    subject: UUID | None,
    state: str | None,
    sort: str,
    limit: int,
    after: Sequence[Any] | None = None,
) -> list[View]:
    """Return one page of reviews in any state, each with its `position` in the order.

    :param subject: whose, or None for everybody's.
    :param sort: `newest` or `oldest`.
    :param after: position and id of the last review of the page before.
    """
    conditions = []
    if subject is not None:
        conditions.append(Review.subject == subject)
    if state is not None:
        conditions.append(Review.state == state)
    statement = _page(
        conditions,
        position=Review.created_at,
        falling=sort == "newest",
        limit=limit,
        after=after,
    )
    return [row._asdict() for row in session.execute(statement)]


def _page(
    conditions: Iterable[ColumnElement[bool]],
    *,
    position: Any,  # noqa: ANN401 (a mapped column of one of two types)
    falling: bool,
    limit: int,
    after: Sequence[Any] | None,
) -> Select[*tuple[Any, ...]]:
    statement = (
        select(*REVIEW_VIEW, position.label("position")).where(*conditions).limit(limit)
    )
    order = tuple_(position, Review.id)
    if falling:
        statement = statement.order_by(position.desc(), Review.id.desc())
        if after is not None:
            statement = statement.where(order < tuple(after))
    else:
        statement = statement.order_by(position, Review.id)
        if after is not None:
            statement = statement.where(order > tuple(after))
    return statement


def find_review(session: Session, *, id: UUID, reader: Reader) -> View:
    """Return one review as this reader sees it.

    :raises ReviewNotFound: there is none that the reader may see.
    """
    row = session.execute(
        select(*REVIEW_VIEW, Product.status.label("status"))
        .join(Product, Product.id == Review.product_id)
        .where(Review.id == id)
    ).one_or_none()
    if row is None:
        raise ReviewNotFound(f"There is no review {id}.")
    view = row._asdict()
    active = view.pop("status") == "active"
    if reader.moderator or view["subject"] == reader.subject:
        return view
    if not (active and view["state"] == "published"):
        raise ReviewNotFound(f"There is no review {id}.")
    return _public(view)


def lock_review(session: Session, *, id: UUID, reader: Reader) -> Review:
    """Return a review that nobody else can change before the transaction ends.

    The same is true of its product: what counts on it is locked first by everybody, so
    nobody waits in a circle.

    :raises ReviewNotFound: there is none that the reader may see.
    :raises ReviewNotYours: the reader may see it and no more.
    """
    found = find_review(session, id=id, reader=reader)
    if found["subject"] is None:
        raise ReviewNotYours("It was written by somebody else.")
    try:
        lock_product(session, id=found["product_id"])
    except ProductNotFound as error:
        raise ReviewNotFound(f"There is no review {id}.") from error
    review = session.get(Review, id, with_for_update=True)
    if review is None:
        raise ReviewNotFound(f"There is no review {id}.")
    return review


def change_review(
    session: Session,
    review: Review,
    fields: Mapping[str, Any],
    *,
    reader: Reader,
    moderated: bool,
) -> View:
    """Set fields of a locked review and return it as its author sees it.

    When nothing differs there is no new version and no event.

    :param moderated: whether what its author writes waits for a moderator. Once it was
        rejected it waits in any case.
    :raises RatingNotYours: a moderator gives somebody else's review other stars.
    """
    before = review.view()
    own = review.subject == reader.subject
    if not own and fields["rating"] != review.rating:
        raise RatingNotYours("Reject it, or leave the stars as they are.")
    if all(before[name] == value for name, value in fields.items()):
        return before
    for name, value in fields.items():
        setattr(review, name, value)
    review.body_html = html_of(review.body)
    if own and (moderated or review.state != "published"):
        review.state, review.note = "pending", None
    return _save(session, review, before)


def publish_review(session: Session, review: Review) -> View:
    """Show a locked review to everybody; safe to repeat."""
    before = review.view()
    review.state, review.note = "published", None
    return _save(session, review, before)


def reject_review(session: Session, review: Review, *, note: str) -> View:
    """Show a locked review to nobody but its author and moderators; safe to repeat.

    :param note: why, for its author.
    """
    before = review.view()
    review.state, review.note = "rejected", note
    return _save(session, review, before)


def _save(session: Session, review: Review, before: View) -> View:
    session.flush()
    after = review.view()
    changed = [
        name for name in after if name not in _STAMPS and after[name] != before[name]
    ]
    if changed:
        _tell(session, after, changed, was_shown=before["state"] == "published")
        audit.record(session, "review", [(before, after, changed)])
        _count(session, review.product_id, _counted(before), _counted(after))
    return after


def delete_review(session: Session, review: Review) -> None:
    """Delete a locked review."""
    view = review.view()
    session.delete(review)
    session.flush()
    _tell_deleted(session, view)
    audit.record(session, "review", [(view, None, None)])
    _count(session, review.product_id, _counted(view), None)


def forget_subject(session: Session, subject: UUID) -> int:
    """Delete all that an account wrote and return how many reviews that were."""
    products = session.scalars(
        select(Product.id)
        .where(
            Product.id.in_(select(Review.product_id).where(Review.subject == subject))
        )
        # As a bulk upsert locks them, so that neither waits for the other in a circle.
        .order_by(Product.sku)
        .with_for_update()
    ).all()
    gone = [
        row._asdict()
        for row in session.execute(
            delete(Review)
            .where(Review.subject == subject, Review.product_id.in_(products))
            .returning(*REVIEW_VIEW)
        )
    ]
    audit.record(session, "review", ((view, None, None) for view in gone))
    for view in gone:
        _tell_deleted(session, view)
        _count(session, view["product_id"], _counted(view), None)
    return len(gone)


def render_reviews(session: Session, *, after: UUID | None) -> tuple[UUID | None, int]:
    """Make the HTML of some reviews anew, as today's code does it; safe to repeat.

    :param after: the last review of the call before, None to begin.
    :returns: the last review that was looked at, None when there are no more, and how
        many differed.
    """
    statement = select(Review).order_by(Review.id).limit(_RENDERED_AT_ONCE)
    if after is not None:
        statement = statement.where(Review.id > after)
    reviews = session.scalars(statement.with_for_update()).all()
    differed = 0
    for review in reviews:
        before = review.view()
        review.body_html = html_of(review.body)
        session.flush()
        if review.version != before["version"]:
            differed += 1
            view, names = review.view(), ["body_html"]
            _tell(session, view, names, was_shown=review.state == "published")
            audit.record(session, "review", [(before, view, names)])
    return (reviews[-1].id if reviews else None), differed


def _public(view: View) -> View:
    """Return a review as strangers see it."""
    return {**view, **dict.fromkeys(_PRIVATE)}


def _counted(view: View) -> int | None:
    """Return the rating if it counts."""
    return view["rating"] if view["state"] == "published" else None


def _count(
    session: Session, product_id: UUID, before: int | None, after: int | None
) -> None:
    """Add to a locked product's rating what has changed in one of its reviews.

    The product's version stays: nobody has edited it.

    :param before: the rating that counted until now, None if none did.
    :param after: the one that counts from now on.
    """
    if before == after:
        return
    product = lock_product(session, id=product_id)
    rating = session.scalar(
        update(Product)
        .where(Product.id == product_id)
        .values(
            rating_count=Product.rating_count
            + ((after is not None) - (before is not None)),
            rating_sum=Product.rating_sum + ((after or 0) - (before or 0)),
        )
        .returning(PRODUCT_RATING)
    )
    if rating != product["rating"]:
        emit_changed(session, [({**product, "rating": rating}, ["rating"])])


def _tell(session: Session, view: View, changed: list[str], *, was_shown: bool) -> None:
    """Add the events of a review that was written or changed.

    Strangers follow the topic of the product: they are told of published reviews, without
    what is private; one that is no longer shown is gone for them. Two events and not one
    with two topics, because an event names its topics, and `users/<sub>` names the author.
    """
    told = [_event(view, changed, f"users/{view['subject']}")]
    if view["state"] == "published":
        names = changed if was_shown else list(view)
        told.append(_event(_public(view), names, f"products/{view['product_id']}"))
    elif was_shown:
        told.append(_deletion(view, f"products/{view['product_id']}"))
    events.emit_many(session, told)


def _tell_deleted(session: Session, view: View) -> None:
    told = [_deletion(view, f"users/{view['subject']}")]
    if view["state"] == "published":
        told.append(_deletion(view, f"products/{view['product_id']}"))
    events.emit_many(session, told)


_Event = tuple[str, str, dict[str, Any], list[str]]


def _event(view: View, changed: list[str], topic: str) -> _Event:
    data = {**to_jsonable_python(view), "changed": changed}
    return "review.changed.v1", str(view["id"]), data, [topic]


def _deletion(view: View, topic: str) -> _Event:
    data = {name: str(view[name]) for name in ("id", "product_id")}
    return "review.deleted.v1", data["id"], data, [topic]
