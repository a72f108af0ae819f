"""RQ in place of Celery for a queue: real workers that are stopped, killed and misled."""

import json
import time
import zlib
from uuid import uuid4

import pytest
import redis

from flagon_chassis.redis_queue import OtherService, RedisQueue
from flagon_chassis.relay import Relay
from flagon_chassis.testing import free_port, start_redis

from .conftest import eventually
from .test_relay import TRACEPARENT, put_task, waiting

WORK = """
import sys
from flagon_chassis.redis_queue import RedisQueue
source = RedisQueue({url!r}, "things", "mail")
from flagon_chassis import redis_worker
app = "things_app:create_app()"
sys.exit(redis_worker.run(settings, app, source, hard_seconds={hard_seconds}))
"""
KEYS = "things:rq:"


@pytest.fixture
def source(redis_url, store):
    found = RedisQueue(redis_url, "things", "mail")
    yield found
    found.connection.close()


@pytest.fixture
def rq_worker(worker, redis_url):
    def start(url=redis_url, hard_seconds=30):
        code = WORK.format(url=url, hard_seconds=hard_seconds)
        started.append(worker(url, code=code))
        return started[-1]

    started = []
    yield start
    # Not by a kill, which would take along what was covered.
    for process in started:
        process.stop()


def publish(source, task, headers=None, **kwargs):
    task_id = str(uuid4())
    source.publish(
        task,
        kwargs=kwargs,
        headers={"request_id": "request-1", **(headers or {})},
        task_id=task_id,
    )
    return task_id


def noted(store, key):
    return [each.decode() for each in store.lrange(f"things:noted:{key}", 0, -1)]


def over(store, task_id):
    return not store.exists(f"{KEYS}job:{task_id}")


class TestSending:
    def test_keeps_a_task_below_the_prefix_of_its_service(self, source, store):
        task_id = publish(
            source, "things.note", {"enqueued_at": time.time() - 9}, key="a"
        )

        depth, age = source.look()
        assert depth == 1
        assert 9 <= age < 60
        assert {key.decode() for key in store.keys("*rq*")} == {
            f"{KEYS}job:{task_id}",
            f"{KEYS}queue:mail",
            f"{KEYS}queues",
        }

    def test_an_empty_queue_is_no_years_old(self, source):
        assert source.look() == (0, 0.0)

    def test_of_two_services_is_not_for_one_process(self, source, redis_url):
        with pytest.raises(OtherService):
            RedisQueue(redis_url, "others", "mail")
        RedisQueue(redis_url, "things", "mail").connection.close()

    def test_is_what_a_relay_does_where_rq_is_chosen(
        self, make_settings, database_url, redis_url, rows, source, store
    ):
        relay = Relay(
            make_settings(
                database_url=database_url, redis_store_url=redis_url, mail_queue="rq"
            ),
            "things",
        )
        ids = [put_task(rows, name="things.note", queue="mail", n=n) for n in range(2)]
        put_task(rows, queue="bulk")

        relay.step(rows)

        assert waiting(rows) == 0
        assert [each.decode() for each in store.lrange(f"{KEYS}queue:mail", 0, -1)] == [
            str(each) for each in ids
        ]
        fields = store.hgetall(f"{KEYS}job:{ids[0]}")
        name, _, _, kwargs = json.loads(zlib.decompress(fields[b"data"]))
        assert (name, kwargs) == ("things.note", {"n": 0})
        assert json.loads(fields[b"meta"])["traceparent"] == TRACEPARENT
        assert store.llen("things:bulk") == 1

    def test_a_relay_waits_for_redis(self, make_settings, database_url, rows):
        away = f"redis://127.0.0.1:{free_port()}/0"
        relay = Relay(
            make_settings(
                database_url=database_url, redis_store_url=away, mail_queue="rq"
            ),
            "things",
        )
        put_task(rows, name="things.note", queue="mail")

        with pytest.raises(redis.RedisError):
            relay.step(rows)
        assert waiting(rows) == 1


