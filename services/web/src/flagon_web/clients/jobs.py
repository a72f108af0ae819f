"""The jobs API as the pages use it."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.jobs import Job, JobPage


class Jobs:
    """The jobs of the person whose token is given.

    Every method raises `Unreachable` when the jobs API does not answer and `Refused`
    when it says no.

    :param upload_seconds: longest time that handing a file over may take.
    """

    def __init__(self, http: Client, *, upload_seconds: float) -> None:
        self._http = http
        self._upload_seconds = upload_seconds

    def list_jobs(self, *, token: str, limit: int, cursor: str = "") -> JobPage:
        """Return a page of jobs, newest first."""
        params: dict[str, Any] = {"limit": limit}
        if cursor:
            params["cursor"] = cursor
        answer = self._http.get("/api/v1/jobs", params=params, token=token)
        return JobPage.model_validate(answer.json())

    def find_job(self, job_id: str, *, token: str) -> Job:
        """Return one job."""
        answer = self._http.get(f"/api/v1/jobs/{quote(job_id, safe='')}", token=token)
        return Job.model_validate(answer.json())

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

    def cancel_job(self, job_id: str, *, token: str) -> None:
        """Ask a job to stop."""
        self._http.post(
            f"/api/v1/jobs/{quote(job_id, safe='')}/cancel",
            token=token,
            # A second cancellation changes nothing.
            idempotent=True,
        )
