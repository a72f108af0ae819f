"""The audit: who did what, by the service that did it."""

from datetime import UTC, datetime
from uuid import UUID

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from flagon_web.clients import backends
from flagon_web.clients.audit import Audit
from flagon_web.domain.audit import CATALOG, JOBS, SYSTEM, AuditedPage
from flagon_web.domain.users import SecurityEventPage, is_person
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office

bp = Blueprint("audit", __name__, url_prefix="/back-office/audit")
office.degrades(bp, _("The audit cannot be shown right now."), "audit.audit")

_PAGE_SIZE = 30
_TIMES = ("since", "until")
# Where a thing that is still there has its page, by kind.
_PLACES = {
    "product": ("shop.product", "ref"),
    "job": ("jobs.job", "job_id"),
    "schedule": ("schedules.schedule", "schedule_id"),
    "webhook": ("webhooks.webhook", "webhook_id"),
}


@bp.get("")
@access.needs("ops:read")
def audit() -> ResponseReturnValue:
    """Show who changed what in the catalog, all of it or what fits the filters."""
    words = _("Who changed what in the catalog, the newest first.")
    return _page(backends().audit, CATALOG, words)


@bp.get("/jobs")
@access.needs("ops:read")
def jobs() -> ResponseReturnValue:
    """Show who did what with jobs, schedules, webhooks and profiles."""
    words = _(
        "Who did what with jobs, schedules, webhooks and import profiles, the newest first."
    )
    return _page(backends().job_audit, JOBS, words)


@bp.get("/accounts")
@access.needs("users:read")
def accounts() -> ResponseReturnValue:
    """Show what happened to accounts, clients and keys, all of it or to one account."""
    cursor = request.args.get("after", "")
    wanted = {"id": request.args.get("id", "").strip()[:100]}
    wrong = _wrong_id(wanted["id"])
    found = SecurityEventPage(items=[])
    if not wrong:
        account = wanted["id"] and str(UUID(wanted["id"]))
        found = backends().users.list_events(
            account, token=access.token(), limit=_PAGE_SIZE, cursor=cursor
        )
    page = render_template(
        "audit_accounts.html",
        events=found,
        cursor=cursor,
        wanted=wanted,
        wrong=wrong,
        is_person=is_person,
    )
    return page, 422 if wrong else 200


def _page(
    source: Audit, entities: tuple[str, ...], lead: office.Text
) -> ResponseReturnValue:
    cursor = request.args.get("after", "")
    wanted = {
        "entity": request.args.get("entity", ""),
        "id": request.args.get("id", "").strip()[:100],
        "actor": request.args.get("actor", "").strip()[:200],
    }
    if wanted["entity"] not in entities:
        wanted["entity"] = ""
    times = {name: request.args.get(name, "").strip()[:40] for name in _TIMES}
    wrong = _wrong_id(wanted["id"]) | {
        name: gettext("Write a time such as 2026-01-31T18:00.")
        for name, text in times.items()
        if text and _moment(text) is None
    }
    found = AuditedPage(items=[])
    if not wrong:
        wanted |= {name: _moment(text) or "" for name, text in times.items()}
        found = source.find_page(
            token=access.token(), limit=_PAGE_SIZE, cursor=cursor, **wanted
        )
    page = render_template(
        "audit.html",
        audit=found,
        cursor=cursor,
        wanted=wanted | times,
        wrong=wrong,
        entities=entities,
        lead=lead,
        places=_PLACES,
        is_person=is_person,
        system=SYSTEM,
    )
    return page, 422 if wrong else 200


def _moment(text: str) -> str | None:
    """Return a time as services read it; one without a zone is UTC, as shown here."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _wrong_id(text: str) -> dict[str, str]:
    """Return what is wrong with the number of a thing, by the name of its field."""
    try:
        fine = not text or bool(UUID(text))
    except ValueError:
        fine = False
    return {} if fine else {"id": gettext("This is no number of a thing.")}
