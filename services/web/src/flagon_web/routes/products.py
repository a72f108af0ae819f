"""The catalog's products, as those who keep them see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from json import dumps
from typing import Any
from uuid import UUID, uuid4

from flask import (
    Blueprint,
    flash,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain import edits, money, plans
from flagon_web.domain.products import STATUSES, Product, ProductPage, status_words
from flagon_web.forms import Article, Picture, blame
from flagon_web.i18n import N_, gettext
from flagon_web.i18n import LazyText as _

from . import access, office

bp = Blueprint("products", __name__, url_prefix="/back-office/products")
office.degrades(bp, _("Products cannot be shown right now."), "products.products")

_ATTEMPTS = 3
_FILTERS = ("q", "status", "category", "tag")
_PLACES = {"price_minor": "price"}
"""The form's names of fields that the catalog calls otherwise."""
RELOAD = N_("Reload the page and send the form again.")
_KEPT = "archived_product"
"""In the session: the product that was archived last, to bring it back."""
_PLANS = {"price": _("Price"), "category": _("Category"), "stock": _("Stock")}
"""What else many products can get another one of, by the names of these changes."""
AWAY = _(
    "The catalog does not answer. What you wrote is still here:"
    " send it again in a moment."
)


@bp.get("")
@access.needs("catalog:write")
def products() -> ResponseReturnValue:
    """Show the products that fit some filters, on sale or not."""
    chosen = _chosen()
    cursor = request.args.get("after", "")
    try:
        found, why, status = _find_page(chosen, cursor), "", 200
    except Refused as refused:
        if refused.status not in {400, 422}:
            raise
        # Nothing to search for in the words, or an address that somebody made up.
        found, why, status = ProductPage(items=[]), refused.detail, refused.status
    page = render_template(
        "products.html",
        products=found,
        why=why,
        chosen=chosen,
        cursor=cursor,
        statuses=STATUSES,
        plans=_PLANS,
        categories=category_names(chosen["category"]),
        kept=_kept(),
        key=uuid4().hex,
    )
    return page, status


@bp.get("/new")
@access.needs("catalog:write")
def plan_product() -> ResponseReturnValue:
    """Show the form for a new product."""
    return _new_page(Article(formdata=None))


@bp.post("/new")
@access.needs("catalog:write")
def create_product() -> ResponseReturnValue:
    """Make a product, or say at the fields what is wrong."""
    form = Article()
    if not form.validate_on_submit():
        return _new_page(form, office.MARKED, 422)
    fields = form.fields()
    try:
        made = backends().products.create(
            fields, key=office.key_of(form, fields), token=access.token()
        )
    except Refused as refused:
        return _new_page(form, _judged(form, refused), refused.status)
    except Unreachable:
        return _new_page(form, AWAY, 503)
    flash(gettext("The product %(name)s is made.", name=made.name), "success")
    return _to(made.id)


@bp.get("/<uuid:product_id>")
@access.needs("catalog:write")
def product(product_id: UUID) -> ResponseReturnValue:
    """Show a product with the form to change it."""
    found = backends().products.find(str(product_id), token=access.token())
    return _page(found, _filled(found))


@bp.post("/<uuid:product_id>")
@access.needs("catalog:write")
def change_product(product_id: UUID) -> ResponseReturnValue:
    """Change what was changed in the form, or show what somebody else did meanwhile."""
    api, token, id_ = backends().products, access.token(), str(product_id)
    present, form = api.find(id_, token=token), Article()
    if not form.validate_on_submit():
        return _page(present, form, office.MARKED, 422)
    etag, seen = office.seen_etag(), form.marks()
    mine = _settled(form, present)
    if unsettled := _unsettled():
        return _merge_page(present, form, mine, unsettled, 422)
    names = edits.changed(mine, seen)
    if not names:
        flash(gettext("There is nothing to save: it is as it was."), "info")
        return _to(id_)
    changes = edits.fields(mine, names)
    if "attributes" in changes:
        changes["attributes"] = edits.patch(present.attributes, changes["attributes"])
    try:
        _change(id_, changes, seen, etag)
    except _Clash as clash:
        return _conflict(clash.present, form, mine)
    except Refused as refused:
        return _page(present, form, _judged(form, refused), refused.status)
    except Unreachable:
        return _page(present, form, AWAY, 503)
    flash(gettext("The product is saved."), "success")
    return _to(id_)


@bp.post("/<uuid:product_id>/archive")
@access.needs("catalog:write")
def archive_product(product_id: UUID) -> ResponseReturnValue:
    """Take a product out of the shop, unless it changed, and offer to bring it back."""
    api, token, id_ = backends().products, access.token(), str(product_id)
    etag, found = office.seen_etag(), api.find(str(product_id), token=token)
    archive = partial(api.delete, id_, etag=etag, token=token)
    if not office.act(archive, _("The product is archived.")):
        return _to(id_)
    session[_KEPT] = {"id": id_, "name": found.name, "status": found.status}
    return redirect(url_for("products.products", archived=id_), 303)


