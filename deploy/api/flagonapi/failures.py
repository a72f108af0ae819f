"""Which failures an operation can answer with, read from the source of its view."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from flagon_chassis import auth, conditional, idempotency, keyring
from flagon_chassis.errors import Failure
from flagon_chassis.problems import DependencyDown

MARKS: dict[Callable[..., Any], str] = {
    conditional.require_match: "If-Match",
    conditional.tagged: "If-None-Match",
    idempotency.once: "Idempotency-Key",
}
"""The header that a view takes when it calls one of these."""


def found_in(view: Callable[..., Any]) -> tuple[set[type[Failure]], set[str]]:
    """Return what a view can raise and the headers that it takes.

    Every function that is reached by name is read, so a failure may be among them that
    this very view never comes to; one that is raised by a method of an object is not seen.
    """
    failures: set[type[Failure]] = {DependencyDown}
    headers: set[str] = set()
    seen: set[FunctionType] = set()
    todo = [_plain(view)]
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        if function in MARKS:
            headers.add(MARKS[function])
        for found in _mentioned(function):
            if isinstance(found, type):
                failures.add(found)
            else:
                todo.append(found)
    if scopes_of(view) is not None:
        failures |= {auth.TokenMissing, auth.TokenInvalid, auth.TokenUnproven}
        failures |= set(_of_tokens())
    return failures, headers


def scopes_of(view: Callable[..., Any]) -> tuple[str, ...] | None:
    """Return the scopes that a view asks for; None where no token is needed."""
    return getattr(view, "flagon_scopes", None)


def _of_tokens() -> Iterator[type[Failure]]:
    yield from (auth.ScopeMissing, auth.RevocationUnknown, keyring.KeysUnavailable)


def _plain(view: Callable[..., Any]) -> FunctionType:
    found = inspect.unwrap(view)
    assert isinstance(found, FunctionType)  # noqa: S101 (for mypy)
    return found


@cache
def _mentioned(function: FunctionType) -> tuple[FunctionType | type[Failure], ...]:
    """Return our functions that the source names and the failures that it makes."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found: list[FunctionType | type[Failure]] = []
    for node in ast.walk(tree):
        made = node.func if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Raise):
            made = node.exc
        value = _value(made, function)
        if isinstance(value, type) and issubclass(value, Failure):
            found.append(value)
        value = _value(node, function)
        if isinstance(value, dict):
            # Which failure it is stands in a table.
            rows = [row if isinstance(row, tuple) else (row,) for row in value.values()]
            found += [
                item
                for row in rows
                for item in row
                if isinstance(item, type) and issubclass(item, Failure)
            ]
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, FunctionType) and value.__module__.startswith("flagon_"):
            found.append(value)
    return tuple(found)


def _value(node: ast.AST | None, function: FunctionType) -> object:
    """Return what a name, or a name in a module, stands for in the function's module."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, function)
        if isinstance(owner, ModuleType):
            return getattr(owner, node.attr, None)
    return None
