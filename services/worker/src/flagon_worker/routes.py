"""The jobs API: hand in, look, cancel, forget."""

import json
from typing import Any, cast
from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request, send_file, url_for
from pydantic import ValidationError
from uuid_utils.compat import uuid7
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

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

from . import telemetry
from .domain import audit, exports, files, jobs, profiles
from .domain.kinds import Kind, find_kind
from .models import Job
from .schemas import (
    PARAMS,
    SUBMISSION,
    JobPage,
    JobQuery,
    JobView,
    param_schemas,
    query_parameters,
)
from .settings import Settings

bp = APIBlueprint("jobs", __name__, url_prefix="/api/v1/jobs", tag="Jobs")

_FORM_BYTES = 1 << 20
_FIELDS = {"kind", "params"}


class JobRequest(web.StrictRequest):
    """A request whose uploaded file goes straight to where jobs have their files."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> Any:  # noqa: ANN401 (a writable file)
        """Return where the next file of the form is written to."""
        if self.endpoint != "jobs.submit_job":
            return super()._get_file_stream(
                total_content_length, content_type, filename, content_length
            )
        if hasattr(self, "incoming"):
            raise BadRequest("Send one file.")
        settings = _settings()
        self.incoming = files.Incoming(settings.files_dir, settings.upload_bytes)
        return self.incoming

    def close(self) -> None:
        """Forget a file that no job kept."""
        super().close()
        if hasattr(self, "incoming"):
            self.incoming.close()


def complete_document(app: APIFlask) -> None:
    """Add to the OpenAPI document what the framework cannot know."""
    chassis = app.spec_callback

    def complete(document: Any) -> Any:  # noqa: ANN401 (OpenAPI, as APIFlask gives it)
        paths = document["paths"]
        submit = paths[bp.url_prefix]["post"]
        submit["requestBody"] = SUBMISSION
        cancel = paths[f"{bp.url_prefix}/{{job_id}}/cancel"]["post"]
        for operation in (submit, cancel):
            operation["responses"]["202"]["content"] = {
                "application/json": {"schema": {"$ref": "#/components/schemas/JobView"}}
            }
        submit["responses"]["202"]["headers"] = {
            "Location": {
                "description": "Where it is from now on.",
                "schema": {"type": "string", "format": "uri-reference"},
            }
        }
        paths[bp.url_prefix]["get"]["parameters"] = query_parameters(JobQuery)
        artefact = paths[f"{bp.url_prefix}/{{job_id}}/artefacts/{{name}}"]["get"]
        artefact["responses"]["200"]["content"] = {
            "text/csv": {"schema": {"type": "string"}},
            **{kind: {"schema": {}} for kind in sorted(exports.BINARY_TYPES)},
        }
        document["components"]["schemas"].update(param_schemas())
        return chassis(document) if chassis else document

    app.spec_processor(complete)


class FormInvalid(Invalid):
    """The form is not complete or holds too much."""


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["flagon.settings"])


def viewer() -> jobs.Viewer:
    """Return who asks, and whether for everybody."""
    caller = auth.caller()
    return jobs.Viewer(caller.sub, manages="jobs:manage" in caller.scopes)


def show_job(job: Job, status: int = 200) -> Response:
    """Return a job as a response."""
    response = web.reply(JobView, jobs.show(job), status)
    # For one person's eyes, and to be asked for again: that is what the ETag is for.
    response.headers["Cache-Control"] = "private, no-cache"
    return response


@bp.post("")
@bp.doc(summary="Hand in a job", responses={202: "Accepted", 413: "Too large"})
@auth.requires("jobs:write")
def submit_job() -> Response:
    """Hand in a job: `kind`, `params` (JSON) and, where the kind takes one, `file`."""
    kind, params, name = _read_form()
    incoming: files.Incoming | None = getattr(request, "incoming", None)
    job_id = uuid7()
    settings = _settings()

    def respond() -> Response:
        upload = None
        if incoming is not None:
            upload = incoming.keep(files.folder_of(settings.files_dir, job_id), name)
        job = jobs.submit_job(
            session,
            job_id=job_id,
            kind=kind.name,
            queue=kind.queue,
            owner=auth.caller().sub,
            params=params,
            upload=upload,
            headers=_message_headers(),
            resend_seconds=settings.resend_seconds,
        )
        # What machines hand in by themselves is nobody's doing.
        if auth.caller().sub != auth.caller().client_id:
            audit.record(session, "created", job)
        response = show_job(job, 202)
        response.headers["Location"] = url_for("jobs.find_job", job_id=job.id)
        return response

    # The body went to disk: its digest stands for it.
    sent = [kind.name, params, name, incoming.sha256 if incoming else ""]
    try:
        with transaction() as session:
            return idempotency.once(
                session, respond, body=json.dumps(sent, sort_keys=True).encode()
            )
    # Raised again, also when the process is told to end: no row, no files.
    except BaseException:
        files.remove_files(settings.files_dir, job_id)
        raise


def _read_form() -> tuple[Kind, dict[str, Any], str]:
    """Receive the form and return kind, parameters and the file's name."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send the job as multipart/form-data.")
    request.max_content_length = _settings().upload_bytes + _FORM_BYTES
    form, sent = request.form, request.files
    unknown = sorted((set(form) - _FIELDS) | (set(sent) - {"file"}))
    repeated = sorted(name for name, values in form.lists() if len(values) > 1)
    if unknown or repeated:
        raise FormInvalid(
            "Send kind, params and file, each once.",
            errors=[
                {"pointer": f"#/{field}", "detail": "not known, or repeated"}
                for field in (unknown + repeated)[:20]
            ],
        )
    if "kind" not in form:
        raise FormInvalid(
            "Say which kind of job it is.",
            errors=[{"pointer": "#/kind", "detail": "is missing"}],
        )
    kind = find_kind(form["kind"])
    if kind.scope not in auth.caller().scopes:
        raise auth.ScopeMissing((kind.scope,), [kind.scope])
    if kind.takes_file is not ("file" in sent):
        said = "takes a file: send it as `file`" if kind.takes_file else "takes no file"
        raise FormInvalid(
            f"The kind {kind.name} {said}.",
            errors=[{"pointer": "#/file", "detail": said}],
        )
    name = (sent["file"].filename or "") if kind.takes_file else ""
    return kind, _read_params(kind, form.get("params", "{}")), name


