"""Jobs: what runs, how far it is and what came of it."""

from http import HTTPStatus
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused
from flagon_web.clients import backends

from . import access

bp = Blueprint("jobs", __name__, url_prefix="/jobs")

_PAGE_SIZE = 20


@bp.get("")
@access.needs("jobs:read")
def jobs() -> ResponseReturnValue:
    """Show the jobs of the person who is signed in; operators see everybody's."""
    cursor = request.args.get("after", "")
    page = backends().jobs.list_jobs(
        token=access.token(), limit=_PAGE_SIZE, cursor=cursor
    )
    return render_template("jobs.html", jobs=page, cursor=cursor)


@bp.get("/<uuid:job_id>")
@access.needs("jobs:read")
def job(job_id: UUID) -> ResponseReturnValue:
    """Show one job, live while it runs."""
    found = backends().jobs.find_job(str(job_id), token=access.token())
    return render_template("job.html", job=found)


@bp.post("/<uuid:job_id>/cancel")
@access.needs("jobs:read")
def cancel_job(job_id: UUID) -> ResponseReturnValue:
    """Ask a job to stop."""
    try:
        backends().jobs.cancel_job(str(job_id), token=access.token())
    except Refused as refused:
        if refused.status != HTTPStatus.CONFLICT:
            raise
        flash("The job had finished already.", "warning")
    else:
        flash("The job stops at its next step.", "success")
    return redirect(url_for("jobs.job", job_id=job_id), 303)
