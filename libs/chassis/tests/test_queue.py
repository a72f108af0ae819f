import json
import os
import signal
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from kombu.exceptions import OperationalError
from sqlalchemy import select

from flagon_chassis import logs, queue, tables, tracing
from flagon_chassis.logs import trace_id_of
from flagon_chassis.testing import free_port, start_redis

from .conftest import eventually, in_thread, sample
from .things_app import create_app

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ACL = (
    "~things:*",
    "&things:*",
    # PSUBSCRIBE is allowed only for a pattern that is in the ACL word for word.
    "&things:/0.celery.pidbox",
    "+@all",
    "-@admin",
    "-@dangerous",
    "+info",
)
"""What a service's Redis user needs at least to run Celery (see the README)."""


@pytest.fixture
def app(make_settings, redis_url):
    return create_app(make_settings(redis_store_url=redis_url))


@pytest.fixture
def broker(app):
    return app.extensions["celery"]


def publish(broker, task, queue_name="bulk", task_id="1", **kwargs):
    queue.publish(
        broker,
        task,
        queue=queue_name,
        kwargs=kwargs,
        headers={
            "traceparent": TRACEPARENT,
            "request_id": "request-1",
            "enqueued_at": 1.0,
        },
        task_id=task_id,
    )


class TestConfiguration:
    def test_no_task_can_be_given_out_again_while_it_runs(self, make_settings):
        found = queue.configuration(make_settings(), "things", hard_seconds=600)

        longest = found["task_time_limit"]
        assert found["broker_transport_options"]["visibility_timeout"] > longest

    def test_losing_redis_does_not_lose_running_tasks(self, broker):
        assert broker.conf.worker_cancel_long_running_tasks_on_connection_loss is False
        assert broker.conf.task_acks_late
        assert broker.conf.task_reject_on_worker_lost
        assert broker.conf.result_backend is None

    def test_accepts_nothing_that_could_be_code(self, broker):
        assert broker.conf.accept_content == ["json"]


class TestCheck:
    def test_lets_the_platforms_own_configuration_pass(self, broker):
        queue.check(broker, 10)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("task_acks_late", False),
            ("task_reject_on_worker_lost", False),
            ("worker_prefetch_multiplier", 4),
            ("task_ignore_result", False),
            ("result_backend", "redis://127.0.0.1/0"),
        ],
    )
    def test_refuses_what_loses_tasks(self, broker, name, value):
        needed = broker.conf[name]
        broker.conf[name] = value

        with pytest.raises(queue.QueueUnfit, match=f"Set {name} to {needed}, not"):
            queue.check(broker, 10)

    def test_refuses_limits_that_outlast_the_brokers_patience(self, broker):
        # 90 s by default, so the broker waits for 300 s.
        queue.check(broker, 209)

        with pytest.raises(queue.QueueUnfit, match=r"Lower task_time_limit \(90 s\)"):
            queue.check(broker, 210)

    def test_refuses_tasks_without_any_limit(self, broker):
        broker.conf.task_time_limit = None

        with pytest.raises(queue.QueueUnfit, match="Lower task_time_limit"):
            queue.check(broker, 10)

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ({"acks_late": False}, "Set acks_late of things.odd to True"),
            ({"time_limit": 500}, r"Lower time_limit of things.odd \(500 s\)"),
        ],
    )
    def test_refuses_a_task_that_differs(self, broker, option, said):
        def odd():
            pass

        broker.task(odd, name="things.odd", shared=False, **option)

        with pytest.raises(queue.QueueUnfit, match=said):
            queue.check(broker, 10)

    def test_keeps_a_worker_from_starting(
        self, app, broker, make_settings, monkeypatch
    ):
        monkeypatch.setattr(queue, "load", lambda *_: (app, broker))
        settings = make_settings(grace_seconds=1000)

        assert queue.run_worker(settings, "", queues=["bulk"], concurrency=1) == 1


class TestSend:
    def test_writes_the_task_to_the_outbox(self, app, session):
        with app.app_context():
            queue.send(session, "things.note", queue="bulk", subject="7", key="a")

        row = session.execute(select(tables.outbox)).one()
        assert (row.channel, row.name, row.subject) == ("task", "things.note", "7")
        assert row.body == {"queue": "bulk", "kwargs": {"key": "a"}}

    def test_refuses_a_queue_that_nobody_reads(self, session):
        with pytest.raises(queue.UnknownQueue, match="interactive, bulk"):
            queue.send(session, "things.note", queue="bluk")


