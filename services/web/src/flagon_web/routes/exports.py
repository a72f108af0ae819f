"""Exports: products into a file, by a job."""

from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain import money
from flagon_web.forms import Export, blame
from flagon_web.i18n import gettext as _

from . import access, office

bp = Blueprint("exports", __name__, url_prefix="/back-office/export")
office.degrades(bp)

_NAMES = {
    "words": "q",
    "price_from": "price_minor_min",
    "price_to": "price_minor_max",
}
"""What the jobs API calls fields of the form."""


@bp.get("")
@access.needs("jobs:write")
@access.needs("catalog:write")
def choose_products() -> ResponseReturnValue:
    """Show the form, filled in with the list that the person comes from."""
    form = Export(
        formdata=None,
        words=request.args.get("q", "")[:200],
        category=request.args.get("category", "")[:64],
    )
    return _page(form)


@bp.post("")
@access.needs("jobs:write")
@access.needs("catalog:write")
def create_export() -> ResponseReturnValue:
    """Start the job and go on to its page."""
    form = Export()
    if not form.validate_on_submit():
        return _page(form, office.MARKED, 422)
    try:
        params = _params(form)
        job = backends().jobs.create_export(
            params, key=office.key_of(form, params), token=access.token()
        )
    except Refused as refused:
        if refused.status not in {400, 409, 422}:
            raise
        places = {theirs: ours for ours, theirs in _NAMES.items()}
        return _page(form, blame(form, refused, places), refused.status)
    except Unreachable:
        return _page(form, office.AWAY, 503)
    return redirect(url_for("jobs.job", job_id=job.id), 303)


def _params(form: Export) -> dict[str, Any]:
    """Return the parameters of the job, without what was left empty."""
    file, _, packed = form.format.data.partition(".")
    params: dict[str, Any] = {
        "format": file,
        "gzip": bool(packed),
        "q": (form.words.data or "").strip(),
        "category": form.category.data,
        "status": form.status.data,
        "sku": (form.sku.data or "").strip(),
        "currency": form.currency.data,
        "in_stock": form.in_stock.data or None,
    }
    for name in ("price_from", "price_to"):
        if form[name].data:
            params[_NAMES[name]] = money.minor_units(
                form[name].data, form.currency.data
            )
    return {name: value for name, value in params.items() if value not in {"", None}}


def _page(
    form: Export, why: office.Text = "", status: int = 200
) -> ResponseReturnValue:
    found = backends().gather({"categories": backends().catalog.list_categories})
    choices = {one.slug: one.name for one in found["categories"] or ()}
    if form.category.data:
        choices.setdefault(form.category.data, form.category.data)
    form.category.choices = {"": _("All")} | choices
    return render_template("export.html", form=form, why=why), status
