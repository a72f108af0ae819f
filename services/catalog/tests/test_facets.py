"""Counts of what a list holds, against counting it by hand."""

from collections import Counter

import pytest
from sqlalchemy import event

from flagon_catalog.domain import facets

PRODUCTS = "/api/v1/products"
CATEGORIES = "/api/v1/categories"
ALL = "category,tag,status,currency,price"
ABOVE = {
    "home": ["home"],
    "kitchen": ["home", "kitchen"],
    "pans": ["home", "kitchen", "pans"],
    "bath": ["home", "bath"],
    "toys": ["toys"],
    None: [],
}


@pytest.fixture
def assortment(client, make_category, merchandiser):
    for slug, path in ABOVE.items():
        if slug:
            parent = path[-2] if len(path) > 1 else None
            make_category(slug=slug, parent=parent)
    shelves = list(ABOVE)
    items = [
        {
            "sku": f"s{number}",
            "name": f"Thing {'red' if number % 2 else 'blue'}",
            "price_minor": (0, 999, 1000, 4999, 5000, 123_456_789)[number * 7 % 6],
            "currency": ("EUR", "CHF", "USD")[number % 3],
            "status": ("active", "active", "draft", "archived")[number % 4],
            "stock": number % 3,
            "category": shelves[number % 6],
            "tags": [tag for place, tag in enumerate("abcd") if number >> place & 1],
        }
        for number in range(47)
    ]
    client.post(f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser)
    return items


def ask(client, headers=None, **asked):
    answer = client.get(PRODUCTS, query_string=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json


def counted(values):
    pairs = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"value": value, "count": count} for value, count in pairs]


FILTERS = [
    ({}, lambda _: True),
    ({"category": "home"}, lambda p: "home" in ABOVE[p["category"]]),
    ({"category": "kitchen"}, lambda p: "kitchen" in ABOVE[p["category"]]),
    ({"tag": ["a", "c"]}, lambda p: {"a", "c"} <= set(p["tags"])),
    ({"currency": "CHF"}, lambda p: p["currency"] == "CHF"),
    ({"price_minor_min": 1000}, lambda p: p["price_minor"] >= 1000),
    ({"in_stock": "true", "tag": "b"}, lambda p: p["stock"] and "b" in p["tags"]),
    ({"q": "red"}, lambda p: "red" in p["name"]),
    (
        {"q": "blue", "category": "home"},
        lambda p: "blue" in p["name"] and "home" in ABOVE[p["category"]],
    ),
    ({"category": "nowhere"}, lambda _: False),
]


class TestFacets:
    @pytest.mark.parametrize("status", ["active", "draft", "any"])
    @pytest.mark.parametrize(("asked", "fits"), FILTERS)
    def test_are_what_counting_by_hand_gives(
        self, client, merchandiser, assortment, status, asked, fits
    ):
        found = [
            product
            for product in assortment
            if fits(product) and status in {"any", product["status"]}
        ]
        prices = Counter(
            max(start for start in facets.PRICES if start <= product["price_minor"])
            for product in found
        )

        page = ask(client, merchandiser, facets=ALL, limit=1, status=status, **asked)

        told = page["facets"]
        assert list(told) == ["complete", *ALL.split(",")]
        assert told["complete"] is True
        shelves = [slug for p in found for slug in ABOVE[p["category"]]]
        assert told["category"] == counted(shelves)
        assert told["tag"] == counted(tag for p in found for tag in p["tags"])
        assert told["status"] == counted(p["status"] for p in found)
        assert told["currency"] == counted(p["currency"] for p in found)
        assert [(r["price_minor_min"], r["count"]) for r in told["price"]] == sorted(
            prices.items()
        )

    def test_are_what_the_list_holds_when_one_is_chosen(self, client, assortment):
        told = ask(client, facets=ALL)["facets"]

        assert assortment
        for name in ("category", "tag", "currency"):
            for value in told[name]:
                page = ask(client, limit=100, **{name: value["value"]})
                assert len(page["items"]) == value["count"]
        for chosen in told["price"]:
            asked = {name: end for name, end in chosen.items() if end is not None}
            count = asked.pop("count")
            assert len(ask(client, limit=100, **asked)["items"]) == count

    def test_do_not_tell_strangers_of_what_is_not_for_sale(self, client, assortment):
        told = ask(client, facets=ALL)["facets"]

        active = [p for p in assortment if p["status"] == "active"]
        assert told["status"] == [{"value": "active", "count": len(active)}]
        assert told["tag"] == counted(tag for p in active for tag in p["tags"])

    def test_are_only_those_that_were_asked_for(self, client, make):
        make()

        told = ask(client, facets="price,status")["facets"]

        assert list(told) == ["complete", "status", "price"]
        assert "facets" not in ask(client)

    def test_are_the_same_on_every_page(self, client, assortment):
        first = ask(client, facets="tag", limit=5)

        second = ask(client, facets="tag,price", limit=5, cursor=first["next_cursor"])

        assert assortment
        assert second["facets"]["tag"] == first["facets"]["tag"]

    def test_are_one_statement_beside_the_list(self, client, assortment, session):
        caught = []
        engine = session.get_bind().engine

        def catch(*args):
            caught.append(args[2])

        event.listen(engine, "before_cursor_execute", catch)
        ask(client, facets=ALL)
        event.remove(engine, "before_cursor_execute", catch)

        assert assortment
        assert len([text for text in caught if "FROM product" in text]) == 2

    def test_show_the_most_frequent_values_alone(
        self, client, merchandiser, make, monkeypatch
    ):
        items = [
            {"sku": f"t{n}", "name": "T", "price_minor": 1, "tags": [f"t{n}", "often"]}
            for n in range(55)
        ]
        client.post(f"{PRODUCTS}/bulk", json={"items": items}, headers=merchandiser)

        told = ask(client, facets="tag")["facets"]["tag"]

        assert len(told) == facets.VALUES_MAX
        assert told[0] == {"value": "often", "count": 55}

    def test_say_when_not_all_was_counted(self, client, assortment, monkeypatch):
        monkeypatch.setattr(facets, "COUNTED_MAX", 7)

        told = ask(client, facets="status,currency")["facets"]

        assert assortment
        assert told["complete"] is False
        assert told["status"] == [{"value": "active", "count": 7}]

    def test_that_do_not_exist_are_refused_with_those_that_do(
        self, client, assert_problem
    ):
        answer = client.get(f"{PRODUCTS}?facets=tag,colour")

        problem = assert_problem(answer, 422, "facet-unknown")
        assert problem["known"] == list(facets.NAMES)
        assert problem["errors"][0]["pointer"] == "#/facets"
