"""The pages, by what they are about."""

from flask import Flask
from werkzeug.routing import BaseConverter

from . import (
    access,
    account,
    audit,
    categories,
    dead,
    exports,
    imports,
    jobs,
    languages,
    notices,
    office,
    operations,
    pictures,
    product_plans,
    products,
    registered_clients,
    reviews,
    schedules,
    shop,
    signing_keys,
    status,
    users,
    watches,
    webhooks,
)


class Ref(BaseConverter):
    """A product's id or a category's slug, as it stands in an address."""

    regex = r"[^\W_][\w.~-]{0,199}"


def init_app(app: Flask) -> None:
    """Give the app its pages and what all of them share."""
    app.url_map.converters["ref"] = Ref
    access.init_app(app)
    for pages in (
        shop,
        reviews,
        watches,
        account,
        imports,
        products,
        product_plans,
        pictures,
        categories,
        exports,
        jobs,
        dead,
        schedules,
        webhooks,
        users,
        registered_clients,
        signing_keys,
        audit,
        office,
        operations,
        notices,
        status,
        languages,
    ):
        app.register_blueprint(pages.bp)
