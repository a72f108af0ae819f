"""The worker's app on a real Postgres and a real Redis, and its factories."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select, update
from uuid_utils.compat import uuid7

import flagon_worker
from flagon_chassis import db, tables
from flagon_chassis.testing import ISSUER, Peer, free_port
from flagon_worker import clients, tasks
from flagon_worker.app import create_app
from flagon_worker.domain import fairness, jobs, leases
from flagon_worker.models import Job
from flagon_worker.settings import Settings

MIGRATIONS = Path(flagon_worker.__file__).parent / "migrations"
BOOKS = Path(__file__).parents[4] / "shared" / "data" / "books.csv"
QUEUE = "interactive"
CAPPED = fairness.Rules(owner_max={QUEUE: 2})
PATIENCE = leases.Patience(
    lease_seconds=15,
    crashes_max=3,
    patience_seconds=60,
    backoff_seconds=60,
    resend_seconds=10,
)


@pytest.fixture(scope="session")
def files_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def migrated(make_database):
    """One database for all tests: a new one for each would take most of the time."""
    url = make_database()
    db.migrate(
        Settings(
            secret_key="s" * 32,
            database_url=url,
            owner_database_url=url,
            files_dir=Path("/nonexistent"),
        ),
        MIGRATIONS,
    )
    return url


class Stack:
    """Real processes of the worker, each killed at the end."""

    def __init__(self, environment, folder):
        self.environment = environment
        self.folder = folder
        self.processes = {}
        self.urls = {}

    def start(self, name, *arguments, port=None, **environment):
        """Start a process and wait until it is ready."""
        port = port or free_port()
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "flagon_worker", *arguments],
                env={
                    **os.environ,
                    **self.environment,
                    "WORKER_BIND": f"127.0.0.1:{port}",
                    "WORKER_METRICS_DIR": str(self.folder / f"{name}-metrics"),
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.urls[name] = f"http://127.0.0.1:{port}"
        wait_for(lambda: self.get(name, "/readyz"), 30)
        return self.processes[name]

    def get(self, name, path):
        with urllib.request.urlopen(self.urls[name] + path, timeout=5) as answer:
            return answer.read().decode()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def ensure(self, name, *arguments):
        """Start a process unless it runs."""
        process = self.processes.get(name)
        if process is None or process.poll() is not None:
            self.start(name, *arguments)

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name, seconds=20):
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(seconds)

    def close(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(ready, seconds=20, pause=0.05):
    """Return what `ready` returns once that is true; an exception is not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = ready()
        except OSError:
            found = None
        if found:
            return found
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


@pytest.fixture
def say(pytestconfig):
    """Shows a line to who runs the tests."""
    return lambda line: pytestconfig.get_terminal_writer().line(f" {line}")


@pytest.fixture(name="wait_for", scope="session")
def _wait_for():
    return wait_for


@pytest.fixture(scope="module")
def stack(migrated, redis_server, files_dir, server, tmp_path_factory):
    """Starts real processes on the tests' database, Redis, files and catalog."""
    environment = {
        "WORKER_ENVIRONMENT": "testing",
        "WORKER_SECRET_KEY": "s" * 32,
        "WORKER_DATABASE_URL": migrated,
        "WORKER_REDIS_STORE_URL": redis_server.url,
        "WORKER_REDIS_CACHE_URL": redis_server.url,
        "WORKER_FILES_DIR": str(files_dir),
        "WORKER_CATALOG_URL": server.url,
        "WORKER_CATALOG_SECONDS": "1",
        "WORKER_LEASE_SECONDS": "2",
        "WORKER_REAP_SECONDS": "0.5",
        "WORKER_RESEND_SECONDS": "1",
        "WORKER_BACKOFF_SECONDS": "1",
        "WORKER_IMPORT_BATCH_ROWS": "100",
        "WORKER_GRACE_SECONDS": "5",
        "WORKER_WEBHOOK_LOOPBACK": "true",
        "WORKER_WEBHOOK_SECONDS": "2",
    }
    found = Stack(environment, tmp_path_factory.mktemp("stack"))
    yield found
    found.close()


@pytest.fixture
def database_url(migrated):
    """A database with the schema and no rows."""
    with psycopg.connect(migrated.replace("+psycopg", "")) as connection:
        connection.execute(
            "truncate job, job_turn, kind_bucket, event_archive, outbox, inbox,"
            " errand, idempotency_key, audit restart identity cascade"
        )
        # The platform's own stay: beat makes them when it connects.
        connection.execute("delete from schedule where task is null")
        connection.execute("delete from webhook_endpoint")
        connection.execute("truncate watch, import_profile")
    return migrated


