"""Watches as the worker shows them: products whose price a person follows."""

from datetime import datetime

from . import money
from .products import Shown


class SeenPrice(Shown):
    """What a product cost when it was last looked at."""

    price_minor: int
    currency: str


class Watch(Shown):
    """That a person wants to be told when a product gets cheaper."""

    product_id: str
    below_minor: int | None = None
    currency: str | None = None
    seen: SeenPrice | None = None
    told_at: datetime | None = None
    created_at: datetime
    etag: str = ""

    @property
    def limit(self) -> str:
        """The price below which the person is told; empty for every lower one."""
        if self.below_minor is None or self.currency is None:
            return ""
        return money.readable(self.below_minor, self.currency)

    @property
    def limit_plain(self) -> str:
        """The same as a form holds it."""
        if self.below_minor is None or self.currency is None:
            return ""
        return money.writable(self.below_minor, self.currency)

    @property
    def price(self) -> str:
        """What it cost when it was last looked at; empty where nobody could."""
        if self.seen is None:
            return ""
        return money.readable(self.seen.price_minor, self.seen.currency)


class WatchPage(Shown):
    """Some watches, newest first, and where the next ones begin."""

    items: list[Watch]
    next_cursor: str | None = None
