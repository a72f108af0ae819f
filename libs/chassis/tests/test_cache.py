import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from flask import Flask, Response
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from flagon_chassis import cache as caches
from flagon_chassis import db, events
from flagon_chassis.cache import AnswerCache
from flagon_chassis.content import Content
from flagon_chassis.testing import free_port, start_redis

from .conftest import eventually, sample

CONTENT = "things:answers:content"


@pytest.fixture
def make_cache():
    """The cache of one process: those of several share nothing but Redis."""

    def make(url, **options):
        return AnswerCache(Flask("things"), url, **{"seconds": 60, **options})

    return make


@pytest.fixture
def cache(make_cache, redis_url):
    return make_cache(redis_url)


class Made:
    """Answers that tell how many were made before them."""

    def __init__(self, status=200):
        self.number = 0
        self.status = status

    def __call__(self):
        self.number += 1
        return Response(f"answer {self.number}", self.status)


@pytest.fixture
def made():
    return Made()


def asked(outcome):
    return sample("flagon_cache_requests_total", outcome=outcome) or 0


class TestAnswer:
    def test_is_made_once(self, cache, made):
        hits, misses = asked("hit"), asked("miss")

        found = [cache.answer("a", made).get_data(as_text=True) for _ in range(3)]

        assert found == ["answer 1"] * 3
        assert (asked("hit") - hits, asked("miss") - misses) == (2, 1)

    def test_is_shared_by_processes(self, make_cache, redis_url, made):
        make_cache(redis_url).answer("a", made)

        assert (
            make_cache(redis_url).answer("a", made).get_data(as_text=True) == "answer 1"
        )

    def test_belongs_to_its_question(self, cache, made):
        cache.answer("a", made)

        assert cache.answer("b", made).get_data(as_text=True) == "answer 2"

    def test_keeps_what_is_about_the_content(self, cache):
        def make():
            return Response(
                b"\n\0\xff",
                headers={
                    "Content-Type": "text/csv",
                    "ETag": '"7"',
                    "Set-Cookie": "who=me",
                    "X-Request-Id": "1",
                },
            )

        cache.answer("a", make)
        kept = cache.answer("a", make)

        assert (kept.data, kept.headers["ETag"]) == (b"\n\0\xff", '"7"')
        assert kept.headers["Content-Type"] == "text/csv"
        assert not {"Set-Cookie", "X-Request-Id"} & set(kept.headers.keys())

    @pytest.mark.parametrize("status", [204, 304, 404, 503])
    def test_is_kept_only_if_it_is_a_whole_one(self, cache, status):
        made = Made(status)

        found = [cache.answer("a", made).status_code for _ in range(2)]

        assert (found, made.number) == ([status] * 2, 2)

    def test_lives_no_longer_than_it_may(self, cache, store, made):
        cache.answer("a", made)

        lives = [store.ttl(key) for key in store.scan_iter() if key != CONTENT.encode()]
        assert lives
        assert all(0 <= seconds <= 60 for seconds in lives)

    def test_keeps_its_keys_below_the_services_name(self, cache, store, made):
        cache.answer("a", made)

        assert all(key.startswith(b"things:answers:") for key in store.scan_iter())


class TestChanged:
    def test_makes_older_answers_worthless(self, cache, made):
        cache.answer("a", made)

        cache.changed()

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"

    def test_counts_while_an_answer_is_made(self, cache, made):
        def slow():
            cache.changed()
            return made()

        # Read before the change, stored after it.
        cache.answer("a", slow)

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"

    def test_holds_when_redis_forgets_the_name_of_the_content(self, cache, store, made):
        cache.answer("a", made)
        store.delete(CONTENT)

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"

    def test_is_told_to_redis_as_a_relay_does(self, cache, redis_url, made):
        cache.answer("a", made)

        Content(redis_url, "things").changed()

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"

    def test_bears_a_redis_that_is_away(self, logged):
        Content(f"redis://127.0.0.1:{free_port()}/0", "things").changed()

        assert "content_not_renamed" in str(logged)


