"""Watches: who may, what is told of a price, and that each drop is told once."""

import json
import threading
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import redis
from celery.exceptions import Retry
from sqlalchemy import select

from flagon_chassis import metrics, streams, tables
from flagon_chassis.testing import Peer, errands_of, free_port
from flagon_worker import tasks_watches
from flagon_worker.domain import watches
from flagon_worker.models import Watch

PATH = "/api/v1/watches"
PRODUCT = "01987654-0000-7000-8000-000000000001"
DROPPED = "market.flagon.price.dropped.v1"
SCOPES = ("jobs:read", "reviews:write")
ME = "0198aaaa-0000-7000-8000-00000000000a"


def offer(price=1000, version=1, **fields):
    """A product as the catalog shows it and its events bring it."""
    return {
        "id": PRODUCT,
        "sku": "mug",
        "slug": "mug",
        "name": "Tässe",
        "price_minor": price,
        "currency": "EUR",
        "status": "active",
        "version": version,
        "changed": ["price_minor", "version", "updated_at"],
        **fields,
    }


@pytest.fixture
def ask(client, bearer):
    def ask(method, product=PRODUCT, match=None, who=ME, **wish):
        headers = bearer(*SCOPES, sub=who)
        headers |= {"If-Match": match} if match else {}
        options = {"json": wish} if method == "PUT" else {}
        return client.open(
            f"{PATH}/{product}" if product else PATH,
            method=method,
            headers=headers,
            **options,
        )

    return ask


@pytest.fixture
def sold(catalog):
    """Has the catalog sell a product."""

    def sold(**fields):
        found = offer(**fields)
        catalog.offers[found["id"]] = found
        return found

    return sold


@pytest.fixture
def watch(sold, ask):
    """Has somebody watch the product, which costs 10.00 then."""

    def watch(who=ME, **wish):
        sold()
        answer = ask("PUT", who=who, **wish)
        assert answer.status_code == 201, answer.json
        return answer.json

    return watch


def envelope(data, type_=watches.CHANGED, id_=None):
    return {
        "specversion": "1.0",
        "id": str(id_ or uuid4()),
        "source": "/services/catalog",
        "type": type_,
        "subject": data["id"],
        "time": datetime.now(UTC).isoformat(),
        "data": data,
        "topics": ["products"],
    }


@pytest.fixture
def happen(begin):
    """Has events taken from the stream, all in one batch."""

    def happen(*envelopes):
        with begin() as session:
            watches.take_events(session, envelopes)

    return happen


@pytest.fixture
def priced(happen):
    """Has the product get prices, one after the other, each in a batch of its own."""

    def priced(*prices):
        for version, price in enumerate(prices, 2):
            happen(envelope(offer(price, version)))

    return priced


@pytest.fixture
def sent(begin):
    """Returns what the outbox holds: live events and orders of mails."""

    def sent():
        with begin() as session:
            rows = session.execute(
                select(tables.outbox.c.name, tables.outbox.c.body).order_by("sequence")
            ).all()
        events = [body for name, body in rows if name == DROPPED]
        mails = [body["kwargs"] for name, body in rows if name == watches.TASK]
        return events, mails

    return sent


@pytest.fixture
def drops(sent):
    """Returns what was told to whom: account, price before and price."""

    def drops():
        events, mails = sent()
        ids = [event["data"]["id"] for event in events]
        assert ids == [mail["drop_id"] for mail in mails]
        return [
            (
                mail["order"]["account_id"],
                data["previous_price_minor"],
                data["price_minor"],
            )
            for mail, data in zip(
                mails, (event["data"] for event in events), strict=True
            )
        ]

    return drops


