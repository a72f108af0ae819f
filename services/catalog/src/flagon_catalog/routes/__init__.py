"""The catalog's HTTP surface; one module for each noun."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import Response, current_app, request
from pydantic_core import to_json
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from flagon_chassis import auth, conditional

from . import formats

WRITE = "catalog:write"
PAGING = {"limit", "cursor", "format"}
"""What a list takes that is no filter and no order."""
REPEATABLE = frozenset({"tag"})
"""Names that may be in a query several times."""
PATCH_TYPES = ("application/merge-patch+json", "application/json")

V = TypeVar("V", bound=Callable[..., Any])


def merge_patch(view: V) -> V:
    """Mark a view that takes a JSON merge patch; put it right above `bp.input`."""
    view.__dict__["_spec"]["content_type"] = list(PATCH_TYPES)
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
    if request.method == "PATCH" and request.mimetype not in PATCH_TYPES:
        raise UnsupportedMediaType(f"Send the patch as {PATCH_TYPES[0]}.")
    if request.method not in {"GET", "HEAD", "OPTIONS"}:
        # Before anything is changed: the answer will be JSON.
        formats.chosen("json")


def sees_hidden() -> bool:
    """Say whether the caller may see what is not for sale."""
    caller = auth.caller_if_any()
    return caller is not None and WRITE in caller.scopes


def listed(
    items: Sequence[Mapping[str, Any]],
    cursor: str | None,
    fields: Sequence[str],
    nouns: str,
    *,
    hidden: bool = True,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """Return a page of a list in the format that the client asked for.

    `Link` says where the next page is (RFC 8288), in each of them.

    :param cursor: of the next page; None: this is the last one.
    :param fields: the names of what each item has, in order.
    :param nouns: what they are, such as `products`.
    :param more: what JSON says beside them.
    """
    kind = formats.chosen(*formats.TYPES)
    if kind == "json":
        body = to_json({"items": items, "next_cursor": cursor, **(more or {})})
    else:
        body = formats.written(kind, items, fields, nouns)
    response = answered(body, hidden=hidden)
    response.content_type = formats.content_type(kind)
    response.headers["Vary"] = "Accept, Authorization"
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


def answered(body: bytes, status: int = 200, *, hidden: bool) -> Response:
    """Return a response that says who may keep it.

    :param hidden: whether only this caller may see it; else shared caches may keep it
        for a moment, and longer while the catalog does not answer.
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
    response.headers["Vary"] = "Authorization"
    return response


def tagged(response: Response, view: Mapping[str, Any]) -> Response:
    """Put the entity tag of a category on a response, or make it a 304."""
    # The id is part of the tag because a slug can come to name another one.
    return conditional.tagged(response, view["version"], str(view["id"]))


def require_match(view: Mapping[str, Any]) -> None:
    """Let a change pass only if `If-Match` names this version of it."""
    conditional.require_match(view["version"], str(view["id"]))
