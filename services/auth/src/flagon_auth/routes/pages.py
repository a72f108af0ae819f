"""The hosted pages: register, sign in, the own account, sign out."""

import hashlib
import ipaddress
from datetime import UTC, datetime
from typing import cast
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from authlib.common.urls import add_params_to_uri
from flask import flash, g, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from flask_login import UserMixin, current_user, login_user
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from flagon_auth.clients import Limit, LoginSession, parts
from flagon_auth.domain import accounts, clients, grants, passwords, tokens
from flagon_auth.domain.addresses import HOME, form_target, safe_next
from flagon_auth.forms import ActionForm, LoginForm, RegisterForm
from flagon_auth.models import Account
from flagon_chassis import auth, metrics
from flagon_chassis.db import transaction
from flagon_chassis.errors import Failure, Throttled

bp = APIBlueprint("pages", __name__, enable_openapi=False)
log = structlog.get_logger()

_HOUR_SECONDS = 3600


class TooManyAttempts(Throttled):
    """There were too many attempts."""


class SignedIn(UserMixin):  # type: ignore[misc]
    """The account of the present session, as templates see it."""

    def __init__(self, account: Account) -> None:
        self.id = str(account.id)
        self.account = account


def load_signed_in(account_id: str) -> SignedIn | None:
    """Return who the session belongs to, unless the account was disabled."""
    with transaction() as db:
        account = accounts.find_account_if_enabled(db, UUID(account_id))
        return SignedIn(account) if account else None


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
    return _form_page("login.html", form, onward)


@bp.post("/login")
@auth.open_route
def login() -> ResponseReturnValue:
    """Sign the person in and send them on."""
    form = LoginForm()
    onward = safe_next(form.next.data)
    if not form.validate():
        return _form_page("login.html", form, onward, status=422)
    email, password = str(form.email.data), str(form.password.data)
    limits = _login_limits(email)
    wait = parts().attempts.take(limits)
    if wait:
        _count_login("throttled")
        log.info("sign_in_throttled")
        form.form_errors = [f"Too many attempts. Try again in {_spoken(wait)}."]
        return _form_page("login.html", form, onward, status=429, wait=wait)
    now = _now()
    try:
        with transaction() as db:
            account = accounts.sign_in(
                db, parts().hasher, email=email, password=password, now=now
            )
            found = SignedIn(account)
    except accounts.SignInRefused as refused:
        _count_login("refused")
        log.info("sign_in_refused")
        form.form_errors = [f"{refused.title()}. {refused.detail}"]
        return _form_page("login.html", form, onward, status=422)
    except Failure:
        # A busy moment is no wrong guess.
        parts().attempts.give_back(limits)
        _count_login("unavailable")
        raise
    parts().attempts.give_back(limits)
    _start_session(found, now)
    _count_login("success")
    return redirect(onward, 303)


def _start_session(person: SignedIn, now: datetime) -> None:
    here = cast("LoginSession", session)
    if here.sid and here.get("_user_id") != person.id:
        _end(here.sid, "another account signed in")
    here.begin(UUID(person.id), amr=["pwd"], now=now.timestamp())
    login_user(person)
    log.info("signed_in", sub=person.id)


@bp.get("/register")
@auth.open_route
def register_page() -> ResponseReturnValue:
    """Show the registration page."""
    onward = safe_next(request.args.get("next"))
    form = RegisterForm(formdata=None, data={"next": onward})
    return _form_page("register.html", form, onward)


@bp.post("/register")
@auth.open_route
def register() -> ResponseReturnValue:
    """Make an account; a taken address gets the same answer as a free one."""
    form = RegisterForm()
    onward = safe_next(form.next.data)
    if not form.validate():
        return _form_page("register.html", form, onward, status=422)
    place = f"register:{_network(request.remote_addr)}"
    limit = Limit(place, parts().limits.register, _HOUR_SECONDS)
    wait = parts().attempts.take([limit])
    if wait:
        form.form_errors = [f"Too many attempts. Try again in {_spoken(wait)}."]
        return _form_page("register.html", form, onward, status=429, wait=wait)
    try:
        with transaction() as db:
            accounts.create_account(
                db,
                parts().hasher,
                email=str(form.email.data),
                name=str(form.name.data),
                password=str(form.password.data),
                now=_now(),
            )
    except accounts.EmailTaken:
        log.info("registration_of_a_taken_address")
    except accounts.NameInvalid as invalid:
        form.name.errors = [invalid.detail]
        return _form_page("register.html", form, onward, status=422)
    except accounts.EmailInvalid as invalid:
        form.email.errors = [f"{invalid.title()}. {invalid.detail}"]
        return _form_page("register.html", form, onward, status=422)
    except passwords.PasswordWeak as weak:
        form.password.errors = [weak.detail]
        return _form_page("register.html", form, onward, status=422)
    flash("Almost there: sign in with the address and the password you chose.")
    query = urlencode({"next": onward, "login_hint": str(form.email.data)})
    return redirect(f"/login?{query}", 303)


