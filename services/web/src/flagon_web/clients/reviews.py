"""The catalog's reviews as the pages use them."""

from typing import Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.reviews import Review, ReviewPage

_SHOWN = 10
_MOST_OWN = 100


class Reviews:
    """What people say of products.

    Every method raises `Unreachable` when the catalog does not answer and `Refused` when
    it says no.
    """

    def __init__(self, http: Client) -> None:
        self._http = http

    def list_reviews(
        self, product_id: str, *, cursor: str = "", token: str | None = None
    ) -> ReviewPage:
        """Return a page of the published reviews of a product, newest first."""
        answer = self._http.get(
            f"/api/v1/products/{quote(product_id, safe='')}/reviews",
            params={"limit": _SHOWN, **({"cursor": cursor} if cursor else {})},
            token=token,
        )
        return ReviewPage.model_validate(answer.json())

    def find_own(self, product_id: str, *, token: str) -> Review | None:
        """Return the person's own review of a product, in whatever state; None for none.

        Looked for among their newest hundred; with an older one, the catalog refuses a
        second.
        """
        answer = self._http.get(
            "/api/v1/reviews",
            params={"own": "true", "limit": _MOST_OWN},
            token=token,
        )
        for one in ReviewPage.model_validate(answer.json()).items:
            if one.product_id == product_id:
                return self.find_review(one.id, token=token)
        return None

    def find_review(self, review_id: str, *, token: str) -> Review:
        """Return one review, with its entity tag."""
        answer = self._http.get(_path(review_id), token=token)
        return Review.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def create_review(
        self, product_id: str, fields: dict[str, Any], *, key: str, token: str
    ) -> Review:
        """Review a product.

        :param key: the same for every attempt to send the same form.
        """
        answer = self._http.post(
            f"/api/v1/products/{quote(product_id, safe='')}/reviews",
            json=fields,
            idempotency_key=key,
            token=token,
        )
        return Review.model_validate(answer.json())

    def change_review(
        self, review_id: str, fields: dict[str, Any], *, etag: str, token: str
    ) -> Review:
        """Change a review, if it is still the one that the person saw."""
        answer = self._http.patch(
            _path(review_id), json=fields, headers={"If-Match": etag}, token=token
        )
        return Review.model_validate(answer.json())

    def delete_review(self, review_id: str, *, etag: str, token: str) -> None:
        """Delete a review, if it is still the one that the person saw."""
        self._http.delete(_path(review_id), headers={"If-Match": etag}, token=token)


def _path(review_id: str) -> str:
    return f"/api/v1/reviews/{quote(review_id, safe='')}"
