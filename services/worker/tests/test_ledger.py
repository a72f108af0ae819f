"""Each accepted job ends once and does its work once, whatever is killed meanwhile."""

import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from io import BytesIO
from uuid import UUID

import psutil
import psycopg
import pytest
import redis
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from flagon_chassis import db, queue
from flagon_chassis.testing import ISSUER, start_postgres, start_redis
from flagon_worker.app import create_app
from flagon_worker.settings import Settings

from .conftest import BOOKS_PARAMS, MAPPING, MIGRATIONS, Stack, wait_for

JOBS = int(os.environ.get("FLAGON_LEDGER_JOBS", "200"))
"""Jobs of all runs together; `make ledger` hands in 5,000."""
FIRE_SECONDS = float(os.environ.get("FLAGON_FIRE_SECONDS", "20"))
LONGEST_SECONDS = 60 + JOBS / 5
WORKERS = {
    "fast": ("celery", "--queues", "interactive,mail", "--concurrency", "2"),
    "slow": ("celery", "--queues", "bulk,maintenance", "--concurrency", "2"),
}
PROCESSES = {"relay": ("relay",), "beat": ("beat",), **WORKERS}
KILLED = ("fast", "slow", "relay", "redis", "postgres")


class World:
    """A worker service with servers of its own, all of which may be killed."""

    def __init__(
        self, postgres, store, cache_url, folder, catalog_url, jwks, broker=None
    ):
        self.servers = {"postgres": postgres, "redis": store}
        if broker is not None:
            self.servers["rabbitmq"] = broker
        self.broker = "rabbitmq" if broker is not None else "redis"
        self.started = {}
        self.database = postgres.url
        self.store_url = store.url
        url = postgres.url.replace("postgresql:", "postgresql+psycopg:")
        values = {
            "environment": "testing",
            "secret_key": "s" * 32,
            "database_url": url,
            "owner_database_url": url,
            "redis_cache_url": cache_url,
            "files_dir": str(folder / "files"),
            "catalog_url": catalog_url,
            "catalog_seconds": 1.0,
            "lease_seconds": 2.0,
            "resend_seconds": 1.0,
            "backoff_seconds": 1.0,
            "reap_seconds": 0.5,
            "import_batch_rows": 100,
            # They are killed for the workers' sake, not their own.
            "crashes_max": 1000,
        }
        # What the API keeps in Redis (limits, denied tokens) is not what is killed here.
        settings = Settings(
            **values,
            public_url=ISSUER,
            redis_store_url=cache_url,
            rate_limit="1000000 per minute",
        )
        self.settings = settings
        db.migrate(settings, MIGRATIONS)
        self.app = create_app(settings)
        self.app.extensions["flagon.keys"]._fetch = jwks
        self.client = self.app.test_client()
        self.stack = Stack(
            {
                **{f"WORKER_{name.upper()}": str(values[name]) for name in values},
                "WORKER_REDIS_STORE_URL": store.url,
                "WORKER_BROKER_URL": self.servers[self.broker].url,
            },
            folder,
        )
        self.supervise()

    def rows(self, statement, *values):
        with psycopg.connect(self.database) as connection:
            return connection.execute(statement, values).fetchall()

    def supervise(self):
        """Start what has ended by itself, as whatever runs the platform does.

        A Celery process may end when it finds its broker still loading.
        """
        for name, command in PROCESSES.items():
            self.stack.ensure(name, *command)

    def all_done(self):
        self.supervise()
        return self.rows("select count(*) from job where finished_at is null") == [(0,)]

    def kill(self, name):
        """Kill a process by SIGKILL and start it again."""
        if name in self.servers:
            self.restart(name)
        else:
            self.stack.kill(name)
            self.stack.start(name, *PROCESSES[name])

    def kill_child(self, name):
        """Kill one process of a pool, which starts another."""
        children = psutil.Process(self.stack.processes[name].pid).children()
        if children:
            children[0].kill()

    def restart(self, name):
        """Kill a server and start it again, with what it has on disk."""
        old = self.started.get(name, self.servers[name].process)
        process = psutil.Process(old.pid)
        user = process.username()
        family = [process, *process.children(recursive=True)]
        process.kill()
        old.wait()
        # The parts of a Postgres without its head end by themselves.
        psutil.wait_procs(family[1:], 20)
        self.started[name] = subprocess.Popen(
            old.args, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.answers[name], 30)

    @property
    def answers(self):
        return {
            "redis": self.redis_answers,
            "postgres": self.postgres_answers,
            "rabbitmq": self.rabbitmq_answers,
        }

    def forget_tasks(self):
        """Have the broker lose all that waits there."""
        if self.broker == "redis":
            with redis.Redis.from_url(self.store_url) as client:
                client.flushall()
            return
        with self.celery.connection_for_read() as connection:
            for name in queue.QUEUES:
                connection.default_channel.queue_purge(name)

    @property
    def celery(self):
        address = SecretStr(self.servers[self.broker].url)
        return queue.publisher(
            self.settings.model_copy(update={"broker_url": address}), "worker"
        )

    def rabbitmq_answers(self):
        try:
            return queue.depths(self.celery, queue.QUEUES) is not None
        except OperationalError:
            return False

    def redis_answers(self):
        with redis.Redis.from_url(self.store_url, retry=None) as client:
            try:
                return client.ping()
            except redis.ConnectionError:
                return False

    def postgres_answers(self):
        try:
            return self.rows("select 1")
        except psycopg.OperationalError:
            return False

    def close(self):
        self.stack.close()
        self.app.extensions["flagon.catalog"].close()
        self.app.extensions["flagon.denylist"].close()
        self.app.extensions["flagon.sessions"].kw["bind"].dispose()
        for process in self.started.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def world(redis_server, server, bearer, tmp_path_factory):
    # What was committed is with the kernel before anybody hears of it.
    postgres = start_postgres(synchronous_commit="on")
    # And so is what a relay handed over.
    store = start_redis("--appendonly", "yes", "--appendfsync", "always")
    folder = tmp_path_factory.mktemp("world")
    (folder / "files").mkdir()
    found = World(
        next(postgres), next(store), redis_server.url, folder, server.url, bearer.jwks
    )
    yield found
    found.close()
    postgres.close()
    store.close()


