import re
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis
from pydantic import ValidationError
from redis.exceptions import NoPermissionError, ReadOnlyError

from flagon_chassis import queue, stores, streams
from flagon_chassis.denylist import Denylist
from flagon_chassis.redis_queue import RedisQueue
from flagon_chassis.relay import Relay
from flagon_chassis.testing import start_replicated

from .conftest import eventually, in_thread
from .test_queue import publish
from .test_redis_queue import WORK
from .test_redis_queue import publish as hand_over
from .test_relay import put_event, put_task, waiting

ROOT = Path(__file__).parents[3]
SECONDS = 20
"""Within which everybody must be back: a second of patience, and votes that are split."""


@pytest.fixture(scope="module")
def fleet():
    yield from start_replicated()


@pytest.fixture
def several(fleet):
    """Three Redis and three Sentinels, all of them up, and empty."""
    for port, process in fleet.processes.items():
        process.send_signal(signal.SIGCONT)
        if process.poll() is not None:
            fleet.start(port)
    eventually(lambda: fleet.settled() is None, 60)
    with closing(fleet.admin(eventually(fleet.primary))) as admin:
        admin.flushall()
    return fleet


@pytest.fixture
def client(several):
    with streams.connect(several.url) as client:
        yield client


def kill(several, port):
    several.processes[port].kill()
    several.processes[port].wait(5)


def kill_primary(several):
    """Kill whom the Sentinels agree upon; on a busy machine they may just change it."""
    kill(several, eventually(several.primary))


def written(client, name):
    """Return how long it took until a value was written."""
    begun = time.monotonic()
    eventually(lambda: client.set(f"things:{name}", name), SECONDS)
    return time.monotonic() - begun


class TestWatched:
    def test_is_not_for_one_server(self):
        assert stores.watched("redis://user:secret@store:6379/0") is None

    def test_has_what_the_address_says(self):
        found = stores.watched("redis+sentinel://me:a%2Fb@one,two:7000/store/3")

        assert found == stores.Watched(
            (("one", 26379), ("two", 7000)), "store", "me", "a/b", 3
        )
        assert "a/b" not in repr(found)

    def test_begins_with_the_first_database(self):
        assert stores.watched("redis+sentinel://one/store").db == 0

    @pytest.mark.parametrize(
        "rest",
        ["", "one", "/store", "one/store/x", "one,/store", "one:x/store", ":1/store"],
    )
    def test_refuses_half_an_address(self, rest):
        with pytest.raises(ValueError, match="redis\\+sentinel://") as caught:
            stores.watched(f"redis+sentinel://me:secret@{rest}")

        assert "secret" not in str(caught.value)

    def test_is_checked_when_a_service_starts(self, make_settings):
        with pytest.raises(ValidationError, match="redis_store_url"):
            make_settings(redis_store_url="redis+sentinel://one")

    def test_is_not_for_the_cache(self, make_settings):
        with pytest.raises(ValidationError, match="the cache is one Redis"):
            make_settings(redis_cache_url="redis+sentinel://one/store")


class TestClient:
    def test_is_made_here_and_nowhere_else(self):
        places = [
            *ROOT.glob("libs/*/src/*/**/*.py"),
            *ROOT.glob("services/*/src/**/*.py"),
        ]
        made = r"Redis\(|Redis\.from_url|ConnectionPool\.from_url|Sentinel\("
        found = {path.name for path in places if re.search(made, path.read_text())} - {
            "stores.py",
            "testing.py",
        }

        # The library of limits takes a pool for the cache, which is one server; a broker
        # of that name is no client.
        assert found == {"limits.py", "brokers.py"}

    def test_waits_for_a_connection_if_told_to(self, several):
        url, limit = several.url, {"max_connections": 1}
        with (
            stores.client(url, **limit) as hasty,
            stores.client(url, **limit, queue_seconds=20) as patient,
        ):
            for one in (hasty, patient):
                one.set("things:n", 1)
            held = [one.connection_pool.get_connection() for one in (hasty, patient)]
            threading.Timer(
                0.2, lambda: patient.connection_pool.release(held[1])
            ).start()

            assert patient.get("things:n") == b"1"
            with pytest.raises(redis.ConnectionError, match="Too many"):
                hasty.get("things:n")

    def test_of_one_server_waits_as_well(self, redis_url):
        with stores.client(redis_url, max_connections=1, queue_seconds=0.1) as client:
            client.connection_pool.get_connection()
            with pytest.raises(redis.ConnectionError, match="No connection"):
                client.ping()


