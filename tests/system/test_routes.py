"""Every route asks for a scope, or is on this short list of what strangers may do."""

import pytest

PROBES = {"/livez", "/readyz", "/metrics"}
PUBLIC = {
    "catalog": {
        "/openapi.json",
        "/api/v1/products",
        "/api/v1/products/<uuid:product_id>",
        "/api/v1/products/by-slug/<slug>",
        "/api/v1/products/by-sku/<sku>",
        "/api/v1/products/<uuid:product_id>/reviews",
        "/api/v1/reviews/<uuid:review_id>",
        "/api/v1/products/<uuid:product_id>/prices",
        "/api/v1/products/<uuid:product_id>/images",
        "/api/v1/products/<uuid:product_id>/images/<uuid:image_id>",
        "/media/<digest>/<name>",
        "/api/v1/categories",
        "/api/v1/categories/by-slug/<slug>",
        "/api/v1/categories/<uuid:category_id>",
        "/api/v1/tags",
        "/api/v1/tags/by-slug/<slug>",
        "/api/v1/tags/<uuid:tag_id>",
        "/api/v1/graphql",
    },
    "realtime": {
        "/openapi.json",
        "/api/v1/events",
        "/socket.io/",
        "/api/v1/presence",
    },
    "worker": {"/openapi.json"},
    "auth": {"/openapi.json"},
    "web": set(),
}
# Reads with a body; its own tests show that there is nothing in it that changes anything.
READS = {"/api/v1/graphql"}
# These speak another protocol than bearer tokens: forms with a session and a CSRF token,
# or OAuth with client authentication. Their own tests guard them.
PEOPLE = {
    "auth": (
        "/.well-known/",
        "/oauth/",
        "/login",
        "/logout",
        "/register",
        "/account",
        "/password",
        "/device",
        "/password/",
        "/verify-email",
        "/social/",
        "/language",
        # Asked by the gateway with the API key of a request; not reachable from outside.
        "/internal/api-key",
        "/static/",
    ),
    "web": ("/",),
}


def views(app):
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        view_class = getattr(view, "view_class", None)
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
            yield (
                rule.rule,
                method,
                getattr(view_class, method.lower()) if view_class else view,
            )


@pytest.mark.parametrize("service", ["auth", "catalog", "realtime", "worker"])
class TestEveryRoute:
    def test_asks_for_a_token_or_is_public_by_decision(self, apps, service):
        bare = [
            f"{method} {path}"
            for path, method, view in views(apps[service])
            if not hasattr(view, "flagon_scopes")
            and path not in PROBES
            and not path.startswith(PEOPLE.get(service, ("\0",)))
            and not ((method == "GET" or path in READS) and _public(service, path))
        ]

        assert bare == []

    def test_asks_for_a_token_when_it_changes_something(self, apps, service):
        changing = [
            f"{method} {path}"
            for path, method, view in views(apps[service])
            if method != "GET"
            and path not in READS
            and not hasattr(view, "flagon_scopes")
            and not path.startswith(PEOPLE.get(service, ("\0",)))
        ]

        assert changing == []


def _public(service, path):
    return any(
        path == known or (path.startswith("/api/") and _shape(path) == _shape(known))
        for known in PUBLIC[service]
    )


def _shape(path):
    return [part if "<" not in part else "<>" for part in path.split("/")]
