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
import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import psycopg

sys.path.insert(0, str(Path(__file__).parent))

from identity.servers import drawn

from flagon_catalog.domain.exports import copy_command
from flagon_catalog.domain.products import Filter, matching
from flagon_catalog.domain.shapes import WHOLE
from flagon_chassis.testing import (
    ISSUER,
    TokenMaker,
    free_port,
    start_postgres,
    start_redis,
)

RATIO, MEGABYTES = 0.5, 100
FILL = """
insert into category (id, slug, name, description, path)
    select gen_random_uuid(), 'c' || n, 'Category ' || n, '', array['c' || n]
    from generate_series(1, 50) n;
insert into tag (id, slug, name)
    select gen_random_uuid(), 't' || n, 'Tag ' || n from generate_series(1, 100) n;
insert into product (id, sku, slug, name, description, price_minor, currency, status,
        stock, category_id, attributes)
    -- Ids in the order of making, as UUIDv7 are.
    select lpad(to_hex(n), 32, '0')::uuid, 'sku-' || n, 'slug-' || n, 'Product ' || n,
        repeat('What there is to say about it. ', 8), n, 'EUR', 'active', n % 50,
        category.id, jsonb_build_object('colour', 'blue', 'weight', n)
    from generate_series(1, {products}) n
    join category on category.slug = 'c' || (1 + n % 50);
insert into product_tag (product_id, tag_id)
    select product.id, tag.id from product
    join tag on tag.slug = 't' || (1 + product.price_minor % 100);
"""


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


@contextmanager
def catalog(products):
    """Give a full database, the port of a catalog that serves it, its worker, a token."""
    bearer = TokenMaker()
    with ExitStack() as stack:
        postgres = stack.enter_context(drawn(start_postgres()))
        redis = stack.enter_context(drawn(start_redis()))
        keys = stack.enter_context(key_set(bearer))
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("create database bench")
        database = postgres.url.rsplit("/", 1)[0] + "/bench"
        port = free_port()
        values = {
            "ENVIRONMENT": "testing",
            "SECRET_KEY": secrets.token_hex(32),
            "IMAGES_DIR": "/nowhere",
            "DATABASE_URL": database.replace("postgresql:", "postgresql+psycopg:"),
            "OWNER_DATABASE_URL": database.replace(
                "postgresql:", "postgresql+psycopg:"
            ),
            "REDIS_STORE_URL": redis.url,
            "REDIS_CACHE_URL": redis.url.replace("/0", "/1"),
            "PUBLIC_URL": ISSUER,
            "JWKS_URL": keys,
            "BIND": f"127.0.0.1:{port}",
            "WORKERS": "1",
            "LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "flagon_catalog"]
        environment = {**os.environ, **{f"CATALOG_{k}": v for k, v in values.items()}}
        subprocess.run([*command, "migrate"], env=environment, check=True)
        with psycopg.connect(database, autocommit=True) as connection:
            for statement in FILL.split(";\n"):
                if statement.strip():
                    count = str(products)
                    connection.execute(statement.replace("{products}", count))
            connection.execute("vacuum analyze")
        process = subprocess.Popen([*command, "serve"], env=environment)
        try:
            wait(port, process)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            (worker,) = children.read_text().split()
            headers = bearer("catalog:write", sub=secrets.token_hex(8))
            yield database, port, int(worker), headers
        finally:
            process.terminate()
            process.wait(60)


def wait(port, process):
    """Wait until the service is ready."""
    for _ in range(300):
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("the catalog does not get ready")


@contextmanager
def key_set(bearer):
    """Publish the keys that prove the token; give their address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(bearer.jwks()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
