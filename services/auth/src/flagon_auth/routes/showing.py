"""How pages are shown: forms, waiting times, places and where a form may lead."""

from urllib.parse import parse_qs, urlsplit

from flask import g, render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm

from flagon_auth.clients import TooManyAttempts
from flagon_auth.domain import clients
from flagon_auth.domain.addresses import form_target
from flagon_auth.i18n import gettext as _
from flagon_auth.i18n import ngettext
from flagon_chassis.db import transaction


def form_page(
    template: str,
    form: FlaskForm,
    onward: str,
    *,
    status: int = 200,
) -> ResponseReturnValue:
    """Return the page of a form.

    :param onward: where the person goes after it; the browser must allow that.
    """
    allow_onward(onward)
    page = render_template(template, form=form, onward=onward)
    return page, status


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


def this_page() -> str:
    """Return the address at which this page can be seen again."""
    return request.full_path.rstrip("?") if request.method == "GET" else request.path
