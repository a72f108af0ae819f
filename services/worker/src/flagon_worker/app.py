"""Where the worker is put together; the only place that sees everything."""

from collections.abc import Callable
from pathlib import Path

from flask import Flask

from flagon_chassis import db, events, health, logs, metrics, queue, sentry, tracing
from flagon_chassis.redis_queue import RedisQueue

from . import (
    cli,
    clients,
    egress,
    tasks,
    tasks_schedules,  # noqa: F401 (tasks register themselves)
    tasks_watches,  # noqa: F401 (tasks register themselves)
    tasks_webhooks,  # noqa: F401 (tasks register themselves)
    telemetry,
)
from .domain.sealing import Sealer
from .settings import EVENTS, SOURCE, Settings

NAME = "worker"


def create_app(settings: Settings | None = None) -> Flask:
    """Return the jobs API, ready to serve.

    :param settings: read from the environment when omitted, as gunicorn does.
    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    # Tokens, OpenAPI and limits: memory that processes without an API need not have.
    from flagon_chassis import auth, limits, metrics, web  # noqa: PLC0415

    from . import (  # noqa: PLC0415
        routes,
        routes_audit,
        routes_dead,
        routes_history,
        routes_profiles,
        routes_schedules,
        routes_watches,
        routes_webhooks,
    )

    settings = settings or Settings()
    app = web.create_app(
        __package__,
        settings,
        name=NAME,
        title="Flagon worker",
        description="Jobs that take longer than a request, and prices that people follow.",
    )
    app.request_class = routes.JobRequest
    auth.init_app(
        app,
        issuer=settings.public_url,
        jwks=settings.jwks_url,
        redis_url=settings.redis_store_url.get_secret_value(),
        all_need_tokens=True,
    )
    limits.init_app(app, settings)
    _fit(app, settings)
    app.register_blueprint(routes.bp)
    app.register_blueprint(routes_history.bp)
    app.register_blueprint(routes_dead.bp)
    app.register_blueprint(routes_audit.bp)
    app.register_blueprint(routes_schedules.bp)
    app.register_blueprint(routes_profiles.bp)
    app.register_blueprint(routes_watches.bp)
    app.register_blueprint(routes_webhooks.bp)
    app.extensions["flagon.products"] = clients.Products(settings)
    store = settings.redis_store_url.get_secret_value()
    elsewhere = [RedisQueue(store, NAME, name) for name in settings.rq_queues]
    metrics.before_scrape(
        app,
        lambda: telemetry.measure_queues(
            app.extensions["celery"], tasks.rules_of(settings), elsewhere
        ),
    )
    routes.complete_document(app)
    app.cli.add_command(cli.events)
    app.cli.add_command(cli.mail)
    return app


def create_tasks(settings: Settings | None = None) -> Flask:
    """Return the part that runs tasks and serves nothing.

    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    settings = settings or Settings()
    logs.configure(NAME, settings.log_level)
    sentry.init(settings, f"{NAME}-tasks")
    tracing.init(settings, NAME)
    metrics.say_build(settings, NAME)
    app = Flask(__package__)
    app.name = NAME
    app.extensions["flagon.settings"] = settings
    _fit(app, settings)
    telemetry.count_in_flight()
    return app


def _fit(app: Flask, settings: Settings) -> None:
    db.init_app(app, settings)
    events.init_app(app, SOURCE, EVENTS)
    queue.init_app(
        app,
        settings,
        soft_seconds=settings.soft_limit_seconds,
        hard_seconds=settings.hard_limit_seconds,
    )
    app.extensions["flagon.catalog"] = clients.Catalog(settings)
    app.extensions["flagon.identity"] = clients.Auth(settings)
    app.extensions["flagon.post"] = clients.post(settings)
    app.extensions["flagon.strangers"] = clients.Strangers(settings)
    app.extensions["flagon.hooks"] = egress.Hooks(settings)
    app.extensions["flagon.sealer"] = Sealer(settings.secret_key.get_secret_value())
    health.check(app, "files", _files_probe(settings.files_dir))


def _files_probe(folder: Path) -> Callable[[], object]:
    def probe() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".ready").touch()

    return probe
