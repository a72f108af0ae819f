"""The real process that forgets what accounts wrote that are gone."""

import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
import redis

from flagon_catalog.accounts import GROUP
from flagon_chassis import streams
from flagon_chassis.testing import free_port

from .conftest import PRODUCTS

WAIT = 30
DELETED = "market.flagon.user.deleted.v1"


@pytest.fixture(scope="module")
def shop(migrated, make_app):
    """An app with a database that the process shares with it."""
    return make_app(migrated(), reviews_moderated=False, answer_seconds=0)


@pytest.fixture
def rows(shop):
    url = shop.extensions["flagon.settings"].database_url.get_secret_value()
    with psycopg.connect(
        url.replace("postgresql+psycopg:", "postgresql:"), autocommit=True
    ) as connection:
        yield connection


@pytest.fixture
def store(redis_url):
    with redis.Redis.from_url(redis_url) as store:
        yield store
        store.client_unpause()


@pytest.fixture
def until(rows):
    """Return what a function returns once that is true."""

    def until(ready):
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if found := ready():
                return found
            rows.execute("select pg_sleep(0.02)")
        return pytest.fail("waited in vain")

    return until


@pytest.fixture
def begin(shop, redis_url, run_catalog, until):
    """Start the process, always as the same consumer, and wait until it is ready."""
    port = free_port()
    database = shop.extensions["flagon.settings"].database_url.get_secret_value()

    def ready():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    def begin():
        process = run_catalog(
            "consumer",
            database,
            BIND=f"127.0.0.1:{port}",
            REDIS_STORE_URL=redis_url,
            REDIS_CACHE_URL=redis_url,
        )
        until(ready)
        return process

    return begin


@pytest.fixture
def product(shop, merchandiser, new_product):
    answer = shop.test_client().post(PRODUCTS, json=new_product(), headers=merchandiser)
    return answer.json["id"]


@pytest.fixture
def review(shop, bearer, product):
    """Write a review as an account."""

    def review(account, rating, about=product):
        answer = shop.test_client().post(
            f"{PRODUCTS}/{about}/reviews",
            json={"author": "A", "rating": rating, "title": "T", "body": "B"},
            headers=bearer("reviews:write", sub=account),
        )
        assert answer.status_code == 201, answer.text
        return answer.json["id"]

    return review


@pytest.fixture
def tell(store):
    """Add an event to the stream as auth's relay does, and return its id."""

    def tell(account, type_=DELETED, id_=None):
        id_ = id_ or uuid4()
        envelope = {
            "id": str(id_),
            "source": "/services/auth",
            "type": type_,
            "subject": str(account),
            "time": datetime.now(UTC).isoformat(),
            "data": {"id": str(account)},
            "topics": ["users", f"users/{account}"],
        }
        store.xadd(streams.EVENTS, streams.encode(id_, type_, envelope))
        return id_

    return tell


@pytest.fixture
def pending(store):
    return lambda: store.xpending(streams.EVENTS, GROUP)["pending"]


@pytest.fixture
def handled(store, pending, until):
    """Return once everything was read and acknowledged."""

    def settled():
        (group,) = store.xinfo_groups(streams.EVENTS)
        return group["lag"] == 0 and pending() == 0

    return lambda: until(settled)


@pytest.fixture
def written_by(rows):
    """The ids of what an account wrote."""
    return lambda account: [
        str(id_)
        for (id_,) in rows.execute(
            "select id from review where subject = %s", [account]
        ).fetchall()
    ]


@pytest.fixture
def traces(rows):
    """How often the end of a review was audited, and told to whom."""

    def traces(review):
        audited = rows.execute(
            "select actor, action, version from audit"
            " where entity_id = %s and action = 'deleted'",
            [review],
        ).fetchall()
        told = rows.execute(
            "select body->'topics'->>0 from outbox"
            " where subject = %s and name = 'market.flagon.review.deleted.v1'",
            [review],
        ).fetchall()
        return audited, sorted(topic for (topic,) in told)

    return traces


class Held:
    """Somebody else has locked the product, so the effect has to wait."""

    def __init__(self, url, rows, product, until):
        self.connection = psycopg.connect(url)
        self.connection.execute(
            "select 1 from product where id = %s for update", [product]
        )
        self.rows, self.until = rows, until

    def wait(self):
        """Return once the process waits."""
        holder = self.connection.info.backend_pid
        self.until(
            lambda: self.rows.execute(
                "select count(*) from pg_locks where not granted"
                " and %s = any(pg_blocking_pids(pid))",
                [holder],
            ).fetchone()[0]
        )


