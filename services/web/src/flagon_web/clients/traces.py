"""The sink of traces as the page of one request asks it."""

from http import HTTPStatus

from pydantic import BaseModel

from flagon_chassis.http import Client, Refused, Unreachable
from flagon_web.domain.waterfall import Trace

from .sense import sense


class _Answer(BaseModel):
    traces: list[Trace]


class Traces:
    """Traces that were kept lately.

    :param http: None where there is no sink.
    """

    def __init__(self, http: Client | None) -> None:
        self._http = http

    @property
    def known(self) -> bool:
        """Whether there is a sink to ask."""
        return self._http is not None

    def find(self, wanted: str) -> list[Trace]:
        """Return the traces of a request id, or the one with a trace id.

        :param wanted: letters, digits, points, dashes and underscores alone.
        :raises Unreachable: the sink does not answer, or says what makes no sense.
        """
        if self._http is None:
            raise Unreachable("There is no sink of traces.", retry_after_seconds=60)
        with sense("The sink of traces"):
            try:
                answer = self._http.get(f"/traces/{wanted}")
            except Refused as refused:
                if refused.status == HTTPStatus.NOT_FOUND:
                    return []
                raise
            return _Answer.model_validate_json(answer.content).traces
