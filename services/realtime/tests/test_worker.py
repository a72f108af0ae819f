"""Real processes under gunicorn: what happens when parts of it stop, freeze or die."""

import json
import random
import signal
import socket
import subprocess
import threading
import time

import psutil
import pytest
import redis

from flagon_chassis.testing import free_port


class Follower(threading.Thread):
    """A browser: it reads, and when its stream ends it comes back with its last id."""

    def __init__(self, process, open_stream):
        super().__init__(daemon=True)
        self.process = process
        self.open_stream = open_stream
        self.numbers = []
        self.gaps = 0
        self.opened = 0
        self.done = threading.Event()
        self.last = None

    def run(self):
        while not self.done.is_set():
            try:
                stream = self.open_stream(
                    self.process.port, "products", after=self.last
                )
            except OSError:
                time.sleep(0.1)
                continue
            if stream.status == 200:
                self.opened += 1
                while not stream.ended and not self.done.is_set():
                    event = stream.next(0.2)
                    self.last = stream.last_id
                    if event and event.kind == "gap":
                        self.gaps += 1
                    elif event and event.kind != "close":
                        self.numbers.append(json.loads(event.data)["n"])
            stream.close()
            time.sleep(random.uniform(0.05, 0.2))


@pytest.fixture
def follow(helpers):
    """Lets so many browsers follow a process; they are counted once they are in."""
    everyone = []

    def start(process, count):
        followers = [Follower(process, helpers.Stream) for _ in range(count)]
        everyone.extend(followers)
        for follower in followers:
            follower.start()
        process.wait_for(lambda: all(follower.opened for follower in followers))
        return followers

    yield start
    for follower in everyone:
        follower.done.set()
    for follower in everyone:
        follower.join(30)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def come_and_go(process, count):
    """Open so many streams, each of a topic of its own, and leave them in three ways."""
    for number in range(count):
        if number % 3 == 0:
            # One that does not wait for the answer.
            hasty = socket.create_connection(("127.0.0.1", process.port))
            hasty.sendall(b"GET /api/v1/events?topic=tags HTTP/1.1\r\nHost: t\r\n\r\n")
            hasty.close()
            continue
        stream = process.open("products", f"products/{random.randrange(10**9)}")
        assert stream.status == 200
        if number % 3 == 1:
            stream.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
        stream.close()


