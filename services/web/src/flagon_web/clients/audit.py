"""The audits of catalog and worker as the pages of operators use them."""

from flagon_web.domain.audit import Audited, AuditedPage

from .resources import Resources


class Audit(Resources[Audited, AuditedPage]):
    """Who changed what in the catalog, newest first.

    It is narrowed by `entity`, `id` (of what was changed), `actor`, `since` and `until`.
    """

    path = "/api/v1/audit"
    one = Audited
    page = AuditedPage


class JobAudit(Audit):
    """Who did what with jobs, schedules, webhooks and profiles, in the same form."""

    path = "/api/v1/jobs/audit"
