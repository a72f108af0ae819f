"""The watches API as the pages use it."""

from http import HTTPStatus
from typing import Any

from flagon_chassis.http import Refused
from flagon_web.domain.watches import Watch, WatchPage

from .resources import Resources


class Watches(Resources[Watch, WatchPage]):
    """Products whose price a person follows, by the ids of the products."""

    path = "/api/v1/watches"
    one = Watch
    page = WatchPage

    def list_of(self, product_id: str, *, token: str) -> list[Watch]:
        """Return the person's watch of a product; none where it is not watched."""
        try:
            return [self.find(product_id, token=token)]
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return []
            raise

    def watch(
        self, product_id: str, wish: dict[str, Any], *, etag: str = "", token: str
    ) -> None:
        """Begin to watch a product, or change the watch that the person saw.

        :param wish: `below_minor` and its `currency`, or neither.
        :param etag: entity tag of the watch that the person saw; without one, there must
            be none.
        """
        seen = {"If-Match": etag} if etag else {}
        self._http.put(self._of(product_id), json=wish, headers=seen, token=token)
