"""Lists of what has an attribute."""

import pytest
from sqlalchemy import text

from .conftest import PRODUCTS


@pytest.fixture
def find(client, merchandiser):
    """Return the SKUs that have all these attributes."""

    def find(*wanted, **more):
        answer = client.get(
            PRODUCTS, query_string={"attribute": list(wanted), "sort": "name", **more}
        )
        assert answer.status_code == 200, answer.text
        return [item["sku"] for item in answer.json["items"]]

    return find


@pytest.fixture(autouse=True)
def _assortment(make):
    for name, attributes in {
        "a": {"colour": "blue", "weight": 5, "safe": True},
        "b": {"colour": "red", "weight": "5", "safe": "true"},
        "c": {"colour": ["blue", "red"], "weight": 5.5, "gift": None},
        "d": {"Colour": "blue", "ratio": "16:9", "inner": {"colour": "blue"}},
    }.items():
        make(sku=name, name=name, attributes=attributes)


class TestFilter:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (["colour:blue"], ["a", "c"]),
            (["colour:red"], ["b", "c"]),
            (["colour:blue", "colour:red"], ["c"]),
            (["colour:blue", "weight:5"], ["a"]),
            (["weight:5"], ["a", "b"]),
            (["weight:5.50"], ["c"]),
            (["safe:true"], ["a", "b"]),
            (["gift:null"], ["c"]),
            (["ratio:16:9"], ["d"]),
            (["colour:green"], []),
            (["colour:"], []),
            (["inner:blue"], []),
            (['inner:{"colour":"blue"}'], []),
            (["weight:1e400"], []),
            (["weight:NaN"], []),
            (["colour:%"], []),
            (["colour:blue' or '1'='1"], []),
        ],
    )
    def test_finds_what_has_all_of_them(self, find, wanted, found):
        assert find(*wanted) == found

    def test_goes_with_other_filters_and_facets(self, client, find):
        assert find("colour:blue", price_minor_max=1) == []

        answer = client.get(
            PRODUCTS, query_string={"attribute": "colour:blue", "facets": "status"}
        )
        assert "'count': 2" in str(answer.json["facets"]["status"])

    def test_of_pages_stays_the_same(self, client, assert_problem):
        asked = {"attribute": ["weight:5", "weight:5"], "limit": 1}
        page = client.get(PRODUCTS, query_string=asked).json
        after = {**asked, "cursor": page["next_cursor"]}
        second = client.get(PRODUCTS, query_string=after).json
        other = {"attribute": "safe:true", "limit": 1, "cursor": page["next_cursor"]}

        assert [page["items"][0]["sku"], second["items"][0]["sku"]] == ["b", "a"]
        assert second["next_cursor"] is None
        assert_problem(client.get(PRODUCTS, query_string=other), 422)

    @pytest.mark.parametrize(
        "wrong",
        [
            ["colour"],
            [":blue"],
            [""],
            ["a:" + "b" * 200],
            [f"n{number}:x" for number in range(11)],
        ],
    )
    def test_refuses_what_is_none(self, client, assert_problem, wrong):
        answer = client.get(PRODUCTS, query_string={"attribute": wrong})

        assert_problem(answer, 422)

    def test_finds_a_rare_one_by_the_index(self, session, client, make):
        session.execute(
            text(
                "insert into product (id, sku, slug, name, description, price_minor,"
                " currency, status, stock, attributes) select gen_random_uuid(),"
                " 's' || n, 's' || n, 'S', '', 1, 'EUR', 'active', 0,"
                " jsonb_build_object('code', n) from generate_series(1, 5000) n"
            )
        )
        session.execute(text("analyze product"))
        plan = session.scalars(
            text(
                "explain select id from product where status = 'active'"
                " and (attributes @> '{\"code\": 7}' or attributes @> '{\"code\": [7]}')"
            )
        ).all()

        assert "ix_product_attributes" in str(plan)