@pytest.fixture
def held(rows, product, until):
    made = []

    def hold():
        made.append(Held(rows.info.dsn, rows, product, until))
        return made[-1]

    yield hold
    for each in made:
        each.connection.close()


class TestForget:
    def test_deletes_what_the_account_wrote_and_nothing_else(
        self, begin, review, tell, handled, written_by, traces, product, rows
    ):
        gone, stays = str(uuid4()), str(uuid4())
        mine, other = review(gone, 1), review(stays, 5)
        begin()

        tell(gone)
        handled()

        assert (written_by(gone), written_by(stays)) == ([], [other])
        rating = "select rating_count, rating_sum from product where id = %s"
        assert rows.execute(rating, [product]).fetchone() == (1, 5)
        audited, told = traces(mine)
        assert audited == [("system", "deleted", 1)]
        assert told == [f"products/{product}", f"users/{gone}"]

    def test_of_what_was_told_before_it_ever_ran(
        self, begin, review, tell, handled, written_by
    ):
        gone = str(uuid4())
        review(gone, 1)
        tell(gone)

        begin()
        handled()

        assert written_by(gone) == []

    def test_of_an_account_that_wrote_nothing_is_nothing(
        self, begin, tell, handled, rows
    ):
        begin()
        outbox = "select count(*) from outbox"
        before = rows.execute(outbox).fetchone()

        tell(uuid4())
        handled()

        assert rows.execute(outbox).fetchone() == before

    def test_what_others_tell_has_no_effect_and_leaves_nothing(
        self, begin, review, tell, handled, written_by, rows, store
    ):
        account = str(uuid4())
        kept = review(account, 1)
        begin()

        ids = [
            tell(account, type_)
            for type_ in ("market.flagon.user.registered.v1", "custom.robot.gone.v1")
        ]
        handled()

        assert written_by(account) == [kept]
        inbox = "select count(*) from inbox where event_id = any(%s)"
        assert rows.execute(inbox, [ids]).fetchone() == (0,)
        assert store.xlen(streams.DEAD) == 0

    def test_what_names_no_account_is_set_aside_and_others_are_forgotten(
        self, begin, review, tell, handled, written_by, store
    ):
        gone = str(uuid4())
        review(gone, 1)
        begin()

        bad = tell("everybody'; delete from review; --")
        tell(gone)
        handled()

        assert written_by(gone) == []
        ((_, letter),) = store.xrange(streams.DEAD)
        assert letter[b"id"].decode() == str(bad)
        assert letter[b"group"].decode() == GROUP
        assert letter[b"error"].startswith(b"ValueError")


class TestKilled:
    def test_between_effect_and_acknowledgement_has_one_effect(
        self,
        begin,
        review,
        tell,
        handled,
        held,
        pending,
        store,
        until,
        written_by,
        traces,
        product,
    ):
        gone = str(uuid4())
        mine = review(gone, 2)
        first = begin()
        lock = held()
        id_ = tell(gone)
        lock.wait()
        # From here on nobody can acknowledge anything.
        store.client_pause(10 * WAIT * 1000, all=False)
        lock.connection.rollback()
        until(lambda: not written_by(gone))
        first.kill()
        first.wait(WAIT)
        store.client_unpause()
        assert pending() == 1
        # A second effect would take this one as well.
        probe = review(gone, 3)

        begin()
        handled()
        # Once more, as the relay does that was killed before it noted what it had sent.
        tell(gone, id_=id_)
        handled()

        assert written_by(gone) == [probe]
        audited, told = traces(mine)
        assert len(audited) == 1
        assert told == [f"products/{product}", f"users/{gone}"]

    def test_before_the_effect_it_comes_after_the_start(
        self, begin, review, tell, handled, held, pending, written_by, traces
    ):
        gone = str(uuid4())
        mine = review(gone, 2)
        first = begin()
        lock = held()
        tell(gone)
        lock.wait()
        first.kill()
        first.wait(WAIT)
        lock.connection.rollback()
        assert (written_by(gone), pending()) == ([mine], 1)

        begin()
        handled()

        assert written_by(gone) == []
        assert len(traces(mine)[0]) == 1
