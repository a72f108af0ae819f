"""The tags of the API."""

from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, url_for
from flask.views import MethodView

from flagon_catalog.domain import patches, tags
from flagon_catalog.models import TAG_VIEW
from flagon_catalog.schemas import (
    NewTag,
    TagChange,
    TagPage,
    TagQuery,
    TagView,
)
from flagon_chassis import auth, idempotency, paging
from flagon_chassis.db import reading, transaction

from . import (
    WRITE,
    answer_if_changed,
    kept,
    listed,
    merge_patch,
    refuse_unclear,
    require_match,
    shown,
    tagged,
)

bp = APIBlueprint("tags", __name__, url_prefix="/api/v1/tags", tag="Tags")
bp.before_request(refuse_unclear)
bp.after_request(answer_if_changed)

FIELDS = [column.key for column in TAG_VIEW]

_PURPOSE = "tags"


class Tags(MethodView):
    """All tags."""

    @auth.open_route
    @bp.doc(operation_id="list_tags")
    @bp.input(TagQuery, location="query", arg_name="asked")
    @bp.output(TagPage)
    @kept
    def get(self, asked: TagQuery) -> Response:
        """List tags in the order of their names."""
        after = None
        if asked.cursor is not None:
            name, id_ = paging.decode(_PURPOSE, asked.cursor)
            after = name, UUID(id_)
        with reading() as session:
            rows = tags.list_tags(session, limit=asked.limit + 1, after=after)
        items = rows[: asked.limit]
        positions = [item.pop("position") for item in items]
        cursor = None
        if len(rows) > asked.limit:
            cursor = paging.encode(_PURPOSE, [positions[-1], str(items[-1]["id"])])
        return listed(items, cursor, FIELDS, "tags", hidden=False, settled=True)

    @auth.requires(WRITE)
    @bp.doc(operation_id="create_tag", responses={409: "The slug is in use"})
    @bp.input(NewTag, arg_name="new")
    @bp.output(TagView, 201)
    def post(self, new: NewTag) -> Response:
        """Create a tag.

        With an `Idempotency-Key` it can be repeated without a second effect.
        """

        def respond() -> Response:
            view = tags.create_tag(session, **new.model_dump())
            location = url_for("tags.tag", tag_id=view["id"])
            return tagged(shown(view, 201, location=location), view)

        with transaction() as session:
            return idempotency.once(session, respond)


class Tag(MethodView):
    """One tag."""

    @auth.open_route
    @bp.doc(operation_id="find_tag", responses=[304, 404])
    @bp.output(TagView)
    def get(self, tag_id: UUID) -> Response:
        """Show a tag."""
        return _found(id=tag_id)

    @auth.requires(WRITE)
    @bp.doc(operation_id="replace_tag", responses=[404, 409, 412, 428])
    @bp.input(NewTag, arg_name="new")
    @bp.output(TagView)
    def put(self, tag_id: UUID, new: NewTag) -> Response:
        """Replace a tag; its slug can be left out, but not changed."""
        with transaction() as session:
            tag = tags.lock_tag(session, id=tag_id)
            require_match(tag.view())
            view = tags.change_tag(session, tag, **new.model_dump())
        return tagged(shown(view), view)

    @auth.requires(WRITE)
    @bp.doc(operation_id="change_tag", responses=[404, 409, 412, 415, 428])
    @merge_patch
    @bp.input(TagChange, arg_name="change")
    @bp.output(TagView)
    def patch(self, tag_id: UUID, change: TagChange) -> Response:
        """Change some fields of a tag by JSON merge patch (RFC 7396)."""
        with transaction() as session:
            tag = tags.lock_tag(session, id=tag_id)
            require_match(tag.view())
            whole = {name: getattr(tag, name) for name in NewTag.model_fields}
            new = NewTag.model_validate(
                patches.merged(whole, change.model_dump(exclude_unset=True))
            )
            view = tags.change_tag(session, tag, **new.model_dump())
        return tagged(shown(view), view)

    @auth.requires(WRITE)
    @bp.doc(
        operation_id="delete_tag",
        responses={
            204: "It is gone",
            404: "",
            409: "Products have it",
            412: "",
            428: "",
        },
    )
    def delete(self, tag_id: UUID) -> Response:
        """Delete a tag that no product has."""
        with transaction() as session:
            tag = tags.lock_tag(session, id=tag_id)
            require_match(tag.view())
            tags.delete_tag(session, tag)
        return Response(status=204)


bp.add_url_rule("", view_func=Tags.as_view("tags"))
bp.add_url_rule("/<uuid:tag_id>", view_func=Tag.as_view("tag"))


@bp.get("/by-slug/<slug>")
@auth.open_route
@bp.doc(operation_id="find_tag_by_slug", responses=[304, 404])
@bp.output(TagView)
def find_tag_by_slug(slug: str) -> Response:
    """Show the tag with this slug."""
    return _found(slug=slug)


def _found(*, id: UUID | None = None, slug: str | None = None) -> Response:
    with reading() as session:
        tag = tags.find_tag(session, id=id, slug=slug)
    return tagged(shown(tag, hidden=False), tag)