@pytest.fixture
def settings(database_url, redis_url, files_dir, catalog):
    for path in files_dir.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Settings(
        environment="testing",
        secret_key="s" * 32,
        database_url=database_url,
        redis_store_url=redis_url,
        redis_cache_url=redis_url,
        public_url=ISSUER,
        files_dir=files_dir,
        catalog_url=catalog.url,
        catalog_seconds=1.0,
        webhook_seconds=1.0,
        webhook_loopback=True,
        rate_limit="100000 per minute",
    )


@pytest.fixture
def app(settings, bearer):
    app = create_app(settings)
    app.extensions["flagon.keys"]._fetch = bearer.jwks
    yield app
    app.extensions["flagon.catalog"].close()
    app.extensions["flagon.products"].close()
    app.extensions["flagon.denylist"].close()
    app.extensions["flagon.sessions"].kw["bind"].dispose()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def put(app, settings):
    """Puts a peer in the place of the services that the worker talks to."""
    with ExitStack() as peers:

        def put(peer, **changes):
            peers.callback(peer.close)
            there = settings.model_copy(
                update={"catalog_url": peer.url, "auth_url": peer.url, **changes}
            )
            for name, client in (
                ("catalog", clients.Catalog(there)),
                ("identity", clients.Auth(there)),
            ):
                peers.callback(client.close)
                app.extensions[f"flagon.{name}"].close()
                app.extensions[f"flagon.{name}"] = client
            app.extensions["flagon.strangers"] = clients.Strangers(there)
            return peer

        yield put


@pytest.fixture
def begin(app):
    """Opens a transaction in a context of its own: an open one would keep the caller."""

    @contextmanager
    def begin():
        with app.app_context(), app.extensions["flagon.sessions"].begin() as session:
            yield session

    return begin


class FakeCatalog(Peer):
    """A catalog behind real HTTP: keeps products, repeats answers by key, fails at will."""

    def __init__(self):
        self.lock = threading.Lock()
        self.reset()
        super().__init__()

    def answer(self, method, path, headers, body):
        if method == "POST":
            return self.bulk(headers, body)
        return self.find(path.rpartition("/")[2])

    def reset(self):
        self.products = {}
        self.offers = {}
        self.answers = {}
        self.calls = []
        self.failures = []
        self.delay = 0.0
        self.refuse = lambda item: None
        vars(self).pop("bulk", None)

    def find(self, product_id):
        with self.lock:
            if self.failures:
                return self.failures.pop(0)
            offer = self.offers.get(product_id)
            return (200, offer) if offer else (404, {"title": "gone"})

    def bulk(self, headers, body):
        with self.lock:
            if self.failures:
                return self.failures.pop(0)
        time.sleep(self.delay)
        with self.lock:
            key = headers["Idempotency-Key"]
            self.calls.append((key, dict(headers)))
            if key in self.answers:
                before, answer = self.answers[key]
                return (200, answer) if before == body else (422, {"title": "reused"})
            answer = self.apply(json.loads(body)["items"])
            self.answers[key] = (body, answer)
            return 200, answer

    def apply(self, items):
        results = []
        summary = dict.fromkeys(("created", "updated", "unchanged", "refused"), 0)
        for index, item in enumerate(items):
            sku = item["sku"]
            reason = self.refuse(item)
            if reason:
                outcome = "refused"
            elif sku not in self.products:
                outcome = "created"
                self.products[sku] = item
            elif self.products[sku] == {**self.products[sku], **item}:
                outcome = "unchanged"
            else:
                outcome = "updated"
                self.products[sku] = {**self.products[sku], **item}
            errors = [{"pointer": "#/name", "detail": reason}] if reason else []
            summary[outcome] += 1
            results.append(
                {"index": index, "sku": sku, "outcome": outcome, "errors": errors}
            )
        return {"results": results, "summary": summary}


@pytest.fixture
def catalog(server):
    server.reset()
    return server


@pytest.fixture(scope="session")
def server():
    fake = FakeCatalog()
    yield fake
    fake.close()


@pytest.fixture
def books():
    """The bytes of a supplier's file of 10,000 rows: a real one where there is one."""
    if BOOKS.exists():
        return BOOKS.read_bytes()
    first = "1,439023483,9.78043902348e+12,Suzanne Collins,2008.0,"
    first += '"The Hunger Games (The Hunger Games, #1)",eng\n'
    rows = "".join(
        f'{n},{n:09},{9.78e12 + n:.11e},"Author {n % 97}, Other {n % 11}",,Bóok {n},\n'
        for n in range(2, 10_001)
    )
    columns = (
        "book_id,isbn,isbn13,authors,original_publication_year,title,language_code"
    )
    return f"{columns}\n{first}{rows}".encode()


