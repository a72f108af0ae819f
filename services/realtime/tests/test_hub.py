"""The hub, one step at a time, over socket pairs and loopback connections."""

import concurrent.futures
import contextlib
import ctypes
import itertools
import os
import re
import select
import socket
import subprocess
import threading
import time

import pytest

from flagon_chassis.testing import lacking
from flagon_realtime import telemetry, wire
from flagon_realtime.hub import Hub
from flagon_realtime.ring import Interest

HEAD = b"HTTP/1.1 200 OK\r\n\r\nretry: 2000\n\n"


@pytest.fixture
def make_hub(make_source):
    hubs = []

    def make(**changes):
        hubs.append(Hub(make_source(**changes)))
        return hubs[-1]

    yield make
    for hub in hubs:
        for client in list(hub._clients.values()):
            hub._drop(client)
        hub._epoll.close()


@pytest.fixture
def hub(make_hub):
    return make_hub()


@pytest.fixture
def connect(helpers):
    """Opens a stream and returns our end of it."""
    ends = []

    def open_stream(hub, *topics, tcp=False, **options):
        if tcp:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                ours = socket.create_connection(listener.getsockname())
                theirs, _address = listener.accept()
        else:
            ours, theirs = socket.socketpair()
        ends.append(ours)
        ours.setblocking(False)
        hub.add(theirs, helpers.ticket(*topics, **options), HEAD)
        return ours

    yield open_stream
    for end in ends:
        end.close()


@pytest.fixture
def send(helpers):
    """Publishes numbered entries."""

    def publish(hub, *numbers, topics=("a",), **options):
        entries = [helpers.entry(number, *topics, **options) for number in numbers]
        start = hub.ring.extend(entries, entries[-1].id)
        hub.publish(start, entries)

    return publish


def read(sock):
    found = b""
    with contextlib.suppress(BlockingIOError):
        while part := sock.recv(1 << 20):
            found += part
    return found


def seen(text):
    """Return the numbers of the events in some bytes."""
    return [int(number) for number in re.findall(rb'data: \{"n": (\d+)', text)]


def count(metric):
    return metric._value.get()


class TestAdd:
    def test_sends_the_head_before_the_first_event(self, hub, connect):
        assert read(connect(hub, "a")).startswith(HEAD)

    def test_gives_a_resume_point_at_once(self, hub, connect, send):
        send(hub, 7)

        assert read(connect(hub, "a")) == HEAD + b"id: 7-0\n\n"

    def test_takes_a_tcp_socket_with_a_small_unsent_buffer(self, hub, connect):
        end = connect(hub, "a", tcp=True)

        [client] = hub._clients.values()
        with socket.socket(fileno=os.dup(client.fd)) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, 25) == 64 * 1024
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert (
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            )
        assert read(end).startswith(HEAD)

    def test_forgets_a_client_that_is_gone_already(self, hub, helpers):
        ours, theirs = socket.socketpair()
        ours.close()

        hub.add(theirs, helpers.ticket("a"), HEAD)

        assert not hub._clients
        assert not hub._groups
        assert len(hub.source.roster) == 0


class TestGoing:
    def test_leaves_nothing_behind_of_2000_clients(self, hub, connect, send):
        steady = connect(hub, "a")
        found, files = read(steady), set()

        for number in range(1, 2001):
            end = connect(
                hub, "a", f"b{number}", tcp=number % 2 == 0, holder=f"address {number}"
            )
            files.update(hub._clients)
            end.close()
            hub.poll()
            send(hub, number)
            found += read(steady)

        assert seen(found) == list(range(1, 2001))
        assert list(hub._groups) == [Interest(frozenset({b"a"}))]
        assert hub._by_topic.keys() == {b"a"}
        assert hub.source.roster._held == {"tests": 1}
        assert hub._ahead == set()
        # Numbers of closed files are given again. A few may be others' meanwhile.
        assert len(files) < 50


@pytest.fixture
def elsewhere():
    """Runs functions in a network of their own, which goes with them."""

    def move():
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
            lacking("A network namespace", "run the tests as root")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    # A network belongs to a thread: no other test notices, and nothing is left behind.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(move).result()
        yield lambda function, *given: thread.submit(function, *given).result()


