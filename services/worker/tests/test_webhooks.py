"""Webhooks: the API, what is delivered, and what receivers cannot do to us."""

import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from flagon_worker import __main__ as commands
from flagon_worker import tasks_webhooks
from flagon_worker.domain import webhooks
from flagon_worker.settings import Settings

PATH = "/api/v1/webhooks"
CHANGED = "market.flagon.product.changed.v1"


class Receiver:
    """A receiver behind real HTTP that answers as it is told."""

    def __init__(self):
        self.reset()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, dict(self.headers), body))
                outer.behave(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()

    def reset(self):
        self.got = []
        self.over = threading.Event()
        self.answer(200, b"thanks")

    def answer(self, status, body=b"", **headers):
        def behave(request):
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

        self.behave = behave


@pytest.fixture(scope="module")
def server_of_hooks():
    found = Receiver()
    yield found
    found.over.set()
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def receiver(server_of_hooks):
    server_of_hooks.reset()
    yield server_of_hooks
    server_of_hooks.over.set()


@pytest.fixture
def ask(client, bearer):
    operator = bearer("jobs:read", "jobs:manage", sub="op")

    def ask(method, path="", match=None, **options):
        headers = {**operator, **({"If-Match": match} if match else {})}
        headers |= options.pop("headers", {})
        return client.open(PATH + path, method=method, headers=headers, **options)

    return ask


@pytest.fixture
def create(ask, receiver):
    def create(**fields):
        new = {"url": receiver.url, "event_types": [CHANGED], **fields}
        response = ask("POST", json=new)
        assert response.status_code == 201, response.json
        return response.json

    return create


@pytest.fixture
def happen(begin):
    """Has an event taken from the stream."""

    def happen(type_=CHANGED, event_id=None):
        envelope = {
            "specversion": "1.0",
            "id": str(event_id or uuid4()),
            "source": "/services/catalog",
            "type": type_,
            "subject": "s",
            "time": "2026-11-21T09:30:00.000Z",
            "data": {"name": "Tässe"},
            "topics": ["products"],
        }
        with begin() as session:
            webhooks.take_events(session, [envelope])
        return envelope

    return happen


@pytest.fixture
def log(ask):
    """Returns the deliveries of an endpoint."""

    def log(view, **query):
        path = f"/{view['id']}/deliveries"
        return ask("GET", path, query_string=query).json["items"]

    return log


@pytest.fixture
def sql(settings, database_url):
    with psycopg.connect(
        database_url.replace("+psycopg", ""), autocommit=True
    ) as connection:
        yield connection.execute


@pytest.fixture
def attempt(app, sql):
    """Attempts all deliveries that wait, whenever they are due."""

    def attempt(*, hurry=True):
        if hurry:
            sql("update webhook_delivery set due_at = now() - interval '1 second'")
        for (found,) in sql(
            "select id from webhook_delivery where state = 'waiting' order by id"
        ).fetchall():
            kwargs = {"delivery_id": str(found)}
            tasks_webhooks.deliver_webhook.apply(kwargs=kwargs).get()

    return attempt


class TestCreateWebhook:
    def test_shows_the_secret_once(self, ask, create):
        view = create()

        assert view["secret"].startswith("whsec_")
        assert view["circuit"] == "closed"
        assert (view["owner"], view["enabled"]) == ("op", True)
        shown = ask("GET", f"/{view['id']}")
        assert "secret" not in shown.json
        assert "secret" not in ask("GET").json["items"][0]

    def test_repeats_its_answer_and_stores_no_secret(self, ask, receiver, sql):
        new = {"url": receiver.url, "event_types": ["*"]}
        headers = {"Idempotency-Key": "one"}

        first = ask("POST", json=new, headers=headers)
        second = ask("POST", json=new, headers=headers)

        assert first.json == second.json
        assert first.headers["Cache-Control"] == "no-store"
        key = first.json["secret"].removeprefix("whsec_").encode()
        for table in ("idempotency_key", "webhook_endpoint", "outbox"):
            rows = sql(f"select t::text, * from {table} t").fetchall()
            assert key not in repr(rows).encode()

    @pytest.mark.parametrize(
        "url",
        [
            "https://user:pw@example.com/",
            "https://10.0.0.1/",
            "https://169.254.169.254/",
            "gopher://example.com/",
            "https://[::ffff:127.0.0.1]/",
        ],
    )
    def test_refuses_urls_that_lead_inside(self, ask, url):
        response = ask("POST", json={"url": url, "event_types": ["*"]})

        assert response.status_code == 422
        assert response.json["type"].endswith("#webhook-url-refused")

    @pytest.mark.parametrize(
        "fields",
        [
            {"event_types": []},
            {"event_types": ["product"]},
            {"event_types": ["market.flagon.*.v1"]},
            {"event_types": ["*"], "secret": "mine"},
        ],
    )
    def test_refuses_what_is_not_right(self, ask, receiver, fields):
        response = ask("POST", json={"url": receiver.url, **fields})

        assert response.status_code == 422

    def test_of_one_too_many_is_refused(self, ask, create, monkeypatch):
        monkeypatch.setattr(webhooks, "ENDPOINTS_MAX", 1)
        view = create()

        response = ask(
            "POST", json={"url": view["url"], "event_types": view["event_types"]}
        )

        assert response.status_code == 409

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_is_for_operators(self, client, bearer, method):
        headers = bearer("jobs:read", "jobs:write")

        response = client.open(PATH, method=method, json={}, headers=headers)

        assert response.status_code == 403


class TestFindWebhook:
    def test_has_a_tag(self, ask, create):
        path = f"/{create()['id']}"
        tag = ask("GET", path).headers["ETag"]

        assert ask("GET", path, headers={"If-None-Match": tag}).status_code == 304

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("POST", "/rotate"),
            ("POST", "/test"),
            ("GET", "/deliveries"),
            ("POST", f"/deliveries/{uuid4()}/resend"),
        ],
    )
    def test_that_is_not_there_is_a_404(self, ask, method, path):
        options = {"json": {}} if method == "PATCH" else {}

        assert ask(method, f"/{uuid4()}{path}", '"v1"', **options).status_code == 404