class OwnRedis:
    """A Redis of the test's own, which may be stopped, frozen and started again."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)
        self.process = None

    def start(self):
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "dir": self.folder,
        }
        words = [str(x) for key, value in options.items() for x in (f"--{key}", value)]
        self.process = subprocess.Popen(
            ["redis-server", *words], stdout=subprocess.DEVNULL
        )
        wait_until(self.answers)

    def answers(self):
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait(5)
            self.process = None

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def make_redis(tmp_path_factory):
    made = []

    def make():
        made.append(OwnRedis(tmp_path_factory.mktemp("redis")))
        return made[-1]

    yield make
    for server in made:
        server.stop()
        server.client.close()


@pytest.fixture(scope="module")
def own_redis(make_redis):
    server = make_redis()
    server.start()
    return server


@pytest.fixture(scope="module")
def own_process(own_redis, launch):
    """A process whose Redis may be stopped; who stops it starts it again."""
    process = launch(redis_store_url=own_redis.url, redis_cache_url=own_redis.url)
    yield process
    process.stop()


@pytest.fixture
def own_publish(own_redis, helpers):
    publisher = helpers.Publisher(own_redis.url)
    yield publisher
    publisher.redis.close()


class TestMany:
    def test_serves_more_than_a_thousand_clients(self, shared_processes, publish):
        # Gunicorn's own limit of connections is 1000: the next one would hang.
        process = shared_processes()
        streams = [process.open("products") for _ in range(1005)]

        publish("products", data={"n": 1})

        assert all(stream.next() for stream in streams)
        # Those of other tests may have to be noticed first.
        wait_until(lambda: process.metric("flagon_sse_connections") == 1005)

    def test_holds_as_many_redis_connections_for_200_clients_as_for_one(
        self, own_process, own_redis, own_publish
    ):
        process = own_process
        first = process.open("products")
        own_publish("products")
        before = len(own_redis.client.client_list())
        streams = [first, *(process.open("products") for _ in range(199))]

        own_publish("products", data={"n": 1})

        assert all(stream.next() for stream in streams)
        # Ours, the publisher's, and a handful of the process.
        assert len(own_redis.client.client_list()) == before <= 2 + 5

    def test_notices_dead_clients_before_the_next_event(self, shared_processes):
        process = shared_processes()
        streams = [process.open("products") for _ in range(20)]
        wait_until(lambda: process.metric("flagon_sse_connections") == 20)

        for stream in streams:
            stream.close()

        # Signs of life, which would find them too, go out over 15 seconds.
        wait_until(lambda: process.metric("flagon_sse_connections") == 0, 10)
        assert len(psutil.Process(process.workers()[0].pid).net_connections()) < 10

    def test_forgets_clients_that_come_and_go_10000_a_minute(
        self, start_process, publish, helpers
    ):
        # Were some of them still counted, the others would soon be refused.
        process = start_process(connections_max=300, connections_per_address=300)
        steady = process.open("products")
        # From here on it has what it keeps, as connections to Redis.
        come_and_go(process, 100)
        [worker] = process.workers()
        process.wait_for(lambda: process.metric("flagon_sse_connections") == 1)
        files = worker.num_fds()

        began = time.monotonic()
        for first in range(0, 2000, 10):
            come_and_go(process, 10)
            publish.many(1, "products", first=first // 10)
        seconds = time.monotonic() - began

        assert 2000 / seconds > 10_000 / 60
        assert helpers.story(steady.take(200)) == "0-199"
        process.wait_for(lambda: process.metric("flagon_sse_connections") == 1)
        # A connection or two to Redis may have come.
        process.wait_for(lambda: worker.num_fds() <= files + 5)
        assert process.metric("flagon_sse_refused_total") == 0

    def test_keeps_memory_bounded_while_clients_stall(
        self, start_process, publish, helpers
    ):
        process = start_process(
            ring_bytes=2 << 20, stall_seconds=2, heartbeat_seconds=1
        )
        healthy = [process.open("products") for _ in range(5)]
        stalled = [process.open("products") for _ in range(20)]
        before = process.workers()[0].memory_info().rss

        got = [[] for _ in healthy]
        for first in range(0, 3000, 50):
            publish.many(50, "products", first=first, size=4000)
            for stream, numbers in zip(healthy, got, strict=True):
                numbers[len(numbers) :] = helpers.numbers(stream.take(50))

        grown = process.workers()[0].memory_info().rss - before
        assert {helpers.runs(numbers) for numbers in got} == {"0-2999"}
        assert grown < (2 << 20) + (8 << 20)
        # Most fall off the ring; on a slow machine they stall before that.
        wait_until(lambda: process.metric("flagon_sse_dropped_total") == 20)
        assert process.metric("flagon_sse_connections") == len(healthy)
        stalled[0].take(10)
        resumed = process.open("products", after=stalled[0].last_id)
        assert helpers.numbers([resumed.next()]) == [10]

    def test_counts_over_all_workers(self, start_process):
        # Its own: on a shared one a worker of a test before may still be leaving, and
        # take some of these streams with it.
        process = start_process(workers=2)
        # The process is ready when one of its workers is; the other may still refuse.
        streams = []
        process.wait_for(
            lambda: (
                streams.append(process.open("products"))
                or sum(stream.status == 200 for stream in streams) == 40
            )
        )
        streams = [stream for stream in streams if stream.status == 200]

        wait_until(lambda: process.metric("flagon_sse_connections") == 40)
        busiest = max(process.workers(), key=lambda one: len(one.net_connections()))
        busiest.kill()

        wait_until(lambda: process.metric("flagon_sse_connections") < 40)
        assert process.metric("flagon_sse_connections") == sum(
            1 for stream in streams if stream.next(0.05) is None and not stream.ended
        )


class TestRestart:
    def test_loses_and_repeats_nothing_when_workers_are_killed(
        self, shared_processes, publish, follow, helpers
    ):
        process = shared_processes(workers=2)
        followers = follow(process, 20)

        for number in range(300):
            publish.many(1, "products", first=number)
            time.sleep(0.01)
            if number % 100 == 50:
                random.choice(process.workers()).kill()

        wait_until(lambda: all(len(f.numbers) >= 300 for f in followers))
        assert {helpers.runs(f.numbers) for f in followers} == {"0-299"}
        assert sum(f.opened for f in followers) > 20

    def test_loses_and_repeats_nothing_on_reload(
        self, shared_processes, publish, follow, helpers
    ):
        process = shared_processes(workers=2)
        followers = follow(process, 10)

        for number in range(150):
            publish.many(1, "products", first=number)
            time.sleep(0.02)
            if number == 50:
                process.popen.send_signal(signal.SIGHUP)

        wait_until(lambda: all(len(f.numbers) >= 150 for f in followers))
        assert {helpers.runs(f.numbers) for f in followers} == {"0-149"}
        assert all(f.opened > 1 for f in followers)

    def test_drains_on_sigterm(self, start_process):
        process = start_process(drain_seconds=4, close_seconds=0.5)
        streams = [process.open("products") for _ in range(40)]

        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: process.get("/readyz")[0] == 503)
        refused = process.open("products")
        ends = [stream.wait_for_end()[-1] for stream in streams]
        process.popen.wait(30)

        assert refused.status == 503
        assert refused.problem()["type"].endswith("#closing")
        assert {(e.kind, e.data) for e in ends} == {("close", '{"reason": "restart"}')}
        hints = {stream.retries[-1] for stream in streams}
        assert len(hints) > 20
        assert all(100 <= hint <= 3000 for hint in hints)
        assert process.popen.returncode == 0


class TestRedis:
    def test_starts_without_it_and_serves_once_it_is_there(
        self, launch, make_redis, helpers
    ):
        own_redis = make_redis()
        process = launch(
            wait=False, redis_store_url=own_redis.url, redis_cache_url=own_redis.url
        )
        try:
            wait_until(lambda: _status(process, "/livez") == 200)
            assert process.get("/readyz")[0] == 503
            refused = process.open("products")
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.problem()["type"].endswith("#not-ready-yet")

            own_redis.start()

            wait_until(lambda: _status(process, "/readyz") == 200)
            assert process.open("products").status == 200
        finally:
            process.stop()

    def test_delays_events_when_it_is_frozen(
        self, own_process, own_redis, own_publish, helpers
    ):
        process = own_process
        stream = process.open("products")
        own_publish.many(1, "products")
        stream.next()

        own_redis.freeze()
        time.sleep(2)
        own_redis.thaw()
        own_publish.many(2, "products", first=1)

        assert helpers.numbers(stream.take(2)) == [1, 2]

    def test_keeps_clients_without_a_gap_when_it_restarts(
        self, own_process, own_redis, own_publish, helpers
    ):
        process = own_process
        stream = process.open("products")
        own_publish.many(1, "products")
        assert helpers.numbers([stream.next()]) == [0]

        own_redis.stop()
        wait_until(lambda: process.get("/readyz")[0] == 503)
        stream.read_until(lambda: "events are late" in stream.comments)
        newcomer = process.open("products")
        own_redis.start()
        own_publish.many(3, "products", first=1)

        assert helpers.numbers(stream.take(3)) == [1, 2, 3]
        assert helpers.numbers(newcomer.take(3)) == [1, 2, 3]
        assert "events come again" in stream.comments
        wait_until(lambda: process.get("/readyz")[0] == 200)


class TestKey:
    def test_waits_for_a_stream_where_something_else_is(
        self, shared_processes, publish, helpers
    ):
        process = shared_processes()
        stream = process.open("products")
        publish.redis.set("events", "not a stream")
        wait_until(lambda: process.get("/readyz")[0] == 503)

        publish.redis.delete("events")
        publish("products", data={"n": 1})

        assert helpers.numbers([stream.next()]) == [1]


def _status(process, path):
    try:
        return process.get(path)[0]
    except OSError:
        return None
