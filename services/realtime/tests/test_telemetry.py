import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from flagon_chassis import streams, tracing
from flagon_realtime import telemetry
from flagon_realtime.telemetry import Deliveries

SAMPLED = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"


class Span:
    ended = False

    def end(self):
        self.ended = True


@pytest.fixture
def spans(monkeypatch):
    """What was started, in place of spans."""
    started = []

    def start(traceparent, name, **details):
        started.append((traceparent, name, details))
        return Span()

    monkeypatch.setattr(tracing, "start", start)
    return started


class TestDeliveries:
    def test_continues_the_trace_of_an_event(self, spans, helpers):
        deliveries = Deliveries(10)
        reached = [(helpers.entry(5, "a", traceparent=SAMPLED), 3)]

        begun = deliveries.begin(reached)
        deliveries.finish(reached, begun)

        [(traceparent, name, details)] = spans
        assert (traceparent, name) == (SAMPLED.decode(), "deliver")
        assert details["attributes"]["flagon.clients"] == 3
        assert details["attributes"]["messaging.message.id"] == "5-0"
        assert begun[0].ended

    @pytest.mark.parametrize("traceparent", [b"", SAMPLED[:-1] + b"0", b"\xff"])
    def test_writes_no_span_without_a_sampled_trace(self, spans, helpers, traceparent):
        Deliveries(10).begin([(helpers.entry(5, "a", traceparent=traceparent), 1)])

        assert spans == []

    def test_writes_a_bounded_number_of_spans_in_a_second(
        self, spans, helpers, monkeypatch
    ):
        monkeypatch.setattr(time, "time", lambda: 1000.5)
        deliveries = Deliveries(3)
        reached = [(helpers.entry(n, "a", traceparent=SAMPLED), 1) for n in range(1, 9)]

        deliveries.begin(reached)
        assert len(spans) == 3

        monkeypatch.setattr(time, "time", lambda: 1001.5)
        deliveries.begin(reached)
        assert len(spans) == 6

    def test_times_an_event_from_its_own_time_on(self, make_source, publish, helpers):
        source = make_source()
        made_at = datetime.now(UTC) - timedelta(seconds=7)
        fields = streams.encode(
            uuid4(), helpers.TYPE, {"topics": ["a"], "time": made_at.isoformat()}
        )
        publish.redis.xadd("events", fields)
        # Of a client, and one that was written by hand.
        publish("a")
        publish("a", time="yesterday")
        entries = source.event_log.page((0, 0)).entries
        before = telemetry.EVENT_AGE_SECONDS._sum.get()

        source.deliveries.finish([(entry, 1) for entry in entries], [])

        assert len(entries) == 3
        assert 7 <= telemetry.EVENT_AGE_SECONDS._sum.get() - before < 8

    def test_times_an_event_from_its_id_on(self, helpers):
        deliveries = Deliveries(0)
        before = telemetry.DELIVERY_SECONDS._sum.get()
        written = helpers.entry(int(time.time() * 1000) - 2000, "a")
        early = helpers.entry(int(time.time() * 1000) + 60_000, "a")

        deliveries.finish([(written, 1), (early, 1)], [])

        assert 2 <= telemetry.DELIVERY_SECONDS._sum.get() - before < 3
