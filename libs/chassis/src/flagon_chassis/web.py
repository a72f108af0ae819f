"""The Flask app every service starts from, and the way in and out of a view."""

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from http import HTTPStatus
from json import JSONDecodeError
from typing import Any, ClassVar, TypeVar, cast

from apiflask import APIFlask
from flask import Flask, Request, Response, current_app, g, request
from flask.json.provider import DefaultJSONProvider
from flask.sessions import SessionInterface
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, TypeAdapter
from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

from . import health, logs, metrics, problems, sentry, tracing
from .settings import ServiceSettings

T = TypeVar("T", bound=BaseModel)

PATCH_TYPES = ("application/merge-patch+json", "application/json")
"""What a JSON merge patch (RFC 7396) is sent as."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BODY_BYTES = 1 << 20
_REST_BYTES = 16 << 20
"""Largest body that is taken in though nobody wants it: a larger one costs too much."""


class StrictJSON(DefaultJSONProvider):
    """JSON as the databases can keep it: no NaN, no NUL, no lone surrogate, no bomb."""

    sort_keys: ClassVar[bool] = False  # type: ignore[misc]

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the value in `s`.

        :raises ValueError: the text is no JSON, or holds what Postgres cannot store.
        """
        try:
            # UTF-8 alone (RFC 8259 section 8.1), and strictly: the standard library would
            # guess UTF-16, and let encoded halves of surrogate pairs through.
            text = s.decode() if isinstance(s, bytes) else s
            value = super().loads(text, parse_constant=_refuse_constant, **kwargs)
            # Escapes can spell what no text column takes; look only where one is.
            if "\\u" in text:
                _refuse_unstorable(value)
        except RecursionError as error:
            raise ValueError("The JSON is nested too deeply.") from error
        return value


class _App(APIFlask):
    """Looks once, and not for each hook of each request, whether it is a coroutine."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 (APIFlask's)
        self._made_sync = lru_cache(maxsize=256)(super().ensure_sync)
        super().__init__(*args, **options)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as Flask's would."""
        return self._made_sync(func)


class NoSessions(SessionInterface):
    """No cookie is read or written: an API's callers bring a token.

    Flask's own would derive the key of a signature for each request. A service with
    sessions puts its interface in this place.
    """

    def open_session(self, app: Flask, request: Request) -> None:
        """Return none, so that using one is an error."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value.")


def _refuse_unstorable(value: object) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("A text holds the character NUL.")
        value.encode()  # A lone surrogate raises UnicodeEncodeError, a ValueError.
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unstorable(key)
            _refuse_unstorable(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_unstorable(item)


class StrictRequest(Request):
    """A request whose broken JSON is a 400 with a reason, whatever the environment."""

    def on_json_loading_failed(self, e: ValueError | None) -> Any:  # noqa: ANN401
        """Raise what the caller is told about a body that is no JSON."""
        if e is None:
            raise UnsupportedMediaType("Send the body as application/json.")
        reason = e.msg if isinstance(e, JSONDecodeError) else str(e)
        raise BadRequest(f"The body is not usable JSON: {reason}")


def create_app(
    import_name: str,
    settings: ServiceSettings,
    *,
    name: str,
    title: str = "",
    description: str = "",
    openapi: bool = True,
    page: problems.Page | None = None,
    **flask_options: Any,  # noqa: ANN401 (handed to Flask as they are)
) -> APIFlask:
    """Return a Flask app with the chassis fitted and no routes of its own.

    Fitted: request id and trace, JSON logs, metrics, problems, `/livez`, `/readyz`,
    `/metrics`, the gateway's forwarded headers, body limits and base security headers.
    Databases, tokens and rate limits are fitted by the service that uses them.

    :param import_name: the package, for its templates and static files.
    :param name: the service's one word: log field, metric label, Redis key prefix.
    :param title: of the OpenAPI document, which is served at `/openapi.json`.
    :param page: renders errors for people; None for a service without pages.
    """
    logs.configure(name, settings.log_level)
    # An API serves no files; a service with pages names its folder.
    flask_options.setdefault("static_folder", None)
    app = _App(
        import_name,
        title=title or name,
        version="1",
        spec_path="/openapi.json",
        docs_path=cast("str", None),
        enable_openapi=openapi,
        json_errors=False,
        **flask_options,
    )
    app.name = name
    app.secret_key = settings.secret_key.get_secret_value()
    app.session_interface = NoSessions()
    app.json = StrictJSON(app)
    app.request_class = StrictRequest
    app.config["MAX_CONTENT_LENGTH"] = _BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = _BODY_BYTES
    app.config["AUTO_OPERATION_ID"] = True
    app.config["DESCRIPTION"] = description
    # Left to itself the document names the host of the first request for it, to all.
    app.config["SERVERS"] = [{"url": settings.public_url}]
    app.debug = settings.environment == "development" and app.debug
    app.extensions["flagon.settings"] = settings
    logs.init_app(app)
    sentry.init_app(app, settings, name)
    tracing.init(settings, name)
    tracing.instrument_flask(app)
    problems.init_app(app, settings.problems_url, page)
    metrics.init_app(app, name)
    health.init_app(app)
    app.before_request(_refuse_hostile)
    app.after_request(_secure)
    app.after_request(_read_the_rest)
    app.spec_processor(_complete_document)
    # One proxy, the gateway, stands before every service and sets these itself.
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]
    app.wsgi_app = _KnownMethods(app.wsgi_app)  # type: ignore[method-assign]
    return app


class _KnownMethods:
    """Refuse methods that no route has, before they become label values of metrics."""

    def __init__(self, wsgi_app: Callable[..., Any]) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:  # noqa: ANN401
        if environ["REQUEST_METHOD"] not in _METHODS:
            # Not through the app, whose metrics would count the made-up name.
            body = problems.bare(501, "No address here knows this method.")
            refusal = Response(body, 501, mimetype=problems.CONTENT_TYPE)
            return refusal(environ, start_response)
        return self.wsgi_app(environ, start_response)


def _refuse_hostile() -> None:
    view_args = request.view_args or {}
    texts = [request.path, *request.args.keys(), *request.args.values()]
    if any("\0" in text for text in texts) or any(
        isinstance(value, str) and "\0" in value for value in view_args.values()
    ):
        raise BadRequest("The address holds the character NUL.")
    view = _view()
    wanted = getattr(view, "_spec", {}).get("content_type") if view else None
    # What is possible here is asked without a body.
    asks = request.method == "OPTIONS"
    if wanted == "application/json" and not request.is_json and not asks:
        raise UnsupportedMediaType("Send the body as application/json.")


def _view() -> Any:  # noqa: ANN401
    if request.endpoint is None:
        return None
    view = current_app.view_functions[request.endpoint]
    view_class = getattr(view, "view_class", None)
    if view_class is not None:
        return getattr(view_class, request.method.lower(), None)
    return view


def _read_the_rest(response: Response) -> Response:
    """Take in what nobody has read of the body, before the answer.

    A connection that is closed with something left to read is reset, and the answer may be
    lost on the way: the caller, or the gateway, sees a broken connection instead of a 413.
    """
    left = request.content_length or 0
    # Whoever reads a body does it through `stream`.
    if left <= _REST_BYTES and "stream" not in vars(request):
        body = request.environ["wsgi.input"]
        # A caller who is gone needs no answer.
        with suppress(OSError):
            while left > 0 and (part := body.read(min(left, 1 << 16))):
                left -= len(part)
    return response


def _secure(response: Response) -> Response:
    # The gateway sets what is the same for all; these must hold without it too.
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if response.mimetype != "text/html":
        response.headers.setdefault(
            "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
        )
    return response


def csp_nonce() -> str:
    """Return the random value that this response's own scripts and styles carry."""
    if "flagon_nonce" not in g:
        g.flagon_nonce = secrets.token_urlsafe(16)
    return str(g.flagon_nonce)


