"""How pages are shown: forms, waiting times, places and where a form may lead."""

import ipaddress
from urllib.parse import parse_qs, urlsplit

from flask import g, render_template
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm

from flagon_auth.domain import clients
from flagon_auth.domain.addresses import form_target
from flagon_chassis.db import transaction


def form_page(
    template: str,
    form: FlaskForm,
    onward: str,
    *,
    status: int = 200,
    wait: int = 0,
) -> ResponseReturnValue:
    """Return the page of a form.

    :param onward: where the person goes after it; the browser must allow that.
    :param wait: seconds to wait before the next try.
    """
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


def spoken(seconds: int) -> str:
    """Return a waiting time as people say it."""
    minutes = -(-seconds // 60)
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return f"{seconds} seconds" if seconds > 1 else "a second"
    return f"{minutes} minutes" if minutes > 1 else "a minute"


def network(address: str | None) -> str:
    """Return what counts as one place: an IPv4 address, or an IPv6 network of a home."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    if ip.version == 4:  # noqa: PLR2004 (the version's name)
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False).network_address)
