"""GraphQL: a list of 50 products beside the same list over REST, in one run.

    python tests/bench/bench_graphql.py [--rounds 100]

Both go to one process of the catalog under gunicorn, in turns; the ratio is that of the
medians. The third row asks for what REST needs one more request for each product to tell.

Exits with 1 when the goal is missed.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parent))

from bench_export import catalog

RATIO = 0.2
FIELDS = (
    "id sku slug name description priceMinor currency status stock available attributes"
    " rating { count average } version createdAt updatedAt"
)
PLAIN = f"{{ products(first: 50) {{ nodes {{ {FIELDS} }} pageInfo {{ endCursor }} }} }}"
RICH = (
    "{ products(first: 50) { nodes { id name priceMinor category { name ancestors"
    " { name } } tags { name } reviews(first: 3) { nodes { title } } } } }"
)


def main():
    """Ask in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    with (
        catalog(2000) as (_, port, _, _),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client,
    ):
        asked = {
            "REST": lambda: client.get("/products?limit=50"),
            "GraphQL": lambda: client.post("/graphql", json={"query": PLAIN}),
            "GraphQL, with all around": lambda: client.post(
                "/graphql", json={"query": RICH}
            ),
        }
        took = {name: [] for name in asked}
        for number in range(rounds + 10):
            for name, ask in asked.items():
                began = time.perf_counter()
                answer = ask()
                seconds = time.perf_counter() - began
                assert answer.status_code == 200, answer.text
                assert "errors" not in answer.json()
                # The first ones warm up.
                if number >= 10:
                    took[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    print(f"{'50 products':<32}{'ms':>10}{'beside REST':>14}")
    for name, seconds in medians.items():
        print(f"{name:<32}{seconds * 1000:>10.2f}{medians['REST'] / seconds:>14.2f}")
    print(f"goal: GraphQL >= {RATIO}")
    return 1 if medians["REST"] / medians["GraphQL"] < RATIO else 0


if __name__ == "__main__":
    sys.exit(main())
