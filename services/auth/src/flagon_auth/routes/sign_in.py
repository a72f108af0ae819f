"""The sign-in page and its limits."""

from datetime import UTC, datetime

import structlog
from apiflask import APIBlueprint
from flask import g, redirect, request, session
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import TooManyAttempts, parts
from flagon_auth.domain import accounts, passkeys
from flagon_auth.domain.addresses import safe_next
from flagon_auth.forms import LoginForm
from flagon_auth.i18n import gettext as _
from flagon_chassis import auth
from flagon_chassis.db import transaction
from flagon_chassis.errors import Unavailable

from .challenges import new_challenge, party
from .sessions import count_login, first_factor_passed, login_session
from .showing import form_page, too_many

bp = APIBlueprint("sign_in", __name__, enable_openapi=False)
log = structlog.get_logger()


@bp.get("/login")
@auth.open_route
def login_page() -> ResponseReturnValue:
    """Show the sign-in page, or go on if there is nothing to do."""
    onward = safe_next(request.args.get("next"))
    if current_user.is_authenticated and not _must_sign_in_again():
        return redirect(onward, 303)
    known = current_user.account.email if current_user.is_authenticated else ""
    hint = request.args.get("login_hint", known)
    form = LoginForm(formdata=None, data={"next": onward, "email": hint[:254]})
    return sign_in_page(form, onward)


def sign_in_page(
    form: LoginForm, onward: str, *, status: int = 200
) -> ResponseReturnValue:
    """Return the page with every way to sign in."""
    g.scripts = True
    g.passkey_options = passkeys.request_options(party(), new_challenge("sign_in"))
    return form_page("login.html", form, onward, status=status)


def _must_sign_in_again() -> bool:
    """Say whether the request that waits wants a sign-in newer than the present one."""
    asked = session.get("reauthentication")
    if not asked:
        return False
    return (login_session().auth_time or 0.0) < float(asked.get("since", 0.0))


@bp.post("/login")
@auth.open_route
def login() -> ResponseReturnValue:
    """Sign the person in and send them on."""
    form = LoginForm()
    onward = safe_next(form.next.data)
    if not form.validate():
        return sign_in_page(form, onward, status=422)
    email, password = str(form.email.data), str(form.password.data)
    try:
        with (
            parts().guesses.guess("password", account=email) as guess,
            transaction() as db,
        ):
            account = accounts.sign_in(
                db,
                parts().hasher,
                email=email,
                password=password,
                now=datetime.now(UTC),
            )
    except TooManyAttempts as slow:
        count_login("throttled")
        form.form_errors = [too_many(slow)]
        return sign_in_page(form, onward, status=429)
    except accounts.SignInRefused:
        count_login("refused")
        log.info("sign_in_refused")
        form.form_errors = [
            _("E-mail address or password is not right. Check both and try again.")
        ]
        return sign_in_page(form, onward, status=422)
    except Unavailable:
        count_login("unavailable")
        raise
    guess.right()
    return first_factor_passed(account, amr=["pwd"], onward=onward)
