"""Who looks at a page, what they may do, and what every page has in common."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import Any, ParamSpec, cast

import structlog
from flask import (
    Flask,
    Response,
    current_app,
    flash,
    redirect,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError, validate_csrf
from wtforms import ValidationError

from flagon_chassis.auth import open_route
from flagon_chassis.errors import Failure, Forbidden, Unavailable
from flagon_chassis.http import Refused
from flagon_chassis.problems import from_failure, problem
from flagon_chassis.web import csp_nonce
from flagon_web.clients import backends
from flagon_web.clients.identity import SignedOut
from flagon_web.clients.sessions import Session, SessionStoreDown
from flagon_web.i18n import gettext as _
from flagon_web.i18n import language

P = ParamSpec("P")
log = structlog.get_logger()

# A path of this site: one slash, then none and no backslash, which browsers read as one.
_OWN_PAGE = re.compile(r"\A/(?![/\\])[^\\\x00-\x1f\x7f]*\Z")


class ScopeMissing(Forbidden):
    """Your account may not do this."""


@dataclass(frozen=True)
class Visitor:
    """The person who is signed in."""

    sub: str
    name: str
    email: str
    scopes: frozenset[str]
    roles: tuple[str, ...]

    def may(self, scope: str) -> bool:
        """Whether the roles of the account include this."""
        return scope in self.scopes

    @property
    def initial(self) -> str:
        """One letter for the menu."""
        return self.name[:1].upper() or "?"


def current() -> Session:
    """Return the session of this request, with what only ours can do."""
    return cast("Session", session._get_current_object())  # type: ignore[attr-defined] # noqa: SLF001


def visitor() -> Visitor | None:
    """Return who is signed in; None for a stranger."""
    if "sub" not in session:
        return None
    return Visitor(
        sub=session["sub"],
        name=session["name"],
        email=session["email"],
        scopes=frozenset(session["scopes"]),
        roles=tuple(session["roles"]),
    )


def may(scope: str) -> bool:
    """Say whether somebody is signed in who may do this."""
    person = visitor()
    return person is not None and person.may(scope)


def token() -> str:
    """Return an access token of the person whom `needs` or `may` let in.

    :raises SignedOut: auth has ended the session.
    :raises SignInUnavailable: the token has ended and auth gives no other now.
    """
    return backends().identity.access_token(str(current().sid))


def token_for(scope: str) -> str | None:
    """Return a token for somebody who may do this, None for everybody else.

    For pages that show more to some people and must not fail for them either.
    """
    if not may(scope):
        return None
    try:
        return token()
    except (SignedOut, Unavailable):
        return None


def needs(
    scope: str,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Let only people in whose account has the scope; strangers go to the sign-in."""

    def decorate(
        view: Callable[P, ResponseReturnValue],
    ) -> Callable[P, ResponseReturnValue]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            if current().down:
                raise SessionStoreDown(
                    _("Try again in a moment."), retry_after_seconds=2
                )
            person = visitor()
            if person is None:
                return to_sign_in()
            if not person.may(scope):
                raise ScopeMissing(
                    _("Ask an administrator for a role that includes this.")
                )
            return view(*args, **kwargs)

        # Guarded here, by the session; tokens are what other services check.
        return open_route(guarded)

    return decorate


def holds_token(token: str | None) -> bool:
    """Say whether this is the token of our forms in this session."""
    try:
        validate_csrf(token)
    except ValidationError:
        return False
    return True


def own_page(address: str | None, default: str = "/") -> str:
    """Return the address if it is a page of this site, else the default.

    Nobody can make our sign-in lead to another site (open redirect).
    """
    return address if address and _OWN_PAGE.match(address) else default


def here() -> str:
    """Return the address of this page; the home page where repeating would act."""
    if request.method not in {"GET", "HEAD"}:
        return own_page(request.form.get("back"))
    return request.full_path.rstrip("?")


def to_sign_in() -> ResponseReturnValue:
    """Send the browser to the sign-in and back to this page afterwards."""
    return redirect(url_for("account.sign_in", next=here()), 303)


def init_app(app: Flask) -> None:
    """Give all pages their context, their headers and their way to say no."""
    app.context_processor(_context)
    app.after_request(_headers)
    app.register_error_handler(SignedOut, _signed_out)
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(CSRFError, _form_expired)


def _context() -> dict[str, Any]:
    return {
        "visitor": visitor(),
        "may": may,
        "nonce": csp_nonce,
        # Where a sign-in comes back to; an error page is no place to come back to.
        "page": here() if request.blueprint and request.method == "GET" else "/",
        "session_down": current().down,
    }


def _headers(response: Response) -> Response:
    if response.mimetype == "text/html":
        sources = f"'self' 'nonce-{csp_nonce()}'"
        # No script makes elements of text but by `pageOf` of page.js.
        trusted = " require-trusted-types-for 'script'; trusted-types flagon;"
        if current_app.debug:
            # The debug toolbar writes scripts and styles into the page.
            sources, trusted = "'self' 'unsafe-inline'", ""
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src {sources}; style-src {sources};"
            " img-src 'self' data:; font-src 'self'; connect-src 'self';"
            f" manifest-src 'self';{trusted} form-action 'self'; base-uri 'none';"
            " frame-ancestors 'none'"
        )
        response.headers.setdefault("Cache-Control", "private, no-cache")
        # Nobody's cache may show one language to who asked for the other.
        response.headers["Content-Language"] = language()
        response.vary.update(["Accept-Language", "Cookie"])
    # The CSRF check over https reads the referrer, so our own pages must send it.
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers.setdefault("X-Frame-Options", "DENY")
    response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    return response


def _signed_out(failure: Failure) -> ResponseReturnValue:
    del failure
    # Not the same entry emptied: the old one may be gone already.
    current().rotate()
    session.clear()
    flash(_("Your session has ended. Please sign in again."), "warning")
    return to_sign_in()


def _refused(refused: Refused) -> ResponseReturnValue:
    if refused.status == HTTPStatus.UNAUTHORIZED and visitor():
        # The session was ended elsewhere: signed out everywhere, or the account closed.
        return _signed_out(refused)
    if refused.status == HTTPStatus.NOT_FOUND:
        return problem(HTTPStatus.NOT_FOUND)
    return from_failure(refused)


def _form_expired(error: CSRFError) -> ResponseReturnValue:
    log.info("form_refused", reason=error.description)
    return problem(
        HTTPStatus.BAD_REQUEST,
        detail=_("This form has expired. Reload the page and send it again."),
    )
