"""Jobs that do nothing: their rate beside bare Celery, their start beside a flood.

    python tests/bench/bench_jobs.py [--jobs 2000] [--samples 20] [--broker redis rabbitmq]

`rate` counts from the first row until the last job has ended, through outbox, relay,
queue, lease and events, beside bare Celery with the same broker, as many processes and the
same settings for acknowledgement; both in turns, so that what else the machine does meets
both. `cpu` is what all processes took for it, Redis and Postgres included. `start` is the
time from the row to the start of single jobs of one owner, alone and while another owner
has a flood waiting in the same queue. With two brokers each is measured by itself, in the
order given, and the goals are those of Redis. `memory` is what the pool's processes hold
for themselves after a tenth of the jobs and after all.

Exits with 1 when a goal is missed.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import redis
from sqlalchemy import delete, func, select
from uuid_utils.compat import uuid7

sys.path.insert(0, str(Path(__file__).parent))

from flagon_chassis import db
from flagon_chassis.testing import (
    free_port,
    start_postgres,
    start_rabbitmq,
    start_redis,
)
from flagon_worker import app as worker
from flagon_worker.domain import jobs
from flagon_worker.models import Job
from flagon_worker.settings import Settings

HERE = Path(__file__).parent
PROCESSES, ROUNDS = 2, 4
RATIO, START_SECONDS, GROWTH = 0.5, 2.0, 1.1


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--broker", nargs="+", default=["redis"])
    options = parser.parse_args()
    found = {name: measure(name, options) for name in options.broker}
    print(f"{'what':<40}" + "".join(f"{name:>12}" for name in found) + "  goal")
    for rows in zip(*found.values(), strict=True):
        what, _figure, goal, _kept = rows[0]
        figures = "".join(f"{figure:>12.3f}" for _what, figure, *_ in rows)
        print(f"{what:<40}{figures}  {goal or ''}")
    return int(any(kept is False for *_, kept in found.get("redis", ())))


def measure(name, options):
    """Return rows for the table: what, the figure, the goal and whether it is met."""
    count = options.jobs // ROUNDS
    with ExitStack() as stack:
        redis_server = next(held(stack, start_redis()))
        postgres = next(held(stack, start_postgres()))
        servers = [redis_server.process]
        broker = redis_server.url
        if name == "rabbitmq":
            rabbitmq = next(held(stack, start_rabbitmq("worker")))
            servers.append(rabbitmq.process)
            broker = rabbitmq.url
        with (
            bare_celery(broker, redis_server.url) as (bare, bare_round),
            platform(stack, broker, redis_server.url, postgres.url) as (
                app,
                relay,
                celery,
            ),
        ):
            hand_in(app, "warm", 2)
            until(lambda: left(app) == 0)
            bare_costs, our_costs, memory = Costs(), Costs(), []
            for _ in range(ROUNDS):
                with bare_costs.of(*servers, bare):
                    bare_round(count)
                with our_costs.of(*servers, postgres.process, relay, celery):
                    our_round(app, celery, count, memory)
            alone = alone_seconds(app, options.samples)
            start = start_seconds(app, options.samples)
    done = count * ROUNDS
    ratio, growth = bare_costs.seconds / our_costs.seconds, memory[-1] / memory[0]
    return [
        ("bare Celery, jobs a second", done / bare_costs.seconds, None, None),
        ("jobs a second", done / our_costs.seconds, None, None),
        ("of bare Celery's", ratio, RATIO, ratio >= RATIO),
        ("bare Celery, CPU of a job (ms)", bare_costs.cpu * 1e3 / done, None, None),
        ("CPU of a job (ms)", our_costs.cpu * 1e3 / done, None, None),
        ("start alone, median (s)", alone, None, None),
        ("start beside a flood, p95 (s)", start, START_SECONDS, start < START_SECONDS),
        ("memory at the end, of a tenth's", growth, GROWTH, growth < GROWTH),
    ]


def held(stack, server):
    """Have a server of the tests' ended with the stack."""
    stack.callback(server.close)
    return server


class Costs:
    """What rounds of jobs took: seconds by the clock, and of all processors."""

    def __init__(self):
        self.seconds = self.cpu = 0.0

    @contextmanager
    def of(self, *processes):
        """Add the block's, with the CPU time of this process and of others."""
        pids = [os.getpid(), *(process.pid for process in processes)]
        cpu, began = cpu_seconds(pids), time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu += cpu_seconds(pids) - cpu


def cpu_seconds(pids):
    """Return the CPU time of processes and their children (of this one its own)."""
    found = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        children = [] if pid == os.getpid() else process.children(recursive=True)
        found += sum(sum(each.cpu_times()[:2]) for each in (process, *children))
    return found


