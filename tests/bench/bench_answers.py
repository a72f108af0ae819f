"""Kept answers: a list from the cache beside the same list made anew, at 200,000 products.

    python tests/bench/bench_answers.py [--products 200000] [--rounds 30]

Both come from the same service over HTTP, in turns; a change before each that is made
anew ends what was kept. Then many ask at once, right after a change; the service's own
counter tells how many of them made the database work.

Exits with 1 when a goal is missed.
"""

import argparse
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx2

sys.path.insert(0, str(Path(__file__).parent))

from catalog.server import catalog

PRODUCTS = "/api/v1/products"
QUESTIONS = {
    "list of 50": f"{PRODUCTS}?limit=50",
    "search, 50": f"{PRODUCTS}?limit=50&q=product",
    "facets": f"{PRODUCTS}?limit=50&facets=category,tag",
    "categories": "/api/v1/categories",
}
CROWD = 16


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    missed = 0
    with (
        catalog(options.products, THREADS="16") as (_, port, _, bearer),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        change = changes(client, bearer)
        print(f"{'what':<24}{'anew ms':>10}{'kept ms':>10}{'ratio':>8}")
        for name, path in QUESTIONS.items():
            anew, kept = [], []
            for _ in range(options.rounds):
                next(change)
                anew.append(seconds(client, path))
                kept.append(seconds(client, path))
            slow, fast = statistics.median(anew), statistics.median(kept)
            print(
                f"{name:<24}{slow * 1e3:>10.2f}{fast * 1e3:>10.2f}{slow / fast:>8.1f}"
            )
        for name in ("list of 50", "facets"):
            next(change)
            before = made(client)
            took = crowd(port, QUESTIONS[name])
            number = made(client) - before
            missed += number != 1
            print(
                f"{name}, {CROWD} at once: made {number:.0f} time(s), goal 1,"
                f" the last had it after {took * 1e3:.0f} ms"
            )
    return 1 if missed else 0


def changes(client, bearer):
    """Change one product each time."""
    product = client.get(f"{PRODUCTS}/by-sku/sku-1").json()
    path, price = f"{PRODUCTS}/{product['id']}", 0
    while True:
        price += 1
        answer = client.patch(
            path,
            json={"price_minor": price},
            headers={**bearer, "If-Match": client.get(path).headers["ETag"]},
        )
        assert answer.status_code == 200, answer.text
        yield


def seconds(client, path):
    """Return how long an answer takes."""
    began = time.perf_counter()
    assert client.get(path).status_code == 200
    return time.perf_counter() - began


def crowd(port, path):
    """Ask at once, each on a connection of its own; return when the last had it."""
    barrier = Barrier(CROWD)

    def ask(_number):
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.get("/livez")
            barrier.wait(60)
            return seconds(client, path)

    with ThreadPoolExecutor(CROWD) as pool:
        return max(pool.map(ask, range(CROWD)))


def made(client):
    """Return how many answers were made, as the service counts them."""
    found = re.search(
        r'^flagon_cache_requests_total{outcome="miss"} (\S+)$',
        client.get("/metrics").text,
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