class TestListWebhooks:
    def test_goes_in_pages(self, ask, create):
        ids = [create()["id"] for _ in range(3)]

        first = ask("GET", query_string={"limit": 2}).json
        second = ask("GET", query_string={"cursor": first["next_cursor"]}).json

        found = [item["id"] for page in (first, second) for item in page["items"]]
        assert found == ids[::-1]


class TestChangeWebhook:
    def test_changes_what_is_given(self, ask, create):
        view = create()
        tag = ask("GET", f"/{view['id']}").headers["ETag"]

        response = ask(
            "PATCH", f"/{view['id']}", tag, json={"enabled": False, "description": "x"}
        )

        assert response.status_code == 200
        changed = response.json
        assert (changed["enabled"], changed["description"]) == (False, "x")
        assert changed["version"] == 2
        stale = ask("PATCH", f"/{view['id']}", tag, json={"enabled": True})
        assert stale.status_code == 412

    @pytest.mark.parametrize(
        "fields", [{"url": "https://10.0.0.1/"}, {"owner": "me"}, {"enabled": None}]
    )
    def test_refuses_what_is_not_right(self, ask, create, fields):
        view = create()

        assert ask("PATCH", f"/{view['id']}", "*", json=fields).status_code == 422

    def test_needs_the_version_that_was_read(self, ask, create):
        path = f"/{create()['id']}"

        assert ask("PATCH", path, json={}).status_code == 428
        assert ask("DELETE", path).status_code == 428
        assert ask("PATCH", path, "*", data="x").status_code == 415


class TestDeleteWebhook:
    def test_forgets_it_and_its_deliveries(self, ask, create, happen, sql):
        view = create()
        happen()
        tag = ask("GET", f"/{view['id']}").headers["ETag"]

        assert ask("DELETE", f"/{view['id']}", tag).status_code == 204

        assert sql("select count(*) from webhook_delivery").fetchone() == (0,)


