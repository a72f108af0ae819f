"""The second factor of the own account: the authenticator app and recovery codes."""

from datetime import UTC, datetime
from urllib.parse import urlencode

import segno
from apiflask import APIBlueprint
from flask import flash, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from markupsafe import Markup
from sqlalchemy.orm import Session

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import factors, recovery, totp
from flagon_auth.domain.addresses import safe_next
from flagon_auth.domain.factors import SecondStepRefused
from flagon_auth.domain.totp import TotpMissing, TotpPresent
from flagon_auth.forms import FactorForm
from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import FRESH_SECONDS, add_factor, fresh_sign_in, record_and_tell
from .showing import allow_onward, too_many

bp = APIBlueprint("two_factor", __name__, enable_openapi=False)

OVERVIEW = "/account/security"
PAGE = "/account/two-factor"
APP = "/account/two-factor/app"
# Installing an app and scanning takes longer than reading a page.
_SET_UP_SECONDS = 2 * FRESH_SECONDS


@bp.get(OVERVIEW)
@auth.open_route
def security() -> ResponseReturnValue:
    """Show how well the account is protected, and the way to each part."""
    if not current_user.is_authenticated:
        return redirect(f"/login?next={OVERVIEW}", 303)
    account = current_user.account
    with transaction() as db:
        found = factors.find_factors(db, account.id)
    return render_template(
        "security.html", account=account, factors=found, few=recovery.FEW
    )


@bp.get(PAGE)
@auth.open_route
def two_factor() -> ResponseReturnValue:
    """Show the second factor and what can be done about it."""
    if not current_user.is_authenticated:
        return redirect(f"/login?next={PAGE}", 303)
    with transaction() as db:
        found = factors.find_factors(db, current_user.account.id)
    return render_template(
        "two_factor.html",
        form=FactorForm(formdata=None, data={"next": _wanted()}),
        factors=found,
        few=recovery.FEW,
        onward=_wanted(),
    )


@bp.post(APP)
@auth.open_route
def offer_totp() -> ResponseReturnValue:
    """Make the secret of a new authenticator app."""
    again = fresh_sign_in(back=PAGE)
    if again is not None:
        return again
    try:
        with transaction() as db:
            totp.offer_totp(
                db,
                parts().issuer.sealer,
                current_user.account.id,
                now=datetime.now(UTC),
            )
    except TotpPresent:
        flash(_("An authenticator app is set up already."))
        return redirect(PAGE, 303)
    return redirect(_with_next(APP, _wanted()), 303)


@bp.get(APP)
@auth.open_route
def totp_page() -> ResponseReturnValue:
    """Show the QR code of the app that is being set up."""
    again = fresh_sign_in(_SET_UP_SECONDS)
    if again is not None:
        return again
    return _set_up_page(FactorForm(formdata=None, data={"next": _wanted()}))


@bp.post("/account/two-factor/app/confirm")
@auth.open_route
def confirm_totp() -> ResponseReturnValue:
    """Let the app count, because it shows the right code."""
    again = fresh_sign_in(_SET_UP_SECONDS, back=APP)
    if again is not None:
        return again
    form = FactorForm()
    account, now = current_user.account, datetime.now(UTC)
    try:
        with (
            parts().guesses.guess("second_factor", account=account.email_key) as guess,
            transaction() as db,
        ):
            first = not factors.find_factors(db, account.id).second_step
            totp.confirm_totp(
                db, parts().issuer.sealer, account.id, form.code.data or "", now=now
            )
            codes = recovery.replace_codes(db, account.id, now=now) if first else []
            record_and_tell(db, account, "totp_enabled", now=now)
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return _set_up_page(form, status=429)
    except SecondStepRefused:
        form.code.errors = [
            _("That code is not right. Is the clock of your phone set automatically?")
        ]
        return _set_up_page(form, status=422)
    except TotpMissing:
        return redirect(PAGE, 303)
    guess.right()
    add_factor(account, amr=["otp"])
    flash(_("From now on signing in takes a code from your app as well."))
    onward = safe_next(form.next.data)
    return show_new_codes(codes, onward) if codes else redirect(onward, 303)


@bp.post("/account/two-factor/app/remove")
@auth.open_route
def remove_totp() -> ResponseReturnValue:
    """Remove the authenticator app."""
    again = fresh_sign_in(back=PAGE)
    if again is not None:
        return again
    account, now = current_user.account, datetime.now(UTC)
    with transaction() as db:
        removed = totp.remove_totp(db, account.id)
        if removed:
            forget_factors_if_last(db, account)
            record_and_tell(db, account, "totp_disabled", now=now)
    if removed:
        flash(_("The authenticator app is removed. You can delete it there as well."))
    return redirect(PAGE, 303)


@bp.post("/account/two-factor/recovery-codes")
@auth.open_route
def replace_recovery_codes() -> ResponseReturnValue:
    """Make new recovery codes and show them once."""
    again = fresh_sign_in(back=PAGE)
    if again is not None:
        return again
    account, now = current_user.account, datetime.now(UTC)
    with transaction() as db:
        if not factors.find_factors(db, account.id).second_step:
            return redirect(PAGE, 303)
        codes = recovery.replace_codes(db, account.id, now=now)
        record_and_tell(db, account, "recovery_codes_replaced", now=now)
    return show_new_codes(codes, PAGE)


def show_new_codes(codes: list[str], onward: str) -> ResponseReturnValue:
    """Return the page that shows recovery codes; nobody can see them a second time."""
    return render_template("recovery_codes.html", codes=codes, onward=onward)


def forget_factors_if_last(db: Session, account: Account) -> None:
    """Forget recovery codes once there is no second factor that they stand in for."""
    if not factors.find_factors(db, account.id).second_step:
        recovery.forget_codes(db, account.id)


def _set_up_page(form: FactorForm, *, status: int = 200) -> ResponseReturnValue:
    account = current_user.account
    try:
        with transaction() as db:
            secret = totp.offered_secret(db, parts().issuer.sealer, account.id)
    except TotpMissing:
        return redirect(PAGE, 303)
    allow_onward(safe_next(form.next.data))
    uri = totp.provisioning_uri(secret, issuer="Flagon", account_name=account.email)
    # Dark on light whatever the colours of the page: cameras need it that way.
    code = segno.make(uri, error="m", micro=False)
    picture = code.svg_inline(border=4, dark="#000", light="#fff", omitsize=True)
    page = render_template(
        "totp.html",
        form=form,
        picture=Markup(picture),  # noqa: S704 (made of squares alone)
        secret=" ".join(secret[at : at + 4] for at in range(0, len(secret), 4)),
        uri=uri,
    )
    return page, status


def _wanted() -> str:
    """Return where the person was going, if that was elsewhere."""
    return safe_next(request.values.get("next") or PAGE)


def _with_next(path: str, onward: str) -> str:
    return path if onward == PAGE else f"{path}?{urlencode({'next': onward})}"