class TestSingleFlight:
    def test_one_does_the_work_of_many(self, make_cache, redis_url, store, made):
        processes = [make_cache(redis_url, wait_seconds=20) for _ in range(3)]
        waited = asked("waited")

        # Three crowds one after the other: none is woken by the end of the one before.
        for number in (1, 2, 3):
            go_on = threading.Event()

            def slow(go_on=go_on):
                assert go_on.wait(20)
                return made()

            with ThreadPoolExecutor(12) as pool:
                found = [
                    pool.submit(processes[each % 3].answer, "a", slow)
                    for each in range(12)
                ]
                eventually(lambda: store.info("clients")["blocked_clients"] == 11)
                go_on.set()
                answers = {each.result(20).get_data(as_text=True) for each in found}
            assert answers == {f"answer {number}"}
            processes[0].changed()

        assert made.number == 3
        assert asked("waited") - waited == 33

    def test_who_waits_takes_over_from_one_who_failed(self, cache, store, made):
        go_on = threading.Event()

        def fail():
            assert go_on.wait(20)
            raise ZeroDivisionError

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(cache.answer, "a", fail)
            eventually(lambda: list(store.scan_iter("*:turn")))
            second = pool.submit(cache.answer, "a", made)
            eventually(lambda: store.info("clients")["blocked_clients"] == 1)
            go_on.set()

            assert isinstance(first.exception(20), ZeroDivisionError)
            assert second.result(20).get_data(as_text=True) == "answer 1"
        assert cache.answer("a", made).get_data(as_text=True) == "answer 1"

    def test_nobody_waits_long_for_one_who_was_killed(
        self, make_cache, redis_url, store, made
    ):
        cache = make_cache(redis_url, wait_seconds=0.05)
        cache.answer("a", made)
        cache.changed()
        (key,) = (
            key
            for key in store.scan_iter("things:answers:*")
            if len(key) == len("things:answers:") + 64
        )
        store.set(key + b":turn", 1, ex=60)

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"
        # And nobody else has to, while the dead one's turn lasts.
        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"

    def test_gives_up_when_one_after_the_other_has_nothing_to_keep(
        self, cache, store, monkeypatch
    ):
        made = Made(404)
        cache.answer("a", made)
        (baton,) = store.scan_iter("*:done:*")
        turn = baton.partition(b":done:")[0] + b":turn"
        store.set(turn, 1, ex=60)
        monkeypatch.setattr(cache, "_wait", lambda *_: True)

        assert cache.answer("a", made).status_code == 404
        # It was not its turn, so it is not its to end.
        assert store.exists(turn)

    def test_who_took_too_long_does_not_end_the_next_ones_turn(self, cache, store):
        def overrun():
            (turn,) = store.scan_iter("*:turn")
            store.set(turn, "the next one")
            return Response("late")

        cache.answer("a", overrun)

        (turn,) = store.scan_iter("*:turn")
        assert store.get(turn) == b"the next one"

    def test_who_looked_before_and_took_the_turn_after_it_makes_nothing(
        self, cache, make_cache, redis_url, store, monkeypatch, made
    ):
        late = make_cache(redis_url)
        look = late._store.get_many

        def look_and_be_late(*keys):
            found = look(*keys)
            cache.answer("a", made)
            return found

        monkeypatch.setattr(late._store, "get_many", look_and_be_late)

        assert late.answer("a", made).get_data() == b"answer 1"
        assert made.number == 1
        assert list(store.scan_iter("*:turn")) == []

    def test_a_turn_ends_by_itself(self, cache, store, made):
        def look():
            (turn,) = store.scan_iter("*:turn")
            assert 0 < store.ttl(turn) <= 6
            return made()

        cache.answer("a", look)

        assert list(store.scan_iter("*:turn")) == []


