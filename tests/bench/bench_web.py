"""The shop's pages: beside the API calls that they make, and beside their bare templates.

    python tests/bench/bench_web.py [--products 20000] [--rounds 15]

The home page and a product's are asked through the gateway by a stranger, in turns with
what web asks of the catalog for them, one call after another on a kept connection.
`rendering` is the CPU of web for the same template with data that never changes beside
that for the page: what is left is asking, reading the answers and waiting for them. The
weight of the home page is what its HTML, style, scripts and icon take on the wire.

Exits with 1 when a goal is missed.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "local"))

from catalog.server import ground, served
from conftest import Upstream, start_gateway
from identity.measure import Wire, cpu_seconds, message

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "services/web/src/flagon_web/static"
PRODUCTS = "/api/v1/products"
HOME, PRODUCT = "home", "product"
ASKED = 20
"""Times that each is asked in a round."""
WEIGHT_MAX = 100.0
SHARE_MIN = 0.5


def main():
    """Measure, print a table and say what was missed."""
    options = _options()
    with ExitStack() as stack:
        base = stack.enter_context(ground(options.products, believable=True))
        catalog, _ = stack.enter_context(served(base))
        web, worker = stack.enter_context(shop(base, catalog))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        gateway = stack.enter_context(
            start_gateway(folder, Upstream(port=web), GATEWAY_STATIC=str(STATIC))
        )
        wires = {
            name: stack.enter_context(closing(Wire(port)))
            for name, port in (("api", catalog), ("page", gateway.port), ("web", web))
        }
        rows = times(wires, options.rounds) + rendering(wires, worker, options.rounds)
        rows.append(("home page on the wire, without pictures", weight(gateway), "kB"))
    missed = 0
    goals = {"home page on the wire, without pictures": ("<=", WEIGHT_MAX)}
    goals |= {f"{name}, rendering": (">=", SHARE_MIN) for name in (HOME, PRODUCT)}
    print(f"\n{'what':<48}{'figure':>10}  goal")
    for what, figure, unit in rows:
        sign, goal = goals.get(what, ("", None))
        held = goal is None or (figure <= goal if sign == "<=" else figure >= goal)
        missed += not held
        wanted = "" if goal is None else f"  {sign} {goal}{'' if held else '  MISSED'}"
        print(f"{what:<48}{figure:>10,.2f}  {unit}{wanted}")
    return 1 if missed else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def shop(base, catalog):
    """Run web on a catalog; nobody signs in, so nothing else has to be there."""
    known = base.environment
    shared = ("ENVIRONMENT", "SECRET_KEY", "REDIS_STORE_URL", "REDIS_CACHE_URL")
    values = {name: known[f"CATALOG_{name}"] for name in shared} | {
        "BIND": "127.0.0.1:{port}",
        "CATALOG_URL": f"http://127.0.0.1:{catalog}",
        "CLIENT_ID": "web",
        "CLIENT_SECRET": "none",
        "LOG_LEVEL": "WARNING",
        "PUBLIC_URL": "http://localhost",
        "RATE_LIMIT": "100000000 per minute",
        "WORKERS": "1",
    }
    command = ["env", *(f"WEB_{name}={value}" for name, value in values.items())]
    # Found beside the program, by gunicorn as well.
    command += [f"PYTHONPATH={HERE / 'web'}", sys.executable, "-m", "constant"]
    return served(base, command, "/livez")


def asked(wires):
    """Return the path of each page, and the paths that web asks the catalog for."""
    newest = f"{PRODUCTS}?limit=18&include=images"
    categories = "/api/v1/categories?limit=100"
    _, body = wires["api"].ask(message("GET", newest))
    one = json.loads(body)["items"][0]
    of = f"{PRODUCTS}/{one['id']}"
    neighbours = f"{PRODUCTS}?category={one['category']}&limit=7&include=images"
    return {
        HOME: ("/", [newest, categories]),
        PRODUCT: (
            f"/products/{one['slug']}",
            [
                f"{PRODUCTS}/by-slug/{one['slug']}",
                neighbours,
                categories,
                f"{of}/images",
                f"{of}/reviews?limit=10",
            ],
        ),
    }


def timed(wire, path):
    """Return how many milliseconds an answer takes, and its body."""
    began = time.perf_counter()
    status, body = wire.ask(message("GET", path))
    took = (time.perf_counter() - began) * 1e3
    assert status == 200, (path, status, body)
    return took, body


def times(wires, rounds):
    """Return how long pages take through the gateway, and what is asked for them."""
    found = {name: ([], []) for name in (HOME, PRODUCT)}
    for number in range(rounds + 1):
        for name, (page, calls) in asked(wires).items():
            for _ in range(ASKED):
                whole = timed(wires["page"], page)[0]
                parts = sum(timed(wires["api"], path)[0] for path in calls)
                # The first round only warms up.
                if number:
                    found[name][0].append(whole)
                    found[name][1].append(parts)
    rows = []
    for name, (pages, calls) in found.items():
        extra = statistics.median(
            page / call for page, call in zip(pages, calls, strict=True)
        )
        rows += [
            (f"{name}, p95 through the gateway", p95(pages), "ms"),
            (f"{name}, p95 of its API calls, one by one", p95(calls), "ms"),
            (f"{name}, of its API calls", extra, "x"),
        ]
    return rows


def p95(values):
    """Return what 95 % are not above."""
    return statistics.quantiles(values, n=20)[-1]


def rendering(wires, worker, rounds):
    """Return the CPU of templates with constant data beside that of the pages."""
    rows = []
    for name, (page, _) in asked(wires).items():
        own, bare = timed(wires["web"], page)[1], f"/constant/{name}.html"
        constant = timed(wires["web"], bare)[1]
        # The same page, but for addresses to come back to.
        assert abs(len(own) - len(constant)) < len(own) / 50, (len(own), len(constant))
        shares, costs = [], {page: [], bare: []}
        for number in range(rounds + 1):
            for path in (page, bare) if number % 2 else (bare, page):
                used = cpu_seconds(worker)
                for _ in range(ASKED):
                    timed(wires["web"], path)
                costs[path].append((cpu_seconds(worker) - used) / ASKED * 1e3)
            shares.append(costs[bare][-1] / costs[page][-1])
        rows += [
            (f"{name}, rendering", statistics.median(shares[1:]), "x"),
            (f"{name}, CPU of web", statistics.median(costs[page][1:]), "ms"),
            (
                f"{name}, CPU with constant data",
                statistics.median(costs[bare][1:]),
                "ms",
            ),
        ]
    return rows


def weight(gateway):
    """Return the kB that a first visit to the home page takes, headers not counted."""
    packed = {"Accept-Encoding": "gzip"}
    with httpx2.Client(base_url=gateway.url, headers=packed, timeout=60) as client:
        page = client.get("/")
        found = sorted(set(re.findall(r'"(/static/[^"]+)"', page.text)))
        assert len(found) >= 5, found
        parts = {"/": page} | {path: client.get(path) for path in found}
    assert {answer.status_code for answer in parts.values()} == {200}
    return sum(answer.num_bytes_downloaded for answer in parts.values()) / 1e3


if __name__ == "__main__":
    sys.exit(main())
