"""What the chassis' own tests share."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
import structlog
from sqlalchemy import create_engine, text
from structlog.contextvars import clear_contextvars

from flagon_chassis import metrics, queue, tables, tracing
from flagon_chassis.settings import DatabaseSettings, ServiceSettings
from flagon_chassis.testing import free_port

SECRET = "not-a-secret-but-long-enough-for-it"


@pytest.fixture(autouse=True)
def own_logging():
    """Take back what a test's app did to logging and to what is bound to each line."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    clear_contextvars()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)
    clear_contextvars()


@pytest.fixture(scope="session")
def schema_url(make_database):
    """The database of the run, with the chassis' tables."""
    url = make_database()
    engine = create_engine(url)
    with engine.begin() as connection:
        tables.create(connection, "outbox", "inbox", "idempotency_key", "errand")
    engine.dispose()
    return url


@pytest.fixture
def database_url(schema_url):
    """A database with the chassis' tables, all of them empty."""
    yield schema_url
    with psycopg.connect(
        schema_url.replace("+psycopg", ""), autocommit=True
    ) as connection:
        connection.execute(
            "truncate outbox, inbox, idempotency_key, errand restart identity"
        )
        connection.execute("drop table if exists effect, thing")


@pytest.fixture
def make_settings(tmp_path):
    """A function that makes settings of which only what matters need be named."""

    def make(**values):
        defaults = {
            "environment": "testing",
            "secret_key": SECRET,
            "database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none",
            "redis_store_url": "redis://127.0.0.1:1/0",
            "bind": f"127.0.0.1:{free_port()}",
        }
        return DatabaseSettings(**(defaults | values))

    return make


@pytest.fixture
def settings(make_settings, database_url, redis_url):
    """Settings with a real database and a real Redis."""
    return make_settings(database_url=database_url, redis_store_url=redis_url)


@pytest.fixture
def store(redis_url):
    """A client of the test's Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def rows(database_url):
    """A connection for looking into the test's database, in autocommit."""
    with psycopg.connect(
        database_url.replace("+psycopg", ""), autocommit=True
    ) as connection:
        yield connection


@pytest.fixture
def logged():
    """What the code under test logs: a list of dictionaries, in every thread."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def traced(monkeypatch, logged):
    """Turn tracing on as `log` and return a function that gives the ended spans."""
    # OpenTelemetry takes one provider per process for good; ours can be made anew.
    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _made: None)
    tracing.init(ServiceSettings(secret_key=SECRET, traces="log"), "things")
    yield lambda: [line for line in logged if line["event"] == "span"]
    tracing.shutdown()


def eventually(check, seconds=30):
    """Return what `check` returns once it is true and raises nothing."""
    end = time.monotonic() + seconds
    while True:
        with suppress(AssertionError, OSError, redis.RedisError, psycopg.Error):
            found = check()
            if found:
                return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def sample(name, **labels):
    """Return the value of one metric of this process, None when it has none yet."""
    return metrics.REGISTRY.get_sample_value(name, labels)


@contextmanager
def in_thread(work, stop):
    """Run `work` beside the block, then set `stop` and see that it ends at once."""
    failures = []

    def run():
        try:
            work()
        # A thread's failure is nobody's: it is told to the test below.
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        assert failures == []


class ServiceProcess:
    """A process of its own that serves its health at `settings.bind`."""

    def __init__(self, code, settings, folder, env):
        self.bind = settings.bind
        self._log = folder / f"{uuid4().hex}.log"
        values = settings.model_dump(mode="json", exclude_unset=True) | {
            "secret_key": settings.secret_key.get_secret_value(),
            "database_url": settings.database_url.get_secret_value(),
            "redis_store_url": settings.redis_store_url.get_secret_value(),
            "broker_url": settings.broker_url.get_secret_value(),
            "event_bus_url": settings.event_bus_url.get_secret_value(),
        }
        preamble = (
            "from flagon_chassis.settings import DatabaseSettings;"
            f"settings = DatabaseSettings(**{values!r});"
        )
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", preamble + code],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
            )

    def get(self, path):
        host, port = self.bind.split(":")
        connection = HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def output(self):
        return self._log.read_text()

    def stop(self, number=signal.SIGTERM):
        """Send the signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def service_process(tmp_path):
    """A function that runs code with `settings` in a process that serves its health."""
    made = []

    def make(code, settings, *, wait=True, **env):
        process = ServiceProcess(code, settings, tmp_path, env)
        made.append(process)
        if wait:
            eventually(lambda: process.get("/livez"))
        return process

    yield make
    for process in made:
        process.process.kill()
        process.process.wait(10)


@pytest.fixture
def things_process(service_process):
    """A function that runs code with `settings` which loads the app of `things_app`."""

    def start(code, settings, **env):
        secret = {
            name.upper(): getattr(settings, name).get_secret_value()
            for name in ("secret_key", "database_url", "redis_store_url", "broker_url")
        }
        plain = {
            "THREADS": str(settings.threads),
            "GRACE_SECONDS": str(settings.grace_seconds),
        }
        return service_process(
            code,
            settings,
            PYTHONPATH=str(Path(__file__).parent),
            **{f"THINGS_{name}": value for name, value in (secret | plain).items()},
            **env,
        )

    return start


@pytest.fixture
def worker(make_settings, things_process, tmp_path, database_url):
    """A function that starts a worker process for all queues.

    :param code: what it runs in place of Celery.
    """

    def start(url, *, queues=queue.QUEUES, broker_url="", code="", **env):
        settings = make_settings(
            redis_store_url=url,
            broker_url=broker_url,
            database_url=database_url,
            metrics_dir=str(tmp_path / "metrics"),
            grace_seconds=1,
        )
        celery = (
            "from flagon_chassis import queue; import sys;"
            "sys.exit(queue.run_worker(settings, 'things_app:create_app()',"
            f" queues={list(queues)!r}, concurrency=2))"
        )
        return things_process(code or celery, settings, **env)

    return start


class Rounds(threading.Event):
    """A stop that comes by itself after some waits."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def wait(self, timeout=None):
        self.left -= 1
        if self.left == 0:
            self.set()
        return super().wait(min(timeout, 0.01))


@pytest.fixture
def effects(rows):
    """The table that the handler writes to."""
    rows.execute("create table effect (event_id uuid, subject text)")
    return lambda: [
        subject for (subject,) in rows.execute("select subject from effect").fetchall()
    ]


def write(session, events):
    """Handle events: leave a row for each, which `effects` returns."""
    for event in events:
        session.execute(
            text("insert into effect values (:id, :subject)"),
            {"id": event.id, "subject": event.envelope["subject"]},
        )
