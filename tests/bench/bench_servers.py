"""The catalog under each server that it can run under: the same views, in one run.

    python tests/bench/bench_servers.py [--rounds 9] [--seconds 2.0] [--callers 8]

One process with eight threads each, on the same database; callers keep their connections
where the server does.
Rate, CPU and memory are the server's, p99 is what callers see. The servers take turns,
and the medians of the rounds' ratios count. At the end as many callers as there are
threads send half a request and no more: how many others are still answered?
"""

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from catalog.server import ground, served
from figures import table
from identity.measure import Wire, cpu_seconds, message, ratio

SERVERS = ("gunicorn", "waitress", "uwsgi")
FIRST, *OTHERS = SERVERS
PRODUCTS = "/api/v1/products"
VIEWS = {
    "livez": "/livez",
    "a product": f"{PRODUCTS}/by-sku/sku-1",
    "a list of 50, kept": f"{PRODUCTS}?limit=50",
}
THREADS = 8


@dataclass
class Sample:
    """What a round of one view under one server has shown."""

    rate: float
    cpu: float
    """Seconds of the server for one request."""
    p99: float
    """Seconds that the slowest of a hundred callers waited, by the clock."""


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        base = stack.enter_context(ground(1000, THREADS=str(THREADS)))
        running = {
            name: stack.enter_context(served(base, SERVER=name)) for name in SERVERS
        }
        for view, path in VIEWS.items():
            rows += compared(view, path, running, options)
        for name, (port, worker) in running.items():
            rows.append((f"{name}: memory", memory(worker), "MB"))
            rows.append(
                (f"{name}: answers beside slow callers", slow(port), f"of {THREADS}")
            )
    table(rows, {})


def compared(view, path, running, options):
    """Return the figures of one view under all servers, and their ratios."""
    found = {name: [] for name in running}
    with ExitStack() as stack:
        wires = {
            name: [
                stack.enter_context(closing(Wire(port))) for _ in range(options.callers)
            ]
            for name, (port, _worker) in running.items()
        }
        for number in range(options.rounds + 1):
            order = list(running) if number % 2 == 0 else list(reversed(running))
            for name in order:
                worker = running[name][1]
                sample = measured(wires[name], path, worker, options.seconds)
                # The first round warms up.
                found[name] += [sample] if number else []
    rows = []
    for name, samples in found.items():
        for of, factor, unit in (
            ("rate", 1, "/s"),
            ("cpu", 1e3, "ms"),
            ("p99", 1e3, "ms"),
        ):
            middle = statistics.median(getattr(one, of) for one in samples)
            rows.append((f"{view}, {name}: {of}", middle * factor, unit))
    for name in OTHERS:
        for of in ("rate", "cpu", "p99"):
            share = ratio(found[name], found[FIRST], of)
            rows.append((f"{view}: {of} of {name} to {FIRST}", share, "x"))
    return rows


def measured(wires, path, worker, seconds):
    """Ask for so long over all connections at once; return what was seen."""
    request = message("GET", path)
    began, used = time.perf_counter(), cpu_seconds(worker)

    def loop(wire):
        waited = []
        while (asked := time.perf_counter()) < began + seconds:
            status, _body = wire.ask(request)
            assert status == 200
            waited.append(time.perf_counter() - asked)
        return waited

    with ThreadPoolExecutor(len(wires)) as pool:
        waited = [one for found in pool.map(loop, wires) for one in found]
    took, used = time.perf_counter() - began, cpu_seconds(worker) - used
    return Sample(
        len(waited) / took, used / len(waited), statistics.quantiles(waited, n=100)[-1]
    )


def memory(worker):
    """Return the megabytes of a worker and its master, what they share counted once."""
    processes = [psutil.Process(worker), psutil.Process(worker).parent()]
    return sum(one.memory_full_info().pss for one in processes) / 1e6


def slow(port):
    """Return how many of so many are answered while others send half a request."""
    with ExitStack() as stack:
        for _ in range(THREADS):
            wire = stack.enter_context(closing(Wire(port)))
            wire.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        answered = 0
        for _ in range(THREADS):
            other = stack.enter_context(closing(Wire(port, seconds=2)))
            other.send(message("GET", "/livez"))
            try:
                answered += other.receive()[0] == 200
            except TimeoutError:
                break
    return answered


if __name__ == "__main__":
    sys.exit(main())
