"""What a browser says it is, in words that its owner recognises."""

import re

from flagon_auth.i18n import gettext as _

# The first that fits: most browsers claim to be several others as well.
_PROGRAMS = (
    (r"Edg(?:e|A|iOS)?/", "Edge"),
    (r"OPR/|Opera", "Opera"),
    (r"SamsungBrowser/", "Samsung Internet"),
    (r"Firefox/|FxiOS/", "Firefox"),
    (r"Chrome/|CriOS/|Chromium/", "Chrome"),
    (r"Safari/", "Safari"),
    (r"curl/", "curl"),
    (r"python", "Python"),
)
_SYSTEMS = (
    (r"Android", "Android"),
    (r"iPhone|iPad|iOS", "iOS"),
    (r"Windows", "Windows"),
    (r"Macintosh|Mac OS", "macOS"),
    (r"CrOS", "ChromeOS"),
    (r"Linux|X11", "Linux"),
)


def named(agent: str) -> str:
    """Return program and system of a `User-Agent`, as far as it tells."""
    program, system = _first(_PROGRAMS, agent), _first(_SYSTEMS, agent)
    if program and system:
        return _("%(program)s on %(system)s", program=program, system=system)
    return program or system or _("Unknown browser")


def _first(table: tuple[tuple[str, str], ...], agent: str) -> str:
    return next(
        (name for pattern, name in table if re.search(pattern, agent, re.IGNORECASE)),
        "",
    )
