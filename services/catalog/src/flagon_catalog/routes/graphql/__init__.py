"""The GraphQL API: it reads, and shows what REST shows to the same caller."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import strawberry
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request
from flask.views import MethodView
from graphql import ExecutionResult, GraphQLError, GraphQLSchema, execute_sync
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from pydantic.config import JsonDict
from pydantic_core import to_json
from strawberry.schema.config import StrawberryConfig
from structlog.contextvars import bind_contextvars
from werkzeug.exceptions import BadRequest, NotAcceptable

from flagon_catalog.clients import PersistedDocuments
from flagon_catalog.routes import WRITE, answered, refuse_twice
from flagon_catalog.routes.reviews import reader_of
from flagon_catalog.settings import Settings
from flagon_chassis import auth, metrics
from flagon_chassis.db import reading
from flagon_chassis.errors import Failure
from flagon_chassis.problems import InvalidRequest, field_errors

from . import types
from .documents import Documents, PersistedQueryNotFound, QueryInvalid
from .levels import Asker
from .weight import Limits

PATH = "/api/v1/graphql"
GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
COSTS = (1, 5, 10, 50, 100, 500, 1000, 5000)

bp = APIBlueprint("graphql", __name__, url_prefix=PATH, tag="GraphQL")

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[_A-Za-z][_0-9A-Za-z]{0,99}$")]


class Persisted(BaseModel, extra="forbid", strict=True, frozen=True):
    """A document by its hash, as Apollo's clients send it."""

    version: int = Field(ge=1, le=1)
    sha256Hash: Hash  # noqa: N815 (the protocol's own name)


class Extensions(BaseModel, extra="ignore", strict=True, frozen=True):
    """What a request says beside the query; what is not known does not matter."""

    persistedQuery: Persisted | None = None  # noqa: N815 (the protocol's own name)


_ASKED: JsonDict = {
    "query": "query Newest($first: Int) {"
    " products(first: $first) { nodes { name priceMinor } } }",
    "variables": {"first": 2},
}
_TOLD: JsonDict = {
    "data": {
        "products": {
            "nodes": [
                {"name": "Mug, blue", "priceMinor": 950},
                {"name": "Mug, red", "priceMinor": 950},
            ]
        }
    },
    "extensions": {"cost": {"requested": 5, "maximum": 5000}},
}


class GraphQLRequest(
    BaseModel,
    extra="forbid",
    strict=True,
    frozen=True,
    json_schema_extra={"examples": [_ASKED]},
):
    """A request of GraphQL over HTTP."""

    query: str | None = Field(
        default=None,
        description="The document; left out where its hash is known.",
        examples=["{ products(first: 3) { nodes { name priceMinor } } }"],
    )
    operationName: Name | None = None  # noqa: N815 (the protocol's own name)
    variables: dict[str, Any] | None = None
    extensions: Extensions | None = None


class GraphQLQuery(BaseModel, extra="forbid", frozen=True):
    """The same in an address, for documents that are known by their hash."""

    operationName: Name | None = None  # noqa: N815 (the protocol's own name)
    variables: str | None = Field(
        default=None, max_length=4000, description="A JSON object"
    )
    extensions: str = Field(
        max_length=1000,
        description="A JSON object with `persistedQuery`",
        examples=['{"persistedQuery": {"version": 1, "sha256Hash": "…"}}'],
    )


class GraphQLAnswer(BaseModel, json_schema_extra={"examples": [_TOLD]}):
    """The answer of GraphQL over HTTP."""

    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = Field(
        default=[],
        description="`extensions.code` is the last part of a problem's type.",
    )
    extensions: dict[str, Any] = Field(
        default={}, description="`cost`: what the query costs, and may cost."
    )


def schema() -> strawberry.Schema:
    """Return the schema."""
    return strawberry.Schema(
        types.Query, config=StrawberryConfig(scalar_map=types.SCALARS)
    )