class TestRights:
    def test_of_a_stranger_end_at_the_sentinels(self, several):
        url = several.url.replace(several.password, "wrong")

        with (
            stores.client(url, retry=None) as client,
            pytest.raises(redis.ConnectionError, match="AuthenticationError"),
        ):
            client.ping()

    def test_of_a_service_are_to_ask_who_is_the_primary(self, several):
        url = f"redis://things:{several.password}@127.0.0.1:{several.sentinels[0]}"
        with redis.Redis.from_url(url) as client:
            assert "store" in client.sentinel_masters()
            for words in (
                ("SENTINEL", "FAILOVER", "store"),
                ("SENTINEL", "SET", "store", "quorum", "1"),
                ("SENTINEL", "REMOVE", "store"),
                ("PUBLISH", "__sentinel__:hello", ""),
            ):
                with pytest.raises(NoPermissionError):
                    client.execute_command(*words)

    @pytest.mark.parametrize("user", ["replica", "sentinel"])
    def test_of_who_keeps_the_servers_are_not_to_read(self, several, client, user):
        client.set("things:secret", 1)
        url = f"redis://{user}:{several.password}@127.0.0.1:{several.primary()}"
        with redis.Redis.from_url(url) as other:
            for words in (("GET", "things:secret"), ("CONFIG", "GET", "*")):
                with pytest.raises(NoPermissionError):
                    other.execute_command(*words)


class TestFailover:
    def test_of_a_killed_primary_is_followed(self, several, client):
        assert written(client, "before") < 1
        stores.copy(client, "things:mark")
        old = several.primary()

        kill(several, old)

        assert written(client, "after") < SECONDS
        assert client.mget("things:before", "things:after") == [b"before", b"after"]
        assert eventually(several.primary) != old

    def test_needs_two_of_the_three_sentinels(self, several, client):
        kill(several, several.sentinels[0])
        old = several.primary()

        kill(several, old)

        assert written(client, "after") < SECONDS
        assert eventually(several.primary) != old

    def test_is_waited_for_with_the_failure_of_an_outage(self, several, client):
        kill_primary(several)

        with pytest.raises(redis.ConnectionError):
            client.set("things:n", 1)

    def test_makes_a_replica_of_who_comes_back(self, several, client):
        old = several.primary()
        kill(several, old)
        written(client, "after")

        several.start(old)

        # Never a primary again, not even before a Sentinel has told it.
        assert eventually(lambda: several.role(old)) == "slave"
        eventually(lambda: several.settled() is None, 60)
        with closing(several.admin(old)) as admin:
            assert admin.get("things:after") == "after"
            with pytest.raises(ReadOnlyError):
                admin.set("things:n", 1)

    def test_leaves_a_primary_that_was_frozen(self, several, client):
        """What is written after it thaws is not lost with it."""
        written(client, "before")
        old = several.primary()
        several.processes[old].send_signal(signal.SIGSTOP)
        assert written(client, "during") < SECONDS

        several.processes[old].send_signal(signal.SIGCONT)
        for number in range(500):
            client.rpush("things:numbers", number)

        eventually(lambda: several.role(old) == "slave")
        assert several.primary() != old
        assert client.llen("things:numbers") == 500
        eventually(lambda: several.settled() is None, 60)
        with closing(several.admin(old)) as admin:
            assert admin.llen("things:numbers") == 500

    def test_is_not_needed_for_a_connection_to_a_demoted_one(self, several, client):
        """It leaves at the first answer that says so, and finds the primary."""
        old = several.primary()
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        with closing(several.admin(old)) as admin:
            other = next(port for port in several.ports if port != old)
            # As it would be told, without the Sentinel's `CLIENT KILL`.
            admin.execute_command("REPLICAOF", "localhost", other)

            with pytest.raises(redis.ConnectionError, match="is now a slave"):
                client.set("things:n", 1)
            admin.execute_command("REPLICAOF", "NO", "ONE")

        assert client.set("things:n", 2)

    def test_is_nobodys_when_all_replicas_are_away(self, several, client):
        """Who has no replica takes nothing: its place may have been taken."""
        primary = several.primary()
        for port in several.ports:
            if port != primary:
                kill(several, port)

        eventually(lambda: "few replicas" in refusal(client))

        assert client.get("things:none") is None
        assert several.role(primary) == "master"

    def test_is_followed_by_who_listens_for_revocations(self, several):
        with closing(Denylist(several.url)) as denylist:
            eventually(lambda: denylist.claim("things:one", 60))
            denylist.marks(["things:one"])
            eventually(lambda: denylist._heard_at > float("-inf"))

            kill_primary(several)

            eventually(lambda: denylist._heard_at == float("-inf"))
            eventually(lambda: denylist.claim("things:two", 60), SECONDS)
            eventually(lambda: denylist._heard_at > float("-inf"))
            assert denylist.marks(["things:two"]) == {"things:two": b"1"}


