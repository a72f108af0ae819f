"""Reports of the unexpected; off, and not even loaded, without a DSN.

A report says where to look and no more: the error, the release, the route or task, and the
ids by which logs and traces know the request (docs/adr/0097). The SDK's own integrations
copy a scope for each request, task and statement, whether or not something goes wrong.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

from structlog.contextvars import get_contextvars

from . import logs, tracing
from .errors import Failure
from .settings import ServiceSettings

if TYPE_CHECKING:
    from flask import Flask

_TAGS = ("request_id", "task", "task_id")
"""Of what log lines are tied to; who asked is not among them."""


def init(settings: ServiceSettings, service: str) -> bool:
    """Report unexpected errors of this process from now on; say whether that is on.

    Call it when the process starts, in Celery's parent, too: initialised in a pool
    child alone the SDK sends nothing.
    """
    dsn = settings.sentry_dsn.get_secret_value()
    if not dsn:
        return False
    import sentry_sdk  # noqa: PLC0415 (12 MB that only those who use it should pay)
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415 (as above)
    from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415 (as above)
    from sentry_sdk.integrations.excepthook import (  # noqa: PLC0415 (as above)
        ExcepthookIntegration,
    )
    from sentry_sdk.integrations.threading import (  # noqa: PLC0415 (as above)
        ThreadingIntegration,
    )

    sentry_sdk.init(
        dsn=dsn,
        environment=settings.environment,
        release=settings.release or None,
        server_name=service,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            AtexitIntegration(),
            DedupeIntegration(),
            ExcepthookIntegration(),
            ThreadingIntegration(propagate_scope=False),
        ],
        # OpenTelemetry traces.
        traces_sample_rate=None,
        auto_session_tracking=False,
        max_breadcrumbs=0,
        # Variables hold bodies, tokens and people's data.
        include_local_variables=False,
        before_send=_describe,
        shutdown_timeout=2,
    )
    sentry_sdk.set_tag("service", service)
    return True


def init_app(app: "Flask", settings: ServiceSettings, service: str) -> None:
    """Let the app report crashes; its error handler catches them before Sentry could."""
    if init(settings, service):
        app.extensions["flagon.report"] = report


def report(error: BaseException) -> None:
    """Report one error that was caught; does nothing where reporting is off."""
    # Importing the SDK only to learn that it is off would cost its memory.
    if "sentry_sdk" in sys.modules:
        sys.modules["sentry_sdk"].capture_exception(error)


def _describe(event: Any, hint: dict[str, Any]) -> Any:  # noqa: ANN401 (the SDK's types)
    """Say what was at hand, and nothing of people; drop expected failures.

    Called in the thread where it happened.
    """
    error = hint.get("exc_info", (None, None, None))[1]
    if isinstance(error, Failure):
        return None
    at_hand = get_contextvars()
    tags = event.setdefault("tags", {})
    tags.update({name: at_hand[name] for name in _TAGS if name in at_hand})
    traceparent = tracing.current_traceparent()
    if traceparent:
        _, trace_id, span_id, _ = traceparent.split("-")
        # Replaced: the SDK's own ids are known nowhere else.
        event["contexts"]["trace"] = {"trace_id": trace_id, "span_id": span_id}
    if "flask" in sys.modules:
        _add_request(event)
    for one in event.get("exception", {}).get("values", ()):
        one["value"] = json.loads(logs.hide(json.dumps(one.get("value"))))
    return event


def _add_request(event: Any) -> None:  # noqa: ANN401 (as above)
    from flask import has_request_context, request  # noqa: PLC0415 (relays have no Flask)

    if has_request_context():
        rule = request.url_rule.rule if request.url_rule else None
        event["transaction"] = f"{request.method} {rule}"
        event["transaction_info"] = {"source": "route"}
