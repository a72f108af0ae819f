"""The reviews of the API."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app, url_for
from flask.views import MethodView

from flagon_catalog.domain import patches, reviews
from flagon_catalog.domain.reviews import Reader
from flagon_catalog.models import REVIEW_VIEW
from flagon_catalog.review_schemas import (
    NewReview,
    ProductReviewQuery,
    Rejection,
    ReviewChange,
    ReviewPage,
    ReviewQuery,
    ReviewView,
)
from flagon_chassis import auth, conditional, idempotency, metrics
from flagon_chassis.auth import Caller, ScopeMissing
from flagon_chassis.db import reading, transaction
from flagon_chassis.errors import Forbidden

from . import (
    PAGING,
    WRITE,
    answer_if_changed,
    listed,
    merge_patch,
    positions,
    refuse_unclear,
    sees_hidden,
    shown,
)

OWN = "reviews:write"

bp = APIBlueprint("reviews", __name__, url_prefix="/api/v1", tag="Reviews")
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)

FIELDS = [column.key for column in REVIEW_VIEW]


class PersonRequired(Forbidden):
    """Only people review products."""


class ProductReviews(MethodView):
    """All reviews of a product."""

    @auth.open_route
    @bp.doc(operation_id="list_product_reviews", responses=[404])
    @bp.input(ProductReviewQuery, location="query", arg_name="asked")
    @bp.output(ReviewPage)
    def get(self, product_id: UUID, asked: ProductReviewQuery) -> Response:
        """List the published reviews of a product."""
        hidden = sees_hidden()
        purpose = purpose_of(product_id, asked)
        with reading() as session:
            rows = reviews.list_product_reviews(
                session,
                product_id=product_id,
                hidden=hidden,
                limit=asked.limit + 1,
                after=positions.after(
                    purpose, asked.cursor, times=asked.sort == "newest"
                ),
                **asked.model_dump(exclude=PAGING),
            )
        return _listed(purpose, rows, asked.limit, hidden=hidden)

    @auth.requires(OWN)
    @bp.doc(
        operation_id="create_review",
        responses={
            404: "",
            409: "The account has reviewed the product, or the product is archived",
        },
    )
    @bp.input(NewReview, arg_name="new")
    @bp.output(ReviewView, 201)
    def post(self, product_id: UUID, new: NewReview) -> Response:
        """Review a product, once for each account.

        With an `Idempotency-Key` it can be repeated without a second effect. Where
        reviews are moderated, it is not shown to others before a moderator publishes it.
        """
        subject = _person(auth.caller())
        if subject is None:
            raise PersonRequired("Ask with a person's token.")

        written: list[UUID] = []

        def respond() -> Response:
            view = reviews.create_review(
                session,
                product_id=product_id,
                subject=subject,
                fields=new.model_dump(),
                moderated=_moderated(),
            )
            written.append(view["id"])
            location = url_for("reviews.review", review_id=view["id"])
            return _tagged(shown(view, 201, location=location), view)

        with transaction() as session:
            response = idempotency.once(session, respond)
        if written:
            _count("written")
        return response


class Reviews(MethodView):
    """All reviews."""

    @auth.requires()
    @bp.doc(operation_id="list_reviews")
    @bp.input(ReviewQuery, location="query", arg_name="asked")
    @bp.output(ReviewPage)
    def get(self, asked: ReviewQuery) -> Response:
        """List the caller's own reviews; for moderators everybody's.

        Moderators find what waits for them with `state=pending&sort=oldest`.
        """
        reader = _changer()
        subject = reader.subject
        if reader.moderator and not asked.own:
            subject = None
        elif subject is None:
            raise PersonRequired("Ask with a person's token.")
        filters = asked.model_dump_json(exclude={"own", *PAGING})
        purpose = f"reviews by {subject} {filters}"
        with reading() as session:
            rows = reviews.list_reviews(
                session,
                subject=subject,
                limit=asked.limit + 1,
                after=positions.after(purpose, asked.cursor, times=True),
                **asked.model_dump(exclude={"own", *PAGING}),
            )
        return _listed(purpose, rows, asked.limit)


class Review(MethodView):
    """One review."""

    @auth.open_route
    @bp.doc(operation_id="find_review", responses=[304, 404])
    @bp.output(ReviewView)
    def get(self, review_id: UUID) -> Response:
        """Show a review; who neither wrote nor moderates it sees published ones alone."""
        caller = auth.caller_if_any()
        reader = reader_of(caller)
        with reading() as session:
            view = reviews.find_review(session, id=review_id, reader=reader)
        return _tagged(shown(view, hidden=caller is not None), view)

    @auth.requires()
    @bp.doc(operation_id="change_review", responses=[404, 412, 415, 428])
    @merge_patch
    @bp.input(ReviewChange, arg_name="change")
    @bp.output(ReviewView)
    def patch(self, review_id: UUID, change: ReviewChange) -> Response:
        """Change some fields of a review by JSON merge patch (RFC 7396).

        Where reviews are moderated, what its author changes waits again. Moderators
        change all but the rating, and the review stays in its state.
        """
        reader = _changer()
        with transaction() as session:
            review = reviews.lock_review(session, id=review_id, reader=reader)
            _require_match(review.view())
            whole = {name: getattr(review, name) for name in NewReview.model_fields}
            new = NewReview.model_validate(
                patches.merged(whole, change.model_dump(exclude_unset=True))
            )
            view = reviews.change_review(
                session,
                review,
                new.model_dump(),
                reader=reader,
                moderated=_moderated(),
            )
        _count("changed")
        return _tagged(shown(view), view)

    @auth.requires()
    @bp.doc(
        operation_id="delete_review",
        responses={204: "It is gone", 404: "", 412: "", 428: ""},
    )
    def delete(self, review_id: UUID) -> Response:
        """Delete a review: its author or a moderator."""
        reader = _changer()
        with transaction() as session:
            review = reviews.lock_review(session, id=review_id, reader=reader)
            _require_match(review.view())
            reviews.delete_review(session, review)
        _count("deleted")
        return Response(status=204)


bp.add_url_rule(
    "/products/<uuid:product_id>/reviews",
    view_func=ProductReviews.as_view("product_reviews"),
)
bp.add_url_rule("/reviews", view_func=Reviews.as_view("reviews"))
bp.add_url_rule("/reviews/<uuid:review_id>", view_func=Review.as_view("review"))


@bp.post("/reviews/<uuid:review_id>/publish")
@auth.requires(WRITE)
@bp.doc(operation_id="publish_review", responses=[404, 412, 428])
@bp.output(ReviewView)
def publish_review(review_id: UUID) -> Response:
    """Show a review to everybody, in the version that the moderator has read."""
    with transaction() as session:
        review = reviews.lock_review(
            session, id=review_id, reader=reader_of(auth.caller())
        )
        _require_match(review.view())
        view = reviews.publish_review(session, review)
    _count("published")
    return _tagged(shown(view), view)


@bp.post("/reviews/<uuid:review_id>/reject")
@auth.requires(WRITE)
@bp.doc(operation_id="reject_review", responses=[404, 412, 428])
@bp.input(Rejection, arg_name="rejection")
@bp.output(ReviewView)
def reject_review(review_id: UUID, rejection: Rejection) -> Response:
    """Show a review to nobody but its author and moderators, and say why."""
    with transaction() as session:
        review = reviews.lock_review(
            session, id=review_id, reader=reader_of(auth.caller())
        )
        _require_match(review.view())
        view = reviews.reject_review(session, review, note=rejection.note)
    _count("rejected")
    return _tagged(shown(view), view)


def _person(caller: Caller) -> UUID | None:
    """Return the account of a person, None for a service."""
    if caller.sid is None or caller.sub == caller.client_id:
        return None
    try:
        return UUID(caller.sub)
    except ValueError:
        return None


def purpose_of(product_id: UUID, asked: ProductReviewQuery) -> str:
    """Return what a cursor of the reviews of a product is good for."""
    return f"reviews of {product_id} {asked.model_dump_json(exclude=PAGING)}"


def reader_of(caller: Caller | None) -> Reader:
    """Return who looks at reviews; None is a stranger."""
    if caller is None:
        return Reader()
    return Reader(
        subject=_person(caller) if OWN in caller.scopes else None,
        moderator=WRITE in caller.scopes,
    )


def _changer() -> Reader:
    """Return who asks, who must be able to have reviews or to moderate them."""
    caller = auth.caller()
    if caller.scopes.isdisjoint({OWN, WRITE}):
        raise ScopeMissing((OWN,), [OWN])
    return reader_of(caller)


def _count(outcome: str) -> None:
    metrics.counter(
        "flagon_reviews_total", "Reviews by what was done.", "outcome"
    ).labels(outcome).inc()


def _moderated() -> bool:
    return bool(current_app.extensions["flagon.settings"].reviews_moderated)


def _parts(view: Mapping[str, Any]) -> list[str]:
    # Of one version its author sees more than strangers do.
    return [] if view["subject"] is None else ["whole"]


def _tagged(response: Response, view: Mapping[str, Any]) -> Response:
    return conditional.tagged(response, view["version"], str(view["id"]), *_parts(view))


def _require_match(view: Mapping[str, Any]) -> None:
    conditional.require_match(view["version"], str(view["id"]), extras=_parts(view))


def _listed(
    purpose: str, rows: list[dict[str, Any]], limit: int, *, hidden: bool = True
) -> Response:
    items = rows[:limit]
    places = [item.pop("position") for item in items]
    cursor = None
    if len(rows) > limit:
        cursor = positions.cursor(purpose, places[-1], items[-1]["id"])
    return listed(items, cursor, FIELDS, "reviews", hidden=hidden)
