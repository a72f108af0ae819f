"""The images of products: in the API, and as what browsers load."""

import json
import re
from hashlib import file_digest
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, cast
from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request, url_for
from flask.views import MethodView
from pydantic import ValidationError
from werkzeug.exceptions import NotFound, RequestEntityTooLarge, UnsupportedMediaType

from flagon_catalog.clients import Store, Studio
from flagon_catalog.domain import images, patches, products, renditions
from flagon_catalog.image_schemas import ALT, UPLOAD, ImageChange, ImagePage, ImageView
from flagon_catalog.settings import Settings
from flagon_chassis import auth, conditional, idempotency
from flagon_chassis.db import reading, transaction
from flagon_chassis.errors import Failure, Invalid

from . import WRITE, listed, merge_patch, refuse_unclear, sees_hidden, shown

if TYPE_CHECKING:
    from io import BufferedIOBase

bp = APIBlueprint(
    "images",
    __name__,
    url_prefix="/api/v1/products/<uuid:product_id>/images",
    tag="Images",
)
bp.before_request(refuse_unclear)

media = APIBlueprint("media", __name__, url_prefix="/media", enable_openapi=False)
inside = APIBlueprint(
    "pictures", __name__, url_prefix="/internal/pictures", enable_openapi=False
)

_FORM_BYTES = 16 * 1024
"""What a form may have beside its file."""
_DIGEST = re.compile(r"\A[0-9a-f]{64}\Z")
_RENDITIONS = frozenset(
    f"{name}.webp" for name in (renditions.WHOLE, *map(str, renditions.WIDTHS))
)


class ImageTooLarge(Failure):
    """The file is larger than an image may be."""

    status = 413


class ImageFormInvalid(Invalid):
    """The form is not complete or holds too much."""


class Images(MethodView):
    """The images of one product."""

    @auth.open_route
    @bp.doc(operation_id="list_images", responses=[404])
    @bp.output(ImagePage)
    def get(self, product_id: UUID) -> Response:
        """List the images of a product in order."""
        with reading() as session:
            found = images.list_images(session, product_id, hidden=sees_hidden())
        return listed(found, None, renditions.FIELDS, "images", hidden=sees_hidden())

    @auth.requires(WRITE)
    @bp.doc(
        operation_id="add_image",
        responses={
            404: "",
            409: "The product has this image, or enough of them",
            413: "The file is too large",
            415: "It is no picture of a kind that is taken",
            503: "Other pictures are being drawn",
        },
    )
    @bp.output(ImageView, 201)
    def post(self, product_id: UUID) -> Response:
        """Add an image behind the others: `file`, and `alt` if there is something to say.

        It is drawn anew as WebP, upright, in sRGB, without metadata, at most 2048 pixels
        wide and high; thumbnails come a moment later. With an `Idempotency-Key` it can be
        repeated without a second effect.
        """
        file, alt = _read_form()
        with reading() as session:
            # Before the work.
            products.find_product(session, id=product_id, hidden=True)
        sent = json.dumps(
            [alt, file_digest(cast("BufferedIOBase", file), "sha256").hexdigest()]
        )
        picture = _studio().redraw(file)

        def respond() -> Response:
            view = images.add_image(session, _storage(), product_id, picture, alt=alt)
            location = url_for(
                "images.image", product_id=product_id, image_id=view["id"]
            )
            return _tagged(shown(view, 201, location=location), view)

        with transaction() as session:
            images.announce_picture(session, picture)
        with transaction() as session:
            return idempotency.once(session, respond, body=sent.encode())


class Image(MethodView):
    """One image of a product."""

    @auth.open_route
    @bp.doc(operation_id="find_image", responses=[304, 404])
    @bp.output(ImageView)
    def get(self, product_id: UUID, image_id: UUID) -> Response:
        """Show what is known of an image."""
        hidden = sees_hidden()
        with reading() as session:
            view = images.find_image(session, product_id, image_id, hidden=hidden)
        return _tagged(shown(view, hidden=hidden), view)

    @auth.requires(WRITE)
    @bp.doc(operation_id="change_image", responses=[404, 412, 415, 428])
    @merge_patch
    @bp.input(ImageChange, arg_name="change")
    @bp.output(ImageView)
    def patch(self, product_id: UUID, image_id: UUID, change: ImageChange) -> Response:
        """Change text or place of an image by JSON merge patch (RFC 7396)."""
        with transaction() as session:
            products.lock_product(session, id=product_id)
            view = images.find_image(session, product_id, image_id, hidden=True)
            _require_match(view)
            fields = {"alt": view["alt"], "position": view["position"]}
            new = patches.merged(fields, change.model_dump(exclude_unset=True))
            view = images.change_image(
                session,
                view,
                alt=new.get("alt") or "",
                position=new.get("position", 0),
            )
        return _tagged(shown(view), view)

    @auth.requires(WRITE)
    @bp.doc(
        operation_id="delete_image",
        responses={204: "It is gone", 404: "", 412: "", 428: ""},
    )
    def delete(self, product_id: UUID, image_id: UUID) -> Response:
        """Delete an image; what it shows goes soon when no other image shows it."""
        with transaction() as session:
            products.lock_product(session, id=product_id)
            view = images.find_image(session, product_id, image_id, hidden=True)
            _require_match(view)
            images.delete_image(session, view)
        return Response(status=204)


