"""Thumbnails of the catalog's pictures."""

import io
from collections.abc import Sequence
from typing import Protocol

_QUALITY = 80


class Pictures(Protocol):
    """Who keeps pictures."""

    def picture(self, sha256: str) -> bytes | None:
        """Return a picture; None when it is gone.

        :raises NotYet: not now.
        """

    def keep_thumbnail(self, sha256: str, width: int, content: bytes) -> bool:
        """Keep a thumbnail; say whether it is still wanted.

        :raises NotYet: not now.
        """


def make(pictures: Pictures, sha256: str, widths: Sequence[int]) -> str:
    """Make thumbnails of one picture; return `made`, or `over` when it is gone.

    Safe to run twice: of each the first one stays.

    :param widths: in pixels.
    :raises NotYet: to be tried again; what was made stays.
    """
    whole = pictures.picture(sha256)
    if whole is None:
        return "over"
    for width in widths:
        if not pictures.keep_thumbnail(sha256, width, narrowed(whole, width)):
            return "over"
    return "made"


def narrowed(picture: bytes, width: int) -> bytes:
    """Return a picture as WebP of this width; the catalog says the same of its height.

    :param picture: one that the catalog has drawn: small enough, and no stranger's.
    """
    # 10 MB that only processes need which have thumbnails to make.
    from PIL import Image  # noqa: PLC0415

    with Image.open(io.BytesIO(picture), formats=["WEBP"]) as image:
        height = max(1, round(image.height * width / image.width))
        narrow = image.resize((width, height), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    narrow.save(written, "WEBP", quality=_QUALITY, method=4)
    return written.getvalue()
