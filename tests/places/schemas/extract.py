"""Writes the shapes beside this file anew, from packages that are too large for the lock.

    python -m venv /tmp/shapes
    /tmp/shapes/bin/pip install google-api-python-client azure-mgmt-appcontainers
    /tmp/shapes/bin/python tests/places/schemas/extract.py

Names and types only, closed: a field that the makers do not know is refused.
"""

import enum
import importlib
import json
import re
import typing
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean"}


def cloud_run():
    """The objects of Cloud Run's API v1, from the description that Google publishes."""
    package = Path(importlib.import_module("googleapiclient").__file__).parent
    found = package / "discovery_cache" / "documents" / "run.v1.json"
    described = json.loads(found.read_text())["schemas"]
    kinds = ("Service", "WorkerPool", "Job")
    shapes = reached(kinds, lambda name: google(described[name]))
    return written("google-api-python-client", kinds, shapes)


def google(one):
    """A shape in the words of JSON Schema."""
    if "$ref" in one:
        return {"$ref": f"#/$defs/{one['$ref']}"}
    made = {"type": one["type"]} if one.get("type") != "any" else {}
    if "properties" in one:
        made["properties"] = {
            name: google(each) for name, each in one["properties"].items()
        }
        made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if key in one:
            made[key] = google(one[key])
    if "enum" in one:
        made["enum"] = one["enum"]
    return made


def container_apps():
    """The resources of Azure Container Apps, from the types of Microsoft's own client."""
    types = importlib.import_module("azure.mgmt.appcontainers.types")
    # The types name these, and import them for checkers of types alone.
    models = importlib.import_module("azure.mgmt.appcontainers.models")
    for name, each in vars(models).items():
        if isinstance(each, type) and issubclass(each, enum.Enum):
            setattr(types, name, each)
    kinds = ("ContainerApp", "Job", "ManagedEnvironment", "ManagedEnvironmentStorage")
    shapes = reached(kinds, lambda name: typed_dict(getattr(types, name)))
    return written("azure-mgmt-appcontainers", kinds, shapes)


def typed_dict(one):
    """The shape of a TypedDict, closed."""
    hints = typing.get_type_hints(one, include_extras=True)
    made = {
        "type": "object",
        "properties": {name: microsoft(hint) for name, hint in hints.items()},
        "additionalProperties": False,
    }
    needed = sorted(
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Required
    )
    return made | ({"required": needed} if needed else {})


def microsoft(hint):
    """The shape of one type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Required, typing.NotRequired}:
        return microsoft(inner[0])
    if origin in {list, typing.Sequence}:
        return {"type": "array", "items": microsoft(inner[0])}
    if origin is dict:
        return {"type": "object"}
    if origin is typing.Literal:
        values = [one.value if isinstance(one, enum.Enum) else one for one in inner]
        return {"enum": values}
    if origin is not None:
        enums = [
            one for one in inner if isinstance(one, type) and issubclass(one, enum.Enum)
        ]
        if enums:
            return {"enum": [one.value for one in enums[0]]}
        return {"anyOf": [microsoft(one) for one in inner if one is not type(None)]}
    # Also those of typing_extensions.
    if hasattr(hint, "__required_keys__"):
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [one.value for one in hint]}
    return {"type": _SIMPLE[hint]} if hint in _SIMPLE else {}


def reached(kinds, shape):
    """All shapes that some kinds lead to."""
    found, waiting = {}, list(kinds)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = shape(name)
            waiting += re.findall(r'"#/\$defs/(\w+)"', json.dumps(found[name]))
    return found


def written(package, kinds, shapes):
    """The document that holds them."""
    return {
        "$comment": f"{package} {version(package)}, by extract.py",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
        "$defs": dict(sorted(shapes.items())),
    }


if __name__ == "__main__":
    for name, made in (("cloud-run", cloud_run), ("container-apps", container_apps)):
        (HERE / f"{name}.json").write_text(json.dumps(made(), indent=1) + "\n")