class TestVanishedClient:
    def test_is_let_go_when_its_heartbeats_are_not_acknowledged(
        self, make_hub, connect, elsewhere
    ):
        hub = make_hub(stall_seconds=1)
        ours = elsewhere(lambda: connect(hub, "a", tcp=True))
        [client] = hub._clients.values()
        assert read(ours).startswith(HEAD)

        elsewhere(subprocess.run, ["ip", "link", "set", "lo", "down"])
        hub.beat(client.fd)
        deadline = time.monotonic() + 30
        while hub._clients:
            assert time.monotonic() < deadline, "it was not let go"
            select.select([hub._epoll], [], [], 1)
            hub.poll()

        # Nobody said good-bye: the kernel gave up.
        with pytest.raises(BlockingIOError):
            ours.recv(1)


class TestPublish:
    def test_writes_a_batch_to_each_group_that_follows(self, hub, connect, send):
        one, two, three = connect(hub, "a"), connect(hub, "a", "b"), connect(hub, "b")

        send(hub, 1, 2, topics=["a"])
        send(hub, 3, topics=["b"])

        assert seen(read(one)) == [1, 2]
        assert seen(read(two)) == [1, 2, 3]
        assert seen(read(three)) == [3]

    def test_writes_an_event_of_two_topics_once(self, hub, connect, send):
        end = connect(hub, "a", "b")

        send(hub, 1, topics=["a", "b", "c"])
        send(hub, 2, 3, topics=["b", "a"])

        assert seen(read(end)) == [1, 2, 3]

    def test_drops_a_client_that_has_gone(self, hub, connect, send):
        connect(hub, "a").close()
        other = connect(hub, "a")

        send(hub, 1)

        assert len(hub._clients) == 1
        assert seen(read(other)) == [1]

    def test_gives_others_a_turn(self, hub, connect, send, monkeypatch):
        turns = []
        monkeypatch.setattr("flagon_realtime.hub._WRITES_IN_A_ROW", 2)
        monkeypatch.setattr(time, "sleep", turns.append)
        for _ in range(5):
            connect(hub, "a")

        send(hub, 1)

        assert turns == [0, 0]

    def test_starts_a_client_that_comes_during_a_turn_behind_the_batch(
        self, hub, connect, send, monkeypatch
    ):
        late = []
        monkeypatch.setattr("flagon_realtime.hub._WRITES_IN_A_ROW", 1)
        monkeypatch.setattr(time, "sleep", lambda _: late.append(connect(hub, "a")))
        connect(hub, "a")

        send(hub, 1)

        assert read(late[0]).endswith(b"id: 1-0\n\n")

    def test_repeats_nothing_to_a_client_that_catches_up_during_a_turn(
        self, hub, connect, send, monkeypatch
    ):
        connect(hub, "a")
        lagging = connect(hub, "a")
        [first, client] = hub._clients.values()
        client.cursor = hub.ring.end
        monkeypatch.setattr("flagon_realtime.hub._WRITES_IN_A_ROW", 1)
        # The order of a set is not ours: catch up at whichever turn comes first.
        monkeypatch.setattr(time, "sleep", lambda _: hub._advance(client))

        send(hub, 1)
        hub._advance(client)

        assert seen(read(lagging)) == [1]
        assert first.cursor == client.cursor

    def test_leaves_a_client_alone_that_left_during_a_turn(
        self, hub, connect, send, monkeypatch
    ):
        connect(hub, "a")
        connect(hub, "a")
        clients = list(hub._clients.values())
        monkeypatch.setattr("flagon_realtime.hub._WRITES_IN_A_ROW", 1)
        monkeypatch.setattr(time, "sleep", lambda _: [c.end("age") for c in clients])

        send(hub, 1)

        assert not hub._clients


