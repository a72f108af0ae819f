"""The other machines the worker talks to."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any, cast

from celery import Celery

from flagon_chassis import http

from .domain import imports, leases
from .domain.mapping import Item
from .settings import Settings

# Refusals that pass: a token that is about to be replaced, an operator who has yet to
# give the right, a twin of this very batch whose worker was thought dead.
_PASSING = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class Catalog:
    """The catalog service, as the import needs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _http(self) -> http.Client:
        # Made at the first use, in the process that uses it: connections do not survive
        # a fork.
        return http.Client(
            self._settings.catalog_url,
            self._settings,
            name="catalog",
            scope="catalog:write catalog:read" if self._settings.token_url else None,
            deadline_seconds=self._settings.catalog_seconds,
            retries=3,
        )

    def close(self) -> None:
        """Close the connections."""
        if "_http" in vars(self):
            self._http.close()

    def upsert(self, items: Sequence[Item], *, key: str) -> list[imports.ItemResult]:
        """Create or change products by SKU; a second call with the key does nothing.

        :raises leases.Trouble: the catalog (or auth, for the token) does not answer.
        :raises imports.BatchRefused: the catalog does not understand the batch.
        """
        try:
            answer = self._http.post(
                "/api/v1/products/bulk",
                json={"items": items},
                idempotency_key=key,
            )
        except http.Unreachable as error:
            raise leases.Trouble(str(error)) from error
        except http.Refused as refusal:
            reason = _reason(refusal.problem) or f"status {refusal.status}"
            if refusal.status in _PASSING:
                raise leases.Trouble(f"The catalog refused: {reason}") from refusal
            raise imports.BatchRefused(reason) from refusal
        return [_result(found) for found in answer.json()["results"]]


def _result(found: Mapping[str, Any]) -> imports.ItemResult:
    return imports.ItemResult(found["outcome"], _sentences(found.get("errors") or ()))


def _sentences(errors: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(
        f"{str(error.get('pointer', '')).lstrip('#/')}: {error.get('detail', '')}"
        for error in errors
    )


def _reason(problem: Mapping[str, Any]) -> str:
    said = [str(problem.get("detail") or problem.get("title") or "")]
    errors = problem.get("errors")
    if isinstance(errors, list):
        said.append(_sentences([found for found in errors if isinstance(found, dict)]))
    return " ".join(filter(None, said))[:500]


def queue_depths(celery: Celery, queues: Sequence[str]) -> dict[str, int]:
    """Return how many messages wait in each queue of the broker.

    :raises kombu.exceptions.OperationalError: the broker does not answer.
    """
    with celery.connection_for_read() as connection:
        client = cast("Any", connection.default_channel).client
        return {queue: client.execute_command("LLEN", queue) for queue in queues}
