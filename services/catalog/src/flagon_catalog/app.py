"""The catalog service, assembled."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from apiflask import APIFlask
from flask import request
from flask_limiter import Limiter

from flagon_chassis import auth, cache, db, events, limits, web

from . import cli
from .routes import (
    categories,
    document,
    prices,
    products,
    reservations,
    reviews,
    tags,
)
from .settings import Settings

SOURCE = "/services/catalog"


def create_app(
    settings: Settings | None = None,
    *,
    jwks: str | Callable[[], dict[str, Any]] | None = None,
) -> APIFlask:
    """Return a catalog app that is ready to serve.

    :param settings: read from the environment when omitted, as gunicorn does.
    :param jwks: where the keys of access tokens come from; as the settings say by default.
    :raises pydantic.ValidationError: a setting is missing or malformed.
    """
    settings = settings or Settings()
    app = web.create_app(
        __package__,
        settings,
        name="catalog",
        title="Flagon catalog",
        description="Products, categories, tags, reviews and reservations of stock.",
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.body_bytes_max
    db.init_app(app, settings)
    auth.init_app(
        app,
        issuer=settings.public_url,
        jwks=jwks or settings.jwks_url,
        redis_url=settings.redis_store_url.get_secret_value(),
    )
    limiter = limits.init_app(app, settings)
    events.init_app(app, SOURCE, Path(str(files(__package__) / "events")))
    if settings.answer_seconds:
        cache.init_app(app, settings, seconds=settings.answer_seconds)
    app.register_blueprint(products.bp)
    app.register_blueprint(prices.bp)
    app.register_blueprint(categories.bp)
    app.register_blueprint(reservations.bp)
    app.register_blueprint(reviews.bp)
    app.register_blueprint(tags.bp)
    db.retry_views(app)
    _limit_work(app, limiter, settings)
    document.init_app(app)
    app.cli.add_command(cli.seed)
    app.cli.add_command(cli.sweep)
    app.cli.add_command(cli.reviews)
    return app


def _limit_work(app: APIFlask, limiter: Limiter, settings: Settings) -> None:
    """Limit what costs much more than other requests, beside the limit of all of them."""
    limiter.shared_limit(
        settings.review_limit,
        "reviews",
        methods=["POST", "PATCH"],
        override_defaults=False,
    )(reviews.bp)
    narrower: dict[str, Any] = {
        "products.products": limiter.limit(
            settings.facet_limit,
            override_defaults=False,
            exempt_when=lambda: "facets" not in request.args,
        ),
        "products.export_products": limiter.limit(
            settings.export_limit, override_defaults=False
        ),
    }
    for endpoint, limit in narrower.items():
        app.view_functions[endpoint] = limit(app.view_functions[endpoint])
