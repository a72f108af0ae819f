"""Reports of the unexpected; off, and not even loaded, without a DSN."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import Failure
from .settings import ServiceSettings

if TYPE_CHECKING:
    from flask import Flask
    from sentry_sdk.integrations import Integration


_LIBRARIES = {
    "celery": "CeleryIntegration",
    "flask": "FlaskIntegration",
    "httpx2": "Httpx2Integration",
    "redis": "RedisIntegration",
    "sqlalchemy": "SqlalchemyIntegration",
}
"""What the SDK looks into, where the process has it. Left to itself it loads each library
that it knows and that is installed: RQ as well, which must not be before its prefix is
said (`redis_queue`)."""


def init(
    settings: ServiceSettings, service: str, *, release: str | None = None
) -> bool:
    """Report unexpected errors of this process from now on; say whether that is on.

    Call it when the process starts, in Celery's parent, too: initialised in a pool
    child alone the SDK sends nothing.
    """
    dsn = settings.sentry_dsn.get_secret_value()
    if not dsn:
        return False
    import sentry_sdk  # noqa: PLC0415 (12 MB that only those who use it should pay)
    from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: PLC0415

    integrations: list[Integration] = [
        # Log lines become breadcrumbs; an error is reported once, where it is caught.
        LoggingIntegration(event_level=None)
    ]
    if settings.traces != "none":
        from sentry_sdk.integrations.otlp import OTLPIntegration  # noqa: PLC0415

        # Ties reports to our own traces; neither sends spans nor changes headers.
        integrations.append(
            OTLPIntegration(setup_otlp_traces_exporter=False, setup_propagator=False)
        )
    integrations += [
        getattr(import_module(f"sentry_sdk.integrations.{library}"), name)()
        for library, name in _LIBRARIES.items()
        if library in sys.modules
    ]
    sentry_sdk.init(
        dsn=dsn,
        environment=settings.environment,
        release=release,
        server_name=service,
        integrations=integrations,
        auto_enabling_integrations=False,
        # OpenTelemetry traces; with 0 instead of None the trace id would differ.
        traces_sample_rate=None,
        auto_session_tracking=False,
        # Variables hold bodies, tokens and people's data.
        include_local_variables=False,
        max_request_body_size="never",
        before_send=_unexpected,
        shutdown_timeout=2,
    )
    sentry_sdk.set_tag("service", service)
    return True


def init_app(app: "Flask", settings: ServiceSettings, service: str) -> None:
    """Let the app report crashes; its error handler catches them before Sentry could."""
    if not init(settings, service):
        return
    import sentry_sdk  # noqa: PLC0415

    app.extensions["flagon.report"] = sentry_sdk.capture_exception


def report(error: BaseException) -> None:
    """Report one error that was caught; does nothing where reporting is off."""
    # Importing the SDK only to learn that it is off would cost its memory.
    if "sentry_sdk" in sys.modules:
        sys.modules["sentry_sdk"].capture_exception(error)


def _unexpected(event: Any, hint: dict[str, Any]) -> Any:  # noqa: ANN401 (the SDK's types)
    """Drop expected failures, which are answers, and what queries tell about people."""
    error = hint.get("exc_info", (None, None, None))[1]
    if isinstance(error, Failure):
        return None
    event.get("request", {}).pop("query_string", None)
    return event
