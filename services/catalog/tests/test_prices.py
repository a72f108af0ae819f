"""The prices that products have had."""

from uuid import uuid4

import pytest
from sqlalchemy import event, func, select

from flagon_catalog.models import Price

PRODUCTS = "/api/v1/products"


@pytest.fixture
def prices(client):
    """Return the prices of a product as (version, minor units, currency)."""

    def prices(product):
        page = client.get(f"{PRODUCTS}/{product['id']}/prices").json
        return [
            (item["version"], item["price_minor"], item["currency"])
            for item in page["items"]
        ]

    return prices


@pytest.fixture
def change(client, merchandiser):
    def change(product, method="PATCH", **fields):
        answer = client.open(
            f"{PRODUCTS}/{product['id']}",
            method=method,
            json=fields,
            headers={**merchandiser, "If-Match": "*"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json

    return change


@pytest.fixture
def upsert(client, merchandiser):
    def upsert(*items):
        answer = client.post(
            f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser
        )
        return [result["outcome"] for result in answer.json["results"]]

    return upsert


class TestPrices:
    def test_begin_with_the_first(self, client, make):
        product = make(price_minor=950, currency="CHF")

        page = client.get(f"{PRODUCTS}/{product['id']}/prices").json

        assert page == {
            "items": [
                {
                    "version": 1,
                    "price_minor": 950,
                    "currency": "CHF",
                    "from": product["created_at"],
                }
            ],
            "next_cursor": None,
        }

    def test_grow_by_each_change_of_price_and_nothing_else(
        self, make, change, prices, client
    ):
        product = make(price_minor=10)
        change(product, stock=3)
        third = change(product, price_minor=20)
        change(product, price_minor=20, name="N")
        change(product, currency="CHF")
        body = {"sku": product["sku"], "name": "N"}
        change(product, "PUT", price_minor=30, **body)
        change(product, "PUT", price_minor=30, **body)

        assert prices(product) == [
            (6, 30, "EUR"),
            (5, 20, "CHF"),
            (3, 20, "EUR"),
            (1, 10, "EUR"),
        ]
        page = client.get(f"{PRODUCTS}/{product['id']}/prices").json
        assert page["items"][2]["from"] == third["updated_at"]

    def test_grow_by_bulk_too(self, client, upsert, prices):
        first = {"sku": "a", "name": "A", "price_minor": 1}
        upsert(first, {"sku": "b", "name": "B", "price_minor": 5})
        upsert({**first, "price_minor": 2}, {"sku": "b", "stock": 1})
        upsert({"sku": "a", "currency": "USD"}, {"sku": "a", "price_minor": 3})
        upsert({"sku": "a", "price_minor": 3}, {"sku": "c", "price_minor": 1})

        found = {
            sku: prices(client.get(f"{PRODUCTS}/by-sku/{sku}").json) for sku in "ab"
        }

        assert found == {
            "a": [(4, 3, "USD"), (3, 2, "USD"), (2, 2, "EUR"), (1, 1, "EUR")],
            "b": [(1, 5, "EUR")],
        }

    def test_cost_no_statement_of_their_own(
        self, make, change, upsert, session, client
    ):
        product = make()
        caught = []
        engine = session.get_bind().engine

        def catch(*args):
            if "INTO price" in args[2]:
                caught.append(args[2])

        event.listen(engine, "before_cursor_execute", catch)
        change(product, price_minor=7)
        upsert(*({"sku": f"s{n}", "name": "S", "price_minor": n} for n in range(100)))
        event.remove(engine, "before_cursor_execute", catch)

        assert len(caught) == 2
        assert all("product" in text and "written" in text for text in caught)
        assert session.scalar(select(func.count()).select_from(Price)) == 102

    def test_are_not_changed_by_what_is_refused(
        self, client, make, merchandiser, prices
    ):
        first, second = make(), make()

        answer = client.patch(
            f"{PRODUCTS}/{second['id']}",
            json={"sku": first["sku"], "price_minor": 1},
            headers={**merchandiser, "If-Match": "*"},
        )

        assert answer.status_code == 409
        assert prices(second) == [(1, second["price_minor"], "EUR")]

    def test_go_with_the_product(self, client, make, admin, session, assert_problem):
        product = make()

        client.delete(
            f"{PRODUCTS}/{product['id']}?permanently=true",
            headers={**admin, "If-Match": "*"},
        )

        answer = client.get(f"{PRODUCTS}/{product['id']}/prices")
        assert_problem(answer, 404, "product-not-found")
        assert session.scalar(select(func.count()).select_from(Price)) == 0


class TestListPrices:
    def test_in_pages_that_stay_while_prices_change(self, client, make, change):
        product = make(price_minor=0)
        for price in range(1, 6):
            change(product, price_minor=price)
        url, seen, cursor = f"{PRODUCTS}/{product['id']}/prices?limit=2", [], ""
        while True:
            page = client.get(url + cursor).json
            seen += [item["price_minor"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
            change(product, price_minor=100 + len(seen))

        assert seen == [5, 4, 3, 2, 1, 0]

    def test_of_one_product_with_its_own_cursor(
        self, client, make, change, assert_problem
    ):
        first, second = make(), make()
        change(first, price_minor=1)
        url = f"{PRODUCTS}/{first['id']}/prices"
        cursor = client.get(f"{url}?limit=1").json["next_cursor"]

        assert client.get(f"{url}?limit=1&cursor={cursor}").json["items"]
        answer = client.get(f"{PRODUCTS}/{second['id']}/prices?cursor={cursor}")
        assert_problem(answer, 422, "cursor-invalid")

    @pytest.mark.parametrize("status", ["draft", "archived"])
    def test_of_what_is_not_for_sale_to_nobody_else(
        self, client, make, merchandiser, customer, assert_problem, status
    ):
        url = f"{PRODUCTS}/{make(status=status)['id']}/prices"

        for headers in (None, customer):
            answer = client.get(url, headers=headers)
            assert_problem(answer, 404, "product-not-found")
        private = client.get(url, headers=merchandiser)
        assert len(private.json["items"]) == 1
        assert private.headers["Cache-Control"] == "private, no-cache"

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "cursor=x", "sort=from", "limit=1&limit=2"]
    )
    def test_of_nonsense(self, client, make, assert_problem, query):
        answer = client.get(f"{PRODUCTS}/{make()['id']}/prices?{query}")

        assert_problem(answer, answer.status_code)
        assert answer.status_code in {400, 422}

    def test_of_nothing(self, client, assert_problem):
        answer = client.get(f"{PRODUCTS}/{uuid4()}/prices")

        assert_problem(answer, 404, "product-not-found")
