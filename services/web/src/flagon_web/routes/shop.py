"""The shop: home, categories, search and products."""

import re
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import (
    Blueprint,
    current_app,
    flash,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from flagon_chassis.auth import open_route
from flagon_chassis.http import Refused
from flagon_web.clients import backends
from flagon_web.domain import money
from flagon_web.domain.products import Product, ProductPage
from flagon_web.domain.reviews import Review
from flagon_web.domain.watches import Watch
from flagon_web.forms import Opinion, Price, Wish, first_error
from flagon_web.i18n import gettext as _

from . import access
from .office import Text

bp = Blueprint("shop", __name__)

_LONGEST_QUERY = 200
_SLUG = re.compile(r"\A[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_NEIGHBOURS = 6


def _page_size() -> int:
    return int(current_app.extensions["flagon.settings"].page_size)


@bp.get("/")
@open_route
def home() -> ResponseReturnValue:
    """Show the newest products and the categories."""
    catalog = backends().catalog
    found = backends().gather(
        {
            "products": lambda: catalog.list_products(limit=_page_size()),
            "categories": catalog.list_categories,
        }
    )
    return render_template("home.html", **found)


@bp.get("/categories/<ref:slug>")
@open_route
def category(slug: str) -> ResponseReturnValue:
    """Show the products of one category."""
    catalog, cursor = backends().catalog, request.args.get("after", "")
    found = backends().gather(
        {
            "products": lambda: catalog.list_products(
                limit=_page_size(), category=slug, cursor=cursor
            ),
            "categories": catalog.list_categories,
        }
    )
    known = {category.slug: category for category in found["categories"] or ()}
    if found["categories"] is not None and slug not in known and _empty(found):
        raise NotFound
    return render_template(
        "category.html",
        products=found["products"],
        category=known.get(slug),
        slug=slug,
        cursor=cursor,
    )


def _empty(found: dict[str, Any]) -> bool:
    page: ProductPage | None = found["products"]
    return page is None or not page.items


@bp.get("/search")
@open_route
def search() -> ResponseReturnValue:
    """Show the products that fit some words."""
    q = " ".join(request.args.get("q", "")[:_LONGEST_QUERY].split())
    catalog, cursor = backends().catalog, request.args.get("after", "")
    category, tag = (_slug(request.args.get(name, "")) for name in ("category", "tag"))
    in_stock = request.args.get("in_stock") == "1"
    found: dict[str, Any] = {"products": ProductPage(items=[]), "categories": []}
    if q:
        found = backends().gather(
            {
                "products": lambda: catalog.list_products(
                    limit=_page_size(),
                    q=q,
                    category=category,
                    tag=tag,
                    in_stock=in_stock,
                    facets=True,
                    highlight=True,
                    cursor=cursor,
                ),
                "categories": catalog.list_categories,
            }
        )
    names = {one.slug: one.name for one in found.pop("categories") or ()}
    chosen = {"category": category, "tag": tag, "in_stock": "1" if in_stock else ""}
    return render_template(
        "search.html", q=q, cursor=cursor, names=names, chosen=chosen, **found
    )


def _slug(text: str) -> str:
    """Return a slug from an address; empty for what is none, which filters nothing."""
    return text if _SLUG.match(text) else ""


@bp.get("/products/<ref:ref>")
@open_route
def product(ref: str) -> ResponseReturnValue:
    """Show one product, with a form for its price to those who may change it."""
    found = backends().catalog.find_product(
        ref, token=access.token_for("catalog:write")
    )
    return product_page(found)


@bp.post("/products/<ref:ref>/price")
@access.needs("catalog:write")
def change_price(ref: str) -> ResponseReturnValue:
    """Change a price, unless somebody else changed the product meanwhile."""
    catalog, token, form = backends().catalog, access.token(), Price()
    found = catalog.find_product(ref, token=token)
    if not form.validate_on_submit():
        return product_page(found, form, first_error(form), HTTPStatus.BAD_REQUEST)
    try:
        price_minor = money.minor_units(form.price.data, found.currency)
        changed = catalog.change_price(
            found.id, price_minor=price_minor, etag=form.etag.data, token=token
        )
    except money.AmountUnreadable as error:
        return product_page(found, form, error.detail, error.status)
    except Refused as refused:
        if refused.status == HTTPStatus.PRECONDITION_FAILED:
            return _conflict(catalog.find_product(ref, token=token), form)
        if refused.status == HTTPStatus.UNPROCESSABLE_ENTITY:
            return product_page(found, form, refused.detail, refused.status)
        raise
    flash(_("The price is %(price)s now.", price=changed.price), "success")
    return redirect(url_for("shop.product", ref=changed.ref), 303)


def _conflict(present: Product, form: Price) -> ResponseReturnValue:
    # The next attempt is made against what the person now sees.
    form.etag.process_data(present.etag)
    form.etag.raw_data = None
    why = _(
        "Somebody changed this product while you were editing it."
        " It costs %(price)s now; your price was not saved."
        " Save again to replace it.",
        price=present.price,
    )
    return product_page(present, form, why, HTTPStatus.CONFLICT)


def product_page(
    product: Product,
    form: Price | None = None,
    why: Text = "",
    status: int = HTTPStatus.OK,
    *,
    review_form: Opinion | None = None,
    review_why: Text = "",
    watch_form: Wish | None = None,
    watch_why: Text = "",
) -> ResponseReturnValue:
    """Show a product, with the forms that somebody is filling in.

    :param form: of the price, as it was sent.
    :param review_form: of the own review, as it was sent.
    :param watch_form: of the watch of its price, as it was sent.
    """
    if form is None and access.may("catalog:write"):
        # Only then: a form begins a session, which strangers have no use for.
        form = Price(formdata=None, price=product.price_plain, etag=product.etag)
    catalog, reviews = backends().catalog, backends().reviews
    token, own = access.token_for("catalog:write"), access.token_for("reviews:write")
    watching = own if access.may("jobs:read") else None
    cursor = request.args.get("reviews", "")
    found = backends().gather(
        {
            "neighbours": lambda: catalog.list_products(
                limit=_NEIGHBOURS + 1, category=product.category or ""
            ),
            "categories": catalog.list_categories,
            "images": partial(catalog.list_images, product.id, token=token),
            "reviews": partial(
                reviews.list_reviews, product.id, cursor=cursor, token=token
            ),
            "own": lambda: own and reviews.find_own(product.id, token=own),
            "watches": lambda: (
                backends().watches.list_of(product.id, token=watching)
                if watching
                else []
            ),
        }
    )
    others = found["neighbours"].items if found["neighbours"] else []
    names = {category.slug: category.name for category in found["categories"] or ()}
    if review_form is None and own:
        review_form = _review_form(product, found["own"])
    if watch_form is None and watching:
        watch_form = _watch_form(product, found["watches"])
    page = render_template(
        "product.html",
        product=product,
        images=found["images"] or [],
        form=form,
        why=why,
        category_name=names.get(product.category or "", product.category),
        neighbours=[other for other in others if other.id != product.id][:_NEIGHBOURS],
        reviews=found["reviews"],
        reviews_cursor=cursor,
        own_review=found["own"],
        review_form=review_form,
        review_why=review_why,
        kept_review=session.get("deleted_review", {}).get("product_id") == product.id,
        watches=found["watches"],
        watch_form=watch_form,
        watch_why=watch_why,
        kept_watch=session.get("deleted_watch", {}).get("product_id") == product.id,
    )
    return page, int(status)


def _review_form(product: Product, own: Review | None) -> Opinion | None:
    """Return the form to write a review, or to change the own one where asked for."""
    person = access.visitor()
    if own is None:
        if person is None or product.status != "active":
            return None
        return Opinion(formdata=None, author=person.name)
    if request.args.get("review") != "edit":
        return None
    return Opinion(
        formdata=None,
        etag=own.etag,
        review=own.id,
        rating=str(own.rating),
        author=own.author,
        title=own.title,
        body=own.body,
    )


def _watch_form(product: Product, watches: list[Watch] | None) -> Wish | None:
    """Return the form to watch the price, or to change the watch that there is."""
    if watches is None or (not watches and product.status != "active"):
        return None
    found = (
        {"limit": watches[0].limit_plain, "etag": watches[0].etag} if watches else {}
    )
    return Wish(formdata=None, currency=product.currency, **found)