def refusal(client):
    try:
        client.set("things:n", 1)
    except redis.ConnectionError as error:
        return str(error)
    return ""


class TestRelay:
    @pytest.fixture
    def relay(self, several, make_settings, database_url):
        settings = make_settings(database_url=database_url, redis_store_url=several.url)
        return Relay(settings, "things")

    def test_marks_nothing_that_no_replica_has(self, several, relay, rows):
        stopped = [port for port in several.ports if port != several.primary()]
        for port in stopped:
            several.processes[port].send_signal(signal.SIGSTOP)
        put_event(rows)

        with pytest.raises(redis.ConnectionError, match="No replica has it"):
            relay.step(rows)

        assert waiting(rows) == 1
        for port in stopped:
            several.processes[port].send_signal(signal.SIGCONT)
        eventually(lambda: relay.step(rows))
        assert waiting(rows) == 0

    def test_loses_nothing_while_the_primary_dies(self, several, relay, rows, client):
        sent = set()
        with in_thread(relay.work, relay.stop):
            for number in range(300):
                sent.add(str(put_event(rows, subject=str(number))))
                put_task(rows, key=str(number))
                if number == 150:
                    eventually(lambda: client.xlen(streams.EVENTS))
                    kill_primary(several)
            eventually(lambda: waiting(rows) == 0)

        found = [
            fields[b"id"].decode()
            for _, fields in streams.flat(client.xrange(streams.EVENTS))
        ]
        assert set(found) == sent
        tasks = client.lrange("things:bulk", 0, -1)
        keys = {re.search(rb'"id": "([0-9a-f-]+)"', one)[1] for one in tasks}
        assert len(keys) == 300


class TestCelery:
    def test_sends_and_runs_tasks_through_a_failover(
        self, several, worker, make_settings, client
    ):
        process = worker(several.url)
        broker = queue.publisher(make_settings(redis_store_url=several.url), "things")
        publish(broker, "things.note", key="before")
        eventually(lambda: client.llen("things:noted:before") == 1)

        kill_primary(several)
        eventually(lambda: sends(broker), SECONDS)
        # Between two attempts Celery waits for two seconds, then four, then six.
        eventually(lambda: client.llen("things:noted:after") >= 1, 3 * SECONDS)

        eventually(lambda: process.get("/readyz")[0] == 200)
        assert several.password not in process.output()
        assert process.stop() == 0


class TestRQ:
    def test_sends_and_runs_tasks_through_a_failover(self, several, worker, client):
        code = WORK.format(url=several.url, hard_seconds=30)
        process = worker(several.url, code=code)
        source = RedisQueue(several.url, "things", "mail")
        hand_over(source, "things.note", key="before")
        eventually(lambda: client.llen("things:noted:before") == 1)

        kill_primary(several)
        eventually(lambda: hand_over(source, "things.note", key="after"), SECONDS)
        eventually(lambda: client.llen("things:noted:after") >= 1, 3 * SECONDS)

        eventually(lambda: process.get("/readyz")[0] == 200)
        assert process.stop() == 0


def sends(broker):
    try:
        publish(broker, "things.note", key="after", task_id="2")
    except queue.OperationalError:
        return False
    return True
