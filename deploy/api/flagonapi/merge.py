"""The documents of the services, and the one of all of them.

Nothing is connected: the apps are made, asked for their document and thrown away.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from flask import Flask

from flagon_chassis.errors import Failure
from flagon_chassis.paging import CursorInvalid
from flagon_chassis.problems import InvalidRequest

from .examples import NoExample, example
from .failures import found_in, scopes_of

if TYPE_CHECKING:
    from flask.views import View

Json = dict[str, Any]

VERSION = "1.0.0"
"""Of the API, by https://semver.org: the first number rises when clients break."""

SERVICES = ("catalog", "worker", "realtime", "auth")
"""What has an API for programs, in the order of the document."""

ABOUT = """\
Products, reservations and reviews, jobs, live events, and the accounts and programs that
may use them, behind one gateway.

Every error is `application/problem+json` (RFC 9457); `type` leads to its explanation, and
the examples of each status name all that can occur there. Lists have `limit` and an opaque
`cursor`. What changes a resource needs `If-Match`; a POST that creates something takes an
`Idempotency-Key`.
"""
_ENVIRONMENT = {
    "ENVIRONMENT": "testing",
    "SECRET_KEY": "k" * 32,
    "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
    "KEY_ENCRYPTION_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "FILES_DIR": "/nonexistent",
    "IMAGES_DIR": "/nonexistent",
    "CLIENT_ID": "document",
    "CLIENT_SECRET": "s" * 32,
    "LOG_LEVEL": "ERROR",
}
_HEADERS = {
    "If-Match": "The ETag of the version that the change was made to.",
    "If-None-Match": "The ETag that the caller has; a 304 when it is still current.",
    "Idempotency-Key": "Makes the request safe to repeat: 1 to 200 visible ASCII"
    " characters, remembered for 24 hours with the answer.",
}
_TAG = "ETag"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_PREFIX = "#/components/schemas/"
_PLAIN = {
    "400": "The body is no JSON, or a name is given twice.",
    "413": "The body is too large.",
    "415": "The body is of another media type.",
    "429": "Too many requests; `Retry-After` says when to come back.",
    "default": "Any other problem.",
}
_ADMITS = 400


@cache
def documents() -> dict[str, Json]:
    """Return each service's own document, completed by what its source says."""
    found = {}
    for service in SERVICES:
        environment = {
            f"{service.upper()}_{name}": value for name, value in _ENVIRONMENT.items()
        }
        with patch.dict(os.environ, environment):
            app = import_module(f"flagon_{service}.app").create_app()
            document = app.test_client().get("/openapi.json").get_json()
        _complete(document, app)
        found[service] = document
    return found


def merged() -> Json:
    """Return the one document of all services.

    :raises ValueError: two operations have the same id or address.
    """
    own = {name: _copy(document) for name, document in documents().items()}
    schemas = _merge_schemas(own)
    paths: Json = {}
    tags, groups = [], []
    for service, document in own.items():
        for path, item in document["paths"].items():
            if path in paths:
                raise ValueError(f"{service} has {path}, and another service too")
            paths[path] = item
        names = [tag["name"] for tag in document["tags"]]
        about = document["info"].get("description", "")
        tags += [{"name": name, "x-service": service} for name in names]
        groups.append({"name": service, "description": about, "tags": names})
    ids = [operation["operationId"] for _, _, operation in operations(paths)]
    twice = {name for name in ids if ids.count(name) > 1}
    if twice:
        raise ValueError(f"more than one operation is called {sorted(twice)}")
    examples: Json = {}
    for _, _, operation in operations(paths):
        _give_examples(operation, schemas, examples)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Flagon",
            "version": VERSION,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The gateway"}],
        "tags": tags,
        "x-tagGroups": groups,
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "examples": dict(sorted(examples.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token, or an API key. The scopes that an"
                    " operation asks for stand beside it.",
                }
            },
        },
    }