class TestWatchProduct:
    def test_begins_at_the_present_price(self, sold, ask):
        sold(price=1250, version=7)

        answer = ask("PUT", below_minor=1000, currency="EUR")

        assert answer.status_code == 201
        assert answer.headers["Location"] == f"{PATH}/{PRODUCT}"
        assert answer.json["seen"] == {"price_minor": 1250, "currency": "EUR"}
        assert answer.json["below_minor"] == 1000
        shown = ask("GET")
        assert shown.json == answer.json
        assert shown.headers["ETag"] == answer.headers["ETag"]

    def test_again_needs_what_one_has_read(self, watch, ask):
        watch()
        tag = ask("GET").headers["ETag"]

        assert ask("PUT").status_code == 428
        assert ask("PUT", match='"v9-x"').status_code == 412
        changed = ask("PUT", match=tag, below_minor=900, currency="EUR")
        assert (changed.status_code, changed.json["version"]) == (200, 2)
        assert ask("PUT", match=tag).status_code == 412

    def test_that_was_read_before_the_price_changed_can_be_changed(
        self, watch, ask, priced
    ):
        watch()
        tag = ask("GET").headers["ETag"]
        priced(900)

        assert ask("GET").headers["ETag"] != tag
        assert ask("PUT", match=tag, below_minor=5, currency="EUR").status_code == 200

    def test_of_what_is_not_watched_cannot_be_changed(self, sold, ask):
        sold()

        assert ask("PUT", match="*").status_code == 404
        assert ask("GET").status_code == 404

    def test_refuses_a_product_that_nobody_can_see(self, ask):
        answer = ask("PUT")

        assert answer.status_code == 404
        assert answer.json["type"].endswith("#product-unknown")
        assert ask("GET", None).json["items"] == []

    @pytest.mark.parametrize(
        "wish",
        [
            {"below_minor": 1},
            {"currency": "EUR"},
            {"below_minor": 0, "currency": "EUR"},
            {"below_minor": 2**63, "currency": "EUR"},
            {"below_minor": "1' or 1=1", "currency": "EUR"},
            {"below_minor": 10, "currency": "eur"},
            {"below_minor": 10, "currency": "USD"},
            {"owner": "somebody-else"},
        ],
    )
    def test_refuses_a_wish_that_makes_no_sense(self, sold, ask, wish):
        sold()

        assert ask("PUT", **wish).status_code == 422
        assert ask("GET").status_code == 404

    def test_while_the_catalog_is_away_is_priced_by_the_next_event(
        self, catalog, sold, ask, happen, priced, drops
    ):
        catalog.failures = [(503, {"title": "Down"})] * 1000
        answer = ask("PUT")
        assert (answer.status_code, answer.json["seen"]) == (201, None)

        # Any event of the product tells what it costs.
        happen(envelope(offer(1000, 2, changed=["stock", "version"])))
        assert ask("GET").json["seen"]["price_minor"] == 1000
        happen(envelope(offer(900, 3)))

        assert drops() == [(ME, 1000, 900)]

    def test_is_limited_for_each_person(self, watch, ask, sold, monkeypatch):
        monkeypatch.setattr(watches, "WATCHES_MAX", 2)
        watch()
        for _ in range(2):
            other = str(uuid4())
            sold(id=other)
            answer = ask("PUT", product=other)

        assert answer.status_code == 409
        assert answer.json["type"].endswith("#watches-too-many")
        assert ask("PUT", product=other, who=str(uuid4())).status_code == 201

    def test_is_limited_also_when_all_ask_at_once(
        self, app, bearer, sold, ask, monkeypatch
    ):
        monkeypatch.setattr(watches, "WATCHES_MAX", 2)
        others = [sold(id=str(uuid4()))["id"] for _ in range(6)]
        headers = bearer(*SCOPES, sub=ME)

        def put(product):
            app.test_client().put(f"{PATH}/{product}", json={}, headers=headers)

        threads = [threading.Thread(target=put, args=(each,)) for each in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(ask("GET", None).json["items"]) == 2


class TestWatches:
    def test_are_their_owners_alone(self, watch, ask):
        watch()
        tag = ask("GET").headers["ETag"]

        assert ask("GET", who="eve").status_code == 404
        assert ask("DELETE", who="eve", match=tag).status_code == 404
        assert ask("GET", None, who="eve").json["items"] == []
        assert ask("GET").status_code == 200

    def test_are_listed_page_by_page(self, ask, sold, client, bearer):
        made = [sold(id=str(uuid4()))["id"] for _ in range(3)]
        for product in made:
            ask("PUT", product=product)

        found, cursor = [], None
        while cursor or not found:
            page = client.get(
                PATH,
                query_string={"limit": 2, **({"cursor": cursor} if cursor else {})},
                headers=bearer("jobs:read", sub=ME),
            ).json
            found += [item["product_id"] for item in page["items"]]
            cursor = page["next_cursor"]

        assert found == made[::-1]

    def test_need_the_scopes_and_a_person(self, client, bearer, sold):
        sold()
        path = f"{PATH}/{PRODUCT}"

        assert client.get(path).status_code == 401
        reads = bearer("jobs:read", sub=ME)
        assert client.put(path, json={}, headers=reads).status_code == 403
        writes = bearer("reviews:write", sub=ME)
        assert client.get(path, headers=writes).status_code == 403
        service = bearer(*SCOPES, sub="tests", sid=None)
        refused = client.put(path, json={}, headers=service)
        assert refused.json["type"].endswith("#account-required")

    def test_are_counted(self, watch, ask, client, risen):
        def total(outcome):
            return risen("flagon_watches_total", outcome=outcome)

        def held():
            client.get("/metrics")
            return metrics.REGISTRY.get_sample_value("flagon_watches_held")

        watch()
        assert (held(), total("begun"), total("ended")) == (1, 1, 0)

        ask("PUT", match=ask("GET").headers["ETag"], below_minor=5, currency="EUR")
        ask("DELETE", match=ask("GET").headers["ETag"])
        assert (held(), total("begun"), total("ended")) == (0, 1, 1)

    def test_end_when_their_owner_says_so(self, watch, ask, priced, drops):
        watch()
        assert ask("DELETE").status_code == 428
        tag = ask("GET").headers["ETag"]

        assert ask("DELETE", match=tag).status_code == 204
        priced(900)

        assert drops() == []
        assert ask("GET").status_code == 404


class TestTakeEvents:
    def test_tells_by_mail_and_live_who_watches(self, watch, priced, sent, ask):
        watch()
        watch(who="other")
        priced(990)

        events, mails = sent()
        assert [event["topics"] for event in events] == [
            [f"users/{ME}"],
            ["users/other"],
        ]
        data = events[0]["data"]
        assert data["name"] == "Tässe"
        assert (data["previous_price_minor"], data["price_minor"]) == (1000, 990)
        assert mails[0]["order"] == {
            "account_id": ME,
            "letter": "price_dropped",
            "product": "Tässe",
            "product_id": PRODUCT,
            "previous_price": "10.00",
            "price": "9.90",
            "currency": "EUR",
        }
        assert ask("GET").json["told_at"]

    @pytest.mark.parametrize(
        ("prices", "told"),
        [
            # Up and down again: each real drop once.
            ((1200, 1000, 1200, 1000), [(1200, 1000), (1200, 1000)]),
            ((900, 800), [(1000, 900), (900, 800)]),
            ((1000, 1000, 1100), []),
            ((0,), [(1000, 0)]),
        ],
    )
    def test_tells_of_each_real_drop_once(self, watch, priced, drops, prices, told):
        watch()
        priced(*prices)

        assert [(before, now) for _, before, now in drops()] == told

    def test_tells_the_same_of_a_batch(self, watch, happen, drops):
        watch()
        prices = (1200, 1000, 900)

        happen(*(envelope(offer(each, n)) for n, each in enumerate(prices, 2)))

        assert [told[1:] for told in drops()] == [(1200, 1000), (1000, 900)]

    def test_ignores_older_versions_that_come_late(self, watch, happen, drops):
        watch()
        happen(envelope(offer(800, 4)))

        happen(envelope(offer(700, 3)), envelope(offer(790, 4)))

        assert drops() == [(ME, 1000, 800)]

    @pytest.mark.parametrize(
        ("prices", "told"),
        [
            ((950, 900, 899), [(900, 899)]),
            ((899, 850, 1000, 850), [(1000, 899), (899, 850), (1000, 850)]),
        ],
    )
    def test_tells_below_the_limit_alone(self, watch, priced, drops, prices, told):
        watch(below_minor=900, currency="EUR")
        priced(*prices)

        assert [pair[1:] for pair in drops()] == told

    def test_compares_no_currencies(self, watch, happen, drops):
        watch(below_minor=900, currency="EUR")
        changed = ["price_minor", "currency"]

        happen(envelope(offer(500, 2, currency="USD", changed=changed)))
        happen(envelope(offer(400, 3, currency="USD")))

        assert drops() == []

    def test_what_is_not_on_sale_has_no_price(self, watch, happen, drops):
        watch()
        hidden = {"status": "draft", "changed": ["status", "price_minor"]}

        happen(envelope(offer(500, 2, **hidden)))
        assert drops() == []
        happen(envelope(offer(700, 3, changed=["status", "price_minor"])))

        assert drops() == [(ME, 1000, 700)]

    def test_a_deleted_product_or_account_ends_watches(self, watch, happen, begin):
        watch()
        watch(who="other")

        happen(envelope({"id": ME}, "market.flagon.user.deleted.v1"))
        with begin() as session:
            assert session.scalars(select(Watch.owner)).all() == ["other"]
        happen(envelope({"id": PRODUCT}, watches.DELETED))

        with begin() as session:
            assert session.scalars(select(Watch.owner)).all() == []

    def test_a_price_that_was_asked_for_late_changes_nothing_newer(
        self, watch, happen, begin, drops
    ):
        watch()
        happen(envelope(offer(800, 4)))

        with begin() as session:
            found = watches.find_watch(session, ME, UUID(PRODUCT), lock=True)
            watches.note_price(session, found, watches.Offer(1000, "EUR", "active", 3))
        happen(envelope(offer(900, 5)))

        assert drops() == [(ME, 1000, 800)]

    def test_amounts_have_the_decimals_of_their_currency(self, sold, ask, happen, sent):
        sold(currency="JPY", price=1500)
        ask("PUT")

        happen(envelope(offer(1200, 2, currency="JPY")))

        order = sent()[1][0]["order"]
        assert (order["previous_price"], order["price"]) == ("1500", "1200")


class TestKilled:
    def test_between_effect_and_acknowledgement_tells_once(
        self, stack, settings, watch, sent, wait_for
    ):
        """The process dies exactly where it is to acknowledge."""
        watch()
        port = free_port()
        deadly = stack.folder / "deadly"
        deadly.mkdir()
        (deadly / "sitecustomize.py").write_text(
            "import os, redis\nredis.Redis.xack = lambda *_, **__: os._exit(9)\n"
        )
        doomed = stack.start("consumer", "consumer", port=port, PYTHONPATH=str(deadly))
        with redis.Redis.from_url(settings.redis_store_url.get_secret_value()) as store:
            told = envelope(offer(900, 2))
            entry = streams.encode(UUID(told["id"]), told["type"], told)
            store.xadd(streams.EVENTS, entry)
            assert doomed.wait(30) == 9
            assert len(sent()[0]) == 1
            assert store.xpending(streams.EVENTS, "worker-archive")["pending"] == 1

            # The same consumer comes back, and the relay sends it once more.
            stack.start("consumer", "consumer", port=port)
            store.xadd(streams.EVENTS, entry)

            def settled():
                (group,) = store.xinfo_groups(streams.EVENTS)
                return group["lag"] == group["pending"] == 0

            wait_for(settled)
            events, mails = sent()
            assert (len(events), len(mails)) == (1, 1)
            assert store.xlen(streams.DEAD) == 0
        stack.kill("consumer")


class Letters(Peer):
    """auth, as far as it takes orders of mails."""

    def __init__(self):
        self.got = []
        self.status = 204
        super().__init__()

    def answer(self, method, path, headers, body):
        self.got.append((path, json.loads(body)))
        return self.status, None


@pytest.fixture
def letters(put):
    return put(Letters())


class TestTellPrice:
    @pytest.fixture
    def tell(self, app):
        drop = str(uuid4())

        def tell():
            with app.app_context():
                tasks_watches.tell_price.run(drop_id=drop, order={"a": "b"}, newer="x")
            return drop

        return tell

    def test_orders_a_mail_with_the_id_of_the_drop(self, letters, tell, risen):
        drop = tell()
        tell()

        assert risen("flagon_watches_total", outcome="ordered") == 2

        assert letters.got == 2 * [(f"/internal/mails/{drop}", {"a": "b"})]

    def test_is_over_when_nobody_is_to_get_it(self, letters, tell):
        letters.status = 404
        tell()

        assert len(letters.got) == 1

    def test_comes_back_later_when_auth_is_in_trouble(self, letters, tell):
        letters.status = 503

        with pytest.raises(Retry):
            tell()


class TestErrand:
    def test_lasts_until_auth_has_the_order(
        self, app, begin, watch, priced, sent, letters
    ):
        def left():
            with begin() as session:
                return errands_of(session)

        def tell():
            with app.app_context():
                tasks_watches.tell_price.run(**order)

        watch()
        priced(900)
        (order,) = sent()[1]
        assert left() == {order["drop_id"]: pytest.approx(30, abs=2)}
        letters.status = 503
        with pytest.raises(Retry):
            tell()
        # Longer than the pause before the next attempt.
        assert left() == {order["drop_id"]: pytest.approx(300, abs=2)}

        letters.status = 204
        tell()

        assert left() == {}
