"""Events by Redis and by RabbitMQ, side by side.

    python tests/bench/bench_buses.py [--events 2000]

Both servers run all the time, set up as the platform has them; rounds alternate, so that
what else the machine does meets both. What is measured is the chassis's own: the relay's
sender, the log as realtime follows it, and a consumer group. `CPU` is of an event, in the
server and in this process, which has both ends.
"""

import argparse
import statistics
import threading
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from uuid import uuid4

import psutil
from bench_jobs import cpu_seconds, held
from figures import side_by_side

from flagon_chassis import buses, rabbitmq, streams
from flagon_chassis.testing import start_rabbitmq, start_redis
from flagon_realtime.clients import EventLog, Journaled

ROUNDS = 4
BATCH = 200
"""Most that a relay hands over at once."""
TYPE = "market.flagon.job.changed.v1"
GROUP = "worker-archive"
KEPT = (100_000, 64 << 20)


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2000)
    count = parser.parse_args().events // ROUNDS
    with ExitStack() as stack:
        found = {
            "redis": stack.enter_context(closing(by_redis(stack))),
            "rabbitmq": stack.enter_context(closing(by_rabbitmq(stack))),
        }
        side_by_side(found, warm=BATCH, count=count, rounds=ROUNDS)


def by_redis(stack):
    """Return the figures of a Redis that writes to disk as the platform's does."""
    options = ("--appendonly", "yes", "--appendfsync", "everysec")
    server = next(held(stack, start_redis(*options)))
    group = buses.RedisGroup(server.url, GROUP, "bench", 30.0)
    sender = buses.RedisSender(server.url, *KEPT)
    log = EventLog(server.url, streams.EVENTS, block_seconds=1.0)
    return Figures(server, sender, group, log)


def by_rabbitmq(stack):
    """Return the figures of a RabbitMQ with the platform's definitions."""
    server = next(held(stack, start_rabbitmq("worker")))
    # Realtime asks Redis for the denylist, which nobody does here.
    redis_url = next(held(stack, start_redis())).url
    journal = rabbitmq.Journal(
        server.url.replace("//worker:", "//realtime:"), block_seconds=1.0
    )
    group = rabbitmq.Group(server.url, GROUP)
    return Figures(
        server, rabbitmq.Sender(server.url), group, Journaled(redis_url, journal)
    )


def entry():
    """Return an event as the relay hands it over, which knows when it was made."""
    id_ = uuid4()
    envelope = {
        "specversion": "1.0",
        "id": str(id_),
        "type": TYPE,
        "source": "/services/worker",
        "subject": str(uuid4()),
        "time": datetime.now(UTC).isoformat(),
        "topics": ["jobs"],
        "data": {"state": "running", "progress": {"done": 1, "total": 2}},
    }
    return streams.encode(id_, TYPE, envelope)


class Figures:
    """What events cost on one bus."""

    def __init__(self, server, sender, group, log):
        self.server, self.sender, self.group, self.log = server, sender, group, log
        group.join()
        # What was begun before: nothing; a group of RabbitMQ's takes what comes first.
        list(group.begun())
        self.forget()

    def close(self):
        """Close all connections."""
        self.sender.close()
        self.group.close()
        self.log.close()

    def forget(self):
        """Begin anew."""
        self.alone, self.delays = [], []
        self.events = self.batches = self.taken = 0
        self.batch_seconds = self.take_seconds = 0.0
        self.server_cpu = self.own_cpu = 0.0

    def round(self, count):
        """Send so many events one by one, then as many together, and take all."""
        pids = [self.server.process.pid]
        server, own = cpu_seconds(pids), time.process_time()
        _, last = self.log.newest(1, 1 << 20)
        arrived = []
        reader = threading.Thread(
            target=self._follow, args=(last.last, count, arrived), daemon=True
        )
        reader.start()
        sent = []
        for number in range(count):
            sent.append(time.perf_counter())
            self.sender.send({number: entry()})
            self.alone.append(time.perf_counter() - sent[-1])
        reader.join(60)
        # In the order in which they were sent.
        self.delays += [there - here for here, there in zip(sent, arrived, strict=True)]
        for first in range(0, count, BATCH):
            batch = {n: entry() for n in range(first, min(first + BATCH, count))}
            began = time.perf_counter()
            self.sender.send(batch)
            self.batch_seconds += time.perf_counter() - began
        self._take(2 * count)
        self.events += 2 * count
        self.batches += count
        self.server_cpu += cpu_seconds(pids) - server
        self.own_cpu += time.process_time() - own

    def _follow(self, after, count, arrived):
        while len(arrived) < count:
            batch = self.log.follow(after)
            arrived += [time.perf_counter()] * len(batch.entries)
            after = batch.last

    def _take(self, count):
        began, left = time.perf_counter(), count
        while left:
            found = self.group.take(100)
            self.group.done([entry_id for entry_id, _fields in found])
            left -= len(found)
        self.take_seconds += time.perf_counter() - began
        self.taken += count

    def rows(self):
        """Return what to print: a word and a figure each."""
        process = psutil.Process(self.server.process.pid)
        family = [process, *process.children(recursive=True)]
        memory = sum(one.memory_info().rss for one in family) / 2**20
        ranked = sorted(self.delays)
        return [
            (
                "sending one and having it confirmed, ms",
                statistics.median(self.alone) * 1e3,
            ),
            ("sent together, events a second", self.batches / self.batch_seconds),
            (
                "from sending to who follows, median, ms",
                statistics.median(ranked) * 1e3,
            ),
            ("the same, p99, ms", ranked[int(len(ranked) * 0.99)] * 1e3),
            ("taken by a group, events a second", self.taken / self.take_seconds),
            ("CPU of an event, server, ms", self.server_cpu / self.events * 1e3),
            ("CPU of an event, both ends, ms", self.own_cpu / self.events * 1e3),
            ("memory of the server, MiB", memory),
        ]


if __name__ == "__main__":
    main()
