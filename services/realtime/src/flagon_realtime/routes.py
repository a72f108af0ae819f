"""`/api/v1/events`: the platform's events as they happen, and those of clients."""

import sys
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from apiflask import APIBlueprint, APIFlask
from flask import current_app, request
from flask.typing import ResponseReturnValue

from flagon_chassis import auth, streams, tracing
from flagon_chassis.auth import Caller
from flagon_chassis.web import reply

from . import domain
from .ring import Interest
from .roster import Grant, Ticket
from .schemas import NewEvent, PublishedEvent

if TYPE_CHECKING:
    from .settings import Settings
    from .station import Station

bp = APIBlueprint("events", __name__, url_prefix="/api/v1")

_RESPONSES: Any = {
    200: {
        "description": "Server-sent events, without an end: `event` is the CloudEvents"
        " type, `data` the envelope, `id` the point to resume from. `event: gap` says"
        " that events are missing; `event: skipped` how many were left out because of"
        " `latest`; `event: close` tells why the server ends the stream.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    422: {"description": "A topic, a type or the last event id is not one of ours"},
    429: {"description": "Too many streams of one account or address"},
    503: {"description": "The process is full, starting or stopping"},
}
_PUBLISH_RESPONSES: Any = {
    413: {"description": "The event is too large"},
    422: {"description": "The id or the key was used for another event"},
    503: {"description": "The stream cannot be reached"},
}
_PARAMETERS: Any = [
    {
        "name": "topic",
        "in": "query",
        "required": True,
        "description": "What to follow; may be repeated. `<topic>/*` is all that is"
        " below a topic.",
        "schema": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "examples": ["products", "jobs/*"]},
        },
    },
    {
        "name": "type",
        "in": "query",
        "required": False,
        "description": "Types of events to be sent, all others are not; may be repeated."
        " With `*` at its end it is the beginning of types.",
        "schema": {
            "type": "array",
            "items": {
                "type": "string",
                "examples": ["market.flagon.product.changed.v1", "market.flagon.job.*"],
            },
        },
    },
    {
        "name": "snapshot",
        "in": "query",
        "required": False,
        "description": "`1`: first the newest event of each type about each subject, as"
        " far back as events are kept in memory, then `event: snapshot`, then what comes."
        " After an id it is what was missed, then `event: snapshot`.",
        "schema": {"type": "string", "enum": ["0", "1"]},
    },
    {
        "name": "latest",
        "in": "query",
        "required": False,
        "description": "`1`: whenever the stream is behind, events that a later one of the"
        " same type about the same subject makes old are left out; how many they were says"
        " `event: skipped`.",
        "schema": {"type": "string", "enum": ["0", "1"]},
    },
    {
        "name": "last_event_id",
        "in": "query",
        "required": False,
        "description": "The id of the last event that is known, to go on after it.",
        "schema": {"type": "string"},
    },
    {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "The same, as browsers send it when they connect again.",
        "schema": {"type": "string"},
    },
]


def complete_document(app: APIFlask) -> None:
    """Add to the OpenAPI document what the view reads itself."""
    chassis = app.spec_callback

    def complete(document: Any) -> Any:  # noqa: ANN401 (OpenAPI, as APIFlask gives it)
        events = document["paths"][f"{bp.url_prefix}/events"]["get"]
        events["parameters"] = _PARAMETERS
        return chassis(document) if chassis else document

    app.spec_processor(complete)