class TestSlowClient:
    BALLAST = 50_000

    def fill(self, hub, send, first, count):
        for number in range(first, first + count):
            send(hub, number, size=self.BALLAST)

    def drain(self, hub, end, until):
        found = b""
        deadline = time.monotonic() + 30
        while not seen(found) or seen(found)[-1] != until:
            assert time.monotonic() < deadline
            found += read(end)
            hub.poll()
        time.sleep(0.01)
        hub.poll()
        return found + read(end)

    def test_gets_everything_in_order_once_it_reads(self, make_hub, connect, send):
        hub = make_hub(max_bytes=1 << 24)
        slow, quick = connect(hub, "a"), connect(hub, "a")
        got = b""
        for number in range(1, 41):
            send(hub, number, size=self.BALLAST)
            got += read(quick)
            hub.poll()

        found = self.drain(hub, slow, 40)

        assert seen(found) == list(range(1, 41))
        assert found.count(b":" + b"x" * self.BALLAST + b"\n\n") == 40
        self.fill(hub, send, 41, 1)
        assert seen(self.drain(hub, slow, 41)) == [41]
        assert seen(got + self.drain(hub, quick, 41))[:40] == list(range(1, 41))

    def test_that_asks_for_the_latest_gets_each_subject_once(
        self, make_hub, connect, send
    ):
        hub = make_hub(max_bytes=1 << 26)
        slow = connect(hub, "a", latest=True)
        quick = connect(hub, "a", latest=True)
        got = b""
        for number in range(1, 101):
            send(hub, number, size=self.BALLAST, about=number % 2)
            got += read(quick)
            hub.poll()

        found = self.drain(hub, slow, 100)

        # What the kernel had taken before the client was behind, and the newest two.
        *begun, last, newest = seen(found)
        assert begun == list(range(1, len(begun) + 1))
        assert (last, newest) == (99, 100)
        assert f'data: {{"count": {98 - len(begun)}}}'.encode() in found
        assert found.count(b":" + b"x" * self.BALLAST + b"\n\n") == len(begun) + 2
        # Who keeps up gets every one of them.
        assert seen(got + read(quick)) == list(range(1, 101))
        assert b"skipped" not in got

    def test_costs_no_memory_of_its_own(self, make_hub, connect, send):
        hub = make_hub(max_bytes=1 << 20)
        slow = connect(hub, "a")
        self.fill(hub, send, 1, 200)

        [client] = hub._clients.values()
        assert client.pending == b""
        assert hub.ring.bytes <= 1 << 20
        assert read(slow)

    def test_is_closed_when_it_falls_off_the_ring(self, make_hub, connect, send):
        hub = make_hub(max_bytes=1 << 19)
        slow = connect(hub, "a")
        before = count(telemetry.DROPPED.labels("behind"))

        self.fill(hub, send, 1, 100)
        hub.beat(0)

        assert not hub._clients
        assert count(telemetry.DROPPED.labels("behind")) == before + 1
        # What it got ends with a whole event or within one, never with the reason.
        assert b"event: close" not in read(slow)

    def test_is_told_why_when_it_reads_again_too_late(self, make_hub, connect, send):
        hub = make_hub(max_bytes=1 << 19)
        slow = connect(hub, "a")
        [client] = hub._clients.values()
        client.cursor = hub.ring.end
        self.fill(hub, send, 1, 100)

        hub._advance(client)

        assert b'{"reason": "behind"}' in read(slow)
        assert not hub._clients

    def test_is_closed_when_it_stalls(self, make_hub, connect, send):
        hub = make_hub(max_bytes=1 << 24, stall_seconds=100)
        stalled = connect(hub, "a")
        [client] = hub._clients.values()
        self.fill(hub, send, 1, 50)
        hub.beat(0)
        assert hub._clients

        client.progress_at -= 101
        hub.beat(1)

        assert not hub._clients
        assert read(stalled)

    def test_goes_on_in_the_middle_of_an_event(self, hub, connect, send):
        slow = connect(hub, "a")

        send(hub, 1, size=900_000)
        found = self.drain(hub, slow, 1)
        while not found.endswith(b"x\n\n"):
            hub.poll()
            found += read(slow)
        hub.poll()
        send(hub, 2)

        found += read(slow)
        assert seen(found) == [1, 2]
        assert found.count(b"x") == 900_000

    def test_is_dropped_when_it_leaves_while_it_is_behind(self, hub, connect, send):
        slow = connect(hub, "a")
        [client] = hub._clients.values()
        send(hub, 1, size=900_000)
        assert client.waiting

        slow.close()
        hub._advance(client)

        assert client.fd == -1

    def test_keeps_what_is_pending_in_order(self, hub, connect, send):
        end = connect(hub, "a")
        [client] = hub._clients.values()
        client.pending = b"z" * 900_000 + b"\n\n"
        hub._advance(client)
        assert client.waiting

        send(hub, 1)
        found = self.drain(hub, end, 1)

        assert found.count(b"z") == 900_000
        assert seen(found[-200:]) == [1]


