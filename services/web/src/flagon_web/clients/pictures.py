"""The catalog's images of products as the back office uses them."""

from typing import IO, Any
from urllib.parse import quote

from flagon_chassis.http import Client
from flagon_web.domain.products import Image, ImagePage


class Pictures:
    """The pictures of products.

    Every method raises `Unreachable` when the catalog does not answer and `Refused` when
    it says no.

    :param upload_seconds: longest time that handing a picture over may take.
    """

    def __init__(self, http: Client, *, upload_seconds: float) -> None:
        self._http = http
        self._upload_seconds = upload_seconds

    def list_all(self, product_id: str, *, token: str) -> list[Image]:
        """Return the pictures of a product in order."""
        answer = self._http.get(_path(product_id), token=token)
        return ImagePage.model_validate(answer.json()).items

    def find(self, product_id: str, picture_id: str, *, token: str) -> Image:
        """Return one, with its entity tag."""
        answer = self._http.get(_path(product_id, picture_id), token=token)
        return Image.model_validate(
            {**answer.json(), "etag": answer.headers.get("ETag", "")}
        )

    def add(
        self, product_id: str, content: IO[bytes], *, alt: str, key: str, token: str
    ) -> None:
        """Add one behind the others.

        :param alt: what it shows, for who does not see it.
        :param key: the same for every attempt to send the same form.
        """
        self._http.post(
            _path(product_id),
            data={"alt": alt},
            # The content decides what it is; its name is nobody's business.
            files={"file": ("picture", content, "application/octet-stream")},
            idempotency_key=key,
            token=token,
            deadline_seconds=self._upload_seconds,
        )

    def change(
        self,
        product_id: str,
        picture_id: str,
        changes: dict[str, Any],
        *,
        etag: str,
        token: str,
    ) -> None:
        """Change text or place of one, if it is still the one that was seen."""
        self._http.patch(
            _path(product_id, picture_id),
            json=changes,
            headers={"If-Match": etag},
            token=token,
        )

    def delete(
        self, product_id: str, picture_id: str, *, etag: str, token: str
    ) -> None:
        """Delete one, if it is still the one that was seen."""
        seen = {"If-Match": etag}
        self._http.delete(_path(product_id, picture_id), headers=seen, token=token)


def _path(product_id: str, *steps: str) -> str:
    parts = (quote(part, safe="") for part in (product_id, "images", *steps))
    return "/".join(["/api/v1/products", *parts])
