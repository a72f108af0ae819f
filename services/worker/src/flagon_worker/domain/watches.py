"""Watches: products whose price people follow, and who is told when one falls.

An event decides alone: the price that it brings against the one that the watch saw last.
What the watch saw, the live event and the order of the mail are written in the transaction
in which the event is taken from the stream, so each drop is told once, whoever is killed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from flagon_chassis import errands, events
from flagon_chassis.errors import Conflict, NotFound
from flagon_worker.models import Watch

from . import owners
from .mapping import minor_digits
from .runs import Begin

TASK = "worker.tell_price"
QUEUE = "mail"
CHANGED = "market.flagon.product.changed.v1"
DELETED = "market.flagon.product.deleted.v1"
WATCHES_MAX = 100
"""Of one person: so many mails can one import bring them at most."""
_NEWS = timedelta(hours=4)
"""What is told later than that is no news."""
_PAUSE_SECONDS = 300.0
"""Longer than an attempt and the pause after it."""
_TELLING = {"price_minor", "currency", "status"}
"""What has to change for a price to fall: most events are about stock."""


class WatchNotFound(NotFound):
    """The account does not watch this product."""


class WatchesTooMany(Conflict):
    """The account watches as many products as it may."""


class ProductUnknown(NotFound):
    """There is no such product to watch."""


class CatalogAway(Exception):
    """The catalog does not answer at the moment."""


@dataclass(frozen=True)
class Offer:
    """A product as the public sees it."""

    price_minor: int
    currency: str
    status: str
    version: int


class Products(Protocol):
    """Who knows the products."""

    def find(self, product_id: UUID) -> Offer:
        """Return a product.

        :raises ProductUnknown: the public sees none with this id.
        :raises CatalogAway: it does not answer.
        """


class Letters(Protocol):
    """Who writes mails."""

    def order_mail(self, mail_id: UUID, order: Mapping[str, object]) -> bool:
        """Have a mail sent, once for its id; say whether anybody is to get it.

        :raises deliveries.NotYet: to be tried again.
        """


# -- What people ask for ------------------------------------------------------------------


def find_watch(
    session: Session, owner: str, product_id: UUID, *, lock: bool = False
) -> Watch:
    """Return an account's watch of a product.

    :raises WatchNotFound: there is none.
    """
    statement = select(Watch).where(
        Watch.owner == owner, Watch.product_id == product_id
    )
    found = session.scalar(statement.with_for_update() if lock else statement)
    if found is None:
        raise WatchNotFound(f"The product {product_id} is not watched.")
    return found


def list_watches(
    session: Session, owner: str, *, before: UUID | None, limit: int
) -> list[Watch]:
    """Return an account's watches, newest first."""
    statement = select(Watch).where(Watch.owner == owner).order_by(Watch.id.desc())
    if before is not None:
        statement = statement.where(Watch.id < before)
    return list(session.scalars(statement.limit(limit)))


def count_watches(session: Session) -> int:
    """Return how many watches there are."""
    return session.scalars(select(func.count()).select_from(Watch)).one()


def create_watch(
    session: Session,
    owner: str,
    product_id: UUID,
    *,
    below_minor: int | None,
    currency: str | None,
) -> Watch:
    """Begin to watch a product; what it costs is noted afterwards (`note_price`).

    :param below_minor: tell only of prices below this one, in this currency.
    :raises WatchesTooMany: there are as many as there may be.
    """
    count = select(func.count()).select_from(Watch).where(Watch.owner == owner)
    if session.scalars(count).one() >= WATCHES_MAX:
        raise WatchesTooMany(f"There may be {WATCHES_MAX}; end one first.")
    at = datetime.now(UTC)
    watch = Watch(
        id=uuid7(),
        owner=owner,
        product_id=product_id,
        below_minor=below_minor,
        currency=currency,
        created_at=at,
        updated_at=at,
        version=1,
    )
    session.add(watch)
    session.flush()
    return watch


def change_watch(
    session: Session, watch: Watch, *, below_minor: int | None, currency: str | None
) -> None:
    """Change from which price on a person wants to be told.

    :param watch: locked by this transaction.
    """
    if (watch.below_minor, watch.currency) == (below_minor, currency):
        return
    watch.below_minor, watch.currency = below_minor, currency
    watch.updated_at = datetime.now(UTC)
    watch.version += 1
    session.flush()


def note_price(session: Session, watch: Watch, offer: Offer) -> None:
    """Take down what a watched product costs now; an event that is newer stays.

    It is asked for once the watch is committed: whatever changes from then on comes as an
    event that finds the watch, so no drop falls between the two.

    :param watch: locked by this transaction.
    """
    if watch.seen_version is not None and watch.seen_version >= offer.version:
        return
    watch.seen_version = offer.version
    if offer.status == "active":
        watch.seen_minor, watch.seen_currency = offer.price_minor, offer.currency
    session.flush()


