"""Who did what with jobs, schedules, webhooks and profiles, as the API tells it."""

from apiflask import APIBlueprint
from flask import Response

from flagon_chassis import audit, auth, paging, web
from flagon_chassis.db import reading

from .audit_schemas import AuditPage, AuditQuery

bp = APIBlueprint("job_audit", __name__, url_prefix="/api/v1/jobs/audit")


@bp.get("")
@auth.requires("ops:read")
@bp.doc(operation_id="list_job_audit", summary="List who did what", tags=["Jobs"])
@bp.input(AuditQuery, location="query", arg_name="asked")
@bp.output(AuditPage)
def list_audit(asked: AuditQuery) -> Response:
    """List who did what with jobs, schedules, webhooks and profiles, the newest first."""
    wanted = asked.model_dump(exclude={"limit", "cursor"})
    purpose = f"audit {asked.model_dump_json(exclude={'limit', 'cursor'})}"
    with reading() as session:
        items, cursor = paging.page(
            purpose,
            asked,
            lambda before, limit: audit.list_rows(
                session, **wanted, limit=limit, before=before
            ),
            lambda row: row["sequence"],
        )
    return web.reply_page(AuditPage, items, cursor)
