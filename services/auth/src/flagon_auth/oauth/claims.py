"""What a client wants to know and how sure it wants to be (OpenID Connect 5.5)."""

import json
from dataclasses import dataclass
from typing import Any

from authlib.oauth2.rfc6749 import InvalidRequestError

from flagon_auth.domain.tokens import CLAIM_SCOPES

_PLACES = ("id_token", "userinfo")


@dataclass(frozen=True)
class Wanted:
    """The `claims` and `acr_values` of one authorization request."""

    names: dict[str, list[str]]
    """Single claims about the person that we know, by where they go."""
    sub: str | None
    """The only person who will do."""
    acr: tuple[str, ...]
    """Ways of having signed in, the best first."""
    acr_essential: bool
    """Whether another way is a failure, and not only a pity."""


def read(claims: str | None, acr_values: str | None) -> Wanted:
    """Return what the two parameters mean together.

    :raises InvalidRequestError: `claims` is not as OpenID Connect Core 5.5 has it.
    """
    asked = _parsed(claims)
    names: dict[str, list[str]] = {}
    for place in _PLACES:
        members = asked.get(place)
        if not isinstance(members, dict | None):
            raise InvalidRequestError("The claims parameter has a member of no object.")
        found = [name for name in CLAIM_SCOPES if name in (members or {})]
        if found:
            names[place] = found
    in_token = asked.get("id_token") or {}
    acr, essential = _acr(in_token.get("acr"))
    return Wanted(
        names=names,
        sub=_sub(asked),
        acr=acr or tuple((acr_values or "").split()),
        acr_essential=essential,
    )


def _parsed(claims: str | None) -> dict[str, Any]:
    if claims is None:
        return {}
    try:
        asked = json.loads(claims)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("The claims parameter is not JSON.") from error
    if not isinstance(asked, dict):
        raise InvalidRequestError("The claims parameter is not a JSON object.")
    return asked


def _acr(member: object) -> tuple[tuple[str, ...], bool]:
    if not isinstance(member, dict):
        return (), False
    values = member.get("values", [member.get("value")])
    if not isinstance(values, list):
        raise InvalidRequestError("The values of a claim are a list.")
    known = tuple(value for value in values if isinstance(value, str))
    return known, bool(known) and member.get("essential") is True


def _sub(asked: dict[str, Any]) -> str | None:
    for place in _PLACES:
        member = (asked.get(place) or {}).get("sub")
        value = member.get("value") if isinstance(member, dict) else None
        if isinstance(value, str):
            return value
    return None
