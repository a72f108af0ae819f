"""Schedules: what happens again and again, and when."""

from functools import partial
from http import HTTPStatus
from json import dumps
from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.schedules import CATCH_UP, Schedule, plain
from flagon_web.forms import Pace, Plan, blame
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import gettext

from . import access, office

bp = Blueprint("schedules", __name__, url_prefix="/back-office/schedules")
office.degrades(bp, _("Schedules cannot be shown right now."), "schedules.schedules")

_PAGE_SIZE = 50
_CHANGED = _(
    "Somebody changed this schedule while you were editing it."
    " Yours was not saved. Save again to replace theirs."
)


@bp.get("")
@access.needs("jobs:manage")
def schedules() -> ResponseReturnValue:
    """Show everybody's schedules and the platform's own."""
    cursor = request.args.get("after", "")
    found = backends().schedules.find_page(
        token=access.token(), limit=_PAGE_SIZE, cursor=cursor
    )
    return render_template("schedules.html", schedules=found, cursor=cursor)


@bp.get("/new")
@access.needs("jobs:manage")
def plan_schedule() -> ResponseReturnValue:
    """Show the form for a new schedule."""
    return _new_page(Plan(formdata=None, timing="cron"))


@bp.post("/new")
@access.needs("jobs:manage")
def create_schedule() -> ResponseReturnValue:
    """Make a schedule, or say at the fields what is wrong."""
    form = Plan()
    if not form.validate_on_submit():
        return _new_page(form, office.MARKED, 422)
    fields = form.fields()
    try:
        made = backends().schedules.create(
            fields, key=office.key_of(form, fields), token=access.token()
        )
    except Refused as refused:
        return _new_page(form, _judged(form, refused), refused.status)
    except Unreachable:
        return _new_page(form, office.AWAY, 503)
    flash(gettext("The schedule %(name)s is made.", name=made.name), "success")
    return redirect(url_for("schedules.schedule", schedule_id=made.id), 303)


@bp.get("/<uuid:schedule_id>")
@access.needs("jobs:manage")
def schedule(schedule_id: UUID) -> ResponseReturnValue:
    """Show one schedule with a form to change it."""
    found = backends().schedules.find(str(schedule_id), token=access.token())
    form = (Pace if found.fixed else Plan)(
        formdata=None, etag=found.etag, **_as_form(found)
    )
    return _page(found, form)


@bp.post("/<uuid:schedule_id>")
@access.needs("jobs:manage")
def change_schedule(schedule_id: UUID) -> ResponseReturnValue:
    """Change a schedule, unless somebody else did meanwhile."""
    api, token, name = backends().schedules, access.token(), str(schedule_id)
    found = api.find(name, token=token)
    form = (Pace if found.fixed else Plan)()
    if not form.validate_on_submit():
        return _page(found, form, office.MARKED, 422)
    etag = office.seen_etag()
    try:
        api.change(name, form.fields(), etag=etag, token=token)
    except Refused as refused:
        if refused.status == HTTPStatus.PRECONDITION_FAILED:
            present = api.find(name, token=token)
            return _conflict(present, form)
        return _page(found, form, _judged(form, refused), refused.status)
    except Unreachable:
        return _page(found, form, office.AWAY, 503)
    flash(gettext("The schedule is saved."), "success")
    return redirect(url_for("schedules.schedule", schedule_id=schedule_id), 303)


@bp.post("/<uuid:schedule_id>/<any(pause, resume):step>")
@access.needs("jobs:manage")
def switch_schedule(schedule_id: UUID, step: str) -> ResponseReturnValue:
    """Let a schedule rest or go on."""
    switch = partial(
        backends().schedules.switch,
        str(schedule_id),
        on=step == "resume",
        token=access.token(),
    )
    office.act(switch, _("It goes on.") if step == "resume" else _("It rests."))
    return redirect(url_for("schedules.schedule", schedule_id=schedule_id), 303)


@bp.post("/<uuid:schedule_id>/run")
@access.needs("jobs:manage")
def run_schedule(schedule_id: UUID) -> ResponseReturnValue:
    """Run a schedule now; the same button pressed twice runs it once."""
    run = partial(
        backends().schedules.run,
        str(schedule_id),
        key=office.sent_key(),
        token=access.token(),
    )
    office.act(run, _("It runs."))
    return redirect(url_for("schedules.schedule", schedule_id=schedule_id), 303)


@bp.post("/<uuid:schedule_id>/delete")
@access.needs("jobs:manage")
def delete_schedule(schedule_id: UUID) -> ResponseReturnValue:
    """Forget a schedule, unless it changed since the person looked."""
    forget = partial(
        backends().schedules.delete,
        str(schedule_id),
        etag=office.seen_etag(),
        token=access.token(),
    )
    if office.act(forget, _("The schedule is deleted.")):
        return redirect(url_for("schedules.schedules"), 303)
    return redirect(url_for("schedules.schedule", schedule_id=schedule_id), 303)


def _judged(form: Plan | Pace, refused: Refused) -> str:
    """Put a refusal at its fields and return the sentence on top.

    :raises Refused: it is not about what the person wrote.
    """
    if refused.status not in {400, 409, 422}:
        raise refused
    if str(refused.problem.get("type", "")).endswith("#schedule-name-taken"):
        form["name"].errors = [*form["name"].errors, refused.detail]
    return blame(form, refused)


def _as_form(found: Schedule) -> dict[str, Any]:
    return {
        "name": found.name,
        "kind": found.kind or "",
        "params": dumps(found.params, indent=2, ensure_ascii=False),
        "timing": "interval" if found.cron is None else "cron",
        "cron": found.cron or "",
        "interval_seconds": found.interval_seconds,
        "time_zone": found.time_zone,
        "jitter_seconds": found.jitter_seconds,
        "catch_up": found.catch_up,
    }


def _conflict(present: Schedule, form: Plan | Pace) -> ResponseReturnValue:
    theirs = office.renewed(form, present, _words)
    return _page(present, form, _CHANGED, 409, theirs)


def _words(name: str, value: object) -> str:
    if value is None:
        return gettext("none")
    if name == "params":
        return dumps(value, ensure_ascii=False)
    if name == "catch_up":
        return str(CATCH_UP.get(str(value), value))
    return plain(value) if isinstance(value, int | float) else str(value)


def _kinds(form: Plan) -> None:
    """Let the form offer the kinds that can be scheduled, and the one that is chosen."""
    api, token = backends(), access.token()
    found = api.gather({"kinds": lambda: api.jobs.list_kinds(token=token)})["kinds"]
    choices = {kind.kind: kind.name for kind in found or () if not kind.takes_file}
    if form.kind.data:
        choices.setdefault(form.kind.data, form.kind.data)
    form.kind.choices = choices


def _new_page(
    form: Plan, why: office.Text = "", status: int = 200
) -> ResponseReturnValue:
    _kinds(form)
    return render_template("schedule_new.html", form=form, why=why), status


def _page(
    found: Schedule,
    form: Plan | Pace,
    why: office.Text = "",
    status: int = 200,
    theirs: list[tuple[str, str]] | None = None,
) -> ResponseReturnValue:
    if isinstance(form, Plan):
        _kinds(form)
    page = render_template(
        "schedule.html",
        schedule=found,
        form=form,
        why=why,
        theirs=theirs or [],
        key=uuid4().hex,
    )
    return page, status
