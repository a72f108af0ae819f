"""Who changed what, as the API tells it."""

from apiflask import APIBlueprint
from flask import Response

from flagon_catalog.schemas import AuditPage, AuditQuery, AuditView
from flagon_chassis import audit, auth, paging
from flagon_chassis.db import reading

from . import PAGING, answer_if_changed, listed, refuse_unclear

bp = APIBlueprint("audit", __name__, url_prefix="/api/v1/audit", tag="Audit")
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)

FIELDS = list(AuditView.model_fields)


@bp.get("")
@auth.requires("ops:read")
@bp.doc(operation_id="list_audit")
@bp.input(AuditQuery, location="query", arg_name="asked")
@bp.output(AuditPage)
def list_audit(asked: AuditQuery) -> Response:
    """List who changed what, the newest first."""
    wanted = asked.model_dump(exclude=PAGING)
    purpose = f"audit {asked.model_dump_json(exclude=PAGING)}"
    with reading() as session:
        items, cursor = paging.page(
            purpose,
            asked,
            lambda before, limit: audit.list_rows(
                session, **wanted, limit=limit, before=before
            ),
            lambda row: row["sequence"],
        )
    return listed(items, cursor, FIELDS, "rows")
