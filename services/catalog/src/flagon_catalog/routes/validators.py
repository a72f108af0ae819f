"""The entity tags of products: what a cache must compare, and what an edit must.

A product's `available` changes with every reservation and its `rating` with every review,
which is nobody's edit. The tag of a representation says both, `v<version>-<id>-<digest>`; a
change is held to the version alone (docs/adr/0025-reservations.md, 0026-ratings-on-the-row).
"""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from flask import Response
from pydantic_core import to_json

from flagon_chassis import conditional

EXTRAS = ("available", "rating")
"""What changes in a product without a new version, because nobody edits it."""

_TAG = re.compile(r"\Av([1-9][0-9]{0,9})-([0-9a-f-]{36})-[0-9a-f]{16}\Z")


def tagged(response: Response, view: Mapping[str, Any], *more: str) -> Response:
    """Put the entity tag of a product on a response, or make it a 304.

    :param more: what else the bytes depend on.
    """
    return conditional.tagged(response, view["version"], *_parts(view), *more)


def require_exact(product: Mapping[str, Any]) -> None:
    """Let a change pass only if `If-Match` names the present version of a product.

    :raises flagon_chassis.conditional.VersionRequired: there is no `If-Match`.
    :raises flagon_chassis.conditional.VersionStale: it names another one.
    """
    if product["version"] not in _named(product):
        conditional.require_match(product["version"], *_parts(product))


def require_edit(product: Mapping[str, Any], last_edit: Callable[[], int]) -> None:
    """Let a change pass if `If-Match` names a version after which nobody has edited.

    What was sold since takes only stock out, which a change of anything else does not
    undo; before setting the stock, call `require_exact` as well. Failures are the same.

    :param last_edit: gives the version since which only sales have changed it.
    """
    named = _named(product)
    if product["version"] in named:
        return
    # Only now: nearly everybody names the present one.
    if named and max(named) >= last_edit():
        return
    conditional.require_match(product["version"], *_parts(product))


def _named(product: Mapping[str, Any]) -> set[int]:
    """Return the versions of this product, up to the present, that `If-Match` names."""
    found = (_TAG.match(tag) for tag in conditional.named())
    versions = {int(tag[1]) for tag in found if tag and tag[2] == str(product["id"])}
    return {version for version in versions if version <= product["version"]}


def _parts(view: Mapping[str, Any]) -> tuple[str, str]:
    # The id is part of the tag because a slug or SKU can come to name another one.
    extras = to_json([view[name] for name in EXTRAS])
    return str(view["id"]), sha256(extras).hexdigest()[:16]
