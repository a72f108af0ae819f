"""The catalog's API as the back office uses it."""

from collections.abc import Iterable
from typing import Any

from flagon_web.domain.products import BulkReport, Product, ProductPage

from .resources import Resources


class Products(Resources[Product, ProductPage]):
    """Products on sale or not, as merchandisers see them; pages are newest first."""

    path = "/api/v1/products"
    one = Product
    page = ProductPage

    def set_status(
        self, skus: Iterable[str], status: str, *, key: str, token: str
    ) -> BulkReport:
        """Give several products one status and return what became of each.

        :param key: the same for every attempt to send the same form.
        """
        items: list[dict[str, Any]] = [{"sku": sku, "status": status} for sku in skus]
        answer = self._http.post(
            f"{self.path}/bulk",
            json={"items": items},
            idempotency_key=key,
            token=token,
        )
        return BulkReport.model_validate(answer.json())
