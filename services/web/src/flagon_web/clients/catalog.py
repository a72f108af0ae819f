"""The catalog's API as the pages use it."""

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client, Refused
from flagon_web.domain.products import (
    Category,
    CategoryPage,
    Image,
    ImagePage,
    Product,
    ProductPage,
)

_MOST_CATEGORIES = 100
_ID = re.compile(r"\A[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)


class Catalog:
    """Products and categories.

    Every method raises `Unreachable` when the catalog does not answer and `Refused` when
    it says no.
    """

    def __init__(self, http: Client) -> None:
        self._http = http

    def list_products(
        self,
        *,
        limit: int,
        q: str = "",
        category: str = "",
        tag: str = "",
        in_stock: bool = False,
        facets: bool = False,
        highlight: bool = False,
        cursor: str = "",
        token: str | None = None,
    ) -> ProductPage:
        """Return a page of the products on sale.

        :param q: words to search for; empty for all.
        :param category: slug of a category; empty for all.
        :param tag: slug of a tag; empty for all.
        :param in_stock: only what can be bought.
        :param facets: count what the list can be narrowed by.
        :param highlight: say where the words were found.
        :param cursor: `next_cursor` of the page before; empty for the first.
        """
        wanted = {
            "q": q,
            "category": category,
            "tag": tag,
            "in_stock": "true" if in_stock else "",
            "facets": "category,tag" if facets else "",
            "highlight": "true" if highlight else "",
            "cursor": cursor,
        }
        params: dict[str, Any] = {k: v for k, v in wanted.items() if v}
        answer = self._http.get(
            "/api/v1/products",
            params={**params, "limit": limit, "include": "images"},
            token=token,
        )
        return ProductPage.model_validate(answer.json())

    def find_product(self, ref: str, *, token: str | None = None) -> Product:
        """Return the product with this id or slug, with its entity tag."""
        place = ref if _ID.match(ref) else f"by-slug/{quote(ref, safe='')}"
        answer = self._http.get(f"/api/v1/products/{place}", token=token)
        return Product.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def list_images(self, product_id: str, *, token: str | None = None) -> list[Image]:
        """Return the images of a product; none when it is gone or hidden.

        Apart from the product, whose entity tag is good for changes only without them.
        """
        try:
            answer = self._http.get(
                f"/api/v1/products/{product_id}/images", token=token
            )
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return []
            raise
        return ImagePage.model_validate(answer.json()).items

    def list_categories(self) -> list[Category]:
        """Return the first categories, by name."""
        answer = self._http.get(
            "/api/v1/categories", params={"limit": _MOST_CATEGORIES}
        )
        return CategoryPage.model_validate(answer.json()).items

    def change_price(
        self, product_id: str, *, price_minor: int, etag: str, token: str
    ) -> Product:
        """Set a price, if the product is still the one that the caller saw.

        :param etag: entity tag of the version that the caller saw.
        """
        answer = self._http.patch(
            f"/api/v1/products/{quote(product_id, safe='')}",
            json={"price_minor": price_minor},
            headers={"If-Match": etag},
            token=token,
        )
        return Product.model_validate(answer.json())
