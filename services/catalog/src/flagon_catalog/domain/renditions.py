"""The renditions of a picture: what they are called, and where everybody finds them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

View = dict[str, Any]
"""An image as the API shows it."""

WIDTHS = (160, 480, 960)
"""Widths of thumbnails, in pixels; none is wider than its picture."""
WHOLE = "full"
"""The name of the picture that thumbnails are made of."""
NAMES = (WHOLE, *map(str, WIDTHS))
"""All renditions."""
FIELDS = (
    "id",
    "product_id",
    "alt",
    "position",
    "sha256",
    "width",
    "height",
    "url",
    "thumbnails",
    "version",
    "created_at",
    "updated_at",
)
"""What an image has, in the order of the API."""


def file_name(sha256: str, name: str) -> str:
    """Return what a rendition of a picture is called in storage."""
    # Folders of a quarter of a per cent each, because some systems search them slowly.
    return f"{sha256[:2]}/{sha256}/{name}.webp"


def address(sha256: str, name: str) -> str:
    """Return where everybody finds a rendition; what is there never changes."""
    return f"/media/{sha256}/{name}.webp"


def shown(found: Mapping[str, Any]) -> View:
    """Return an image as the API shows it.

    :param found: the columns of `models.IMAGE_VIEW`, or what JSON makes of them.
    """
    view = dict(found)
    sha256, width, height = (view[name] for name in ("sha256", "width", "height"))
    for name in ("created_at", "updated_at"):
        if isinstance(view[name], str):
            # The database wrote JSON.
            view[name] = datetime.fromisoformat(view[name])
    view["url"] = address(sha256, WHOLE)
    view["thumbnails"] = [
        {
            "width": narrow,
            # As worker makes them.
            "height": max(1, round(height * narrow / width)),
            "url": address(sha256, str(narrow)),
        }
        for narrow in view.pop("widths")
    ]
    return {name: view[name] for name in FIELDS}
