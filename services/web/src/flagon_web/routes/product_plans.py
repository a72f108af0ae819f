"""One change of many products: what it would do, doing it, and taking it back."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from uuid import uuid4

from flask import Blueprint, flash, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from werkzeug.exceptions import BadRequest

from flagon_chassis.errors import Invalid
from flagon_web import i18n
from flagon_web.clients import backends
from flagon_web.domain import plans
from flagon_web.domain.products import BulkReport, FieldError, Present
from flagon_web.forms import Move, Restock, Revaluation
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office
from .products import RELOAD, Ticked, category_names, list_page, ticked

bp = Blueprint("product_plans", __name__, url_prefix="/back-office/products")
office.degrades(bp, _("Products cannot be shown right now."), "products.products")

_FORMS = {"price": Revaluation, "category": Move, "stock": Restock}
_TITLES = {
    "price": _("Another price"),
    "category": _("Another category"),
    "stock": _("Another stock"),
}
_KEPT = "undo_plan"
"""In the session: what takes back the last change of many products."""


@dataclass(frozen=True)
class _Row:
    """A product in the preview, in words."""

    one: Ticked
    before: str = ""
    after: str = ""
    same: bool = False
    """Whether nothing would change; others may read alike."""
    errors: tuple[FieldError, ...] = ()


@bp.post("/plan")
@access.needs("catalog:write")
def plan_changes() -> ResponseReturnValue:
    """Ask for a change of the products that are ticked, and show what it would do."""
    change = _change()
    ones = ticked()
    if not ones:
        return redirect(list_page(), 303)
    api, token = backends().products, access.token()
    found = api.find_present([one.sku for one in ones], token=token)
    present = {one.sku: one.present for one in found.results if one.present and one.sku}
    begun = "value" not in request.form
    form = _form(change, present.values(), begun=begun)
    if begun or not form.validate_on_submit():
        return _page(change, ones, present, form), 200 if begun else 422
    plan, errors = _judged(change, present, form)
    if errors and not plan.steps:
        # It is not about one product but about what was written.
        told = [error.detail for found in errors.values() for error in found]
        form.value.errors = list(dict.fromkeys(told))
    page = _page(change, ones, present, form, plan=plan, errors=errors)
    return page, 200 if plan.steps else 422


@bp.post("/change")
@access.needs("catalog:write")
def change_products() -> ResponseReturnValue:
    """Make the change that was shown, but for products that were edited since."""
    try:
        plan = plans.Plan.model_validate_json(request.form.get("plan", ""))
    except ValidationError as error:
        raise BadRequest(gettext(RELOAD)) from error
    report = _made(plan, office.sent_key())
    undo, key = plan.undone(report.results), ""
    if undo.steps:
        key = uuid4().hex
        session[_KEPT] = {"key": key, "plan": undo.model_dump(mode="json")}
    return _outcome(plan, report, undo=key)


@bp.post("/change/undo")
@access.needs("catalog:write")
def undo_changes() -> ResponseReturnValue:
    """Take back the last change of many products, where nobody has edited them since."""
    kept = session.get(_KEPT)
    # Another page may have made a change since: what its own undo takes back is not this.
    if kept is None or kept["key"] != request.form.get("undo"):
        flash(gettext("There is nothing to bring back."), "warning")
        return redirect(list_page(), 303)
    plan = plans.Plan.model_validate(kept["plan"])
    report = _made(plan, kept["key"])
    # Not before: an undo that does not reach the catalog can be sent again.
    session.pop(_KEPT)
    return _outcome(plan, report)


def _change() -> plans.Change:
    change = request.form.get("change", "")
    if change not in _FORMS:
        raise BadRequest(gettext(RELOAD))
    return cast("plans.Change", change)


def _form(change: plans.Change, present: Iterable[Present], *, begun: bool) -> Any:  # noqa: ANN401 (wtforms has no types)
    """Return the form of a change, which offers what there is to choose from."""
    form = _FORMS[change](**({"formdata": None} if begun else {}))
    if change == "price":
        codes = dict.fromkeys(one.currency for one in present)
        form.currency.choices = {code: code for code in codes}
    if change == "category":
        form.value.choices = {"": gettext("None")} | category_names(None)
    return form


def _judged(
    change: plans.Change,
    present: dict[str, Present],
    form: Any,  # noqa: ANN401 (wtforms)
) -> tuple[plans.Plan, dict[str, list[FieldError]]]:
    """Return what would be done, and by SKU why the rest would be refused."""
    steps, errors = [], {}
    for sku, one in present.items():
        try:
            steps.append(plans.step(change, one, form.after(one)))
        except Invalid as failure:
            errors[sku] = [FieldError(detail=failure.detail)]
    plan = plans.Plan(change=change, steps=steps)
    if steps:
        tried = backends().products.try_changes(plan.items, token=access.token())
        for step, result in zip(steps, tried.results, strict=True):
            if result.outcome == "refused":
                errors[step.sku] = result.errors
    return plan.without(errors), errors


def _page(
    change: plans.Change,
    ones: list[Ticked],
    present: dict[str, Present],
    form: Any,  # noqa: ANN401 (wtforms has no types)
    *,
    plan: plans.Plan | None = None,
    errors: dict[str, list[FieldError]] | None = None,
) -> str:
    names = form.value.choices if change == "category" else {}
    words = partial(plans.words, change, names)
    after = {one.sku: one.after for one in plan.steps} if plan else {}
    refused = errors or {}
    rows = []
    for one in ones:
        found = present.get(one.sku)
        if found is None:
            gone = FieldError(detail=gettext("It is not there any more."))
            rows.append(_Row(one, errors=(gone,)))
            continue
        rows.append(
            _Row(
                one,
                words(plans.value(change, found), found.currency),
                words(after[one.sku], found.currency) if one.sku in after else "",
                one.sku in after and after[one.sku] == plans.value(change, found),
                tuple(refused.get(one.sku, ())),
            )
        )
    return render_template(
        "products_plan.html",
        title=_TITLES[change],
        change=change,
        form=form,
        plan=plan,
        rows=rows,
        back=list_page(),
        key=uuid4().hex,
        decimal_sign=i18n.decimal_sign(),
    )


def _made(plan: plans.Plan, key: str) -> BulkReport:
    return backends().products.make_changes(
        plan.items,
        key=office.key_with(key, plan.items),
        token=access.token(),
    )


def _outcome(
    plan: plans.Plan, report: BulkReport, *, undo: str = ""
) -> ResponseReturnValue:
    rows = list(zip(plan.steps, report.results, strict=True))
    names = category_names(None) if plan.change == "category" else {}
    return render_template(
        "products_changed.html",
        rows=rows,
        summary=report.summary,
        change=plan.change,
        words=partial(plans.words, plan.change, names),
        theirs=partial(plans.value, plan.change),
        again=[step for step, result in rows if result.stale and result.present],
        undo=undo,
        back=list_page(),
    )
