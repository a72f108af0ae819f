"""A catalog under gunicorn with a full database, for the benchmarks."""

import os
import secrets
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
from identity.servers import drawn

from flagon_chassis.testing import (
    ISSUER,
    KeySet,
    TokenMaker,
    free_port,
    start_postgres,
    start_redis,
)

PROGRAM = (sys.executable, "-m", "flagon_catalog")
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


@dataclass
class Base:
    """A full database, and what a catalog on it needs to know."""

    database: str
    postgres: int
    """Id of the process that all of Postgres' descend from."""
    environment: dict[str, str]
    headers: dict[str, str]
    """A token that may write, for an hour."""


@contextmanager
def catalog(products, **settings):
    """Give a full database, the port of a catalog that serves it, its worker, a token.

    :param settings: of the service, without `CATALOG_`.
    """
    with ground(products, **settings) as base, served(base) as (port, worker):
        yield base.database, port, worker, base.headers


@contextmanager
def ground(products, *, believable=False, durable=False, **settings):
    """Make a full database.

    :param believable: fill it with what `seed --products` makes, which has words to
        search for; else with numbered products, which is faster.
    :param durable: whether a commit waits for the disk.
    """
    bearer = TokenMaker()
    sure = {"fsync": "on", "synchronous_commit": "on"} if durable else {}
    with ExitStack() as stack:
        postgres = stack.enter_context(drawn(start_postgres(**sure)))
        redis = stack.enter_context(drawn(start_redis()))
        keys = stack.enter_context(closing(KeySet(bearer))).url
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("create database bench")
        database = postgres.url.rsplit("/", 1)[0] + "/bench"
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
            "WORKERS": "1",
            "LOG_LEVEL": "WARNING",
            "RATE_LIMIT": "100000000 per minute",
            "FACET_LIMIT": "100000000 per minute",
            **settings,
        }
        environment = {**os.environ, **{f"CATALOG_{k}": v for k, v in values.items()}}
        subprocess.run([*PROGRAM, "migrate"], env=environment, check=True)
        _fill(database, environment, products, believable=believable)
        headers = bearer(
            "catalog:write", sub=secrets.token_hex(8), exp=int(time.time()) + 3600
        )
        yield Base(database, postgres.process.pid, environment, headers)


def _fill(database, environment, products, *, believable):
    with psycopg.connect(database, autocommit=True) as connection:
        if believable:
            flask = Path(sys.executable).parent / "flask"
            command = [flask, "--app", "flagon_catalog.app", "seed"]
            subprocess.run(
                [*command, "--products", str(products)],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # No relay is there to send them.
            connection.execute("truncate outbox")
        else:
            for statement in FILL.split(";\n"):
                if statement.strip():
                    count = str(products)
                    connection.execute(statement.replace("{products}", count))
        connection.execute("vacuum analyze")


@contextmanager
def served(base, command=(*PROGRAM, "serve"), ready="/readyz", **settings):
    """Run the catalog, or another server on its database; give its port and its worker.

    :param command: with `{port}` where the port stands, if it is not in the settings.
    :param settings: of the service, without `CATALOG_`.
    """
    port = free_port()
    process = subprocess.Popen(
        [str(word).replace("{port}", str(port)) for word in command],
        env={
            **base.environment,
            "CATALOG_BIND": f"127.0.0.1:{port}",
            **{f"CATALOG_{k}": v for k, v in settings.items()},
        },
    )
    try:
        wait(port, process, ready)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        # A server without a master is its own worker.
        (worker,) = children.read_text().split() or [process.pid]
        yield port, int(worker)
    finally:
        process.terminate()
        process.wait(60)


def wait(port, process, ready="/readyz"):
    """Wait until the service is ready."""
    for _ in range(300):
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"http://127.0.0.1:{port}{ready}").status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("the catalog does not get ready")
