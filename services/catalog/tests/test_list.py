"""Lists of products: filters, orders, search and pages that miss nothing."""

from urllib.parse import quote

import pytest
from sqlalchemy import event

PRODUCTS = "/api/v1/products"


@pytest.fixture
def ask(client):
    """List with these parameters and return the page."""

    def ask(headers=None, **asked):
        answer = client.get(PRODUCTS, query_string=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json

    return ask


@pytest.fixture
def skus(ask):
    """List with these parameters and return the SKUs of the first page."""

    def skus(headers=None, **asked):
        return [item["sku"] for item in ask(headers, **asked)["items"]]

    return skus


@pytest.fixture
def walk(ask):
    """Go through all pages and return the items; call `between` after each page."""

    def walk(between=lambda: None, **asked):
        items, cursor = [], None
        while True:
            page = ask(**asked, **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items
            assert len(page["items"]) == asked["limit"]
            between()

    return walk


class TestFilters:
    @pytest.fixture(autouse=True)
    def _assortment(self, make, make_category):
        make_category(name="Kitchen", slug="kitchen")
        make_category(name="Empty", slug="empty")
        make(sku="a", name="A", price_minor=100, category="kitchen", stock=1)
        make(sku="b", name="B", price_minor=200, category="kitchen", currency="CHF")
        make(sku="c", name="C", price_minor=300, slug="third")
        make(sku="draft", name="D", price_minor=400, status="draft")
        make(sku="archived", name="E", price_minor=500, status="archived")

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({}, {"a", "b", "c"}),
            ({"category": "kitchen"}, {"a", "b"}),
            ({"category": "empty"}, set()),
            ({"category": "nowhere"}, set()),
            ({"sku": "a"}, {"a"}),
            ({"sku": "draft"}, set()),
            ({"slug": "third"}, {"c"}),
            ({"currency": "CHF"}, {"b"}),
            ({"price_minor_min": 200}, {"b", "c"}),
            ({"price_minor_max": 200}, {"a", "b"}),
            ({"price_minor_min": 150, "price_minor_max": 250}, {"b"}),
            ({"price_minor_min": 250, "price_minor_max": 150}, set()),
            ({"in_stock": "true"}, {"a"}),
            ({"in_stock": "false"}, {"b", "c"}),
            ({"category": "kitchen", "in_stock": "false"}, {"b"}),
            ({"q": ""}, {"a", "b", "c"}),
        ],
    )
    def test_narrow_the_list(self, skus, asked, expected):
        assert set(skus(**asked)) == expected

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("active", {"a", "b", "c"}),
            ("draft", {"draft"}),
            ("archived", {"archived"}),
            ("any", {"a", "b", "c", "draft", "archived"}),
        ],
    )
    def test_by_status_for_who_may_see_it(self, skus, merchandiser, status, expected):
        assert set(skus(merchandiser, status=status)) == expected

    @pytest.mark.parametrize("status", ["draft", "archived", "any"])
    def test_by_status_for_nobody_else(self, client, customer, assert_problem, status):
        for headers in (None, customer):
            answer = client.get(f"{PRODUCTS}?status={status}", headers=headers)
            assert_problem(answer, 403, "hidden-products")

    def test_show_the_category(self, ask):
        (item,) = ask(sku="a")["items"]

        assert item["category"] == "kitchen"

    def test_show_what_one_product_shows(self, ask, client):
        (item,) = ask(sku="a")["items"]

        shown = client.get(f"{PRODUCTS}/{item['id']}").json
        # The one thing that lists show only if it is asked for.
        shown.pop("description_html")
        assert shown == item


class TestOrders:
    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            (None, "zbya"),
            ("-created_at", "zbya"),
            ("created_at", "aybz"),
            ("name", "bzay"),
            ("-name", "yazb"),
            ("price_minor", "yabz"),
            ("-price_minor", "zbay"),
        ],
    )
    def test_sort_the_list(self, make, walk, sort, expected):
        for sku, name, price in (
            ("a", "Cup", 2),
            ("y", "dish", 1),
            ("b", "Ax", 3),
            ("z", "bowl", 3),
        ):
            make(sku=sku, name=name, price_minor=price)
        asked = {"sort": sort} if sort else {}

        found = [item["sku"] for item in walk(limit=1, **asked)]

        # Inside the test all products are made in one transaction and so at one time;
        # their ids keep the order in which they were made.
        assert "".join(found) == expected