def body(schema: type[T]) -> T:
    """Return the JSON body of the current request, validated.

    :raises pydantic.ValidationError: answered as a 422 problem with a line per field.
    """
    return schema.model_validate(request.get_json())


def query(schema: type[T]) -> T:
    """Return the query of the current request, validated; a repeated name is refused.

    :raises pydantic.ValidationError: answered as a 422 problem with a line per field.
    """
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise BadRequest(f"Give {', '.join(sorted(repeated))} only once.")
    return schema.model_validate(request.args.to_dict())


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    return TypeAdapter(schema)


def reply(
    schema: Any,  # noqa: ANN401 (a model class or a type such as list[Model])
    value: object,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return `value` as a JSON response shaped by `schema`, encoded once.

    :param value: an instance of the schema, or an object with its attributes.
    """
    adapter = _adapter(schema)
    shaped = adapter.validate_python(value, from_attributes=True)
    return Response(
        adapter.dump_json(shaped), status, headers, mimetype="application/json"
    )


def reply_page(schema: object, items: Sequence[Any], cursor: str | None) -> Response:
    """Return one page of a list that is the caller's own matter."""
    return reply(
        schema,
        {"items": items, "next_cursor": cursor},
        headers={"Cache-Control": "private, no-cache"},
    )


def refuse_other_patches() -> None:
    """Refuse a patch that is no JSON merge patch; to be called before each request.

    :raises UnsupportedMediaType: it is something else.
    """
    if request.method == "PATCH" and request.mimetype not in PATCH_TYPES:
        raise UnsupportedMediaType(f"Send the patch as {PATCH_TYPES[0]}.")


def _complete_document(document: Any) -> Any:  # noqa: ANN401 (OpenAPI, as APIFlask gives it)
    """Add to the OpenAPI document what the code knows: tokens, scopes and problems."""
    components = document.setdefault("components", {})
    components.setdefault("securitySchemes", {})["bearer"] = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
    }
    schemas = components.setdefault("schemas", {})
    for replaced in ("HTTPError", "ValidationError"):
        schemas.pop(replaced, None)
    schemas["Problem"] = _PROBLEM
    for probe in ("/livez", "/readyz", "/metrics"):
        document.get("paths", {}).pop(probe, None)
    for path, method, view in _operations(current_app):
        operation = document.get("paths", {}).get(path, {}).get(method)
        if operation is None:
            continue
        scopes = getattr(view, "flagon_scopes", None)
        if scopes is not None:
            operation["security"] = [{"bearer": list(scopes)}]
            operation["responses"].setdefault("401", {})
            operation["responses"].setdefault("403", {})
        operation["responses"].setdefault("default", {})
        for status, response in operation["responses"].items():
            if status == "default" or status >= "400":
                response["description"] = response.get("description") or _said(status)
                response["content"] = _PROBLEM_CONTENT
    return document


def _said(status: str) -> str:
    return "A problem" if status == "default" else HTTPStatus(int(status)).phrase


def _operations(app: Flask) -> Any:  # noqa: ANN401
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        view = app.view_functions[rule.endpoint]
        view_class = getattr(view, "view_class", None)
        for method in rule.methods or ():
            name = method.lower()
            yield path, name, getattr(view_class, name, None) if view_class else view


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request's id."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "RFC 6901."},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
_PROBLEM_CONTENT = {
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
}

__all__ = ["ResponseReturnValue", "body", "create_app", "csp_nonce", "query", "reply"]