def _read_params(kind: Kind, text: str) -> dict[str, Any]:
    try:
        given = current_app.json.loads(text)
    except ValueError as error:
        raise FormInvalid(
            "The field params is not usable JSON.",
            errors=[{"pointer": "#/params", "detail": str(error)[:200]}],
        ) from error
    if kind.name == "import" and isinstance(given, dict) and given.get("profile"):
        given = _with_profile(given)
    try:
        params = PARAMS[kind.name].model_validate(given)
    except ValidationError as error:
        raise FormInvalid(
            "The parameters are not right.",
            errors=[
                {**problem, "pointer": "#/params" + problem["pointer"][1:]}
                for problem in problems.field_errors(error)[:100]
            ],
        ) from error
    return params.model_dump(mode="json")


def _with_profile(given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of an import with those of the profile that they name."""
    try:
        with transaction() as session:
            profile = profiles.find_profile(
                session, auth.caller().sub, UUID(str(given["profile"]))
            )
    except (profiles.ProfileNotFound, ValueError) as error:
        raise FormInvalid(
            "There is no such import profile.",
            errors=[{"pointer": "#/params/profile", "detail": "there is none"}],
        ) from error
    return profiles.applied(profile, given)


def _message_headers() -> dict[str, str]:
    headers = {"request_id": logs.request_id()}
    tracing.inject(headers)
    return headers


@bp.get("")
@bp.doc(summary="List jobs, newest first")
@bp.output(JobPage)
@auth.requires("jobs:read")
def list_jobs() -> Response:
    """Return the caller's jobs; with `jobs:manage` everybody's."""
    asked = web.query(JobQuery)
    who = viewer()
    purpose = f"jobs {asked.state} {asked.kind} {who.manages or who.sub}"
    with transaction() as session:
        found, cursor = paging.page(
            purpose,
            asked,
            lambda before, limit: jobs.list_jobs(
                session,
                who,
                state=asked.state,
                kind=asked.kind,
                before=before and UUID(before),
                limit=limit,
            ),
            lambda job: str(job.id),
        )
    return web.reply_page(JobPage, [jobs.show(job) for job in found], cursor)


@bp.get("/<uuid:job_id>")
@bp.doc(summary="Show a job")
@bp.output(JobView)
@auth.requires("jobs:read")
def find_job(job_id: UUID) -> Response:
    """Return one job; with `If-None-Match` a 304 while nothing has changed."""
    with transaction() as session:
        job = jobs.find_job(session, job_id, viewer())
    return conditional.tagged(show_job(job), job.version)


@bp.post("/<uuid:job_id>/cancel")
@bp.doc(summary="Cancel a job", responses={202: "Cancelled, or about to be"})
@auth.requires("jobs:write")
def cancel_job(job_id: UUID) -> Response:
    """Cancel a job: one that waits at once, one that runs at its next step."""
    with transaction() as session:
        job = jobs.find_job(session, job_id, viewer(), lock=True)
        jobs.cancel_job(session, job)
        response = show_job(job, 202)
    if job.finished_at:
        telemetry.count_ended(job.kind, job.state)
    return response


@bp.delete("/<uuid:job_id>")
@bp.doc(summary="Forget a finished job", responses={204: "Gone"})
@auth.requires("jobs:write")
def delete_job(job_id: UUID) -> Response:
    """Forget a finished job and its files."""
    with transaction() as session:
        job = jobs.find_job(session, job_id, viewer(), lock=True)
        conditional.require_match(job.version)
        jobs.delete_job(session, job)
    files.remove_files(_settings().files_dir, job_id)
    return Response(status=204)


@bp.get("/<uuid:job_id>/artefacts/<name>")
@bp.doc(summary="Download a file that a job made", responses={200: "The file"})
@auth.requires("jobs:read")
def find_artefact(job_id: UUID, name: str) -> Response:
    """Send a file of the job as a download."""
    with transaction() as session:
        job = jobs.find_job(session, job_id, viewer())
    path = files.find_artefact(_settings().files_dir, job_id, name, job.artefacts)
    response = send_file(
        path,
        # A download, whatever the type: the content is somebody else's.
        mimetype=exports.media_type(name),
        as_attachment=True,
        download_name=name,
        conditional=True,
    )
    response.headers["Cache-Control"] = "private, no-cache"
    return response
