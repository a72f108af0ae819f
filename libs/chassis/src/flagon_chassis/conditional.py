"""Conditional requests (RFC 9110 section 13): never overwrite what one has not read."""

from collections.abc import Sequence

from flask import Response, request

from .errors import PreconditionFailed, PreconditionRequired


class VersionRequired(PreconditionRequired):
    """The change must say which version it is made to."""


class VersionStale(PreconditionFailed):
    """The resource has changed since it was read."""


def etag(version: int, *parts: str) -> str:
    """Return the strong entity tag of one version of one representation, unquoted.

    :param parts: what else makes the bytes differ, such as a chosen format.
    """
    return "-".join([f"v{version}", *parts])


def require_match(version: int, *parts: str, extras: Sequence[str] = ()) -> None:
    """Let a change pass only if `If-Match` names this version (or is `*`).

    :param extras: what the tag says after the parts and a change need not have seen,
        such as a digest of fields that change without a new version.
    :raises VersionRequired: there is no `If-Match`.
    :raises VersionStale: it names another version, or only weak tags.
    """
    if "If-Match" not in request.headers:
        raise VersionRequired("Send `If-Match` with the ETag that you have read.")
    known, sent = etag(version, *parts), request.if_match
    if sent.contains(known) or (
        extras and any(tag.startswith(f"{known}-") for tag in named())
    ):
        return
    raise VersionStale(
        "Read the resource again, apply your change to it and send that.",
        current=etag(version, *parts, *extras),
    )


def named() -> set[str]:
    """Return the strong entity tags that `If-Match` names, unquoted."""
    # Werkzeug makes None of an empty one, `""`.
    return {tag for tag in request.if_match.as_set() if tag is not None}


def tagged(response: Response, version: int, *parts: str) -> Response:
    """Put the entity tag on a response; a 304 when the caller has this version."""
    response.set_etag(etag(version, *parts))
    response.make_conditional(request)
    return response
