"""Where the worker is put together; the only place that sees everything."""

from pathlib import Path

from flask import Flask

from flagon_chassis import auth, db, events, health, limits, queue, web

from . import cli, clients, routes, tasks
from .settings import Settings

EVENTS = Path(__file__).parent / "events"


def create_app(settings: Settings | None = None) -> Flask:
    """Return a worker app that is ready to serve, and to run tasks.

    :param settings: read from the environment when omitted, as gunicorn does.
    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    settings = settings or Settings()
    app = web.create_app(
        __package__,
        settings,
        name="worker",
        title="Flagon worker",
        description="Jobs that take longer than a request: imports and their reports.",
    )
    app.request_class = routes.JobRequest
    db.init_app(app, settings)
    auth.init_app(
        app,
        issuer=settings.public_url,
        jwks=settings.jwks_url,
        redis_url=settings.redis_store_url.get_secret_value(),
    )
    limits.init_app(app, settings)
    events.init_app(app, "/services/worker", EVENTS)
    celery = queue.init_app(
        app,
        settings,
        soft_seconds=settings.soft_limit_seconds,
        hard_seconds=settings.hard_limit_seconds,
    )
    celery.conf.beat_schedule = tasks.schedule(settings)
    app.extensions["flagon.catalog"] = clients.Catalog(settings)

    def files_writable() -> None:
        settings.files_dir.mkdir(parents=True, exist_ok=True)
        probe = settings.files_dir / ".ready"
        probe.touch()

    health.check(app, "files", files_writable)
    app.register_blueprint(routes.bp)
    routes.complete_document(app)
    app.cli.add_command(cli.events)
    return app