class TestPoll:
    def test_drops_a_dead_client_at_once(self, hub, connect):
        end = connect(hub, "a", tcp=True)
        end.close()

        time.sleep(0.01)
        hub.poll()

        assert not hub._clients

    def test_drops_a_client_that_resets(self, hub, connect):
        end = connect(hub, "a", tcp=True)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()

        time.sleep(0.01)
        hub.poll()

        assert not hub._clients

    def test_takes_no_new_client_for_the_old_owner_of_its_number(
        self, hub, connect, send
    ):
        first = connect(hub, "a")
        [old] = hub._clients.values()
        number = old.fd
        first.close()
        hub.poll()

        second = connect(hub, "b")
        [new] = hub._clients.values()
        old.end("age")
        old.tell("x")
        send(hub, 1, topics=["b"])

        assert new.fd == number
        assert old.fd == -1
        assert seen(read(second)) == [1]

    def test_survives_an_event_of_a_client_that_is_no_more(self, hub, connect):
        end = connect(hub, "a")
        [client] = hub._clients.values()
        del hub._clients[client.fd]
        end.close()

        hub.poll()

        hub._clients[client.fd] = client


class TestBeat:
    def test_reaches_every_client_within_the_interval(self, hub, connect, send):
        ends = [connect(hub, "a") for _ in range(20)]
        for end in ends:
            read(end)
        send(hub, 5, topics=["b"])

        for number in range(16):
            assert hub.beat(number)

        assert [read(end) for end in ends] == [b":\n\nid: 5-0\n\n"] * 20

    def test_waits_while_a_batch_is_on_its_way(self, hub, connect):
        end = connect(hub, "a")
        read(end)
        hub._publishing = True

        assert not any(hub.beat(number) for number in range(16))

        assert read(end) == b""

    def test_drops_a_client_that_is_gone(self, hub, connect):
        connect(hub, "a").close()

        for number in range(16):
            hub.beat(number)

        assert not hub._clients

    def test_leaves_out_a_client_without_room(self, hub, connect):
        connect(hub, "a")
        [client] = hub._clients.values()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(client.fd, b"y" * 10_000)

        for number in range(16):
            hub.beat(number)

        assert client.pending == b""

    def test_finishes_a_heartbeat_that_was_cut_short(
        self, hub, connect, send, monkeypatch
    ):
        end = connect(hub, "a")
        read(end)
        [client] = hub._clients.values()
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, block: write(fd, block[:2]))
        hub.beat(client.fd)
        monkeypatch.undo()

        send(hub, 1)
        hub.poll()
        hub.poll()

        found = read(end)
        assert found.startswith(b":\n\nid: 0-0\n\n")
        assert seen(found) == [1]

    def test_gives_a_client_that_is_ahead_no_resume_point(self, hub, connect):
        end = connect(hub, "a", after=(9, 0))
        hub.poll()
        read(end)

        for number in range(16):
            hub.beat(number)

        assert read(end) == wire.HEARTBEAT

    def test_serves_a_client_that_is_ahead_after_a_short_heartbeat(
        self, hub, connect, send, monkeypatch
    ):
        end = connect(hub, "a", after=(9, 0))
        hub.poll()
        read(end)
        [client] = hub._clients.values()
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, block: write(fd, block[:1]))
        hub.beat(client.fd)
        monkeypatch.undo()

        hub.poll()
        send(hub, 9)
        send(hub, 10)

        found = read(end)
        assert found.startswith(b":\n\n")
        assert seen(found) == [10]


