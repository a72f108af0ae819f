"""Socket.IO over WebSockets whose connections the server has let go of.

Imported with the first connection of a process: the library is several megabytes, and a
process that nobody opens a WebSocket to should not have to hold it.
"""

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import redis
import structlog
from flask import Flask, current_app, request
from flask_socketio import SocketIO
from socketio.packet import CONNECT, DISCONNECT, EVENT, Packet
from structlog.contextvars import bind_contextvars

from . import messages, presence, telemetry
from .domain import internal_topics
from .frames import GOODBYE, MALFORMED, TAKEN, Pace, WebSocket, accept
from .hub import tune
from .rooms import Lock, Rooms, Seats, State, shown
from .roster import Roster, Subscriber, Ticket
from .settings import Settings

log = structlog.get_logger()

_CLOSE, _PONG, _MESSAGE = "1", "3", "4"
"""Engine.IO's packets, of those that clients send."""
_EVENT_PARTS = 2
"""Its name, and one object."""
_FRAMES_FOR_MESSAGE = 10
"""Frames that a client may send where it may send one message; most are pongs and parts.
Beyond them it is not even told so."""
_OWED_PACKETS = 64
"""Packets that may wait for a client; who lets more wait is behind."""
_TELL_SECONDS = 0.1
"""Changes of a room within this time are told at once."""
_END_SECONDS = 1.0
"""Time that a client has to say goodbye as well."""
_LINGERS = frozenset({"age", "restart", "token-expired", "behind"})
"""Ends after which a client comes back: what it holds waits for it, and goes away by
itself when it does not."""


class Visitor:
    """Who is on the other side of a connection.

    :param account: None for a stranger.
    :param name: what the account is called, where others may see that.
    """

    __slots__ = ("account", "name", "scopes")

    def __init__(
        self, account: str | None, scopes: frozenset[str], name: str | None
    ) -> None:
        self.account = account
        self.scopes = scopes
        self.name = name


class Seat:
    """A connection in a room."""

    __slots__ = ("activity", "room", "token")

    def __init__(self, room: "Room") -> None:
        self.room = room
        self.activity = "viewing"
        self.token: str | None = None
        """Of the lock, where the connection holds it."""


class Room:
    """A room that somebody is in by this process."""

    __slots__ = ("key", "name", "peers", "told", "updating")

    def __init__(self, key: str, name: str) -> None:
        self.key = key
        """What it is called inside: `me` is another room for each account."""
        self.name = name
        """What its clients call it."""
        self.peers: set[Peer] = set()
        self.told: State | None = None
        """What they know."""
        self.updating = threading.Lock()


