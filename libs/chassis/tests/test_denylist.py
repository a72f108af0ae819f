import threading
import time

import pytest
import redis

from flagon_chassis.denylist import KEYS_CHANGED, Denylist
from flagon_chassis.testing import start_redis

from .conftest import eventually

NAMES = ["denylist:jti:a", "denylist:sid:b"]


class Clock:
    ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    """How often the denylist was told that the keys changed."""
    return []


@pytest.fixture
def make_denylist(redis_url, clock, told):
    made = []

    def make(url=redis_url, **options):
        options = {"keys_changed": lambda: told.append(1), "clock": clock, **options}
        made.append(Denylist(url, **options))
        return made[-1]

    yield make
    for denylist in made:
        denylist.close()


@pytest.fixture
def denylist(make_denylist):
    """One that listens already."""
    denylist = make_denylist()
    denylist.marks(NAMES)
    listening(denylist)
    return denylist


def listening(denylist):
    eventually(lambda: denylist._heard_at > float("-inf"))


def asks(store):
    """Return how often Redis was asked for marks."""
    return store.info("commandstats").get("cmdstat_mget", {}).get("calls", 0)


class TestMarks:
    def test_returns_those_that_are_there(self, denylist, store):
        store.set("denylist:sid:b", "1")

        eventually(lambda: denylist.marks(NAMES) == {"denylist:sid:b": b"1"})

    def test_asks_once_for_what_does_not_change(self, denylist, store):
        denylist.marks(NAMES)
        before = asks(store)

        for _ in range(50):
            assert denylist.marks(NAMES) == {}

        assert asks(store) == before

    def test_sees_a_mark_within_a_second(self, denylist, store):
        denylist.marks(NAMES)

        began = time.monotonic()
        store.set("denylist:jti:a", "1")
        eventually(lambda: denylist.marks(NAMES), seconds=1)

        assert time.monotonic() - began < 1

    def test_sees_that_a_mark_changes_and_goes(self, denylist, store):
        store.set("denylist:jti:a", "1")
        eventually(lambda: denylist.marks(NAMES) == {"denylist:jti:a": b"1"})
        store.set("denylist:jti:a", "2")
        eventually(lambda: denylist.marks(NAMES) == {"denylist:jti:a": b"2"})
        store.delete("denylist:jti:a")
        eventually(lambda: denylist.marks(NAMES) == {})

    def test_sees_that_redis_was_emptied(self, denylist, store):
        store.set("denylist:jti:a", "1")
        eventually(lambda: denylist.marks(NAMES))

        store.flushall()

        eventually(lambda: denylist.marks(NAMES) == {})

    def test_is_not_told_of_what_is_none_of_its_business(self, denylist, store):
        denylist.marks(NAMES)
        changes = denylist._changes

        store.set("auth:something", "1")
        store.set("denylist:jti:other", "1")

        eventually(lambda: denylist._changes == changes + 1)
        assert set(NAMES) <= set(denylist._known)

    def test_does_not_remember_an_answer_that_a_change_overtook(
        self, denylist, store, monkeypatch
    ):
        # The answer says "no mark"; before it is put away the mark is set and told.
        denylist.marks(["denylist:jti:else"])

        def overtaken(names):
            found = store.mget(names)
            before = denylist._changes
            store.set("denylist:jti:a", "1")
            eventually(lambda: denylist._changes > before)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(denylist._redis, "mget", overtaken)
            denylist.marks(["denylist:jti:a", "denylist:sid:c"])

        assert denylist.marks(["denylist:jti:a"]) == {"denylist:jti:a": b"1"}

    def test_asks_redis_when_it_has_not_heard_of_it_for_a_second(
        self, denylist, store, clock
    ):
        denylist.marks(NAMES)
        before = asks(store)
        # As if messages stopped coming on a connection that looks alive.
        denylist._heard_at -= 10
        clock.ahead = 0

        denylist.marks(NAMES)

        assert asks(store) == before + 1

    def test_without_a_memory_asks_each_time(self, make_denylist, store):
        denylist = make_denylist(remember=False)
        denylist.marks(NAMES)
        listening(denylist)
        before = asks(store)

        denylist.marks(NAMES)
        denylist.marks(NAMES)

        assert asks(store) == before + 2

    def test_remembers_no_more_than_so_much(self, denylist):
        denylist.most_names = 3
        for number in range(10):
            denylist.marks([f"denylist:jti:{number}"])

        assert len(denylist._known) <= 4

    def test_without_redis_nobody_can_tell(self, make_denylist):
        denylist = make_denylist("redis://127.0.0.1:1/0")

        for _ in range(3):
            with pytest.raises(redis.RedisError):
                denylist.marks(NAMES)


