"""`/internal/logout-notices`: what the worker needs to tell clients of ended sessions.

The gateway serves nothing below `/internal/` to the outside.
"""

from datetime import UTC, datetime
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import Response, current_app
from flask.typing import ResponseReturnValue

from flagon_auth.clients import parts
from flagon_auth.domain import logouts
from flagon_auth.schemas import NoticeRefusal, NoticeView
from flagon_chassis import auth
from flagon_chassis.db import transaction
from flagon_chassis.web import reply

bp = APIBlueprint(
    "notices",
    __name__,
    url_prefix="/internal/logout-notices/<uuid:notice_id>",
    enable_openapi=False,
)
log = structlog.get_logger()


@bp.post("")
@auth.requires("logout:deliver")
def compose_notice(notice_id: UUID) -> ResponseReturnValue:
    """Return where a notice goes and a fresh logout token; 404 when it is over."""
    patience = current_app.extensions["flagon.settings"].logout_patience_seconds
    with transaction() as db:
        composed = logouts.compose(
            db,
            parts().issuer,
            notice_id,
            patience_seconds=patience,
            now=datetime.now(UTC),
        )
    if composed is None:
        log.info("logout_over", notice=str(notice_id))
        raise logouts.NoticeOver("It has arrived, or is not delivered any more.")
    uri, token = composed
    response = reply(NoticeView, {"uri": uri, "logout_token": token})
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/delivered")
@auth.requires("logout:deliver")
def notice_delivered(notice_id: UUID) -> ResponseReturnValue:
    """Remember that the client knows."""
    with transaction() as db:
        logouts.delivered(db, notice_id, now=datetime.now(UTC))
    return Response(status=204)


@bp.post("/refused")
@auth.requires("logout:deliver")
@bp.input(NoticeRefusal, location="json", arg_name="refusal")
def notice_refused(notice_id: UUID, refusal: NoticeRefusal) -> ResponseReturnValue:
    """Remember that the client would not hear it."""
    with transaction() as db:
        logouts.refused(db, notice_id, status=refusal.status, now=datetime.now(UTC))
    return Response(status=204)