@bp.get("/events")
@bp.doc(summary="Follow events", responses=_RESPONSES)
@auth.open_route
def follow_events() -> ResponseReturnValue:
    """Send the events of the topics in `topic` from now, or from an id, on."""
    station: Station = current_app.extensions["flagon.station"]
    settings: Settings = current_app.extensions["flagon.settings"]
    names = request.args.getlist("topic")
    domain.check_topics(names, limit=settings.topics_max)
    # A browser that reconnects sends the header beside its first address: it is newer.
    after = domain.parse_position(
        request.headers.get("Last-Event-ID") or request.args.get("last_event_id", "")
    )
    types, prefixes = domain.split_types(
        request.args.getlist("type"), limit=settings.topics_max
    )
    snapshot = domain.wants_snapshot(request.args.get("snapshot", ""))
    latest = domain.wants_latest(request.args.get("latest", ""))
    caller = account() if domain.needs_account(names) else auth.caller_if_any()
    if caller is None:
        return station.open(
            Ticket(
                interest=Interest(domain.internal_topics(names), types, prefixes),
                holder=f"address {request.remote_addr}",
                limit=settings.connections_per_address,
                after=after,
                snapshot=snapshot,
                latest=latest,
            )
        )
    topics = domain.internal_topics(
        names, sub=caller.sub, sees_all_jobs="jobs:manage" in caller.scopes
    )
    return station.open(
        Ticket(
            interest=Interest(topics, types, prefixes),
            holder=f"account {caller.sub}",
            limit=settings.connections_per_account,
            grant=grant_of(caller),
            after=after,
            snapshot=snapshot,
            latest=latest,
        )
    )


@bp.post("/events")
@auth.requires("events:write")
@bp.doc(summary="Publish an event", responses=_PUBLISH_RESPONSES)
@bp.input(NewEvent, arg_name="event")
@bp.output(PublishedEvent, 201)
def publish_event(event: NewEvent) -> ResponseReturnValue:
    """Add an event of a trusted client to the stream, once for each id."""
    station: Station = current_app.extensions["flagon.station"]
    caller = auth.caller()
    client = caller.client_id
    domain.check_publisher(
        sub=caller.sub, client_id=client, session=caller.sid or caller.gid
    )
    key = domain.parse_key(request.headers.get("Idempotency-Key"))
    domain.check_namespace(client, event.type, event.topics)
    identity = domain.event_id(client, event.id)
    names = [_digest("id", client, event.id)]
    if key is not None:
        names.append(_digest("key", client, key))
    entry = streams.encode(
        identity, event.type, _envelope(event, client, str(identity))
    )
    # A client's clock is no measure of ours.
    del entry["time"]
    added, position = station.append(
        entry,
        names=names,
        digest=sha256(event.model_dump_json().encode()).hexdigest(),
    )
    headers = {} if added else {"Idempotent-Replayed": "true"}
    told = PublishedEvent(id=identity, position=position)
    return reply(PublishedEvent, told, 201, headers)


def _envelope(event: NewEvent, client: str, identity: str) -> dict[str, Any]:
    """Return the event as followers get it: who it is from, we say."""
    moment = (event.time or datetime.now(UTC)).astimezone(UTC)
    traceparent = tracing.current_traceparent()
    return {
        "specversion": event.specversion,
        "id": identity,
        "source": f"/clients/{client}",
        "type": event.type,
        "subject": event.subject,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": event.datacontenttype,
        "data": event.data,
        "topics": event.topics,
        **({"traceparent": traceparent} if traceparent else {}),
    }


def _digest(*parts: str) -> str:
    """Return a name of fixed length for what a client sent."""
    return sha256("\0".join(parts).encode()).hexdigest()


@bp.before_request
def bound_events() -> None:
    """Let a body be no larger than an event may be."""
    if request.endpoint == "events.publish_event":
        settings: Settings = current_app.extensions["flagon.settings"]
        request.max_content_length = settings.publish_bytes_max


@auth.requires()
def account() -> Caller:
    """Return who is asking, who must be somebody."""
    return auth.caller()


def grant_of(caller: Caller) -> Grant:
    """Return what may end the token of a caller, and so what was opened with it."""
    return Grant(
        sub=caller.sub,
        jti=str(caller.claims["jti"]),
        sid=caller.sid,
        gid=caller.gid,
        # One string for all streams: there are few keys.
        kid=sys.intern(caller.kid),
        issued_at=int(caller.claims["iat"]),
        expires_at=caller.expires_at,
    )
