"""Grafana's own schema of a dashboard, as its SDK has it: types that are made of it."""

from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def faults(value, hint=None, where="dashboard"):
    """Yield where a value that the SDK has read is not what its types say."""
    hint = type(value) if hint is None else hint
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        some = [one for one in inner if (one is NoneType) == (value is None)] or inner
        # Those of the kind that it is, where it is one of them at all.
        some = [type(value)] if type(value) in some else some
        yield from min(([*faults(value, one, where)] for one in some), key=len)
    elif isinstance(value, dict) and hasattr(hint, "from_json"):
        # The SDK leaves the links of a panel as they are.
        yield from faults(hint.from_json(value), hint, where)
    elif origin in {list, dict} and isinstance(value, origin):
        for key, one in value.items() if origin is dict else enumerate(value):
            yield from faults(one, inner[-1], f"{where}.{key}")
    elif not _fits(value, hint):
        yield f"{where}: {value!r} is no {hint}"
    elif hint is not Any:
        for name, each in get_type_hints(type(value)).items():
            yield from faults(getattr(value, name), each, f"{where}.{name}")


def _fits(value, hint):
    if hint in {Any, object}:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if issubclass(hint, Enum):
        return value in {one.value for one in hint} | set(hint)
    return isinstance(
        value, (int, float) if hint is float else get_origin(hint) or hint
    )
