"""The registration page."""

from datetime import UTC, datetime
from urllib.parse import urlencode

from apiflask import APIBlueprint
from flask import flash, redirect, request
from flask.typing import ResponseReturnValue

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, passwords, self_service
from flagon_auth.domain.addresses import safe_next
from flagon_auth.forms import RegisterForm
from flagon_auth.i18n import gettext as _
from flagon_auth.i18n import language
from flagon_chassis import auth
from flagon_chassis.db import transaction

from .sessions import record
from .showing import form_page, too_many

bp = APIBlueprint("register", __name__, enable_openapi=False)


@bp.get("/register")
@auth.open_route
def register_page() -> ResponseReturnValue:
    """Show the registration page."""
    onward = safe_next(request.args.get("next"))
    form = RegisterForm(formdata=None, data={"next": onward})
    return form_page("register.html", form, onward)


@bp.post("/register")
@auth.open_route
def register() -> ResponseReturnValue:
    """Make an account; a taken address gets the same answer as a free one."""
    form = RegisterForm()
    onward = safe_next(form.next.data)
    if not form.validate():
        return form_page("register.html", form, onward, status=422)
    try:
        parts().guesses.spend("register")
        with transaction() as db:
            now = datetime.now(UTC)
            account, made = self_service.register(
                db,
                parts().hasher,
                email=str(form.email.data),
                name=str(form.name.data),
                password=str(form.password.data),
                locale=language(),
                now=now,
            )
            action = "registered" if made else "registration_repeated"
            record(db, action, account_id=account.id, now=now)
    except TooManyAttempts as slow:
        form.form_errors = [too_many(slow)]
        return form_page("register.html", form, onward, status=429)
    except accounts.NameInvalid as invalid:
        form.name.errors = [invalid.detail]
        return form_page("register.html", form, onward, status=422)
    except accounts.EmailInvalid as invalid:
        form.email.errors = [invalid.detail]
        return form_page("register.html", form, onward, status=422)
    except passwords.PasswordWeak as weak:
        form.password.errors = [weak.detail]
        return form_page("register.html", form, onward, status=422)
    flash(_("Almost there: we have sent you a mail. You can sign in meanwhile."))
    query = urlencode({"next": onward, "login_hint": str(form.email.data)})
    return redirect(f"/login?{query}", 303)