class TestAhead:
    def test_goes_on_when_the_ring_turned_over_before_it_was_reached(
        self, make_hub, connect, publish
    ):
        hub = make_hub(capacity=5)
        publish.many(40, "a")
        batch = hub.source.event_log.page((0, 0))
        end = connect(hub, "a", after=batch.entries[0].id)
        hub.poll()

        # The reader of the process catches up, with more than the ring holds.
        start = hub.ring.extend(batch.entries, batch.last)
        hub.publish(start, batch.entries)
        while not hub._deep.empty():
            hub.replay()
            hub.poll()

        assert seen(read(end)) == list(range(1, 40))
        [client] = hub._clients.values()
        assert client.cursor == -1


class TestTell:
    def test_reaches_a_client_that_keeps_up(self, hub, connect):
        end = connect(hub, "a")
        read(end)
        [client] = hub._clients.values()

        client.tell("hello")

        assert read(end) == b": hello\n\n"

    def test_spares_a_client_that_is_behind(self, hub, connect):
        end = connect(hub, "a")
        read(end)
        [client] = hub._clients.values()
        client.cursor = 0

        client.tell("hello")

        assert read(end) == b""


class TestEnd:
    def test_tells_why_and_closes(self, hub, connect):
        end = connect(hub, "a")
        [client] = hub._clients.values()

        client.end("restart", 700)
        client.end("restart", 700)

        assert read(end).endswith(wire.close("restart", 700))
        end.setblocking(True)
        assert end.recv(1) == b""

    def test_reaches_a_client_that_has_sent_more_bytes(self, hub, connect):
        # Unread bytes would turn the end into a reset, which overtakes the reason.
        end = connect(hub, "a", tcp=True)
        end.sendall(b"GET /next HTTP/1.1\r\n\r\n")
        time.sleep(0.01)
        [client] = hub._clients.values()

        client.end("restart")

        time.sleep(0.01)
        assert read(end).endswith(wire.close("restart"))


