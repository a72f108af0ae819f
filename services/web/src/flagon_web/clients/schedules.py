"""The schedules API as the pages use it."""

from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.schedules import Schedule, SchedulePage

_API = "/api/v1/schedules"


class Schedules:
    """What happens again and again; for operators.

    Every method raises `Unreachable` when the jobs API does not answer and `Refused`
    when it says no.
    """

    def __init__(self, http: Client) -> None:
        self._http = http

    def list_schedules(
        self, *, token: str, limit: int, cursor: str = ""
    ) -> SchedulePage:
        """Return a page of schedules, by name."""
        answer = self._http.get(
            _API,
            params={"limit": limit, **({"cursor": cursor} if cursor else {})},
            token=token,
        )
        return SchedulePage.model_validate(answer.json())

    def find_schedule(self, schedule_id: str, *, token: str) -> Schedule:
        """Return one schedule, with its entity tag."""
        answer = self._http.get(_path(schedule_id), token=token)
        return Schedule.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def create_schedule(
        self, fields: dict[str, Any], *, key: str, token: str
    ) -> Schedule:
        """Make a schedule.

        :param key: the same for every attempt to send the same form, which then makes
            one schedule.
        """
        answer = self._http.post(_API, json=fields, idempotency_key=key, token=token)
        return Schedule.model_validate(answer.json())

    def change_schedule(
        self, schedule_id: str, changes: dict[str, Any], *, etag: str, token: str
    ) -> Schedule:
        """Change some fields, if the schedule is still the one that the person saw.

        :param etag: entity tag of the version that the person saw.
        """
        answer = self._http.patch(
            _path(schedule_id), json=changes, headers={"If-Match": etag}, token=token
        )
        return Schedule.model_validate(answer.json())

    def delete_schedule(self, schedule_id: str, *, etag: str, token: str) -> None:
        """Forget a schedule, if it is still the one that the person saw."""
        self._http.delete(_path(schedule_id), headers={"If-Match": etag}, token=token)

    def switch_schedule(self, schedule_id: str, *, on: bool, token: str) -> None:
        """Let a schedule rest or go on."""
        step = "resume" if on else "pause"
        # A second time changes nothing.
        self._http.post(f"{_path(schedule_id)}/{step}", token=token, idempotent=True)

    def run_schedule(self, schedule_id: str, *, key: str, token: str) -> None:
        """Run a schedule now, besides its times.

        :param key: the same for every attempt to send the same form.
        """
        self._http.post(f"{_path(schedule_id)}/run", idempotency_key=key, token=token)


def _path(schedule_id: str) -> str:
    return f"{_API}/{quote(schedule_id, safe='')}"