class TestWithoutRedis:
    def test_makes_every_answer(self, make_cache, made):
        cache = make_cache(f"redis://127.0.0.1:{free_port()}/0")
        away = asked("away")

        found = [cache.answer("a", made).get_data(as_text=True) for _ in range(3)]

        assert found == ["answer 1", "answer 2", "answer 3"]
        assert asked("away") > away

    def test_a_frozen_one_costs_one_time_out_and_not_one_each(self, make_cache, made):
        server = start_redis()
        started = next(server)
        cache = make_cache(started.url)
        cache.answer("a", made)
        started.process.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            cache.answer("a", made)
            assert cache._away_until > begun

            # Would each ask, a hundred of them would take half a minute.
            for _ in range(100):
                cache.answer("b", made)
            assert cache._away_until < time.monotonic() + 1
            assert made.number == 102
        finally:
            started.process.send_signal(signal.SIGCONT)
            server.close()

    def test_goes_on_when_it_is_back(self, make_cache, monkeypatch, made):
        monkeypatch.setattr(caches, "_PAUSE_SECONDS", 0)
        port = free_port()
        cache = make_cache(f"redis://127.0.0.1:{port}/0")
        cache.answer("a", made)
        server = start_redis(port=port)
        next(server)
        try:
            cache.answer("a", made)

            assert cache.answer("a", made).get_data(as_text=True) == "answer 2"
        finally:
            server.close()

    def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
        self, make_cache, made
    ):
        server = start_redis()
        started = next(server)
        cache = make_cache(started.url)

        def make():
            server.close()
            return made()

        assert cache.answer("a", make).get_data(as_text=True) == "answer 1"


class TestAttacks:
    @pytest.fixture
    def key(self, cache, store, made):
        """The key of the answer to `a`, which is kept."""
        cache.answer("a", made)
        length = len("things:answers:") + 64
        return next(key for key in store.scan_iter() if len(key) == length)

    def test_nothing_in_redis_is_run(self, cache, store, key, made, tmp_path):
        proof = tmp_path / "proof"

        class Attack:
            def __reduce__(self):
                return proof.touch, ()

        store.set(key, b"!" + pickle.dumps(Attack()))

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"
        assert not proof.exists()

    @pytest.mark.parametrize("rest", [b"", b"\n", b"\n{", b"\n[1]\n", b"\n7\nx"])
    def test_what_we_have_not_written_is_no_answer(self, cache, store, key, made, rest):
        store.set(key, store.get(CONTENT) + rest)

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"

    def test_an_empty_name_names_no_content(self, cache, store, key, made):
        store.set(CONTENT, "")
        store.set(key, b"\n{}\nx")

        assert cache.answer("a", made).get_data(as_text=True) == "answer 2"


class TestInitApp:
    @pytest.fixture
    def app(self, make_settings, redis_url, database_url):
        settings = make_settings(redis_cache_url=redis_url, database_url=database_url)
        app = Flask("things")
        db.init_app(app, settings)
        caches.init_app(app, settings, seconds=60)
        with app.app_context():
            yield app
        app.extensions["flagon.sessions"].kw["bind"].dispose()

    @pytest.fixture
    def ask(self, app, made):
        return lambda: (
            app.extensions["flagon.answers"].answer("a", made).get_data(as_text=True)
        )

    def test_forgets_when_an_event_is_committed(self, ask):
        ask()

        with db.transaction() as session:
            session.info[events.EMITTED] = True

        assert ask() == "answer 2"

    def test_remembers_what_no_event_has_changed(self, ask):
        ask()

        with db.transaction():
            pass

        assert ask() == "answer 1"

    def test_forgets_nothing_at_the_end_of_a_savepoint(self, ask):
        """Who asks then is answered from what is there without the change."""
        ask()

        with db.transaction() as session:
            session.info[events.EMITTED] = True
            with session.begin_nested():
                pass
            assert ask() == "answer 1"

        assert ask() == "answer 2"

    def test_remembers_what_was_rolled_back(self, ask):
        ask()

        with db.transaction() as session:
            session.info[events.EMITTED] = True
            session.rollback()

        assert ask() == "answer 1"

    def test_changes_nothing_about_other_sessions(self, ask, database_url):
        ask()

        engine = create_engine(database_url)
        with sessionmaker(engine).begin() as session:
            session.info[events.EMITTED] = True
        engine.dispose()

        assert isinstance(session, Session)
        assert ask() == "answer 1"


def test_a_redis_error_of_the_view_is_the_views(cache):
    def make():
        raise redis.ConnectionError

    with pytest.raises(redis.ConnectionError):
        cache.answer("a", make)