class TestReplay:
    @pytest.fixture
    def filled(self, make_hub, publish):
        """A hub whose ring begins after a hundred entries that Redis still has."""
        hub = make_hub(capacity=10, max_bytes=1 << 24)
        identities = publish.many(110, "a")
        _floor, batch = hub.source.event_log.newest(10_000, 1 << 24)
        hub.ring.extend(batch.entries, batch.last)
        self.ids = [wire.parse_id(text.encode()) for text in identities]
        return hub

    def serve(self, hub, end, until):
        found = b""
        deadline = time.monotonic() + 30
        while not seen(found) or seen(found)[-1] != until:
            assert time.monotonic() < deadline
            hub.poll()
            while not hub._deep.empty():
                hub.replay()
                found += read(end)
            found += read(end)
        return found

    def test_goes_through_redis_to_the_ring_to_live(self, filled, connect, send):
        end = connect(filled, "a", after=self.ids[4])

        found = self.serve(filled, end, 109)

        assert seen(found) == list(range(5, 110))
        [client] = filled._clients.values()
        filled.poll()
        assert client.cursor == -1

    def test_is_told_no_resume_point_before_the_events_up_to_it(self, filled, connect):
        end = connect(filled, "a", after=self.ids[4])
        [client] = filled._clients.values()
        assert not client.waiting

        for number in range(16):
            filled.beat(number)

        assert read(end) == HEAD
        assert seen(self.serve(filled, end, 109)) == list(range(5, 110))

    def test_asks_for_the_rest_when_the_socket_is_full(
        self, make_hub, publish, connect
    ):
        hub = make_hub(capacity=2, max_bytes=1 << 24)
        publish.many(60, "a", size=20_000)
        batch = hub.source.event_log.page((0, 0))
        hub.ring.start_at((0, 1))
        hub.ring.extend(batch.entries, batch.last)
        end = connect(hub, "a", after=(0, 1))
        [client] = hub._clients.values()

        hub.replay()
        assert client.offset or client.after > (0, 1)
        found = self.serve(hub, end, 59)

        assert seen(found) == list(range(60))
        assert found.count(b"x" * 20_000) == 60

    def test_closes_when_the_rest_of_an_event_was_trimmed(
        self, filled, connect, publish
    ):
        connect(filled, "a", after=self.ids[4])
        [client] = filled._clients.values()
        client.offset = 3
        publish.redis.xtrim("events", maxlen=50, approximate=False)

        filled.replay()

        assert client.fd == -1

    def test_closes_when_the_rest_of_an_event_is_gone_with_all_others(
        self, filled, connect, publish
    ):
        end = connect(filled, "a", after=self.ids[4])
        [client] = filled._clients.values()
        client.offset = 3
        publish.redis.delete("events")

        filled.replay()

        assert client.fd == -1
        assert b"gap" not in read(end)

    def test_closes_when_redis_is_away(self, filled, connect, monkeypatch):
        end = connect(filled, "a", after=self.ids[4])
        away = type(filled.source.event_log)("redis://127.0.0.1:1/0", "events")
        monkeypatch.setattr(filled, "_log", away)

        filled.replay()

        assert b'{"reason": "unavailable"}' in read(end)

    def test_forgets_a_client_that_left_while_it_waited(self, filled, connect):
        connect(filled, "a", after=self.ids[4]).close()
        filled.poll()

        filled.replay()

        assert not filled._clients

    def test_forgets_a_client_that_left_while_redis_was_asked(
        self, filled, connect, monkeypatch
    ):
        connect(filled, "a", after=self.ids[4])
        [client] = filled._clients.values()
        page = filled.source.event_log.page

        class Leaving:
            def page(self, after):
                client.end("age")
                return page(after)

        monkeypatch.setattr(filled, "_log", Leaving())

        filled.replay()

        assert client.fd == -1

    def test_tells_of_one_gap_when_redis_has_nothing_more(
        self, filled, connect, publish, send
    ):
        end = connect(filled, "a", after=self.ids[4])
        publish.redis.xtrim("events", maxlen=0)

        for _ in range(4):
            filled.poll()
            while not filled._deep.empty():
                filled.replay()
        send(filled, 10**15)

        found = read(end)
        assert found.count(b"event: gap") == 1
        assert seen(found) == [10**15]

    def test_drops_a_client_that_is_gone(self, filled, connect):
        connect(filled, "a", after=self.ids[4]).close()

        filled.replay()

        assert not filled._clients


class TestLoops:
    """Each step again and again, until something stops it."""

    class Stop(Exception):
        pass

    def stop(self, *_):
        raise self.Stop

    def test_polls_when_a_socket_has_news(self, hub, connect, monkeypatch):
        connect(hub, "a").close()
        monkeypatch.setattr(hub, "poll", self.stop)

        with pytest.raises(self.Stop):
            hub._poll_for_ever()

    def test_tries_a_beat_again_that_came_too_early(self, hub, monkeypatch):
        answers = [False, True]
        beats = []
        pauses = []

        def beat(number):
            beats.append(number)
            return answers.pop(0) if answers else self.stop()

        monkeypatch.setattr(hub, "beat", beat)
        monkeypatch.setattr(time, "sleep", pauses.append)

        with pytest.raises(self.Stop):
            hub._beat_for_ever()

        assert beats == [0, 0, 1]
        assert pauses[1] == 0.01

    def test_replays_one_after_the_other(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "replay", self.stop)

        with pytest.raises(self.Stop):
            hub._replay_for_ever()

    def test_start_each_in_a_thread(self, hub, monkeypatch):
        started = []

        def note(thread):
            started.append(thread.name)

        monkeypatch.setattr(threading.Thread, "start", note)

        hub.start()

        assert len(started) == 4


class TestCost:
    @pytest.mark.parametrize("events", [1, 16])
    def test_of_a_batch_is_one_call_for_each_client(
        self, hub, connect, send, calls, events
    ):
        numbers = itertools.count(1)

        def publish():
            send(hub, *itertools.islice(numbers, events))

        connect(hub, "a")
        one = calls(publish)
        ends = [connect(hub, "a") for _ in range(100)]
        many = calls(publish)

        assert seen(read(ends[-1]))[-1] == next(numbers) - 1
        assert many - one == len(ends)
