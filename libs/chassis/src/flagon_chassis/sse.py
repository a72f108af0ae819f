"""Server-sent events as a program reads them: resumed, backed off, honest about gaps.

    with sse.Stream("http://localhost:8080", ["products/*"]) as stream:
        for found in stream:
            if isinstance(found, sse.Gap):
                ...  # Something is missing: read the state anew.
            elif isinstance(found, sse.Event):
                print(found.type, found.data)

It uses nothing else of the chassis.
"""

import json
import random
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import httpx2

FIRST_PAUSE_SECONDS = 1.0
"""Before the first attempt to connect again, until the server says otherwise."""
LONGEST_PAUSE_SECONDS = 30.0
SILENCE_SECONDS = 50.0
"""After three missed heartbeats the connection is taken for dead."""
LINE_BYTES_MAX = 8 * 1024 * 1024

_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which the same question may be answered."""


class Refused(Exception):
    """The server will not open this stream, now or later.

    :param problem: the RFC 9457 problem; empty when none came.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        detail = problem.get("detail") or problem.get("title") or ""
        super().__init__(f"{status} {detail}".strip())
        self.status = status
        self.problem = problem


class _Broken(Exception):
    """This connection is of no more use; another one may be.

    :param pause_seconds: the least time to wait, where the server says one.
    """

    def __init__(self, reason: str, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


@dataclass(frozen=True)
class Event:
    """One event."""

    id: str
    """The point to resume from, right after this event."""
    type: str
    raw: str

    @cached_property
    def envelope(self) -> dict[str, Any]:
        """The CloudEvents envelope.

        :raises ValueError: the data is no JSON object.
        """
        return dict(json.loads(self.raw))

    @property
    def data(self) -> Any:  # noqa: ANN401 (JSON)
        """What the event is about, as its owner's API shows it."""
        return self.envelope.get("data", {})


@dataclass(frozen=True)
class Gap:
    """Events are missing between the last one and the next: read the state anew."""


@dataclass(frozen=True)
class Snapshot:
    """All that came so far was the newest of what is kept; from here on it is news."""

    since: str
    """What did not change after this id was not told."""


@dataclass(frozen=True)
class Skipped:
    """Events were left out, each made old by a later one that has come."""

    count: int


Found = Event | Gap | Snapshot | Skipped


class Parser:
    """Events out of bytes (https://html.spec.whatwg.org/#event-stream-interpretation)."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_seconds: float | None = None
        self._rest = b""
        self._type = self._id = ""
        self._data: list[str] = []
        self._begun = False

    def feed(self, block: bytes) -> Iterator[Event]:
        """Yield the events that these bytes end; bytes may be cut anywhere.

        :raises ValueError: a line is longer than any event.
        """
        text = self._rest + block
        if not self._begun:
            if _MARK.startswith(text):
                self._rest = text
                return
            self._begun, text = True, text.removeprefix(_MARK)
        # A CR at the end may be half of a line's end.
        held = b"\r" if text.endswith(b"\r") else b""
        text = text.removesuffix(held) if held else text
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + held
        if len(self._rest) > LINE_BYTES_MAX:
            raise ValueError("The line is too long.")
        for line in lines:
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._end()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_seconds = int(value) / 1000
        return None

    def _end(self) -> Event | None:
        # An id counts once its block is whole, with an event or without one.
        self.last_id = self._id or self.last_id
        type_, data = self._type or "message", self._data
        self._type, self._data = "", []
        return Event(self.last_id, type_, "\n".join(data)) if data else None


_MARK = b"\xef\xbb\xbf"


class Stream:
    """What happens in some topics, across connections; iterate over it in one thread.

    :param base_url: of the gateway.
    :param topics: as the API names them; `products/*` is all below `products`.
    :param types: only these types; with `*` at the end, all that begin so.
    :param snapshot: begin with the newest of what is kept.
    :param latest: whenever it is behind, leave out what a later event makes old.
    :param last_id: go on right after this event.
    :param token: called before each attempt for the access token; None for no token.
    :param client: an httpx2 client with its own cookies or authorities; the caller's to
        close.
    :param told: called with a word whenever the connection changes: `open`, or why it
        is not: `restart`, `age`, `token-expired`, `unreachable`, `503`, …
    :param first_pause_seconds: replaced by what the server says.
    :raises Refused: while iterating, when asking again would not help.
    """

    def __init__(
        self,
        base_url: str,
        topics: Sequence[str],
        *,
        types: Sequence[str] = (),
        snapshot: bool = False,
        latest: bool = False,
        last_id: str = "",
        token: Callable[[], str] | None = None,
        client: httpx2.Client | None = None,
        told: Callable[[str], object] | None = None,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._url = base_url.rstrip("/") + "/api/v1/events"
        self._query: list[tuple[str, str | int | float | bool | None]]
        self._query = [("topic", topic) for topic in topics]
        self._query += [("type", type_) for type_ in types]
        self._query += [("snapshot", "1")] if snapshot else []
        self._query += [("latest", "1")] if latest else []
        self.last_id = last_id
        """The point from which the next connection resumes; keep it to go on later."""
        self._token = token
        self._told = told or (lambda _word: None)
        self._pause = first_pause_seconds
        self._longest = longest_pause_seconds
        self._failures = 0
        self._own = client is None
        self._client = client or httpx2.Client(
            trust_env=False,
            verify=ssl.create_default_context()
            if base_url.startswith("https:")
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )
        self._timeout = httpx2.Timeout(10.0, read=silence_seconds)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it: at once from its own thread, else by the next heartbeat."""
        self._stop.set()
        if self._own:
            self._client.close()

    def __iter__(self) -> Iterator[Found]:
        while not self._stop.is_set():
            least = 0.0
            try:
                yield from self._connection()
            except _Broken as broken:
                self._told(str(broken))
                least = broken.pause_seconds
            except (httpx2.TransportError, httpx2.StreamError) as error:
                self._told("silent" if _is_silence(error) else "unreachable")
            self._stop.wait(max(least, self._next_pause()))

    def _next_pause(self) -> float:
        """Return the time until the next attempt: longer each time, never the same."""
        longest = min(self._longest, self._pause * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311

    def _connection(self) -> Iterator[Found]:
        headers = {"Accept": "text/event-stream"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        parser = Parser(self.last_id)
        with self._client.stream(
            "GET",
            self._url,
            params=self._query,
            headers=headers,
            timeout=self._timeout,
        ) as response:
            _check(response)
            self._told("open")
            for block in response.iter_bytes():
                if self._stop.is_set():
                    return
                yield from self._events(parser, block)
        raise _Broken("ended")

    def _events(self, parser: Parser, block: bytes) -> Iterator[Found]:
        # Only what the server sends says that it serves: an answer alone may be cut off
        # again at once.
        self._failures = 0
        try:
            for event in parser.feed(block):
                if event.type == "close":
                    self.last_id = event.id
                    raise _Broken(str(event.envelope.get("reason", "ended")))
                # Before it is handed over: who stops here has had it.
                self.last_id = event.id
                yield _typed(event)
        except ValueError as error:
            raise _Broken("unreadable") from error
        finally:
            self._pause = parser.retry_seconds or self._pause
        self.last_id = parser.last_id


def _typed(event: Event) -> Found:
    if event.type == "gap":
        return Gap()
    if event.type == "snapshot":
        return Snapshot(str(event.envelope.get("from", "")))
    if event.type == "skipped":
        return Skipped(int(event.envelope.get("count", 0)))
    return event


def _check(response: httpx2.Response) -> None:
    """Make sure that a stream follows.

    :raises _Broken: it may, later.
    :raises Refused: it will not.
    """
    status = response.status_code
    if status in _AGAIN:
        pause = response.headers.get("Retry-After", "")
        seconds = float(pause) if pause.isascii() and pause.isdigit() else 0.0
        raise _Broken(str(status), min(seconds, 10 * LONGEST_PAUSE_SECONDS))
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    if status != 200 or kind != "text/event-stream":  # noqa: PLR2004 (HTTP)
        raise Refused(status, _problem(response))


def _problem(response: httpx2.Response) -> dict[str, Any]:
    try:
        return dict(json.loads(response.read()))
    except (ValueError, TypeError):
        return {}


def _is_silence(error: Exception) -> bool:
    return isinstance(error, httpx2.TimeoutException)