@bp.post("/undo")
@access.needs("catalog:write")
def restore_product() -> ResponseReturnValue:
    """Give the product that was archived last the status that it had."""
    api, token, kept = backends().products, access.token(), session.pop(_KEPT, None)
    back = redirect(url_for("products.products"), 303)
    if kept is None:
        flash(gettext("There is nothing to bring back."), "warning")
        return back
    found = api.find(kept["id"], token=token)
    if found.status != "archived":
        flash(gettext("Somebody has brought it back already."), "warning")
        return back
    changes = {"status": kept["status"]}
    restore = partial(api.change, found.id, changes, etag=found.etag, token=token)
    if not office.act(restore, _("The product is back.")):
        session[_KEPT] = kept
    return back


@bp.post("/status")
@access.needs("catalog:write")
def change_statuses() -> ResponseReturnValue:
    """Give the products that are ticked one status and show what became of each."""
    status, back = request.form.get("status", ""), list_page()
    if status not in STATUSES:
        raise BadRequest(gettext(RELOAD))
    ones = ticked()
    if not ones:
        return redirect(back, 303)
    skus = [one.sku for one in ones]
    report = backends().products.set_status(
        skus,
        status,
        key=office.key_with(office.sent_key(), [status, *skus]),
        token=access.token(),
    )
    return render_template(
        "products_changed.html",
        rows=list(zip(ones, report.results, strict=True)),
        summary=report.summary,
        status=status,
        back=back,
    )


@dataclass(frozen=True)
class Ticked:
    """A product as it stood in the list: only its SKU matters to the catalog."""

    id: UUID
    sku: str
    name: str

    @classmethod
    def of(cls, id_: str) -> "Ticked":
        """Return the product of this id in the form that was sent.

        :raises BadRequest: it is no id.
        """
        try:
            return cls(
                UUID(id_),
                request.form.get(f"sku.{id_}", ""),
                request.form.get(f"name.{id_}", ""),
            )
        except ValueError as error:
            raise BadRequest(gettext(RELOAD)) from error


def ticked() -> list[Ticked]:
    """Return the products that are ticked; without any, the next page says what to do.

    :raises BadRequest: no form of ours sends so many, or something else.
    """
    ones = [Ticked.of(id_) for id_ in dict.fromkeys(request.form.getlist("product"))]
    if len(ones) > plans.STEPS_MAX:
        raise BadRequest(gettext(RELOAD))
    if not ones:
        flash(gettext("Tick a product first."), "warning")
    return ones


def _chosen() -> dict[str, str]:
    """Return the filters of the address; those that are none filter nothing."""
    given = {name: request.args.get(name, "")[:200].strip() for name in _FILTERS}
    if given["status"] not in STATUSES:
        given["status"] = ""
    return given


def _kept() -> dict[str, str] | None:
    """Return the product that was archived right before this page, if one was."""
    kept: dict[str, str] = session.get(_KEPT, {})
    return kept if kept.get("id") == request.args.get("archived", "-") else None


def list_page() -> str:
    """Return the address of the list that a form was sent from."""
    start = url_for("products.products")
    there = access.own_page(request.form.get("back"), start)
    return there if there.partition("?")[0] == start else start


def _find_page(chosen: Mapping[str, str], cursor: str) -> ProductPage:
    return backends().products.find_page(
        token=access.token(),
        limit=plans.STEPS_MAX,
        cursor=cursor,
        facets="status,tag",
        **{**chosen, "status": chosen["status"] or "any"},
    )


def category_names(chosen: str | None) -> dict[str, str]:
    """Return names by slug as a list of choices; without an answer the chosen one."""
    api, token = backends(), access.token()
    found = api.gather({"categories": lambda: api.categories.list_all(token=token)})
    names = {one.slug: one.indented for one in found["categories"] or ()}
    if chosen:
        names.setdefault(chosen, chosen)
    return names


def _filled(found: Product) -> Article:
    """Return the form as it is filled with a product."""
    told = found.model_dump(include=set(edits.FIELDS))
    return Article(
        formdata=None,
        etag=found.etag,
        seen=edits.written(edits.marks(edits.parts(told))),
        **{
            **told,
            "price": found.price_plain,
            "category": found.category or "",
            "tags": " ".join(found.tags),
            "attributes": dumps(found.attributes, indent=2, ensure_ascii=False),
        },
    )


