"""What is special about generators; what a client sees of them is in test_stream."""

import re
import socket
import time

import pytest

from flagon_realtime import wire
from flagon_realtime.clients import EventLog
from flagon_realtime.generated import Generated


@pytest.fixture
def source(make_source):
    return make_source(heartbeat_seconds=0.01)


@pytest.fixture
def stream(source, helpers):
    opened = []

    def open_stream(*topics, sock=None, source=source, **options):
        opened.append(Generated(source, helpers.ticket(*topics, **options), sock))
        return opened[-1], opened[-1].blocks()

    yield open_stream
    for one in opened:
        one.end("restart")


def data(block):
    """Return the numbers of the events in some bytes."""
    return [int(number) for number in re.findall(rb'data: \{"n": (\d+)', block)]


class TestBlocks:
    def test_counts_the_stream_while_it_is_read(self, source, stream):
        _generated, blocks = stream("a")
        assert len(source.roster) == 0

        next(blocks)
        assert len(source.roster) == 1

        blocks.close()
        assert len(source.roster) == 0

    def test_yields_bounded_blocks(self, source, stream, helpers):
        source.ring.start_at((0, 1))
        _generated, blocks = stream("a", after=(0, 1))
        next(blocks)
        source.ring.extend(
            [helpers.entry(n, "a", size=10_000) for n in range(1, 60)], (59, 0)
        )

        block = next(blocks)

        assert 128 * 1024 <= len(block) < 150_000

    def test_ends_when_it_falls_off_the_ring(self, make_source, stream, helpers):
        source = make_source(capacity=5)
        _generated, blocks = stream("a", source=source)
        next(blocks)

        source.ring.extend([helpers.entry(n, "a") for n in range(1, 20)], (19, 0))

        assert list(blocks) == [wire.close("behind")]

    def test_reads_on_when_the_ring_turned_over_while_it_was_ahead(
        self, make_source, stream, publish, helpers
    ):
        source = make_source(capacity=5)
        ids = [wire.parse_id(text.encode()) for text in publish.many(40, "a")]
        _generated, blocks = stream("a", source=source, after=ids[0])
        next(blocks)
        assert next(blocks) == wire.HEARTBEAT

        # The reader of the process catches up, with more than the ring holds.
        batch = source.event_log.page((0, 0))
        source.ring.extend(batch.entries, batch.last)

        assert data(next(blocks)) == list(range(1, 40))

    def test_repeats_nothing_when_redis_was_ahead_of_the_reader(
        self, make_source, stream, publish, helpers
    ):
        source = make_source(capacity=12)
        publish.many(30, "a")
        batch = source.event_log.page((0, 0))
        source.ring.extend(batch.entries[:20], batch.entries[19].id)
        _generated, blocks = stream("a", source=source, after=batch.entries[0].id)
        next(blocks)
        assert data(next(blocks)) == list(range(1, 30))
        assert next(blocks) == wire.HEARTBEAT

        source.ring.extend(batch.entries[20:], batch.last)
        publish("a", data={"n": 30})
        batch = source.event_log.page(batch.last)
        source.ring.extend(batch.entries, batch.last)

        assert data(next(blocks)) == [30]

    def test_sends_a_heartbeat_with_the_resume_point(self, source, stream, helpers):
        _generated, blocks = stream("a")
        next(blocks)
        source.ring.extend([helpers.entry(4, "b")], (4, 0))

        assert next(blocks) == b":\n\nid: 4-0\n\n"

    def test_gives_a_client_that_is_ahead_no_resume_point(self, stream):
        _generated, blocks = stream("a", after=(9, 0))
        next(blocks)

        assert next(blocks) == wire.HEARTBEAT

    def test_passes_comments_on(self, stream):
        generated, blocks = stream("a")
        next(blocks)

        generated.tell("events are late")

        assert next(blocks) == b": events are late\n\n"

    def test_ends_when_redis_is_away_for_old_events(self, make_source, stream):
        source = make_source(event_log=EventLog("redis://127.0.0.1:1/0", "events"))
        source.ring.start_at((5, 0))
        _generated, blocks = stream("a", source=source, after=(1, 0))
        next(blocks)

        assert list(blocks) == [wire.close("unavailable")]

    def test_skips_pages_that_are_not_the_clients(self, make_source, stream, publish):
        source = make_source()
        publish.many(3, "b")
        last = publish("a")
        source.ring.start_at(wire.parse_id(last.encode()))

        _generated, blocks = stream("a", source=source, after=(1, 0))
        next(blocks)

        assert last.encode() in next(blocks)

    def test_skips_a_page_without_any_event_of_the_client(
        self, make_source, stream, publish
    ):
        source = make_source(heartbeat_seconds=0.01)
        publish.many(2, "b")
        last = publish("b")
        source.ring.start_at(wire.parse_id(last.encode()))

        _generated, blocks = stream("a", source=source, after=(1, 0))
        next(blocks)

        assert next(blocks).startswith(wire.HEARTBEAT)


class TestEnd:
    def test_tells_the_first_reason_alone(self, stream):
        generated, blocks = stream("a")
        next(blocks)

        generated.end("age", 100)
        generated.end("restart")

        assert list(blocks) == [wire.close("age", 100)]


class TestCheckStall:
    def test_breaks_the_connection_of_who_does_not_read(self, make_source, stream):
        ours, theirs = socket.socketpair()
        source = make_source(stall_seconds=1)
        generated, blocks = stream("a", source=source, sock=theirs)
        next(blocks)

        generated.check_stall(time.monotonic())
        assert not generated._ending
        generated.check_stall(time.monotonic() + 2)

        assert generated._ending
        assert ours.recv(1) == b""
        ours.close()
        theirs.close()

    def test_ends_the_stream_where_the_connection_is_not_known(self, stream):
        generated, blocks = stream("a")
        next(blocks)

        generated.check_stall(time.monotonic() + 100)

        assert generated._ending

    def test_leaves_a_stream_alone_that_waits_for_events(self, stream):
        generated, _blocks = stream("a")

        generated.check_stall(time.monotonic() + 100)

        assert not generated._ending