class Peer(Subscriber):
    """An open WebSocket."""

    __slots__ = (
        "ended_at",
        "engine",
        "id",
        "pace",
        "reason",
        "seats",
        "sid",
        "sockets",
        "visitor",
        "websocket",
    )

    def __init__(
        self, sockets: "Sockets", ticket: Ticket, visitor: Visitor, sock: socket.socket
    ) -> None:
        super().__init__(ticket, sockets.rotate_seconds)
        self.sockets = sockets
        self.visitor = visitor
        self.id = secrets.token_urlsafe(9)
        self.pace = sockets.pace_of(ticket.holder if visitor.account else self.id)
        self.seats: dict[str, Seat] = {}
        """By the names of the rooms."""
        self.sid = ""
        """Socket.IO's name for it; empty until the client has said hello."""
        self.engine: Any = None
        """Engine.IO's side of it."""
        self.reason = ""
        """Why we have ended it."""
        self.ended_at: float | None = None
        self.websocket = WebSocket(
            sock,
            message_bytes_max=sockets.message_bytes_max,
            pace=sockets.pace_of_frames(),
            verdict=self._verdict,
        )

    @property
    def place(self) -> str:
        """Return what the connection is called in rooms."""
        return f"{self.visitor.account} {self.id}" if self.visitor.account else self.id

    def tell(self, text: str) -> None:
        """Send nothing: a WebSocket has no comments."""

    def end(self, reason: str, retry_milliseconds: int | None = None) -> None:
        """Close the connection and, where the client still reads, tell it why."""
        if self.reason:
            return
        self.reason = reason
        self.ended_at = time.monotonic()
        if self.engine is None or not self.sid:
            self.websocket.abort()
            return
        content = {"reason": reason, "retry_milliseconds": retry_milliseconds}
        if not self.behind:
            self.sockets.emit("close", content, self.sid)
        # Not waited for: the client may take nothing any more.
        self.engine.close(wait=False, reason="server disconnect")

    def check_stall(self, now: float) -> None:
        """Break the connection of a client that does not say goodbye."""
        for began in (self.ended_at, self.websocket.closed_at):
            if began is not None and now > began + _END_SECONDS:
                self.websocket.abort()

    @property
    def behind(self) -> bool:
        """Say whether the client has left more unread than it may."""
        return self.engine is not None and self.engine.queue.qsize() > _OWED_PACKETS

    def count_message(self) -> None:
        """Count one against the account.

        :raises presence.TooManyMessages: it is one too many.
        """
        if not self.pace.take():
            raise presence.TooManyMessages(
                "Send the next in a second.", retry_after_seconds=1
            )

    def _verdict(self, text: str) -> str:
        """Say whether a text is one of those packets that Socket.IO can make use of.

        What the library does not understand it logs, with the whole stack, for every
        packet that anybody cares to send; and it keeps attachments without an end.
        """
        if text == _PONG:
            return TAKEN
        if text == _CLOSE:
            return GOODBYE
        if not text.startswith(_MESSAGE):
            return MALFORMED
        try:
            packet = Packet(encoded_packet=text[1:])
        except (ValueError, IndexError, RecursionError):
            return MALFORMED
        if packet.attachment_count or packet.namespace not in {None, "/"}:
            return MALFORMED
        if packet.packet_type == DISCONNECT:
            # From the only namespace that there is.
            return GOODBYE
        if packet.packet_type == CONNECT:
            return MALFORMED if self.sid else TAKEN
        if packet.packet_type == EVENT and self.sid and _is_event(packet.data):
            return TAKEN
        return MALFORMED


class Door:
    """What Engine.IO makes of a request to get a WebSocket: here it is there already."""

    def __init__(self, serve: Callable[[WebSocket], object], _server: object) -> None:
        self._serve = serve

    def __call__(self, environ: dict[str, Any], _start_response: object) -> object:
        """Serve the connection until it ends."""
        return self._serve(environ["flagon.peer"].websocket)


