"""How the platform is, for people and for programs."""

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from flask import Blueprint, current_app, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from flagon_chassis import health
from flagon_chassis.auth import open_route
from flagon_web.clients import backends
from flagon_web.clients.readiness import Service

bp = Blueprint("status", __name__)


@bp.get("/status")
@open_route
def status() -> ResponseReturnValue:
    """Show every service's readiness, with milliseconds; JSON by `Accept`."""
    services = services_now()
    ready = sum(service.ready for service in services)
    overall = "ready" if ready == len(services) else "degraded"
    if not any(service.ready for service in services[:-1]):
        overall = "down"
    wanted = request.accept_mimetypes.best_match(["text/html", "application/json"])
    if wanted == "application/json":
        answer = jsonify(
            status=overall,
            checked_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            services={
                service.name: {**asdict(service), "ready": service.ready}
                for service in services
            },
        )
        answer.headers["Cache-Control"] = "no-store"
        answer.vary.add("Accept")
        return answer
    page = render_template(
        "status.html", services=services, overall=overall, ready=ready
    )
    return page, 200, {"Vary": "Accept", "Cache-Control": "no-store"}


def services_now() -> list[Service]:
    """Return how every service is at this moment, this one last."""
    readiness = backends().readiness
    questions = {name: partial(readiness.ask, name) for name in readiness.names}
    return [*backends().gather(questions).values(), _ourselves()]


def _ourselves() -> Service:
    found = health.report(current_app.extensions["flagon.checks"])
    slowest = max((float(str(c["ms"])) for c in found.checks.values()), default=0.0)
    return Service("web", found.status, slowest, found.checks)
