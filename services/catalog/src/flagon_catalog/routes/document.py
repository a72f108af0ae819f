"""What the OpenAPI document says beyond schemas: headers and conditional requests."""

from typing import Any

from apiflask import APIFlask

from . import graphql, lines
from .formats import TYPES

_HEADERS = {
    "Idempotency-Key": "Makes the request safe to repeat: 1 to 200 visible ASCII"
    " characters, remembered for 24 hours with the answer.",
    "If-Match": "The ETag of the version that the change was made to.",
    "If-None-Match": "The ETag that the caller has; a 304 when it is still current.",
}


_REFUSED = {
    "errors": [
        {
            "message": "Send the SHA-256 of the very text.",
            "extensions": {"code": "persisted-query-mismatch"},
        }
    ]
}


def init_app(app: APIFlask) -> None:
    """Complete the app's OpenAPI document."""
    chassis = app.spec_callback

    def complete(document: Any) -> Any:  # noqa: ANN401 (OpenAPI, as APIFlask gives it)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _complete(path, method, operation)
        whole: Any = chassis(document) if chassis else document
        for operation in whole["paths"][graphql.PATH].values():
            # What is wrong with a document is told as its answer would be.
            responses = operation["responses"]
            own = responses["200"]["content"][graphql.GRAPHQL]
            responses["422"]["content"] = {
                **responses["422"]["content"],
                graphql.GRAPHQL: {"schema": own["schema"], "example": _REFUSED},
            }
        return whole

    app.spec_processor(complete)


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    parameters, responses = operation["parameters"], operation["responses"]
    if path == graphql.PATH:
        # It makes nothing, so there is nothing to repeat; both types have one form.
        content = responses["200"]["content"]
        content[graphql.GRAPHQL] = content[graphql.JSON]
        responses["406"] = {"description": "None of the accepted types is offered"}
        return
    for parameter in parameters:
        if parameter["in"] == "path" and parameter["name"].endswith("_id"):
            parameter["schema"]["format"] = "uuid"
    responses.setdefault(
        "406", {"description": "None of the accepted types is offered"}
    )
    for parameter in parameters:
        if parameter["name"] == "format":
            _offer(responses["200"], parameter["schema"])
    # What ends in a word below one resource is a list of it, or done to it.
    single, within = path.endswith("}"), "{" in path
    done = method == "post" and within and "428" in responses
    if done:
        parameters.append(_header("If-Match", required=True))
    elif method == "post" and path != lines.PATH:
        parameters.append(_header("Idempotency-Key", required=False))
        responses.setdefault("409", {"description": "The same request is under way"})
    elif single and method == "get":
        parameters.append(_header("If-None-Match", required=False))
    elif single:
        parameters.append(_header("If-Match", required=True))
    for status in ("200", "201"):
        if status in responses and (single or done or status == "201"):
            responses[status].setdefault("headers", {})["ETag"] = {
                "description": "This version, for `If-Match` and `If-None-Match`.",
                "schema": {"type": "string"},
            }
    if "201" in responses:
        responses["201"]["headers"]["Location"] = {
            "description": "Where it is from now on.",
            "schema": {"type": "string", "format": "uri-reference"},
        }


def _offer(response: dict[str, Any], schema: dict[str, Any]) -> None:
    """Say in which media types a list comes."""
    offered = next(part["enum"] for part in schema["anyOf"] if "enum" in part)
    content = response.setdefault("content", {})
    if "json" not in offered:
        content.clear()
    for name in offered:
        content.setdefault(TYPES[name], {"schema": {"type": "string"}})


def _header(name: str, *, required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": _HEADERS[name],
        "schema": {"type": "string"},
    }
