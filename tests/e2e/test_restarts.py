"""Stopping, starting and coming back: nobody loses anything."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from harness import imports
from harness.events import Stream
from harness.stack import BUS, GATEWAY
from harness.waiting import until

PRODUCT_CHANGED = "market.flagon.product.changed.v1"


@pytest.fixture
def product(stack, merchandiser, word):
    """A product of this test's own."""
    content = imports.as_csv(imports.rows(word, 1))
    imports.ended(
        merchandiser, imports.accepted(merchandiser, content, imports.params(word))
    )
    [found] = imports.products(stack, word)
    return found


def change_price(person, product, price):
    """Set the price, patient while the platform recovers."""

    def changed():
        with person.client() as client:
            path = f"/api/v1/products/{product['id']}"
            now = client.get(path, headers={"Cache-Control": "no-cache"})
            if now.status_code != 200:
                return False
            if now.json()["price_minor"] == price:
                return True
            answer = client.patch(
                path,
                json={"price_minor": price},
                headers={"If-Match": now.headers["etag"]},
            )
            return answer.status_code == 200

    until(changed, pause=0.2, what="the new price", ignore=httpx2.TransportError)


class TestStream:
    def test_resumes_across_a_killed_realtime_without_a_gap(
        self, stack, merchandiser, product
    ):
        topic = [f"products/{product['id']}"]
        with Stream(stack, topic) as stream:
            change_price(merchandiser, product, 1001)
            first = stream.next(lambda e: e.type == PRODUCT_CHANGED)
            killed = stack.kill("realtime")
            assert stream.ended.wait(120)
        # These happen while nobody listens.
        change_price(merchandiser, product, 1002)
        change_price(merchandiser, product, 1003)
        stack.back("realtime", killed)
        with Stream(stack, topic, last_event_id=first.id) as stream:
            prices = [
                stream.next(lambda e: e.type == PRODUCT_CHANGED).data["price_minor"]
                for _ in range(2)
            ]

        assert prices == [1002, 1003]

    def test_resumes_across_a_killed_bus(self, stack, merchandiser, product):
        topic = [f"products/{product['id']}"]
        with Stream(stack, topic) as stream:
            change_price(merchandiser, product, 1101)
            first = stream.next(lambda e: e.type == PRODUCT_CHANGED)
        killed = stack.kill(BUS)
        change_price(merchandiser, product, 1102)
        stack.back(BUS, killed)
        with Stream(stack, topic, last_event_id=first.id) as stream:
            event = stream.next(lambda e: e.type == PRODUCT_CHANGED)

        assert event.data["price_minor"] == 1102


def read(client, path):
    """Send a GET as browsers do.

    A kept connection may be closed just when the next request is on its way; who only
    reads then asks again on another one (RFC 9112 §9.3.1).
    """
    try:
        return client.get(path)
    except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
        return client.get(path, headers={"Connection": "close"})


class TestDrain:
    def test_readers_notice_nothing_of_a_stopping_catalog(self, stack, product):
        paths = [f"/api/v1/products/{product['id']}", "/api/v1/products?limit=5"]
        stop = threading.Event()
        bad = []
        served = []

        def load(n):
            with stack.client() as client:
                while not stop.is_set():
                    answer = read(client, paths[n % 2])
                    served.append(answer.status_code)
                    if answer.status_code != 200:
                        bad.append((answer.status_code, answer.text[:200]))

        with stack.client() as client:
            for path in paths:
                assert client.get(path).status_code == 200
        with ThreadPoolExecutor(max_workers=4) as pool:
            jobs = [pool.submit(load, n) for n in range(4)]
            try:
                until(lambda: len(served) > 100, what="load")
                stopped = stack.kill("catalog", signal.SIGTERM)
                stack.back("catalog", stopped)
                enough = len(served) + 100
                until(lambda: len(served) > enough, what="more load")
            finally:
                stop.set()
            for job in jobs:
                job.result()

        # nginx alone keeps answers: while nobody listens, others say so.
        said = set() if GATEWAY == "nginx" else {503}
        assert {status for status, _text in bad} <= said, bad


class TestGateway:
    def test_follows_two_services_that_die_together(self, stack):
        """In containers they may come back with each other's addresses."""
        killed = {name: stack.pid(name) for name in ("auth", "catalog")}
        for name, pid in killed.items():
            stack.kill(name, pid=pid)
        for name, pid in killed.items():
            stack.back(name, pid)

        def right():
            with stack.client(headers={"Cache-Control": "no-cache"}) as client:
                keys = client.get("/.well-known/jwks.json")
                items = client.get("/api/v1/products?limit=1")
                return "keys" in keys.json() and "items" in items.json()

        ignored = (httpx2.TransportError, ValueError)
        until(right, pause=0.2, what="the right service", ignore=ignored)


@pytest.mark.restarts
class TestDownAndUp:
    def test_keep_all_data(self, stack, merchandiser, product):
        change_price(merchandiser, product, 4242)
        jobs = merchandiser.patiently("GET", "/api/v1/jobs").json()["items"]
        accounts = stack.accounts()

        stack.down()
        with stack.client() as client, pytest.raises(httpx2.TransportError):
            client.get("/healthz")
        stack.up()
        stack.ready()

        with stack.client() as client:
            found = client.get(f"/api/v1/products/{product['id']}").json()
        assert found["price_minor"] == 4242
        assert stack.accounts() == accounts
        after = merchandiser.patiently("GET", "/api/v1/jobs").json()["items"]
        assert {j["id"] for j in jobs} == {j["id"] for j in after}
        # The session of before is good as well: Redis kept it.
        assert merchandiser.sign_in()["access_token"]