@contextmanager
def bare_celery(broker, counter):
    """Give a process of Celery alone, and what has it do a number of tasks."""
    own = {"BARE_BROKER": broker, "BARE_COUNTER": counter}
    environment = {**os.environ, **own}
    with started(
        [
            *(sys.executable, "-m", "celery", "-A", "jobs.bare", "worker"),
            *("--concurrency", str(PROCESSES), "--loglevel", "ERROR"),
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        ],
        environment,
        cwd=HERE,
    ) as process:
        os.environ.update(own)
        # Read from the environment: with another broker it is another app.
        nothing = importlib.reload(importlib.import_module("jobs.bare")).nothing
        client = redis.Redis.from_url(counter)
        nothing.delay()
        until(lambda: client.get("bare-done") == b"1")

        def bare_round(count):
            wanted = int(client.get("bare-done")) + count
            for _ in range(count):
                nothing.delay()
            until(lambda: int(client.get("bare-done")) == wanted)

        yield process, bare_round


@contextmanager
def platform(stack, broker, store, database):
    """Give an app to hand jobs in with, the relay, and the Celery process."""
    database = database.replace("postgresql://", "postgresql+psycopg://")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    values = {
        "environment": "testing",
        "secret_key": "s" * 32,
        "database_url": database,
        "owner_database_url": database,
        "redis_store_url": store,
        "redis_cache_url": store,
        "broker_url": broker,
        "files_dir": str(folder),
        "log_level": "WARNING",
    }
    settings = Settings(**values)
    db.migrate(settings, Path(worker.__file__).parent / "migrations")
    environment = {
        **os.environ,
        **{f"WORKER_{name.upper()}": value for name, value in values.items()},
    }
    program = [sys.executable, "-m", "flagon_worker"]
    queues = ["celery", "--queues", "interactive", "--concurrency", str(PROCESSES)]
    with (
        started([*program, "relay"], environment) as relay,
        started([*program, *queues], environment) as celery,
    ):
        yield worker.create_tasks(settings), relay, celery


@contextmanager
def started(command, environment, **options):
    """Run a process and end it; one of ours is waited for until it is ready."""
    port = free_port()
    environment = {**environment, "WORKER_BIND": f"127.0.0.1:{port}"}
    process = subprocess.Popen(command, env=environment, **options)
    try:
        if "flagon_worker" in command:
            until(lambda: ready(port))
        yield process
    finally:
        process.terminate()
        process.wait(30)


def ready(port):
    """Say whether a process answers that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except OSError:
        return False


def our_round(app, celery, count, memory):
    """Have jobs done, from the first row to the last end, and note what memory it takes."""
    for number in range(0, count, 50):
        hand_in(app, f"owner{number % 500}", min(50, count - number))
    until(lambda: left(app) == 0)
    memory.append(own_memory(celery.pid))


def alone_seconds(app, samples):
    """Return the median of the start of single jobs where nothing else waits."""
    for _ in range(samples):
        hand_in(app, "alone", 1)
        until(lambda: left(app) == 0)
    with app.app_context(), db.transaction() as session:
        return statistics.median(
            (job.started_at - job.created_at).total_seconds()
            for job in session.scalars(select(Job).where(Job.owner == "alone"))
        )


def start_seconds(app, samples):
    """Return the 95th percentile of the start of single jobs beside a flood."""
    hand_in(app, "many", 500, seconds=0.1)
    for _ in range(samples):
        (job_id,) = hand_in(app, "few", 1)
        until(lambda job_id=job_id: left(app, Job.id == job_id) == 0)
    with app.app_context(), db.transaction() as session:
        waits = sorted(
            (job.started_at - job.created_at).total_seconds()
            for job in session.scalars(select(Job).where(Job.owner == "few"))
        )
        assert left(app, Job.owner == "many") > 0, "the flood was too small"
    # Not away from under the hands of the worker.
    until(lambda: left(app, Job.owner == "many") == 0)
    with app.app_context(), db.transaction() as session:
        session.execute(delete(Job))
    return waits[int(len(waits) * 0.95) - 1]


def hand_in(app, owner, count, seconds=0):
    """Hand in probes of an owner in one transaction and return their ids."""
    ids = [uuid7() for _ in range(count)]
    with app.app_context(), db.transaction() as session:
        for job_id in ids:
            jobs.submit_job(
                session,
                job_id=job_id,
                kind="probe",
                queue="interactive",
                owner=owner,
                params={"seconds": seconds},
                upload=None,
                headers={},
                resend_seconds=600,
            )
    return ids


def left(app, *which):
    """Return how many jobs have not ended."""
    with app.app_context(), db.transaction() as session:
        return session.scalar(
            select(func.count())
            .select_from(Job)
            .where(Job.finished_at.is_(None), *which)
        )


def own_memory(pid):
    """Return the megabytes that the pool's processes share with nobody."""
    children = psutil.Process(pid).children()
    return sum(child.memory_full_info().uss for child in children) / 2**20


def until(true):
    """Wait until something is true, for five minutes at most."""
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