class TestPages:
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
    @pytest.mark.parametrize("sort", ["name", "-price_minor", "-created_at"])
    def test_are_complete(self, make, walk, limit, sort):
        made = {make(name=f"N{n % 3}", price_minor=n % 2)["id"] for n in range(7)}

        found = [item["id"] for item in walk(limit=limit, sort=sort)]

        assert len(found) == 7
        assert set(found) == made

    def test_stay_stable_while_products_change(self, make, walk, client, merchandiser):
        made = [make(name=f"N{n}", price_minor=100 * n) for n in range(9)]
        spare = iter(made[:3])

        def disturb():
            make(name="A new one", price_minor=1)
            gone = next(spare, None)
            if gone:
                client.delete(
                    f"{PRODUCTS}/{gone['id']}",
                    headers={**merchandiser, "If-Match": "*"},
                )

        found = [item["id"] for item in walk(disturb, limit=2, sort="price_minor")]

        assert len(found) == len(set(found))
        untouched = [product["id"] for product in made[3:]]
        assert [id_ for id_ in found if id_ in untouched] == untouched

    def test_have_a_default_size(self, make, ask):
        for _ in range(21):
            make()

        assert len(ask()["items"]) == 20

    def test_end_exactly_at_the_end(self, make, ask):
        make()
        make()

        assert ask(limit=2)["next_cursor"] is None

    @pytest.mark.parametrize(
        "change", [{"sort": "-name"}, {"q": "mug"}, {"in_stock": "false"}]
    )
    def test_do_not_mix_lists(self, make, ask, client, assert_problem, change):
        make()
        make()
        cursor = ask(sort="name", limit=1)["next_cursor"]

        answer = client.get(
            PRODUCTS, query_string={"sort": "name", **change, "cursor": cursor}
        )

        assert_problem(answer, 422, "cursor-invalid")


class TestSearch:
    @pytest.fixture(autouse=True)
    def _books(self, make):
        make(
            sku="sombra",
            name="La sombra del viento",
            attributes={"authors": ["Carlos Ruiz Zafón"], "year": 2001},
        )
        make(sku="it", name="It", attributes={"authors": "Stephen King"})
        make(
            sku="king",
            name="The once and future king",
            description="Wizards and swords; sombra.",
        )
        make(sku="ISBN-042", name="Running dogs", description="A story about dogs.")
        make(sku="hidden", name="Running cats", status="draft")

    @pytest.mark.parametrize(
        ("q", "expected"),
        [
            ("zafon", ["sombra"]),
            ("ZAFÓN", ["sombra"]),
            ("sombra", ["sombra", "king"]),
            ("king", ["king", "it"]),
            ("it", ["it"]),
            ("run dog", ["ISBN-042"]),
            ("dogs running", ["ISBN-042"]),
            ("isbn-042", ["ISBN-042"]),
            ('"future king"', ["king"]),
            ('"king future"', []),
            ("king -future", ["it"]),
            ("wizards or viento", ["sombra", "king"]),
            ("cats", []),
            ("nothing like it at all", []),
            ("%", []),
            ("' or 1=1 --", []),
            ("!!! & | ( : *", []),
        ],
    )
    def test_finds(self, skus, q, expected):
        assert skus(q=q) == expected

    def test_finds_drafts_for_who_may_see_them(self, skus, merchandiser):
        assert skus(merchandiser, q="cats", status="any") == ["hidden"]

    def test_can_be_sorted_and_filtered(self, skus):
        assert skus(q="sombra", sort="name") == ["sombra", "king"]
        assert skus(q="sombra", sort="-name") == ["king", "sombra"]
        assert skus(q="sombra", sku="king") == ["king"]

    def test_pages_by_relevance(self, make, walk):
        for number in range(5):
            make(name=f"Dogs {'and dogs' * number}")

        items = walk(q="dogs", limit=2)

        assert len({item["id"] for item in items}) == len(items) == 6

    def test_has_no_relevance_without_words(self, client, assert_problem):
        answer = client.get(f"{PRODUCTS}?sort=relevance")

        assert_problem(answer, 422, "relevance-unknown")

    def test_takes_any_words(self, client):
        for q in ("\u0301", "\U0001f600", "x" * 200, "a' \\ \" <->", "-", '"'):
            assert client.get(f"{PRODUCTS}?q={quote(q)}").status_code == 200


class TestQueries:
    def test_are_few_whatever_the_size_of_the_page(
        self, make, make_category, ask, session
    ):
        for _ in range(3):
            make(category=make_category()["slug"])
        statements = []
        engine = session.get_bind().engine
        event.listen(
            engine,
            "before_cursor_execute",
            lambda *args: statements.append(args[2]),
        )

        page = ask(limit=50)

        assert len(page["items"]) == 3
        assert len([text for text in statements if "SELECT" in text]) == 1
