"""Mails by RQ: what holds with Celery's queue holds with RQ's, whatever dies."""

import json
import pickle
import threading
import time
import uuid
import zlib
from contextlib import closing
from urllib.error import HTTPError

import pytest
import redis

from flagon_chassis import queue
from flagon_chassis.redis_queue import OtherService, RedisQueue
from flagon_chassis.testing import Peer, SmtpServer
from flagon_worker.app import create_app

from .conftest import Stack, wait_for
from .test_mails import LETTER

PREFIX = "worker:rq:"
REQUEST, TRACE = "a-request-of-mine", "c" * 32
SENT = 'flagon_mails_total{outcome="sent"}'


class MailRoom(Peer):
    """auth, which gives a mail to one attempt at a time and to none once it was sent."""

    def __init__(self):
        self.lock = threading.Lock()
        self.held = {}
        self.sent = []
        self.given = []
        self.paths = []
        super().__init__()

    def answer(self, method, path, headers, body):
        with self.lock:
            self.paths.append(path)
            mail_id, _, outcome = path.removeprefix("/internal/mails/").partition("/")
            if outcome:
                self.held.pop(mail_id, None)
                if outcome == "sent":
                    self.sent.append(mail_id)
                return 204, None
            if mail_id in self.sent:
                return 404, {"title": "Over"}
            attempt = json.loads(body)["attempt"]
            other, until = self.held.get(mail_id, (attempt, 0))
            if other != attempt and until > time.monotonic():
                return 409, {"title": "Under way"}
            self.held[mail_id] = attempt, time.monotonic() + 2
            self.given.append((mail_id, dict(headers)))
            return 200, LETTER


class SlowServer(SmtpServer):
    """A mail server that can be made to wait before it takes a mail."""

    def __init__(self):
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = threading.Event()
        outer = self

        class Replies(dict):
            def __contains__(self, verb):
                if verb == "DATA":
                    outer.asked.set()
                    outer.goes_on.wait(60)
                return super().__contains__(verb)

        super().__init__()
        self.replies = Replies()


@pytest.fixture
def room():
    with closing(MailRoom()) as found:
        yield found


@pytest.fixture
def smtp():
    with closing(SlowServer()) as found:
        yield found
        found.goes_on.set()


@pytest.fixture
def store(redis_server):
    """The Redis of the tests, empty."""
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
        yield client


@pytest.fixture
def source(store, redis_server):
    """The queue as its senders have it."""
    return RedisQueue(redis_server.url, "worker", "mail")


@pytest.fixture
def fleet(stack, room, smtp, store, tmp_path):
    """Starts processes whose mails RQ has."""
    found = Stack(
        {
            **stack.environment,
            "WORKER_MAIL_QUEUE": "rq",
            "WORKER_AUTH_URL": room.url,
            "WORKER_SMTP_URL": f"smtp://localhost:{smtp.port}?tls=off",
            # A killed worker's mail is with another 14 seconds later.
            "WORKER_SLICE_SECONDS": "1",
            "WORKER_SOFT_LIMIT_SECONDS": "3",
            "WORKER_HARD_LIMIT_SECONDS": "4",
            "WORKER_TRACES": "log",
        },
        tmp_path,
    )
    yield found
    found.close()


@pytest.fixture
def post(source):
    """Hands mails over as the relay does and returns their ids."""

    def post(count=1, **headers):
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for mail_id in ids:
            hand_over(source, mail_id, **headers)
        return ids

    return post


def hand_over(source, mail_id, **headers):
    source.publish(
        "worker.send_mail",
        kwargs={"mail_id": mail_id},
        headers={"enqueued_at": time.time(), **headers},
        task_id=str(uuid.uuid5(uuid.NAMESPACE_URL, mail_id)),
    )


def left(store):
    """Return the keys of messages that wait, run or failed."""
    names = (b"job:", b"queue:", b"wip:", b"scheduled:", b"failed:")
    keys = [key.removeprefix(PREFIX.encode()) for key in store.keys(f"{PREFIX}*")]
    # When RQ first saw one that a worker had only just taken stays for a day.
    return [key for key in keys if key.startswith(names) and b":first_seen:" not in key]


class TestWholePath:
    def test_carries_a_mail_from_the_outbox_to_the_server(
        self, fleet, begin, room, smtp, store
    ):
        fleet.start("relay", "relay")
        fleet.start("mail", "rq")
        mail_id = str(uuid.uuid4())
        with begin() as session:
            queue.send(session, "worker.send_mail", queue="mail", mail_id=mail_id)

        wait_for(lambda: room.sent)

        assert smtp.ids() == room.sent == [mail_id]
        wait_for(lambda: SENT in fleet.get("mail", "/metrics"))
        assert 'flagon_queue_depth{queue="mail"' in fleet.get("mail", "/metrics")
        wait_for(lambda: left(store) == [])
        assert store.llen("worker:mail") == 0

    def test_keeps_request_and_trace(self, fleet, post, room):
        fleet.start("mail", "rq")

        post(request_id=REQUEST, traceparent=f"00-{TRACE}-{'d' * 16}-01")

        wait_for(lambda: room.sent)
        ((_id, headers),) = room.given
        assert headers["X-Request-ID"] == REQUEST
        assert TRACE in headers["traceparent"]
        lines = [json.loads(line) for line in fleet.log("mail").splitlines()]
        (line,) = [line for line in lines if line["event"] == "mail"]
        assert line["request_id"] == REQUEST
        assert line["trace_id"] == TRACE
        assert line["task"] == "worker.send_mail"


