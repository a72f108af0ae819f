"""Lose the database under traffic, go back to a moment, and write a report.

    make drill-restore [MODE=docker RATE=10 SEEN=60 PRODUCTS=10000 PORT_BASE=…]

Starts a stack of its own and forgets it. Ends with 1 when a promise was broken.
"""

import argparse
import os
import re
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / name)
    for name in ("tests/e2e", "tests/bench", "deploy/local")
)

import httpx2
from drill_report import head, table
from flagonctl import databases
from flagonctl.stack import Stack as Local
from harness import engine, imports
from harness.engine import ROOT
from harness.people import Person
from harness.stack import Stack
from harness.traffic import Traffic, is_for
from harness.waiting import until

_STEP = re.compile(r"^ *(?P<at>\d+\.\d) s  (?P<said>.+)$", re.MULTILINE)
"""A step of `make backup` and `make restore`: seconds since it began, and what is done."""
_OF_THE_START = ("supervisor ", "ready: ", "databases ", "migrations ", "accounts ")
"""Steps of the start within a restore, which counts its own seconds."""
_KEPT = re.compile(r"^ok ", re.MULTILINE)
"""A promise about rows that holds, as `make invariants` says it."""


def main():
    """Run the drill and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="local")
    parser.add_argument("--port-base", type=int, required=True)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seen", type=int, default=60)
    parser.add_argument("--products", type=int, default=10_000)
    asked = parser.parse_args([word for word in sys.argv[1:] if not word.endswith("=")])
    mode = "docker" if asked.mode == "docker" else "local"
    if mode == "docker" and not engine.find():
        sys.exit("No container engine answers.\n  Next: make drill-restore MODE=local")
    stack = Stack(mode, asked.port_base)
    if stack.state.exists():
        sys.exit(
            f"{stack.state} is somebody's.\n  Next: make drill-restore PORT_BASE=…"
        )
    try:
        return drill(stack, asked)
    finally:
        stack.reset()


def drill(stack, asked):
    """Run it on a stack that is not there yet and write the report."""
    began = datetime.now(UTC)
    stack.up()
    stack.ready()
    accounts = stack.accounts()
    with (
        Person(stack, accounts["merchandiser"]) as person,
        Person(stack, accounts["operator"]) as operator,
    ):
        content = imports.as_csv(imports.rows("stock", asked.products))
        imports.ended(
            person, imports.accepted(person, content, imports.params("stock"))
        )

        def people(word):
            return Traffic(stack, person, operator, word, rate=asked.rate)

        with people("kept") as kept:
            kept.more(asked.seen)
            copied = stack.make("backup", seconds=600)
            kept.more(asked.seen)
            # What is under way is answered: each write is of before the moment or after it.
            kept.stop()
            at = datetime.now(UTC)
            with people("left") as left:
                left.more(asked.seen)
                left.stop()
            _change(person, kept.ledger.entities)
            late = _kept_apart(stack, at)
            stack.lose_the_database()
            lost_at = time.monotonic()
            restoring = stack.make("restore", seconds=1800, AT=at.isoformat())
            restored = time.monotonic() - lost_at
            print(restoring)
            _write(stack, operator, person)
            back = time.monotonic() - lost_at
            verdicts = judge(kept, left, operator)
        verdicts["rows of the databases"] = (
            "WRONG" not in restoring,
            f"{len(_KEPT.findall(restoring))} promises hold",
        )
    [size] = re.findall(r"is whole and verified: (\d+ MB)", copied)
    about = {
        "mode": "containers (Compose)"
        if stack.mode == "docker"
        else "processes (local)",
        "began": began.isoformat(timespec="seconds"),
        "data": f"{asked.products} imported products; the copy has {size}",
        "traffic": f"{asked.rate:g} requests a second, also while the copy is made"
        f" ({_STEP.findall(copied)[-1][0]} s): {kept.ledger.acknowledged} acknowledged"
        f" writes and jobs before the moment, {left.ledger.acknowledged} after it",
        "lost": f"{late:.0f} s after the moment, when its log was kept apart: Postgres is"
        " killed and its data folder removed",
        "back": f"{restored:.0f} s after that `make restore` has ended, {back:.0f} s after"
        " it jobs are listed and a product is made",
        "machine": f"{os.cpu_count()} processors; load average {os.getloadavg()[0]:.0f}"
        " at the end, with whatever else ran there",
    }
    steps = [
        (at, said)
        for at, said in _STEP.findall(restoring)
        if not said.startswith(_OF_THE_START)
    ]
    folder = ROOT / ".run" / "reports" / f"restore-{began:%Y%m%dT%H%M%S}"
    folder.mkdir(parents=True)
    (folder / "restore.md").write_text(page(about, verdicts, steps))
    for name, (held, seen) in verdicts.items():
        print(f"{'ok   ' if held else 'WRONG'}  {name}: {seen}")
    print(f"drill: {(folder / 'restore.md').relative_to(ROOT)}")
    return 0 if all(held for held, _ in verdicts.values()) else 1


def _change(person, paths):
    """Give each product another price, which nobody may find again."""
    with person.client() as client:
        for path in paths:
            tag = client.get(path, headers={"Cache-Control": "no-cache"}).headers[
                "etag"
            ]
            body, condition = {"price_minor": 1}, {"If-Match": tag}
            assert client.patch(path, json=body, headers=condition).is_success


def _kept_apart(stack, at):
    """Wait until the log of a moment is where backups are; return how long ago it is.

    That is a minute at most: what a disk takes along is the log of that minute.
    """
    after = "select count(*) from pg_stat_archiver where last_archived_time > '{}'"
    local = Local(stack.mode, stack.port_base)
    # A file that was full just then may have been on its way.
    query = after.format((at + timedelta(seconds=2)).isoformat())

    def kept():
        return databases.ask(local, "catalog_owner", "catalog", query) == [["1"]]

    until(kept, 180, pause=1, what="the log of the moment")
    return (datetime.now(UTC) - at).total_seconds()


def _write(stack, operator, person):
    """Wait until a list is read and a product is written."""
    body = {"sku": "after-1", "name": "The first one after", "price_minor": 1}
    key = {"Idempotency-Key": f"after-{stack.port_base}"}

    def done():
        with operator.client() as reader, person.client() as writer:
            return (
                reader.get("/api/v1/jobs?limit=1").is_success
                and writer.post("/api/v1/products", json=body, headers=key).is_success
            )

    until(done, what="a read and a write", ignore=(httpx2.TransportError,))


def judge(kept, left, operator):
    """Return what was promised, by name: whether it held, and what was seen.

    :param kept: people who came before the moment.
    :param left: people who came after it.
    """
    for path in kept.ledger.jobs:
        imports.ended(operator, path)
    lost = kept.lost()
    with operator.client() as client:
        paths = [*left.ledger.entities, *left.ledger.jobs]
        risen = [path for path in paths if client.get(path).status_code != 404]
        versions = {
            path.rpartition("/")[2]: client.get(path).json()["version"]
            for path in kept.ledger.entities
        }

    def told():
        found = defaultdict(list)
        for _id, type_, subject, version, _topics in kept.log():
            if type_.endswith("product.changed.v1") and subject in versions:
                found[subject].append(version)
        return found

    wanted = {one: list(range(1, last + 1)) for one, last in versions.items()}
    until(lambda: told().keys() >= wanted.keys(), what="the events of all products")
    wrong = {one: found for one, found in told().items() if found != wanted[one]}
    log = kept.log()
    apart = []
    for one in kept.watchers:
        due = [entry[0] for entry in log if is_for(one.topics, entry[4])]
        until(lambda one=one, due=due: due[-1] in one.ids, what="the end of the log")
        again = [id_ for id_ in one.ids if id_ in set(due)]
        if again != due and not one.gaps:
            apart.append(
                f"{one.topics}: {len(again)} of {len(due)}, and no gap was told"
            )
    return {
        "acknowledged before the moment": (
            not lost,
            "; ".join(lost[:5])
            or f"{kept.ledger.acknowledged} writes and jobs are there as they were",
        ),
        "done after it": (
            not risen,
            "; ".join(risen[:5]) or f"{len(paths)} products and jobs are gone",
        ),
        "the log of events": (
            not wrong,
            "; ".join(f"{one}: {found}" for one, found in list(wrong.items())[:3])
            or f"each version of {len(versions)} products once, in order",
        ),
        "clients that were connected": (
            not apart,
            "; ".join(apart)
            or f"{len(kept.watchers)} of them follow the new log; gaps were told"
            f" {sum(one.gaps for one in kept.watchers)} times",
        ),
    }


def page(about, verdicts, steps):
    """Return the report as Markdown.

    :param about: what was run, by name.
    :param verdicts: as `judge` gives them.
    :param steps: of the restore, as `_STEP` finds them: when each had ended, and its name.
    """
    ends = [0.0, *(float(at) for at, _ in steps)]
    rows = [
        (said, f"{end:.1f} s", f"{end - before:.1f} s")
        for (_, said), (before, end) in zip(steps, pairwise(ends), strict=True)
    ]
    how = "[how it is done](../patterns/backup-and-restore.md)"
    return "\n".join(
        [
            *head("The database is lost", "drill-restore", how, about, verdicts),
            "",
            *table(("step of `make restore`", "ended at", "took"), rows),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
