"""Transactions that were no more than unlucky, and processes that die after a commit."""

import http.client
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import event, func, select, text

from flagon_catalog.domain import exports
from flagon_catalog.models import Product
from flagon_chassis.tables import idempotency_key, outbox
from flagon_chassis.testing import free_port

PRODUCTS = "/api/v1/products"
WAIT = 30


@pytest.fixture
def client(real_app):
    return real_app.test_client()


@pytest.fixture
def product(client, merchandiser, new_product):
    answer = client.post(PRODUCTS, json=new_product(), headers=merchandiser)
    return {**answer.json, "etag": answer.headers["ETag"]}


@pytest.fixture
def effects(real_sessions):
    """How many products with a SKU there are, and how many events tell of them."""

    def effects(sku):
        with real_sessions() as session:
            ids = session.scalars(select(Product.id).where(Product.sku == sku)).all()
            told = session.scalar(
                select(func.count())
                .select_from(outbox)
                .where(outbox.c.subject.in_([str(id_) for id_ in ids]))
            )
        return len(ids), told

    return effects


@pytest.fixture
def on(real_sessions):
    """Call a function at each event of the app's connections until the test ends."""
    engine, heard = real_sessions.kw["bind"], []

    def on(name, function):
        event.listen(engine, name, function)
        heard.append((name, function))

    yield on
    for name, function in heard:
        event.remove(engine, name, function)


@pytest.fixture
def kill(real_sessions):
    """Kill the server's side of a connection, and return when it is gone."""
    address = real_sessions.kw["bind"].url.set(drivername="postgresql")

    def kill(connection):
        victim = connection.connection.driver_connection.info.backend_pid
        url = address.render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", [victim])

    return kill


@pytest.fixture
def kill_once(on, kill):
    """Kill the connection of the first statement that has a text in it."""

    def kill_once(part):
        killed = []

        def look(connection, _cursor, statement, *_):
            if part in statement and not killed:
                killed.append(statement)
                kill(connection)

        on("before_cursor_execute", look)
        return killed

    return kill_once


class TestLostConnection:
    @pytest.mark.parametrize("path", ["", "/{id}", "/by-sku/{sku}", "/{id}/prices"])
    def test_of_a_reading_is_not_seen(self, client, product, kill_once, path):
        killed = kill_once("product")

        # Nobody has asked this before, so no answer is kept.
        query = {"limit": 7, "price_minor_min": uuid4().int % 900} if not path else {}
        answer = client.get(PRODUCTS + path.format(**product), query_string=query)

        assert answer.status_code == 200
        assert killed

    def test_of_an_export_leaves_nothing_out(
        self, real_app, client, product, merchandiser, monkeypatch, kill
    ):
        whole = client.get(f"{PRODUCTS}/export", headers=merchandiser).data
        copied, left = exports._copied, [1]

        def die_once(session, some, kind):
            if left:
                left.pop()
                kill(session.connection())
            return copied(session, some, kind)

        monkeypatch.setattr(exports, "_copied", die_once)
        answer = client.get(f"{PRODUCTS}/export", headers=merchandiser)

        assert not left
        assert answer.data == whole

    def test_of_a_change_is_not_seen_and_does_nothing_twice(
        self, client, product, merchandiser, kill_once, effects
    ):
        killed = kill_once("UPDATE product")

        answer = client.patch(
            f"{PRODUCTS}/{product['id']}",
            json={"price_minor": 7},
            headers={**merchandiser, "If-Match": product["etag"]},
        )

        assert answer.status_code == 200, answer.text
        assert answer.json["version"] == 2
        assert killed
        assert effects(product["sku"]) == (1, 2)


class TestLostCommit:
    """The connection ends while a change is committed: at once, or just after it was."""

    @pytest.fixture(params=["before", "after"])
    def lost(self, request, on, kill):
        left = [1]

        def lose(connection):
            if left:
                left.pop()
                if request.param == "after":
                    connection.connection.driver_connection.commit()
                kill(connection)
                # So that the client knows it, too.
                connection.connection.driver_connection.close()

        on("commit", lose)
        return request.param

    def test_is_told_and_not_repeated_without_a_key(
        self, client, merchandiser, new_product, lost, effects, assert_problem
    ):
        new = new_product()

        answer = client.post(PRODUCTS, json=new, headers=merchandiser)

        assert_problem(answer, 503, "outcome-unknown")
        assert "Retry-After" not in answer.headers
        assert effects(new["sku"]) == ((0, 0) if lost == "before" else (1, 1))

    def test_is_not_seen_with_a_key(
        self, client, merchandiser, new_product, lost, effects
    ):
        new = new_product()

        answer = client.post(
            PRODUCTS,
            json=new,
            headers={**merchandiser, "Idempotency-Key": uuid4().hex},
        )

        assert answer.status_code == 201, answer.text
        assert answer.json["sku"] == new["sku"]
        replayed = answer.headers.get("Idempotent-Replayed")
        assert replayed == (None if lost == "before" else "true")
        assert effects(new["sku"]) == (1, 1)


