"""Reviews as the catalog shows them, with what pages ask of them."""

from datetime import datetime

from markupsafe import Markup
from pydantic import Field

from .products import Shown

STARS = (5, 4, 3, 2, 1)
"""What can be given, the best first."""


class Review(Shown):
    """What one person says of a product."""

    id: str
    product_id: str = ""
    subject: str | None = None
    """The author's account, for the author alone."""
    author: str
    rating: int = Field(ge=1, le=5)
    title: str
    body: str = ""
    body_html: str = ""
    state: str = "published"
    note: str | None = None
    created_at: datetime
    updated_at: datetime | None = None
    etag: str = ""

    @property
    def text(self) -> Markup:
        """The body as it is shown."""
        return Markup(self.body_html)  # noqa: S704 (the catalog's, which sanitises it)


class ReviewPage(Shown):
    """Some reviews, newest first, and where the next ones begin."""

    items: list[Review]
    next_cursor: str | None = None
