"""The pictures of a product: added, put in order, described and deleted."""

from collections.abc import Callable
from hashlib import sha256
from typing import IO, Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from flagon_chassis.http import Refused, Unreachable
from flagon_web.clients import backends
from flagon_web.domain.products import Image
from flagon_web.domain.terms import term
from flagon_web.forms import Picture, blame, first_error
from flagon_web.i18n import LazyText as _

from . import access, office

bp = Blueprint(
    "pictures", __name__, url_prefix="/back-office/products/<uuid:product_id>/images"
)
office.degrades(bp, _("The pictures cannot be shown right now."), "products.products")

_ALT_CHARS = 300
_CHUNK_BYTES = 1 << 20
_AWAY = _("The catalog does not answer. Send the picture again in a moment.")
_GONE = _("That picture is kept no more.")


@bp.post("")
@access.needs("catalog:write")
def add_picture(product_id: UUID) -> ResponseReturnValue:
    """Add a picture, or say why it is not taken."""
    form = Picture()
    if not form.validate_on_submit():
        return _refused(product_id, first_error(form), 422)
    content, alt = form.file.data.stream, form.alt.data or ""
    try:
        backends().pictures.add(
            str(product_id),
            content,
            alt=alt,
            key=office.key_with(form.key.data, [alt, _digest(content)]),
            token=access.token(),
        )
    except Refused as refused:
        if refused.status not in {400, 409, 413, 415, 422}:
            raise
        why = blame(form, refused)
        return _refused(product_id, first_error(form) or term(why), refused.status)
    except Unreachable:
        return _refused(product_id, str(_AWAY), 503)
    flash(str(_("The picture is added.")), "success")
    return _to(product_id)


@bp.post("/<uuid:picture_id>/move")
@access.needs("catalog:write")
def move_picture(product_id: UUID, picture_id: UUID) -> ResponseReturnValue:
    """Put a picture before the one before it, or behind the next."""
    step = -1 if request.form.get("step") == "earlier" else 1
    return _act(
        product_id,
        picture_id,
        lambda found: {"position": max(0, found.position + step)},
        _("The picture is moved."),
    )


@bp.post("/<uuid:picture_id>/text")
@access.needs("catalog:write")
def describe_picture(product_id: UUID, picture_id: UUID) -> ResponseReturnValue:
    """Say what a picture shows."""
    alt = " ".join(request.form.get("alt", "").split())[:_ALT_CHARS]
    return _act(
        product_id, picture_id, lambda _found: {"alt": alt}, _("The text is saved.")
    )


@bp.post("/<uuid:picture_id>/delete")
@access.needs("catalog:write")
def delete_picture(product_id: UUID, picture_id: UUID) -> ResponseReturnValue:
    """Delete a picture."""
    return _act(product_id, picture_id, None, _("The picture is deleted."))


def _act(
    product_id: UUID,
    picture_id: UUID,
    change: Callable[[Image], dict[str, Any]] | None,
    done: office.Text,
) -> ResponseReturnValue:
    """Change the picture, unless it changed since the person looked.

    The list has no entity tags, so the form carries the version that was seen.

    :param change: returns what is to be changed; None deletes.
    """
    api, token = backends().pictures, access.token()
    ids, seen = (str(product_id), str(picture_id)), request.form.get("version", "")

    def act() -> None:
        found = api.find(*ids, token=token)
        etag = found.etag if seen == str(found.version) else office.STALE
        if change is None:
            api.delete(*ids, etag=etag, token=token)
        else:
            api.change(*ids, change(found), etag=etag, token=token)

    office.act(act, done, gone=_GONE)
    return _to(product_id)


def _digest(content: IO[bytes]) -> str:
    """Return what tells a file from others; it is read from its beginning again."""
    digest = sha256()
    while chunk := content.read(_CHUNK_BYTES):
        digest.update(chunk)
    content.seek(0)
    return digest.hexdigest()


def _refused(product_id: UUID, why: str, status: int) -> ResponseReturnValue:
    page = render_template("picture_refused.html", product_id=product_id, why=why)
    return page, status


def _to(product_id: UUID) -> ResponseReturnValue:
    place = url_for("products.product", product_id=product_id, _anchor="pictures-head")
    return redirect(place, 303)