class Ledger:
    """Hands jobs in, cancels and retries some, and notes what was accepted."""

    def __init__(self, world, headers, seed):
        self.client = world.client
        self.headers = headers
        self.chance = random.Random(seed)
        self.imports = {}
        """What each import is to create, by id."""
        self.ids = []
        self.ends = Counter()
        """How often a job has to end, by id."""

    def post(self, path, **body):
        response = self.client.post(f"/api/v1/jobs{path}", headers=self.headers, **body)
        if "wsgi.input" in response.request.environ:
            response.request.environ["wsgi.input"].close()
        return response

    def hand_in(self, number):
        body = {"kind": "probe", "params": json.dumps({"seconds": 0})}
        skus = set()
        if self.chance.random() < 0.4:
            skus = {f"j{number}-{row}" for row in range(self.chance.randrange(1, 6))}
            table = "sku,name\n" + "".join(f"{sku},N\n" for sku in sorted(skus))
            body = {
                "kind": "import",
                "params": json.dumps({"mapping": MAPPING}),
                "file": (BytesIO(table.encode()), "goods.csv"),
            }
        elif self.chance.random() < 0.2:
            body["params"] = json.dumps({"seconds": 0.2})
        response = self.post("", data=body, content_type="multipart/form-data")
        assert response.status_code == 202, response.json
        job_id = response.json["id"]
        self.ids.append(job_id)
        self.ends[job_id] += 1
        if skus:
            self.imports[job_id] = skus

    def cancel_one(self):
        """Cancel some job and, if it is over then, start it again."""
        job_id = self.chance.choice(self.ids)
        assert self.post(f"/{job_id}/cancel").status_code in {202, 409}
        retried = self.post(f"/{job_id}/retry")
        assert retried.status_code in {202, 409}
        if retried.status_code == 202:
            self.ends[job_id] += 1

    def check(self, world, catalog):
        """Compare what was accepted with rows, events and the catalog."""
        jobs = {
            str(job_id): (state, result, attempts)
            for job_id, state, result, attempts in world.rows(
                "select id, state, result, attempts from job where id = any(%s)",
                [UUID(each) for each in self.ids],
            )
        }
        assert set(jobs) == set(self.ids)
        assert {state for state, *_ in jobs.values()} <= {"succeeded", "cancelled"}
        told = Counter()
        versions = {}
        for job_id, version, state in world.rows(
            "select subject, (body->'data'->>'version')::int, body->'data'->>'state'"
            " from outbox where channel = 'event' order by sequence"
        ):
            if job_id in jobs:
                versions.setdefault(job_id, []).append(version)
                told[job_id] += state in {"succeeded", "cancelled", "failed"}
        # Each end was told once, and each version, in order.
        assert told == self.ends
        assert all(
            found == list(range(1, len(found) + 1)) for found in versions.values()
        )
        attempts = Counter(
            str(job_id)
            for job_id, ended in world.rows("select job_id, ended_at from job_attempt")
            if ended
        )
        assert all(attempts[each] == jobs[each][2] for each in jobs)
        made = Counter()
        for sku in catalog.products:
            made[sku.partition("-")[0]] += 1
        for job_id, skus in self.imports.items():
            state, result, _ = jobs[job_id]
            if state == "succeeded":
                assert result["created"] == len(skus)
                assert skus <= set(catalog.products)
        assert set(catalog.products) <= set().union(*self.imports.values())
        # A batch that was sent twice was sent under its key, and the same.
        bodies = {}
        for key, headers in catalog.calls:
            bodies.setdefault(key, set()).add(headers["Content-Length"])
        assert all(len(found) == 1 for found in bodies.values())
        return Counter(state for state, *_ in jobs.values())


