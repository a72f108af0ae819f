"""Kinds of jobs, attempts and logs, and the second chance of a job that failed."""

from typing import TYPE_CHECKING, cast
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app

from flagon_chassis import auth, paging, web
from flagon_chassis.db import transaction

from .domain import history, jobs
from .domain.kinds import KINDS
from .history_schemas import (
    AttemptPage,
    KindList,
    LinePage,
    LogQuery,
    PageQuery,
)
from .routes import show_job, viewer
from .schemas import PARAMS, JobView

if TYPE_CHECKING:
    from .settings import Settings

bp = APIBlueprint("job_history", __name__, url_prefix="/api/v1/jobs")

_PRIVATE = {"Cache-Control": "private, no-cache"}


@bp.get("/kinds")
@bp.doc(summary="List the kinds of jobs", tags=["Jobs"])
@bp.output(KindList)
@auth.requires("jobs:read")
def list_kinds() -> Response:
    """Return every kind with its queue, its scope and the JSON Schema of its params."""
    kinds = [
        {
            "kind": kind.name,
            "title": kind.title,
            "once": kind.once,
            "queue": kind.queue,
            "scope": kind.scope,
            "takes_file": kind.takes_file,
            "params": PARAMS[kind.name].model_json_schema(),
        }
        for kind in KINDS.values()
    ]
    return web.reply(KindList, {"items": kinds}, headers=_PRIVATE)


@bp.post("/<uuid:job_id>/retry")
@bp.doc(summary="Queue a failed or cancelled job again", tags=["Jobs"])
@bp.output(JobView, status_code=202)
@auth.requires("jobs:write")
def retry_job(job_id: UUID) -> Response:
    """Queue a failed or cancelled job again; it goes on where it was, if it can.

    Its state is the condition, so it needs no `If-Match`: a second retry is a 409.
    """
    settings = cast("Settings", current_app.extensions["flagon.settings"])
    who = viewer()
    with transaction() as session:
        job = jobs.find_job(session, job_id, who, lock=True)
        jobs.retry_job(
            session,
            job,
            manages=who.manages,
            resend_seconds=settings.resend_seconds,
        )
        return show_job(job, 202)


@bp.get("/<uuid:job_id>/attempts")
@bp.doc(summary="List a job's attempts", tags=["Jobs"])
@bp.input(PageQuery, location="query", arg_name="asked")
@bp.output(AttemptPage)
@auth.requires("jobs:read")
def list_attempts(job_id: UUID, asked: PageQuery) -> Response:
    """Return the attempts at a job, newest first; the newest hundred are kept."""
    purpose = f"attempts {job_id}"
    with transaction() as session:
        jobs.find_job(session, job_id, viewer())
        found, cursor = paging.page(
            purpose,
            asked,
            lambda before, limit: history.list_attempts(
                session, job_id, before=before, limit=limit
            ),
            lambda attempt: attempt.number,
        )
    items = [history.show_attempt(attempt) for attempt in found]
    return web.reply_page(AttemptPage, items, cursor)


@bp.get("/<uuid:job_id>/log")
@bp.doc(summary="Read a job's log", tags=["Jobs"])
@bp.input(LogQuery, location="query", arg_name="asked")
@bp.output(LinePage)
@auth.requires("jobs:read")
def list_lines(job_id: UUID, asked: LogQuery) -> Response:
    """Return what a job says of itself, oldest first; the newest 1,000 lines are kept."""
    purpose = f"log {job_id}"
    with transaction() as session:
        jobs.find_job(session, job_id, viewer())
        found, cursor = paging.page(
            purpose,
            asked,
            lambda after, limit: history.list_lines(
                session, job_id, after=after or 0, limit=limit
            ),
            lambda line: line.number,
        )
    items = [history.show_line(line) for line in found]
    return web.reply_page(LinePage, items, cursor)
