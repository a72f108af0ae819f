"""Dead letters as operators see them: list, inspect, replay, discard."""

from typing import cast
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app

from flagon_chassis import auth, conditional, paging, web
from flagon_chassis.db import transaction

from .domain import dead, files, history, jobs
from .history_schemas import DeadQuery, DeadView, Replay, Replayed
from .routes import show_job
from .schemas import JobPage, JobView
from .settings import Settings

bp = APIBlueprint("dead_letters", __name__, url_prefix="/api/v1/jobs/dead")

_PRIVATE = {"Cache-Control": "private, no-cache"}
_LAST_ATTEMPTS = 10
_LAST_LINES = 20


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["flagon.settings"])


@bp.get("")
@bp.doc(summary="List dead letters", tags=["Jobs"])
@bp.input(DeadQuery, location="query", arg_name="asked")
@bp.output(JobPage)
@auth.requires("jobs:manage")
def list_dead(asked: DeadQuery) -> Response:
    """Return everybody's dead letters, newest first."""
    purpose = f"dead {asked.kind}"
    with transaction() as session:
        found, cursor = paging.page(
            purpose,
            asked,
            lambda before, limit: dead.list_dead(
                session, kind=asked.kind, before=before and UUID(before), limit=limit
            ),
            lambda job: str(job.id),
        )
    return web.reply_page(JobPage, [jobs.show(job) for job in found], cursor)


@bp.get("/<uuid:job_id>")
@bp.doc(summary="Inspect a dead letter", tags=["Jobs"])
@bp.output(DeadView)
@auth.requires("jobs:manage")
def find_dead(job_id: UUID) -> Response:
    """Return a dead letter with its last attempts and the end of its log."""
    with transaction() as session:
        job = dead.find_dead(session, job_id)
        attempts = history.list_attempts(
            session, job_id, before=None, limit=_LAST_ATTEMPTS
        )
        lines = history.list_lines(
            session, job_id, after=job.log_lines - _LAST_LINES, limit=_LAST_LINES
        )
    shown = {
        **jobs.show(job),
        "last_attempts": [history.show_attempt(attempt) for attempt in attempts],
        "last_lines": [history.show_line(line) for line in lines],
    }
    response = web.reply(DeadView, shown, headers=_PRIVATE)
    return conditional.tagged(response, job.version)


@bp.post("/<uuid:job_id>/replay")
@bp.doc(summary="Replay a dead letter", tags=["Jobs"])
@bp.output(JobView, status_code=202)
@auth.requires("jobs:manage")
def replay_dead(job_id: UUID) -> Response:
    """Queue a dead letter again under its id."""
    with transaction() as session:
        job = dead.find_dead(session, job_id, lock=True)
        dead.replay(session, job, resend_seconds=_settings().resend_seconds)
        return show_job(job, 202)


@bp.post("/replay")
@bp.doc(summary="Replay many dead letters", tags=["Jobs"])
@bp.input(Replay, location="json", arg_name="asked")
@bp.output(Replayed, status_code=202)
@auth.requires("jobs:manage")
def replay_all(asked: Replay) -> Response:
    """Queue the oldest dead letters again, all or those of one kind, up to a limit."""
    with transaction() as session:
        replayed, left = dead.replay_all(
            session,
            kind=asked.kind,
            limit=asked.limit,
            resend_seconds=_settings().resend_seconds,
        )
    return web.reply(Replayed, {"replayed": replayed, "left": left}, 202)


@bp.delete("/<uuid:job_id>")
@bp.doc(summary="Discard a dead letter", tags=["Jobs"], responses={204: "Gone"})
@auth.requires("jobs:manage")
def discard_dead(job_id: UUID) -> Response:
    """Forget a dead letter and its files, for its owner as well; needs `If-Match`."""
    with transaction() as session:
        job = dead.find_dead(session, job_id, lock=True)
        conditional.require_match(job.version)
        jobs.delete_job(session, job)
    files.remove_files(_settings().files_dir, job_id)
    return Response(status=204)