class TestLedger:
    @pytest.mark.parametrize("trouble", ["workers", "restart", "flush"])
    def test_balances_while_workers_are_killed_every_second(
        self, world, catalog, bearer, trouble, say
    ):
        scopes = ("jobs:read", "jobs:write", "jobs:manage", "catalog:write")
        ledger = Ledger(world, bearer(*scopes, sub="me"), seed=trouble)
        chance = random.Random(trouble)
        stop = threading.Event()
        kills = Counter()

        def kill():
            while not stop.wait(1.0):
                name = chance.choice(list(WORKERS))
                world.supervise()
                whole = chance.random() < 0.3
                kills["worker" if whole else "child"] += 1
                (world.kill if whole else world.kill_child)(name)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            half = JOBS // 6
            for number in range(JOBS // 3):
                ledger.hand_in(f"{trouble}{number}")
                if ledger.chance.random() < 0.15:
                    ledger.cancel_one()
                if number == half and trouble == "restart":
                    world.restart(world.broker)
                if number == half and trouble == "flush":
                    world.forget_tasks()
        finally:
            # The small run is over soon; it was disturbed all the same.
            wait_for(lambda: sum(kills.values()) >= 2, 30)
            stop.set()
            killer.join()
        wait_for(world.all_done, LONGEST_SECONDS)

        states = ledger.check(world, catalog)
        say(f"{trouble}: {dict(states)}, killed {dict(kills)}")
        assert len(ledger.ids) == JOBS // 3


class TestFire:
    def test_changes_nothing_in_what_an_import_does(
        self, world, catalog, books, bearer, say
    ):
        """Worker, relay, Redis and Postgres, killed at random moments of an import."""
        content = b"".join(books.splitlines(keepends=True)[:2001])
        headers = bearer("jobs:read", "jobs:write", "catalog:write", sub="me")

        def run():
            catalog.reset()
            catalog.delay = 0.05
            response = world.client.post(
                "/api/v1/jobs",
                data={
                    "kind": "import",
                    "params": json.dumps(BOOKS_PARAMS),
                    "file": (BytesIO(content), "books.csv"),
                },
                headers=headers,
            )
            response.request.environ["wsgi.input"].close()
            assert response.status_code == 202, response.json
            return response.json["id"]

        def outcome(job_id):
            wait_for(world.all_done, 60)
            [(state, result, done, total)] = world.rows(
                "select state, result, progress_done, progress_total from job"
                " where id = %s",
                UUID(job_id),
            )
            return state, result, (done, total), dict(catalog.products)

        calm = outcome(run())
        assert calm[0] == "succeeded"
        assert len(calm[3]) == calm[1]["created"] > 1000
        chance = random.Random(31)
        kills = Counter()
        end = time.monotonic() + FIRE_SECONDS
        while time.monotonic() < end:
            job_id = run()
            for name in chance.sample(KILLED, 2):
                at = chance.randrange(1, 15)
                wait_for(
                    lambda at=at: len(catalog.answers) >= at or world.all_done(), 60
                )
                world.kill(name)
                kills[name] += 1
            assert outcome(job_id) == calm, kills
        say(f"killed {dict(kills)}")
        assert kills