@bp.get("/account")
@auth.open_route
def account() -> ResponseReturnValue:
    """Show the own account."""
    if not current_user.is_authenticated:
        return redirect(f"/login?{urlencode({'next': HOME})}", 303)
    return render_template(
        "account.html", form=ActionForm(formdata=None), person=current_user.account
    )


@bp.route("/logout", methods=["GET", "POST"])
@auth.open_route
def logout() -> ResponseReturnValue:
    """Sign out, asked by the person or by a client (RP-Initiated Logout 1.0).

    A client that proves with an ID token which session it means is obeyed; otherwise
    the person is asked, because any page on the web can send a browser here.
    """
    asked = request.values
    now = _now()
    here = cast("LoginSession", session)
    with transaction() as db:
        hint = _hint(db, asked)
        client_id = hint.client_id if hint else asked.get("client_id", "")
        agreed = hint is None or asked.get("client_id", client_id) == client_id
        client = clients.find_client(db, client_id) if agreed else None
        target = asked.get("post_logout_redirect_uri", "")
        if client is None or target not in client.post_logout_redirect_uris:
            target = ""
    if target and asked.get("state"):
        target = str(add_params_to_uri(target, {"state": asked["state"]}))
    if hint and hint.sid and here.sid in {None, hint.sid}:
        _end(hint.sid, "signed out", now=now)
        here.end()
        return redirect(target, 303) if target else _signed_out()
    if here.sid is None:
        return redirect(target, 303) if target else _signed_out()
    session["signed_out_target"] = target
    g.form_targets = [form_target(target)] if target else []
    return render_template("logout.html", form=ActionForm(formdata=None))


@bp.post("/account/sign-out")
@auth.open_route
def sign_out() -> ResponseReturnValue:
    """Sign out; the person has pressed the button."""
    here = cast("LoginSession", session)
    target = here.get("signed_out_target")
    if here.sid:
        _end(here.sid, "signed out")
    here.end()
    return redirect(target, 303) if target else _signed_out()


def _end(sid: str, reason: str, *, now: datetime | None = None) -> None:
    now = now or _now()
    with transaction() as db:
        spent = grants.revoke_session(db, sid, reason, now=now)
    parts().end_session(sid, spent, now=now)
    log.info("signed_out")


def _hint(db: Session, asked: MultiDict[str, str]) -> tokens.Hint | None:
    try:
        return tokens.read_hint(db, parts().issuer, asked["id_token_hint"])
    except (KeyError, tokens.TokenUnreadable):
        return None


def _signed_out() -> ResponseReturnValue:
    return render_template("signed_out.html")


def _form_page(
    template: str,
    form: LoginForm | RegisterForm,
    onward: str,
    *,
    status: int = 200,
    wait: int = 0,
) -> ResponseReturnValue:
    g.form_targets = _form_targets(onward)
    page = render_template(template, form=form, onward=onward)
    return page, status, {"Retry-After": str(wait)} if wait else {}


def _form_targets(onward: str) -> list[str]:
    """Return where the redirects after this form may end, beside our own pages."""
    address = urlsplit(onward)
    if address.path != "/oauth/authorize":
        return []
    asked = parse_qs(address.query)
    with transaction() as db:
        client = clients.find_client(db, asked.get("client_id", [""])[0])
        uri = asked.get("redirect_uri", [""])[0]
        known = client is not None and clients.redirect_allowed(client, uri)
    return [form_target(uri)] if known else []


def _login_limits(email: str) -> list[Limit]:
    # The address is hashed: counters must not list who has an account here.
    account = hashlib.sha256(email.strip().casefold().encode()).hexdigest()[:32]
    network = _network(request.remote_addr)
    limits = parts().limits
    return [
        Limit(f"pair:{account}:{network}", limits.pair, limits.window_seconds),
        Limit(f"account:{account}", limits.account, limits.window_seconds),
        Limit(f"address:{network}", limits.address, limits.window_seconds),
    ]


def _network(address: str | None) -> str:
    """Return what counts as one place: an IPv4 address, or an IPv6 network of a home."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if ip.version == 4:  # noqa: PLR2004 (the version's name)
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False).network_address)


def _spoken(seconds: int) -> str:
    minutes = -(-seconds // 60)
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return f"{seconds} seconds" if seconds > 1 else "a second"
    return f"{minutes} minutes" if minutes > 1 else "a minute"


def _count_login(outcome: str) -> None:
    metrics.counter("flagon_logins_total", "Sign-ins by outcome.", "outcome").labels(
        outcome
    ).inc()


def _now() -> datetime:
    return datetime.now(UTC)