class TestPublish:
    def test_keeps_all_keys_below_the_services_prefix(self, broker, store):
        publish(broker, "things.note", key="a")

        assert all(key.startswith(b"things:") for key in store.scan_iter())

    def test_stamps_what_tasks_and_the_schedule_send(self, broker, store):
        broker.send_task("things.note", queue="bulk")

        headers = json.loads(store.lindex("things:bulk", 0))["headers"]
        assert headers["enqueued_at"] > 1e9
        assert headers["request_id"]

    def test_fails_soon_when_redis_is_frozen(self, make_settings):
        server = start_redis()
        started = next(server)
        celery_app = queue.publisher(
            make_settings(redis_store_url=started.url), "things"
        )
        publish(celery_app, "things.note")
        started.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(
                (OperationalError, redis.TimeoutError), match=r"[Tt]ime"
            ):
                publish(celery_app, "things.note")
        finally:
            started.process.send_signal(signal.SIGCONT)
            server.close()


@pytest.fixture
def over_tls(tmp_path):
    """Give the port of a Redis that others reach by TLS, and its certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    files = {
        "cert": certificate.public_bytes(Encoding.PEM),
        "key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        # Redis runs as another user.
        folder.chmod(0o755)
        for kind, content in files.items():
            (folder / kind).write_bytes(content)
        server = start_redis(
            *("--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(folder / "cert")),
            *("--tls-key-file", str(folder / "key")),
        )
        next(server)
        yield port, folder / "cert"
        server.close()


class TestTLS:
    def test_is_refused_to_who_has_no_known_certificate(self, over_tls, make_settings):
        port, _ = over_tls
        url = f"rediss://localhost:{port}/0"
        broker = queue.publisher(make_settings(redis_store_url=url), "things")

        with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            publish(broker, "things.note", key="a")

    def test_is_refused_to_who_has_another_name(
        self, over_tls, make_settings, monkeypatch
    ):
        port, certificate = over_tls
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        url = f"rediss://127.0.0.1:{port}/0"
        broker = queue.publisher(make_settings(redis_store_url=url), "things")

        with pytest.raises(OperationalError, match="IP address mismatch"):
            publish(broker, "things.note", key="a")

    def test_carries_tasks(self, over_tls, make_settings, monkeypatch):
        port, certificate = over_tls
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        url = f"rediss://localhost:{port}/0"
        broker = queue.publisher(make_settings(redis_store_url=url), "things")

        publish(broker, "things.note", key="a")

        assert queue.depths(broker, ["bulk"]) == {"bulk": 1}


class TestTask:
    """Tasks called in this process, as `task.apply` does it."""

    @pytest.mark.parametrize(
        ("name", "outcome"),
        [
            ("things.note", "succeeded"),
            ("things.fail", "failed"),
            ("things.ignore", "rejected"),
        ],
    )
    def test_is_counted_by_outcome(self, broker, name, outcome):
        labels = {"task": name, "outcome": outcome}
        before = sample("flagon_task_run_seconds_count", **labels) or 0

        broker.tasks[name].apply(kwargs={"key": "a"} if "note" in name else {})

        assert sample("flagon_task_run_seconds_count", **labels) == before + 1

    def test_is_counted_when_it_will_be_tried_again(self, broker):
        labels = {"task": "things.again", "outcome": "retried"}
        before = sample("flagon_task_run_seconds_count", **labels) or 0

        broker.tasks["things.again"].apply(kwargs={"key": "a"})

        assert sample("flagon_task_run_seconds_count", **labels) == before + 1

    def test_writes_one_line_about_each_attempt(self, broker, logged):
        broker.tasks["things.note"].apply(kwargs={"key": "a"})

        line = next(line for line in logged if line["event"] == "task")
        assert (line["outcome"], line["attempt"]) == ("succeeded", 1)

    def test_a_further_attempt_belongs_to_what_asked_for_the_task(self, broker, traced):
        again = {"retries": 1, "traceparent": TRACEPARENT}
        with tracing.span("first attempt") as span:
            attempt = tracing.traceparent_of(span)
            queue._stamp(again)
        task = broker.tasks["things.note"]
        task.push_request(id="1", **again)
        task(key="a")
        task.pop_request()

        assert again["traceparent"] == TRACEPARENT
        assert again["attempt_before"] == attempt
        run = next(line for line in traced() if line["name"] == "run things.note")
        assert run["trace_id"] == trace_id_of(TRACEPARENT)
        assert run["links"] == ["-".join(attempt.split("-")[1:3])]

    def test_leaves_its_request_id_behind(self, broker, store):
        broker.tasks["things.note"].apply(kwargs={"key": "a"})
        broker.tasks["things.note"].apply(kwargs={"key": "a"})

        first, second = (
            line.split()[1] for line in store.lrange("things:noted:a", 0, -1)
        )
        assert first != second
        assert logs.request_id().encode() not in {first, second}


class TestMeasure:
    def test_tells_how_many_tasks_wait_and_how_long(self, broker):
        publish(broker, "things.note")
        publish(broker, "things.note")

        queue.measure(broker, ["bulk", "mail"])

        assert sample("flagon_queue_depth", queue="bulk") == 2
        assert sample("flagon_queue_oldest_seconds", queue="bulk") > 1e6
        assert sample("flagon_queue_depth", queue="mail") == 0
        assert sample("flagon_queue_oldest_seconds", queue="mail") == 0


class TestForgetInherited:
    def test_has_nothing_to_do_without_a_database(self, app):
        queue._forget_inherited(app)()


class TestWatch:
    def test_bears_a_broker_that_is_away(self, make_settings, logged):
        stop = threading.Event()
        stop.set()

        queue.watch(queue.publisher(make_settings(), "things"), ["bulk"], stop)

        assert "queues_not_measured" in str(logged)

    def test_goes_on_until_it_is_stopped(self, broker, monkeypatch):
        monkeypatch.setattr(queue, "_WATCH_SECONDS", 0.01)
        stop = threading.Event()
        with in_thread(lambda: queue.watch(broker, ["bulk"], stop), stop):
            for depth in (1, 2):
                publish(broker, "things.note")
                eventually(
                    lambda depth=depth: (
                        sample("flagon_queue_depth", queue="bulk") == depth
                    )
                )


@pytest.fixture
def acl_redis():
    """A Redis with a user who may do no more than a service's user should."""
    server = start_redis()
    url = next(server).url
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", "things", "on", ">pw", *ACL)
        yield admin, url.replace("redis://", "redis://things:pw@")
    server.close()


