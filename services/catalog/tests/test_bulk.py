"""Bulk upsert: many products by SKU, each judged on its own."""

import pytest
from sqlalchemy import func, select

from flagon_catalog.domain import bulk
from flagon_catalog.models import Product
from flagon_chassis.events import EMITTED
from flagon_chassis.tables import audit as log

BULK = "/api/v1/products/bulk"


def item(sku, **fields):
    return {"sku": sku, "name": f"Book {sku}", "price_minor": 1299, **fields}


@pytest.fixture
def upsert(client, merchandiser):
    """Send items; return the report."""

    def upsert(*items, **headers):
        answer = client.post(
            BULK, json={"items": list(items)}, headers={**merchandiser, **headers}
        )
        assert answer.status_code == 200, answer.text
        return answer.json

    return upsert


@pytest.fixture
def find(client):
    def find(sku):
        return client.get(f"/api/v1/products/by-sku/{sku}").json

    return find


def outcomes(report):
    return [result["outcome"] for result in report["results"]]


class TestUpsertProducts:
    def test_creates_what_is_new(self, upsert, find, sent):
        report = upsert(
            item("b-1", category="science-fiction", attributes={"authors": "X"}),
            item("b-2", currency="CHF", stock=3, status="draft", description="D"),
        )

        assert report == {
            "results": [
                {"index": 0, "sku": "b-1", "outcome": "created", "errors": []},
                {"index": 1, "sku": "b-2", "outcome": "created", "errors": []},
            ],
            "summary": {"created": 2, "updated": 0, "unchanged": 0, "refused": 0},
        }
        product = find("b-1")
        assert (
            product.items()
            >= {
                "slug": "book-b-1",
                "description": "",
                "currency": "EUR",
                "status": "active",
                "stock": 0,
                "category": "science-fiction",
                "attributes": {"authors": "X"},
                "version": 1,
            }.items()
        )
        (event,) = sent(product["id"])
        product.pop("description_html")
        assert event["data"] == {**product, "changed": list(product)}

    def test_makes_missing_categories(self, upsert, client, sent):
        upsert(item("a", category="non-fiction"), item("b", category="non-fiction"))

        category = client.get("/api/v1/categories/by-slug/non-fiction").json
        assert category["name"] == "Non Fiction"
        assert len(sent(category["id"])) == 1

    def test_changes_what_differs_and_nothing_else(self, upsert, find, sent):
        upsert(
            item("same", category="books", attributes={"a": [1, {"b": None}]}),
            item("other", category="books"),
        )
        before = find("same"), find("other")

        report = upsert(
            item("same", category="books", attributes={"a": [1, {"b": None}]}),
            item("other", category="books", price_minor=1),
        )

        assert outcomes(report) == ["unchanged", "updated"]
        assert find("same") == before[0]
        assert len(sent(before[0]["id"])) == 1
        changed = find("other")
        assert (changed["version"], changed["price_minor"]) == (2, 1)
        assert changed["updated_at"] > before[1]["updated_at"]
        changed.pop("description_html")
        assert sent(changed["id"])[-1]["data"] == {
            **changed,
            "changed": ["price_minor"],
        }

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "Other"),
            ("description", "Other"),
            ("price_minor", 0),
            ("currency", "USD"),
            ("status", "archived"),
            ("stock", 8),
            ("category", "other"),
            ("category", None),
            ("attributes", {}),
        ],
    )
    def test_names_what_changed(self, upsert, sent, session, field, value):
        first = item("x", category="books", attributes={"a": 1}, stock=1)
        upsert(first)

        upsert({**first, field: value})

        id_ = session.scalar(select(Product.id).where(Product.sku == "x"))
        data = sent(str(id_))[-1]["data"]
        # What is available changes with the stock.
        also = ["available"] if field == "stock" else []
        assert data["changed"] == [field, *also]
        assert data[field] == value

    def test_leaves_alone_what_an_item_leaves_out(self, upsert, find):
        upsert(
            item(
                "x",
                description="D",
                currency="USD",
                stock=9,
                category="books",
                attributes={"a": 1},
            )
        )
        before = find("x")

        report = upsert({"sku": "x", "price_minor": 1})

        assert outcomes(report) == ["updated"]
        after = find("x")
        for name in ("price_minor", "version", "updated_at"):
            assert after.pop(name) != before.pop(name)
        assert after == before

    def test_refuses_a_new_product_without_name_or_price(self, upsert, find):
        report = upsert({"sku": "x"}, {"sku": "y", "name": "Y"}, item("z"))

        assert outcomes(report) == ["refused", "refused", "created"]
        assert [
            [error["pointer"] for error in result["errors"]]
            for result in report["results"]
        ] == [["#/name", "#/price_minor"], ["#/price_minor"], []]
        assert find("x")["status"] == 404

    def test_judges_each_item_on_its_own(self, upsert):
        report = upsert(
            item("good-1"),
            item("bad sku"),
            item("x", price_minor="12"),
            item("x", colour="red", stock=-1),
            item("x", id=1),
            item("x", name=None),
            {"name": "N", "price_minor": 1},
            "text",
            None,
            item("good-2"),
            {"sku": 7, "a/b~c": 1},
        )

        assert outcomes(report) == ["created", *["refused"] * 8, "created", "refused"]
        assert [
            sorted(error["pointer"] for error in result["errors"])
            for result in report["results"][1:]
        ] == [
            ["#/sku"],
            ["#/price_minor"],
            ["#/colour", "#/stock"],
            ["#/id"],
            ["#/name"],
            ["#/sku"],
            ["#"],
            ["#"],
            [],
            ["#/a~1b~0c", "#/sku"],
        ]
        assert report["summary"] == {
            "created": 2,
            "updated": 0,
            "unchanged": 0,
            "refused": 9,
        }
        assert report["results"][6]["sku"] is None
        assert report["results"][10]["sku"] is None

    def test_tells_at_most_twenty_errors_of_an_item(self, upsert):
        report = upsert(item("x", **{f"f{number}": 1 for number in range(50)}))

        assert len(report["results"][0]["errors"]) == 20

    def test_handles_a_repeated_sku_in_order(self, upsert, find, sent):
        report = upsert(
            item("x", price_minor=1),
            item("y"),
            item("x", price_minor=2),
            {"sku": "x"},
            {"sku": "x", "stock": 5},
        )

        assert outcomes(report) == [
            "created",
            "created",
            "updated",
            "unchanged",
            "updated",
        ]
        product = find("x")
        assert (product["price_minor"], product["stock"]) == (2, 5)
        assert product["version"] == 3
        assert [event["data"]["version"] for event in sent(product["id"])] == [1, 2, 3]

    def test_finds_a_slug_for_each_of_many_equal_names(self, upsert, find, make):
        make(name="Book", sku="first")
        report = upsert(
            *(item(f"x{number}", name="Book") for number in range(3)),
            item("x-0", name="Book"),
            item("x_0", name="Book"),
            item("o", name="本"),
        )

        assert report["summary"]["created"] == 6
        slugs = [find(f"x{number}")["slug"] for number in range(3)]
        assert len(set(slugs)) == 3
        assert all(slug.startswith("book-") for slug in slugs)
        assert find("o")["slug"] == "o"

    def test_keeps_the_order_of_the_items_in_ids(self, upsert, find):
        upsert(*(item(sku) for sku in ("z", "m", "a")))

        ids = [find(sku)["id"] for sku in ("z", "m", "a")]

        assert ids == sorted(ids)

    def test_takes_a_thousand_items_and_not_one_more(
        self, upsert, client, merchandiser, assert_problem
    ):
        items = [item(f"s{number}") for number in range(1001)]

        answer = client.post(BULK, json={"items": items}, headers=merchandiser)

        assert_problem(answer, 422, "invalid-request")
        report = upsert(*items[:1000])
        assert report["summary"]["created"] == 1000
        again = upsert(*items[:1000])
        assert again["summary"]["unchanged"] == 1000

    def test_can_be_repeated_by_key(self, client, merchandiser, sent):
        headers = {**merchandiser, "Idempotency-Key": "job:1"}
        body = {"items": [item("x")]}

        first, second = (client.post(BULK, json=body, headers=headers) for _ in "12")

        assert first.data == second.data
        assert first.json["summary"]["created"] == 1
        assert len(sent()) == 1

    def test_needs_the_scope(self, client, customer, assert_problem):
        body = {"items": [item("x")]}

        assert_problem(client.post(BULK, json=body), 401)
        assert_problem(client.post(BULK, json=body, headers=customer), 403)

    def test_has_no_other_method(self, client, assert_problem):
        answer = client.get(BULK)

        assert_problem(answer, 405)
        assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


