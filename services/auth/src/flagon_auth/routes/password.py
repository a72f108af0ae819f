"""Passwords: changed by who knows the present one, or reset by who reads the mails."""

from datetime import UTC, datetime

import structlog
from apiflask import APIBlueprint
from flask import flash, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, email_tokens, mails, self_service
from flagon_auth.domain.email_tokens import LinkVoid
from flagon_auth.domain.passwords import PasswordWeak
from flagon_auth.domain.self_service import PasswordWrong
from flagon_auth.forms import ForgotForm, PasswordForm, ResetForm
from flagon_auth.i18n import gettext as _
from flagon_auth.i18n import language
from flagon_auth.models import Account
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .devices_and_sessions import end_others
from .sessions import fresh_sign_in, login_session, record
from .showing import form_page, only_signed_in, too_many, void_link

bp = APIBlueprint("password", __name__, enable_openapi=False)
log = structlog.get_logger()


@bp.get("/password/forgot")
@auth.open_route
def forgot_page() -> ResponseReturnValue:
    """Ask where the link goes."""
    hint = request.args.get("login_hint", "")[:254]
    return form_page("forgot.html", ForgotForm(formdata=None, data={"email": hint}), "")


@bp.post("/password/forgot")
@auth.open_route
def forgot() -> ResponseReturnValue:
    """Have a link mailed; whether there is such an account shows in the mailbox alone."""
    form = ForgotForm()
    if not form.validate():
        return form_page("forgot.html", form, "", status=422)
    email = str(form.email.data).strip()
    try:
        accounts.email_key(email)
        parts().guesses.spend("mail", account=email)
    except accounts.EmailInvalid as invalid:
        form.email.errors = [invalid.detail]
        return form_page("forgot.html", form, "", status=422)
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return form_page("forgot.html", form, "", status=429)
    with transaction() as db:
        mails.send_to_whom_it_concerns(
            db, email, "reset_password", locale=language(), now=datetime.now(UTC)
        )
    return redirect("/password/sent", 303)


@bp.get("/password/sent")
@auth.open_route
def sent_page() -> ResponseReturnValue:
    """Say what happens next."""
    return render_template("mail_sent.html")


@bp.get("/password/reset")
@auth.open_route
def reset_page() -> ResponseReturnValue:
    """Show what the link of a mail is for. Looking, as mail scanners do, uses nothing up."""
    code = request.args.get("code", "")
    try:
        account = _account_of(code)
    except LinkVoid as void:
        return void_link(void, "/password/forgot", _("Ask for a new link"))
    form = ResetForm(formdata=None, data={"code": code})
    return form_page("reset.html", form, "", account=account)


@bp.post("/password/reset")
@auth.open_route
def reset() -> ResponseReturnValue:
    """Set the new password and end every session; signing in is a step of its own."""
    form = ResetForm()
    code, now = str(form.code.data or ""), datetime.now(UTC)
    try:
        account = _account_of(code)
        if not form.validate():
            return form_page("reset.html", form, "", status=422, account=account)
        sids = parts().sessions.sids(account.id)
        with transaction() as db:
            account, spent = self_service.reset_password(
                db,
                parts().hasher,
                parts().linker,
                code,
                new=str(form.password.data),
                sids=sids,
                now=now,
            )
            record(db, "password_reset", account_id=account.id, now=now)
    except LinkVoid as void:
        return void_link(void, "/password/forgot", _("Ask for a new link"))
    except PasswordWeak as weak:
        form.password.errors = [weak.detail]
        return form_page("reset.html", form, "", status=422, account=account)
    parts().end_account(account.id, spent, now=now)
    login_session().end()
    # Who reads the account's mail must get in although strangers guess at it meanwhile.
    parts().guesses.remember_device(account.email_key)
    log.info("password_reset", sub=str(account.id))
    return redirect("/password/done", 303)


@bp.get("/password/done")
@auth.open_route
def done_page() -> ResponseReturnValue:
    """Say that the new password counts."""
    return render_template("password_done.html")


def _account_of(code: str) -> Account:
    with transaction() as db:
        _token, account = email_tokens.find_token(
            db, parts().linker, code, "reset", now=datetime.now(UTC)
        )
        return account


@bp.get("/account/password")
@auth.open_route
def password_page() -> ResponseReturnValue:
    """Ask for the present password and a new one."""
    return _elsewhere() or form_page(
        "password.html", PasswordForm(formdata=None), "", person=current_user.account
    )


@bp.post("/account/password")
@auth.open_route
def change_password() -> ResponseReturnValue:
    """Change the password and end all other sessions."""
    elsewhere = _elsewhere()
    if elsewhere is not None:
        return elsewhere
    person, form, now = current_user.account, PasswordForm(), datetime.now(UTC)
    if not form.validate():
        return form_page("password.html", form, "", status=422, person=person)
    try:
        with (
            parts().guesses.guess("password", account=person.email) as guess,
            transaction() as db,
        ):
            self_service.change_password(
                db,
                parts().hasher,
                person.id,
                present=str(form.present.data or ""),
                new=str(form.password.data),
                now=now,
            )
            record(db, "password_changed", account_id=person.id, now=now)
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return form_page("password.html", form, "", status=429, person=person)
    except PasswordWrong as wrong:
        form.present.errors = [wrong.detail]
        return form_page("password.html", form, "", status=422, person=person)
    except PasswordWeak as weak:
        guess.right()
        form.password.errors = [weak.detail]
        return form_page("password.html", form, "", status=422, person=person)
    guess.right()
    end_others(person.id, "password changed", now=now)
    login_session().renew()
    flash(_("Your password was changed, and all other sessions were ended."))
    return redirect("/account/password", 303)


def _elsewhere() -> ResponseReturnValue | None:
    """Return where to go first: to sign in or, without a present password, to prove it."""
    if current_user.is_authenticated and current_user.account.password_hash is None:
        return fresh_sign_in(back="/account/password")
    return only_signed_in()
