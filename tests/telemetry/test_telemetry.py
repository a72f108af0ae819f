"""A scripted click path must leave exactly the traces, logs and metrics of the table.

`make trace` is asked, which reads the sink and the logs: both modes answer alike.
"""

import html
import json
import re
import secrets
import time
import uuid

import pytest
from harness import imports
from harness.events import Stream
from harness.people import Person, browser
from harness.secrets_seen import SEEN, TAIL
from harness.secrets_seen import found as found_in
from harness.waiting import until
from table import (
    CHANGE_PRODUCT,
    CHANGED,
    IMPORT,
    LOWER_PRICE,
    ROWS,
    SIGN_IN,
    consumed,
    published,
)

_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_WORD = re.compile(r"\bt[0-9a-f]{10}\b")
_STORES = {"postgresql": "sql", "redis": "redis"}
STEPS = {
    "sign in": SIGN_IN,
    "change a product": CHANGE_PRODUCT,
    "import products": IMPORT,
    "lower a price": LOWER_PRICE,
}

WARM = IMPORT.metrics | {published(CHANGED): ROWS + 1, consumed(CHANGED): ROWS + 1}
"""Of one import and of a product that is made."""


def growth(stack, expected):
    """Return how to see by how much the metrics of a step have grown since now."""

    def now():
        return {
            expr: sum(value for _labels, value in stack.query(expr))
            for expr in expected.metrics
        }

    scraped(stack)
    before = now()
    return lambda: {expr: value - before[expr] for expr, value in now().items()}


def scraped(stack):
    """Wait until Prometheus has what every process has counted by now."""
    since = time.time()
    until(
        lambda: min(at for _labels, at in stack.query("timestamp(up)")) > since,
        60,
        pause=0.5,
        what="a scrape of every process",
    )


@pytest.fixture(scope="module")
def walked(stack):
    """Go the path and return, by step, its request id and the growth of its metrics.

    Each step begins when the metrics of the one before are in Prometheus.
    """
    found = {}

    def note(name, request_id, grown):
        found[name] = (request_id, settled(grown, STEPS[name].metrics, name))

    with Person(stack, stack.accounts()["merchandiser"]) as person:
        word = f"t{uuid.uuid4().hex[:10]}"
        with person.client() as client:
            grown = growth(stack, IMPORT)
            shelf = {"slug": word, "name": word}
            assert client.post("/api/v1/categories", json=shelf).status_code == 201
            thing = {
                "sku": f"{word}-mug",
                "name": "Mug",
                "category": word,
                "price_minor": 950,
                "currency": "EUR",
                "stock": 3,
            }
            made = client.post("/api/v1/products", json=thing)
            assert made.status_code == 201, made.text
            place = f"/api/v1/products/{made.json()['id']}"
            # One import before: all that happens once for each process is over.
            hand_in(stack, person, word, "first")
            settled(grown, WARM, "what comes before")

            grown, wanted = growth(stack, SIGN_IN), secrets.token_hex(16)
            person.sign_in(headers={"X-Request-ID": wanted})
            note("sign in", wanted, grown)

            with Stream(stack, ["products"], person) as stream:
                grown = growth(stack, CHANGE_PRODUCT)
                changed = client.patch(
                    place,
                    content=json.dumps({"name": "Large mug"}),
                    headers={
                        "Content-Type": "application/merge-patch+json",
                        "If-Match": made.headers["etag"],
                    },
                )
                assert changed.status_code == 200, changed.text
                stream.next(lambda event: event.envelope["subject"] in place)
                note("change a product", changed.headers["x-request-id"], grown)

                grown = growth(stack, IMPORT)
                answer = hand_in(stack, person, word, "second")
                note("import products", answer.headers["x-request-id"], grown)

            book = thing | {"sku": f"{word}-cup", "name": f"Cup {word}"}
            made = client.post("/api/v1/products", json=book | {"status": "active"})
            place = f"/products/{made.json()['slug']}"
            with (
                Stream(stack, ["products"], person) as stream,
                browser(stack, stack.accounts()["merchandiser"]) as shop,
            ):
                send(shop, place, "watch")
                # Once before, as above.
                for price in ("8.50", "7.50"):
                    grown = growth(stack, LOWER_PRICE)
                    answer = send(shop, place, "price", price=price)
                    note("lower a price", answer.headers["x-request-id"], grown)
    return found