class TestDeadlock:
    def test_is_not_seen_by_whoever_it_ended(
        self,
        client,
        product,
        merchandiser,
        real_app,
        real_sessions,
        on,
        effects,
    ):
        """Two transactions wait for each other: the request's is ended by Postgres."""
        shelf = client.post(
            "/api/v1/categories", json={"name": uuid4().hex}, headers=merchandiser
        ).json
        reached, crossed = Event(), Event()

        def pause(_connection, _cursor, statement, *_):
            if "FOR KEY SHARE OF category" in statement and not reached.is_set():
                reached.set()
                assert crossed.wait(WAIT)

        on("before_cursor_execute", pause)

        def change():
            return real_app.test_client().patch(
                f"{PRODUCTS}/{product['id']}",
                json={"category": shelf["slug"]},
                headers={**merchandiser, "If-Match": product["etag"]},
            )

        def cross(session):
            # Who looks finds it, and is ended: let it not be this one.
            session.execute(text("set local deadlock_timeout = '1min'"))
            session.execute(text("set local lock_timeout = '1min'"))
            session.execute(
                text("select 1 from category where id = :id for update"),
                {"id": shelf["id"]},
            )
            assert reached.wait(WAIT)
            session.execute(
                text("select 1 from product where id = :id for update"),
                {"id": product["id"]},
            )

        with ThreadPoolExecutor() as pool, real_sessions() as watch:
            answer = pool.submit(change)
            with real_sessions.begin() as session:
                crossing = pool.submit(cross, session)
                wait_until_blocked(watch)
                crossed.set()
                crossing.result(WAIT)
            answer = answer.result(WAIT)

        assert answer.status_code == 200, answer.text
        assert answer.json["category"] == shelf["slug"]
        assert effects(product["sku"]) == (1, 2)


def wait_until_blocked(session):
    """Return once somebody in this database waits for a row."""
    blocked = text(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and datname = current_database() and query like '%from product%'"
    )
    for _ in range(2000):
        # A transaction of its own each time, or it would see the same for ever.
        if session.scalar(blocked):
            return
        session.rollback()
        session.execute(text("select pg_sleep(0.005)"))
    pytest.fail("nobody waits")


SERVER = """
import json, os, signal, sys
from sqlalchemy import event
from werkzeug.serving import make_server
from flagon_catalog.app import create_app
from flagon_catalog.settings import Settings

given = json.loads(sys.stdin.readline())
app = create_app(Settings(**given["settings"]), jwks=lambda: given["jwks"])

def die(session):
    # It is told of savepoints, too.
    if not session.in_nested_transaction():
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(app.extensions["flagon.sessions"], "after_commit", die)
server = make_server("127.0.0.1", given["port"], app)
print("ready", flush=True)
server.serve_forever()
"""


class TestKill:
    def test_between_commit_and_answer_is_made_good_by_the_key(
        self,
        client,
        merchandiser,
        new_product,
        effects,
        bearer,
        real_app,
        real_sessions,
    ):
        new, key, port = new_product(), uuid4().hex, free_port()
        settings = real_app.extensions["flagon.settings"]
        given = {
            "settings": {
                **settings.model_dump(mode="json", exclude_unset=True),
                **{
                    name: getattr(settings, name).get_secret_value()
                    for name in (
                        *("secret_key", "database_url"),
                        *("redis_store_url", "redis_cache_url"),
                    )
                },
                "owner_database_url": None,
            },
            "jwks": bearer.jwks(),
            "port": port,
        }
        headers = {**merchandiser, "Idempotency-Key": key}
        with (
            subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process,
            # Nobody waits for it if it does not die as it should.
            closing(SimpleNamespace(close=process.kill)),
        ):
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
            connection.request(
                "POST",
                PRODUCTS,
                json.dumps(new),
                {**headers, "Content-Type": "application/json"},
            )
            with pytest.raises(http.client.RemoteDisconnected):
                connection.getresponse()
            connection.close()
            assert process.wait(WAIT) == -signal.SIGKILL
        assert effects(new["sku"]) == (1, 1)

        again = client.post(PRODUCTS, json=new, headers=headers)

        assert again.status_code == 201
        assert again.headers["Idempotent-Replayed"] == "true"
        assert client.get(again.headers["Location"]).json == again.json
        assert effects(new["sku"]) == (1, 1)
        with real_sessions() as session:
            stored = session.scalar(
                select(func.count())
                .select_from(idempotency_key)
                .where(idempotency_key.c.key == key)
            )
        assert stored == 1
