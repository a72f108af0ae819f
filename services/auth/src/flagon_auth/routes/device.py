"""`/device`: a person lets a device in that shows a code (RFC 8628 section 3.3)."""

import secrets
from datetime import UTC, datetime
from urllib.parse import urlencode

from apiflask import APIBlueprint
from flask import redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from flask_login import current_user
from sqlalchemy.orm import Session

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import consents, devices
from flagon_auth.forms import ActionForm, DeviceForm
from flagon_auth.i18n import gettext as _
from flagon_auth.models import Client, DeviceCode
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import login_session, record
from .showing import too_many

bp = APIBlueprint("device", __name__, enable_openapi=False)

_CODE_LENGTH_MAX = 40
_REMEMBERED = 5


@bp.get("/device")
@auth.open_route
def device_page() -> ResponseReturnValue:
    """Ask for the code that the device shows.

    A code in the address is only filled in: the person compares it and goes on.
    """
    given = request.args.get("user_code", "")[:_CODE_LENGTH_MAX]
    if not current_user.is_authenticated:
        onward = "/device"
        if devices.plain(given):
            onward += f"?{urlencode({'user_code': _written(given)})}"
        return redirect(f"/login?{urlencode({'next': onward})}", 303)
    return _code_page(DeviceForm(formdata=None, data={"user_code": _written(given)}))


@bp.post("/device")
@auth.open_route
def find_device() -> ResponseReturnValue:
    """Show which program waits with the code, and ask whether to let it in."""
    if not current_user.is_authenticated:
        return redirect("/login?next=/device", 303)
    form = DeviceForm()
    if not form.validate():
        return _code_page(form, status=422)
    digest = parts().user_codes.digest(str(form.user_code.data))
    try:
        with (
            parts().guesses.guess(
                "device_code", account=current_user.account.email_key
            ) as guess,
            transaction() as db,
        ):
            device, client = devices.find_waiting(db, digest, now=datetime.now(UTC))
            guess.right()
            return _decision_page(db, device, client, str(form.user_code.data))
    except devices.DeviceUnknown:
        # One sentence for every reason: who guesses must not learn which it is.
        form.user_code.errors = [
            _("No device waits with this code. It works for ten minutes and once.")
        ]
        return _code_page(form, status=422)
    except TooManyAttempts as refused:
        form.form_errors = [too_many(refused)]
        return _code_page(form, status=429)


@bp.post("/device/decision")
@auth.open_route
def decide() -> ResponseReturnValue:
    """Let the device in or turn it away, as the person chose."""
    if not current_user.is_authenticated:
        return redirect("/login?next=/device", 303)
    form = ActionForm()
    waiting = dict(session.get("devices", {}))
    chosen = waiting.pop(form.request.data or "", None)
    session["devices"] = waiting
    now = datetime.now(UTC)
    digest = bytes.fromhex(chosen["digest"]) if chosen else b""
    try:
        with transaction() as db:
            device, client = devices.find_waiting(db, digest, lock=True, now=now)
            name, allowed = client.name, form.choice.data == "allow"
            if allowed:
                _let_in(db, device, client, chosen["scope"], now=now)
            else:
                devices.deny(device)
                _record(db, "device_denied", client.id, now=now)
    except devices.DeviceUnknown:
        form = DeviceForm(formdata=None)
        form.form_errors = [
            _("This question was answered or ran out. Begin again on the device.")
        ]
        return _code_page(form, status=400)
    return render_template("device_done.html", client=name, allowed=allowed)


def _let_in(
    db: Session, device: DeviceCode, client: Client, scope: str, *, now: datetime
) -> None:
    here, account = login_session(), current_user.account
    devices.approve(
        db,
        parts().issuer,
        device,
        account=account,
        scope=scope,
        auth_time=datetime.fromtimestamp(here.auth_time or 0.0, tz=UTC),
        amr=here["amr"],
        acr=here.acr,
        now=now,
    )
    consents.give_consent(
        db, account_id=account.id, client_id=client.id, scope=scope, now=now
    )
    _record(db, "device_approved", client.id, now=now, scope=scope)


def _record(
    db: Session, action: str, client_id: str, *, now: datetime, **details: object
) -> None:
    account_id = current_user.account.id
    record(db, action, account_id=account_id, now=now, client=client_id, **details)


def _decision_page(
    db: Session, device: DeviceCode, client: Client, typed: str
) -> ResponseReturnValue:
    account = current_user.account
    # What is shown is what is granted, also if the roles change in between.
    scope = devices.allowed_scope(device, client, account)
    if not scope:
        form = DeviceForm(formdata=None)
        form.form_errors = [_("Your account may do nothing of what the device wants.")]
        return _code_page(form, status=403)
    key = secrets.token_urlsafe(12)
    waiting = dict(session.get("devices", {}))
    waiting[key] = {"digest": device.user_code_hash.hex(), "scope": scope}
    session["devices"] = dict(list(waiting.items())[-_REMEMBERED:])
    agreed = consents.agreed_scope(db, account_id=account.id, client_id=client.id)
    return render_template(
        "device_confirm.html",
        form=ActionForm(formdata=None, data={"request": key}),
        client=client,
        code=_written(typed),
        account=account,
        scopes=scope.split(),
        agreed=set(agreed.split()),
    )


def _code_page(form: DeviceForm, *, status: int = 200) -> ResponseReturnValue:
    return render_template("device.html", form=form), status


def _written(code: str) -> str:
    letters = devices.plain(code)
    fits = len(letters) == devices.LENGTH
    return devices.spoken(letters) if fits else letters
