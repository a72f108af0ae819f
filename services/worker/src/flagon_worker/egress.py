"""Sending webhooks to addresses that callers chose: checked, pinned, bounded."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from .domain import addresses
from .domain.webhooks import Answer
from .settings import Settings

ANSWER_BYTES = 500
"""Of an answer, so many bytes are kept; no more than that is read."""

Resolve = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host."""


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the operating system says.

    :raises OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Hooks:
    """Brings webhooks to their receivers.

    The name is looked up once, each address that it has is checked, and the connection
    goes to the one that was: a name whose address changes in between changes nothing.
    Proxies of the environment are not used, and redirects are not followed.
    """

    def __init__(self, settings: Settings, resolve: Resolve = resolve) -> None:
        self._seconds = settings.webhook_seconds
        self._loopback = settings.webhook_loopback
        self._resolve = resolve

    @cached_property
    def _context(self) -> ssl.SSLContext:
        # The trust store is 10 MB.
        return ssl.create_default_context()

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a webhook and return what came of it; never raises for what it meets."""
        started = time.monotonic()
        status, text, error = None, "", None
        try:
            status, text = self._post(url, headers, body, started + self._seconds)
        except addresses.AddressRefused as refused:
            error = f"The URL {refused}."
        except ssl.SSLError as trouble:
            error = f"TLS failed: {trouble.reason or type(trouble).__name__}."
        except TimeoutError:
            error = f"No answer within {self._seconds:g} s."
        except (OSError, http.client.HTTPException, UnicodeError) as trouble:
            late = time.monotonic() - started >= self._seconds
            error = (
                f"No answer within {self._seconds:g} s."
                if late
                else f"No answer: {type(trouble).__name__}."
            )
        duration_ms = round((time.monotonic() - started) * 1000)
        return Answer(status, duration_ms, text, error)

    def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, ends_at: float
    ) -> tuple[int, str]:
        place = addresses.place(url, loopback=self._loopback)
        found = self._resolve(place.host, place.port)
        # All of them: else whoever owns the name tries until the order suits.
        for address in found:
            addresses.check(address, loopback=self._loopback)
        if not found:
            raise OSError
        self._refuse_inner_rules_outside(place, found[0])
        raw = socket.create_connection((found[0], place.port), timeout=_left(ends_at))
        # Each wait has an end, but a receiver can answer a byte at a time for days.
        handle = raw.dup()
        late = threading.Event()
        watchdog = threading.Timer(_left(ends_at), _hang_up, [handle, late])
        watchdog.daemon = True
        watchdog.start()
        connection = http.client.HTTPConnection(place.host, place.port)
        try:
            connection.sock = raw
            if place.scheme == "https":
                connection.sock = self._context.wrap_socket(
                    raw, server_hostname=place.host
                )
            connection.request(
                "POST", place.target, body, {**headers, "Host": place.authority}
            )
            response = connection.getresponse()
            if late.is_set():
                # To the parser a head that we cut off is a whole one.
                raise TimeoutError
            start = response.read1(ANSWER_BYTES)
            return response.status, _readable(start)
        finally:
            watchdog.cancel()
            connection.close()
            raw.close()
            handle.close()

    def _refuse_inner_rules_outside(self, place: addresses.Place, address: str) -> None:
        """Hold what is allowed for this machine alone against where it leads.

        :raises addresses.AddressRefused: it is elsewhere.
        """
        try:
            addresses.check(address)
        except addresses.AddressRefused:
            return
        addresses.place(f"{place.scheme}://{place.authority}/")


def _left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _hang_up(handle: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        handle.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It is over already.
        return


def _readable(start: bytes) -> str:
    text = start[:ANSWER_BYTES].decode("utf-8", "replace")
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