class TestKilled:
    def test_in_mid_send_loses_nothing(self, fleet, post, room, smtp, store):
        fleet.start("mail", "rq")
        smtp.goes_on.clear()
        (mail_id,) = post()
        assert smtp.asked.wait(10)

        fleet.kill("mail")
        smtp.received.clear()
        fleet.start("mail", "rq")
        smtp.goes_on.set()

        wait_for(lambda: room.sent, 60)
        assert room.sent == [mail_id]
        wait_for(lambda: left(store) == [])

    def test_again_and_again_sends_every_mail(self, fleet, post, room, smtp, store):
        ids = post(30)
        for _ in range(8):
            fleet.start("mail", "rq")
            before = len(room.sent)
            wait_for(lambda before=before: len(room.sent) > before, 60)
            fleet.kill("mail")

        fleet.start("mail", "rq")

        # Each kill of the same mail makes its next pause longer, up to four minutes.
        wait_for(lambda: set(room.sent) == set(ids), 300)
        # A second copy comes only from a kill between the server's yes and auth's.
        assert len(smtp.ids()) <= len(ids) + 8
        wait_for(lambda: left(store) == [], 300)


class TestStopped:
    def test_ends_the_mail_at_hand(self, fleet, post, room, smtp):
        # Half of its grace is what a mail at hand has, and the test to see that it drains.
        fleet.start(
            "mail",
            "rq",
            WORKER_GRACE_SECONDS="60",
            WORKER_SOFT_LIMIT_SECONDS="50",
            WORKER_HARD_LIMIT_SECONDS="55",
        )
        smtp.goes_on.clear()
        post(2)
        assert smtp.asked.wait(10)
        process = fleet.processes["mail"]
        process.terminate()
        wait_for(lambda: drains(fleet))
        smtp.goes_on.set()

        assert process.wait(5) == 0
        assert smtp.ids() == room.sent
        assert len(room.sent) == 1

    def test_gives_a_mail_back_that_takes_too_long(
        self, fleet, post, source, room, smtp
    ):
        fleet.start("mail", "rq", WORKER_HARD_LIMIT_SECONDS="60")
        smtp.goes_on.clear()
        (mail_id,) = post()
        assert smtp.asked.wait(10)

        began = time.monotonic()
        assert fleet.stop("mail") == 0

        # The grace of the tests' processes is 5 seconds.
        assert time.monotonic() - began < 8
        assert "task_handed_back" in fleet.log("mail")
        assert source.look()[0] == 1
        smtp.received.clear()
        smtp.goes_on.set()
        fleet.start("mail", "rq")
        wait_for(lambda: room.sent == [mail_id])

    def test_stops_soon_when_nothing_is_to_do(self, fleet):
        fleet.start("mail", "rq")

        began = time.monotonic()
        assert fleet.stop("mail") == 0
        assert time.monotonic() - began < 8


def drains(fleet):
    try:
        return not fleet.get("mail", "/readyz")
    except HTTPError as answer:
        return b"draining" in answer.read()


class TestSentTwice:
    def test_a_row_brings_one_mail(self, fleet, source, post, room, smtp, store):
        (mail_id,) = post()
        hand_over(source, mail_id)
        hand_over(source, mail_id)
        assert source.look()[0] == 3

        fleet.start("mail", "rq")

        wait_for(lambda: left(store) == [])
        assert smtp.ids() == room.sent == [mail_id]


class TestRedisEmptied:
    def test_a_mail_at_hand_is_sent_and_the_next_one_too(
        self, fleet, post, room, smtp, store
    ):
        fleet.start("mail", "rq")
        smtp.goes_on.clear()
        (first,) = post()
        assert smtp.asked.wait(10)

        store.flushall()
        smtp.goes_on.set()

        wait_for(lambda: room.sent == [first])
        (second,) = post()
        wait_for(lambda: room.sent == [first, second])
        wait_for(lambda: left(store) == [])


class TestDeferred:
    def test_comes_again_also_to_another_worker(self, fleet, post, room, smtp, store):
        smtp.replies["END"] = "451 later"
        fleet.start("mail", "rq")
        (mail_id,) = post(request_id=REQUEST)
        wait_for(lambda: "mail_postponed" in fleet.log("mail"))
        # Before that it is an attempt that was broken off, and not counted.
        wait_for(lambda: store.zcard("worker:rq:scheduled:mail") == 1)

        fleet.kill("mail")
        del smtp.replies["END"]
        fleet.start("mail", "rq")

        def tried():
            lines = [json.loads(line) for line in fleet.log("mail").splitlines()]
            return [line for line in lines if line["event"] == "task"]

        wait_for(lambda: room.sent == [mail_id])
        # It is told when it is done, which is a little later.
        wait_for(lambda: tried()[-1]["attempt"] > 1)
        assert {line["request_id"] for line in tried()} == {REQUEST}


