"""The schedules API: what happens again and again, and when."""

import hashlib
from typing import Any, cast
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app, request, url_for
from pydantic import ValidationError

from flagon_chassis import (
    auth,
    conditional,
    idempotency,
    logs,
    paging,
    problems,
    tracing,
    web,
)
from flagon_chassis.db import transaction
from flagon_chassis.errors import Invalid

from .domain import schedules
from .domain.kinds import find_kind
from .schedule_schemas import (
    NewSchedule,
    PageQuery,
    ScheduleChange,
    SchedulePage,
    ScheduleView,
)
from .schemas import PARAMS
from .settings import Settings

bp = APIBlueprint(
    "schedules", __name__, url_prefix="/api/v1/schedules", tag="Schedules"
)
bp.before_request(web.refuse_other_patches)
MANAGE = "jobs:manage"


class KindNotSchedulable(Invalid):
    """Jobs of this kind cannot start by themselves."""


class ParamsInvalid(Invalid):
    """The parameters are not those of the kind."""


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["flagon.settings"])


def _checked(kind_name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a kind, judged as when a person submits the job."""
    kind = find_kind(kind_name)
    if kind.scope not in auth.caller().scopes:
        raise auth.ScopeMissing((kind.scope,), [kind.scope])
    if kind.takes_file:
        raise KindNotSchedulable(f"Each job of the kind {kind.name} needs a file.")
    try:
        return PARAMS[kind.name].model_validate(params).model_dump(mode="json")
    except ValidationError as error:
        raise ParamsInvalid(
            f"The parameters are not those of {kind.name}.",
            errors=[
                {**problem, "pointer": "#/params" + problem["pointer"][1:]}
                for problem in problems.field_errors(error)[:100]
            ],
        ) from error


def _shown(seen: schedules.Seen, status: int = 200) -> Response:
    response = web.reply(ScheduleView, seen.show(), status)
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(conditional.etag(seen.schedule.version, _fired(seen)))
    return response


def _fired(seen: schedules.Seen) -> str:
    """Return what tells two views of one version apart: firings change no version."""
    view = seen.show()
    told = repr((view["next_run_at"], view["last_run_at"], view["last_firing"]))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _locked(session: Any, schedule_id: UUID) -> schedules.Seen:  # noqa: ANN401 (sqlalchemy is below)
    seen = schedules.find_schedule(session, schedule_id, lock=True)
    conditional.require_match(seen.schedule.version, extras=[_fired(seen)])
    return seen


@bp.get("")
@auth.requires(MANAGE)
@bp.doc(operation_id="list_schedules", summary="List schedules by name")
@bp.input(PageQuery, location="query", arg_name="asked")
@bp.output(SchedulePage)
def list_schedules(asked: PageQuery) -> Response:
    """List everybody's schedules, and the platform's own."""
    with transaction() as session:
        found, cursor = paging.page(
            "schedules",
            asked,
            lambda after, limit: schedules.list_schedules(
                session, after=after, limit=limit
            ),
            lambda seen: seen.schedule.name,
        )
        items = [seen.show() for seen in found]
    return web.reply_page(SchedulePage, items, cursor)


@bp.post("")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="create_schedule",
    summary="Make a schedule",
    responses={409: "The name is in use"},
)
@bp.input(NewSchedule, arg_name="new")
@bp.output(ScheduleView, 201)
def create_schedule(new: NewSchedule) -> Response:
    """Have jobs of a kind start again and again; they are the caller's.

    With an `Idempotency-Key` it can be repeated without a second effect.
    """
    fields = {**new.model_dump(), "params": _checked(new.kind, new.params)}

    def respond() -> Response:
        seen = schedules.create_schedule(session, owner=auth.caller().sub, **fields)
        response = _shown(seen, 201)
        response.headers["Location"] = url_for(
            "schedules.find_schedule", schedule_id=seen.schedule.id
        )
        return response

    with transaction() as session:
        return idempotency.once(session, respond)


@bp.get("/<uuid:schedule_id>")
@auth.requires(MANAGE)
@bp.doc(operation_id="find_schedule", summary="Show a schedule", responses=[304, 404])
@bp.output(ScheduleView)
def find_schedule(schedule_id: UUID) -> Response:
    """Show a schedule with its next run and what came of the last."""
    with transaction() as session:
        response = _shown(schedules.find_schedule(session, schedule_id))
    response.make_conditional(request)
    return response


@bp.patch("/<uuid:schedule_id>")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="change_schedule",
    summary="Change a schedule",
    responses=[404, 409, 412, 415, 428],
)
@bp.input(ScheduleChange, arg_name="change")
@bp.output(ScheduleView)
def change_schedule(schedule_id: UUID, change: ScheduleChange) -> Response:
    """Change some fields by JSON merge patch (RFC 7396).

    Of the platform's own schedules the interval can be changed, within bounds, and the
    jitter; they can be paused.
    """
    changes = change.model_dump(exclude_unset=True)
    with transaction() as session:
        seen = _locked(session, schedule_id)
        if seen.schedule.task is None:
            whole = {
                name: getattr(seen.schedule, name) for name in NewSchedule.model_fields
            }
            whole = NewSchedule.model_validate({**whole, **changes}).model_dump()
            if changes.keys() & {"kind", "params"}:
                changes["params"] = _checked(whole["kind"], whole["params"])
        seen = schedules.change_schedule(session, seen.schedule, changes)
        return _shown(seen)


@bp.delete("/<uuid:schedule_id>")
@auth.requires(MANAGE)
@bp.doc(
    operation_id="delete_schedule",
    summary="Forget a schedule",
    responses={
        204: "Gone",
        404: "Not Found",
        409: "Conflict",
        412: "Precondition Failed",
        428: "Precondition Required",
    },
)
def delete_schedule(schedule_id: UUID) -> Response:
    """Forget a schedule; jobs that it started stay. The platform's own cannot be."""
    with transaction() as session:
        seen = _locked(session, schedule_id)
        schedules.delete_schedule(session, seen.schedule)
    return Response(status=204)


@bp.post("/<uuid:schedule_id>/pause")
@auth.requires(MANAGE)
@bp.doc(operation_id="pause_schedule", summary="Pause a schedule", responses=[404])
@bp.output(ScheduleView)
def pause_schedule(schedule_id: UUID) -> Response:
    """Let a schedule rest; pausing one that rests changes nothing."""
    return _switched(schedule_id, enabled=False)


@bp.post("/<uuid:schedule_id>/resume")
@auth.requires(MANAGE)
@bp.doc(operation_id="resume_schedule", summary="Resume a schedule", responses=[404])
@bp.output(ScheduleView)
def resume_schedule(schedule_id: UUID) -> Response:
    """Have a schedule go on from now; what it missed in its rest is not made up for."""
    return _switched(schedule_id, enabled=True)


def _switched(schedule_id: UUID, *, enabled: bool) -> Response:
    with transaction() as session:
        seen = schedules.find_schedule(session, schedule_id, lock=True)
        changes = {"enabled": enabled}
        return _shown(schedules.change_schedule(session, seen.schedule, changes))


@bp.post("/<uuid:schedule_id>/run")
@auth.requires(MANAGE)
@bp.doc(operation_id="run_schedule", summary="Run a schedule now", responses=[404])
@bp.output(ScheduleView, 202)
def run_schedule(schedule_id: UUID) -> Response:
    """Run a schedule now, besides its times; `last_firing` names the job.

    With an `Idempotency-Key` it can be repeated without a second effect.
    """
    headers = {"request_id": logs.request_id()}
    tracing.inject(headers)

    def respond() -> Response:
        seen = schedules.find_schedule(session, schedule_id, lock=True)
        seen = schedules.run_schedule(
            session,
            seen.schedule,
            headers=headers,
            resend_seconds=_settings().resend_seconds,
        )
        return _shown(seen, 202)

    with transaction() as session:
        return idempotency.once(session, respond)
