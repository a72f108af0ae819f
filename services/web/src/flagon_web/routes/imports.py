"""Importing a supplier's file, in two steps that need no script."""

import re
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from json import dumps
from pathlib import PurePath
from typing import Any
from uuid import UUID

from flask import (
    Blueprint,
    flash,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue

from flagon_chassis.errors import Failure
from flagon_chassis.http import Refused
from flagon_web.clients import backends
from flagon_web.clients.spool import UploadGone
from flagon_web.domain import imports
from flagon_web.domain.jobs import Job
from flagon_web.forms import Mapping, Upload, first_error
from flagon_web.i18n import gettext as _

from . import access, office

bp = Blueprint("imports", __name__, url_prefix="/import")

_LONGEST_NAME = 100


@bp.get("")
@access.needs("jobs:write")
def choose_file() -> ResponseReturnValue:
    """Show the form for the file, and the mappings that the person keeps."""
    api, token = backends(), access.token()
    found = api.gather({"kept": partial(api.profiles.find_all, token=token)})
    return render_template("import_file.html", form=Upload(), kept=found["kept"])


@bp.post("")
@access.needs("jobs:write")
def upload_file() -> ResponseReturnValue:
    """Keep the file and go on to its columns; a file without columns comes back."""
    form = Upload()
    if not form.validate_on_submit():
        return _file_refused(form, first_error(form))
    file, spool = form.file.data, backends().spool
    ticket = spool.keep(file.stream)
    try:
        _read_table(ticket)
    except imports.FileUnreadable as failure:
        spool.drop(ticket)
        return _file_refused(form, failure.detail)
    # A person has one upload at a time; the last one counts.
    spool.drop(session.get("upload", {}).get("ticket", ""))
    session["upload"] = {"ticket": ticket, "name": _plain_name(file.filename)}
    return redirect(url_for("imports.choose_columns"), 303)


def _file_refused(form: Upload, why: str) -> ResponseReturnValue:
    return render_template("import_file.html", form=form, why=why), 422


@bp.get("/columns")
@access.needs("jobs:write")
def choose_columns() -> ResponseReturnValue:
    """Show the columns as a mapping that fits has them, else with a suggestion for each."""
    table = _uploaded()
    fitting = _fitting(table)
    wanted = request.args.get("profile", fitting[0].id if fitting else "")
    used = next((one for one in fitting if one.id == wanted), None)
    if used is None:
        return _columns_page(table, _suggested(table), fitting=fitting)
    form = Mapping(
        formdata=None,
        targets=used.chosen(table.columns),
        keep_as=used.name,
        **vars(used.given()),
    )
    return _columns_page(table, form, fitting=fitting, used=used.id)


def _fitting(table: imports.Table) -> list[imports.Profile]:
    """Return the mappings for this file that the form can show."""
    api, token = backends(), access.token()
    ask = partial(api.profiles.find_fitting, table.columns, token=token)
    return [one for one in api.gather({"fitting": ask})["fitting"] or () if one.plain]


def _suggested(table: imports.Table) -> Mapping:
    suggested = imports.suggest(table)
    return Mapping(
        formdata=None,
        targets=[suggested[column] for column in table.columns],
        currency="EUR",
    )


@bp.post("/columns")
@access.needs("jobs:write")
def create_import() -> ResponseReturnValue:
    """Hand the file to the jobs API and go on to the job's page."""
    table, form = _uploaded(), Mapping()
    if len(form.targets) != len(table.columns):
        # Another file was uploaded since, in another tab.
        return _columns_page(
            table, _suggested(table), _("The form does not fit the file. Look again.")
        )
    if not form.validate_on_submit():
        return _columns_page(table, form, first_error(form))
    chosen = dict(zip(table.columns, form.targets.data, strict=True))
    defaults = imports.Defaults(
        price=form.price.data or "",
        currency=form.currency.data,
        stock=form.stock.data,
        category=imports.slug(form.category.data or ""),
    )
    try:
        params = imports.params(chosen, defaults, dry_run=form.dry_run.data)
        _keep(form, params)
        job = _hand_over(params)
    except Refused as refused:
        if refused.status not in {400, 409, 412, 413, 415, 422}:
            raise
        return _columns_page(table, form, refused.detail)
    except Failure as failure:
        if failure.status >= 500:  # noqa: PLR2004 (HTTP's own number)
            raise
        return _columns_page(table, form, failure.detail)
    return redirect(url_for("jobs.job", job_id=job.id), 303)


def _hand_over(params: dict[str, Any]) -> Job:
    """Make the job; what was only checked is kept, so that it can be run."""
    upload, api = session["upload"], backends()
    job = api.jobs.create_import(
        api.spool.path(upload["ticket"]),
        name=upload["name"],
        params=params,
        key=sha256(f"{upload['ticket']}{dumps(params)}".encode()).hexdigest(),
        token=access.token(),
    )
    if params["dry_run"]:
        session["upload"] = {**upload, "checked": job.id}
    else:
        api.spool.drop(upload["ticket"])
        session.pop("upload")
    return job


def can_run(job: Job) -> bool:
    """Say whether a job has checked a file that is still here to be imported."""
    upload = session.get("upload", {})
    if job.state != "succeeded" or upload.get("checked") != job.id:
        return False
    return backends().spool.holds(upload["ticket"])


@bp.post("/run/<uuid:job_id>")
@access.needs("jobs:write")
def run_import(job_id: UUID) -> ResponseReturnValue:
    """Import what a dry run has checked: the same file, read in the same way."""
    checked = backends().jobs.find_job(str(job_id), token=access.token())
    if not can_run(checked):
        flash(_("The file that was checked is not kept any more."), "warning")
        return redirect(url_for("imports.choose_file"), 303)
    job = _hand_over({**checked.params, "dry_run": False})
    return redirect(url_for("jobs.job", job_id=job.id), 303)


def _keep(form: Mapping, params: dict[str, Any]) -> None:
    """Keep what the columns mean, where the person gave a name for it."""
    name = (form.keep_as.data or "").strip()
    if not name:
        return
    kept = {"name": name, **{part: params[part] for part in ("mapping", "defaults")}}
    key = office.key_with(session["upload"]["ticket"], kept)
    backends().profiles.keep(kept, key=key, token=access.token())


@bp.post("/profiles/<uuid:profile_id>/delete")
@access.needs("jobs:write")
def delete_profile(profile_id: UUID) -> ResponseReturnValue:
    """Forget a mapping."""
    forget = partial(backends().profiles.forget, str(profile_id), token=access.token())
    office.act(forget, _("The mapping is deleted."), gone=_("It is gone already."))
    return redirect(url_for("imports.choose_file"), 303)


def _uploaded() -> imports.Table:
    ticket = session.get("upload", {}).get("ticket", "")
    return _read_table(ticket)


def _read_table(ticket: str) -> imports.Table:
    path = backends().spool.path(ticket)
    with path.open("rb") as file:
        head = file.read(imports.HEAD_BYTES)
    return imports.read_table(head, complete=path.stat().st_size <= imports.HEAD_BYTES)


def _columns_page(
    table: imports.Table,
    form: Mapping,
    why: str = "",
    *,
    fitting: Sequence[imports.Profile] = (),
    used: str = "",
) -> ResponseReturnValue:
    page = render_template(
        "import_columns.html",
        table=table,
        form=form,
        why=why,
        fitting=fitting,
        used=used,
        name=session["upload"]["name"],
        required=("sku", "name"),
    )
    return page, 422 if why else 200


def _plain_name(name: str | None) -> str:
    last = PurePath((name or "").replace("\\", "/")).name
    return re.sub(r"[\x00-\x1f\x7f\"]", "", last)[-_LONGEST_NAME:] or "file.csv"


@bp.errorhandler(UploadGone)
def upload_gone(failure: UploadGone) -> ResponseReturnValue:
    """Begin again: the file waited too long, or never came."""
    del failure
    return redirect(url_for("imports.choose_file"), 303)