class TestRunWorker:
    def test_runs_tasks_within_its_rights_in_the_trace_of_the_request(
        self, worker, acl_redis, make_settings
    ):
        admin, url = acl_redis
        process = worker(url)
        broker = queue.publisher(make_settings(redis_store_url=url), "things")
        publish(broker, "things.note", key="a")
        publish(broker, "things.again", key="b", task_id="2")

        noted = eventually(lambda: admin.lrange("things:noted:a", 0, -1))
        name, request_id, traceparent, pid = noted[0].decode().split()
        assert (name, request_id, traceparent) == ("things", "request-1", TRACEPARENT)
        assert int(pid) != process.process.pid
        tries = eventually(
            lambda: (
                (found := admin.lrange("things:noted:b", 0, -1)),
                found if len(found) == 2 else None,
            )[1]
        )
        assert tries == [b"request-1 0", b"request-1 1"]

        # The control commands go over publish and subscribe.
        replies = broker.control.inspect(timeout=2).ping()
        assert list(replies.values()) == [{"ok": "pong"}]
        broker.control.revoke("nothing")
        eventually(lambda: process.get("/readyz")[0] == 200)
        shown = eventually(
            lambda: (
                text if "succeeded" in (text := process.get("/metrics")[1]) else None
            )
        )
        assert 'flagon_task_wait_seconds_count{queue="bulk"} 2.0' in shown
        assert 'flagon_queue_depth{queue="bulk"}' in shown
        broker.control.purge()

        assert process.stop() == 0
        denied = admin.execute_command("ACL", "LOG")
        assert denied == []

    def test_gives_a_running_task_back_at_sigterm(self, worker, redis_url, broker):
        process = worker(redis_url)
        publish(broker, "things.hold", key="a", seconds=30)
        with redis.Redis.from_url(redis_url) as store:
            eventually(lambda: store.llen("things:noted:a") == 1)

            assert process.stop() == 0

            # At once, not after the visibility timeout of minutes.
            assert store.llen("things:bulk") == 1
            assert store.lrange("things:noted:a", 1, -1) == []

    def test_a_short_task_ends_before_the_worker_does(self, worker, redis_url, broker):
        process = worker(redis_url)
        publish(broker, "things.hold", key="a", seconds=0.3)
        with redis.Redis.from_url(redis_url) as store:
            eventually(lambda: store.llen("things:noted:a") == 1)

            assert process.stop() == 0

            assert store.lindex("things:noted:a", -1) == b"ended"
            assert store.llen("things:bulk") == 0

    def test_a_killed_child_loses_no_task(self, worker, redis_url, broker):
        process = worker(redis_url)
        publish(broker, "things.hold", key="a", seconds=1)
        with redis.Redis.from_url(redis_url) as store:
            begun = eventually(lambda: store.lrange("things:noted:a", 0, 0))
            os.kill(int(begun[0].split()[1]), signal.SIGKILL)

            eventually(lambda: store.lindex("things:noted:a", -1) == b"ended")
        # It waited once, however often it began.
        shown = process.get("/metrics")[1]
        assert 'flagon_task_wait_seconds_count{queue="bulk"} 1.0' in shown
        process.stop()

    def test_a_killed_child_shows_nothing_of_itself_any_more(
        self, worker, redis_url, broker
    ):
        process = worker(redis_url)
        publish(broker, "things.hold", key="a", seconds=1)
        with redis.Redis.from_url(redis_url) as store:
            begun = eventually(lambda: store.lrange("things:noted:a", 0, 0))
            pid = begun[0].decode().split()[1]
            shown = f'things_held{{child="{pid}"}} 1.0'
            assert shown in process.get("/metrics")[1]

            os.kill(int(pid), signal.SIGKILL)
            eventually(lambda: store.lindex("things:noted:a", -1) == b"ended")

        found = process.get("/metrics")[1]
        assert shown not in found
        # Another one has done the task, and what was counted is still counted.
        assert "things_held{child=" in found
        assert 'flagon_task_wait_seconds_count{queue="bulk"} 1.0' in found
        process.stop()

    def test_goes_on_when_redis_died_while_a_task_ran(self, worker, make_settings):
        port = free_port()
        server = start_redis(port=port)
        url = next(server).url
        process = worker(url)
        broker = queue.publisher(make_settings(redis_store_url=url), "things")
        publish(broker, "things.hold", key="a", seconds=3)
        with redis.Redis.from_url(url) as store:
            eventually(lambda: store.llen("things:noted:a") == 1)
        server.close()
        eventually(lambda: "Trying to re-establish" in process.output())

        server = start_redis(port=port)
        with redis.Redis.from_url(next(server).url) as store:
            publish(broker, "things.note", key="b", task_id="2")
            eventually(lambda: store.llen("things:noted:b") == 1)
            # What ran was not ended, and that it cannot be told to Redis ends nobody.
            eventually(lambda: store.lrange("things:noted:a", 0, -1) == [b"ended"])
            publish(broker, "things.note", key="c", task_id="3")
            eventually(lambda: store.llen("things:noted:c") == 1)
        assert process.process.poll() is None
        assert process.stop() == 0
        server.close()

    def test_a_process_that_cannot_start_takes_no_task(self, worker, redis_url, broker):
        publish(broker, "things.note", key="a")
        process = worker(redis_url, wait=False, BROKEN_START="1")

        # The worker ends, so that whoever supervises it starts it again; or, where it was
        # up before its children failed, it starts others. Killed any earlier, it would
        # take its children along before they have said why.
        eventually(
            lambda: (
                process.process.poll() is not None
                or process.output().count("worker_process_broken") > 2
            )
        )
        assert "worker_process_broken" in process.output()
        with redis.Redis.from_url(redis_url) as store:
            assert store.llen("things:noted:a") == 0


class TestRunBeat:
    def test_sends_what_is_due(self, make_settings, redis_url, service_process, store):
        settings = make_settings(redis_store_url=redis_url)
        process = service_process(
            "from flagon_chassis import queue;"
            "queue.run_beat(settings, 'things_app:create_app()')",
            settings,
            PYTHONPATH=str(Path(__file__).parent),
            THINGS_SECRET_KEY=settings.secret_key.get_secret_value(),
            THINGS_DATABASE_URL=settings.database_url.get_secret_value(),
            THINGS_REDIS_STORE_URL=redis_url,
        )

        eventually(lambda: store.llen("things:maintenance") > 1)

        eventually(lambda: process.get("/readyz")[0] == 200)
        assert process.stop() == 0
