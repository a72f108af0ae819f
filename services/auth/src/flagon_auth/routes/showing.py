"""How pages are shown: forms, waiting times, places and where a form may lead."""

from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import parse_qs, urlencode, urlsplit

from flask import g, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_wtf import FlaskForm
from markupsafe import Markup

from flagon_auth.clients import TooManyAttempts
from flagon_auth.domain import clients
from flagon_auth.domain.addresses import form_target, safe_next
from flagon_auth.i18n import gettext as _
from flagon_auth.i18n import ngettext
from flagon_chassis.db import transaction
from flagon_chassis.errors import Failure
from flagon_chassis.problems import InvalidRequest, problem


def form_page(
    template: str,
    form: FlaskForm,
    onward: str,
    *,
    status: int = 200,
    **context: object,
) -> ResponseReturnValue:
    """Return the page of a form, or what is wrong with it as a problem to programs.

    :param onward: where the person goes after it; the browser must allow that.
    :param context: what else the template shows.
    """
    if status >= HTTPStatus.BAD_REQUEST and _asked_by_a_program():
        return _problem(form, status)
    allow_onward(onward)
    page = render_template(template, form=form, onward=onward, **context)
    return page, status


def _asked_by_a_program() -> bool:
    # Who says nothing, or takes anything, gets the page.
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def _problem(form: FlaskForm, status: int) -> ResponseReturnValue:
    slug, title = (
        ("too-many-attempts", TooManyAttempts.title())
        if status == HTTPStatus.TOO_MANY_REQUESTS
        else (InvalidRequest.slug(), InvalidRequest.title())
    )
    errors = [
        {"pointer": f"#/{name}", "detail": str(error)}
        for name, found in form.errors.items()
        for error in found
        if name
    ]
    return problem(
        status,
        slug=slug,
        title=title,
        detail=" ".join(str(error) for error in form.form_errors),
        errors=errors,
    )


def only_signed_in(back: str | None = None) -> ResponseReturnValue | None:
    """Return where somebody has to go first who is not signed in; None: go on.

    :param back: the page they come back to; without it the page at hand.
    """
    if current_user.is_authenticated:
        return None
    query = urlencode({"next": safe_next(back or this_page())})
    return redirect(f"/login?{query}", 303)


def void_link(reason: Failure, path: str, label: str) -> ResponseReturnValue:
    """Return the page of a link that does not work, with the way to another one."""
    if _asked_by_a_program():
        raise reason
    page = render_template(
        "void_link.html", detail=reason.detail, path=path, label=label
    )
    return page, reason.status


def allow_onward(onward: str) -> None:
    """Let the forms of the page at hand lead to where `onward` ends."""
    g.form_targets = _form_targets(onward)


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


def spoken(seconds: int) -> str:
    """Return a waiting time as people say it."""
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return ngettext("a second", "%(num)s seconds", seconds)
    return ngettext("a minute", "%(num)s minutes", -(-seconds // 60))


def too_many(slow: TooManyAttempts) -> str:
    """Return what people are told who have to wait."""
    wait = spoken(slow.retry_after_seconds or 1)
    return _("Too many attempts. Try again in %(wait)s.", wait=wait)


def moment(at: datetime) -> Markup:
    """Return a point in time as people and machines read it, in UTC."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), utc.strftime("%Y-%m-%d %H:%M UTC")
    )


def this_page() -> str:
    """Return the address at which this page can be seen again."""
    return request.full_path.rstrip("?") if request.method == "GET" else request.path
