"""Turn every error into application/problem+json (RFC 9457), or a page for people."""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, cast

import structlog
from apiflask import HTTPError
from flask import Flask, Response, current_app, request
from flask.json import dumps
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, RequestedRangeNotSatisfiable

from .errors import Failure, Invalid, Unavailable
from .logs import request_id

log = structlog.get_logger()

CONTENT_TYPE = "application/problem+json"

Page = Callable[[int, str, str], str]
"""Renders an error for people from the status, the title and the detail."""


class InvalidRequest(Invalid):
    """The request has fields that are missing, unknown or wrong."""


class DependencyDown(Unavailable):
    """A dependency of this service does not answer."""


def init_app(app: Flask, problems_url: str, page: Page | None = None) -> None:
    """Answer failures, invalid bodies, HTTP errors and crashes with one shape.

    :param problems_url: the document whose fragments explain the problem types.
    :param page: renders errors for people; programs (by `Accept` or path) get JSON.
    """
    app.extensions["flagon.problems"] = (problems_url, page)
    app.register_error_handler(Failure, _from_failure)
    app.register_error_handler(ValidationError, _from_validation)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(HTTPError, _from_apiflask)
    app.register_error_handler(Exception, _from_crash)


def problem(
    status: int,
    *,
    slug: str | None = None,
    title: str | None = None,
    detail: str = "",
    headers: Iterable[tuple[str, str]] = (),
    **members: object,
) -> Response:
    """Return one problem response.

    :param slug: names the type; without it the type is `about:blank`.
    :param members: RFC 9457 extension members, JSON values.
    """
    problems_url, page = current_app.extensions["flagon.problems"]
    title = title or HTTPStatus(status).phrase
    if page and _wants_page():
        response = Response(page(status, title, detail), status, mimetype="text/html")
    else:
        body = {
            "type": f"{problems_url}#{slug}" if slug else "about:blank",
            "title": title,
            "status": status,
            **({"detail": detail} if detail else {}),
            "instance": f"urn:request:{request_id()}",
            **members,
        }
        response = Response(dumps(body), status, content_type=CONTENT_TYPE)
    for name, value in headers:
        response.headers[name] = value
    # An error is true now and may not be in a second: no cache may keep it.
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def bare(status: int, detail: str) -> bytes:
    """Return the body of a problem for what never becomes a request of the app."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps(body).encode()


def _wants_page() -> bool:
    if request.path.startswith("/api/"):
        return False
    best = request.accept_mimetypes.best_match(
        ["application/json", "application/problem+json", "text/html"]
    )
    return best == "text/html"


def field_errors(error: ValidationError) -> list[dict[str, str]]:
    """Return what is wrong with each field: JSON pointer (RFC 6901) and sentence."""
    return [
        {
            "pointer": "#"
            + "".join(
                "/" + str(part).replace("~", "~0").replace("/", "~1")
                for part in item["loc"]
            ),
            "detail": item["msg"],
        }
        for item in error.errors(
            include_url=False, include_context=False, include_input=False
        )
    ]


def from_failure(failure: Failure) -> Response:
    """Return the problem response of one failure."""
    headers = []
    if failure.retry_after_seconds is not None:
        headers.append(("Retry-After", str(failure.retry_after_seconds)))
    challenge = getattr(failure, "challenge", None)
    if challenge:
        # RFC 9110 section 15.5.2 wants one in every 401; RFC 6750 in some 403 too.
        headers.append(("WWW-Authenticate", challenge))
    return problem(
        failure.status,
        slug=failure.slug(),
        title=failure.title(),
        detail=failure.detail,
        headers=headers,
        **failure.extra,
    )


def _from_failure(failure: Failure) -> Response:
    log.info("refused", problem=failure.slug(), status=failure.status)
    return from_failure(failure)


def _from_validation(error: ValidationError) -> Response:
    errors = field_errors(error)
    # A body with a million wrong items must not be answered with a million lines.
    shown = errors[:100]
    return _from_failure(
        InvalidRequest(f"{len(errors)} problem(s) in the request.", errors=shown)
    )


def _from_apiflask(error: HTTPError) -> Response:
    if isinstance(error.__cause__, ValidationError):
        return _from_validation(error.__cause__)
    headers = cast("Any", error.headers)
    return problem(
        error.status_code,
        detail=error.message or "",
        headers=headers.items() if isinstance(headers, dict) else headers,
    )


def _from_http(error: HTTPException) -> Response:
    status = error.code or 500
    original = error.get_response(request.environ)
    if status < HTTPStatus.BAD_REQUEST:
        return cast("Response", original)
    # The exception knows headers that belong to the status: Allow, Retry-After, …
    kept = [
        (name, value)
        for name, value in original.headers
        if name not in {"Content-Type", "Content-Length"}
    ]
    if isinstance(error, RequestedRangeNotSatisfiable):
        kept.append(("Accept-Ranges", "bytes"))
    return problem(status, detail=error.description or "", headers=kept)


def _from_crash(error: Exception) -> Response:
    if _is_outage(error):
        log.warning("dependency_down", error=type(error).__name__)
        return from_failure(
            DependencyDown(
                "The service cannot reach its data right now; try again shortly.",
                retry_after_seconds=2,
            )
        )
    # Sentry and the log get the whole story, the caller none of it.
    log.error("crash", exc_info=error)
    current_app.extensions.get("flagon.report", lambda _error: None)(error)
    return problem(500, detail="The request failed on our side and has been reported.")


def _is_outage(error: Exception) -> bool:
    """Say whether an exception means that Postgres or Redis does not answer.

    Told by name, so that a service without a database need not import its driver.
    """
    names = {f"{cls.__module__}.{cls.__name__}" for cls in type(error).__mro__}
    if names & {
        "flagon_chassis.buses.BusAway",
        "redis.exceptions.ConnectionError",
        "redis.exceptions.TimeoutError",
        "sqlalchemy.exc.TimeoutError",
    }:
        return True
    return "sqlalchemy.exc.DBAPIError" in names and (
        getattr(error, "connection_invalidated", False)
        or "sqlalchemy.exc.OperationalError" in names
    )
