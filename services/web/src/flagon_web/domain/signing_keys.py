"""The keys that sign tokens, as auth shows them, with what pages ask of them."""

from datetime import datetime

from flagon_web.i18n import LazyText as _

from .products import Shown

_STATES = {
    "pending": ("queued", _("Next")),
    "active": ("succeeded", _("Signs")),
    "retiring": ("running", _("Checks what it signed")),
    "retired": ("cancelled", _("Over")),
}


class SigningKey(Shown):
    """One key, without its private half."""

    kid: str
    alg: str
    state: str
    created_at: datetime
    activated_at: datetime | None = None
    retire_at: datetime | None = None

    @property
    def badge(self) -> tuple[str, str]:
        """How it is: the tone of the badge, and words."""
        tone, words = _STATES.get(self.state, ("queued", self.state))
        return tone, str(words)

    @property
    def trusted(self) -> bool:
        """Whether anybody takes what it signs or signed."""
        return self.state != "retired"


class SigningKeyList(Shown):
    """Every key, oldest first."""

    items: list[SigningKey]