def _settled(form: Article, present: Product) -> dict[str, Any]:
    """Return the parts as written, where theirs was taken as they are; so is the form."""
    taken = [name for name in edits.parts(form.fields()) if _side(name) == "theirs"]
    if taken:
        theirs = _filled(present)
        for name in edits.fields_of(taken):
            field = form[_PLACES.get(name, name)]
            field.process_data(theirs[field.name].data)
            field.raw_data = None
    return edits.parts(form.fields())


def _side(name: str) -> str | None:
    """Return whose version of a part was taken, where somebody was asked."""
    side = request.form.get(f"take-{name}")
    return side if side in {"mine", "theirs"} else None


def _unsettled() -> set[str]:
    """Return the parts about which somebody was asked and has not answered."""
    asked = set(request.form.get("asked", "").split())
    return {name for name in asked if _side(name) is None}


def _judged(form: Article, refused: Refused) -> str:
    """Put a refusal at its fields and return the sentence on top.

    :raises Refused: it is not about what the person wrote.
    """
    if refused.status not in {400, 409, 422}:
        raise refused
    return blame(form, refused, _PLACES)


class _Clash(Exception):
    """Somebody else has changed what people change in the product."""

    def __init__(self, present: Product) -> None:
        super().__init__()
        self.present = present


def _change(
    id_: str, changes: dict[str, Any], seen: Mapping[str, str], etag: str
) -> None:
    """Change a product if its fields are still what was seen.

    New pictures and sales make new versions, too; they are no reason to ask anybody.

    :raises _Clash: they are not.
    """
    api, token = backends().products, access.token()
    for _attempt in range(_ATTEMPTS):
        try:
            api.change(id_, changes, etag=etag, token=token)
        except Refused as refused:
            if refused.status != HTTPStatus.PRECONDITION_FAILED:
                raise
            present = api.find(id_, token=token)
            theirs = edits.parts(present.model_dump(include=set(edits.FIELDS)))
            if edits.changed(theirs, seen) or present.etag == etag:
                raise _Clash(present) from refused
            etag = present.etag
        else:
            return
    raise _Clash(present)


def _conflict(
    present: Product, form: Article, mine: dict[str, Any]
) -> ResponseReturnValue:
    theirs = edits.parts(present.model_dump(include=set(edits.FIELDS)))
    if not edits.changed(mine, edits.marks(theirs)):
        flash(gettext("Somebody has saved just the same."), "info")
        return _to(present.id)
    return _merge_page(present, form, mine, set(), HTTPStatus.CONFLICT)


def _merge_page(
    present: Product,
    form: Article,
    mine: dict[str, Any],
    unsettled: set[str],
    status: int,
) -> ResponseReturnValue:
    """Show where theirs and mine differ, with a choice for each part.

    :param unsettled: parts for which there was a choice and nobody chose.
    """
    theirs = edits.parts(present.model_dump(include=set(edits.FIELDS)))
    found = edits.differences(mine, theirs, form.marks())
    sides = {"me": "mine", "them": "theirs", "both": None}
    taken = {
        one.name: None if one.name in unsettled else _side(one.name) or sides[one.by]
        for one in found
    }
    labels = {one.name: form[one.name].label.text for one in found}
    page = render_template(
        "product_merge.html",
        product=present,
        form=form,
        found=found,
        taken=taken,
        labels=labels,
        words=_words,
        # The next attempt is made against what the person now sees.
        seen=edits.written(edits.marks(theirs)),
        unsettled=unsettled,
    )
    return page, status


def _words(name: str, value: Any) -> str:  # noqa: ANN401 (the name says the type)
    """Return a part of a product as people read it."""
    if name == "price":
        return money.readable(*value)
    if name == "attributes":
        return dumps(value, indent=2, ensure_ascii=False)
    if name == "status":
        return status_words(value)
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


def _to(product_id: str) -> ResponseReturnValue:
    return redirect(url_for("products.product", product_id=product_id), 303)


def _offer(form: Article) -> None:
    """Let the form offer what there is to choose from, and what is chosen."""
    names = category_names(form.category.data)
    form.category.choices = {"": gettext("None")} | names
    codes = (form.currency.data or money.CURRENCIES[0], *money.CURRENCIES)
    form.currency.choices = {code: code for code in codes}


def _new_page(
    form: Article, why: office.Text = "", status: int = 200
) -> ResponseReturnValue:
    _offer(form)
    return render_template("product_new.html", form=form, why=why), status


def _page(
    found: Product, form: Article, why: office.Text = "", status: int = 200
) -> ResponseReturnValue:
    _offer(form)
    api, token = backends(), access.token()
    asked = {"pictures": lambda: api.pictures.list_all(found.id, token=token)}
    page = render_template(
        "product_edit.html",
        product=found,
        form=form,
        why=why,
        picture_form=Picture(formdata=None),
        **api.gather(asked),
    )
    return page, status
