"""The categories of the API."""

from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, url_for
from flask.views import MethodView

from flagon_catalog.domain import categories, patches
from flagon_catalog.models import CATEGORY_VIEW
from flagon_catalog.schemas import (
    CategoryChange,
    CategoryPage,
    CategoryQuery,
    CategoryView,
    NewCategory,
)
from flagon_chassis import auth, idempotency
from flagon_chassis.db import reading, transaction

from . import (
    WRITE,
    answer_if_changed,
    kept,
    listed,
    merge_patch,
    positions,
    refuse_unclear,
    require_match,
    shown,
    tagged,
)

bp = APIBlueprint(
    "categories", __name__, url_prefix="/api/v1/categories", tag="Categories"
)
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)

FIELDS = [column.key for column in CATEGORY_VIEW]


class Categories(MethodView):
    """All categories."""

    @auth.open_route
    @bp.doc(operation_id="list_categories")
    @bp.input(CategoryQuery, location="query", arg_name="asked")
    @bp.output(CategoryPage)
    @kept
    def get(self, asked: CategoryQuery) -> Response:
        """List categories in the order of their names."""
        purpose = purpose_of(asked)
        after = positions.after(purpose, asked.cursor, times=False)
        with reading() as session:
            rows = categories.list_categories(
                session, parent=asked.parent, limit=asked.limit + 1, after=after
            )
        items = rows[: asked.limit]
        places = [item.pop("position") for item in items]
        cursor = None
        if len(rows) > asked.limit:
            cursor = positions.cursor(purpose, places[-1], items[-1]["id"])
        return listed(items, cursor, FIELDS, "categories", hidden=False, settled=True)

    @auth.requires(WRITE)
    @bp.doc(operation_id="create_category", responses={409: "The slug is in use"})
    @bp.input(NewCategory, arg_name="new")
    @bp.output(CategoryView, 201)
    def post(self, new: NewCategory) -> Response:
        """Create a category.

        With an `Idempotency-Key` it can be repeated without a second effect.
        """

        def respond() -> Response:
            view = categories.create_category(session, **new.model_dump())
            location = url_for("categories.category", category_id=view["id"])
            return tagged(shown(view, 201, location=location), view)

        with transaction() as session:
            return idempotency.once(session, respond)


class Category(MethodView):
    """One category."""

    @auth.open_route
    @bp.doc(operation_id="find_category", responses=[304, 404])
    @bp.output(CategoryView)
    def get(self, category_id: UUID) -> Response:
        """Show a category."""
        return _found(id=category_id)

    @auth.requires(WRITE)
    @bp.doc(operation_id="replace_category", responses=[404, 409, 412, 428])
    @bp.input(NewCategory, arg_name="new")
    @bp.output(CategoryView)
    def put(self, category_id: UUID, new: NewCategory) -> Response:
        """Replace a category; its slug can be left out, but not changed.

        What is in it moves with it.
        """
        with transaction() as session:
            category = categories.lock_category(session, id=category_id)
            require_match(category.view())
            view = categories.change_category(session, category, **new.model_dump())
        return tagged(shown(view), view)

    @auth.requires(WRITE)
    @bp.doc(operation_id="change_category", responses=[404, 409, 412, 415, 428])
    @merge_patch
    @bp.input(CategoryChange, arg_name="change")
    @bp.output(CategoryView)
    def patch(self, category_id: UUID, change: CategoryChange) -> Response:
        """Change some fields of a category by JSON merge patch (RFC 7396)."""
        with transaction() as session:
            category = categories.lock_category(session, id=category_id)
            require_match(category.view())
            whole = {name: getattr(category, name) for name in NewCategory.model_fields}
            new = NewCategory.model_validate(
                patches.merged(whole, change.model_dump(exclude_unset=True))
            )
            view = categories.change_category(session, category, **new.model_dump())
        return tagged(shown(view), view)

    @auth.requires(WRITE)
    @bp.doc(
        operation_id="delete_category",
        responses={
            204: "It is gone",
            404: "",
            409: "Products or categories are in it",
            412: "",
            428: "",
        },
    )
    def delete(self, category_id: UUID) -> Response:
        """Delete an empty category."""
        with transaction() as session:
            category = categories.lock_category(session, id=category_id)
            require_match(category.view())
            categories.delete_category(session, category)
        return Response(status=204)


bp.add_url_rule("", view_func=Categories.as_view("categories"))
bp.add_url_rule("/<uuid:category_id>", view_func=Category.as_view("category"))


@bp.get("/by-slug/<slug>")
@auth.open_route
@bp.doc(operation_id="find_category_by_slug", responses=[304, 404])
@bp.output(CategoryView)
def find_category_by_slug(slug: str) -> Response:
    """Show the category with this slug."""
    return _found(slug=slug)


def purpose_of(asked: CategoryQuery) -> str:
    """Return what a cursor of this list is good for."""
    return f"categories {asked.model_dump_json(include={'parent'})}"


def _found(*, id: UUID | None = None, slug: str | None = None) -> Response:
    with reading() as session:
        category = categories.find_category(session, id=id, slug=slug)
    return tagged(shown(category, hidden=False), category)