class TestVersions:
    @pytest.fixture
    def stored(self, upsert, find):
        upsert(item("x", stock=5), item("y", stock=5))
        return find("x")

    def test_that_are_named_guard_each_item_on_its_own(self, upsert, find, stored):
        upsert({"sku": "x", "price_minor": 700})

        report = upsert(
            {"sku": "x", "version": 1, "price_minor": 1},
            {"sku": "y", "version": 1, "price_minor": 1},
            {"sku": "z", "version": 1, "price_minor": 1, "name": "Z"},
        )

        assert outcomes(report) == ["refused", "updated", "refused"]
        stale, done, gone = report["results"]
        assert stale["errors"] == [
            {"pointer": "#/version", "detail": "Its version is 2."}
        ]
        assert stale["present"] == {
            "id": stored["id"],
            "sku": "x",
            "version": 2,
            "name": "Book x",
            "price_minor": 700,
            "currency": "EUR",
            "status": "active",
            "stock": 5,
            "available": 5,
            "category": None,
        }
        assert (done["present"]["version"], done["present"]["price_minor"]) == (2, 1)
        assert gone["errors"] == [
            {"pointer": "#/version", "detail": "There is no such product."}
        ]
        assert gone["present"] is None
        assert [find("x")["price_minor"], find("y")["price_minor"]] == [700, 1]

    def test_that_nobody_has_yet_are_refused(self, upsert, stored):
        report = upsert({"sku": "x", "version": 2, "price_minor": 1})

        assert outcomes(report) == ["refused"]

    @pytest.mark.parametrize("version", [0, -1, 1.5, "1", None, 2**31])
    def test_that_are_none_are_told_at_the_field(self, upsert, stored, version):
        report = upsert({"sku": "x", "version": version})

        assert outcomes(report) == ["refused"]
        assert report["results"][0]["errors"][0]["pointer"] == "#/version"

    def test_are_those_of_edits_and_not_of_sales(
        self, upsert, find, session, client, merchandiser, stored
    ):
        place = f"/api/v1/products/{stored['id']}/reservations"
        held = client.post(place, json={"quantity": 2}, headers=merchandiser).json
        sold = client.post(
            f"/api/v1/reservations/{held['id']}/commit", headers=merchandiser
        )
        assert sold.status_code == 200, sold.text
        assert (find("x")["version"], find("x")["stock"]) == (2, 3)

        counted = upsert({"sku": "x", "version": 1, "stock": 6, "price_minor": 1})
        priced = upsert({"sku": "x", "version": 1, "price_minor": 1})

        assert outcomes(counted) == ["refused"]
        assert counted["results"][0]["present"]["stock"] == 3
        assert outcomes(priced) == ["updated"]
        assert (find("x")["stock"], find("x")["price_minor"]) == (3, 1)


