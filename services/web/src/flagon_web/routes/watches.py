"""Products whose price somebody watches: begun and ended, listed, and taken back."""

from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.products import Product
from flagon_web.domain.watches import Watch
from flagon_web.forms import Wish, blame
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office, shop

bp = Blueprint("watches", __name__)
office.degrades(bp, _("Your watches cannot be shown right now."), "watches.watches")

KEPT = "deleted_watch"
"""In the session: the watch that was ended last, to bring it back."""
_PAGE_SIZE = 12
_ENDED = _("You no longer watch its price.")
_BACK = _("You watch its price again.")
_ALREADY = _("You watch its price already.")


@bp.get("/watches")
@access.needs("jobs:read")
def watches() -> ResponseReturnValue:
    """Show what the person watches, with what each product is and costs now."""
    cursor = request.args.get("after", "")
    page = backends().watches.find_page(
        token=access.token(), limit=_PAGE_SIZE, cursor=cursor
    )
    found = backends().gather(
        {one.product_id: partial(_offered, one) for one in page.items}
    )
    return render_template(
        "watches.html",
        watches=page,
        products=found,
        cursor=cursor,
        kept=session.get(KEPT),
    )


def _offered(watch: Watch) -> list[Product]:
    """Return the watched product; none where the public sees none."""
    try:
        return [backends().catalog.find_product(watch.product_id)]
    except Refused as refused:
        if refused.status == HTTPStatus.NOT_FOUND:
            return []
        raise


@bp.post("/products/<ref:ref>/watch")
@access.needs("reviews:write")
def watch_product(ref: str) -> ResponseReturnValue:
    """Begin to watch a price, or change below which one the person is told."""
    product = backends().catalog.find_product(
        ref, token=access.token_for("catalog:write")
    )
    form = Wish(currency=product.currency)
    if not form.validate_on_submit():
        return _again(product, form, office.MARKED, 422)
    try:
        backends().watches.watch(
            product.id, form.fields(), etag=form.etag.data or "", token=access.token()
        )
    except Refused as refused:
        return _refused(product, form, refused)
    except Unreachable:
        return _again(product, form, office.SILENT, 503)
    if session.get(KEPT, {}).get("product_id") == product.id:
        session.pop(KEPT)
    flash(gettext("We tell you by mail when it gets cheaper."), "success")
    return redirect(url_for("shop.product", ref=product.ref), 303)


def _again(
    product: Product, form: Wish, why: office.Text, status: int
) -> ResponseReturnValue:
    return shop.product_page(product, watch_form=form, watch_why=why, status=status)


def _refused(product: Product, form: Wish, refused: Refused) -> ResponseReturnValue:
    """Show the form again with what the worker says.

    :raises Refused: it is not about what the person wrote.
    """
    late = {
        # Begun or changed or ended in another tab: the page shows which.
        HTTPStatus.PRECONDITION_REQUIRED: _ALREADY,
        HTTPStatus.PRECONDITION_FAILED: _(
            "You changed this watch elsewhere. Look at it as it is now."
        ),
        HTTPStatus.NOT_FOUND: _ENDED,
    }.get(HTTPStatus(refused.status))
    if late is not None:
        flash(str(late), "warning")
        return redirect(url_for("shop.product", ref=product.ref), 303)
    if office.is_about(refused, "watches-too-many"):
        many = _("You watch as many products as one may. End another one first.")
        return _again(product, form, many, refused.status)
    if refused.status != HTTPStatus.UNPROCESSABLE_ENTITY:
        raise refused
    why = blame(form, refused, {"below_minor": "limit", "currency": "limit"})
    return _again(product, form, why, refused.status)


@bp.post("/watches/<uuid:product_id>/delete")
@access.needs("reviews:write")
def delete_watch(product_id: UUID) -> ResponseReturnValue:
    """End a watch and offer to bring it back."""
    api, token, id_ = backends().watches, access.token(), str(product_id)
    for found in api.list_of(id_, token=token):
        forget = partial(api.delete, id_, etag=found.etag, token=token)
        if office.act(forget, _ENDED, gone=_ENDED):
            wish = found.model_dump(include={"below_minor", "currency"})
            session[KEPT] = {"product_id": id_, "wish": wish}
    return _back()


@bp.post("/watches/undo")
@access.needs("reviews:write")
def restore_watch() -> ResponseReturnValue:
    """Watch again what the person ceased to watch last."""
    kept: dict[str, Any] | None = session.get(KEPT)
    if kept is None:
        flash(gettext("There is nothing to bring back."), "warning")
        return _back()

    def restore() -> None:
        try:
            backends().watches.watch(
                kept["product_id"], kept["wish"], token=access.token()
            )
        except Refused as refused:
            # Brought back in another tab, which is what was wanted.
            if refused.status != HTTPStatus.PRECONDITION_REQUIRED:
                raise

    if office.act(restore, _BACK, gone=_("It is not for sale any more.")):
        session.pop(KEPT)
    return _back()


def _back() -> ResponseReturnValue:
    """Return to the page with the button: of the product, or the list."""
    back = access.own_page(request.form.get("back"), url_for("watches.watches"))
    return redirect(back, 303)
