"""Mails by Celery and by RQ, side by side.

    python tests/bench/bench_mails.py [--mails 1200]

Both processes run all the time, on one Redis, one mail server and one stand-in for auth;
rounds alternate, so that what else the machine does meets both. One mail at a time each.
A round begins when all its mails wait and ends when the mail server has the last one.
`CPU` is that of the process with its children, and of Redis.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import redis
from bench_jobs import cpu_seconds, held, started, until
from figures import side_by_side

from flagon_chassis import queue
from flagon_chassis.redis_queue import RedisQueue
from flagon_chassis.testing import Peer, SmtpServer, start_postgres, start_redis
from flagon_worker.settings import Settings

ROOT = Path(__file__).parents[2]
ROUNDS = 4
TASK = "worker.send_mail"


def tests_of_mails():
    """Return the module of the worker's tests that has a letter."""
    path = ROOT / "services" / "worker" / "tests" / "test_mails.py"
    spec = importlib.util.spec_from_file_location("test_mails", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Room(Peer):
    """auth, as far as it gives mails out."""

    letter = None

    def answer(self, method, path, headers, body):
        """Return a letter, or that it is taken down."""
        return (204, None) if path.endswith("/sent") else (200, self.letter)


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, default=1200)
    count = parser.parse_args().mails // ROUNDS
    Room.letter = tests_of_mails().LETTER
    with ExitStack() as stack:
        server = next(held(stack, start_redis()))
        postgres = next(held(stack, start_postgres()))
        room = stack.enter_context(closing(Room()))
        sink = stack.enter_context(closing(SmtpServer()))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        values = {
            "environment": "testing",
            "secret_key": "s" * 32,
            "database_url": postgres.url.replace("postgresql:", "postgresql+psycopg:"),
            "redis_store_url": server.url,
            "redis_cache_url": server.url,
            "auth_url": room.url,
            "smtp_url": f"smtp://localhost:{sink.port}?tls=off",
            "files_dir": folder,
            "log_level": "WARNING",
        }
        environment = os.environ | {
            f"WORKER_{name.upper()}": value for name, value in values.items()
        }
        program = [sys.executable, "-m", "flagon_worker"]
        celery = [*program, "celery", "--queues", "mail", "--concurrency", "1"]
        publisher = queue.publisher(Settings(**values), "worker")
        source = RedisQueue(server.url, "worker", "mail")
        client = stack.enter_context(closing(redis.Redis.from_url(server.url)))
        found = {}
        for name, command, send in (
            ("celery", celery, lambda **mail: by_celery(publisher, **mail)),
            ("rq", [*program, "rq"], lambda **mail: source.publish(TASK, **mail)),
        ):
            process = stack.enter_context(started(command, environment))
            found[name] = Figures(process, server.process, client, sink, send)
        side_by_side(found, warm=5, count=count, rounds=ROUNDS)


def by_celery(publisher, **mail):
    """Hand a mail to Celery, as the relay does."""
    queue.publish(publisher, TASK, queue="mail", **mail)


class Figures:
    """What mails cost by one of the two."""

    def __init__(self, process, server, client, sink, send):
        self.process, self.server, self.client = process, server, client
        self.sink, self.send = sink, send
        self.forget()

    def forget(self):
        """Begin anew."""
        self.mails = self.handing = self.seconds = 0
        self.cpu = self.redis_cpu = self.commands = 0

    def costs(self):
        """Return CPU seconds of the process and of Redis, and commands so far."""
        return (
            cpu_seconds([self.process.pid]),
            cpu_seconds([self.server.pid]),
            self.client.info("stats")["total_commands_processed"],
        )

    def round(self, count):
        """Have mails sent."""
        psutil.Process(self.process.pid).suspend()
        children = psutil.Process(self.process.pid).children(recursive=True)
        began = time.perf_counter()
        for _ in range(count):
            mail_id = str(uuid.uuid4())
            self.send(
                kwargs={"mail_id": mail_id},
                headers={"enqueued_at": time.time()},
                task_id=mail_id,
            )
        self.handing += time.perf_counter() - began
        before, wanted = self.costs(), len(self.sink.received) + count
        began = time.perf_counter()
        psutil.Process(self.process.pid).resume()
        until(lambda: len(self.sink.received) >= wanted)
        self.seconds += time.perf_counter() - began
        assert len(self.sink.received) == wanted, "a mail came twice"
        assert psutil.Process(self.process.pid).children(recursive=True) == children
        cpu, redis_cpu, commands = (
            after - each for after, each in zip(self.costs(), before, strict=True)
        )
        self.cpu += cpu
        self.redis_cpu += redis_cpu
        self.commands += commands
        self.mails += count

    def rows(self):
        """Return rows for the table."""
        parent = psutil.Process(self.process.pid)
        tree = [parent, *parent.children(recursive=True)]
        return [
            ("mails a second", self.mails / self.seconds),
            ("CPU of a mail, the process (ms)", self.cpu * 1e3 / self.mails),
            ("CPU of a mail, Redis (ms)", self.redis_cpu * 1e3 / self.mails),
            ("commands to Redis for a mail", self.commands / self.mails),
            ("handing one over (ms)", self.handing * 1e3 / self.mails),
            ("memory (MB)", sum(one.memory_full_info().pss for one in tree) / 2**20),
        ]


if __name__ == "__main__":
    sys.exit(main())
