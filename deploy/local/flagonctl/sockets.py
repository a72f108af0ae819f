"""Sockets that the supervisor holds for those that serve, so that two can share one.

A second process that binds the address itself, with SO_REUSEPORT, would have a queue of its
own, and what waits in there is reset when it stops listening. Two processes on one socket
take from one queue: whoever stops leaves what waits to the other.
"""

import socket

_BACKLOG = 4096
"""Connections that may wait: as many as realtime asks for, whose clients come at once."""


class Sockets:
    """Listening sockets by their address, each as long as somebody uses it."""

    def __init__(self) -> None:
        self._open: dict[str, socket.socket] = {}
        self._users: dict[str, str] = {}

    def take(self, address: str, user: str) -> int | None:
        """Return the descriptor of the socket at an address, made if there is none.

        :param user: name of the process that uses it until `leave`.
        :returns: None when the address is taken; the process then says so in its log.
        """
        self._users[user] = address
        if address not in self._open:
            host, _, port = address.rpartition(":")
            found = socket.socket()
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The children of a killed process hold its socket a moment longer.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                found.bind((host, int(port)))
                found.listen(_BACKLOG)
            except OSError:
                found.close()
                return None
            self._open[address] = found
        return self._open[address].fileno()

    def leave(self, user: str) -> None:
        """Note that a process uses its socket no more; the last one closes it.

        Whoever comes then is refused at once instead of waiting for nobody.
        """
        address = self._users.pop(user, None)
        if address in self._open and address not in self._users.values():
            self._open.pop(address).close()
