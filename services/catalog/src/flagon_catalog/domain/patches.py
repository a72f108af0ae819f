"""JSON merge patches (RFC 7396)."""

from collections.abc import Mapping
from typing import Any


def merged(target: object, patch: object) -> Any:  # noqa: ANN401 (any JSON value)
    """Return `target` with the patch applied; a null in the patch removes a member.

    Source: the pseudocode of RFC 7396 section 2.
    """
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
