"""The products of the API."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, current_app, request, url_for
from flask.views import MethodView

from flagon_catalog.domain import (
    bulk,
    exports,
    facets,
    highlights,
    patches,
    products,
    searches,
    shapes,
)
from flagon_catalog.models import STATUSES
from flagon_catalog.schemas import (
    BulkReport,
    BulkUpsert,
    DeletionQuery,
    ExportQuery,
    NewProduct,
    ProductChange,
    ProductPage,
    ProductQuery,
    ProductView,
    ShapeQuery,
    bulk_report,
    sift,
)
from flagon_chassis import auth, idempotency
from flagon_chassis.db import reading, retrying, transaction
from flagon_chassis.errors import Forbidden

from . import (
    PAGING,
    PURGE,
    REPEATABLE,
    WRITE,
    answer_if_changed,
    formats,
    kept,
    listed,
    merge_patch,
    positions,
    refuse_unclear,
    require_scope,
    retired,
    sees_hidden,
    shown,
)
from .validators import require_edit, require_exact, tagged

bp = APIBlueprint("products", __name__, url_prefix="/api/v1/products", tag="Products")
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)
bp.after_request(retired.tell)


_PAGE = PAGING | {"fields", "include", "facets", "highlight"}
"""What does not change which products are listed, nor their order."""


Q = TypeVar("Q", ProductQuery, ExportQuery)


class HiddenProducts(Forbidden):
    """Only some may list what is not for sale."""


class Products(MethodView):
    """All products."""

    @auth.open_route
    @bp.doc(operation_id="list_products")
    @bp.input(ProductQuery, location="query", arg_name="asked")
    @bp.output(ProductPage)
    @kept
    def get(self, asked: ProductQuery) -> Response:
        """List or search products.

        A page at a time, in an order that stays the same while products change. Where a
        search finds nothing, near words are searched for, and `corrected` says which.
        """
        asked = _whole(asked)
        hidden = sees_hidden()
        wanted = wanted_products(asked, hidden=hidden)
        sort = sort_of(asked)
        shape = shapes.shape(asked.fields, asked.include)
        counted = _facets(asked)
        purpose = purpose_of(asked)
        with reading() as session:
            found = searches.search_products(
                session,
                wanted,
                sort=sort,
                # One more than asked for tells whether there is a next page.
                limit=asked.limit + 1,
                exact=asked.exact,
                after=positions.after(
                    purpose, asked.cursor, times=sort.endswith("created_at")
                ),
                shape=shape,
            )
            rows, wanted = found.rows, found.wanted
            counts = facets.count_facets(session, wanted, counted) if counted else None
            items = rows[: asked.limit]
            more: dict[str, Any] = {} if counts is None else {"facets": counts}
            if found.corrected is not None:
                more["corrected"] = found.corrected
            if asked.highlight and wanted.q is not None:
                ids = [item["id"] for item in items]
                more["highlights"] = highlights.highlights(session, wanted.q, ids)
        places = [item.pop("position") for item in items]
        cursor = None
        if len(rows) > asked.limit:
            cursor = positions.cursor(purpose, places[-1], items[-1]["id"])
        return listed(
            [shape.show(item) for item in items],
            cursor,
            shape.names(),
            "products",
            hidden=hidden,
            more=more,
        )

    @auth.requires(WRITE)
    @bp.doc(
        operation_id="create_product",
        responses={409: "The SKU or the slug is in use"},
    )
    @bp.input(NewProduct, arg_name="new")
    @bp.output(ProductView, 201)
    def post(self, new: NewProduct) -> Response:
        """Create a product.

        With an `Idempotency-Key` it can be repeated without a second effect.
        """

        def respond() -> Response:
            view = products.create_product(session, new.model_dump())
            location = url_for("products.product", product_id=view["id"])
            return tagged(shown(_whole_view(view), 201, location=location), view)

        with transaction() as session:
            return idempotency.once(session, respond)


class Product(MethodView):
    """One product."""

    @auth.open_route
    @bp.doc(operation_id="find_product", responses=[304, 404])
    @bp.input(ShapeQuery, location="query", arg_name="asked")
    @bp.output(ProductView)
    def get(self, product_id: UUID, asked: ShapeQuery) -> Response:
        """Show a product."""
        return _found(asked, id=product_id)

    @auth.requires(WRITE)
    @bp.doc(operation_id="replace_product", responses=[404, 409, 412, 428])
    @bp.input(NewProduct, arg_name="new")
    @bp.output(ProductView)
    def put(self, product_id: UUID, new: NewProduct) -> Response:
        """Replace a product.

        A field that is left out gets its default value; a slug stays as it is.
        """
        with transaction() as session:
            product = products.lock_product(session, id=product_id)
            require_edit(product, partial(products.last_edit, session, product))
            fields = _fields(new)
            if fields["stock"] != product["stock"]:
                require_exact(product)
            view = products.change_product(session, product, fields)
        return tagged(shown(_whole_view(view)), view)

    @auth.requires(WRITE)
    @bp.doc(operation_id="change_product", responses=[404, 409, 412, 415, 428])
    @merge_patch
    @bp.input(ProductChange, arg_name="change")
    @bp.output(ProductView)
    def patch(self, product_id: UUID, change: ProductChange) -> Response:
        """Change some fields of a product by JSON merge patch (RFC 7396)."""
        with transaction() as session:
            product = products.lock_product(session, id=product_id)
            require_edit(product, partial(products.last_edit, session, product))
            whole = {name: product[name] for name in NewProduct.model_fields}
            new = NewProduct.model_validate(
                patches.merged(whole, change.model_dump(exclude_unset=True))
            )
            if new.stock != product["stock"]:
                require_exact(product)
            view = products.change_product(session, product, _fields(new))
        return tagged(shown(_whole_view(view)), view)

    @auth.requires(WRITE)
    @bp.doc(
        operation_id="delete_product",
        responses={
            204: "It is archived, or gone",
            404: "",
            409: "Reservations hold some of what is to be gone",
            412: "",
            428: "",
        },
    )
    @bp.input(DeletionQuery, location="query", arg_name="asked")
    def delete(self, product_id: UUID, asked: DeletionQuery) -> Response:
        """Archive a product, or delete it for good.

        An archived product is not for sale and keeps its SKU, its slug and all that belongs
        to it; a patch of its status brings it back.
        """
        if asked.permanently:
            require_scope(PURGE)
        with transaction() as session:
            product = products.lock_product(session, id=product_id)
            if asked.permanently:
                require_exact(product)
                products.delete_product(session, product)
            else:
                require_edit(product, partial(products.last_edit, session, product))
                products.archive_product(session, product)
        return Response(status=204)


bp.add_url_rule("", view_func=Products.as_view("products"))
bp.add_url_rule("/<uuid:product_id>", view_func=Product.as_view("product"))


@bp.get("/by-slug/<slug>")
@auth.open_route
@bp.doc(operation_id="find_product_by_slug", responses=[304, 404])
@bp.input(ShapeQuery, location="query", arg_name="asked")
@bp.output(ProductView)
def find_product_by_slug(slug: str, asked: ShapeQuery) -> Response:
    """Show the product with this slug."""
    return _found(asked, slug=slug)


@bp.get("/by-sku/<sku>")
@auth.open_route
@bp.doc(operation_id="find_product_by_sku", responses=[304, 404])
@bp.input(ShapeQuery, location="query", arg_name="asked")
@bp.output(ProductView)
def find_product_by_sku(sku: str, asked: ShapeQuery) -> Response:
    """Show the product with this SKU."""
    return _found(asked, sku=sku)


@bp.get("/export")
@auth.requires(WRITE)
@bp.doc(operation_id="export_products", responses={200: "A product a line"})
@bp.input(ExportQuery, location="query", arg_name="asked")
def export_products(asked: ExportQuery) -> Response:
    """Export products of any number, ordered by id, as NDJSON or CSV.

    They come in batches: each product is as it was when its batch was read. In CSV a
    text that a spreadsheet would take for a formula has an apostrophe in front; NDJSON
    is exact. An answer that breaks off is no whole export: its last chunk is missing.
    """
    kind = formats.chosen("ndjson", "csv")
    wanted = wanted_products(_whole(asked), hidden=True)
    # The lines are read after the request is over, when the server asks for them.
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001

    def batch(after: UUID | None) -> exports.Batch:
        with app.app_context(), transaction() as session:
            return exports.read_batch(session, wanted, kind=kind, after=after)

    def read(after: UUID | None = None) -> exports.Batch:
        return retrying(partial(batch, after), harmless=True)

    # The first before the answer begins: until then a failure is a problem to be told.
    batches = [read(asked.after)]

    def lines() -> Iterator[bytes]:
        if kind == "csv":
            yield ",".join(shapes.FIELDS).encode() + b"\n"
        while batches:
            # What was sent is forgotten before more is read.
            text, last = astuple(batches.pop())
            yield text
            del text
            if last is not None:
                batches.append(read(last))

    response = Response(lines())
    response.content_type = formats.content_type(kind)
    response.headers["Cache-Control"] = "private, no-store"
    response.headers["Vary"] = "Accept, Authorization"
    response.headers["Content-Disposition"] = f"attachment; filename=products.{kind}"
    return response


@bp.post("/bulk")
@auth.requires(WRITE)
@bp.doc(operation_id="upsert_products")
@bp.input(BulkUpsert, arg_name="wanted")
@bp.output(BulkReport)
def upsert_products(wanted: BulkUpsert) -> Response:
    """Create or change up to 1,000 products by SKU.

    Each item is judged on its own; a field that an item leaves out keeps its value, and a
    category or tag that does not exist is made. What is already so stays as it is, so
    sending the same again changes nothing. A SKU that occurs twice is handled in order.
    An item that names a version is refused at `#/version` where somebody has edited the
    product since; the others are done.
    """

    def respond() -> Response:
        items, errors = sift(wanted.items)
        change = bulk.try_products if wanted.dry_run else bulk.upsert_products
        outcomes = change(session, list(items.values()))
        told = dict(zip(items, outcomes, strict=True))
        report = bulk_report(wanted.items, told, errors)
        asking = {
            index: item["sku"]
            for index, item in items.items()
            if wanted.dry_run or "version" in item
        }
        present = bulk.find_present(session, asking.values()) if asking else {}
        for index, sku in asking.items():
            report["results"][index]["present"] = present.get(sku)
        return shown(report)

    with transaction() as session:
        return idempotency.once(session, respond)


@bp.before_request
def allow_large_bulk() -> None:
    """Let a bulk upsert be larger than other requests."""
    if request.endpoint == "products.upsert_products":
        settings = current_app.extensions["flagon.settings"]
        request.max_content_length = settings.bulk_bytes_max


def _found(
    asked: ShapeQuery,
    *,
    id: UUID | None = None,
    slug: str | None = None,
    sku: str | None = None,
) -> Response:
    hidden = sees_hidden()
    shape = shapes.shape(asked.fields, asked.include, default=shapes.SINGLE)
    with reading() as session:
        product = products.find_product(
            session, id=id, slug=slug, sku=sku, hidden=hidden, shape=shape
        )
    return tagged(
        shown(shape.show(product), hidden=hidden), product, *_more(shape, product)
    )


def _whole_view(view: products.View) -> dict[str, Any]:
    """Return a product that was just written as it is shown by itself."""
    return shapes.SINGLE.show(view)


def _more(shape: shapes.Shape, product: Mapping[str, Any]) -> list[str]:
    """Return what else an entity tag depends on than the product.

    Some fields of a version are as old as all of it, and have an address of their own: the
    tag may be the same, and `If-Match` takes it.
    """
    shown = shape.embedded(product) if shape.include else {}
    parts = []
    if "category" in shown:
        category = shown["category"]
        version = f"v{category['version']}-{category['id']}" if category else "none"
        parts += ["in", version]
    if "images" in shown:
        # The version of the product tells everything but which thumbnails there are.
        widths = [len(image["thumbnails"]) for image in shown["images"]]
        parts.append("t" + ".".join(map(str, widths)))
    return parts


def _fields(new: NewProduct) -> dict[str, Any]:
    fields = new.model_dump()
    if new.slug is None:
        del fields["slug"]
    return fields


def _whole(asked: Q) -> Q:
    """Return the query with all of what is repeated; APIFlask gives the first of each."""
    repeated = {
        name: values
        for name, values in request.args.lists()
        if name in REPEATABLE and len(values) > 1
    }
    if not repeated:
        return asked
    return type(asked).model_validate({**request.args.to_dict(), **repeated})


def sort_of(asked: ProductQuery) -> str:
    """Return the order that a list of products has, asked for or not."""
    return asked.sort or ("relevance" if asked.q else "-created_at")


def purpose_of(asked: ProductQuery) -> str:
    """Return what a cursor of this list is good for."""
    return f"products {asked.model_dump_json(exclude=_PAGE)}"


def _facets(asked: ProductQuery) -> list[str]:
    if asked.facets is None:
        return []
    return shapes.known(asked.facets, "facets", facets.NAMES, facets.FacetUnknown)


def wanted_products(
    asked: ProductQuery | ExportQuery, *, hidden: bool
) -> products.Filter:
    """Return which products a query is about.

    :param hidden: whether the caller may see what is not for sale.
    :raises HiddenProducts: it asks for that, and the caller may not.
    """
    if asked.status != "active" and not hidden:
        raise HiddenProducts(f"The status {asked.status} needs {WRITE}.")
    given = asked.model_dump(exclude={"status", "sort", "exact", "after", *_PAGE})
    given["tag"], given["attribute"] = tuple(asked.tag), tuple(asked.attribute)
    return products.Filter(
        statuses=STATUSES if asked.status == "any" else (asked.status,), **given
    )