class TestTakeEvents:
    def test_writes_a_delivery_and_its_message_once(self, create, happen, log, outbox):
        view = create()
        event_id = uuid4()

        happen(event_id=event_id)
        happen(event_id=event_id)

        (delivery,) = log(view)
        assert delivery["event_id"] == str(event_id)
        assert delivery["state"] == "waiting"
        (task,) = outbox("task")
        assert (task.name, task.body["queue"]) == (webhooks.TASK, "maintenance")
        assert task.body["kwargs"] == {"delivery_id": delivery["id"]}

    @pytest.mark.parametrize(
        ("patterns", "wanted"),
        [
            (["*"], True),
            ([CHANGED], True),
            (["market.flagon.product.*"], True),
            (["market.flagon.*"], True),
            (["market.flagon.prod"], False),
            (["market.flagon.product.changed.v2"], False),
            (["market.flagon.job.*", "market.flagon.tag.*"], False),
        ],
    )
    def test_goes_by_the_type(self, create, happen, log, patterns, wanted):
        view = create(event_types=patterns)

        happen()

        assert bool(log(view)) is wanted

    def test_leaves_out_who_is_disabled(self, create, happen, log):
        view = create(enabled=False)

        happen()

        assert log(view) == []

    def test_is_what_the_consumer_does(self, monkeypatch, create, log, begin, settings):
        handles = []
        monkeypatch.setattr(
            "flagon_chassis.consumer.run", lambda *given: handles.append(given[-1])
        )
        commands._consume(settings, None)
        view = create(event_types=["*"])
        envelope = {
            "id": str(uuid4()),
            "source": "/services/catalog",
            "type": "market.flagon.tag.changed.v1",
            "subject": "s",
            "time": "2026-11-21T09:30:00.000Z",
        }

        with begin() as session:
            handles[0](session, [SimpleNamespace(envelope=envelope)])

        assert len(log(view)) == 1


