"""Webhooks: who gets events, and what was delivered to them."""

from functools import partial
from http import HTTPStatus
from uuid import UUID, uuid4

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.webhooks import STATES, Webhook
from flagon_web.forms import Endpoint, blame
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office

bp = Blueprint("webhooks", __name__, url_prefix="/back-office/webhooks")
office.degrades(bp, _("Webhooks cannot be shown right now."), "webhooks.webhooks")

_PAGE_SIZE = 20
_CHANGED = _(
    "Somebody changed this webhook while you were editing it."
    " Yours was not saved. Save again to replace theirs."
)


@bp.get("")
@access.needs("jobs:manage")
def webhooks() -> ResponseReturnValue:
    """Show all endpoints that get events."""
    cursor = request.args.get("after", "")
    found = backends().webhooks.find_page(
        token=access.token(), limit=_PAGE_SIZE, cursor=cursor
    )
    return render_template("webhooks.html", webhooks=found, cursor=cursor)


@bp.get("/new")
@access.needs("jobs:manage")
def plan_webhook() -> ResponseReturnValue:
    """Show the form for a new webhook."""
    return render_template("webhook_new.html", form=Endpoint(formdata=None), why="")


@bp.post("/new")
@access.needs("jobs:manage")
def create_webhook() -> ResponseReturnValue:
    """Make a webhook and show its secret, or say at the fields what is wrong."""
    form = Endpoint()
    if not form.validate_on_submit():
        return _new_page(form, office.MARKED, 422)
    fields = form.fields()
    try:
        made = backends().webhooks.create(
            fields, key=office.key_of(form, fields), token=access.token()
        )
    except Refused as refused:
        return _new_page(form, _judged(form, refused), refused.status)
    except Unreachable:
        return _new_page(form, office.AWAY, 503)
    return _secret_page(made, 201)


@bp.get("/<uuid:webhook_id>")
@access.needs("jobs:manage")
def webhook(webhook_id: UUID) -> ResponseReturnValue:
    """Show one webhook, what was delivered, and a form to change it."""
    found = backends().webhooks.find(str(webhook_id), token=access.token())
    form = Endpoint(
        formdata=None,
        etag=found.etag,
        url=found.url,
        event_types="\n".join(found.event_types),
        description=found.description,
        enabled=found.enabled,
    )
    return _page(found, form)


@bp.post("/<uuid:webhook_id>")
@access.needs("jobs:manage")
def change_webhook(webhook_id: UUID) -> ResponseReturnValue:
    """Change a webhook, unless somebody else did meanwhile."""
    api, token, name = backends().webhooks, access.token(), str(webhook_id)
    found, form = api.find(name, token=token), Endpoint()
    if not form.validate_on_submit():
        return _page(found, form, office.MARKED, 422)
    etag = office.seen_etag()
    try:
        api.change(name, form.fields(), etag=etag, token=token)
    except Refused as refused:
        if refused.status == HTTPStatus.PRECONDITION_FAILED:
            return _conflict(api.find(name, token=token), form)
        return _page(found, form, _judged(form, refused), refused.status)
    except Unreachable:
        return _page(found, form, office.AWAY, 503)
    flash(gettext("The webhook is saved."), "success")
    return redirect(url_for("webhooks.webhook", webhook_id=webhook_id), 303)


@bp.post("/<uuid:webhook_id>/rotate")
@access.needs("jobs:manage")
def rotate_webhook(webhook_id: UUID) -> ResponseReturnValue:
    """Give a webhook a new secret and show it."""
    changed = backends().webhooks.rotate(
        str(webhook_id), key=office.sent_key(), token=access.token()
    )
    return _secret_page(changed)


@bp.post("/<uuid:webhook_id>/test")
@access.needs("jobs:manage")
def test_webhook(webhook_id: UUID) -> ResponseReturnValue:
    """Send a test to a webhook."""
    test = partial(backends().webhooks.test, str(webhook_id), token=access.token())
    office.act(test, _("A test is on its way: see the deliveries."))
    return redirect(url_for("webhooks.webhook", webhook_id=webhook_id), 303)


@bp.post("/<uuid:webhook_id>/delete")
@access.needs("jobs:manage")
def delete_webhook(webhook_id: UUID) -> ResponseReturnValue:
    """Forget a webhook, unless it changed since the person looked."""
    forget = partial(
        backends().webhooks.delete,
        str(webhook_id),
        etag=office.seen_etag(),
        token=access.token(),
    )
    if office.act(forget, _("The webhook is deleted.")):
        return redirect(url_for("webhooks.webhooks"), 303)
    return redirect(url_for("webhooks.webhook", webhook_id=webhook_id), 303)


@bp.post("/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/resend")
@access.needs("jobs:manage")
def resend_delivery(webhook_id: UUID, delivery_id: UUID) -> ResponseReturnValue:
    """Send a delivery anew."""
    again = partial(
        backends().webhooks.resend_delivery,
        str(webhook_id),
        str(delivery_id),
        token=access.token(),
    )
    office.act(
        again, _("It is on its way again."), gone=_("That delivery is kept no more.")
    )
    return redirect(url_for("webhooks.webhook", webhook_id=webhook_id), 303)


def _judged(form: Endpoint, refused: Refused) -> str:
    """Put a refusal at its fields and return the sentence on top.

    :raises Refused: it is not about what the person wrote.
    """
    if refused.status not in {400, 409, 422}:
        raise refused
    return blame(form, refused)


def _conflict(present: Webhook, form: Endpoint) -> ResponseReturnValue:
    theirs = office.renewed(form, present, _words)
    return _page(present, form, _CHANGED, 409, theirs)


def _words(_name: str, value: object) -> str:
    if isinstance(value, bool):
        return gettext("on") if value else gettext("off")
    return (", ".join(value) if isinstance(value, list) else str(value)) or gettext(
        "empty"
    )


def _secret_page(found: Webhook, status: int = 200) -> ResponseReturnValue:
    # Shown in the answer itself: a redirect would have to keep it somewhere.
    page = render_template("webhook_secret.html", webhook=found)
    return page, status, {"Cache-Control": "no-store"}


def _new_page(form: Endpoint, why: office.Text, status: int) -> ResponseReturnValue:
    return render_template("webhook_new.html", form=form, why=why), status


def _page(
    found: Webhook,
    form: Endpoint,
    why: office.Text = "",
    status: int = 200,
    theirs: list[tuple[str, str]] | None = None,
) -> ResponseReturnValue:
    api, token = backends(), access.token()
    cursor, state = request.args.get("after", ""), request.args.get("state", "")
    if state not in STATES:
        state = ""
    log = api.gather(
        {
            "deliveries": lambda: api.webhooks.list_deliveries(
                found.id, token=token, limit=_PAGE_SIZE, state=state, cursor=cursor
            )
        }
    )
    page = render_template(
        "webhook.html",
        webhook=found,
        form=form,
        why=why,
        theirs=theirs or [],
        key=uuid4().hex,
        cursor=cursor,
        state=state,
        states=STATES,
        **log,
    )
    return page, status
