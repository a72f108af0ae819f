"""The jobs API's dead letters as the pages use them."""

from flagon_web.domain.jobs import DeadLetter, JobPage, Replayed

from .resources import Resources


class DeadLetters(Resources[DeadLetter, JobPage]):
    """Jobs of everybody that nobody tries again by themselves.

    One that is found has its last attempts and the end of its log; deleting one deletes
    its files, too. Pages of them are newest first, and may be of one `kind`.
    """

    path = "/api/v1/jobs/dead"
    one = DeadLetter
    page = JobPage

    def replay(self, job_id: str, *, token: str) -> None:
        """Queue one again."""
        self._http.post(self._of(job_id, "replay"), token=token)

    def replay_all(self, *, kind: str, limit: int, token: str) -> Replayed:
        """Queue the oldest ones again.

        :param kind: only those of this kind; empty for all.
        :param limit: most of them.
        """
        answer = self._http.post(
            f"{self.path}/replay",
            json={"kind": kind or None, "limit": limit},
            token=token,
        )
        return Replayed.model_validate(answer.json())