def init_app(app: APIFlask, settings: Settings) -> None:
    """Give the app what the routes need: schema, limits and persisted documents."""
    # Strawberry makes the schema; parsing, checking and executing are graphql-core's own
    # functions, in our order. It has no public name for it.
    core: GraphQLSchema = schema()._schema  # noqa: SLF001
    app.extensions["flagon.graphql"] = (
        core,
        Documents(
            core,
            PersistedDocuments(
                settings.redis_cache_url.get_secret_value(),
                keep_seconds=settings.graphql_persisted_seconds,
            ),
            limits=Limits(
                cost=settings.graphql_cost_max,
                depth=settings.graphql_depth_max,
                fields=settings.graphql_fields_max,
                aliases=settings.graphql_aliases_max,
            ),
            tokens_max=settings.graphql_tokens_max,
            bytes_max=settings.graphql_document_bytes_max,
            introspection=settings.environment == "development",
            only_shipped=settings.graphql_only_persisted,
        ),
    )


@bp.before_request
def prepare() -> None:
    """Refuse what is no request of GraphQL."""
    refuse_twice()


class Queries(MethodView):
    """Whatever is asked for."""

    @auth.open_route
    @bp.doc(operation_id="query_graphql_by_hash")
    @bp.input(GraphQLQuery, location="query", arg_name="asked")
    @bp.output(GraphQLAnswer)
    def get(self, asked: GraphQLQuery) -> Response:
        """Read with a GraphQL document that is known by its hash; caches may keep this."""
        given = {"variables": asked.variables, "extensions": asked.extensions}
        return _respond(
            GraphQLRequest.model_validate(
                {
                    "operationName": asked.operationName,
                    **{name: _parsed(name, text) for name, text in given.items()},
                }
            )
        )

    @auth.open_route
    @bp.doc(operation_id="query_graphql")
    @bp.input(GraphQLRequest, arg_name="asked")
    @bp.output(GraphQLAnswer)
    def post(self, asked: GraphQLRequest) -> Response:
        """Read with GraphQL.

        What cannot be carried out is told in `errors`, with status 200 for who accepts
        `application/json` and with its own for `application/graphql-response+json`.
        """
        return _respond(asked)


bp.add_url_rule("", view_func=Queries.as_view("queries"))


def _respond(asked: GraphQLRequest) -> Response:
    media = _accepted()
    caller = auth.caller_if_any(when_redis_down="allow")
    hidden = caller is not None and WRITE in caller.scopes
    named = asked.extensions and asked.extensions.persistedQuery
    if asked.query is None and named is None:
        raise InvalidRequest("Send `query`, or the hash of a known document.")
    core, documents = _parts()
    bind_contextvars(graphql_operation=asked.operationName)
    try:
        document, weight = documents.find(
            asked.query,
            named.sha256Hash if named else None,
            asked.variables or {},
            asked.operationName,
        )
    except Failure as failure:
        _count("refused", "other")
        refusal = {"errors": [_from_failure(failure)]}
        return _answered(refusal, failure.status, media, private=True)
    bind_contextvars(graphql_cost=weight.cost)
    with reading() as session:
        asker = Asker(session=session, hidden=hidden, reader=reader_of(caller))
        result = execute_sync(
            core,
            document.ast,
            context_value=asker,
            variable_values=asked.variables,
            operation_name=asked.operationName,
            max_coercion_errors=10,
            hide_suggestions=not documents.introspection,
        )
    answer, status = _shown(result)
    settings = current_app.extensions["flagon.settings"]
    answer["extensions"] = {
        "cost": {"requested": weight.cost, "maximum": settings.graphql_cost_max}
    }
    _count("failed" if result.errors else "answered", documents.label(document))
    metrics.histogram(
        "flagon_catalog_graphql_cost", "What GraphQL queries cost.", buckets=COSTS
    ).observe(weight.cost)
    private = caller is not None or request.method != "GET"
    return _answered(answer, status, media, private=private)


