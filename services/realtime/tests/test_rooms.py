"""Rooms in Redis, and the names of people, one call at a time."""

import threading
import time
from types import SimpleNamespace

import pytest
import redis

from flagon_realtime.people import Names
from flagon_realtime.rooms import Rooms, Seats, State, shown


def wait_for(ended):
    """Redis alone knows when something has ended; it is looked at until then."""
    end = time.monotonic() + 30
    while not ended():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.001)


@pytest.fixture
def make_rooms(redis_url):
    made = []

    def make(**changes):
        made.append(
            Rooms(redis_url, **{"entry_seconds": 60, "lock_seconds": 60, **changes})
        )
        return made[-1]

    yield make
    for rooms in made:
        rooms.close()


@pytest.fixture
def rooms(make_rooms):
    return make_rooms()


class TestUpdate:
    def test_counts_accounts_once_and_strangers_each(self, rooms):
        seats = Seats(strangers=["1", "2"], accounts=["ada 3", "ada 4", "bob 5"])

        assert rooms.update("tags", seats).count == 4
        assert rooms.update("tags", Seats(gone=["1", "ada 3"])).count == 3
        assert rooms.update("tags", Seats(gone=["ada 4", "nobody"])).count == 2

    def test_takes_out_what_has_ended(self, make_rooms, rooms):
        short = make_rooms(entry_seconds=0.001)
        short.update(
            "tags", Seats(["1"], ["ada 2"], {"ada 2": ("ada", "Ada", "viewing")})
        )
        # Whoever is still there keeps the room; else Redis would forget all of it.
        rooms.update("tags", Seats(["3"]))

        wait_for(lambda: rooms.look("tags").count == 1)
        assert rooms.look("tags") == State(1)

    def test_leaves_nothing_behind(self, make_rooms, redis_url):
        make_rooms(entry_seconds=0.001).update("tags", Seats(["1"], ["ada 2"]))

        with redis.Redis.from_url(redis_url) as client:
            wait_for(lambda: not client.keys("realtime:room:*"))

    def test_shows_a_person_once_and_editing_before_viewing(self, rooms):
        people = {
            "ada 1": ("ada", "Ada", "viewing"),
            "ada 2": ("ada", "Ada", "editing"),
            "bob 3": ("bob", None, "viewing"),
        }

        state = rooms.update("tags", Seats(accounts=list(people), people=people))

        assert state.people == (("ada", "Ada", "editing"), ("bob", None, "viewing"))
        assert shown("tags", state, names=False) == {"room": "tags", "count": 2}

    def test_of_many_processes_at_once_loses_nobody(self, make_rooms, rooms):
        def enter(number):
            mine = make_rooms()
            for turn in range(20):
                mine.update("tags", Seats([f"{number}-{turn}"]))

        threads = [threading.Thread(target=enter, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert rooms.look("tags").count == 80


class TestChanges:
    def test_are_told_once_each(self, rooms):
        changes = rooms.changes()
        assert next(changes) is None
        rooms.update("tags", Seats(["1"]))
        rooms.update("tags", Seats(["1"]))
        rooms.update("products", Seats(["1"]))

        assert [next(changes), next(changes)] == ["tags", "products"]
        changes.close()


class TestTakeLock:
    def test_by_the_same_token_renews_it(self, make_rooms, rooms):
        short = make_rooms(lock_seconds=5)
        assert short.take_lock("tags/1", token="t", account="ada", name="Ada")[0]
        taken, lock = rooms.take_lock("tags/1", token="t", account="ada", name="Ada")

        assert taken
        assert lock.expires_in_seconds == 60
        assert rooms.look("tags/1").lock == lock

    def test_that_has_ended_is_anybodys(self, make_rooms, rooms):
        make_rooms(lock_seconds=0.001).take_lock(
            "tags/1", token="t", account="ada", name=None
        )

        def take():
            return rooms.take_lock("tags/1", token="u", account="bob", name=None)

        while not (taken := take())[0]:
            pass
        assert taken[1].id == "bob"
        assert not rooms.free_lock("tags/1", "t")


def caller(sub="ada", client_id="web", **claims):
    return SimpleNamespace(sub=sub, client_id=client_id, claims=claims, token="t")


class TestNames:
    @pytest.fixture
    def names(self, make_settings):
        return Names(make_settings(auth_url="http://127.0.0.1:1"))

    def test_are_unknown_without_auth(self, names):
        assert names.find(caller()) is None

    def test_are_not_asked_for_with_a_token_that_is_bound_to_a_key(self, names):
        names._auth = None

        assert names.find(caller(cnf={"jkt": "x"})) is None

    def test_of_programs_are_none(self, names):
        names._auth = None

        assert names.find(caller(sub="robot", client_id="robot")) is None

    def test_are_asked_for_once_and_not_kept_without_an_end(self, names, monkeypatch):
        asked = []

        def get(_path, token):
            asked.append(token)
            return SimpleNamespace(json=lambda: {"name": "Ada"})

        names._auth = SimpleNamespace(get=get)
        monkeypatch.setattr("flagon_realtime.people._MOST_REMEMBERED", 1)

        assert [names.find(caller()) for _ in range(3)] == ["Ada"] * 3
        assert len(asked) == 1
        names.find(caller(sub="bob"))
        names.find(caller())
        assert len(asked) == 3
