"""Passkeys: signing in with one, and which ones an account has."""

from datetime import UTC, datetime
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import flash, g, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import factors, passkeys, recovery
from flagon_auth.domain.addresses import safe_next
from flagon_auth.domain.passkeys import (
    PasskeyCloned,
    PasskeyInvalid,
    PasskeyRefused,
    PasskeyTaken,
)
from flagon_auth.forms import LoginForm, PasskeyForm
from flagon_auth.i18n import gettext as _
from flagon_auth.models import Account
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .challenges import new_challenge, party, take_challenge
from .mfa import tell_of_copy
from .sessions import (
    FRESH_SECONDS,
    count_login,
    first_factor_passed,
    fresh_sign_in,
    record_and_tell,
)
from .showing import too_many
from .sign_in import sign_in_page
from .two_factor import forget_factors_if_last, show_new_codes

bp = APIBlueprint("passkeys", __name__, enable_openapi=False)
log = structlog.get_logger()

LIST = "/account/passkeys"
ADD = "/account/passkeys/add"
# The page may be open as long as the proof before it was good for.
_ADD_SECONDS = 2 * FRESH_SECONDS


@bp.post("/login/passkey")
@auth.open_route
def sign_in_with_passkey() -> ResponseReturnValue:
    """Sign in whoever owns the passkey; it stands for two factors."""
    form = PasskeyForm()
    onward = safe_next(form.next.data)
    try:
        with parts().guesses.guess("passkey") as guess:
            account, amr = _owner(form.credential.data or "")
    except TooManyAttempts as slow:
        count_login("throttled")
        return _sign_in_again(onward, too_many(slow), 429)
    except PasskeyRefused as refused:
        count_login("refused")
        _remember_refusal(refused)
        told = _("This passkey did not work. Try again or sign in with your password.")
        return _sign_in_again(onward, told, 422)
    guess.right()
    return first_factor_passed(account, amr=amr, onward=onward)


def _owner(credential: str) -> tuple[Account, list[str]]:
    challenge = take_challenge("sign_in", credential)
    with transaction() as db:
        proof = passkeys.use_passkey(
            db,
            party(),
            credential=credential,
            challenge=challenge,
            now=datetime.now(UTC),
        )
        return proof.account, proof.amr


def _sign_in_again(onward: str, told: str, status: int) -> ResponseReturnValue:
    form = LoginForm(formdata=None, data={"next": onward})
    form.form_errors = [told]
    return sign_in_page(form, onward, status=status)


def _remember_refusal(refused: PasskeyRefused) -> None:
    log.info("passkey_refused")
    if isinstance(refused, PasskeyCloned):
        tell_of_copy(refused)


@bp.get(LIST)
@auth.open_route
def list_passkeys() -> ResponseReturnValue:
    """Show the passkeys of the account."""
    if not current_user.is_authenticated:
        return redirect(f"/login?next={LIST}", 303)
    with transaction() as db:
        found = passkeys.list_passkeys(db, current_user.account.id)
    return render_template("passkeys.html", passkeys=found)


@bp.get(ADD)
@auth.open_route
def add_passkey_page() -> ResponseReturnValue:
    """Show the page on which the browser makes a passkey."""
    again = fresh_sign_in()
    if again is not None:
        return again
    onward = safe_next(request.args.get("next", LIST))
    return _add_page(PasskeyForm(formdata=None, data={"next": onward}))


@bp.post(ADD)
@auth.open_route
def add_passkey() -> ResponseReturnValue:
    """Add the passkey that the browser made."""
    again = fresh_sign_in(_ADD_SECONDS, back=ADD)
    if again is not None:
        return again
    form = PasskeyForm()
    account = current_user.account
    credential, now = form.credential.data or "", datetime.now(UTC)
    try:
        challenge = take_challenge(f"add:{account.id}", credential)
        with transaction() as db:
            first = not factors.find_factors(db, account.id).second_step
            added = passkeys.add_passkey(
                db,
                party(),
                account,
                credential=credential,
                challenge=challenge,
                name=form.name.data or "",
                now=now,
            )
            codes = recovery.replace_codes(db, account.id, now=now) if first else []
            record_and_tell(
                db, account, "passkey_added", now=now, passkey=str(added.id)
            )
    except PasskeyTaken:
        form.form_errors = [_("This passkey has been added before.")]
        return _add_page(form), 422
    except (PasskeyInvalid, PasskeyRefused):
        form.form_errors = [
            _("The passkey could not be added. Check the name and try again.")
        ]
        return _add_page(form), 422
    flash(_("The passkey was added. You can sign in with it from now on."))
    onward = safe_next(form.next.data)
    return show_new_codes(codes, onward) if codes else redirect(onward, 303)


def _add_page(form: PasskeyForm) -> str:
    g.scripts = True
    account = current_user.account
    with transaction() as db:
        options = passkeys.creation_options(
            db, party(), account, new_challenge(f"add:{account.id}")
        )
    return render_template("passkey_add.html", form=form, options=options)


@bp.get("/account/passkeys/<uuid:passkey_id>")
@auth.open_route
def passkey_page(passkey_id: UUID) -> ResponseReturnValue:
    """Show one passkey, to rename or remove it."""
    if not current_user.is_authenticated:
        return redirect(f"/login?next={LIST}/{passkey_id}", 303)
    return _one(passkey_id)


@bp.post("/account/passkeys/<uuid:passkey_id>")
@auth.open_route
def rename_passkey(passkey_id: UUID) -> ResponseReturnValue:
    """Give a passkey another name."""
    if not current_user.is_authenticated:
        return redirect(f"/login?next={LIST}/{passkey_id}", 303)
    form = PasskeyForm()
    account, name = current_user.account, form.name.data or ""
    try:
        with transaction() as db:
            passkeys.rename_passkey(db, account.id, passkey_id, name)
    except PasskeyInvalid:
        form.name.errors = [_("Use 1 to 60 readable characters.")]
        return _one(passkey_id, form), 422
    flash(_("The passkey has its new name."))
    return redirect(LIST, 303)


@bp.post("/account/passkeys/<uuid:passkey_id>/remove")
@auth.open_route
def remove_passkey(passkey_id: UUID) -> ResponseReturnValue:
    """Remove a passkey: it signs nobody in any more."""
    again = fresh_sign_in(back=f"{LIST}/{passkey_id}")
    if again is not None:
        return again
    account, now = current_user.account, datetime.now(UTC)
    with transaction() as db:
        passkeys.remove_passkey(db, account.id, passkey_id)
        forget_factors_if_last(db, account)
        record_and_tell(
            db, account, "passkey_removed", now=now, passkey=str(passkey_id)
        )
    flash(_("The passkey was removed. Delete it on your device as well."))
    return redirect(LIST, 303)


def _one(passkey_id: UUID, form: PasskeyForm | None = None) -> str:
    with transaction() as db:
        row = passkeys.find_passkey(db, current_user.account.id, passkey_id)
        form = form or PasskeyForm(formdata=None, data={"name": row.name})
        return render_template("passkey.html", passkey=row, form=form)
