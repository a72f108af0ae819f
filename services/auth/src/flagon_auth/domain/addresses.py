"""Addresses that a browser may be sent to after it has signed in."""

import re
from urllib.parse import urlsplit

HOME = "/account"
"""Where a sign-in leads that nobody asked for."""
# A path of our own: one slash, then none and no backslash (browsers take it for one),
# nothing that they strip (tabs, line breaks) and nothing outside ASCII.
_OWN_PATH = re.compile(r"\A/(?![/\\])[\x21-\x5b\x5d-\x7e]*\Z")
_LENGTH_MAX = 8192


def safe_next(wanted: str | None) -> str:
    """Return the address if it leads to a page of this platform, else `HOME`."""
    fits = wanted and len(wanted) <= _LENGTH_MAX and _OWN_PATH.match(wanted)
    return wanted if wanted and fits else HOME


def form_target(uri: str) -> str:
    """Return the source expression that lets a form's redirect reach this address.

    Chromium holds `form-action` against redirects as well, so the page whose form ends
    at a client must name that client.
    """
    parts = urlsplit(uri)
    if parts.scheme in {"http", "https"}:
        return f"{parts.scheme}://{parts.netloc}"
    return f"{parts.scheme}:"
