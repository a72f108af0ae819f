"""The catalog's HTTP surface; one module for each noun."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

from flask import Response, current_app, request
from pydantic_core import to_json
from werkzeug.exceptions import BadRequest

from flagon_chassis import auth, conditional, web

from . import formats

WRITE = "catalog:write"
PURGE = "catalog:purge"
"""What only administrators have: nothing brings back what is deleted for good."""
PAGING = {"limit", "cursor", "format"}
"""What a list takes that is no filter and no order."""
REPEATABLE = frozenset({"tag", "attribute"})
"""Names that may be in a query several times."""

V = TypeVar("V", bound=Callable[..., Any])


def merge_patch(view: V) -> V:
    """Mark a view that takes a JSON merge patch; put it right above `bp.input`."""
    view.__dict__["_spec"]["content_type"] = list(web.PATCH_TYPES)
    return view


def refuse_twice() -> None:
    """Refuse a query that says two things."""
    twice = [
        name
        for name, values in request.args.lists()
        if len(values) > 1 and name not in REPEATABLE
    ]
    if twice:
        raise BadRequest(f"Give {', '.join(sorted(twice))} only once.")


def refuse_unclear() -> None:
    """Refuse a query that says two things, and a patch that is no JSON merge patch."""
    refuse_twice()
    web.refuse_other_patches()
    if request.method not in {"GET", "HEAD", "OPTIONS"}:
        # Before anything is changed: the answer will be JSON.
        formats.chosen("json")


def sees_hidden() -> bool:
    """Say whether the caller may see what is not for sale."""
    caller = auth.caller_if_any()
    return caller is not None and WRITE in caller.scopes


def require_scope(scope: str) -> None:
    """Let a caller pass whom a guard let in only with one more scope.

    :raises flagon_chassis.auth.ScopeMissing: the token has it not.
    """
    if scope not in auth.caller().scopes:
        raise auth.ScopeMissing((scope,), [scope])


def kept(view: V) -> V:
    """Keep what a view of a list answers to those who see only what is for sale.

    Put it right above the view, below `bp.output`: what is kept depends on the path, the
    query and the format alone.
    """

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Response:  # noqa: ANN401
        make = partial(view, *args, **kwargs)
        cache = current_app.extensions.get("flagon.answers")
        if cache is None or sees_hidden():
            return cast("Response", make())
        query = sorted(request.args.items(multi=True))
        question = [request.path, query, formats.chosen(*formats.TYPES)]
        return cast("Response", cache.answer(to_json(question).decode(), make))

    return cast("V", answer)


def answer_if_changed(response: Response) -> Response:
    """Make what was read a 304 where the caller has it already."""
    if response.status_code == HTTPStatus.OK and "ETag" in response.headers:
        response.make_conditional(request)
    return response


def listed(
    items: Sequence[Mapping[str, Any]],
    cursor: str | None,
    fields: Sequence[str],
    nouns: str,
    *,
    hidden: bool = True,
    settled: bool = False,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """Return a page of a list in the format that the client asked for.

    `Link` says where the next page is (RFC 8288), in each of them.

    :param cursor: of the next page; None: this is the last one.
    :param fields: the names of what each item has, in order.
    :param nouns: what they are, such as `products`.
    :param settled: whether they change so rarely that nobody need wait for the newest.
    :param more: what JSON says beside them.
    """
    kind = formats.chosen(*formats.TYPES)
    if kind == "json":
        body = to_json({"items": items, "next_cursor": cursor, **(more or {})})
    else:
        body = formats.written(kind, items, fields, nouns)
    response = answered(body, hidden=hidden, settled=settled)
    response.content_type = formats.content_type(kind)
    response.headers["Vary"] = "Accept, Authorization"
    # A strong one: the digest of these very bytes.
    response.add_etag()
    if cursor is not None:
        asked = {**request.args.to_dict(flat=False), "cursor": [cursor]}
        onward = urlencode(asked, doseq=True)
        response.headers["Link"] = f'<{request.path}?{onward}>; rel="next"'
    return response


def shown(
    body: object, status: int = 200, *, hidden: bool = True, location: str | None = None
) -> Response:
    """Return a JSON response, encoded once.

    :param hidden: whether only this caller may see it.
    """
    if request.method in {"GET", "HEAD"}:
        formats.chosen("json")
    response = answered(to_json(body), status, hidden=hidden)
    if location is not None:
        response.headers["Location"] = location
    return response


def answered(
    body: bytes, status: int = 200, *, hidden: bool, settled: bool = False
) -> Response:
    """Return a response that says who may keep it.

    :param hidden: whether only this caller may see it; else shared caches may keep it
        for a moment, and longer while the catalog does not answer.
    :param settled: whether they may also show it while they ask for the next one.
    """
    response = Response(body, status, mimetype="application/json")
    if hidden:
        response.headers["Cache-Control"] = "private, no-cache"
    else:
        settings = current_app.extensions["flagon.settings"]
        response.headers["Cache-Control"] = (
            f"public, max-age=0, s-maxage={settings.fresh_seconds},"
            f" stale-if-error={settings.stale_seconds}"
        )
        if settled:
            response.headers["Cache-Control"] += (
                f", stale-while-revalidate={settings.revalidate_seconds}"
            )
    response.headers["Vary"] = "Authorization"
    return response


def tagged(response: Response, view: Mapping[str, Any]) -> Response:
    """Put the entity tag of a category on a response, or make it a 304."""
    # The id is part of the tag because a slug can come to name another one.
    return conditional.tagged(response, view["version"], str(view["id"]))


def require_match(view: Mapping[str, Any]) -> None:
    """Let a change pass only if `If-Match` names this version of it."""
    conditional.require_match(view["version"], str(view["id"]))
