"""The catalog's categories: a tree that merchandisers make and move."""

from functools import partial
from http import HTTPStatus
from json import dumps
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.products import Category, neighbours
from flagon_web.forms import Shelf, blame
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office, products

bp = Blueprint("categories", __name__, url_prefix="/back-office/categories")
office.degrades(bp, _("Categories cannot be shown right now."), "categories.categories")

_CHANGED = _(
    "Somebody changed this category while you were editing it."
    " Yours was not saved. Save again to replace theirs."
)
_MOVED = _("It was moved since you looked, so nothing was done. Look where it is now.")


@bp.get("")
@access.needs("catalog:write")
def categories() -> ResponseReturnValue:
    """Show the tree, with buttons that move each category."""
    found = backends().categories.list_all(token=access.token())
    return render_template("categories.html", tree=neighbours(found))


@bp.get("/new")
@access.needs("catalog:write")
def plan_category() -> ResponseReturnValue:
    """Show the form for a new category, in the one that the address names."""
    return _new_page(Shelf(formdata=None, parent=request.args.get("in", "")[:120]))


@bp.post("/new")
@access.needs("catalog:write")
def create_category() -> ResponseReturnValue:
    """Make a category, or say at the fields what is wrong."""
    form = Shelf()
    if not form.validate_on_submit():
        return _new_page(form, office.MARKED, 422)
    slug = (form.slug.data or "").strip()
    fields = form.fields() | ({"slug": slug} if slug else {})
    try:
        made = backends().categories.create(
            fields, key=office.key_of(form, fields), token=access.token()
        )
    except Refused as refused:
        return _new_page(form, _judged(form, refused), refused.status)
    except Unreachable:
        return _new_page(form, products.AWAY, 503)
    flash(gettext("The category %(name)s is made.", name=made.name), "success")
    return redirect(url_for("categories.categories"), 303)


@bp.get("/<uuid:category_id>")
@access.needs("catalog:write")
def category(category_id: UUID) -> ResponseReturnValue:
    """Show a category with the form to change it."""
    found = backends().categories.find(str(category_id), token=access.token())
    form = Shelf(
        formdata=None,
        etag=found.etag,
        name=found.name,
        parent=found.parent or "",
        description=found.description,
        attribute_schema=_words(found.attribute_schema or ""),
    )
    return _page(found, form)


@bp.post("/<uuid:category_id>")
@access.needs("catalog:write")
def change_category(category_id: UUID) -> ResponseReturnValue:
    """Change a category, unless somebody else did meanwhile."""
    api, token, id_ = backends().categories, access.token(), str(category_id)
    found, form = api.find(id_, token=token), Shelf()
    if not form.validate_on_submit():
        return _page(found, form, office.MARKED, 422)
    try:
        fields = form.fields() | {"slug": found.slug}
        api.replace(id_, fields, etag=office.seen_etag(), token=token)
    except Refused as refused:
        if refused.status == HTTPStatus.PRECONDITION_FAILED:
            present = api.find(id_, token=token)
            theirs = office.renewed(
                form, present, lambda _name, value: _words(value) or gettext("empty")
            )
            return _page(present, form, _CHANGED, 409, theirs)
        return _page(found, form, _judged(form, refused), refused.status)
    except Unreachable:
        return _page(found, form, products.AWAY, 503)
    flash(gettext("The category is saved."), "success")
    return redirect(url_for("categories.categories"), 303)


@bp.post("/<uuid:category_id>/move")
@access.needs("catalog:write")
def move_category(category_id: UUID) -> ResponseReturnValue:
    """Put a category into another one, unless it was moved since the person looked."""
    api, token = backends().categories, access.token()
    found = api.find(str(category_id), token=token)
    parent = request.form.get("parent", "")[:120] or None
    move = partial(
        api.change, found.id, {"parent": parent}, etag=found.etag, token=token
    )
    if request.form.get("seen") != "/".join(found.path):
        flash(str(_MOVED), "warning")
    else:
        office.act(move, _("The category is moved."))
    return redirect(url_for("categories.categories", _anchor=f"c-{found.slug}"), 303)


@bp.post("/<uuid:category_id>/delete")
@access.needs("catalog:write")
def delete_category(category_id: UUID) -> ResponseReturnValue:
    """Delete a category, unless it changed or something is in it."""
    forget = partial(
        backends().categories.delete,
        str(category_id),
        etag=office.seen_etag(),
        token=access.token(),
    )
    if office.act(forget, _("The category is deleted.")):
        return redirect(url_for("categories.categories"), 303)
    return redirect(url_for("categories.category", category_id=category_id), 303)


def _judged(form: Shelf, refused: Refused) -> str:
    """Put a refusal at its fields and return the sentence on top.

    :raises Refused: it is not about what the person wrote.
    """
    if refused.status not in {400, 409, 422}:
        raise refused
    return blame(form, refused)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return dumps(value, indent=2, ensure_ascii=False)
    return str(value or "")


def _offer(form: Shelf, own: Category | None = None) -> None:
    """Let the form offer the categories that this one may be in."""
    api, token = backends(), access.token()
    asked = {"categories": lambda: api.categories.list_all(token=token)}
    found = api.gather(asked)["categories"] or ()
    names = {
        one.slug: one.indented
        for one in found
        if own is None or own.slug not in one.path
    }
    if form.parent.data:
        names.setdefault(form.parent.data, form.parent.data)
    form.parent.choices = {"": gettext("None")} | names


def _new_page(
    form: Shelf, why: office.Text = "", status: int = 200
) -> ResponseReturnValue:
    _offer(form)
    return render_template("category_new.html", form=form, why=why), status


def _page(
    found: Category,
    form: Shelf,
    why: office.Text = "",
    status: int = 200,
    theirs: list[tuple[str, str]] | None = None,
) -> ResponseReturnValue:
    _offer(form, found)
    page = render_template(
        "category_edit.html", category=found, form=form, why=why, theirs=theirs or []
    )
    return page, status
