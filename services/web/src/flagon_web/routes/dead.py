"""Dead letters: look at one, try it again or give it up."""

from functools import partial
from json import dumps
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Unreachable
from flagon_web.clients import backends
from flagon_web.domain.jobs import DEAD
from flagon_web.i18n import LazyText as _
from flagon_web.i18n import ngettext

from . import access, office

bp = Blueprint("dead", __name__, url_prefix="/back-office/dead-letters")
office.degrades(bp, _("Dead letters cannot be shown right now."), "dead.letters")

_PAGE_SIZE = 20
_MOST_REPLAYED = 500
_GONE = _("It is no dead letter any more: somebody was faster.")


@bp.get("")
@access.needs("jobs:manage")
def letters() -> ResponseReturnValue:
    """Show everybody's dead letters."""
    cursor, kind = request.args.get("after", ""), request.args.get("kind", "")[:64]
    api, token = backends(), access.token()
    found = api.gather(
        {
            "letters": lambda: api.dead.find_page(
                token=token, limit=_PAGE_SIZE, kind=kind, cursor=cursor
            ),
            "kinds": lambda: api.jobs.list_kinds(token=token),
        }
    )
    if found["letters"] is None:
        raise Unreachable("The jobs API does not answer.", retry_after_seconds=2)
    return render_template(
        "dead_letters.html", **found, cursor=cursor, kind=kind, most=_MOST_REPLAYED
    )


@bp.get("/<uuid:job_id>")
@access.needs("jobs:manage")
def letter(job_id: UUID) -> ResponseReturnValue:
    """Show what an operator needs to judge one."""
    found = backends().dead.find(str(job_id), token=access.token())
    params = dumps(found.params, indent=2, ensure_ascii=False)
    return render_template("dead_letter.html", job=found, params=params, reasons=DEAD)


@bp.post("/<uuid:job_id>/replay")
@access.needs("jobs:manage")
def replay_letter(job_id: UUID) -> ResponseReturnValue:
    """Queue one again and go on to its job."""
    again = partial(backends().dead.replay, str(job_id), token=access.token())
    if office.act(again, _("The job waits for its turn again."), gone=_GONE):
        return redirect(url_for("jobs.job", job_id=job_id), 303)
    return redirect(url_for("dead.letters"), 303)


@bp.post("/replay")
@access.needs("jobs:manage")
def replay_letters() -> ResponseReturnValue:
    """Queue the oldest ones again, all or those of one kind."""
    kind = request.form.get("kind", "")[:64]
    done = backends().dead.replay_all(
        kind=kind, limit=_MOST_REPLAYED, token=access.token()
    )
    told = [ngettext("%(num)s queued again.", "%(num)s queued again.", done.replayed)]
    if done.left:
        told.append(
            ngettext(
                "%(num)s is left: replay once more for it.",
                "%(num)s are left: replay once more for the next ones.",
                done.left,
            )
        )
    flash(" ".join(told), "success" if done.replayed else "info")
    return redirect(url_for("dead.letters", kind=kind or None), 303)


@bp.post("/<uuid:job_id>/discard")
@access.needs("jobs:manage")
def discard_letter(job_id: UUID) -> ResponseReturnValue:
    """Forget one, unless it changed since the person looked."""
    forget = partial(
        backends().dead.delete,
        str(job_id),
        etag=office.seen_etag(),
        token=access.token(),
    )
    office.act(forget, _("The job and its files are deleted."), gone=_GONE)
    return redirect(url_for("dead.letters"), 303)