def send(shop, place, action, **typed):
    """Fill in a form of a product's page and return the answer."""
    page = shop.get(place).text
    form = re.search(rf'<form[^>]*action="{place}/{action}".*?</form>', page, re.DOTALL)
    shown = re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', form[0])
    fields = {name: html.unescape(value) for name, value in shown} | typed
    answer = shop.post(f"{place}/{action}", data=fields, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return answer


def hand_in(stack, person, word, prefix):
    """Import some products and return the answer that took the file."""
    file = imports.as_csv(imports.rows(f"{word}-{prefix}", ROWS))
    answer = imports.submit(person, file, imports.params(word))
    assert answer.status_code == 202, answer.text
    job = imports.ended(person, f"/api/v1/jobs/{answer.json()['id']}")
    assert job["state"] == "succeeded", job
    return answer


def settled(grown, expected, name):
    """Wait until metrics have grown by what is expected, and return by what they have."""

    def all_there():
        seen = grown()
        assert seen == expected, seen
        return seen

    # Scrapes come every five seconds.
    return until(
        all_there,
        60,
        pause=1,
        what=f"metrics of {name}: {expected}",
        ignore=(AssertionError,),
    )


def told(stack, request_id):
    """Return the spans with their parents, and the log events, of a request."""
    found = json.loads(stack.make("trace", ID=request_id, FORMAT="json", check=False))
    edges = set()

    def walk(span, parent):
        name = _STORES.get(span["attributes"].get("db.system.name"), span["name"])
        name = _WORD.sub("<word>", _ID.sub("<id>", name))
        here = (span["service"], name)
        edges.add((here, parent))
        for child in span["children"]:
            walk(child, here)

    for root in found["roots"]:
        walk(root, None)
    logs = {
        (line["service"], line["event"])
        for line in found["lines"]
        if line["event"] != "span"
    }
    return edges, logs


def flat(spans):
    return {(span, parent) for span, parents in spans.items() for parent in parents}


@pytest.mark.parametrize("name", STEPS)
class TestStep:
    def test_leaves_exactly_these_spans_below_these_parents(self, stack, walked, name):
        expected, request_id = STEPS[name], walked[name][0]
        must, may = flat(expected.spans), flat(expected.perhaps)

        def whole():
            missing = must - told(stack, request_id)[0]
            assert not missing, missing
            return True

        # Senders wait a second for more.
        until(whole, 60, pause=1, what=f"spans of {name}", ignore=(AssertionError,))
        assert told(stack, request_id)[0] - may == must

    def test_leaves_exactly_these_log_events(self, stack, walked, name):
        request_id = walked[name][0]
        expected, perhaps = STEPS[name].logs, STEPS[name].perhaps_logs

        until(
            lambda: expected <= told(stack, request_id)[1],
            60,
            pause=1,
            what=f"log events of {name}",
        )
        assert told(stack, request_id)[1] - perhaps == expected

    def test_moves_exactly_these_metrics(self, walked, name):
        assert walked[name][1] == STEPS[name].metrics


class TestRequestId:
    def test_is_told_by_every_span_of_a_request_itself(self, stack, walked):
        request_id = walked["change a product"][0]
        found = json.loads(stack.make("trace", ID=request_id, FORMAT="json"))

        own = [
            line.get("request_id")
            for line in found["lines"]
            if line["service"] == "catalog"
            and line["event"] == "span"
            # The relay has many requests at hand at once.
            and line["attributes"].get("messaging.system") is None
            and line["name"] != "PIPELINE"
        ]
        assert len(own) > 2
        assert set(own) == {request_id}


class TestSecrets:
    """What the path's programs sent and got is searched for in what it left behind."""

    def test_are_in_no_span(self, stack, walked):
        for request_id, _grown in walked.values():
            spans = stack.make("trace", ID=request_id, FORMAT="json")
            tails = SEEN.tails()

            hits = found_in(spans, {*tails, request_id[-TAIL:]})

            assert hits == {request_id[-TAIL:]}
            assert len(tails) > 4

    def test_are_in_no_label_of_a_metric(self, stack, walked):
        series = stack.query('{__name__=~"(flagon|flask|nginx|pg|redis)_.*"}')
        labels = json.dumps([names for names, _value in series])
        control = "/api/v1/products/<uuid:product_id>"[-TAIL:]

        assert control in labels
        assert found_in(labels, SEEN.tails()) == set()
