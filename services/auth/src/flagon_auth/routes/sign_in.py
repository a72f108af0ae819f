"""The sign-in page and its limits."""

import hashlib
from datetime import UTC, datetime

import structlog
from apiflask import APIBlueprint
from flask import redirect, request, session
from flask.typing import ResponseReturnValue
from flask_login import current_user

from flagon_auth.clients import Limit, parts
from flagon_auth.domain import accounts
from flagon_auth.domain.addresses import safe_next
from flagon_auth.forms import LoginForm
from flagon_chassis import auth
from flagon_chassis.db import transaction
from flagon_chassis.errors import Failure

from .sessions import count_login, first_factor_passed
from .showing import form_page, network, spoken

bp = APIBlueprint("sign_in", __name__, enable_openapi=False)
log = structlog.get_logger()


@bp.get("/login")
@auth.open_route
def login_page() -> ResponseReturnValue:
    """Show the sign-in page, or go on if there is nothing to do."""
    onward = safe_next(request.args.get("next"))
    if current_user.is_authenticated and "reauthentication" not in session:
        return redirect(onward, 303)
    known = current_user.account.email if current_user.is_authenticated else ""
    hint = request.args.get("login_hint", known)
    form = LoginForm(formdata=None, data={"next": onward, "email": hint[:254]})
    return form_page("login.html", form, onward)


@bp.post("/login")
@auth.open_route
def login() -> ResponseReturnValue:
    """Sign the person in and send them on."""
    form = LoginForm()
    onward = safe_next(form.next.data)
    if not form.validate():
        return form_page("login.html", form, onward, status=422)
    email, password = str(form.email.data), str(form.password.data)
    limits = _login_limits(email)
    wait = parts().attempts.take(limits)
    if wait:
        count_login("throttled")
        log.info("sign_in_throttled")
        form.form_errors = [f"Too many attempts. Try again in {spoken(wait)}."]
        return form_page("login.html", form, onward, status=429, wait=wait)
    try:
        with transaction() as db:
            account = accounts.sign_in(
                db,
                parts().hasher,
                email=email,
                password=password,
                now=datetime.now(UTC),
            )
    except accounts.SignInRefused as refused:
        count_login("refused")
        log.info("sign_in_refused")
        form.form_errors = [f"{refused.title()}. {refused.detail}"]
        return form_page("login.html", form, onward, status=422)
    except Failure:
        # A busy moment is no wrong guess.
        parts().attempts.give_back(limits)
        count_login("unavailable")
        raise
    parts().attempts.give_back(limits)
    return first_factor_passed(account, amr=["pwd"], onward=onward)


def _login_limits(email: str) -> list[Limit]:
    # The address is hashed: counters must not list who has an account here.
    account = hashlib.sha256(email.strip().casefold().encode()).hexdigest()[:32]
    place = network(request.remote_addr)
    limits = parts().limits
    return [
        Limit(f"pair:{account}:{place}", limits.pair, limits.window_seconds),
        Limit(f"account:{account}", limits.account, limits.window_seconds),
        Limit(f"address:{place}", limits.address, limits.window_seconds),
    ]
