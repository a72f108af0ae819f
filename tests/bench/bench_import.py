"""Imports: a file of 10,000 products beside `COPY` of the same rows into the same table.

    python tests/bench/bench_import.py [--port-base 26580] [--rows 10000] [--rounds 3]

A platform of its own takes the file through the gateway, as people hand it in; its time is
that of the job, from its first attempt to its end: read, mapped, checked, sent in batches,
each with its events in the outbox and its lines in the audit log. `COPY` then puts the
same rows, as they came out of the table, into the table that had them, with its indexes
and triggers, and commits. They run in turns; the median of the rounds' ratios counts.

Exits with 1 when the goal is missed.
"""

import argparse
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path

import psycopg

sys.path.extend(
    str(Path(__file__).parents[2] / name) for name in ("tests/e2e", "deploy/local")
)

from figures import table
from flagonctl.stack import Stack as Local
from flagonctl.vault import Vault, database_url
from harness import imports
from harness.people import Person
from harness.stack import Stack

TIMES = "import, times the seconds of COPY"
GOALS = {TIMES: ("<=", 6)}
"""design: what the platform must cost."""


def main():
    """Run both in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port-base", type=int, default=26_580)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    stack = Stack("local", options.port_base)
    if stack.state.exists():
        sys.exit(f"{stack.state} is somebody's.\n  Next: --port-base=…")
    try:
        stack.up()
        stack.ready()
        found = [measure(stack, f"r{n}", options.rows) for n in range(options.rounds)]
    finally:
        stack.reset()
    seconds, waited, copied = (
        statistics.median(all_) for all_ in zip(*found, strict=True)
    )
    ratio = statistics.median(ours / bare for ours, _waited, bare in found)
    rows = [
        ("import, from its first attempt to its end", seconds, "s"),
        ("import, from handed in to its end", waited, "s"),
        ("import, rows a second", options.rows / seconds, ""),
        ("COPY of the same rows", copied, "s"),
        (TIMES, ratio, ""),
    ]
    return 1 if table(rows, GOALS) else 0


def measure(stack, word, rows):
    """Return the seconds of an import, of it and its wait for a worker, and of COPY."""
    content = imports.as_csv(imports.rows(word, rows))
    with Person(stack, stack.accounts()["merchandiser"]) as person:
        job = imports.ended(
            person, imports.accepted(person, content, imports.params(word)), 600
        )
    assert job["state"] == "succeeded", job
    made, began, ended = (
        datetime.fromisoformat(job[name])
        for name in ("created_at", "started_at", "finished_at")
    )
    return (
        (ended - began).total_seconds(),
        (ended - made).total_seconds(),
        copied(stack, word, rows),
    )


def copied(stack, word, rows):
    """Return the seconds in which COPY puts rows back that were taken away."""
    local = Local("local", stack.port_base)
    url = database_url(local, Vault(local.secrets), "catalog", as_owner=True)
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        cursor = connection.cursor()
        # What Postgres makes itself cannot be copied; it is made again.
        cursor.execute(
            "select string_agg(column_name, ', ') from information_schema.columns"
            " where table_name = 'product' and is_generated = 'NEVER'"
        )
        (names,) = cursor.fetchone()
        chosen = f"(select {names} from product where sku like %s)"
        with cursor.copy(f"copy {chosen} to stdout", [f"{word}-%"]) as lines:
            kept = b"".join(lines)
        cursor.execute("delete from product where sku like %s", [f"{word}-%"])
        assert cursor.rowcount == rows
        connection.commit()
        began = time.perf_counter()
        with cursor.copy(f"copy product ({names}) from stdin") as lines:
            lines.write(kept)
        connection.commit()
        return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