class TestMetrics:
    def test_are_there_when_no_worker_runs(self, settings, post, bearer):
        app = create_app(settings.model_copy(update={"mail_queue": "rq"}))
        post(3, enqueued_at=time.time() - 100)

        text = app.test_client().get("/metrics").text

        (depth,) = values(text, "flagon_queue_depth")
        (age,) = values(text, "flagon_queue_oldest_seconds")
        assert depth == 3
        assert 100 <= age < 200
        for name in ("catalog", "products", "denylist"):
            app.extensions[f"flagon.{name}"].close()
        app.extensions["flagon.sessions"].kw["bind"].dispose()


def values(text, name):
    return [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(name + "{") and 'queue="mail"' in line
    ]


NO_TEXT = (b"\xff", b"\xed\xa0\x80", b"a-good-one\x80\n", bytes(range(256)))


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class TestAttacked:
    """By somebody who may write whatever RQ reads."""

    @pytest.fixture
    def plant(self, store):
        """Puts a message with the given fields where it is taken from."""

        def plant(data, job_id=None, **fields):
            job_id = job_id or str(uuid.uuid4())
            key = f"{PREFIX}job:{job_id}"
            known = {
                "origin": "mail",
                "status": "queued",
                "created_at": "2026-11-22T00:00:00Z",
            }
            store.hset(key, mapping={"data": zlib.compress(data), **known, **fields})
            store.rpush(f"{PREFIX}queue:mail", job_id)
            return job_id

        return plant

    def test_nothing_but_tasks_is_run(
        self, fleet, plant, post, room, store, tmp_path, smtp
    ):
        path = tmp_path / "proof"
        (tmp_path / "evil.py").write_text(f"open({str(path)!r}, 'w').close()\n")
        evil = pickle.dumps(Evil(path))
        imported = json.dumps(["evil.run", None, [], {}]).encode()
        touch = json.dumps(["os.mkdir", None, [str(path)], {}]).encode()
        mail = json.dumps(
            ["worker.send_mail", None, [], {"mail_id": str(uuid.uuid4())}]
        ).encode()
        hook = json.dumps(
            [{"url": room.url + "/hook", "statuses": ["finished", "failed"]}]
        )
        plant(evil)
        plant(touch)
        plant(imported)
        plant(mail, meta=evil, result=evil)
        for name in ("success", "failure", "stopped"):
            plant(mail, **{f"{name}_callback_name": "evil.run"})
            plant(touch, **{f"{name}_callback_name": "evil.run"})
        plant(mail, webhooks=hook, timeout="-1", retries_left="1")
        plant(mail, status="no such status")
        plant(mail, meta=b"[]")
        plant(b"[]", retry_intervals="{}", dependency_ids="{}")
        plant(mail, job_id="with:colons", number_of_retries="many")
        plant(mail, meta=b"[" * 100_000)
        plant(b"[" * 100_000)
        # RQ looks for a set there.
        dependents = plant(mail)
        store.hset(f"{PREFIX}job:{dependents}:dependents", "a", "b")
        for entry in NO_TEXT:
            store.rpush(f"{PREFIX}queue:mail", entry)
        (mine,) = post()

        fleet.start("mail", "rq", PYTHONPATH=str(tmp_path))

        wait_for(lambda: mine in room.sent, 40)
        wait_for(lambda: store.llen(f"{PREFIX}queue:mail") == 0)
        assert not path.exists()
        assert "/hook" not in room.paths
        assert "quitting" not in fleet.log("mail")

    def test_what_is_no_text_stops_nothing(self, fleet, post, room, store):
        """Neither where it waits nor where a worker that was killed had it."""
        for where in ("queue:mail", "queue:mail:intermediate"):
            for entry in NO_TEXT:
                store.rpush(f"{PREFIX}{where}", entry)
        (mine,) = post()

        fleet.start("mail", "rq")

        wait_for(lambda: room.sent == [mine])
        wait_for(lambda: left(store) == [])
        lost = [
            json.loads(line)
            for line in fleet.log("mail").splitlines()
            if '"message_unreadable"' in line
        ]
        assert len(lost) == 2 * len(NO_TEXT)
        count = f"flagon_messages_unreadable_total {len(lost)}.0"
        assert count in fleet.get("mail", "/metrics")
        assert "queue_interrupted" not in fleet.log("mail")
        wait_for(
            lambda: 'flagon_queue_depth{queue="mail"' in fleet.get("mail", "/metrics")
        )


class TestPrefix:
    def test_is_one_of_a_process(self, source, redis_server):
        with pytest.raises(OtherService):
            RedisQueue(redis_server.url, "another", "mail")
        # As it was, for what comes.
        RedisQueue(redis_server.url, "worker", "mail")
