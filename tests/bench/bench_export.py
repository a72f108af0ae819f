"""Exports: 200,000 products over HTTP beside what Postgres' own COPY takes.

    python tests/bench/bench_export.py [--products 200000] [--rounds 3]

Both write the same lines. `COPY` is one statement whose lines a bare client throws away;
the export goes through the service under gunicorn, in batches, over HTTP. They run in
turns, and the median of the rounds' ratios counts. Memory is the most that the service's
worker ever had, and what of it came with the exports: what the first request with a token
loads is in it.

Exits with 1 when a goal is missed.
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psycopg

sys.path.insert(0, str(Path(__file__).parent))

from catalog.server import catalog

from flagon_catalog.domain.exports import copy_command
from flagon_catalog.domain.products import Filter, matching
from flagon_catalog.domain.shapes import WHOLE

RATIO, MEGABYTES = 0.5, 100


def main():
    """Run both in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    missed = 0
    with ExitStack() as stack:
        database, port, worker, bearer = stack.enter_context(catalog(options.products))
        print(f"{'what':<40}{'figure':>12}  goal")
        before = peak(worker)
        for kind in ("csv", "ndjson"):
            pairs = [
                (copied(database, kind), exported(port, bearer, kind, options.products))
                for _ in range(options.rounds)
            ]
            ratio = statistics.median(bare / ours for bare, ours in pairs)
            seconds = statistics.median(ours for _, ours in pairs)
            missed += ratio < RATIO
            print(f"{f'export, {kind}: seconds':<40}{seconds:>12.2f}")
            print(
                f"{f'export, {kind}: speed beside COPY':<40}{ratio:>12.2f}  >= {RATIO}"
            )
        most = peak(worker)
        missed += most - before >= MEGABYTES
        print(f"{'memory of the worker, at most (MB)':<40}{most:>12.1f}")
        print(
            f"{'of it with the exports (MB)':<40}{most - before:>12.1f}  < {MEGABYTES}"
        )
    return 1 if missed else 0


def copied(database, kind):
    """Return the seconds that COPY takes, and a client that throws its lines away."""
    command, values = copy_command(matching(WHOLE.select(), Filter()), kind)
    began = time.perf_counter()
    with psycopg.connect(database) as connection:
        cursor = connection.cursor()
        with cursor.copy(command.encode(), values) as lines:
            for _line in lines:
                pass
    return time.perf_counter() - began


def exported(port, bearer, kind, products):
    """Return the seconds that the export takes; it must be whole."""
    url = f"http://127.0.0.1:{port}/api/v1/products/export?format={kind}"
    began, found = time.perf_counter(), 0
    with httpx2.stream("GET", url, headers=bearer, timeout=600) as answer:
        assert answer.status_code == 200, answer.read()
        for part in answer.iter_raw():
            found += part.count(b"\n")
    assert found == products + (kind == "csv"), found
    return time.perf_counter() - began


def peak(pid):
    """Return the most megabytes that a process ever had in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
