"""Prometheus as the operations page asks it: fixed questions, by this process alone."""

from typing import Generic, TypeVar

from pydantic import BaseModel

from flagon_chassis.http import Client, Unreachable
from flagon_web.domain.charts import Window
from flagon_web.domain.operations import Alert, Question, Sample, Track

from .sense import sense

T = TypeVar("T", bound=BaseModel)


class _Result(BaseModel, Generic[T]):
    result: list[T]


class _Alerts(BaseModel):
    alerts: list[Alert]


class _Answer(BaseModel, Generic[T]):
    data: T


class Prometheus:
    """Answers of Prometheus' HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/).

    Every method raises `Unreachable` when Prometheus does not answer, refuses, or says
    what makes no sense: a page then goes without.

    :param http: None where there is no Prometheus.
    :param seconds: after which Prometheus itself gives a question up.
    """

    def __init__(self, http: Client | None, *, seconds: float) -> None:
        self._http = http
        self._seconds = seconds

    @property
    def known(self) -> bool:
        """Whether there is one to ask."""
        return self._http is not None

    def tracks(self, question: Question, window: Window) -> list[Track]:
        """Return the answer to a question over time."""
        return self._ask(
            "/api/v1/query_range",
            _Answer[_Result[Track]],
            query=question.expr,
            start=f"{window.start:.3f}",
            end=f"{window.end:.3f}",
            step=f"{window.step:g}",
            timeout=f"{self._seconds:g}s",
        ).data.result

    def values(self, question: Question) -> dict[str, float]:
        """Return the present values, by what the question's label says.

        Of several copies of a process the worst one counts: the least value.
        """
        found = self._ask(
            "/api/v1/query",
            _Answer[_Result[Sample]],
            query=question.expr,
            timeout=f"{self._seconds:g}s",
        )
        values: dict[str, float] = {}
        for one in found.data.result:
            name = one.metric.get(question.by, "")
            values[name] = min(one.value[1], values.get(name, one.value[1]))
        return values

    def alerts(self) -> list[Alert]:
        """Return the alerts that fire or soon will, whether or not anybody is told."""
        return self._ask("/api/v1/alerts", _Answer[_Alerts]).data.alerts

    def _ask(self, path: str, kind: type[T], **params: str) -> T:
        if self._http is None:
            raise Unreachable("There is no Prometheus.", retry_after_seconds=60)
        with sense("Prometheus"):
            return kind.model_validate_json(self._http.get(path, params=params).content)
