"""What still works and will not for ever."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import pytest

from flagon_catalog.routes.retired import PRODUCT_LISTS

from .conftest import PRODUCTS


class TestRetired:
    @pytest.mark.parametrize("path", [PRODUCTS, f"{PRODUCTS}/export"])
    def test_is_said_in_the_answer_and_works(self, client, make, merchandiser, path):
        product = make()

        answer = client.get(f"{path}?slug={product['slug']}", headers=merchandiser)

        assert (answer.status_code, product["id"] in answer.text) == (200, True)
        since = datetime.fromtimestamp(
            int(answer.headers["Deprecation"].removeprefix("@")), UTC
        )
        until = parsedate_to_datetime(answer.headers["Sunset"])
        assert until - since >= timedelta(days=182)
        links = answer.headers.get_all("Link")
        instead = f'<{PRODUCTS}/by-slug/{product["slug"]}>; rel="successor-version"'
        assert instead in links
        assert any('rel="deprecation"' in link for link in links)

    def test_has_a_successor_that_does_the_same(self, client, make):
        product = make()
        old = client.get(f"{PRODUCTS}?slug={product['slug']}")
        (successor,) = (
            link[1 : link.index(">")]
            for link in old.headers.get_all("Link")
            if "successor" in link
        )

        found = client.get(successor).json
        # Lists show it when they are asked for it.
        del found["description_html"]
        assert found == old.json["items"][0]

    def test_is_not_said_of_anything_else(self, client, make, merchandiser):
        product = make()
        place = f"{PRODUCTS}/{product['id']}"

        for path in (PRODUCTS, f"{PRODUCTS}?sku={product['sku']}", place):
            assert "Deprecation" not in client.get(path).headers

    def test_makes_no_header_of_what_the_caller_sends(self, client):
        attack = 'x">; rel="next", <https://evil.test/\r\nSet-Cookie: a=b'

        answer = client.get(f"{PRODUCTS}?slug={quote(attack, safe='')}")

        assert "Set-Cookie" not in answer.headers
        for link in answer.headers.get_all("Link"):
            assert '">' not in link
            assert "https://" not in link

    def test_is_counted(self, client):
        def count():
            (value,) = (
                float(line.rsplit(" ", 1)[1])
                for line in client.get("/metrics").text.splitlines()
                if line.startswith('flagon_retired_requests_total{name="products.slug"')
            )
            return value

        client.get(f"{PRODUCTS}?slug=a")
        before = count()
        client.get(f"{PRODUCTS}?slug=a")

        assert count() == before + 1

    def test_is_deprecated_in_the_document_and_nothing_else_is(self, client):
        path = client.get("/openapi.json").json["paths"][PRODUCTS]

        assert {
            parameter["name"]
            for parameter in path["get"]["parameters"]
            if parameter.get("deprecated") or parameter["schema"].get("deprecated")
        } == set(PRODUCT_LISTS)
