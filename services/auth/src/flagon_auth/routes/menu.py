"""The pages of the own account, in the order in which they are offered."""

from flask import current_app
from werkzeug.exceptions import HTTPException

from flagon_auth.i18n import LazyText as _

ENTRIES = (
    ("/account", _("Overview")),
    ("/account/profile", _("Profile")),
    ("/account/email", _("E-mail address")),
    ("/account/password", _("Password")),
    ("/account/security", _("Security")),
    ("/account/two-factor", _("Second factor")),
    ("/account/passkeys", _("Passkeys")),
    ("/account/identities", _("Other providers")),
    ("/account/sessions", _("Sessions")),
    ("/account/apps", _("Connected programs")),
    ("/account/api-keys", _("API keys")),
    ("/account/activity", _("Activity")),
    ("/account/data", _("Export and delete")),
)
"""Path and label; one without a route is not shown."""


def account_menu() -> list[tuple[str, _]]:
    """Return the entries whose pages exist."""
    return [(path, label) for path, label in ENTRIES if _exists(path)]


def _exists(path: str) -> bool:
    try:
        current_app.url_map.bind("").match(path, method="GET")
    except HTTPException:
        return False
    return True
