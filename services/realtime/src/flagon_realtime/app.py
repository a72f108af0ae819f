"""Where realtime is put together; the only place that sees everything."""

from flask import Flask

from flagon_chassis import auth, health, limits, web

from . import routes, routes_presence
from .settings import Settings
from .station import Station


def create_app(settings: Settings | None = None) -> Flask:
    """Return a realtime app that is ready to serve.

    :param settings: read from the environment when omitted, as gunicorn does.
    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    settings = settings or Settings()
    app = web.create_app(
        __package__,
        settings,
        name="realtime",
        title="Flagon realtime",
        description="The platform's events as they happen, as server-sent events.",
    )
    auth.init_app(
        app,
        issuer=settings.public_url,
        jwks=settings.jwks_url,
        redis_url=settings.redis_store_url.get_secret_value(),
        all_need_tokens=True,
    )
    limiter = limits.init_app(app, settings)
    station = app.extensions["flagon.station"] = Station(settings, app)
    health.check(app, "events", station.check_reader)
    health.check(app, "room", station.check_room)
    app.register_blueprint(routes.bp)
    app.register_blueprint(routes_presence.bp)
    app.view_functions["events.publish_event"] = limiter.limit(
        settings.publish_limit, override_defaults=False
    )(routes.publish_event)
    routes.complete_document(app)
    return app
