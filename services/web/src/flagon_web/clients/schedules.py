"""The schedules API as the pages use it."""

from flagon_web.domain.schedules import Schedule, SchedulePage

from .resources import Resources


class Schedules(Resources[Schedule, SchedulePage]):
    """What happens again and again; pages of them are by name."""

    path = "/api/v1/schedules"
    one = Schedule
    page = SchedulePage

    def switch(self, schedule_id: str, *, on: bool, token: str) -> None:
        """Let a schedule rest or go on."""
        step = self._of(schedule_id, "resume" if on else "pause")
        # A second time changes nothing.
        self._http.post(step, token=token, idempotent=True)

    def run(self, schedule_id: str, *, key: str, token: str) -> None:
        """Run a schedule now, besides its times.

        :param key: the same for every attempt to send the same form.
        """
        self._http.post(self._of(schedule_id, "run"), idempotency_key=key, token=token)
