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
        items = [{"sku": sku, "status": status} for sku in skus]
        return self._bulk({"items": items}, key=key, token=token)

    def find_present(self, skus: Iterable[str], *, token: str) -> BulkReport:
        """Return how several products are; there may be none of some SKUs."""
        return self.try_changes([{"sku": sku} for sku in skus], token=token)

    def try_changes(self, items: list[dict[str, Any]], *, token: str) -> BulkReport:
        """Return what would become of changes of several products."""
        return self._bulk({"items": items, "dry_run": True}, key=None, token=token)

    def make_changes(
        self, items: list[dict[str, Any]], *, key: str, token: str
    ) -> BulkReport:
        """Change several products and return what became of each.

        :param items: with the version of each that was seen.
        :param key: the same for every attempt to send the same form.
        """
        return self._bulk({"items": items}, key=key, token=token)

    def _bulk(
        self, wanted: dict[str, Any], *, key: str | None, token: str
    ) -> BulkReport:
        answer = self._http.post(
            f"{self.path}/bulk", json=wanted, idempotency_key=key, token=token
        )
        return BulkReport.model_validate(answer.json())