class TestDeliverWebhook:
    def test_is_signed_as_an_independent_library_verifies(
        self, create, happen, attempt, receiver, log
    ):
        view = create()
        envelope = happen()

        attempt()

        ((path, headers, body),) = receiver.got
        assert path == "/hook"
        told = Webhook(view["secret"]).verify(body, headers)
        assert told == {k: v for k, v in envelope.items() if k != "topics"}
        with pytest.raises(WebhookVerificationError):
            Webhook(view["secret"]).verify(body + b" ", headers)
        (delivery,) = log(view)
        assert delivery["state"] == "delivered"
        (entry,) = delivery["log"]
        assert (entry["status"], entry["answer"]) == (200, "thanks")
        assert headers["webhook-id"] == delivery["id"]

    def test_is_done_once(self, create, happen, attempt, receiver):
        create()
        happen()

        attempt()
        attempt()

        assert len(receiver.got) == 1

    def test_is_signed_with_both_secrets_after_a_rotation(
        self, ask, create, happen, attempt, receiver, sql
    ):
        view = create()
        rotated = ask("POST", f"/{view['id']}/rotate").json
        assert rotated["secret"] != view["secret"]
        assert rotated["previous_secret_until"] is not None
        happen()
        attempt()
        _, headers, body = receiver.got[0]

        for secret in (view["secret"], rotated["secret"]):
            assert Webhook(secret).verify(body, headers)

        sql("update webhook_endpoint set previous_until = now()")
        happen()
        attempt()
        _, headers, body = receiver.got[1]
        assert Webhook(rotated["secret"]).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(view["secret"]).verify(body, headers)

    def test_waits_longer_after_each_failure_and_is_dead_in_the_end(
        self, create, happen, attempt, receiver, log, sql
    ):
        view = create()
        happen()
        receiver.answer(500, b"oops\0" + b"x" * 10_000)
        pauses = []

        for _ in range(len(webhooks.PAUSES_SECONDS) + 1):
            # Whatever the circuit says.
            sql("update webhook_endpoint set paused_until = null")
            attempt()
            (delivery,) = log(view)
            if delivery["due_at"] is not None:
                due = datetime.fromisoformat(delivery["due_at"])
                pauses.append((due - datetime.now(UTC)).total_seconds())

        assert delivery["state"] == "dead"
        assert len(receiver.got) == delivery["attempts"] == 10
        entry = delivery["log"][-1]
        assert (entry["status"], entry["error"]) == (500, "It answered 500.")
        assert entry["answer"].startswith("oops\N{REPLACEMENT CHARACTER}xx")
        assert len(entry["answer"]) <= 500
        for pause, expected in zip(pauses, webhooks.PAUSES_SECONDS, strict=True):
            assert 0.7 * expected - 2 < pause < 1.25 * expected

    def test_is_not_done_before_its_time(self, create, happen, attempt, receiver):
        create()
        happen()
        receiver.answer(500)
        attempt()

        attempt(hurry=False)

        assert len(receiver.got) == 1

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_follows_no_redirect(self, create, happen, attempt, receiver, log, status):
        view = create()
        happen()
        receiver.answer(status, Location=receiver.url + "/other")

        attempt()

        assert [path for path, _, _ in receiver.got] == ["/hook"]
        assert "redirects are not followed" in log(view)[0]["log"][0]["error"]

    def test_does_not_wait_for_who_hangs(self, create, happen, attempt, receiver, log):
        view = create()
        happen()
        receiver.behave = lambda _request: receiver.over.wait(20)

        started = time.monotonic()
        attempt()

        assert time.monotonic() - started < 4
        assert log(view)[0]["log"][0]["error"] == "No answer within 1 s."

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_does_not_wait_for_who_drips(
        self, create, happen, attempt, receiver, log, part
    ):
        def drip(request):
            start = b"HTTP/1.1 200 OK\r\n" + (b"X: " if part == "head" else b"\r\n")
            request.wfile.write(start)
            while not receiver.over.wait(0.1):
                try:
                    request.wfile.write(b"x")
                    request.wfile.flush()
                except OSError:
                    return

        view = create()
        happen()
        receiver.behave = drip

        started = time.monotonic()
        attempt()

        assert time.monotonic() - started < 4
        (entry,) = log(view)[0]["log"]
        # What there was of an answer counts, and no more is read of it.
        if part == "head":
            assert entry["error"] == "No answer within 1 s."
        else:
            assert entry["status"] == 200

    def test_reads_little_of_a_long_answer(
        self, create, happen, attempt, receiver, log
    ):
        sent = []

        def pour(request):
            request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while not receiver.over.is_set():
                    sent.append(request.wfile.write(b"x" * 65_536))
            except OSError:
                return

        view = create()
        happen()
        receiver.behave = pour

        attempt()

        assert len(log(view)[0]["log"][0]["answer"]) == 500
        assert sum(sent) < 64 * 1024 * 1024

    @pytest.mark.parametrize(
        "rubbish", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 100]
    )
    def test_bears_what_is_no_http(
        self, create, happen, attempt, receiver, log, rubbish
    ):
        view = create()
        happen()
        receiver.behave = lambda request: request.wfile.write(rubbish)

        attempt()

        assert log(view)[0]["log"][0]["error"].startswith("No answer: ")

    def test_believes_no_certificate_of_anybody(
        self, create, happen, attempt, log, ask, sql
    ):
        with socket.create_server(("127.0.0.1", 0)) as plain:
            view = create()
            url = f"https://127.0.0.1:{plain.getsockname()[1]}/"
            sql("update webhook_endpoint set url = %s", [url])
            happen()

            def talk():
                connection, _ = plain.accept()
                connection.sendall(b"no TLS at all")
                connection.close()

            threading.Thread(target=talk, daemon=True).start()
            attempt()

        assert log(view)[0]["log"][0]["error"].startswith(("TLS failed", "No answer"))
        assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED

    def test_ends_when_the_receiver_says_gone(
        self, ask, create, happen, attempt, receiver, log
    ):
        view = create()
        happen()
        receiver.answer(410)

        attempt()

        assert log(view)[0]["state"] == "dead"
        assert ask("GET", f"/{view['id']}").json["enabled"] is False

    def test_does_nothing_for_who_is_disabled_or_gone(
        self, ask, create, happen, attempt, receiver, sql
    ):
        create()
        happen()
        sql("update webhook_endpoint set enabled = false")
        attempt()

        kwargs = {"delivery_id": str(uuid4())}
        tasks_webhooks.deliver_webhook.apply(kwargs=kwargs).get()

        assert receiver.got == []

    def test_writes_nothing_when_another_has_taken_over(
        self, create, happen, attempt, receiver, log, sql
    ):
        view = create()
        happen()
        ok = receiver.behave

        def slow(request):
            sql("update webhook_delivery set claim = %s", [uuid4()])
            ok(request)

        receiver.behave = slow

        attempt()

        assert (log(view)[0]["state"], log(view)[0]["log"]) == ("waiting", [])


