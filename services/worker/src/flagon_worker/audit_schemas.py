"""JSON of who did what."""

from typing import Literal

from pydantic import BaseModel

from flagon_chassis.audit import AuditFilter, AuditRecord

from .schedule_schemas import PageQuery

AuditEntity = Literal["job", "schedule", "webhook", "import_profile"]


class AuditView(AuditRecord):
    """That somebody did something with a job, a schedule, a webhook or a profile."""

    action: Literal[
        "created",
        "updated",
        "deleted",
        "cancelled",
        "retried",
        "run",
        "tested",
        "resent",
    ]
    entity: AuditEntity


class AuditPage(BaseModel):
    """Some rows of the audit and how to get the next ones."""

    items: list[AuditView]
    next_cursor: str | None


class AuditQuery(AuditFilter, PageQuery):
    """Which rows of the audit to list."""

    entity: AuditEntity | None = None
