"""Images: the pictures of a product, their order, and what is kept of them."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol, cast
from uuid import UUID

from sqlalchemy import Select, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from flagon_catalog.models import IMAGE_VIEW, Image, Picture, Product
from flagon_chassis import errands
from flagon_chassis.errors import Conflict, NotFound

from . import audit, pictures, products
from .renditions import NAMES, WHOLE, WIDTHS, View, file_name, shown

IMAGES_MAX = 12
"""Most images of one product."""
THUMBNAILS = "worker.make_thumbnails"
_PATIENCE = timedelta(hours=6)
"""How long thumbnails are asked for; a picture without them is shown whole."""
_AT_LEAST = text("interval '15 seconds'")
"""Age at which a picture without an image is no upload that is still under way."""


class ImageNotFound(NotFound):
    """The product has no such image."""


class PictureNotFound(NotFound):
    """There is no such picture."""


class ImagesFull(Conflict):
    """The product has as many images as it may."""


class ImageTwice(Conflict):
    """The product has this very image already."""


class Storage(Protocol):
    """Where pictures lie, by names such as `ab/ab…/full.webp`."""

    def has(self, name: str) -> bool:
        """Say whether there is something of this name."""

    def read(self, name: str) -> bytes | None:
        """Return what has this name; None when nothing has."""

    def put(self, name: str, content: bytes) -> None:
        """Keep something; a second time does no harm."""

    def remove(self, names: Iterable[str]) -> None:
        """Forget what has these names; what is not there is no failure."""


def list_images(session: Session, product_id: UUID, *, hidden: bool) -> list[View]:
    """Return the images of a product in order.

    :param hidden: whether products that are not for sale are found as well.
    :raises ProductNotFound: there is none.
    """
    products.find_product(session, id=product_id, hidden=hidden)
    found = session.execute(_selected(product_id).order_by(Image.position))
    return [shown(row._asdict()) for row in found]


def find_image(
    session: Session, product_id: UUID, image_id: UUID, *, hidden: bool
) -> View:
    """Return one image of a product.

    :param hidden: whether products that are not for sale are found as well.
    :raises ProductNotFound: there is no such product.
    :raises ImageNotFound: it has no such image.
    """
    products.find_product(session, id=product_id, hidden=hidden)
    return _find(session, product_id, image_id)


def announce_picture(session: Session, picture: pictures.Picture) -> None:
    """Write down that a picture is about to be stored; commit before `add_image`.

    A file without a row would lie there for ever if the process died between the two.
    """
    session.execute(
        insert(Picture).values(**_columns(picture)).on_conflict_do_nothing()
    )


def add_image(
    session: Session,
    storage: Storage,
    product_id: UUID,
    picture: pictures.Picture,
    *,
    alt: str,
) -> View:
    """Add an image behind the others of a product and store its picture.

    :raises ProductNotFound: there is no such product.
    :raises ImagesFull: it has enough of them.
    :raises ImageTwice: it has this one.
    """
    products.lock_product(session, id=product_id)
    others = _ordered(session, product_id)
    if len(others) >= IMAGES_MAX:
        raise ImagesFull(f"Have at most {IMAGES_MAX}.", images_max=IMAGES_MAX)
    if any(other.sha256 == picture.sha256 for other in others):
        raise ImageTwice("Send another one.")
    # Locks the row in any case: nobody removes the file from here on.
    session.execute(
        insert(Picture)
        .values(**_columns(picture))
        .on_conflict_do_update(
            index_elements=[Picture.sha256], set_={"bytes": len(picture.content)}
        )
    )
    name = file_name(picture.sha256, WHOLE)
    if not storage.has(name):
        storage.put(name, picture.content)
        session.execute(
            update(Picture).where(Picture.sha256 == picture.sha256).values(widths=[])
        )
    image = Image(
        product_id=product_id, sha256=picture.sha256, alt=alt, position=len(others)
    )
    session.add(image)
    session.flush()
    _tell(session, product_id)
    view = _find(session, product_id, image.id)
    audit.record(session, "image", [(None, view, None)])
    wanted = [width for width in WIDTHS if width < picture.width]
    missing = {*wanted} - {known["width"] for known in view["thumbnails"]}
    if missing:
        made = {"sha256": picture.sha256, "widths": sorted(missing)}
        errands.send(
            session,
            THUMBNAILS,
            queue="maintenance",
            tasks=[(picture.sha256, made)],
            lives=_PATIENCE,
        )
    return view


def change_image(session: Session, view: View, *, alt: str, position: int) -> View:
    """Set what an image of a locked product shows and its place; others make room.

    :param position: beyond the end means the end.
    """
    images = _ordered(session, view["product_id"])
    before = _states(images)
    image = next(one for one in images if one.id == view["id"])
    images.remove(image)
    images.insert(position, image)
    image.alt = alt
    if _renumber(session, images, before):
        _tell(session, view["product_id"])
    return _find(session, view["product_id"], view["id"])


def delete_image(session: Session, view: View) -> None:
    """Delete an image of a locked product; its picture goes when nothing shows it."""
    images = _ordered(session, view["product_id"])
    before = _states(images)
    image = next(one for one in images if one.id == view["id"])
    images.remove(image)
    session.delete(image)
    _renumber(session, images, before)
    audit.record(session, "image", [(view, None, None)])
    _tell(session, view["product_id"])


def read_picture(storage: Storage, sha256: str) -> bytes:
    """Return a whole picture.

    :raises PictureNotFound: there is none, or no more.
    """
    content = storage.read(file_name(sha256, WHOLE))
    if content is None:
        raise PictureNotFound("There is no such picture.")
    return content


def keep_thumbnail(
    session: Session, storage: Storage, sha256: str, width: int, content: bytes
) -> None:
    """Store a thumbnail that worker made; the first one stays.

    :raises PictureNotFound: the picture is gone, or wants no thumbnail of this width.
    :raises PictureUnknown: it is no WebP.
    """
    if pictures.sniff(content[:16]) != pictures.WEBP:
        raise pictures.PictureUnknown("Send WebP.")
    picture = session.scalar(
        select(Picture).where(Picture.sha256 == sha256).with_for_update()
    )
    if picture is None or width not in WIDTHS or width >= picture.width:
        raise PictureNotFound("There is no such picture.")
    if width not in picture.widths:
        storage.put(file_name(sha256, str(width)), content)
        picture.widths = sorted([*picture.widths, width])
    if {wanted for wanted in WIDTHS if wanted < picture.width} <= {*picture.widths}:
        errands.done(session, THUMBNAILS, sha256)


def remove_unused(session: Session, storage: Storage, *, limit: int) -> int:
    """Forget pictures that no image shows, and return how many there were.

    Safe while images are added: who adds one and this lock the picture's row.
    """
    unused = ~select(Image.id).where(Image.sha256 == Picture.sha256).exists()
    old = Picture.created_at < func.now() - _AT_LEAST
    locked = session.scalars(
        select(Picture.sha256)
        .where(unused, old)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not locked:
        return 0
    # Asked again, now that nobody can add one: the statement above saw images as they
    # were when it began, though it may have had to wait.
    gone = session.scalars(
        delete(Picture)
        .where(Picture.sha256.in_(locked), unused)
        .returning(Picture.sha256)
    ).all()
    errands.done(session, THUMBNAILS, *gone)
    # If this is not committed, the next upload of the same finds no file and writes it.
    for sha256 in gone:
        storage.remove(file_name(sha256, name) for name in NAMES)
    return len(gone)


def _columns(picture: pictures.Picture) -> dict[str, Any]:
    return {
        "sha256": picture.sha256,
        "bytes": len(picture.content),
        "width": picture.width,
        "height": picture.height,
    }


def _selected(product_id: UUID) -> Select[Any]:
    statement = cast("Select[Any]", select(*IMAGE_VIEW))
    return statement.join(Picture, Picture.sha256 == Image.sha256).where(
        Image.product_id == product_id
    )


def _find(session: Session, product_id: UUID, image_id: UUID) -> View:
    row = session.execute(
        _selected(product_id).where(Image.id == image_id)
    ).one_or_none()
    if row is None:
        raise ImageNotFound(f"There is no image {image_id}.")
    return shown(row._asdict())


def _ordered(session: Session, product_id: UUID) -> list[Image]:
    return list(
        session.scalars(
            select(Image).where(Image.product_id == product_id).order_by(Image.position)
        )
    )


def _states(images: Iterable[Image]) -> dict[UUID, View]:
    """Return by id what can change in images."""
    names = ("id", "version", "alt", "position")
    return {
        image.id: {name: getattr(image, name) for name in names} for image in images
    }


def _renumber(
    session: Session, images: Sequence[Image], before: dict[UUID, View]
) -> bool:
    """Give images the places that they are listed at; say whether anything differs."""
    for position, image in enumerate(images):
        if image.position != position:
            image.position = position
    session.flush()
    changes: list[audit.Change] = []
    for id_, after in _states(images).items():
        names = [
            name for name in ("alt", "position") if after[name] != before[id_][name]
        ]
        if names:
            changes.append((before[id_], after, names))
    audit.record(session, "image", changes)
    return bool(changes)


def _tell(session: Session, product_id: UUID) -> None:
    """Give a locked product a new version, and say so."""
    session.execute(
        update(Product)
        .where(Product.id == product_id)
        .values(
            version=Product.version + 1,
            versions_sold=0,
            updated_at=func.clock_timestamp(),
        )
    )
    view = products.find_product(session, id=product_id, hidden=True)
    products.emit_changed(session, [(view, ["images"])])
    audit.record(session, "product", [({}, view, ["images"])])
