"""The audit: who changed what in the catalog."""

from datetime import UTC, datetime
from uuid import UUID

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from flagon_web.clients import backends
from flagon_web.domain.audit import ENTITIES, SYSTEM, AuditedPage
from flagon_web.domain.users import is_person
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office

bp = Blueprint("audit", __name__, url_prefix="/back-office/audit")
office.degrades(bp, _("The audit cannot be shown right now."), "audit.audit")

_PAGE_SIZE = 30
_TIMES = ("since", "until")


@bp.get("")
@access.needs("ops:read")
def audit() -> ResponseReturnValue:
    """Show who changed what, all of it or what fits the filters."""
    cursor = request.args.get("after", "")
    wanted = {
        "entity": request.args.get("entity", ""),
        "id": request.args.get("id", "").strip()[:100],
        "actor": request.args.get("actor", "").strip()[:200],
    }
    if wanted["entity"] not in ENTITIES:
        wanted["entity"] = ""
    times = {name: request.args.get(name, "").strip()[:40] for name in _TIMES}
    wrong = {
        name: gettext("Write a time such as 2026-01-31T18:00.")
        for name, text in times.items()
        if text and _moment(text) is None
    }
    if not _is_id(wanted["id"]):
        wrong["id"] = gettext("This is no number of a thing.")
    found = AuditedPage(items=[])
    if not wrong:
        wanted |= {name: _moment(text) or "" for name, text in times.items()}
        found = backends().audit.find_page(
            token=access.token(), limit=_PAGE_SIZE, cursor=cursor, **wanted
        )
    page = render_template(
        "audit.html",
        audit=found,
        cursor=cursor,
        wanted=wanted | times,
        wrong=wrong,
        entities=ENTITIES,
        is_person=is_person,
        system=SYSTEM,
    )
    return page, 422 if wrong else 200


def _moment(text: str) -> str | None:
    """Return a time as the catalog reads it; one without a zone is UTC, as shown here."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _is_id(text: str) -> bool:
    try:
        return not text or bool(UUID(text))
    except ValueError:
        return False
