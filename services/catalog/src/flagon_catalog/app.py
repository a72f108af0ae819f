"""The catalog service, assembled."""

from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import Any

from apiflask import APIFlask
from flask import request
from flask_limiter import Limiter

from flagon_chassis import auth, cache, db, events, health, limits, web

from . import cli, clients
from .routes import (
    audit,
    categories,
    document,
    graphql,
    images,
    lines,
    prices,
    products,
    reservations,
    reviews,
    tags,
    words,
)
from .settings import SOURCE, Settings


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
    app.register_blueprint(lines.bp)
    app.register_blueprint(prices.bp)
    app.register_blueprint(categories.bp)
    app.register_blueprint(reservations.bp)
    app.register_blueprint(reviews.bp)
    app.register_blueprint(tags.bp)
    app.register_blueprint(audit.bp)
    app.register_blueprint(words.inside)
    app.register_blueprint(graphql.bp)
    graphql.init_app(app, settings)
    _add_images(app, limiter, settings)
    db.retry_views(app)
    _limit_work(app, limiter, settings)
    document.init_app(app)
    images.complete_document(app)
    app.cli.add_command(cli.seed)
    app.cli.add_command(cli.sweep)
    app.cli.add_command(cli.reviews)
    app.cli.add_command(cli.products)
    return app


def _add_images(app: APIFlask, limiter: Limiter, settings: Settings) -> None:
    """Fit what stores, draws and shows images."""
    store = clients.store_of(settings)
    app.extensions["flagon.images"] = store
    app.extensions["flagon.studio"] = clients.Studio(
        pixels_max=settings.image_pixels_max,
        memory_bytes=settings.image_memory_bytes,
        seconds=settings.image_seconds,
    )
    # Everything but images goes on without it.
    health.check(app, "images", store.probe, required=False)
    app.register_blueprint(images.bp)
    app.register_blueprint(images.media)
    app.register_blueprint(images.inside)
    # A page has many, and each costs less than the counting would.
    limiter.exempt(images.media)
    limiter.shared_limit(
        settings.image_limit, "images", methods=["POST"], override_defaults=False
    )(images.bp)


def _limit_work(app: APIFlask, limiter: Limiter, settings: Settings) -> None:
    """Limit what costs much more than other requests, beside the limit of all of them."""
    limiter.shared_limit(
        settings.review_limit,
        "reviews",
        methods=["POST", "PATCH"],
        override_defaults=False,
    )(reviews.bp)
    limiter.shared_limit(settings.graphql_limit, "graphql", override_defaults=False)(
        graphql.bp
    )
    views: dict[str, Callable[..., Any]] = app.view_functions
    exporting = limiter.limit(settings.export_limit, override_defaults=False)
    views["products.export_products"] = exporting(views["products.export_products"])
    listing = views["products.products"]

    @limiter.limit(settings.facet_limit, override_defaults=False)
    def count_facets() -> None:
        """Count one more; a limit of the list itself would cost all that have none."""

    @wraps(listing)
    def list_products(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (passed on)
        if "facets" in request.args:
            count_facets()
        return listing(*args, **kwargs)

    views["products.products"] = list_products
