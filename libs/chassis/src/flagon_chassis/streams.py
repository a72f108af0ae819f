"""The event stream in Redis: its names, its entries and connections that cannot hang."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import stores

EVENTS = "events"
"""The one stream: one total order, so one entry id resumes any set of topics."""
DEAD = "events:dead"
"""Events that a consumer group failed at, each with its error."""

Entry = tuple[str, dict[bytes, bytes]]
"""An entry's id and fields; no fields when it was trimmed before it was handled."""


@dataclass(frozen=True)
class Event:
    """One event as it is in the stream."""

    entry_id: str
    """Its place in the stream, `<milliseconds>-<number>`."""
    id: UUID
    """The same whenever the event is sent again."""
    type: str
    topics: tuple[str, ...]
    raw: bytes
    """The CloudEvents envelope as JSON."""

    @cached_property
    def envelope(self) -> dict[str, Any]:
        """The CloudEvents envelope."""
        return dict(json.loads(self.raw))

    @property
    def traceparent(self) -> str | None:
        """The trace in which the event happened."""
        return self.envelope.get("traceparent")


def connect(url: str, *, block_seconds: float = 0.0) -> redis.Redis:
    """Return a client that reports trouble instead of hiding it.

    The library's defaults do not fit a loop that has a policy of its own: it would
    repeat each command ten times (and a repeated `XADD` or blocking read is another
    one), and it gives up reads after five seconds even if they were to block longer.

    :param block_seconds: the longest `BLOCK` that will be used with it.
    """
    return stores.client(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=2.0,
        # Longer than the longest block, or every quiet spell would look like an outage.
        socket_timeout=block_seconds + 3.0,
        socket_keepalive=True,
        health_check_interval=30,
    )


def encode(id_: UUID, type_: str, envelope: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the fields of an event's entry."""
    return {
        # As the subject below: a delivery is tied to the trace of its event, and timed.
        **{
            name: envelope[name] for name in ("traceparent", "time") if name in envelope
        },
        "id": str(id_),
        "type": type_,
        "topics": " ".join(envelope.get("topics", ())),
        # Beside the envelope, for who has to tell subjects apart without reading it.
        "subject": str(envelope.get("subject") or ""),
        "event": json.dumps(
            envelope, ensure_ascii=False, separators=(",", ":")
        ).encode(),
    }


def decode(entry_id: str, fields: Mapping[bytes, bytes]) -> Event:
    """Return the event of an entry.

    :raises ValueError: the entry was not written by a relay.
    """
    try:
        return Event(
            entry_id,
            UUID(fields[b"id"].decode()),
            fields[b"type"].decode(),
            tuple(fields[b"topics"].decode().split()),
            fields[b"event"],
        )
    except KeyError as error:
        raise ValueError(f"entry {entry_id} has no field {error}") from error


def entries(reply: Any) -> Iterator[Entry]:  # noqa: ANN401 (three shapes, see below)
    """Yield the entries in what `XREAD`, `XREADGROUP` or `XAUTOCLAIM` returned.

    By protocol version and response style the library returns a mapping or a list of
    pairs, None or an empty list for nothing, and for trimmed entries None or no fields.
    """
    streams = reply.values() if isinstance(reply, dict) else [s[1] for s in reply or ()]
    for stream in streams:
        yield from flat(stream)


def flat(pairs: Any) -> Iterator[Entry]:  # noqa: ANN401 (see `entries`)
    """Yield the entries of one stream."""
    for entry_id, fields in pairs or ():
        yield entry_id.decode(), dict(fields or {})


def beginning(client: redis.Redis) -> float:
    """Return since when all events are in the stream, in seconds since the epoch.

    Zero where the first ones went by age or number, as they are meant to; infinity where
    there is no event.

    :raises redis.RedisError: Redis does not answer.
    """
    try:
        told = client.xinfo_stream(EVENTS)
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise
        return float("inf")
    if told["entries-added"] != told["length"]:
        return 0.0
    first = told["first-entry"]
    return int(first[0].partition(b"-")[0]) / 1000 if first else float("inf")
