"""The jobs API's dead letters as the pages use them."""

from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.jobs import DeadLetter, JobPage, Replayed

_API = "/api/v1/jobs/dead"


class DeadLetters:
    """Jobs of everybody that nobody tries again by themselves; for operators.

    Every method raises `Unreachable` when the jobs API does not answer and `Refused`
    when it says no.
    """

    def __init__(self, http: Client) -> None:
        self._http = http

    def list_dead(
        self, *, token: str, limit: int, kind: str = "", cursor: str = ""
    ) -> JobPage:
        """Return a page of dead letters, newest first.

        :param kind: only those of this kind; empty for all.
        """
        wanted = {"kind": kind, "cursor": cursor}
        params: dict[str, Any] = {k: v for k, v in wanted.items() if v}
        answer = self._http.get(_API, params={**params, "limit": limit}, token=token)
        return JobPage.model_validate(answer.json())

    def find_dead(self, job_id: str, *, token: str) -> DeadLetter:
        """Return one with its last attempts and the end of its log."""
        answer = self._http.get(_path(job_id), token=token)
        return DeadLetter.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def replay_dead(self, job_id: str, *, token: str) -> None:
        """Queue one again."""
        self._http.post(f"{_path(job_id)}/replay", token=token)

    def replay_all(self, *, kind: str, limit: int, token: str) -> Replayed:
        """Queue the oldest ones again.

        :param kind: only those of this kind; empty for all.
        :param limit: most of them.
        """
        answer = self._http.post(
            f"{_API}/replay", json={"kind": kind or None, "limit": limit}, token=token
        )
        return Replayed.model_validate(answer.json())

    def discard_dead(self, job_id: str, *, etag: str, token: str) -> None:
        """Forget one and its files.

        :param etag: entity tag of the version that the person saw.
        """
        self._http.delete(_path(job_id), headers={"If-Match": etag}, token=token)


def _path(job_id: str) -> str:
    return f"{_API}/{quote(job_id, safe='')}"
