"""The audits of catalog and worker as operators see them: who did what."""

from datetime import datetime
from typing import Any

from pydantic import Field

from flagon_web.i18n import gettext as _

from .products import Shown
from .users import plain

CATALOG = ("product", "category", "tag", "review", "reservation", "image")
"""What can be changed in the catalog."""
JOBS = ("job", "schedule", "webhook", "import_profile")
"""What the worker has that people do something with."""
SYSTEM = "system"
"""Who changed it where nobody asked: a command, or the passing of time."""


class Change(Shown):
    """What a member was and became; neither where that is nobody's business."""

    before: Any = Field(default=None, alias="from")
    after: Any = Field(default=None, alias="to")
    cut: bool = False

    @property
    def was(self) -> str | None:
        """What it was; None for what is new."""
        return self._shown("before", self.before)

    @property
    def became(self) -> str | None:
        """What it became; None for what is gone."""
        return self._shown("after", self.after)

    def _shown(self, side: str, value: object) -> str | None:
        if side not in self.model_fields_set:
            return None
        words = _("empty") if value in (None, "", [], {}) else plain(value)
        return f"{words}…" if self.cut and value else words


class Audited(Shown):
    """That something got a new version or was deleted."""

    sequence: int
    at: datetime
    actor: str
    client: str | None = None
    action: str
    entity: str
    id: str
    version: int = 1
    changes: dict[str, Change] = Field(default_factory=dict)
    request_id: str | None = None

    @property
    def tone(self) -> str:
        """The tone of its badge."""
        tones = {"created": "succeeded", "deleted": "failed"}
        return tones.get(self.action, "running")


class AuditedPage(Shown):
    """Some of them, newest first."""

    items: list[Audited]
    next_cursor: str | None = None
