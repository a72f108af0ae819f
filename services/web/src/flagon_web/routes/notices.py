"""What Alertmanager tells: web is a receiver of its messages."""

from hmac import compare_digest

import structlog
from flask import Blueprint, Response, abort, current_app, request
from flask.typing import ResponseReturnValue

from flagon_chassis.auth import open_route
from flagon_chassis.errors import Unauthenticated
from flagon_chassis.web import body
from flagon_web.clients import backends
from flagon_web.domain.notices import Group

bp = Blueprint("notices", __name__)
log = structlog.get_logger()


class NotAlertmanager(Unauthenticated):
    """Only the platform's Alertmanager may say this."""


@bp.post("/internal/alerts")
@open_route
def keep_notice() -> ResponseReturnValue:
    """Keep what Alertmanager says of a group of alerts, for the operations page.

    Who knows the token is Alertmanager. The gateway does not serve this to the outside.
    """
    token = current_app.extensions["flagon.settings"].alerts_token
    if token is None:
        abort(404)
    given = request.authorization
    shown = given.token if given and given.type == "bearer" else None
    # Before anything of the body is read.
    if not compare_digest((shown or "").encode(), token.get_secret_value().encode()):
        raise NotAlertmanager("Send the token that both were given.")
    group = body(Group)
    backends().notices.keep(group)
    log.info(
        "alerts_told",
        receiver=group.receiver,
        alert=group.name,
        state=group.status,
        alerts=len(group.alerts),
    )
    return Response(status=204, headers={"Cache-Control": "no-store"})