class Sockets:
    """The WebSockets of one process, and what they say to each other.

    :param roster: counts them, within limits.
    :param rooms: who is where, over all processes.
    """

    def __init__(
        self, app: Flask, settings: Settings, roster: Roster, rooms: Rooms
    ) -> None:
        self.rotate_seconds = settings.rotate_seconds
        self.message_bytes_max = settings.message_bytes_max
        self._stall_seconds = settings.stall_seconds
        self._app = app
        self._roster = roster
        self._rooms = rooms
        self._rooms_max = settings.topics_max
        self._refresh_seconds = settings.presence_seconds / 3
        self._messages_per_second = settings.messages_per_second
        self._messages_at_once = settings.messages_at_once
        self._paces: dict[str, Pace] = {}
        self._peers: set[Peer] = set()
        self._local: dict[str, Room] = {}
        self._changed: set[str] = set()
        self._wake = threading.Event()
        silent = logging.getLogger("flagon.socketio")
        # What reaches the library is checked, and what handlers raise is ours: what is
        # left are lines that clients could cause as often as they like.
        silent.setLevel(logging.CRITICAL)
        self._io = SocketIO(
            # Threads are gevent's: what the library calls its gevent mode needs another
            # server.
            async_mode="threading",
            # In the order in which they came: a `leave` must not overtake its `join`.
            async_handlers=False,
            transports=["websocket"],
            ping_interval=settings.heartbeat_seconds,
            ping_timeout=settings.stall_seconds / 2,
            max_http_buffer_size=settings.message_bytes_max,
            # A silent connection ends by its timeout; nobody has to go through all.
            monitor_clients=False,
            manage_session=False,
            # The view has looked at the origin.
            cors_allowed_origins=[],
            json=app.json,
            logger=silent,
            engineio_logger=silent,
        )
        self._io.init_app(None)
        self._server: Any = self._io.server
        # Another WebSocket than the library's own, for which it has no option: see `frames`.
        engine = self._server.eio
        engine._async = {**engine._async, "websocket": Door}  # noqa: SLF001 (there is no option for it)
        self._io.on("connect")(self._greet)
        for name, handle in (
            ("join", self._join),
            ("leave", self._leave),
            ("activity", self._say_activity),
            ("lock", self._take_lock),
            ("unlock", self._free_lock),
        ):
            self._io.on(name)(self._answering(name, handle))
        self._io.on("*")(self._answer_unknown)
        for run in (self._refresh_for_ever, self._listen_for_ever, self._tell_for_ever):
            threading.Thread(target=run, name="presence", daemon=True).start()

    def take(
        self,
        sock: socket.socket,
        ticket: Ticket,
        visitor: Visitor,
        *,
        key: str,
        request_id: str,
    ) -> None:
        """Take a connected socket and serve its client until one of us leaves.

        :param key: of the client's handshake.
        """
        tune(sock, self._stall_seconds)
        peer = Peer(self, ticket, visitor, sock)
        self._roster.enter(peer)
        self._peers.add(peer)
        threading.Thread(
            target=self._serve,
            args=(peer, sock, accept(key), request_id),
            name="websocket",
            daemon=True,
        ).start()

    def pace_of(self, holder: str) -> Pace:
        """Return how often an account, or one stranger's connection, may send messages."""
        pace = self._paces.get(holder)
        if pace is None:
            pace = Pace(self._messages_per_second, self._messages_at_once)
            self._paces[holder] = pace
        return pace

    def pace_of_frames(self) -> Pace:
        """Return how often one connection may send anything at all."""
        return Pace(
            _FRAMES_FOR_MESSAGE * self._messages_per_second,
            _FRAMES_FOR_MESSAGE * self._messages_at_once,
        )

    def emit(self, event: str, content: dict[str, Any], to: str) -> None:
        """Send a message to a client or a room of this process."""
        self._io.emit(event, content, to=to)

    # -- One connection ---------------------------------------------------------------

    def _serve(
        self, peer: Peer, sock: socket.socket, proof: str, request_id: str
    ) -> None:
        bind_contextvars(request_id=request_id)
        try:
            sock.settimeout(self._server.eio.ping_timeout)
            head = (
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Accept: {proof}",
                f"X-Request-ID: {request_id}",
            )
            # Whoever goes before the greeting has left, as below.
            with suppress(OSError):
                sock.sendall("\r\n".join([*head, "", ""]).encode())
                self._server.eio.handle_request(self._environ(peer), lambda *_: None)
        finally:
            self._roster.leave(peer)
            self._peers.discard(peer)
            sock.close()
            reason = peer.reason or peer.websocket.reason or "left"
            if reason != "left":
                telemetry.SOCKETS_DROPPED.labels(reason).inc()
            self._depart(peer, lingers=reason in _LINGERS)
            log.debug("websocket_closed", reason=reason)

    def _environ(self, peer: Peer) -> dict[str, Any]:
        """Return as little of a request as the libraries need: it is kept to the end."""
        return {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/socket.io/",
            "QUERY_STRING": "EIO=4&transport=websocket",
            "SERVER_NAME": "realtime",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_CONNECTION": "upgrade",
            "HTTP_UPGRADE": "websocket",
            "wsgi.url_scheme": "http",
            "flask.app": self._app,
            "flagon.peer": peer,
        }

    def _greet(self, *_credentials: object) -> None:
        peer: Peer = request.environ["flagon.peer"]
        # Flask-SocketIO adds it; the type of a request knows nothing of it.
        sid: str = cast("Any", request).sid
        engine_sid = self._server.manager.eio_sid_from_sid(sid, "/")
        peer.engine = self._server.eio.sockets[engine_sid]
        peer.sid = sid

    def _depart(self, peer: Peer, *, lingers: bool) -> None:
        """Take a connection out of its rooms.

        :param lingers: leave an account's entries and locks to their end, since it is
            about to come back, perhaps to another process.
        """
        for seat in list(peer.seats.values()):
            try:
                self._rise(peer, seat, lingers=lingers)
            except redis.RedisError as error:
                # Its entry goes away by itself.
                log.info("presence_unreachable", error=type(error).__name__)

    # -- Messages ---------------------------------------------------------------------

    def _answering(
        self, name: str, handle: Callable[[Peer, dict[str, Any]], dict[str, Any]]
    ) -> Callable[..., dict[str, Any]]:
        def answer(*arguments: object) -> dict[str, Any]:
            peer: Peer = request.environ["flagon.peer"]
            telemetry.MESSAGES.labels(name or "unknown").inc()
            try:
                peer.count_message()
                return handle(peer, messages.check(name, arguments))
            # As Flask has it for requests: each kind of error has its handler, in the
            # chassis, and what nobody expected is reported there.
            except Exception as error:  # noqa: BLE001 (told and reported)
                told = current_app.handle_user_exception(error)
                response = current_app.make_response(told)
                problem = response.get_json()
                slug = problem["type"].partition("#")[2]
                telemetry.MESSAGES_REFUSED.labels(slug or "crash").inc()
                return {"problem": problem}
            finally:
                if peer.behind:
                    peer.end("behind")

        return answer

    def _answer_unknown(self, name: str, *arguments: object) -> dict[str, Any]:
        def refuse(_peer: Peer, _content: dict[str, Any]) -> dict[str, Any]:
            raise presence.MessageUnknown(f"{name[:100]!r} is none.")

        return self._answering("", refuse)(*arguments)

    def _join(self, peer: Peer, content: dict[str, Any]) -> dict[str, Any]:
        name = content["room"]
        presence.check_room(name)
        visitor = peer.visitor
        presence.check_account(name, visitor.account)
        seat = peer.seats.get(name)
        new = seat is None
        if seat is None:
            if len(peer.seats) >= self._rooms_max:
                raise presence.TooManyRooms(
                    f"At most {self._rooms_max}; leave one first.",
                    limit=self._rooms_max,
                )
            seat = self._sit(peer, name)
        try:
            state = self._renew(seat.room, [peer])
        except redis.RedisError:
            # Who was there before still is: the next renewal says so.
            if new:
                self._stand_up(peer, seat)
            raise
        names = presence.sees_names(name, visitor.scopes)
        return shown(name, state, names=names)

    def _leave(self, peer: Peer, content: dict[str, Any]) -> dict[str, Any]:
        seat = self._seat(peer, content["room"])
        self._rise(peer, seat, lingers=False)
        return {"room": seat.room.name}

    def _say_activity(self, peer: Peer, content: dict[str, Any]) -> dict[str, Any]:
        name = content["room"]
        presence.check_names(name, peer.visitor.scopes)
        seat = self._seat(peer, name)
        seat.activity = content["activity"]
        self._renew(seat.room, [peer])
        return {"room": name, "activity": seat.activity}

    def _take_lock(self, peer: Peer, content: dict[str, Any]) -> dict[str, Any]:
        name = content["room"]
        visitor = peer.visitor
        presence.check_lockable(name, visitor.scopes)
        seat = self._seat(peer, name)
        token = content.get("token") or seat.token or secrets.token_urlsafe(16)
        taken, lock = self._rooms.take_lock(
            seat.room.key, token=token, account=str(visitor.account), name=visitor.name
        )
        if not taken:
            seat.token = None
            raise presence.RoomLocked(
                f"{lock.name or 'Somebody else'} is editing this.",
                room=name,
                holder=_holder(lock),
            )
        seat.token = token
        return {"room": name, "token": token, **_expiry(lock)}

    def _free_lock(self, peer: Peer, content: dict[str, Any]) -> dict[str, Any]:
        name, token = content["room"], content["token"]
        presence.check_lockable(name, peer.visitor.scopes)
        seat = self._seat(peer, name)
        if seat.token == token:
            seat.token = None
        return {"room": name, "released": self._rooms.free_lock(seat.room.key, token)}

    # -- Rooms ------------------------------------------------------------------------

    def _seat(self, peer: Peer, name: str) -> Seat:
        """Return the connection's seat in a room.

        :raises presence.RoomNotJoined: it has none.
        """
        seat = peer.seats.get(name)
        if seat is None:
            raise presence.RoomNotJoined("Send `join` first.", room=name)
        return seat

    def _sit(self, peer: Peer, name: str) -> Seat:
        visitor = peer.visitor
        (key,) = internal_topics(
            [name],
            sub=visitor.account,
            sees_all_jobs="jobs:manage" in visitor.scopes,
        )
        room = self._local.get(key.decode())
        if room is None:
            room = self._local[key.decode()] = Room(key.decode(), name)
            telemetry.ROOMS.inc()
        room.peers.add(peer)
        names = presence.sees_names(name, visitor.scopes)
        self._server.enter_room(peer.sid, _group(room, names=names))
        seat = peer.seats[name] = Seat(room)
        return seat

    def _stand_up(self, peer: Peer, seat: Seat) -> None:
        """Forget a seat, in this process."""
        room = seat.room
        del peer.seats[room.name]
        names = presence.sees_names(room.name, peer.visitor.scopes)
        self._server.leave_room(peer.sid, _group(room, names=names))
        room.peers.discard(peer)
        if not room.peers and self._local.get(room.key) is room:
            del self._local[room.key]
            telemetry.ROOMS.dec()

    def _rise(self, peer: Peer, seat: Seat, *, lingers: bool) -> None:
        """Let a connection leave a room, for everybody to see."""
        self._stand_up(peer, seat)
        if lingers and peer.visitor.account:
            return
        if seat.token is not None:
            self._rooms.free_lock(seat.room.key, seat.token)
        with seat.room.updating:
            self._rooms.update(seat.room.key, Seats(gone=[peer.place]))

    def _renew(self, room: Room, peers: Iterable[Peer]) -> State:
        """Let connections in a room be seen for another while; return who is there.

        :raises redis.RedisError: nobody knows.
        """
        # One after the other: a renewal must not overtake the end of what it renews.
        with room.updating:
            return self._rooms.update(room.key, self._seats(peers, room.name))

    def _seats(self, peers: Iterable[Peer], name: str) -> Seats:
        """Return what is to be told of those connections that are in a room."""
        seats = Seats()
        for peer in peers:
            visitor, seat = peer.visitor, peer.seats.get(name)
            if seat is None or peer.reason:
                continue
            if visitor.account is None:
                seats.strangers.append(peer.place)
                continue
            seats.accounts.append(peer.place)
            if presence.sees_names(name, visitor.scopes):
                person = (visitor.account, visitor.name, seat.activity)
                seats.people[peer.place] = person
        return seats

    def _refresh_for_ever(self) -> None:
        while True:
            time.sleep(self._refresh_seconds)
            for room in list(self._local.values()):
                try:
                    state = self._renew(room, room.peers)
                except redis.RedisError as error:
                    log.warning("presence_unreachable", error=type(error).__name__)
                    break
                self._tell(room, state)
            self._forget_paces()

    def _forget_paces(self) -> None:
        """Forget how fast those were who are gone, once that makes no difference."""
        used = {id(peer.pace) for peer in self._peers}
        for holder, pace in list(self._paces.items()):
            if pace.rested and id(pace) not in used:
                del self._paces[holder]

    def _listen_for_ever(self) -> None:
        for key in self._rooms.changes():
            self._changed.update(self._local if key is None else {key})
            self._wake.set()

    def _tell_for_ever(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            keys, self._changed = self._changed, set()
            for room in [self._local[key] for key in keys if key in self._local]:
                try:
                    self._tell(room, self._rooms.look(room.key))
                except redis.RedisError as error:
                    # The next renewal tells it.
                    log.info("presence_unreachable", error=type(error).__name__)
            # However many come and go, telling it takes no more than a part of the time.
            time.sleep(max(_TELL_SECONDS, 3 * (time.monotonic() - began)))

    def _tell(self, room: Room, state: State) -> None:
        """Tell the clients of a room what has changed."""
        if state == room.told:
            return
        room.told = state
        for peer in list(room.peers):
            if peer.behind:
                peer.end("behind")
        for names in (False, True):
            content = shown(room.name, state, names=names)
            self.emit("presence", content, _group(room, names=names))


def _is_event(content: object) -> bool:
    """Say whether this is the name of an event, with what comes with it or without."""
    return (
        isinstance(content, list)
        and 0 < len(content) <= _EVENT_PARTS
        and isinstance(content[0], str)
        # The library's own, which a client must not be able to cause.
        and content[0] not in {"connect", "disconnect", "*"}
    )


def _group(room: Room, *, names: bool) -> str:
    """Return what Socket.IO calls those clients of a room that are told the same."""
    return f"{room.key} {'names' if names else 'count'}"


def _holder(lock: Lock) -> dict[str, Any]:
    return {"id": lock.id, "name": lock.name, **_expiry(lock)}


def _expiry(lock: Lock) -> dict[str, float]:
    return {"expires_in_seconds": lock.expires_in_seconds}
