import threading
import time

import pytest
import redis

from flagon_realtime import telemetry
from flagon_realtime.clients import Batch
from flagon_realtime.reader import Reader
from flagon_realtime.ring import Interest, Ring
from flagon_realtime.wire import format_id

NOTHING = Batch([], (0, 0), 0)


class FakeLog:
    """Answers a script: batches are returned, exceptions are raised."""

    def __init__(self, *script, start=()):
        self.script = list(script)
        self.start = [*start, ((0, 0), NOTHING)]
        self.asked = []

    def newest(self, max_events, max_bytes):
        found = self.start.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def follow(self, after):
        self.asked.append(after)
        if not self.script:
            raise StopIteration
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


class Pauses:
    """Stands in for the reader's event: notes its pauses and takes no time."""

    def __init__(self, happened):
        self.happened = happened

    def is_set(self):
        return False

    def wait(self, seconds):
        self.happened.append(round(seconds, 2))


@pytest.fixture
def run():
    """Runs a reader over a log until its script ends; returns what happened."""

    def go(log, on_entries=None):
        happened = []
        ring = Ring(100, 100_000)
        reader = Reader(
            log,
            ring,
            max_events=100,
            max_bytes=100_000,
            on_entries=on_entries
            or (lambda start, entries: happened.append((start, len(entries)))),
            on_outage=lambda away: happened.append("away" if away else "back"),
            on_crash=lambda: happened.append("crashed"),
        )
        reader._stopping = Pauses(happened)
        with pytest.raises((StopIteration, ZeroDivisionError)):
            reader._run()
        return reader, ring, happened

    return go


def batch(helpers, *numbers, scanned=None):
    entries = [helpers.entry(number, "a") for number in numbers]
    return Batch(entries, (max(numbers), 0), scanned or len(entries))


class TestReader:
    def test_hands_on_what_it_reads_with_positions(self, run, helpers):
        _reader, ring, happened = run(
            FakeLog(batch(helpers, 1, 2), NOTHING, batch(helpers, 3))
        )

        assert happened[:2] == [(0, 2), (2, 1)]
        assert ring.last == (3, 0)

    def test_is_ready_once_it_knows_its_place(self, run, helpers):
        start = ((4, 0), batch(helpers, 5, 6))

        reader, ring, _happened = run(FakeLog(start=[start]))

        assert reader.ready.is_set()
        assert (ring.end, ring.last) == (2, (6, 0))
        assert ring.seek((3, 0)) is None

    def test_is_not_ready_while_redis_is_away_from_the_start(self, run):
        down = redis.ConnectionError("away")
        log = FakeLog(start=[down, down])

        reader, _ring, happened = run(log)

        assert happened[:2] == [0.05, 0.1]
        assert "away" not in happened
        assert reader.ready.is_set()

    def test_keeps_its_place_over_an_outage(self, run, helpers):
        down = redis.ConnectionError("away")
        log = FakeLog(batch(helpers, 1), down, OSError(), batch(helpers, 2))

        _reader, _ring, happened = run(log)

        assert log.asked == [(0, 0), (1, 0), (1, 0), (1, 0), (2, 0)]
        assert happened[:6] == [(0, 1), "away", 0.05, 0.1, "back", (1, 1)]

    def test_waits_no_longer_than_two_seconds(self, run):
        down = redis.ConnectionError("away")

        _reader, _ring, happened = run(FakeLog(*[down] * 10))

        assert max(x for x in happened if isinstance(x, float)) == 2

    def test_counts_entries_that_it_cannot_read(self, run, helpers):
        before = telemetry.MALFORMED._value.get()

        _reader, ring, happened = run(
            FakeLog(batch(helpers, 1, scanned=3), Batch([], (9, 0), 1))
        )

        assert telemetry.MALFORMED._value.get() == before + 3
        assert happened[0] == (0, 1)
        assert ring.last == (9, 0)

    def test_says_so_when_it_ends_by_a_defect(self, run, helpers):
        def fail(start, entries):
            raise ZeroDivisionError

        _reader, _ring, happened = run(FakeLog(batch(helpers, 1)), on_entries=fail)

        assert happened == ["crashed"]

    def test_stops_when_told_to(self, make_source):
        source = make_source()
        reader = Reader(
            source.event_log,
            source.ring,
            max_events=10,
            max_bytes=1000,
            on_entries=lambda *_: None,
            on_outage=lambda _: None,
            on_crash=lambda: None,
        )
        reader.start()
        assert reader.ready.wait(30)

        reader.stop()

        reader._thread.join(30)
        assert not reader._thread.is_alive()

    def test_measures_the_time_without_an_answer(self, run):
        reader, _ring, _happened = run(FakeLog(redis.ConnectionError("away")))
        reader.connected = False
        reader._answered_at = time.monotonic() - 10

        reader.measure()
        assert telemetry.READER_LAG._value.get() >= 10

        reader.connected = True
        telemetry.READER_LAG.set(0)
        reader.measure()
        assert telemetry.READER_LAG._value.get() == 0


def test_clients_that_come_at_once_lose_nothing(make_source, publish, helpers):
    """The start race: whoever is let in once the reader is ready gets all that follows."""
    source = make_source(capacity=100_000, max_bytes=1 << 26)
    publish.many(5, "a")
    stop = threading.Event()

    def keep_publishing():
        number = 5
        while not stop.is_set():
            publish.many(1, "a", first=number)
            number += 1

    got = []
    reader = Reader(
        source.event_log,
        source.ring,
        max_events=1000,
        max_bytes=100_000,
        on_entries=lambda start, entries: got.append((start, len(entries))),
        on_outage=lambda _: None,
        on_crash=lambda: None,
    )
    publisher = threading.Thread(target=keep_publishing)
    publisher.start()
    reader.start()
    assert reader.ready.wait(30)
    entered_at = source.ring.end
    time.sleep(0.3)
    stop.set()
    publisher.join()
    last = publish("a")
    deadline = time.monotonic() + 30
    while format_id(source.ring.last).decode() != last:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    reader.stop()
    reader._thread.join(30)

    found, _cursor = source.ring.read(
        0, Interest(frozenset([b"a"])), max_events=100_000, max_bytes=1 << 26
    )
    bodies = [entry.payload.split(b'"n": ') for _position, entry in found[:-1]]
    ordered = [int(parts[1].split(b",")[0]) for parts in bodies]
    assert ordered == list(range(len(ordered)))
    # Every position from the door on was handed to the hub once, in order.
    handed = [start + i for start, count in got for i in range(count)]
    assert handed == list(range(handed[0], source.ring.end))
    assert handed[0] <= entered_at
