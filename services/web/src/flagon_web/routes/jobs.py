"""Jobs: what runs, how far it is and what came of it."""

from functools import partial
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Unreachable
from flagon_web.clients import backends
from flagon_web.domain.jobs import STATES
from flagon_web.i18n import LazyText as _

from . import access, imports, office

bp = Blueprint("jobs", __name__, url_prefix="/jobs")
office.degrades(bp)

_PAGE_SIZE = 20


@bp.get("")
@access.needs("jobs:read")
def jobs() -> ResponseReturnValue:
    """Show the jobs of the person who is signed in; operators see everybody's."""
    cursor, kind = request.args.get("after", ""), request.args.get("kind", "")[:64]
    state = request.args.get("state", "")
    if state not in STATES:
        state = ""
    api, token = backends().jobs, access.token()
    found = backends().gather(
        {
            "jobs": lambda: api.list_jobs(
                token=token, limit=_PAGE_SIZE, state=state, kind=kind, cursor=cursor
            ),
            "kinds": lambda: api.list_kinds(token=token),
        }
    )
    if found["jobs"] is None:
        raise Unreachable("The jobs API does not answer.", retry_after_seconds=2)
    return render_template(
        "jobs.html", **found, cursor=cursor, kind=kind, state=state, states=STATES
    )


@bp.get("/<uuid:job_id>")
@access.needs("jobs:read")
def job(job_id: UUID) -> ResponseReturnValue:
    """Show one job with its attempts and its log, live while it runs."""
    api, name, token = backends().jobs, str(job_id), access.token()
    earlier = request.args.get("attempts", "")
    after = request.args.get("lines", "")
    found = backends().gather(
        {
            "job": partial(api.find_job, name, token=token),
            "attempts": partial(api.list_attempts, name, token=token, cursor=earlier),
            "lines": partial(api.list_lines, name, token=token, cursor=after),
        }
    )
    if found["job"] is None:
        raise Unreachable("The jobs API does not answer.", retry_after_seconds=2)
    can_run = imports.can_run(found["job"])
    return render_template(
        "job.html", **found, earlier=earlier, after=after, can_run=can_run
    )


@bp.post("/<uuid:job_id>/cancel")
@access.needs("jobs:write")
def cancel_job(job_id: UUID) -> ResponseReturnValue:
    """Ask a job to stop."""
    stop = partial(backends().jobs.cancel_job, str(job_id), token=access.token())
    office.act(stop, _("The job stops at its next step."))
    return redirect(url_for("jobs.job", job_id=job_id), 303)


@bp.post("/<uuid:job_id>/retry")
@access.needs("jobs:write")
def retry_job(job_id: UUID) -> ResponseReturnValue:
    """Queue a failed or cancelled job again."""
    again = partial(backends().jobs.retry_job, str(job_id), token=access.token())
    office.act(again, _("The job waits for its turn again."))
    return redirect(url_for("jobs.job", job_id=job_id), 303)


@bp.post("/<uuid:job_id>/delete")
@access.needs("jobs:write")
def delete_job(job_id: UUID) -> ResponseReturnValue:
    """Forget a finished job, unless it changed since the person looked."""
    forget = partial(
        backends().jobs.delete_job,
        str(job_id),
        etag=office.seen_etag(),
        token=access.token(),
    )
    if office.act(forget, _("The job and its files are deleted.")):
        return redirect(url_for("jobs.jobs"), 303)
    return redirect(url_for("jobs.job", job_id=job_id), 303)
