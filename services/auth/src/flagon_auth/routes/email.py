"""E-mail addresses: proved by a link, and changed by a link to the new one."""

from datetime import UTC, datetime

from apiflask import APIBlueprint
from flask import flash, redirect, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, email_tokens, mails, self_service
from flagon_auth.domain.email_tokens import LinkVoid
from flagon_auth.forms import ActionForm, AddressForm, LinkForm
from flagon_auth.i18n import gettext as _
from flagon_auth.i18n import language
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import fresh_sign_in, record
from .showing import form_page, only_signed_in, too_many, void_link

bp = APIBlueprint("email", __name__, enable_openapi=False)

PAGE = "/account/email"


@bp.get("/verify-email")
@auth.open_route
def verify_page() -> ResponseReturnValue:
    """Show what the link of a mail is for. Looking, as mail scanners do, uses nothing up."""
    code = request.args.get("code", "")
    try:
        with transaction() as db:
            token, _account = email_tokens.find_token(
                db,
                parts().linker,
                code,
                *("verify", "change"),
                now=datetime.now(UTC),
            )
    except LinkVoid as void:
        return void_link(void, PAGE, _("To your account"))
    form = LinkForm(formdata=None, data={"code": code})
    return form_page("verify.html", form, "", email=token.email)


@bp.post("/verify-email")
@auth.open_route
def verify() -> ResponseReturnValue:
    """Take the address for proved."""
    form, now = LinkForm(), datetime.now(UTC)
    try:
        with transaction() as db:
            account, old = self_service.confirm_address(
                db, parts().linker, str(form.code.data or ""), now=now
            )
            action = "address_changed" if old else "address_verified"
            record(db, action, account_id=account.id, now=now)
    except LinkVoid as void:
        return void_link(void, PAGE, _("To your account"))
    except accounts.EmailTaken as taken:
        return void_link(taken, PAGE, _("To your account"))
    flash(_("Thank you: the address is confirmed."))
    return redirect(PAGE, 303)


@bp.get(PAGE)
@auth.open_route
def email_page() -> ResponseReturnValue:
    """Show the address and whether it was proved."""
    return only_signed_in() or _email_page(ActionForm(formdata=None))


@bp.post(f"{PAGE}/resend")
@auth.open_route
def resend() -> ResponseReturnValue:
    """Have another link mailed to an address that was not proved yet."""
    elsewhere = only_signed_in(PAGE)
    if elsewhere is not None:
        return elsewhere
    person, form = current_user.account, ActionForm()
    if person.email_verified_at is not None:
        return redirect(PAGE, 303)
    try:
        parts().guesses.spend("mail", account=person.email)
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return _email_page(form, status=429)
    with transaction() as db:
        account = accounts.find_account(db, person.id)
        mails.send(
            db, account, "verify_email", locale=language(), now=datetime.now(UTC)
        )
    flash(_("We have sent another mail. It can take a minute."))
    return redirect(PAGE, 303)


def _email_page(form: ActionForm, *, status: int = 200) -> ResponseReturnValue:
    person = current_user.account
    with transaction() as db:
        pending = email_tokens.pending_address(db, person, now=datetime.now(UTC))
    return form_page(
        "email.html", form, "", status=status, person=person, pending=pending
    )


@bp.get(f"{PAGE}/change")
@auth.open_route
def change_page() -> ResponseReturnValue:
    """Ask for the new address."""
    return fresh_sign_in() or form_page(
        "email_change.html",
        AddressForm(formdata=None),
        "",
        person=current_user.account,
    )


@bp.post(f"{PAGE}/change")
@auth.open_route
def change_email() -> ResponseReturnValue:
    """Have a link mailed to the new address; the old one counts until it is used."""
    elsewhere = fresh_sign_in(back=f"{PAGE}/change")
    if elsewhere is not None:
        return elsewhere
    person, form, now = current_user.account, AddressForm(), datetime.now(UTC)
    if not form.validate():
        return form_page("email_change.html", form, "", status=422, person=person)
    try:
        email = str(form.email.data)
        accounts.email_key(email)
        parts().guesses.spend("mail", account=email)
        with transaction() as db:
            account = accounts.find_account(db, person.id)
            self_service.ask_for_address(db, account, email, now=now)
            record(db, "address_change_requested", account_id=person.id, now=now)
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return form_page("email_change.html", form, "", status=429, person=person)
    except accounts.EmailInvalid as invalid:
        form.email.errors = [invalid.detail]
        return form_page("email_change.html", form, "", status=422, person=person)
    flash(_("We have sent a mail to the new address. Press the button in it."))
    return redirect(PAGE, 303)
