"""Telling clients that a sign-in session ended, until they know (Back-Channel Logout)."""

from http import HTTPStatus
from typing import Protocol
from uuid import UUID

from .deliveries import NotYet

_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class Auth(Protocol):
    """Who knows the notices and signs the tokens."""

    def compose_logout(self, notice_id: UUID) -> tuple[str, str] | None:
        """Return where a notice goes and its token; None when it is over."""

    def logout_delivered(self, notice_id: UUID) -> None:
        """Take down that the client knows."""

    def logout_refused(self, notice_id: UUID, status: int) -> None:
        """Take down that the client would not hear it."""


class Clients(Protocol):
    """Whom the notices are for."""

    def post_logout(self, uri: str, token: str) -> int:
        """Bring a logout token to a client and return the status of its answer."""


def deliver(auth: Auth, clients: Clients, notice_id: UUID) -> str:
    """Bring one notice to its client and return `delivered` or `over`.

    Safe to run twice: ending a session that has ended changes nothing. Auth decides when
    it is too late, and writes that down.

    :raises NotYet: neither; to be tried again.
    """
    composed = auth.compose_logout(notice_id)
    if composed is None:
        return "over"
    status = clients.post_logout(*composed)
    # 204 is what some frameworks make of the 200 that is asked for (section 2.8).
    if status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}:
        auth.logout_delivered(notice_id)
        return "delivered"
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING:
        # 400 means that the token was not right or that the logout failed: the first may
        # be old keys. Auth counts these, and gives up before long.
        auth.logout_refused(notice_id, status)
    raise NotYet(f"the client answered {status}")