# -- What happens -------------------------------------------------------------------------


def take_events(session: Session, envelopes: Sequence[Mapping[str, Any]]) -> None:
    """Tell whom it concerns of prices that fell; forget watches of what is gone.

    :param envelopes: in the order of the stream, none of which was taken before.
    """
    gone = owners.gone(envelopes)
    if gone:
        session.execute(delete(Watch).where(Watch.owner.in_(gone)))
    changed = _data(envelopes, CHANGED)
    if changed:
        followed = _followed(session, changed)
        _announce(
            session,
            [
                (watch, before, data)
                for data in changed
                for watch in followed
                if str(watch.product_id) == data["id"]
                and (before := _fell(watch, data)) is not None
            ],
        )
    products = _data(envelopes, DELETED)
    if products:
        ended = [UUID(data["id"]) for data in products]
        session.execute(delete(Watch).where(Watch.product_id.in_(ended)))


def _data(envelopes: Iterable[Mapping[str, Any]], type_: str) -> list[dict[str, Any]]:
    return [envelope["data"] for envelope in envelopes if envelope["type"] == type_]


def _followed(session: Session, changed: Sequence[Mapping[str, Any]]) -> list[Watch]:
    """Return the watches that these changes may concern, locked in one order."""
    products = {UUID(data["id"]) for data in changed}
    telling = {
        UUID(data["id"]) for data in changed if not _TELLING.isdisjoint(data["changed"])
    }
    statement = (
        select(Watch)
        .where(
            Watch.product_id.in_(products),
            or_(Watch.product_id.in_(telling), Watch.seen_version.is_(None)),
        )
        .order_by(Watch.id)
        .with_for_update()
    )
    return list(session.scalars(statement))


def _fell(watch: Watch, data: Mapping[str, Any]) -> int | None:
    """Note a product's price; return the one before if it fell as the person wants.

    A product that is not on sale has no price: its next one is compared with the last
    that anybody could have paid.
    """
    if watch.seen_version is not None and watch.seen_version >= data["version"]:
        return None
    watch.seen_version = data["version"]
    if data["status"] != "active":
        return None
    before = watch.seen_minor if watch.seen_currency == data["currency"] else None
    now = watch.seen_minor = data["price_minor"]
    watch.seen_currency = data["currency"]
    if before is None or now >= before:
        return None
    wanted = watch.below_minor is None or (
        watch.currency == data["currency"] and now < watch.below_minor
    )
    return before if wanted else None


def _announce(
    session: Session, drops: Sequence[tuple[Watch, int, Mapping[str, Any]]]
) -> None:
    told, orders = [], []
    for watch, before, data in drops:
        watch.told_at = datetime.now(UTC)
        drop_id = str(uuid7())
        drop = {
            "id": drop_id,
            "product_id": data["id"],
            **{name: data[name] for name in ("sku", "slug", "name", "currency")},
            "price_minor": data["price_minor"],
            "previous_price_minor": before,
            "below_minor": watch.below_minor,
            "product_version": data["version"],
            "changed": ["price_minor"],
        }
        told.append(("price.dropped.v1", data["id"], drop, [f"users/{watch.owner}"]))
        order = {
            "account_id": watch.owner,
            "letter": "price_dropped",
            "product": data["name"],
            "product_id": data["id"],
            "previous_price": _amount(before, data["currency"]),
            "price": _amount(data["price_minor"], data["currency"]),
            "currency": data["currency"],
        }
        orders.append((drop_id, {"drop_id": drop_id, "order": order}))
    events.emit_many(session, told)
    errands.send(session, TASK, queue=QUEUE, tasks=orders, lives=_NEWS)


def _amount(minor: int, currency: str) -> str:
    """Return an amount with a decimal point, such as `12.50`."""
    return f"{Decimal(minor).scaleb(-minor_digits(currency)):f}"


def tell(
    begin: Begin, letters: Letters, drop_id: UUID, order: Mapping[str, object]
) -> str:
    """Have a person told by mail of a drop; return `ordered` or `over`.

    Safe to run twice: the mail has the drop's id, and there is one of each id.

    :raises deliveries.NotYet: to be tried again.
    """
    with begin() as session:
        errands.postpone(session, TASK, str(drop_id), _PAUSE_SECONDS)
    told = letters.order_mail(drop_id, order)
    with begin() as session:
        errands.done(session, TASK, str(drop_id))
    return "ordered" if told else "over"