def operations(paths: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield path, method and operation."""
    for path, item in paths.items():
        for method, operation in item.items():
            yield path, method, operation


def _copy(document: Json) -> Json:
    copied: Json = json.loads(json.dumps(document))
    return copied


# -- What the source says -----------------------------------------------------------------


def _complete(document: Json, app: Flask) -> None:
    views = dict(_views(app))
    for path, method, operation in operations(document["paths"]):
        endpoint, view = views[path, method]
        if operation["operationId"] == f"{method}_{endpoint.replace('.', '_')}":
            operation["operationId"] = view.__name__
        failures, headers = found_in(view)
        if scopes_of(view) == ():
            # Any token will do.
            failures = {found for found in failures if found.__name__ != "ScopeMissing"}
        if method != "get":
            # Elsewhere the answer has a tag, and no question is asked by one.
            headers = {_TAG if name == "If-None-Match" else name for name in headers}
        _add_headers(operation, headers)
        queries = {
            item["name"] for item in operation["parameters"] if item["in"] == "query"
        }
        if queries or "requestBody" in operation:
            failures.add(InvalidRequest)
        if "cursor" in queries:
            failures.add(CursorInvalid)
        _add_problems(operation, failures)
    _tidy(document)


def _views(
    app: Flask,
) -> Iterator[tuple[tuple[str, str], tuple[str, Callable[..., Any]]]]:
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        view = app.view_functions[rule.endpoint]
        view_class: type[View] | None = getattr(view, "view_class", None)
        for method in rule.methods or ():
            found = getattr(view_class, method.lower(), view) if view_class else view
            yield (path, method.lower()), (rule.endpoint, found)


def _add_headers(operation: Json, headers: set[str]) -> None:
    parameters, responses = operation["parameters"], operation["responses"]
    named = {item["name"] for item in parameters}
    for name in sorted(headers - named - {_TAG}):
        parameters.append(
            {
                "name": name,
                "in": "header",
                "required": name == "If-Match",
                "description": _HEADERS[name],
                "schema": {"type": "string"},
            }
        )
    if "If-None-Match" in headers | named:
        responses.setdefault("304", {"description": "It is as the caller has it."})
    tagged = {_TAG, "If-Match", "If-None-Match"} & (headers | named)
    for status in ("200", "201", "202"):
        if status in responses and tagged:
            responses[status].setdefault("headers", {}).setdefault(
                "ETag",
                {
                    "description": "This version, for `If-Match` and `If-None-Match`.",
                    "schema": {"type": "string"},
                },
            )


def _add_problems(operation: Json, failures: set[type[Failure]]) -> None:
    """Say which problems there are at each status, by the slug of their type."""
    responses = operation["responses"]
    by_status: dict[str, list[type[Failure]]] = defaultdict(list)
    for failure in sorted(failures, key=lambda found: found.slug()):
        by_status[str(failure.status)].append(failure)
    plain = {"429", "default"}
    if "requestBody" in operation:
        plain |= {"400", "413", "415"}
    elif any(item["in"] == "query" for item in operation["parameters"]):
        plain.add("400")
    for status in {*by_status, *plain}:
        responses.setdefault(status, {"description": ""})
    for status, response in responses.items():
        if status in {"204", "304"}:
            response.pop("content", None)
        if status != "default" and int(status) < _ADMITS:
            continue
        found = by_status.get(status, [])
        said = response.get("description", "")
        if status in _PLAIN and not found:
            response["description"] = _PLAIN[status]
        elif found:
            response["description"] = " · ".join(
                f"`{failure.slug()}`: {failure.title()}." for failure in found
            )
        elif not said:
            response["description"] = HTTPStatus(int(status)).phrase
        # GraphQL tells some of them in its own form.
        own = {
            kind: content
            for kind, content in response.get("content", {}).items()
            if kind.startswith("application/graphql")
        }
        response["content"] = {
            "application/problem+json": {"schema": _PROBLEM},
            **own,
        }
        if found:
            response["x-problems"] = [
                {"slug": failure.slug(), "title": failure.title()} for failure in found
            ]
        if status in {"429", "503"}:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait.",
                    "schema": {"type": "integer", "minimum": 0},
                }
            }
    operation["responses"] = dict(sorted(responses.items()))


def _tidy(document: Json) -> None:
    """Take away what says nothing, or says it wrongly to who makes a client of it."""
    for _, _, operation in operations(document["paths"]):
        for parameter in operation["parameters"]:
            schema = parameter["schema"]
            options = [
                option
                for option in schema.get("anyOf", [])
                if option.get("type") != "null"
            ]
            # A query cannot say null.
            if "anyOf" in schema and len(options) == 1:
                del schema["anyOf"]
                schema.update({**options[0], **schema})
            if "description" in schema:
                parameter.setdefault("description", schema.pop("description"))
    for schema in _schemas_in(document):
        schema.pop("title", None)
        # Leaving a field out is not the same as null, least of all in a merge patch.
        if "default" in schema and schema["default"] is None:
            del schema["default"]


def _schemas_in(found: Any) -> Iterator[Json]:  # noqa: ANN401 (any part of a document)
    """Yield every schema, and nothing else that has such names: not `properties`."""
    if isinstance(found, list):
        for item in found:
            yield from _schemas_in(item)
    elif isinstance(found, dict):
        for name, item in found.items():
            if name in {"schema", "items", "additionalProperties", "contentSchema"}:
                if isinstance(item, dict):
                    yield item
                    yield from _schemas_in(item)
            elif name in {"properties", "schemas", "$defs", "patternProperties"}:
                yield from item.values()
                for schema in item.values():
                    yield from _schemas_in(schema)
            elif name in {"anyOf", "oneOf", "allOf", "prefixItems"}:
                yield from item
                yield from _schemas_in(item)
            elif name not in {"examples", "example", "default", "enum", "const"}:
                yield from _schemas_in(item)


# -- One set of schemas -------------------------------------------------------------------


def _merge_schemas(own: dict[str, Json]) -> Json:
    """Return the schemas of all services, and let the documents refer to them.

    A schema that several have alike is there once. Different ones of the same name get
    the service's name before them, or within a service the name of what they belong to.
    """
    short: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for service, document in own.items():
        for name, schema in document["components"]["schemas"].items():
            short[name.rsplit(".", 1)[-1]][service, name] = _shape(schema)
    names: dict[tuple[str, str], str] = {}
    for plain, found in short.items():
        for service, name in found:
            within = {text for (other, _), text in found.items() if other == service}
            if len(set(found.values())) == 1:
                names[service, name] = plain
            elif len(within) == 1:
                names[service, name] = service.capitalize() + plain
            else:
                names[service, name] = service.capitalize() + name.replace(".", "")
    schemas: Json = {}
    for service, document in own.items():
        _rename(
            document, {name: names[service, name] for s, name in names if s == service}
        )
        for name, schema in document["components"]["schemas"].items():
            schemas[names[service, name]] = schema
    return schemas


def _shape(schema: Json) -> str:
    # What a reference leads to has the same short name where it is the same.
    text = json.dumps(schema, sort_keys=True)
    return re.sub(rf'"{_PREFIX}(?:[^"]*\.)?([^".]+)"', r'"\1"', text)


def _rename(found: Any, names: dict[str, str]) -> None:  # noqa: ANN401
    if isinstance(found, list):
        for item in found:
            _rename(item, names)
    elif isinstance(found, dict):
        target = found.get("$ref")
        if isinstance(target, str) and target.startswith(_PREFIX):
            found["$ref"] = _PREFIX + names[target.removeprefix(_PREFIX)]
        for item in found.values():
            _rename(item, names)


# -- Examples ----------------------------------------------------------------------------


def _give_examples(operation: Json, schemas: Json, examples: Json) -> None:
    """Give every JSON body an example and every problem one that operations share."""
    bodies = [operation.get("requestBody", {})]
    for status, response in operation["responses"].items():
        if status < str(_ADMITS):
            bodies.append(response)
        problems = response.pop("x-problems", [])
        if problems:
            content = response["content"]["application/problem+json"]
            content["examples"] = {
                problem["slug"]: {"$ref": f"#/components/examples/{problem['slug']}"}
                for problem in problems
            }
        for problem in problems:
            examples[problem["slug"]] = {
                "summary": problem["title"],
                "value": {
                    "type": f"https://shop.example/docs/problems#{problem['slug']}",
                    "title": problem["title"],
                    "status": int(status),
                    "instance": "urn:request:0199d4a27c1e7cc08f573b1f6f9c2a11",
                },
            }
    for body in bodies:
        for kind, content in body.get("content", {}).items():
            if kind.endswith("json") and "example" not in content:
                content["example"] = _example(content["schema"], schemas, operation)


def _example(schema: Json, schemas: Json, operation: Json) -> Any:  # noqa: ANN401
    try:
        return example(schema, schemas)
    except NoExample as missing:
        raise NoExample(f"{missing} of {operation['operationId']}: {schema}") from None
