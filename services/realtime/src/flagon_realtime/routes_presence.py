"""`/socket.io/` and `/api/v1/presence`: who else is here."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from apiflask import APIBlueprint
from flask import Response, current_app, request
from flask.typing import ResponseReturnValue
from gunicorn.workers.base_async import ALREADY_HANDLED

from flagon_chassis import auth
from flagon_chassis.logs import request_id
from flagon_chassis.web import reply

from . import domain, presence
from .ring import Interest
from .rooms import shown
from .roster import Ticket
from .routes import account, grant_of
from .schemas import PresenceView, RoomQuery
from .stream import handed_socket

if TYPE_CHECKING:
    from .settings import Settings
    from .station import Station

bp = APIBlueprint("presence", __name__)

_RESPONSES: Any = {
    422: {"description": "There is no such room"},
    503: {"description": "Nobody knows at the moment"},
}


class SocketResponse(Response):
    """A WebSocket: its connection goes to those of the process, and the request ends."""

    def __init__(
        self, station: "Station", ticket: Ticket, caller: auth.Caller | None
    ) -> None:
        super().__init__(status=101)
        self._station = station
        self._ticket = ticket
        self._caller = caller
        self._key = request.headers["Sec-WebSocket-Key"]
        self._request_id = request_id()

    def __call__(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],  # noqa: ARG002 (WSGI)
    ) -> Iterable[bytes]:
        """Answer one request as WSGI has it."""
        self._station.take_socket(
            environ, self._ticket, self._caller, self._key, self._request_id
        )
        # Compared by identity: the worker knows it as "do nothing more".
        handled: Iterable[bytes] = ALREADY_HANDLED
        return handled


@bp.get("/socket.io/")
@bp.doc(hide=True)
@auth.open_route
def refuse_polling() -> ResponseReturnValue:
    """Say that long polling is not served: it would need sticky sessions."""
    raise presence.PollingRefused("Connect with `transports: ['websocket']`.")


@bp.get("/socket.io/", websocket=True)
@bp.doc(hide=True)
@auth.open_route
def open_socket() -> ResponseReturnValue:
    """Open a WebSocket that speaks Socket.IO."""
    station: Station = current_app.extensions["flagon.station"]
    settings: Settings = current_app.extensions["flagon.settings"]
    presence.check_handshake(request.args, request.headers)
    presence.check_origin(request.headers.get("Origin"), request.host_url.rstrip("/"))
    caller = auth.caller_if_any()
    if handed_socket(request.environ) is None:
        raise presence.SocketsNotServed("Run it as the README says.")
    if caller is None:
        ticket = Ticket(
            interest=Interest(frozenset()),
            holder=f"address {request.remote_addr}",
            limit=settings.connections_per_address,
        )
    else:
        ticket = Ticket(
            interest=Interest(frozenset()),
            holder=f"account {caller.sub}",
            limit=settings.connections_per_account,
            grant=grant_of(caller),
        )
    station.check_socket(ticket)
    return SocketResponse(station, ticket, caller)


@bp.get("/api/v1/presence")
@bp.doc(summary="See who is in a room", responses=_RESPONSES)
@auth.open_route
@bp.input(RoomQuery, location="query", arg_name="asked")
@bp.output(PresenceView)
def find_presence(asked: RoomQuery) -> ResponseReturnValue:
    """Return how many are in a room, and who, for those who work with it."""
    station: Station = current_app.extensions["flagon.station"]
    presence.check_room(asked.room)
    caller = account() if domain.needs_account([asked.room]) else auth.caller_if_any()
    scopes = caller.scopes if caller else frozenset()
    (key,) = domain.internal_topics(
        [asked.room],
        sub=caller.sub if caller else None,
        sees_all_jobs="jobs:manage" in scopes,
    )
    state = station.rooms.look(key.decode())
    names = presence.sees_names(asked.room, scopes)
    return reply(PresenceView, shown(asked.room, state, names=names))
