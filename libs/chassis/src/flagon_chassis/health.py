"""`/livez` says that the process lives, `/readyz` whether it can do its work."""

import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask, Response

Check = Callable[[], object]
"""Raises when the dependency does not answer; should give up within a second or two."""

# One byte that a gunicorn master and its workers share: 1 once the master got SIGTERM.
# Anonymous shared memory is inherited by fork, with and without preloading.
_draining = mmap.mmap(-1, struct.calcsize("B"))


@dataclass(frozen=True)
class Report:
    """The readiness of one process."""

    status: str
    """`ready`, `draining` or `unavailable`."""
    checks: dict[str, dict[str, object]] = field(default_factory=dict)
    """Per dependency: `ok`, `required`, `ms` and, when it failed, `error` (a class name)."""

    @property
    def ready(self) -> bool:
        """Say whether traffic may be sent here."""
        return self.status == "ready"


def drain() -> None:
    """Make `/readyz` of this process and its forks fail from now on."""
    _draining[0] = 1


def draining() -> bool:
    """Say whether this process is about to stop."""
    return _draining[0] == 1


def reset() -> None:
    """Take `drain` back; for a fresh server and for tests."""
    _draining[0] = 0


def check(app: "Flask", name: str, probe: Check, *, required: bool = True) -> None:
    """Add a dependency to the app's `/readyz`.

    :param required: whether the service is of no use without it.
    """
    app.extensions.setdefault("flagon.checks", {})[name] = (probe, required)


def report(checks: dict[str, tuple[Check, bool]]) -> Report:
    """Ask every dependency and return what they said.

    :param checks: by name, the probe and whether it is required.
    """
    results: dict[str, dict[str, object]] = {}
    healthy = True
    for name, (probe, required) in checks.items():
        started = time.perf_counter()
        failure = None
        try:
            probe()
        # Whatever a driver raises means down, and is shown: a probe that raises would hide
        # the state of all others.
        except Exception as error:  # noqa: BLE001
            failure = type(error).__name__
            healthy = healthy and not required
        results[name] = {
            "ok": failure is None,
            "required": required,
            "ms": round((time.perf_counter() - started) * 1000, 2),
            **({"error": failure} if failure else {}),
        }
    status = "draining" if draining() else "ready" if healthy else "unavailable"
    return Report(status, results)


def init_app(app: "Flask") -> None:
    """Serve `/livez` and `/readyz`; the gateway hides them from outside."""
    # Relays have no Flask in memory.
    from flask import current_app, jsonify  # noqa: PLC0415

    from .auth import open_route  # noqa: PLC0415

    app.extensions.setdefault("flagon.checks", {})

    @app.get("/livez")
    @open_route
    def livez() -> "Response":
        return jsonify(status="alive", pid=os.getpid())

    @app.get("/readyz")
    @open_route
    def readyz() -> "tuple[Response, int]":
        found = report(current_app.extensions["flagon.checks"])
        body = jsonify(status=found.status, checks=found.checks)
        body.headers["Cache-Control"] = "no-store"
        return body, 200 if found.ready else 503
