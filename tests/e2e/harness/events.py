"""Reading server-sent events as `curl -N` does, line by line."""

import json
import queue
import threading
import time

import httpx2

from flagon_chassis import sse
from harness.stack import EVENT_BUS
from harness.waiting import NeverHappened

_ENTRIES = {
    "redis": """
import redis
def entries():
    client = redis.Redis.from_url(settings.redis_store_url.get_secret_value())
    last = "-"
    while page := client.xrange("events", last, count=1000):
        for entry, fields in page:
            yield entry.decode(), fields
        last = "(" + page[-1][0].decode()
""",
    "rabbitmq": """
from flagon_chassis import buses
def entries():
    journal = buses.journal(settings)
    _, rows = journal.newest(10**9, 10**12)
    while rows:
        for row in rows:
            if row.is_event:
                yield f"{journal.origin}-{row.offset}", row.fields
        rows = journal.follow(rows[-1].offset)
""",
}
ENTRIES = _ENTRIES[EVENT_BUS]
"""Code that realtime may run: what it and every other reader sees, entry by entry."""

_LOG = (
    ENTRIES
    + """
wanted = json.loads(%r)
found = [place for place, fields in entries() if fields[b"type"].decode() == wanted]
print(json.dumps(found))
"""
)


def log(stack, type_):
    """Return the positions of all events of a type on the stream, in order."""
    return stack.inside("realtime", _LOG % json.dumps(type_))


class Stream:
    """An open event stream, read in the background.

    :param topics: as the API names them.
    :param person: whose token to send; nobody's when None.
    :param last_event_id: where to resume.
    :param client: a client with a session cookie, instead of a token.
    """

    def __init__(self, stack, topics, person=None, last_event_id=None, client=None):
        self.stack = stack
        self.topics = list(topics)
        self.person = person
        self.last_event_id = last_event_id
        self.ended = threading.Event()
        self._events = queue.Queue()
        self._opened = threading.Event()
        self._failure = None
        self._response = None
        self._own_client = client is None
        self._client = client or stack.client()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._opened.wait(120), "the stream did not open"
        if self._failure:
            self.__exit__()
            raise self._failure
        return self

    def __exit__(self, *_):
        if self._own_client:
            self._client.close()
        self._thread.join(timeout=30)

    def _read(self):
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        if self.person:
            headers |= self.person.bearer
        try:
            with self._client.stream(
                "GET",
                "/api/v1/events",
                params=[("topic", topic) for topic in self.topics],
                headers=headers,
                timeout=httpx2.Timeout(60.0, read=120.0),
            ) as response:
                self._response = response
                if response.status_code != 200:
                    response.read()
                    self._failure = AssertionError(
                        f"{response.status_code}: {response.text}"
                    )
                    return
                assert response.headers["content-type"].startswith("text/event-stream")
                self._opened.set()
                parser = sse.Parser(self.last_event_id or "")
                for block in response.iter_bytes():
                    for event in parser.feed(block):
                        self._events.put(event)
                    self.last_event_id = parser.last_id or self.last_event_id
        except (httpx2.TransportError, httpx2.StreamError, OSError, RuntimeError) as e:
            if not self._opened.is_set():
                self._failure = e
        finally:
            self.ended.set()
            self._opened.set()

    def next(self, matches=lambda event: True, seconds=120.0):
        """Return the next event that matches; others before it are dropped."""
        deadline = time.monotonic() + seconds
        seen = []
        while True:
            try:
                event = self._events.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise NeverHappened(
                    f"no such event in {seconds} s; seen {seen[-5:]}"
                ) from None
            if matches(event):
                return event
            seen.append((event.type, event.envelope.get("subject")))

    def collected(self):
        """Return the events that have come so far and were not taken yet."""
        found = []
        while True:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                return found
