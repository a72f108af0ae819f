"""OAuth clients: which programs may ask for tokens, and for what."""

from functools import partial
from http import HTTPStatus
from json import dumps
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.registered_clients import (
    GRANT_TYPES,
    ClientSecret,
    RegisteredClient,
)
from flagon_web.forms import NewSecret, Registered, Registration, blame
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office

bp = Blueprint("registered_clients", __name__, url_prefix="/back-office/clients")
office.degrades(
    bp,
    _("Clients cannot be shown right now."),
    "registered_clients.registered_clients",
)

_PAGE_SIZE = 30
_CHANGED = _(
    "Somebody changed this client while you were editing it."
    " Yours was not saved. Save again to replace theirs."
)


@bp.get("")
@access.needs("users:read")
def registered_clients() -> ResponseReturnValue:
    """Show all programs that may ask for tokens."""
    cursor = request.args.get("after", "")
    found = backends().registered_clients.find_page(
        token=access.token(), limit=_PAGE_SIZE, cursor=cursor
    )
    return render_template("clients.html", clients=found, cursor=cursor)


@bp.get("/-/new")
@access.needs("users:write")
def plan_client() -> ResponseReturnValue:
    """Show the form for a new client."""
    form = Registration(
        formdata=None,
        grant_types=["authorization_code", "refresh_token"],
        scope="openid profile email",
    )
    return _new_page(form)


@bp.post("/-/new")
@access.needs("users:write")
def create_client() -> ResponseReturnValue:
    """Register a client and show its secret, or say at the fields what is wrong."""
    form = Registration()
    if not form.validate_on_submit():
        return _new_page(form, office.MARKED, 422)
    fields = form.fields()
    try:
        made = backends().registered_clients.create(
            fields, key=office.key_of(form, fields), token=access.token()
        )
    except Refused as refused:
        return _new_page(form, _judged(form, refused), refused.status)
    except Unreachable:
        return _new_page(form, office.SILENT, 503)
    if made.client_secret:
        return _secret_page(made, ClientSecret(client_secret=made.client_secret), 201)
    flash(gettext("The client %(name)s is registered.", name=made.name), "success")
    return _to(made.id)


@bp.get("/<ref:client_id>")
@access.needs("users:read")
def client(client_id: str) -> ResponseReturnValue:
    """Show one client with a form to change it."""
    found = _find(client_id)
    form = Registered(formdata=None, **_as_form(found))
    return _page(found, form)


@bp.post("/<ref:client_id>")
@access.needs("users:write")
def change_client(client_id: str) -> ResponseReturnValue:
    """Change a client, unless somebody else did meanwhile."""
    found, form = _find(client_id), Registered()
    if not form.validate_on_submit():
        return _page(found, form, office.MARKED, 422)
    try:
        backends().registered_clients.change(
            client_id, form.fields(), etag=office.seen_etag(), token=access.token()
        )
    except Refused as refused:
        if refused.status == HTTPStatus.PRECONDITION_FAILED:
            present = _find(client_id)
            theirs = office.renewed(form, present, _words)
            return _page(present, form, _CHANGED, 409, theirs)
        return _page(found, form, _judged(form, refused), refused.status)
    except Unreachable:
        return _page(found, form, office.SILENT, 503)
    flash(gettext("The client is saved."), "success")
    return _to(client_id)


@bp.post("/<ref:client_id>/secret")
@access.needs("users:write")
def rotate_client_secret(client_id: str) -> ResponseReturnValue:
    """Give a client a new secret and show it."""
    found, form = _find(client_id), NewSecret()
    if not form.validate_on_submit():
        return _to(client_id)
    overlap_seconds = int(form.overlap_seconds.data)
    secret = backends().registered_clients.rotate(
        client_id,
        overlap_seconds=overlap_seconds,
        key=office.key_of(form, {"overlap_seconds": overlap_seconds}),
        token=access.token(),
    )
    return _secret_page(found, secret)


@bp.get("/<ref:client_id>/delete")
@access.needs("users:write")
def confirm_deletion(client_id: str) -> ResponseReturnValue:
    """Ask whether a client is to be forgotten, and say what ends with it."""
    return render_template("client_delete.html", client=_find(client_id))


@bp.post("/<ref:client_id>/delete")
@access.needs("users:write")
def delete_client(client_id: str) -> ResponseReturnValue:
    """Forget a client, unless it changed since the person looked."""
    forget = partial(
        backends().registered_clients.delete,
        client_id,
        etag=office.seen_etag(),
        token=access.token(),
    )
    if office.act(forget, _("The client is deleted.")):
        return redirect(url_for("registered_clients.registered_clients"), 303)
    return _to(client_id)


def _find(client_id: str) -> RegisteredClient:
    return backends().registered_clients.find(client_id, token=access.token())


def _to(client_id: str) -> ResponseReturnValue:
    return redirect(url_for("registered_clients.client", client_id=client_id), 303)


def _as_form(found: RegisteredClient) -> dict[str, Any]:
    lines = ("redirect_uris", "post_logout_redirect_uris")
    return {
        **found.model_dump(),
        **{name: "\n".join(getattr(found, name)) for name in lines},
        "backchannel_logout_uri": found.backchannel_logout_uri or "",
        "jwks": dumps(found.jwks, indent=2) if found.jwks else "",
    }


def _judged(form: Registered, refused: Refused) -> str:
    """Put a refusal at its fields and return the sentence on top.

    :raises Refused: it is not about what the person wrote.
    """
    if refused.status == HTTPStatus.FORBIDDEN and refused.problem.get("scopes"):
        form.scope.errors = [*form.scope.errors, refused.detail]
        return str(office.MARKED)
    if refused.status not in {400, 409, 422}:
        raise refused
    return blame(form, refused)


def _words(_name: str, value: object) -> str:
    if isinstance(value, bool):
        return gettext("on") if value else gettext("off")
    if isinstance(value, dict):
        return dumps(value, ensure_ascii=False)
    return (", ".join(value) if isinstance(value, list) else str(value)) or gettext(
        "empty"
    )


def _secret_page(
    found: RegisteredClient, secret: ClientSecret, status: int = 200
) -> ResponseReturnValue:
    # Shown in the answer itself: a redirect would have to keep it somewhere.
    page = render_template("client_secret.html", client=found, secret=secret)
    return page, status, {"Cache-Control": "no-store"}


def _new_page(
    form: Registration, why: office.Text = "", status: int = 200
) -> ResponseReturnValue:
    page = render_template("client_new.html", form=form, why=why, grants=_grants())
    return page, status


def _page(
    found: RegisteredClient,
    form: Registered,
    why: office.Text = "",
    status: int = 200,
    theirs: list[tuple[str, str]] | None = None,
) -> ResponseReturnValue:
    page = render_template(
        "client.html",
        client=found,
        form=form,
        rotation=NewSecret(formdata=None),
        why=why,
        theirs=theirs or [],
        grants=_grants(),
    )
    return page, status


def _grants() -> list[tuple[str, str, str]]:
    return [(value, str(words), "") for value, words in GRANT_TYPES.items()]
