"""The jobs API as the pages use it."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.jobs import (
    AttemptPage,
    Job,
    JobPage,
    Kind,
    KindList,
    LinePage,
)

_LINES = 100
_ATTEMPTS = 10


class Jobs:
    """The jobs of the person whose token is given.

    Every method raises `Unreachable` when the jobs API does not answer and `Refused`
    when it says no.

    :param upload_seconds: longest time that handing a file over may take.
    """

    def __init__(self, http: Client, *, upload_seconds: float) -> None:
        self._http = http
        self._upload_seconds = upload_seconds

    def list_jobs(
        self,
        *,
        token: str,
        limit: int,
        state: str = "",
        kind: str = "",
        cursor: str = "",
    ) -> JobPage:
        """Return a page of jobs, newest first.

        :param state: only those in this state; empty for all.
        :param kind: only those of this kind; empty for all.
        """
        wanted = {"state": state, "kind": kind, "cursor": cursor}
        params: dict[str, Any] = {k: v for k, v in wanted.items() if v}
        answer = self._http.get(
            "/api/v1/jobs", params={**params, "limit": limit}, token=token
        )
        return JobPage.model_validate(answer.json())

    def list_kinds(self, *, token: str) -> list[Kind]:
        """Return every kind of job."""
        answer = self._http.get("/api/v1/jobs/kinds", token=token)
        return KindList.model_validate(answer.json()).items

    def find_job(self, job_id: str, *, token: str) -> Job:
        """Return one job, with its entity tag."""
        answer = self._http.get(_path(job_id), token=token)
        return Job.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def list_attempts(
        self, job_id: str, *, token: str, cursor: str = ""
    ) -> AttemptPage:
        """Return a page of the attempts at a job, newest first."""
        answer = self._http.get(
            f"{_path(job_id)}/attempts",
            params={"limit": _ATTEMPTS, **({"cursor": cursor} if cursor else {})},
            token=token,
        )
        return AttemptPage.model_validate(answer.json())

    def list_lines(self, job_id: str, *, token: str, cursor: str = "") -> LinePage:
        """Return a page of a job's log, oldest first."""
        answer = self._http.get(
            f"{_path(job_id)}/log",
            params={"limit": _LINES, **({"cursor": cursor} if cursor else {})},
            token=token,
        )
        return LinePage.model_validate(answer.json())

    def create_import(
        self,
        file: Path,
        *,
        name: str,
        params: dict[str, Any],
        key: str,
        token: str,
    ) -> Job:
        """Hand a supplier's file over and return the job that imports it.

        :param name: what the person's file was called.
        :param params: mapping, defaults and whether it is a dry run.
        :param key: the same for every attempt to submit the same form, which then makes
            one job.
        """
        with file.open("rb") as content:
            answer = self._http.post(
                "/api/v1/jobs",
                data={"kind": "import", "params": json.dumps(params)},
                files={"file": (name, content, "application/octet-stream")},
                idempotency_key=key,
                token=token,
                deadline_seconds=self._upload_seconds,
            )
        return Job.model_validate(answer.json())

    def create_export(self, params: dict[str, Any], *, key: str, token: str) -> Job:
        """Start an export of products and return its job.

        :param params: filters and format, as the kind takes them.
        :param key: the same for every attempt to submit the same form, which then makes
            one job.
        """
        # Parts without a file name: the API takes multipart/form-data alone.
        parts = {"kind": (None, "export"), "params": (None, json.dumps(params))}
        answer = self._http.post(
            "/api/v1/jobs", files=parts, idempotency_key=key, token=token
        )
        return Job.model_validate(answer.json())

    def cancel_job(self, job_id: str, *, token: str) -> None:
        """Ask a job to stop."""
        self._http.post(
            f"{_path(job_id)}/cancel",
            token=token,
            # A second cancellation changes nothing.
            idempotent=True,
        )

    def retry_job(self, job_id: str, *, token: str) -> None:
        """Queue a failed or cancelled job again."""
        self._http.post(f"{_path(job_id)}/retry", token=token)

    def delete_job(self, job_id: str, *, etag: str, token: str) -> None:
        """Forget a finished job and its files.

        :param etag: entity tag of the version that the person saw.
        """
        self._http.delete(_path(job_id), headers={"If-Match": etag}, token=token)


def _path(job_id: str) -> str:
    return f"/api/v1/jobs/{quote(job_id, safe='')}"
