"""What each thing that people do costs, by service: processor time for one of it.

    python tests/bench/bench_capacity.py [--port-base 26480] [--rounds 5]

A platform of its own does one thing after another, many times, through the gateway; told
is the processor time that each of its processes takes for one, all that follows included
(events, tasks, their effects), less what the platform takes when nobody is there. Times
of processors are counted, not waited for: a busy machine changes them little.

From these come, by the visits that tests/load makes: what one visit costs, how many a
core serves, and which service is first at its end.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import redis

sys.path.extend(
    str(Path(__file__).parents[2] / name)
    for name in ("tests/e2e", "tests/load", "deploy/local")
)

from flagonctl.stack import Stack as Local
from harness.people import Person
from harness.stack import Stack
from harness.waiting import until
from journeys import JOURNEYS

PRODUCTS = "/api/v1/products"
SERVICES = {
    "gateway": ("gateway",),
    "web": ("web",),
    "auth": ("auth", "auth-relay"),
    "catalog": ("catalog", "catalog-relay", "catalog-consumer"),
    "realtime": ("realtime",),
    "worker": (
        "worker",
        "worker-relay",
        "worker-consumer",
        "worker-interactive",
        "worker-bulk",
        "worker-beat",
    ),
    "Postgres": ("postgres",),
    "Redis": ("redis-store", "redis-cache"),
}
ROWS = 2000
"""Of an import."""
VISITS = {
    "browse": {"home page": 1, "list": 3, "product": 1},
    "search": {"search": 2, "search page": 1, "product": 1},
    "product": {"product page": 1, "reviews": 1, "product": 1},
    "watch": {"product": 1},
    "sign_in": {"sign-in": 1},
    "review": {"product": 1, "review": 1},
    "edit": {"product": 1, "change of a price": 1},
    "import_file": {"row of an import": 5, "job that does nothing": 1},
    "probe": {"job that does nothing": 1},
}
"""What people do on the visits of tests/load."""


class Platform:
    """A platform that somebody uses, and the time its processes take.

    :param local: where its secrets and ports are.
    """

    def __init__(self, stack, exits):
        self.stack = stack
        self.local = Local("local", stack.port_base)
        accounts = stack.accounts()
        self.client = exits.enter_context(stack.client())
        self.merchant, self.operator, self.customer = (
            exits.enter_context(
                exits.enter_context(Person(stack, accounts[role])).client()
            )
            for role in ("merchandiser", "operator", "customer")
        )
        self.account = accounts["customer"]
        self.pids = {name: stack.pid(name) for name in sum(SERVICES.values(), ())}
        password = (self.local.secrets / "postgres_password").read_text().strip()
        self.databases = [
            exits.enter_context(
                psycopg.connect(
                    host="127.0.0.1",
                    port=self.local.port("postgres"),
                    user="postgres",
                    password=password,
                    dbname=name,
                    autocommit=True,
                )
            )
            for name in ("auth", "catalog", "worker")
        ]
        password = (self.local.secrets / "redis_admin_password").read_text().strip()
        self.store = exits.enter_context(
            redis.Redis(
                port=self.local.port("redis-store"), username="admin", password=password
            )
        )
        self.shown, self.words = self.import_products()
        self.chosen = count()

    def import_products(self):
        """Return addresses of new products, and words of their names."""
        self.import_rows()
        items = self.client.get(f"{PRODUCTS}?limit=100").json()["items"]
        return items, sorted({word for one in items for word in one["name"].split()})

    def settled(self):
        """Say whether all that was begun has had its effects."""
        for database in self.databases:
            if database.execute(
                "select count(*) from outbox where sent_at is null"
            ).fetchone()[0]:
                return False
        return not any(
            group["pending"] or group["lag"]
            for key in self.store.scan_iter(_type="stream")
            for group in self.store.xinfo_groups(key)
        )

    def used(self):
        """Return the seconds of processor time by service, children included."""
        return {
            service: sum(_seconds(self.pids[name]) for name in names)
            for service, names in SERVICES.items()
        }

    # -- what people do -----------------------------------------------------------------

    def get(self, path, **options):
        answer = self.client.get(path, **options)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
        return answer

    def some(self):
        """Return one product after another."""
        return self.shown[next(self.chosen) % len(self.shown)]

    def home_page(self):
        self.get("/")

    def product_page(self):
        self.get(f"/products/{self.some()['slug']}")

    def search_page(self):
        self.get("/search", params={"q": self.word()})

    def list(self):
        self.get(PRODUCTS, params={"limit": 24})

    def search(self):
        self.get(PRODUCTS, params={"limit": 20, "q": self.word()})

    def word(self):
        return self.words[next(self.chosen) % len(self.words)]

    def product(self):
        self.get(f"{PRODUCTS}/{self.some()['id']}")

    def reviews(self):
        self.get(f"{PRODUCTS}/{self.some()['id']}/reviews")

    def sign_in(self):
        with Person(self.stack, self.account) as somebody:
            somebody.sign_in()

    def review(self):
        answer = self.customer.post(
            f"{PRODUCTS}/{self.shown.pop()['id']}/reviews",
            json={"author": "Somebody", "rating": 4, "title": uuid4().hex},
        )
        assert answer.status_code == 201, answer.text

    def price_change(self):
        path = f"{PRODUCTS}/{self.some()['id']}"
        tag = self.merchant.get(path, headers={"Cache-Control": "no-cache"}).headers[
            "ETag"
        ]
        price = 100 + next(self.chosen)
        answer = self.merchant.patch(
            path, json={"price_minor": price}, headers={"If-Match": tag}
        )
        assert answer.status_code == 200, answer.text

    def probe(self):
        self.ended(self.operator, {"kind": (None, "probe")}, {"seconds": 0})

    def import_rows(self):
        run = uuid4().hex[:8]
        text = "".join(f"{run}-{n},Thing {n} of {run},9.95\n" for n in range(ROWS))
        params = {
            "mapping": {"sku": "code", "name": "title", "price": "price"},
            "defaults": {"currency": "EUR", "stock": 3},
            "dry_run": False,
        }
        file = ("supplier.csv", f"code,title,price\n{text}", "text/csv")
        self.ended(self.merchant, {"kind": (None, "import"), "file": file}, params)

    def ended(self, client, parts, params):
        """Hand a job in and wait for its end."""
        parts = {"kind": parts["kind"], "params": (None, json.dumps(params)), **parts}
        answer = client.post(
            "/api/v1/jobs", files=parts, headers={"Idempotency-Key": uuid4().hex}
        )
        assert answer.status_code == 202, answer.text

        def over():
            job = client.get(answer.headers["location"]).json()
            return job if job["finished_at"] else None

        job = until(over, 300, pause=0.5, what="an end of the job")
        assert job["state"] == "succeeded", job


WORK = {
    "home page": (Platform.home_page, 60, 1),
    "product page": (Platform.product_page, 60, 1),
    "search page": (Platform.search_page, 60, 1),
    "list": (Platform.list, 150, 1),
    "search": (Platform.search, 100, 1),
    "product": (Platform.product, 150, 1),
    "reviews": (Platform.reviews, 100, 1),
    "sign-in": (Platform.sign_in, 12, 1),
    # Of one account thirty a minute are taken.
    "review": (Platform.review, 6, 1),
    "change of a price": (Platform.price_change, 40, 1),
    "job that does nothing": (Platform.probe, 15, 1),
    "row of an import": (Platform.import_rows, 1, ROWS),
}
"""By its name: how it is done, how often in a round, and how many of it each time."""


def _seconds(pid):
    """Return the processor time of a process and of all that it started."""
    whole = psutil.Process(pid)
    found = 0.0
    for one in [whole, *whole.children(recursive=True)]:
        try:
            found += sum(one.cpu_times()[:4])
        except psutil.NoSuchProcess:
            # It has just ended: its parent has its time.
            continue
    return found


def idle(platform, seconds=20):
    """Return the share of a processor that each service takes when nobody is there."""
    until(platform.settled, 120, what="rest")
    before, began = platform.used(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        name: (used - before[name]) / took for name, used in platform.used().items()
    }


def cost(platform, name, rests):
    """Return milliseconds of processor time by service for one thing of a kind."""
    do, times, each = WORK[name]
    before, began = platform.used(), time.monotonic()
    for _ in range(times):
        do(platform)
    until(platform.settled, 120, pause=0.1, what=f"the effects of {name}")
    took = time.monotonic() - began
    return {
        service: max(0.0, used - before[service] - rests[service] * took)
        / (times * each)
        * 1e3
        for service, used in platform.used().items()
    }


def measure(platform, rounds):
    """Return, by what is done and by service, the median of all rounds but the first."""
    rests = idle(platform)
    found = {name: [] for name in WORK}
    for number in range(rounds + 1):
        for name in WORK:
            one = cost(platform, name, rests)
            # The first round only warms up.
            if number:
                found[name].append(one)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return {
        name: {
            service: statistics.median(one[service] for one in rows)
            for service in SERVICES
        }
        for name, rows in found.items()
    }


def visit(costs):
    """Return milliseconds by service for the mean visit of tests/load."""
    whole = sum(one.weight for one in JOURNEYS)
    found = Counter()
    for journey in JOURNEYS:
        for name, times in VISITS[journey.go.__name__].items():
            for service, ms in costs[name].items():
                found[service] += journey.weight / whole * times * ms
    return dict(found)


def page(costs):
    """Return the tables as Markdown."""
    mean = visit(costs)
    rows = {**costs, "**a visit, on average**": mean}
    lines = [
        f"| CPU, ms, for one | {' | '.join(SERVICES)} | all | a second and core |",
        f"|---|{'---|' * (len(SERVICES) + 2)}",
    ]
    for name, by_service in rows.items():
        whole = sum(by_service.values())
        parts = " | ".join(f"{by_service[one]:.1f}" for one in SERVICES)
        lines.append(f"| {name} | {parts} | {whole:.1f} | {1000 / whole:,.0f} |")
    whole = sum(mean.values())
    lines += [
        "",
        "| scale first | share of a visit | visits a second that one core of it serves |",
    ]
    lines += ["|---|---|---|"]
    lines += [
        f"| {service} | {ms / whole:.0%} | {1000 / ms:,.0f} |"
        for service, ms in sorted(mean.items(), key=lambda one: -one[1])
        if ms > whole / 200
    ]
    return "\n".join(lines)


def main():
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port-base", type=int, default=26480)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    stack = Stack("local", options.port_base)
    if stack.state.exists():
        sys.exit(f"{stack.state} is somebody's.\n  Next: --port-base=…")
    try:
        stack.make("up", seconds=900)
        with ExitStack() as exits:
            print(page(measure(Platform(stack, exits), options.rounds)))
    finally:
        stack.reset()
    return 0


if __name__ == "__main__":
    sys.exit(main())