class TestDryRun:
    @pytest.fixture
    def tried(self, client, merchandiser):
        def tried(*items):
            body = {"items": list(items), "dry_run": True}
            answer = client.post(BULK, json=body, headers=merchandiser)
            assert answer.status_code == 200, answer.text
            return answer.json

        return tried

    def test_tells_what_would_become_of_each_and_changes_nothing(
        self, tried, upsert, find, client, sent, session
    ):
        upsert(item("x", stock=5))
        before = find("x")
        rows = session.scalar(select(func.count()).select_from(log))

        report = tried(
            {"sku": "x", "price_minor": 1, "category": "made-for-it"},
            {"sku": "x"},
            {"sku": "x", "stock": -1},
            {"sku": "lacking"},
            item("new"),
        )

        assert outcomes(report) == [
            "updated",
            "unchanged",
            "refused",
            "refused",
            "created",
        ]
        # As they are after the call, and so as they were.
        first, second, wrong, lacking, new = report["results"]
        assert (first["present"]["price_minor"], first["present"]["version"]) == (
            1299,
            1,
        )
        assert second["present"] == first["present"]
        assert wrong["errors"][0]["pointer"] == "#/stock"
        assert lacking["present"] is new["present"] is None
        assert find("x") == before
        assert len(sent(before["id"])) == 1
        made = client.get("/api/v1/categories/by-slug/made-for-it")
        assert made.status_code == 404
        assert session.scalar(select(func.count()).select_from(log)) == rows

    def test_tells_no_event_for_which_answers_would_be_forgotten(self, session, app):
        with app.test_request_context():
            bulk.try_products(session, [item("x")])
            assert not session.info.get(EMITTED)

            bulk.upsert_products(session, [item("x")])
            assert session.info[EMITTED]


class TestRaces:
    def test_tries_again_after_losing_one(self, session, app, monkeypatch):
        tries = []
        check = bulk._check_race

        def lose_once(rows, locked):
            tries.append(rows)
            if len(tries) == 1:
                raise bulk._RaceLost
            check(rows, locked)

        monkeypatch.setattr(bulk, "_check_race", lose_once)
        with app.test_request_context():
            (outcome,) = bulk.upsert_products(session, [item("x")])

        assert outcome.outcome == "created"
        assert len(tries) == 2
        assert session.scalar(select(func.count()).select_from(Product)) == 1

    def test_gives_up_at_last(self, session, app, monkeypatch):
        def lose(_rows, _locked):
            raise bulk._RaceLost

        monkeypatch.setattr(bulk, "_check_race", lose)
        with app.test_request_context(), pytest.raises(bulk.BulkDisturbed):
            bulk.upsert_products(session, [item("x")])


class TestTooMuchText:
    def test_is_refused_and_writes_nothing(
        self, client, merchandiser, find, assert_problem
    ):
        words = [" ".join(f"w{at}x{n}" for n in range(500)) for at in range(450)]
        items = [item("fine"), item("full", attributes={"words": words})]

        answer = client.post(BULK, json={"items": items}, headers=merchandiser)

        assert_problem(answer, 422, "too-much-text")
        assert find("fine")["status"] == 404
