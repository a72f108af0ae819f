"""How the platform's services are, by their own account."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

_LONGEST_ANSWER = 65_536


@dataclass(frozen=True)
class Service:
    """One service's readiness."""

    name: str
    status: str
    """`ready`, `draining`, `unavailable` or, without an answer, `down`."""
    ms: float
    """How long the answer took."""
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What it says about its own dependencies."""

    @property
    def ready(self) -> bool:
        """Whether it does its work."""
        return self.status == "ready"

    @property
    def looks(self) -> str:
        """`ready`, `degraded` or `down`, for the badge."""
        if self.ready:
            well = all(check.get("ok") for check in self.checks.values())
            return "ready" if well else "degraded"
        return "draining" if self.status == "draining" else "down"


class Readiness:
    """Asks services how they are.

    Not by the platform's HTTP client: a 503 is an answer here, and a probe that retried
    or was held back by a circuit breaker would say nothing about this moment.

    :param services: base URLs by name.
    :param gateway_url: base URL of the gateway, which has no dependencies; may be empty.
    """

    def __init__(
        self, services: Mapping[str, str], gateway_url: str, *, seconds: float
    ) -> None:
        self._urls = {name: f"{url}/readyz" for name, url in services.items()}
        if gateway_url:
            self._urls = {"gateway": f"{gateway_url}/healthz", **self._urls}
        self._seconds = seconds

    @property
    def names(self) -> list[str]:
        """The services that can be asked."""
        return list(self._urls)

    def ask(self, name: str) -> Service:
        """Return the readiness of one service; an answer that makes no sense is `down`."""
        started = time.perf_counter()
        try:
            code, body = self._fetch(self._urls[name])
            found = json.loads(body)
            checks = found.get("checks") or {}
            well = 200 <= code < 300  # noqa: PLR2004 (HTTP's own numbers)
            status = "ready" if well else str(found.get("status") or "unavailable")
        except (OSError, HTTPException, ValueError, AttributeError):
            checks, status = {}, "down"
        return Service(
            name, status, round((time.perf_counter() - started) * 1000, 1), checks
        )

    def _fetch(self, url: str) -> tuple[int, bytes]:
        parts = urlsplit(url)
        connection = HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=self._seconds
        )
        try:
            connection.request(
                "GET", parts.path, headers={"Accept": "application/json"}
            )
            answer = connection.getresponse()
            return answer.status, answer.read(_LONGEST_ANSWER)
        finally:
            connection.close()
