"""What people say of a product: written, changed, deleted and taken back."""

from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, flash, redirect, session, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.products import Product
from flagon_web.forms import Opinion, blame
from flagon_web.i18n import gettext as _

from . import access, office, shop

bp = Blueprint("reviews", __name__)

_KEPT = "deleted_review"
"""In the session: the review that was deleted last, to bring it back."""


@bp.post("/products/<ref:ref>/review")
@access.needs("reviews:write")
def write_review(ref: str) -> ResponseReturnValue:
    """Write the own review of a product, or change it if that is what was seen."""
    product, form = _product(ref), Opinion()
    if not form.validate_on_submit():
        return _again(product, form, office.MARKED, 422)
    api, token, fields = backends().reviews, access.token(), form.fields()
    try:
        if form.review.data:
            api.change_review(
                form.review.data, fields, etag=office.seen_etag(), token=token
            )
            flash(_("Your review is saved."), "success")
        else:
            key = office.key_of(form, fields)
            made = api.create_review(product.id, fields, key=key, token=token)
            session.pop(_KEPT, None)
            flash(
                _("Thank you for your review.")
                if made.state == "published"
                else _("Thank you. Your review is shown once it was looked at."),
                "success",
            )
    except Refused as refused:
        return _refused(product, form, refused)
    except Unreachable:
        why = _("The reviews do not answer. What you wrote is still here.")
        return _again(product, form, why, 503)
    return _to_reviews(product)


@bp.post("/products/<ref:ref>/review/<uuid:review_id>/delete")
@access.needs("reviews:write")
def delete_review(ref: str, review_id: UUID) -> ResponseReturnValue:
    """Delete the own review, unless it changed, and offer to bring it back."""
    product, api, token = _product(ref), backends().reviews, access.token()
    etag = office.seen_etag()
    found = api.find_review(str(review_id), token=token)

    def forget() -> None:
        api.delete_review(found.id, etag=etag, token=token)

    if office.act(forget, _("Your review is deleted.")):
        session[_KEPT] = {
            "product_id": product.id,
            "key": uuid4().hex,
            "fields": {
                "author": found.author,
                "rating": found.rating,
                "title": found.title,
                "body": found.body,
            },
        }
    return _to_reviews(product)


@bp.post("/products/<ref:ref>/review/undo")
@access.needs("reviews:write")
def restore_review(ref: str) -> ResponseReturnValue:
    """Write the review again that was deleted last."""
    product, kept = _product(ref), session.get(_KEPT, {})
    if kept.get("product_id") != product.id:
        flash(_("There is nothing to bring back."), "warning")
        return _to_reviews(product)

    def restore() -> None:
        backends().reviews.create_review(
            product.id, kept["fields"], key=kept["key"], token=access.token()
        )

    if office.act(restore, _("Your review is back.")):
        session.pop(_KEPT, None)
    return _to_reviews(product)


def _product(ref: str) -> Product:
    return backends().catalog.find_product(ref, token=access.token_for("catalog:write"))


def _to_reviews(product: Product) -> ResponseReturnValue:
    return redirect(
        url_for("shop.product", ref=product.ref, _anchor="reviews-head"), 303
    )


def _again(
    product: Product, form: Opinion, why: office.Text, status: int
) -> ResponseReturnValue:
    return shop.product_page(product, review_form=form, review_why=why, status=status)


def _refused(product: Product, form: Opinion, refused: Refused) -> ResponseReturnValue:
    """Show the form again with what the catalog says, or what is there now.

    :raises Refused: it is not about the review.
    """
    if refused.status == HTTPStatus.PRECONDITION_FAILED:
        present: Any = backends().reviews.find_review(
            str(form.review.data), token=access.token()
        )
        # The next attempt is made against what the person now knows of.
        form.etag.process_data(present.etag)
        form.etag.raw_data = None
        why = _("You changed this review elsewhere. Save again to replace that.")
        return _again(product, form, why, refused.status)
    if refused.status not in {400, 409, 422}:
        raise refused
    if str(refused.problem.get("type", "")).endswith("#review-exists"):
        why = _("You have reviewed this product before. Load the page again.")
        return _again(product, form, why, refused.status)
    return _again(product, form, blame(form, refused), refused.status)