class TestCircuit:
    @pytest.fixture
    def failed(self, create, happen, attempt, receiver, sql):
        view = create()
        receiver.answer(500)
        for _ in range(webhooks.OPEN_AFTER):
            happen()
        attempt()
        assert len(receiver.got) == webhooks.OPEN_AFTER
        return view

    def test_opens_after_failures_in_a_row(
        self, failed, ask, happen, attempt, receiver, log
    ):
        happen()
        attempt()

        view = ask("GET", f"/{failed['id']}").json
        assert (view["circuit"], view["failures"]) == ("open", webhooks.OPEN_AFTER)
        assert view["paused_until"] is not None
        assert len(receiver.got) == webhooks.OPEN_AFTER
        # Waiting for the circuit costs a delivery none of its attempts.
        assert log(failed)[0]["attempts"] == 0

    def test_lets_one_try_and_closes_when_that_works(
        self, failed, ask, attempt, receiver, sql, log
    ):
        sql("update webhook_endpoint set paused_until = now()")
        assert ask("GET", f"/{failed['id']}").json["circuit"] == "half_open"
        receiver.answer(204)
        seen = []
        ok = receiver.behave

        def look(request):
            if not seen:
                # While the first tries, another one does not.
                seen.append(ask("GET", f"/{failed['id']}").json["circuit"])
            ok(request)

        receiver.behave = look

        attempt()

        assert seen == ["open"]
        assert ask("GET", f"/{failed['id']}").json["circuit"] == "closed"
        assert {item["state"] for item in log(failed)} == {"delivered"}

    def test_opens_for_longer_when_that_fails(
        self, failed, ask, attempt, sql, receiver
    ):
        sql("update webhook_endpoint set paused_until = now()")

        attempt()

        assert len(receiver.got) == webhooks.OPEN_AFTER + 1
        view = ask("GET", f"/{failed['id']}").json
        wait = datetime.fromisoformat(view["paused_until"]) - datetime.now(UTC)
        assert timedelta(seconds=110) < wait <= timedelta(seconds=120)

    def test_tries_at_once_when_a_person_asks(
        self, failed, ask, attempt, receiver, log
    ):
        receiver.answer(200)

        response = ask("POST", f"/{failed['id']}/test")
        attempt(hurry=False)

        assert response.status_code == 202
        assert log(failed)[0]["state"] == "delivered"
        told = json.loads(receiver.got[-1][2])
        assert told["type"] == webhooks.TEST_TYPE
        assert ask("GET", f"/{failed['id']}").json["circuit"] == "closed"

    def test_has_a_clean_sheet_with_another_url(self, failed, ask, receiver):
        response = ask(
            "PATCH", f"/{failed['id']}", "*", json={"url": receiver.url + "2"}
        )

        assert (response.json["circuit"], response.json["failures"]) == ("closed", 0)


class TestResendDelivery:
    def test_sends_it_again_under_the_same_id(
        self, ask, create, happen, attempt, receiver, log
    ):
        view = create()
        happen()
        attempt()
        delivery_id = log(view)[0]["id"]

        response = ask("POST", f"/{view['id']}/deliveries/{delivery_id}/resend")
        attempt()

        assert response.status_code == 202
        assert {headers["webhook-id"] for _, headers, _ in receiver.got} == {
            delivery_id
        }
        assert len(receiver.got) == 2
        assert len(log(view)[0]["log"]) == 2

    def test_of_what_is_not_there_is_a_404(self, ask, create):
        path = f"/{create()['id']}/deliveries/{uuid4()}/resend"

        assert ask("POST", path).json["type"].endswith("#delivery-not-found")

    def test_and_tests_are_refused_while_it_is_disabled(
        self, ask, create, happen, log, sql
    ):
        view = create()
        happen()
        sql("update webhook_endpoint set enabled = false")
        delivery_id = log(view)[0]["id"]

        again = ask("POST", f"/{view['id']}/deliveries/{delivery_id}/resend")
        test = ask("POST", f"/{view['id']}/test")

        assert (again.status_code, test.status_code) == (409, 409)


