"""What still works and will not for ever, said in each answer (RFC 9745, RFC 8594)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from flask import Response, request
from werkzeug.http import http_date

from flagon_chassis import metrics


@dataclass(frozen=True)
class Retired:
    """A name in a query that callers should give up."""

    since: datetime
    """From when on it is deprecated; it goes on working."""
    until: datetime
    """From when on it may be refused; half a year later at least."""
    instead: str
    """The address that does the same; `{}` is where the value goes."""


# In the document they are `deprecated`; a test holds both together.
PRODUCT_LISTS = {
    "slug": Retired(
        datetime(2026, 11, 21, tzinfo=UTC),
        datetime(2027, 6, 1, tzinfo=UTC),
        "/api/v1/products/by-slug/{}",
    )
}


def tell(response: Response) -> Response:
    """Say in the answer to a list of products what of the question is retired."""
    for name, retired in PRODUCT_LISTS.items():
        if request.endpoint not in _LISTS or name not in request.args:
            continue
        response.headers["Deprecation"] = f"@{int(retired.since.timestamp())}"
        response.headers["Sunset"] = http_date(retired.until)
        instead = retired.instead.format(quote(request.args[name], safe=""))
        response.headers.add("Link", '</docs/redoc>; rel="deprecation"')
        response.headers.add("Link", f'<{instead}>; rel="successor-version"')
        # Nobody can end what is still asked for.
        metrics.counter(
            "flagon_retired_requests_total",
            "Requests that use what is deprecated.",
            "name",
        ).labels(f"products.{name}").inc()
    return response


_LISTS = frozenset({"products.products", "products.export_products"})
