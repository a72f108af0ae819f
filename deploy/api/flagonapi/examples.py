"""Examples of bodies, made of the schemas: what a field says of itself, else its name."""

from typing import Any

BY_NAME: dict[str, Any] = {
    "account_id": "0199d4a2-7c1e-7cc0-8f57-3b1f6f9c2a11",
    "acr": "urn:flagon:acr:password",
    "action": "sign_in_succeeded",
    "actor": "0199d4a2-7c1e-7cc0-8f57-3b1f6f9c2a11",
    "address": "192.0.2.7",
    "agent": "Firefox on Linux",
    "amr": ["pwd"],
    "attempts": 1,
    "author": "Ada L.",
    "backchannel_logout_uri": None,
    "body_html": "<p>Two hours, <em>measured</em>.</p>\n",
    "client_secret": "shown-once-and-never-again",
    "done": 200,
    "email": "ada@example.org",
    "error": None,
    "expires_in": 900,
    "jwks": None,
    "key": "flg_Xk2p9Qa7.shown-once-and-never-again",
    "kid": "2026-11-01-es256",
    "kind": "import",
    "mapping": {"sku": "code", "name": "title", "price": "cost"},
    "message": "200 of 1000 rows",
    "name": "Ada",
    "next_cursor": None,
    "note": None,
    "owner": "0199d4a2-7c1e-7cc0-8f57-3b1f6f9c2a11",
    "overlap_seconds": 86_400,
    "parent": None,
    "position": 1,
    "post_logout_redirect_uris": ["https://app.example/"],
    "prefix": "Xk2p9Qa7",
    "quantity": 2,
    "redirect_uris": ["https://app.example/callback"],
    "rating": 4,
    "roles": ["customer"],
    "scope": "jobs:read",
    "sequence": 42,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "sid": "c2Vzc2lvbi1vZi1hZGE",
    "state": "succeeded",
    "status": "active",
    "total": 1000,
    "unit": "rows",
    "version": 3,
}
"""What fields hold whose schema has no example of its own."""
_BY_FORMAT = {
    "uuid": "0199d4a2-7c1e-7cc0-8f57-3b1f6f9c2a11",
    "date-time": "2026-11-21T09:30:00Z",
    "uri": "https://app.example/callback",
}
_DEPTH_MAX = 8


class NoExample(LookupError):
    """Nobody can tell what this looks like: give the field `examples`."""


def example(
    schema: dict[str, Any], schemas: dict[str, Any], *, name: str = "", depth: int = 0
) -> Any:  # noqa: ANN401 (any JSON)
    """Return a value that fits a schema.

    :param schemas: the components that it may refer to, by name.
    :param name: of the field that it is for.
    :raises NoExample: neither schema nor name say enough.
    """
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rsplit("/", 1)[-1]] | {
            key: value for key, value in schema.items() if key != "$ref"
        }
    if depth > _DEPTH_MAX:
        raise NoExample(name)
    if "examples" in schema:
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    options = [
        option
        for option in schema.get("anyOf", schema.get("oneOf", []))
        if option.get("type") != "null"
    ]
    if options and _allows(schema, BY_NAME.get(name, ...)):
        return BY_NAME[name]
    if options:
        return example(options[0], schemas, name=name, depth=depth + 1)
    return _of_type(schema, schemas, name, depth)


def _of_type(
    schema: dict[str, Any], schemas: dict[str, Any], name: str, depth: int
) -> Any:  # noqa: ANN401
    kind = schema.get("type", "object" if not schema else None)
    if kind == "object" and "properties" in schema:
        return {
            field: example(found, schemas, name=field, depth=depth + 1)
            for field, found in schema["properties"].items()
            if not found.get("deprecated")
        }
    if _allows(schema, BY_NAME.get(name, ...)):
        return BY_NAME[name]
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("default") is not None:
        return schema["default"]
    if kind == "array":
        return [example(schema["items"], schemas, name=name, depth=depth + 1)]
    if kind == "object":
        return {}
    if kind == "null":
        return None
    if kind == "boolean":
        return False
    if kind in {"integer", "number"}:
        return max(schema.get("minimum", 1), 1)
    if schema.get("format") in _BY_FORMAT or name.endswith(("_at", "_until")):
        return _BY_FORMAT[schema.get("format", "date-time")]
    if kind == "string" and "pattern" not in schema:
        text = name.replace("_", " ") or "text"
        return text[: schema.get("maxLength", 100)].ljust(schema.get("minLength", 0))
    raise NoExample(name)


def _allows(schema: dict[str, Any], value: object) -> bool:
    """Say whether a value is of a type that the schema has."""
    if value is ... or schema.get("enum", [value]).count(value) == 0:
        return False
    kinds = {
        option.get("type")
        for option in (schema, *schema.get("anyOf", []), *schema.get("oneOf", []))
    }
    names = {
        bool: {"boolean"},
        int: {"integer", "number"},
        str: {"string"},
        list: {"array"},
        dict: {"object"},
        type(None): {"null"},
    }
    return bool(kinds & names[type(value)])
