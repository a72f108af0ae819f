"""The catalog's audit as the pages of operators use it."""

from flagon_web.domain.audit import Audited, AuditedPage

from .resources import Resources


class Audit(Resources[Audited, AuditedPage]):
    """Who changed what, newest first.

    It is narrowed by `entity`, `id` (of what was changed), `actor`, `since` and `until`.
    """

    path = "/api/v1/audit"
    one = Audited
    page = AuditedPage