bp.add_url_rule("", view_func=Images.as_view("images"))
bp.add_url_rule("/<uuid:image_id>", view_func=Image.as_view("image"))


@media.get("/<digest>/<name>")
@auth.open_route
def send_picture(digest: str, name: str) -> Response:
    """Have the gateway send the bytes, or send them; the database is not asked.

    Who knows the digest has seen the picture, or was told of it by who may: nobody finds
    one of 256 bits. So there is no difference between drafts and what is for sale.
    """
    if not (_DIGEST.match(digest) and name in _RENDITIONS):
        raise NotFound
    kept = renditions.file_name(digest, name.removesuffix(".webp"))
    if not _settings().images_by_gateway:
        return _sent_by_us(kept)
    headers = _storage().handed_over(kept)
    if headers is None:
        raise NotFound
    # All others are the gateway's: it would forget most of ours.
    return Response(mimetype="image/webp", headers=headers)


def _sent_by_us(name: str) -> Response:
    content = _storage().read(name)
    if content is None:
        raise NotFound
    answer = Response(content, mimetype="image/webp")
    # Its name is the digest of its content.
    answer.cache_control.public = True
    answer.cache_control.max_age = 31536000
    answer.cache_control.immutable = True
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    answer.set_etag(name.replace("/", "-"))
    return cast("Response", answer.make_conditional(request))


@inside.get("/<digest>")
@auth.requires(WRITE)
def read_picture(digest: str) -> Response:
    """Give worker what thumbnails are made of."""
    if not _DIGEST.match(digest):
        raise NotFound
    return Response(images.read_picture(_storage(), digest), mimetype="image/webp")


@inside.put("/<digest>/<int:width>")
@auth.requires(WRITE)
def keep_thumbnail(digest: str, width: int) -> Response:
    """Take a thumbnail from worker; safe to repeat."""
    request.max_content_length = _settings().image_bytes_max
    with transaction() as session:
        images.keep_thumbnail(session, _storage(), digest, width, request.get_data())
    return Response(status=204)


def complete_document(app: APIFlask) -> None:
    """Say in the OpenAPI document what an upload is."""
    before = app.spec_callback

    def complete(document: Any) -> Any:  # noqa: ANN401 (OpenAPI, as APIFlask gives it)
        path = "/api/v1/products/{product_id}/images"
        document["paths"][path]["post"]["requestBody"] = UPLOAD
        return before(document) if before else document

    app.spec_processor(complete)


def _read_form() -> tuple[IO[bytes], str]:
    """Receive the form, in constant memory; return the file and the text."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send the image as multipart/form-data.")
    limit = _settings().image_bytes_max
    request.max_content_length = limit + _FORM_BYTES
    try:
        form, files = request.form, request.files
    except RequestEntityTooLarge as error:
        raise _too_large(limit) from error
    given = [*form.items(multi=True), *files.items(multi=True)]
    names = [name for name, _ in given]
    wrong = sorted({name for name in names if name not in {"file", "alt"}})
    wrong += sorted({name for name in names if names.count(name) > 1})
    if wrong or "file" not in files:
        raise ImageFormInvalid(
            "Send `file`, a file, and `alt`, a text, each once.",
            errors=[
                {"pointer": f"#/{name}", "detail": "not known, or repeated"}
                for name in wrong[:20]
            ]
            or [{"pointer": "#/file", "detail": "is missing"}],
        )
    if "alt" in files:
        raise ImageFormInvalid(
            "`alt` is a text.", errors=[{"pointer": "#/alt", "detail": "is a file"}]
        )
    try:
        alt = ALT.validate_python(form.get("alt", ""))
    except ValidationError as error:
        raise ImageFormInvalid(
            "The text cannot be used.",
            errors=[
                {"pointer": "#/alt", "detail": found["msg"]} for found in error.errors()
            ],
        ) from error
    return _real(files["file"].stream, limit), alt


def _real(stream: IO[bytes], limit: int) -> IO[bytes]:
    """Return what was received as a file with a descriptor, at its beginning."""
    if isinstance(stream, SpooledTemporaryFile):
        stream.rollover()
    size = stream.seek(0, 2)
    stream.seek(0)
    if size > limit:
        raise _too_large(limit)
    return stream


def _too_large(limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"Send at most {limit} bytes.", limit_bytes=limit)


def _tagged(response: Response, view: renditions.View) -> Response:
    return conditional.tagged(response, view["version"], *_parts(view), _state(view))


def _require_match(view: renditions.View) -> None:
    # Thumbnails are nobody's edit.
    conditional.require_match(view["version"], *_parts(view), extras=[_state(view)])


def _parts(view: renditions.View) -> list[str]:
    return [str(view["id"])]


def _state(view: renditions.View) -> str:
    return f"t{len(view['thumbnails'])}"


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["flagon.settings"])


def _storage() -> Store:
    return cast("Store", current_app.extensions["flagon.images"])


def _studio() -> Studio:
    return cast("Studio", current_app.extensions["flagon.studio"])
