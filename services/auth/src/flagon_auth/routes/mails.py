"""`/internal/mails`: what the worker needs to send mails.

The gateway serves nothing below `/internal/` to the outside.
"""

from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

import structlog
from apiflask import APIBlueprint
from flask import Response, render_template
from flask.typing import ResponseReturnValue

from flagon_auth.clients import parts
from flagon_auth.domain import mails
from flagon_auth.domain.actions import spoken_action
from flagon_auth.i18n import speaking
from flagon_auth.schemas import MailAttempt, MailView
from flagon_chassis import auth
from flagon_chassis.db import transaction
from flagon_chassis.web import reply

bp = APIBlueprint(
    "mails",
    __name__,
    url_prefix="/internal/mails/<uuid:mail_id>",
    enable_openapi=False,
)
log = structlog.get_logger()


@bp.post("")
@auth.requires("mails:send")
@bp.input(MailAttempt, location="json", arg_name="given")
def compose_mail(mail_id: UUID, given: MailAttempt) -> ResponseReturnValue:
    """Return what a mail says; 404 when it is over, 409 while another attempt has it."""
    with transaction() as db:
        composed = mails.compose(db, mail_id, given.attempt, now=datetime.now(UTC))
        written = _written(composed) if composed else None
    if written is None:
        log.info("mail_dropped", mail=str(mail_id))
        raise mails.MailOver("It is too late, or nobody is to get it any more.")
    response = reply(MailView, written)
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/<any(sent, returned, refused):outcome>")
@auth.requires("mails:send")
def mail_ended(mail_id: UUID, outcome: mails.Outcome) -> ResponseReturnValue:
    """Take down what became of a mail."""
    with transaction() as db:
        mails.end(db, mail_id, outcome, now=datetime.now(UTC))
    return Response(status=204)


def _written(composed: mails.Composed) -> dict[str, str]:
    letter = composed.letter
    query = {"ui_locales": composed.locale}
    if composed.token is not None:
        query["code"] = parts().linker.code(composed.token)
    # From the settings, never from a header of the request (host header poisoning).
    link = f"{parts().issuer.url}{letter.path}?{urlencode(query)}"
    with speaking(composed.locale):
        values = dict(composed.values)
        if "action" in values:
            values["action"] = spoken_action(values["action"])
        shown = {
            "subject": str(letter.subject),
            "lines": [str(line) % values for line in letter.lines],
            "button": str(letter.button),
            "after": [str(line) % values for line in letter.after],
            "link": link,
        }
        return {
            "to": composed.email,
            "language": composed.locale,
            "subject": str(letter.subject),
            "text": render_template("mail.txt", **shown),
            "html": render_template("mail.html", **shown),
        }
