"""What auth has revoked, known in every process without asking Redis each time."""

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import redis
import structlog
from redis.maint_notifications import MaintNotificationsConfig

from . import stores

log = structlog.get_logger()

PREFIX = "denylist:"
KEYS_CHANGED = f"{PREFIX}keys"
"""Written whenever auth's signing keys change; its value says nothing."""


class Denylist:
    """The marks that auth sets in the store Redis, and a memory of them.

    Redis tells a connection of ours about every mark that changes (client-side caching,
    `CLIENT TRACKING … BCAST`); what was looked up is remembered until then. The memory
    counts only while Redis keeps answering on that connection: it is never older than
    `fresh_seconds`, so a revocation takes effect within that time even when a message
    is lost, and usually within a millisecond. Without it every look-up asks Redis.

    The watching thread starts with the first look-up, so after a server forked, and
    ends when nobody has asked for a while.

    :param keys_changed: called when auth says that its signing keys changed.
    :param remember: False: ask Redis each time, for who must see its own writes.
    """

    fresh_seconds = 0.9
    beat_seconds = 0.25
    idle_seconds = 120.0
    most_names = 100_000

    def __init__(
        self,
        url: str,
        *,
        keys_changed: Callable[[], None] = lambda: None,
        remember: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options: dict[str, Any] = {
            # A request must not wait for a dead Redis: one try, then the route's policy.
            "retry": None,
            "socket_timeout": 0.5,
            "socket_connect_timeout": 0.5,
        }
        self._redis = stores.client(url, **options)
        self._watching = stores.client(
            url,
            protocol=3,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            **options,
        )
        self._keys_changed = keys_changed
        self._remember = remember
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._used_at = clock()
        self._heard_at = float("-inf")
        self._changes = 0
        self._known: dict[str, bytes | None] = {}
        self._keys_mark: bytes | None = None

    def marks(self, names: list[str]) -> dict[str, bytes]:
        """Return those of the names that are marked, with their marks.

        :raises redis.RedisError: nobody can tell.
        """
        self._used_at = now = self._clock()
        if now - self._heard_at < self.fresh_seconds:
            try:
                found = [self._known[name] for name in names]
            except KeyError:
                pass
            else:
                return _marked(names, found)
        elif self._thread is None:
            self._start()
        # What changes from here on may come too late for this answer: then it is not
        # remembered.
        changes = self._changes
        found = cast("list[bytes | None]", self._redis.mget(names))
        with self._lock:
            if self._remember and changes == self._changes:
                if len(self._known) > self.most_names:
                    self._known.clear()
                self._known.update(zip(names, found, strict=True))
        return _marked(names, found)

    def claim(self, name: str, seconds: int) -> bool:
        """Say whether nobody else has claimed this name in so many seconds.

        :raises redis.RedisError: nobody can tell.
        """
        return bool(self._redis.set(name, "1", nx=True, ex=seconds))

    def close(self) -> None:
        """End the watching thread and the connections."""
        self._stop.set()
        thread = self._thread
        if thread:
            thread.join(2 * self.beat_seconds + 1)
        self._redis.close()
        self._watching.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        quiet = False
        while not self._stop.is_set() and self._in_use():
            try:
                self._follow()
            except (redis.RedisError, OSError) as error:
                # Once for each time that it breaks, not for each try after that.
                if self._heard_at > float("-inf") or not quiet:
                    log.warning("denylist_unwatched", error=type(error).__name__)
                quiet = True
                self._stop.wait(self.beat_seconds)
            finally:
                self._forget_all()
        self._thread = None

    def _in_use(self) -> bool:
        return self._clock() - self._used_at < self.idle_seconds

    def _follow(self) -> None:
        """Listen until told to stop; raises when the connection breaks."""
        # Untyped in the library.
        connection: Any = self._watching.connection_pool.get_connection()
        try:
            parser = connection._parser  # noqa: SLF001 (there is no other door)
            parser.set_invalidation_push_handler(self._changed)
            connection.send_command(
                "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", PREFIX
            )
            connection.read_response()
            self._forget_all()
            self._catch_up(connection)
            while not self._stop.is_set() and self._in_use():
                self._beat(connection)
        finally:
            connection.disconnect()
            self._watching.connection_pool.release(connection)

    def _catch_up(self, connection: Any) -> None:  # noqa: ANN401 (of redis-py)
        """Notice that the keys changed while nobody listened."""
        connection.send_command("GET", KEYS_CHANGED)
        mark = connection.read_response()
        if mark != self._keys_mark:
            self._keys_mark = mark
            self._keys_changed()

    def _beat(self, connection: Any) -> None:  # noqa: ANN401 (of redis-py)
        """Prove that the connection lives, then listen until the next proof is due."""
        asked_at = self._clock()
        connection.send_command("PING")
        # Whatever was marked before Redis answered has been told before its answer.
        while connection.read_response(push_request=True) != b"PONG":
            pass
        self._heard_at = asked_at
        while (
            not self._stop.is_set()
            and (left := asked_at + self.beat_seconds - self._clock()) > 0
        ):
            if connection.can_read(timeout=left):
                connection.read_response(push_request=True)

    def _changed(self, message: list[Any]) -> None:
        names = [name.decode() for name in message[1] or ()]
        with self._lock:
            self._changes += 1
            if names:
                for name in names:
                    self._known.pop(name, None)
            else:
                # Redis was emptied.
                self._known.clear()
        if KEYS_CHANGED in names:
            self._keys_changed()

    def _forget_all(self) -> None:
        with self._lock:
            self._heard_at = float("-inf")
            self._changes += 1
            self._known.clear()


def _marked(names: list[str], found: list[bytes | None]) -> dict[str, bytes]:
    return {
        name: mark for name, mark in zip(names, found, strict=True) if mark is not None
    }
