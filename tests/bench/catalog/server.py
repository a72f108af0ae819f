"""A catalog under gunicorn with a full database, for the benchmarks."""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import psycopg
from identity.servers import drawn

from flagon_chassis.testing import (
    ISSUER,
    TokenMaker,
    free_port,
    start_postgres,
    start_redis,
)

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


@contextmanager
def catalog(products, **settings):
    """Give a full database, the port of a catalog that serves it, its worker, a token.

    :param settings: of the service, without `CATALOG_`.
    """
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
            "RATE_LIMIT": "100000000 per minute",
            "FACET_LIMIT": "100000000 per minute",
            **settings,
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
