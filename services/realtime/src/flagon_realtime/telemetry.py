"""What realtime tells about itself: metrics, and the last span of an event's trace."""

import time

from flagon_chassis import metrics, tracing

from . import wire
from .ring import Entry

CONNECTIONS = metrics.gauge("flagon_sse_connections", "Open streams.")
DELIVERED = metrics.counter(
    "flagon_sse_delivered_total", "Events written to clients, once for each client."
)
DROPPED = metrics.counter(
    "flagon_sse_dropped_total", "Streams that the server ended.", "reason"
)
REFUSED = metrics.counter(
    "flagon_sse_refused_total", "Requests for a stream that were refused.", "reason"
)
RESUMED = metrics.counter(
    "flagon_sse_resumed_total",
    "Streams that went on after an event id, by where the events came from.",
    "source",
)
GAPS = metrics.counter(
    "flagon_sse_gaps_total", "Times a client was told that events are missing."
)
MALFORMED = metrics.counter(
    "flagon_sse_malformed_total", "Stream entries that lack a field."
)
DELIVERY_SECONDS = metrics.histogram(
    "flagon_sse_delivery_seconds",
    "From the event's entry into the stream to its last write to a live client.",
)
EVENT_AGE_SECONDS = metrics.histogram(
    "flagon_sse_event_age_seconds",
    "From the time of a service's event to its last write to a live client.",
)
READER_LAG = metrics.gauge(
    "flagon_sse_reader_lag_seconds",
    "Age of the newest event when it was read, or time without an answer from Redis.",
    mode="livemax",
)

SOCKETS = metrics.gauge("flagon_websocket_connections", "Open WebSockets.")
SOCKETS_DROPPED = metrics.counter(
    "flagon_websocket_dropped_total", "WebSockets that the server ended.", "reason"
)
SOCKETS_REFUSED = metrics.counter(
    "flagon_websocket_refused_total", "WebSockets that were not opened.", "reason"
)
ROOMS = metrics.gauge(
    "flagon_websocket_rooms", "Rooms that somebody is in, once for each process."
)
MESSAGES = metrics.counter(
    "flagon_websocket_messages_total", "Messages of clients.", "message"
)
MESSAGES_REFUSED = metrics.counter(
    "flagon_websocket_messages_refused_total",
    "Messages that were answered with a problem, by its type.",
    "problem",
)

_SAMPLED = b"-01"

Reached = list[tuple[Entry, int]]
"""Entries, each with the number of clients that it is written to."""


class Deliveries:
    """Times deliveries, and writes a bounded number of them into their traces.

    :param spans_per_second: most spans; the next second allows as many again.
    """

    def __init__(self, spans_per_second: int) -> None:
        self._per_second = spans_per_second
        self._second = 0
        self._left = 0

    def begin(self, reached: Reached) -> list[tracing.Span]:
        """Note that entries are about to be written; hand the result to `finish`."""
        second = int(time.time())
        return [
            tracing.start(
                entry.traceparent.decode("ascii", "replace"),
                "deliver",
                kind="consumer",
                attributes={
                    "messaging.system": "sse",
                    "messaging.message.id": wire.format_id(entry.id).decode(),
                    "flagon.clients": clients,
                },
            )
            for entry, clients in reached
            if entry.traceparent.endswith(_SAMPLED) and self._may_trace(second)
        ]

    def finish(self, reached: Reached, spans: list[tracing.Span]) -> None:
        """Note that entries have just been written.

        One time for each entry, not for each client: when the last of them was served.
        """
        now = time.time()
        for entry, _clients in reached:
            # Whose clock it was may be ahead of ours by a little.
            DELIVERY_SECONDS.observe(max(0.0, now - entry.at))
            if entry.made_at:
                EVENT_AGE_SECONDS.observe(max(0.0, now - entry.made_at))
        for span in spans:
            span.end()

    def _may_trace(self, second: int) -> bool:
        if second != self._second:
            self._second, self._left = second, self._per_second
        self._left -= 1
        return self._left >= 0
