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
from flagon_auth.i18n import speaking, spoken_amount
from flagon_auth.schemas import MailAttempt, MailOrder, MailView
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


@bp.put("")
@auth.requires("mails:send")
@bp.input(MailOrder, location="json", arg_name="order")
def order_mail(mail_id: UUID, order: MailOrder) -> ResponseReturnValue:
    """Have a mail sent, once for its id; 404 when nobody is to get it."""
    values = order.model_dump(mode="json", exclude={"account_id", "letter"})
    with transaction() as db:
        mails.order(
            db,
            mail_id,
            order.account_id,
            order.letter,
            values,
            now=datetime.now(UTC),
        )
    return Response(status=204)


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
        raise mails.MailOver("It was sent, is too late, or nobody is to get it.")
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
    path = letter.path % composed.values
    link = f"{parts().issuer.url}{path}?{urlencode(query)}"
    with speaking(composed.locale):
        values = dict(composed.values)
        if "action" in values:
            values["action"] = spoken_action(values["action"])
        for name in {"price", "previous_price"} & values.keys():
            values[name] = spoken_amount(values[name], values["currency"])
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