BOOKS_PARAMS = {
    "mapping": {"sku": "book_id", "name": "title", "attributes.authors": "authors"},
    "defaults": {
        "price_minor": 1299,
        "currency": "EUR",
        "stock": 5,
        "category": "books",
    },
}


@pytest.fixture
def books_params():
    return BOOKS_PARAMS


MAPPING = {"sku": "sku", "name": "name"}


@pytest.fixture
def submit(client, bearer):
    """Hands in an import and returns the response."""

    def submit(
        content=b"sku,name\na,A\n", *, who="me", headers=None, bare=False, **params
    ):
        params = params if bare else {"mapping": MAPPING, **params}
        response = client.post(
            "/api/v1/jobs",
            data={
                "kind": "import",
                "params": json.dumps(params),
                "file": (BytesIO(content), "goods.csv"),
            },
            headers={
                **bearer("jobs:read", "jobs:write", sub=who),
                **(headers or {}),
            },
        )
        # The test client leaves the spooled body open.
        response.request.environ["wsgi.input"].close()
        return response

    return submit


@pytest.fixture
def run(app):
    """Runs the task of a job in this process and returns the job as the API shows it."""

    def run(job_id):
        tasks.run_job.apply(kwargs={"job_id": str(job_id)}).get()
        with app.app_context(), app.extensions["flagon.sessions"].begin() as session:
            viewer = jobs.Viewer("", manages=True)
            return jobs.show(jobs.find_job(session, UUID(str(job_id)), viewer))

    return run


@pytest.fixture
def report(client, bearer):
    """Downloads the report of refused rows: its rows without the header."""

    def report(job_id, who="me"):
        response = client.get(
            f"/api/v1/jobs/{job_id}/artefacts/refused.csv",
            headers=bearer("jobs:read", sub=who),
        )
        assert response.status_code == 200, response.json
        text = response.get_data().decode("utf-8-sig")
        response.close()
        return list(csv.reader(io.StringIO(text, newline="")))[1:]

    return report


@pytest.fixture
def outbox(begin):
    """Returns what waits to be sent: (channel, name, body) in order."""

    def outbox(channel=None):
        with begin() as session:
            rows = session.execute(
                select(tables.outbox).order_by(tables.outbox.c.sequence)
            ).all()
        return [row for row in rows if channel in {None, row.channel}]

    return outbox


@pytest.fixture
def change(begin):
    """Changes columns of a job behind everybody's back."""

    def change(job_id, **values):
        with begin() as session:
            session.execute(
                update(Job).where(Job.id == UUID(str(job_id))).values(values)
            )

    return change


@pytest.fixture
def add(begin):
    """Adds probes of an owner and returns their ids, oldest first."""

    def add(owner, count=1, *, queue=QUEUE, kind="probe", **params):
        ids = [uuid7() for _ in range(count)]
        with begin() as session:
            for job_id in ids:
                jobs.submit_job(
                    session,
                    job_id=job_id,
                    kind=kind,
                    queue=queue,
                    owner=owner,
                    params={"seconds": 0, **params},
                    upload=None,
                    headers={"request_id": f"of-{owner}"},
                    resend_seconds=10,
                )
        return ids

    return add


@pytest.fixture
def submit_probe(client, bearer):
    """Hands in a probe and returns it."""

    def submit_probe(*, who="me", **params):
        response = client.post(
            "/api/v1/jobs",
            data={"kind": "probe", "params": json.dumps(params)},
            content_type="multipart/form-data",
            headers=bearer("jobs:read", "jobs:write", "jobs:manage", sub=who),
        )
        assert response.status_code == 202, response.json
        return response.json

    return submit_probe


@pytest.fixture
def look(client, bearer):
    """Returns anybody's job as it is now."""

    def look(job_id):
        return client.get(
            f"/api/v1/jobs/{job_id}",
            headers=bearer("jobs:read", "jobs:manage", sub="operator"),
        ).json

    return look


@pytest.fixture
def finished(look, wait_for):
    """Waits until a job has ended and returns it."""

    def finished(job_id, seconds=40):
        wait_for(lambda: look(job_id)["finished_at"], seconds)
        return look(job_id)

    return finished
