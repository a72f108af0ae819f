"""Rooms: which there are, who may be named in one, and who may hold its lock."""

from collections.abc import Collection, Mapping
from typing import Protocol

from flagon_chassis.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
)

from . import domain

NAMED = {
    "products": "catalog:write",
    "categories": "catalog:write",
    "tags": "catalog:write",
    "jobs": "jobs:manage",
}
"""The scope with which people see each other's names in the rooms of a family, and lock
what a room is about. Everybody else is one of a number."""

_EIO = "4"


class Headers(Protocol):
    """Headers of a request, by their names in any case."""

    def get(self, name: str, default: str, /) -> str:
        """Return one."""


class RoomUnknown(Invalid):
    """There is no such room."""


class RoomNotJoined(NotFound):
    """The connection is not in this room."""


class RoomLocked(Conflict):
    """Somebody else holds the lock of this room."""


class TooManyRooms(Invalid):
    """One connection is in as many rooms as it may be."""


class AccountNeeded(Unauthenticated):
    """This room is for those who have signed in."""


class NamesForbidden(Forbidden):
    """Only those who work with this may do that."""


class OriginForeign(Forbidden):
    """A page of another site may not open a WebSocket here."""


class HandshakeMalformed(Invalid):
    """This does not open a WebSocket of Socket.IO version 5."""


class PollingRefused(Invalid):
    """Socket.IO is served over WebSocket alone."""


class MessageUnknown(Invalid):
    """There is no such message."""


class MessageMalformed(Invalid):
    """The message does not match its schema."""


class TooManyMessages(Throttled):
    """The account sends messages faster than it may."""


class SocketsNotServed(Unavailable):
    """This server cannot let go of its connections, as WebSockets need it."""


def check_handshake(query: Mapping[str, str], headers: "Headers") -> None:
    """Make sure that a request opens a WebSocket, in the only way that is served.

    :param query: of the request.
    :raises HandshakeMalformed: it is nothing that a client of Socket.IO sends.
    """
    if query.get("transport") != "websocket" or "sid" in query:
        raise HandshakeMalformed("Send `transport=websocket`, and no `sid`.")
    if query.get("EIO") != _EIO:
        raise HandshakeMalformed(f"Send `EIO={_EIO}`.")
    version = headers.get("Sec-WebSocket-Version", "")
    key = headers.get("Sec-WebSocket-Key", "")
    if version != "13" or not key or not key.isascii():
        raise HandshakeMalformed("Send version 13 and a key (RFC 6455 section 4.2.1).")


def check_origin(origin: str | None, own: str) -> None:
    """Make sure that no page of another site opens a WebSocket with a person's session.

    Browsers let every page connect anywhere, with cookies, and say from where it came.

    :param origin: as the browser says; None for programs, which have no such cookies.
    :param own: scheme, name and port that the request was sent to.
    :raises OriginForeign: it is another one.
    """
    if origin is not None and origin != own:
        raise OriginForeign("Connect from a page of this site.")


def check_room(name: str) -> None:
    """Make sure that there is a room of this name: rooms are topics, one at a time.

    :raises RoomUnknown: there is none; `<topic>/*` is many.
    """
    try:
        domain.check_topics([name], limit=1)
    except domain.TopicUnknown as unknown:
        raise RoomUnknown(unknown.detail, room=name[:100]) from unknown
    if name.endswith("*"):
        raise RoomUnknown("A room is one topic, not all below it.", room=name[:100])


def check_account(room: str, account: str | None) -> None:
    """Make sure that somebody may enter a room, as far as that needs an account.

    :raises AccountNeeded: nobody knows who it is.
    """
    if account is None and domain.needs_account([room]):
        raise AccountNeeded("Connect with a session or an access token.", room=room)


def sees_names(room: str, scopes: Collection[str]) -> bool:
    """Say whether who has these scopes sees who is in a room, and is seen there."""
    return NAMED.get(room.partition("/")[0]) in scopes


def check_names(room: str, scopes: Collection[str]) -> None:
    """Make sure that a caller may say what it does in a room, or lock it.

    :raises NamesForbidden: it may not.
    """
    if not sees_names(room, scopes):
        needed = NAMED.get(room.partition("/")[0])
        raise NamesForbidden(
            f"The scope {needed} is needed." if needed else "Nobody has names here.",
            room=room,
        )


def check_lockable(room: str, scopes: Collection[str]) -> None:
    """Make sure that a caller may lock a room: the form of one thing.

    :raises RoomUnknown: the room is about many things.
    :raises NamesForbidden: the caller may not.
    """
    check_names(room, scopes)
    if "/" not in room:
        raise RoomUnknown("Only one thing's room can be locked.", room=room)
