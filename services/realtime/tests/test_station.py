import os
import signal

import pytest
from flask import Flask

from flagon_chassis import health
from flagon_realtime import station as module
from flagon_realtime.roster import ProcessFull
from flagon_realtime.station import Closing, NotReadyYet, Station


@pytest.fixture
def make_station(make_settings):
    made = []

    def make(**changes):
        made.append(Station(make_settings(close_seconds=0.1, **changes), Flask("t")))
        return made[-1]

    yield make
    for station in made:
        station.stop()


@pytest.fixture
def station(make_station):
    made = make_station()
    made.start()
    assert made._reader.ready.wait(30)
    return made


class Told:
    """A subscriber that remembers what it was told."""

    def __init__(self, helpers, **ticket):
        self.ticket = helpers.ticket("a", **ticket)
        self.rotate_at = float("inf")
        self.heard = []

    def tell(self, text):
        self.heard.append(text)

    def end(self, reason, retry_milliseconds=None):
        self.heard.append((reason, retry_milliseconds))

    def check_stall(self, now):
        pass


class TestOpen:
    def test_refuses_before_the_reader_knows_its_place(self, make_station, helpers):
        station = make_station(redis_store_url="redis://127.0.0.1:1/0")

        with pytest.raises(NotReadyYet) as caught:
            station.open(helpers.ticket("a"))

        assert caught.value.retry_after_seconds == 1
        with pytest.raises(ConnectionError):
            station.check_reader()

    def test_refuses_while_the_server_drains(self, station, helpers):
        health.drain()
        try:
            with pytest.raises(Closing):
                station.open(helpers.ticket("a"))
        finally:
            health.reset()

    def test_refuses_once_it_closes(self, station, helpers):
        station.close()

        with pytest.raises(Closing):
            station.open(helpers.ticket("a"))

    def test_refuses_when_it_is_full_and_says_so(self, make_station, helpers):
        station = make_station(connections_max=1)
        station.start()
        assert station._reader.ready.wait(30)
        station.check_room()
        station.source.roster.enter(Told(helpers))

        with pytest.raises(ProcessFull):
            station.open(helpers.ticket("a"))
        with pytest.raises(BlockingIOError):
            station.check_room()

    def test_returns_a_stream(self, station, helpers):
        assert station.open(helpers.ticket("a")).mimetype == "text/event-stream"


class TestClose:
    def test_ends_everybody_with_a_time_of_their_own(self, station, helpers):
        everyone = [Told(helpers) for _ in range(50)]
        for one in everyone:
            station.source.roster.enter(one)

        station.close()

        hints = {hint for one in everyone for _reason, hint in one.heard}
        assert {one.heard[0][0] for one in everyone} == {"restart"}
        assert len(hints) > 25
        assert all(100 <= hint <= 3000 for hint in hints)


class TestOutage:
    def test_is_told_to_everybody(self, station, helpers):
        one = Told(helpers)
        station.source.roster.enter(one)

        station._tell_outage(True)
        station._tell_outage(False)

        assert one.heard == ["events are late", "events come again"]


class TestDefect:
    def test_stops_the_process_as_if_it_was_told_to(self, monkeypatch):
        sent = []
        monkeypatch.setattr(os, "kill", lambda *call: sent.append(call))

        module._stop_process()

        assert sent == [(os.getpid(), signal.SIGTERM)]


class TestStart:
    def test_publishes_to_the_hub_where_sockets_are_handed_over(
        self, make_station, monkeypatch, helpers
    ):
        published = []

        class FakeHub:
            def __init__(self, source):
                self.publish = lambda *batch: published.append(batch)

            def start(self):
                published.append("started")

        monkeypatch.setattr(module, "Hub", FakeHub)
        station = make_station()
        station.start(hands_over=True)
        station.start(hands_over=True)

        entries = [helpers.entry(1, "a")]
        station._publish(0, entries)

        assert published == ["started", (0, entries)]