class TestListDeliveries:
    def test_goes_by_state_in_pages(self, ask, create, happen, attempt, receiver, log):
        view = create()
        for _ in range(3):
            happen()
        attempt()
        happen()

        assert len(log(view, state="delivered")) == 3
        assert len(log(view, state="waiting")) == 1
        first = ask("GET", f"/{view['id']}/deliveries", query_string={"limit": 3}).json
        cursor = {"limit": 3, "cursor": first["next_cursor"]}
        second = ask("GET", f"/{view['id']}/deliveries", query_string=cursor).json
        assert len(first["items"]) == 3
        assert len(second["items"]) == 1


class TestSweep:
    def test_wakes_what_is_due_and_what_lost_its_message(
        self, create, happen, sql, outbox
    ):
        create()
        happen()
        tasks_webhooks.sweep_webhooks.apply().get()
        assert len(outbox("task")) == 1

        sql("update webhook_delivery set ask_at = now()")
        tasks_webhooks.sweep_webhooks.apply().get()
        tasks_webhooks.sweep_webhooks.apply().get()

        assert len(outbox("task")) == 2


class TestPurge:
    def test_forgets_what_ended_long_ago(
        self, begin, create, happen, attempt, sql, log
    ):
        view = create()
        happen()
        attempt()
        happen()
        sql("update webhook_delivery set created_at = now() - interval '15 days'")
        happen()

        with begin() as session:
            gone = webhooks.purge_deliveries(session, keep=timedelta(days=14))

        assert gone == 1
        assert len(log(view)) == 2


class TestProcesses:
    def test_a_worker_killed_between_send_and_mark_sends_again(
        self, stack, create, happen, receiver, log, sql, wait_for
    ):
        view = create()
        stack.start("hooks-relay", "relay")
        celery = ("celery", "--queues", "maintenance", "--concurrency", "1")
        stack.start("hooks", *celery)
        arrived = threading.Event()
        ok = receiver.behave

        def hold(_request):
            arrived.set()
            receiver.over.wait(20)

        receiver.behave = hold
        try:
            happen()
            assert arrived.wait(20)
            # The receiver has it, the worker does not know yet.
            stack.kill("hooks")
            receiver.behave = ok
            assert log(view)[0]["state"] == "waiting"
            # The claim runs out, the sweep sends its message.
            sql(
                "update webhook_delivery set claimed_until = now(), ask_at = now(),"
                " due_at = now()"
            )
            tasks_webhooks.sweep_webhooks.apply().get()
            stack.start("hooks", *celery)

            wait_for(lambda: log(view)[0]["state"] == "delivered", 30)
        finally:
            for name in {"hooks", "hooks-relay"} & stack.processes.keys():
                stack.kill(name)
        ids = [headers["webhook-id"] for _, headers, _ in receiver.got]
        assert ids == [log(view)[0]["id"]] * 2
        assert [len(item["log"]) for item in log(view)] == [1]
        assert UUID(ids[0])

    def test_carry_an_event_to_its_receiver(
        self, stack, create, submit, receiver, wait_for
    ):
        view = create(event_types=["market.flagon.job.*"])
        names = {
            "hooks-relay": ["relay"],
            "hooks-consumer": ["consumer"],
            "hooks": ["celery", "--queues", "maintenance", "--concurrency", "1"],
        }
        try:
            for name, arguments in names.items():
                stack.start(name, *arguments)
            job_id = submit().json["id"]

            wait_for(
                lambda: any(
                    json.loads(body)["subject"] == job_id for _, _, body in receiver.got
                ),
                30,
            )
        finally:
            for name in names.keys() & stack.processes.keys():
                stack.kill(name)
        _, headers, body = receiver.got[0]
        assert (
            Webhook(view["secret"]).verify(body, headers)["data"]["state"] == "queued"
        )


class TestSettings:
    def test_refuse_loopback_in_production(self, settings):
        with pytest.raises(ValidationError):
            Settings(**{**settings.model_dump(), "environment": "production"})