class TestRunning:
    def test_is_as_by_celery(self, rq_worker, source, store):
        process = rq_worker()
        publish(source, "things.note", {"traceparent": TRACEPARENT}, key="a")
        publish(source, "things.again", key="b")
        ignored = publish(source, "things.ignore")

        (note,) = eventually(lambda: noted(store, "a"))
        assert note.split()[:2] == ["things", "request-1"]
        assert TRACEPARENT.split("-")[1] in note
        eventually(lambda: noted(store, "b") == ["request-1 0", "request-1 1"])
        eventually(lambda: over(store, ignored))
        eventually(lambda: process.get("/readyz")[0] == 200)
        empty = 'flagon_queue_depth{queue="mail"} 0.0'
        # It is measured every few seconds.
        eventually(lambda: empty in process.get("/metrics")[1])
        retried = 'outcome="retried",task="things.again"'
        assert retried in process.get("/metrics")[1]
        assert process.stop() == 0

    def test_ends_with_the_last_attempt_that_a_task_may_have(
        self, rq_worker, source, store
    ):
        process = rq_worker()
        task_id = publish(source, "things.never", key="a")

        eventually(lambda: over(store, task_id))
        assert noted(store, "a") == ["0", "1"]
        assert "task_given_up" in process.output()

    def test_a_broken_task_comes_again_later(self, rq_worker, source, store):
        process = rq_worker()
        task_id = publish(source, "things.fail")

        eventually(lambda: store.zscore(f"{KEYS}scheduled:mail", task_id))
        # At once, after a second, after five seconds.
        eventually(lambda: process.output().count('"task_broken"') == 3)

    def test_nothing_but_a_task_is_run(self, rq_worker, source, store):
        process = rq_worker()
        unknown = publish(source, "os.getpid")
        store.hset(f"{KEYS}job:unreadable", mapping={"data": "{}", "status": "?"})
        store.rpush(f"{KEYS}queue:mail", "unreadable")
        store.zadd(f"{KEYS}scheduled:mail", {"gone": 1})

        eventually(lambda: "UnknownTask" in process.output())
        eventually(lambda: "message_unreadable" in process.output())
        eventually(lambda: not store.zscore(f"{KEYS}scheduled:mail", "gone"))
        publish(source, "things.note", key="a")
        eventually(lambda: noted(store, "a"))
        assert unknown in process.output()


class TestNoText:
    ENTRY = b"\xff a"

    def test_is_thrown_away_wherever_it_lies(self, rq_worker, source, store):
        for where in ("queue:mail", "queue:mail:intermediate"):
            store.rpush(f"{KEYS}{where}", self.ENTRY)
        assert source.look() == (1, 0.0)

        process = rq_worker()
        publish(source, "things.note", key="a")

        eventually(lambda: noted(store, "a"))
        eventually(lambda: process.output().count('"message_unreadable"') == 2)
        assert store.keys(f"{KEYS}queue:mail*") == []

    @pytest.mark.parametrize("meta", ["[]", "[" * 100_000, "{", '{"enqueued_at":"x"}'])
    def test_beside_a_message_does_not_keep_from_counting(self, source, store, meta):
        task_id = publish(source, "things.note", key="a")
        store.hset(f"{KEYS}job:{task_id}", "meta", meta)

        assert source.look() == (1, 0.0)


class TestStatus:
    def test_is_written_together_with_what_else_changes(self, source, store):
        """Who is killed between the two would leave a message that nobody wakes."""
        # Only now the prefix is known.
        from rq.job import JobStatus

        from flagon_chassis.redis_worker import Message

        task_id = publish(source, "things.note", key="a")
        message = Message.fetch(
            task_id, connection=source.connection, serializer=source.queue().serializer
        )

        message.set_status(JobStatus.SCHEDULED)

        assert message.get_status(refresh=False) == JobStatus.SCHEDULED
        assert store.hget(f"{KEYS}job:{task_id}", "status") == b"queued"


class TestStopping:
    def test_gives_a_running_task_back(self, rq_worker, source, store):
        process = rq_worker()
        publish(source, "things.hold", key="a", seconds=30)
        eventually(lambda: noted(store, "a"))

        assert process.stop() == 0

        # Asked to stop, it broke, and comes again; or it was put back.
        assert source.look()[0] + store.zcard(f"{KEYS}scheduled:mail") == 1

    def test_does_not_wait_for_a_task_that_does_not_listen(
        self, rq_worker, source, store
    ):
        process = rq_worker()
        publish(source, "things.deaf", key="a")
        eventually(lambda: noted(store, "a"))

        assert process.stop() == 0

        assert "task_handed_back" in process.output()
        assert source.look()[0] == 1
        rq_worker()
        eventually(lambda: len(noted(store, "a")) == 2)


class TestDying:
    def test_a_process_that_hangs_ends_and_its_task_goes_to_another(
        self, rq_worker, source, store
    ):
        hung = rq_worker(hard_seconds=1)
        task_id = publish(source, "things.hold", key="a", seconds=8)
        eventually(lambda: noted(store, "a"))

        assert hung.process.wait(20) == 1
        assert "time.sleep" in hung.output() or "in hold" in hung.output()
        rq_worker()

        eventually(lambda: noted(store, "a")[-1] == "ended", 60)
        eventually(lambda: over(store, task_id))

    def test_redis_may_go_and_come_back(self, rq_worker):
        port = free_port()
        server = start_redis(port=port)
        url = next(server).url
        process = rq_worker(url)
        eventually(lambda: process.get("/readyz")[0] == 200)
        server.close()
        eventually(lambda: process.get("/readyz")[0] == 503)
        eventually(lambda: "queues_not_measured" in process.output())
        eventually(lambda: "queue_interrupted" in process.output())
        # Nobody has to wait for Redis to stop a process.
        assert process.stop() == 0
        process = rq_worker(url)

        server = start_redis(port=port)
        source = RedisQueue(next(server).url, "things", "mail")
        publish(source, "things.note", key="a")

        eventually(lambda: noted(source.connection, "a"), 60)
        assert process.stop() == 0
        source.connection.close()
        server.close()
