"""Imports into the real catalog: its own process, its own database, real tokens."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest

import flagon_catalog
from flagon_chassis.testing import ISSUER, free_port


@pytest.fixture(scope="module")
def auth(bearer):
    """What the services need of auth: public keys and a token for the worker."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(bearer.jwks())

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            token = bearer.token("catalog:write", "catalog:read", sub="worker")
            self.answer({"access_token": token, "expires_in": 300})

        def answer(self, body):
            sent = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Shop:
    def __init__(self, url, database):
        self.url = url
        self.database = database.replace("+psycopg", "")

    def query(self, sql):
        with psycopg.connect(self.database) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def shop(make_database, redis_server, auth, wait_for, tmp_path_factory):
    database, port = make_database(), free_port()
    environment = {
        **os.environ,
        "CATALOG_ENVIRONMENT": "testing",
        "CATALOG_SECRET_KEY": "s" * 32,
        "CATALOG_IMAGES_DIR": "/nowhere",
        "CATALOG_DATABASE_URL": database,
        "CATALOG_OWNER_DATABASE_URL": database,
        "CATALOG_REDIS_STORE_URL": redis_server.url,
        "CATALOG_REDIS_CACHE_URL": redis_server.url,
        "CATALOG_PUBLIC_URL": ISSUER,
        "CATALOG_JWKS_URL": f"{auth}/jwks",
        "CATALOG_BIND": f"127.0.0.1:{port}",
        "CATALOG_WORKERS": "1",
        "CATALOG_DRAIN_SECONDS": "0",
    }
    command = [sys.executable, "-m", flagon_catalog.__name__]
    subprocess.run([*command, "migrate"], env=environment, check=True)
    url = f"http://127.0.0.1:{port}"
    with (tmp_path_factory.mktemp("shop") / "log").open("wb") as log:
        process = subprocess.Popen([*command, "serve"], env=environment, stdout=log)
    wait_for(lambda: urllib.request.urlopen(f"{url}/readyz").close() is None, 30)
    yield Shop(url, database)
    process.terminate()
    process.wait(20)


@pytest.fixture
def settings(settings, shop, auth):
    return settings.model_copy(
        update={
            "catalog_url": shop.url,
            "catalog_seconds": 20.0,
            # One turn for all, also where the machine is busy.
            "slice_seconds": 600.0,
            "token_url": f"{auth}/token",
            "client_id": "worker",
        }
    )


def test_the_books_are_there_and_the_second_time_nothing_changes(
    submit, run, shop, books, books_params
):
    first = run(submit(books, **books_params).json["id"])
    second = run(submit(books, **books_params).json["id"])

    assert first["result"] == {
        "created": 10_000,
        "updated": 0,
        "unchanged": 0,
        "refused": 0,
    }
    assert second["result"]["unchanged"] == 10_000
    assert shop.query(
        "select count(*), max(version) from product where sku ~ '^[0-9]+$'"
    ) == [(10_000, 1)]


def test_the_catalogs_own_refusals_are_in_the_report(submit, run, report, shop):
    content = (
        "sku;name;price;category;colour\n"
        "w1;Käse;12,50;Milch & Käse;gelb\n"
        "w2;No price;;;\n"
        "w3;Bad\x7fname;1,00;;\n"
    )

    job = run(
        submit(
            content.encode("cp1252"),
            mapping={
                "sku": "sku",
                "name": "name",
                "price": "price",
                "category": "category",
                "attributes.colour": "colour",
            },
        ).json["id"]
    )

    assert job["result"] == {"created": 1, "updated": 0, "unchanged": 0, "refused": 2}
    assert [row[:3] for row in report(job["id"])] == [
        ["3", "w2", "price_minor: A new product needs it."],
        ["4", "w3", "name: Text may not hold control characters."],
    ]
    assert shop.query(
        "select product.name, price_minor, category.slug, attributes->>'colour'"
        " from product join category on category.id = category_id where sku = 'w1'"
    ) == [("Käse", 1250, "milch-kase", "gelb")]


def test_a_report_counts_what_the_catalog_has(submit, client, bearer, run, shop):
    rows = b"sku,name,price,currency,category\nr1,A,5,EUR,shelf\nr2,B,70,EUR,shelf\n"
    mapping = {name: name for name in ("sku", "name", "price", "currency", "category")}
    run(submit(rows, mapping=mapping).json["id"])
    answer = client.post(
        "/api/v1/jobs",
        data={"kind": "report"},
        content_type="multipart/form-data",
        headers=bearer("jobs:write", "jobs:manage", sub="me"),
    )

    job = run(answer.json["id"])

    assert job["state"] == "succeeded", job
    ((count,),) = shop.query("select count(*) from product")
    assert job["result"]["products"] == count >= 2
    assert job["artefacts"][0]["name"] == "report.pdf"


def test_a_reindex_brings_back_the_words_of_searches(submit, client, bearer, run, shop):
    run(submit(b"sku,name,price\nq1,Quokka,5\n", mapping=QUOKKA).json["id"])
    with psycopg.connect(shop.database) as connection:
        connection.execute("delete from word")
        connection.execute("insert into word values ('quetzalx'), ('quetzalx')")
    answer = client.post(
        "/api/v1/jobs",
        data={"kind": "reindex"},
        content_type="multipart/form-data",
        headers=bearer("jobs:write", "jobs:manage", sub="me"),
    )

    job = run(answer.json["id"])

    assert job["state"] == "succeeded", job
    assert job["result"]["learned"] >= 1
    words = "select text from word where text in ('quokka', 'quetzalx')"
    assert shop.query(words) == [("quokka",)]


QUOKKA = {name: name for name in ("sku", "name", "price")}
