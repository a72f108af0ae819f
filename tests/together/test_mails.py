"""Mails arrive once, though the store that they wait in is emptied on their way."""

import json
import re
import secrets
import threading
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import httpx2
import pytest
import redis

from flagon_chassis.testing import SmtpServer, start_redis

from .test_keys_in_use import eventually

QUEUES = {"celery": "worker:mail", "rq": "worker:rq:queue:mail"}
"""Where mails wait, by who keeps them."""

UNSENT = "select 1 from outbox where sent_at is null"


class Slow(dict):
    """Answers of a mail server that lets a client wait before it takes a mail."""

    def __init__(self):
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()
        super().__init__()

    def __contains__(self, verb):
        if verb == "DATA":
            self.asked.set()
            self.goes_on.wait(60)
        return super().__contains__(verb)


@pytest.fixture(scope="module", params=QUEUES)
def shop(request, prepare):
    """auth, its relay, who sends its mails, and a store of their own."""
    server = start_redis()
    url = next(server).url
    with closing(SmtpServer()) as smtp, redis.Redis.from_url(url) as store:
        platform = prepare(
            url,
            *("auth", "auth-relay", f"worker-{request.param}"),
            AUTH_MAIL_QUEUE=request.param,
            WORKER_MAIL_QUEUE=request.param,
            WORKER_SMTP_URL=f"smtp://localhost:{smtp.port}?tls=off",
        )
        platform.start("auth", "auth-relay")
        yield SimpleNamespace(
            platform=platform,
            smtp=smtp,
            store=store,
            sender=f"worker-{request.param}",
            queue=QUEUES[request.param],
        )
    next(server, None)


@pytest.fixture
def post(shop):
    """The same, with nothing on its way; who sends the mails does not run."""
    shop.store.flushall()
    shop.platform.rows("auth", "delete from errand; delete from mail")
    shop.smtp.received.clear()
    shop.smtp.replies = Slow()
    yield shop
    shop.smtp.replies.goes_on.set()
    if shop.sender in shop.platform.processes:
        shop.platform.kill(shop.sender)
    (shop.platform.folder / f"{shop.sender}.log").write_text("")


def register(post):
    """Have somebody new registered and return the address."""
    email = f"{secrets.token_hex(8)}@example.com"
    url = post.platform.url("auth")
    with httpx2.Client(base_url=url, follow_redirects=True, timeout=30) as client:
        page = client.get("/register").text
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)[1]
        password = f"orchard-{secrets.token_hex(6)}-lantern"
        given = {"name": "New", "email": email, "password": password}
        made = client.post("/register", data={"csrf_token": token, **given})
        assert made.status_code == 200, made.text
    return email


def handed_over(post, count=1):
    """Wait until so many mails wait in the store."""
    eventually(lambda: post.store.llen(post.queue) == count, 20)


def ask_now(post):
    """Have the time come at which nothing was heard for too long."""
    post.platform.rows("auth", "update errand set ask_at = now()")


def arrived(post):
    return sorted(to for to, _raw in post.smtp.received)


@contextmanager
def emptied(store):
    """Empty the store again and again; give what keeps a form from being forgotten."""
    stop, form = threading.Event(), threading.Lock()

    def empty():
        while not stop.wait(0.05):
            with form:
                store.flushall()

    thread = threading.Thread(target=empty)
    thread.start()
    try:
        yield form
    finally:
        stop.set()
        thread.join()


def ended(post):
    """Return what became of mails, as who sends them says."""
    log = (post.platform.folder / f"{post.sender}.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {line["outcome"] for line in lines if line["event"] == "mail"}


def over(post):
    """Say whether auth knows the end of every mail."""
    return post.platform.rows("auth", "select 1 from errand") == []


class TestStoreEmptied:
    def test_while_a_mail_waits(self, post):
        email = register(post)
        handed_over(post)
        post.store.flushall()
        assert not post.store.exists(post.queue)

        began = time.monotonic()
        post.platform.start(post.sender)

        # Nobody helps: so long a person waits.
        eventually(lambda: arrived(post) == [email], 60)
        print(f"came {time.monotonic() - began:.0f} s later")
        eventually(lambda: over(post), 20)
        assert len(post.smtp.ids()) == 1

    def test_while_a_mail_is_being_sent(self, post):
        post.smtp.replies.goes_on.clear()
        post.platform.start(post.sender)
        email = register(post)
        assert post.smtp.replies.asked.wait(20)

        post.store.flushall()
        # Too early: the worker that has the mail still lives.
        ask_now(post)
        asked = "select 1 from errand where asks > 0"
        eventually(lambda: post.platform.rows("auth", asked), 20)
        eventually(lambda: not post.platform.rows("auth", UNSENT), 20)
        post.smtp.replies.goes_on.set()

        eventually(lambda: over(post), 60)
        # RQ has one message of an id, which is gone when it was done once.
        twice = {"sent"} if post.sender == "worker-rq" else {"sent", "over"}
        eventually(lambda: ended(post) == twice, 60)
        eventually(lambda: not post.store.exists(post.queue), 20)
        assert arrived(post) == [email]

    def test_while_a_mail_waits_to_be_tried_again(self, post):
        post.smtp.replies["DATA"] = "451 later"
        post.platform.start(post.sender)
        email = register(post)
        returned = (
            "select 1 from mail m join errand on subject = m.id::text"
            " where m.attempt is null and ask_at > now() + interval '4 minutes'"
        )
        eventually(lambda: post.platform.rows("auth", returned), 20)

        # What it keeps in mind goes as well.
        post.platform.kill(post.sender)
        post.store.flushall()
        del post.smtp.replies["DATA"]
        ask_now(post)
        post.platform.start(post.sender)

        eventually(lambda: over(post), 60)
        assert arrived(post) == [email]

    def test_again_and_again(self, post):
        post.platform.start(post.sender)
        emails = []
        with emptied(post.store) as form:
            for _ in range(20):
                with form:
                    emails.append(register(post))

        def told():
            ask_now(post)
            return over(post)

        eventually(told, 120)

        # Each once: also those whose messages came twice.
        assert arrived(post) == sorted(emails)
        assert len(set(post.smtp.ids())) == len(emails)

    def test_until_a_mail_has_no_sense_any_more(self, post):
        late, email = register(post), register(post)
        handed_over(post, 2)
        post.store.flushall()
        post.platform.rows(
            "auth", f"update mail set expires_at = now() where email = '{late}'"
        )

        ask_now(post)
        post.platform.start(post.sender)

        eventually(lambda: over(post), 60)
        assert arrived(post) == [email]