def _parts() -> tuple[GraphQLSchema, Documents]:
    parts: tuple[GraphQLSchema, Documents] = current_app.extensions["flagon.graphql"]
    return parts


def _shown(result: ExecutionResult) -> tuple[dict[str, Any], int]:
    """Return what was found, and the status of it.

    :raises Exception: what no caller could have expected, for the chassis to tell.
    """
    answer: dict[str, Any] = {}
    if result.errors:
        answer["errors"] = [_error(error) for error in result.errors]
        if result.data is None and all(error.path is None for error in result.errors):
            # Nothing was begun: the variables or the operation's name do not fit.
            return answer, QueryInvalid.status
    answer["data"] = result.data
    return answer, HTTPStatus.OK


def _error(error: GraphQLError) -> dict[str, Any]:
    """Return one error of an execution as the specification writes it."""
    cause = error.original_error
    if isinstance(cause, Failure):
        told = _from_failure(cause)
    elif isinstance(cause, ValidationError):
        told = _from_failure(
            InvalidRequest("An argument is not usable.", errors=_arguments(cause))
        )
    elif cause is None or error.path is None:
        # Without a path it is about the variables, and was found before the execution.
        told = _from_failure(QueryInvalid(error.message))
    else:
        raise cause
    if error.locations:
        told["locations"] = [
            {"line": place.line, "column": place.column} for place in error.locations
        ]
    if error.path:
        told["path"] = error.path
    return told


def _from_failure(failure: Failure) -> dict[str, Any]:
    # Apollo's clients know this one by its message.
    unknown = isinstance(failure, PersistedQueryNotFound)
    message = type(failure).__name__ if unknown else failure.detail or failure.title()
    settings = current_app.extensions["flagon.settings"]
    slug = failure.slug()
    return {
        "message": message,
        "extensions": {
            "code": slug,
            "type": f"{settings.problems_url}#{slug}",
            "title": failure.title(),
            **failure.extra,
        },
    }


_ARGUMENTS = {"limit": "first", "cursor": "after", "tag": "tags"}
"""What arguments are called in REST, and here."""


def _arguments(error: ValidationError) -> list[dict[str, str]]:
    """Return what is wrong with each argument, named as GraphQL names it."""
    found = field_errors(error)
    for item in found:
        first, *rest = item["pointer"].removeprefix("#/").split("/")
        head, *words = _ARGUMENTS.get(first, first).split("_")
        name = head + "".join(word.title() for word in words)
        item["pointer"] = "#/" + "/".join([name, *rest])
    return found


def _count(outcome: str, operation: str) -> None:
    metrics.counter(
        "flagon_catalog_graphql", "GraphQL requests.", "outcome", "operation"
    ).labels(outcome, operation).inc()


def _accepted() -> str:
    """Return the media type to answer in.

    :raises NotAcceptable: the client takes neither.
    """
    if "Accept" not in request.headers:
        return GRAPHQL
    best = request.accept_mimetypes.best_match([GRAPHQL, JSON])
    if best is None:
        raise NotAcceptable(f"Accept {GRAPHQL} or {JSON}.")
    return best


def _answered(
    answer: Mapping[str, Any], status: int, media: str, *, private: bool
) -> Response:
    failed = "errors" in answer
    # Clients of the older type take every status but 200 for a broken server.
    shown = status if media == GRAPHQL else HTTPStatus.OK
    response = answered(to_json(answer), shown, hidden=private)
    response.content_type = media
    response.headers["Vary"] = "Accept, Authorization"
    if failed:
        response.headers["Cache-Control"] = "no-store"
    return response


def _parsed(name: str, text: str | None) -> Any:  # noqa: ANN401 (JSON)
    """Return the JSON in a part of an address."""
    if text is None:
        return None
    try:
        return current_app.json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{name} is not usable JSON.") from error