class TestWatching:
    def test_a_broken_connection_is_noticed_and_made_again(
        self, denylist, store, logged
    ):
        denylist.marks(NAMES)
        for client in store.client_list():
            if client["name"] == "" and "t" in client["flags"]:
                store.client_kill_filter(client["id"])
        store.set("denylist:jti:a", "1")

        # Nobody told us, and still it is right within a second.
        eventually(lambda: denylist.marks(NAMES), seconds=1)
        listening(denylist)
        store.delete("denylist:jti:a")
        eventually(lambda: denylist.marks(NAMES) == {}, seconds=1)

    def test_redis_may_go_away_and_come_back(self, make_denylist, logged, told):
        server = start_redis()
        url = next(server).url
        port = int(url.split(":")[2].split("/")[0])
        denylist = make_denylist(url)
        denylist.marks(NAMES)
        listening(denylist)
        server.close()

        eventually(lambda: cannot_tell(denylist), seconds=5)
        eventually(lambda: logged_names(logged).count("denylist_unwatched") == 1)
        again = start_redis(port=port)
        with redis.Redis.from_url(next(again).url) as store:
            store.set("denylist:jti:a", "1")
            eventually(lambda: denylist.marks(NAMES))
            listening(denylist)
        denylist.close()
        again.close()

    def test_nothing_is_believed_while_redis_hangs(self, make_denylist):
        # A server that takes connections and says nothing: marks cannot be told.
        server = start_redis()
        url = next(server).url
        denylist = make_denylist(url)
        denylist.marks(NAMES)
        listening(denylist)
        with redis.Redis.from_url(url) as store:
            store.execute_command("client", "pause", 2500, "all")
            denylist.fresh_seconds = 0.3

            eventually(lambda: cannot_tell(denylist), seconds=3)
        server.close()

    def test_says_once_that_redis_is_away(self, make_denylist, logged):
        denylist = make_denylist("redis://127.0.0.1:1/0")
        denylist.beat_seconds = 0.001
        tries = threading.Semaphore(0)
        follow = denylist._follow

        def counted():
            tries.release()
            follow()

        denylist._follow = counted
        assert cannot_tell(denylist)
        for _ in range(4):
            assert tries.acquire(timeout=5)

        assert logged_names(logged).count("denylist_unwatched") == 1

    def test_what_comes_before_the_answer_counts_as_heard(self, make_denylist):
        # Changes that Redis told before it answered were told before that moment.
        denylist = make_denylist()
        denylist.beat_seconds = 0

        answers = [None, None, b"PONG"]

        class Connection:
            def send_command(self, name):
                assert name == "PING"

            def read_response(self, push_request):
                return answers.pop(0)

        denylist._beat(Connection())

        assert answers == []
        assert denylist._heard_at > float("-inf")

    def test_begins_with_the_first_question_and_ends_when_none_comes(
        self, make_denylist, clock
    ):
        denylist = make_denylist()
        assert denylist._thread is None
        denylist.marks(NAMES)
        listening(denylist)

        clock.ahead += 1000
        eventually(lambda: denylist._thread is None)

        denylist.marks(NAMES)
        listening(denylist)

    def test_many_first_questions_begin_it_once(self, make_denylist):
        denylist = make_denylist()
        before = threading.active_count()
        denylist._start()
        denylist._start()

        assert threading.active_count() <= before + 1

    def test_does_not_begin_after_the_end(self, make_denylist):
        denylist = make_denylist()
        denylist.close()

        denylist._start()

        assert denylist._thread is None


def cannot_tell(denylist):
    try:
        denylist.marks(NAMES)
    except redis.RedisError:
        return True
    return False


def logged_names(entries):
    return [entry["event"] for entry in entries]


class TestKeysChanged:
    def test_is_told_at_once(self, denylist, store, told):
        store.set(KEYS_CHANGED, "1")

        eventually(lambda: told, seconds=1)

    def test_is_told_when_it_happened_while_nobody_listened(
        self, make_denylist, store, told
    ):
        store.set(KEYS_CHANGED, "1")

        denylist = make_denylist()
        denylist.marks(NAMES)

        eventually(lambda: told)

    def test_is_not_told_again_when_the_connection_is_made_again(
        self, make_denylist, store, told
    ):
        store.set(KEYS_CHANGED, "1")
        denylist = make_denylist()
        denylist.marks(NAMES)
        eventually(lambda: told)
        denylist._keys_mark = b"1"

        listening(denylist)
        before = denylist._changes
        for client in store.client_list():
            if "t" in client["flags"]:
                store.client_kill_filter(client["id"])
        # It forgets all when the connection breaks and when it is made again.
        eventually(lambda: denylist._changes >= before + 2)
        listening(denylist)

        assert len(told) == 1


class TestClaim:
    def test_is_given_to_one(self, denylist, store):
        assert denylist.claim("things:dpop:x", 60) is True
        assert denylist.claim("things:dpop:x", 60) is False
        assert 0 < store.ttl("things:dpop:x") <= 60
