"""What hostile clients send to GraphQL, and how little comes of it."""

import json
from time import perf_counter

import pytest

PATH = "/api/v1/graphql"
SECONDS_MAX = 2
"""Far more than a refusal takes, and far less than what is refused would."""


@pytest.fixture(scope="module")
def shop(migrated, make_app):
    return make_app(migrated())


@pytest.fixture
def refused(shop):
    """Send a query that must be refused quickly; return its code."""

    def refused(query, **more):
        began = perf_counter()
        answer = shop.test_client().post(PATH, json={"query": query, **more})
        assert perf_counter() - began < SECONDS_MAX
        assert answer.status_code == 422, answer.text
        assert "data" not in answer.json
        return answer.json["errors"][0]["extensions"]["code"]

    return refused


def bomb(levels, spreads=2, leaf="__typename"):
    """Return fragments of which each spreads the next one several times."""
    fragments = [
        f"fragment F{level} on Query {{ {f'...F{level + 1} ' * spreads}}}"
        for level in range(levels)
    ]
    return " ".join(
        ["{ ...F0 }", *fragments, f"fragment F{levels} on Query {{ {leaf} }}"]
    )


class TestSize:
    def test_of_aliases_is_bounded(self, refused):
        many = " ".join(f"a{n}: __typename" for n in range(21))

        assert refused(f"{{ {many} }}") == "query-too-large"

    def test_of_aliases_is_bounded_in_fragments_too(self, refused):
        many = " ".join(f"a{n}: name" for n in range(11))

        code = refused(
            "{ products { nodes { ...A } } b: products { nodes { ...A } } }"
            f" fragment A on Product {{ {many} }}"
        )

        assert code == "query-too-large"

    def test_of_fragments_is_what_they_amount_to(self, refused):
        assert refused(bomb(60)) == "query-too-large"
        assert refused(bomb(20, spreads=8)) == "query-too-large"
        leaf = "products(first: 100) { nodes { id } }"
        assert refused(bomb(40, leaf=leaf)) == "query-too-large"

    @pytest.mark.parametrize(
        "query",
        [
            "{ ...A } fragment A on Query { ...A }",
            "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
            "{ category { ...A } } fragment A on Category { parent { ...A } }",
            "{ ...Unknown }",
        ],
    )
    def test_of_fragments_in_a_circle_has_no_meaning(self, refused, query):
        assert refused(query) == "query-invalid"

    def test_of_unused_fragments_counts(self, refused):
        unused = bomb(60).removeprefix("{ ...F0 }")

        assert refused("{ __typename }" + unused) == "query-too-large"

    @pytest.mark.parametrize(
        "query",
        [
            "{" + " __typename" * 600 + "}",
            "{" + " products { nodes { id } }" * 30 + "}",
            "{" + ' product(sku: "a") { id category { id } }' * 60 + "}",
        ],
    )
    def test_of_repeated_fields_is_bounded(self, refused, query):
        assert refused(query) == "query-too-large"

    def test_of_repeated_fields_on_all_levels_is_bounded(self, refused):
        query = "__typename"
        for _ in range(6):
            query = f"parent {{ {query} }} parent {{ {query} }}"

        code = refused(f'{{ category(slug: "a") {{ {query} }} }}')

        assert code == "query-too-large"

    def test_of_tokens_is_bounded(self, refused):
        assert refused("{ " + "a " * 1600 + "}") == "query-too-large"
        assert refused("{ __typename " + "@a " * 800 + "}") == "query-too-large"
        listed = "[" + "1 " * 1600 + "]"
        assert refused(f"{{ product(sku: {listed}) {{ id }} }}") == "query-too-large"

    def test_of_the_text_is_bounded(self, refused):
        long = "a" * 17_000

        assert refused(f'{{ product(sku: "{long}") {{ id }} }}') == "query-too-large"
        assert refused("{ __typename } # " + long) == "query-too-large"

    def test_of_the_body_is_bounded(self, shop, assert_problem):
        body = {"query": "{ __typename }", "variables": {"a": "a" * 300_000}}

        assert_problem(shop.test_client().post(PATH, json=body), 413)

    def test_of_directives_is_one_each(self, refused):
        query = "{ __typename " + "@include(if: true) " * 200 + "}"

        assert refused(query) == "query-invalid"


class TestDepth:
    @pytest.mark.parametrize("levels", [8, 20, 80])
    def test_is_bounded(self, refused, levels):
        query = "slug"
        for _ in range(levels):
            query = f"children(first: 1) {{ nodes {{ {query} }} }}"

        code = refused(f'{{ category(slug: "a") {{ {query} }} }}')

        assert code == "query-too-deep"

    def test_is_bounded_through_fragments(self, refused):
        fragments = " ".join(
            f"fragment F{n} on Category {{ parent {{ ...F{n + 1} }} }}"
            for n in range(20)
        )
        query = '{ category(slug: "a") { ...F0 } } fragment F20 on Category { slug } '

        assert refused(query + fragments) == "query-too-deep"

    @pytest.mark.parametrize(
        "query",
        [
            "{a" * 480,
            "{a" * 480 + "}" * 480,
            "{ product(sku: " + "[" * 700 + "]" * 700 + ") { id } }",
            "query($a: " + "[" * 700 + "Int" + "]" * 700 + ") { __typename }",
        ],
    )
    def test_of_the_text_ends_before_the_stack_does(self, refused, query):
        assert refused(query) in {"query-too-deep", "query-unreadable", "query-invalid"}


class TestCost:
    def test_of_lists_in_lists_is_bounded(self, refused):
        code = refused(
            "{ products(first: 100) { nodes { reviews(first: 100) { nodes { id } } } } }"
        )

        assert code == "query-too-costly"

    @pytest.mark.parametrize("first", [1_000_000, 10**30])
    def test_of_a_huge_page_is_huge(self, refused, first):
        query = f"{{ products(first: {first}) {{ nodes {{ id }} }} }}"

        assert refused(query) == "query-too-costly"

    def test_counts_variables(self, refused):
        query = "query($n: Int!) { products(first: $n) { nodes { id } } }"

        assert refused(query, variables={"n": 1_000_000}) == "query-too-costly"

    def test_counts_default_values_of_variables(self, refused):
        query = "query($n: Int! = 1000000) { products(first: $n) { nodes { id } } }"

        assert refused(query) == "query-too-costly"

    def test_of_a_negative_page_takes_nothing_off(self, refused):
        costly = (
            "products(first: 100) { nodes { reviews(first: 100) { nodes { id } } } }"
        )
        negative = "categories(first: -1000000) { nodes { children { nodes { id } } } }"

        assert refused(f"{{ {costly} {negative} }}") == "query-too-costly"

    def test_counts_what_is_left_out_by_a_directive(self, refused):
        costly = (
            "{ products(first: 100) @skip(if: true)"
            " { nodes { reviews(first: 100) { nodes { id } } } } }"
        )

        assert refused(costly) == "query-too-costly"

    def test_is_that_of_the_operation_that_is_meant(self, shop):
        cheap = "query A { __typename }"
        costly = (
            "query B { products(first: 100)"
            " { nodes { reviews(first: 100) { nodes { id } } } } }"
        )
        body = {"query": f"{cheap} {costly}", "operationName": "A"}

        answer = shop.test_client().post(PATH, json=body)

        assert answer.json["extensions"]["cost"]["requested"] == 0
        assert answer.json["data"] == {"__typename": "Query"}


class TestForm:
    @pytest.mark.parametrize(
        "body",
        [
            [{"query": "{ __typename }"}],
            [],
            "{ __typename }",
            {},
            {"query": 5},
            {"query": "{ __typename }", "more": 1},
            {"query": "{ __typename }", "variables": []},
            {"query": "{ __typename }", "operationName": "no name"},
            {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "../a"}}},
            {"extensions": {"persistedQuery": {"version": 2, "sha256Hash": "a" * 64}}},
        ],
    )
    def test_that_is_no_request_is_a_problem(self, shop, assert_problem, body):
        answer = shop.test_client().post(PATH, json=body)

        assert_problem(answer, 422, "invalid-request")

    def test_that_is_no_json_is_a_problem(self, shop, assert_problem):
        client = shop.test_client()
        for kind in ("application/graphql", "text/plain", "multipart/form-data"):
            answer = client.post(PATH, data="{ __typename }", content_type=kind)
            assert_problem(answer, 415)
        broken = client.post(PATH, data="{", content_type="application/json")
        assert_problem(broken, 400)

    def test_that_says_two_things_is_a_problem(self, shop, assert_problem):
        answer = shop.test_client().get(f"{PATH}?extensions={{}}&extensions={{}}")

        assert_problem(answer, 400)

    @pytest.mark.parametrize("method", ["put", "patch", "delete"])
    def test_of_a_change_is_unknown(self, shop, assert_problem, method):
        answer = getattr(shop.test_client(), method)(PATH, json={})

        assert_problem(answer, 405)

    @pytest.mark.parametrize(
        "query",
        [
            "mutation { a }",
            "subscription { a }",
            "type A { b: Int }",
            "{",
            "",
            "\u0000",
        ],
    )
    def test_that_is_no_query_is_refused(self, shop, query):
        answer = shop.test_client().post(PATH, json={"query": query})

        assert answer.status_code in {400, 422}

    @pytest.mark.parametrize("text", [r"\u0000", r"\uD800", r"' or 1=1 --", r"%00"])
    def test_of_a_text_does_no_harm(self, shop, text):
        for field in ("sku", "slug", "id"):
            query = f'{{ product({field}: "{text}") {{ id }} }}'
            answer = shop.test_client().post(PATH, json={"query": query})
            assert answer.status_code in {200, 422}
            # Not `answer.json`: what is wrong is told with the character that is.
            assert json.loads(answer.data)["errors"]

    def test_of_a_review_text_does_no_harm(self, shop, make_app, merchandiser):
        made = shop.test_client().post(
            "/api/v1/products",
            json={"sku": "texts", "name": "T", "price_minor": 1},
            headers=merchandiser,
        )
        assert made.status_code in {201, 409}
        query = '{ product(sku: "texts") { reviews(language: "\\u0000") { nodes { id } } } }'

        answer = shop.test_client().post(PATH, json={"query": query})

        (error,) = answer.json["errors"]
        assert error["extensions"]["code"] == "invalid-request"

    @pytest.mark.parametrize("cursor", ["", "a.b", "\u0000", "é", "a" * 2001])
    def test_of_a_cursor_is_checked(self, shop, cursor):
        query = "query($after: String) { products(after: $after) { nodes { id } } }"
        body = json.dumps({"query": query, "variables": {"after": cursor}})

        answer = shop.test_client().post(
            PATH, data=body, content_type="application/json"
        )

        if answer.status_code == 200:
            (error,) = answer.json["errors"]
            codes = {"cursor-invalid", "invalid-request"}
            assert error["extensions"]["code"] in codes
        else:
            assert answer.status_code == 400


class TestIntrospection:
    QUERY = "{ __schema { types { name } } }"
    WRONG = (
        "{ productz { nodes { id } } }",
        "{ products { nodes { nam } } }",
        "{ products(fist: 1) { nodes { id } } }",
        "{ products(sort: NEWST) { nodes { id } } }",
        "{ products(filter: {statis: ANY}) { nodes { id } } }",
        "{ products { nodes { ... on Produkt { id } } } }",
    )

    @pytest.fixture
    def production(self, make_app, migrated):
        return make_app(migrated(), environment="production").test_client()

    @pytest.fixture
    def development(self, make_app, migrated):
        return make_app(migrated(), environment="development").test_client()

    @pytest.mark.parametrize(
        "query",
        [QUERY, '{ __type(name: "Product") { name } }', "{ a: __schema { a } }"],
    )
    def test_is_off_in_production(self, production, query):
        answer = production.post(PATH, json={"query": query})

        assert answer.status_code == 422
        assert "data" not in answer.json

    def test_is_on_in_development(self, development):
        answer = development.post(PATH, json={"query": self.QUERY})

        names = {kind["name"] for kind in answer.json["data"]["__schema"]["types"]}
        assert "ProductConnection" in names

    def test_as_tools_ask_for_it_is_on_in_development(self, development):
        from graphql import get_introspection_query

        answer = development.post(PATH, json={"query": get_introspection_query()})

        assert answer.status_code == 200

    @pytest.mark.parametrize("query", WRONG)
    def test_by_guessing_is_off_in_production(self, production, query):
        answer = production.post(PATH, json={"query": query})

        assert answer.status_code == 422
        assert "Did you mean" not in answer.text

    def test_by_guessing_variables_is_off_in_production(self, production):
        query = (
            "query($f: ProductFilter, $s: ProductSort)"
            " { products(filter: $f, sort: $s) { nodes { id } } }"
        )
        for variables in ({"f": {"statis": "ANY"}}, {"s": "NEWST"}):
            body = {"query": query, "variables": variables}
            answer = production.post(PATH, json=body)
            assert answer.status_code == 422
            assert "Did you mean" not in answer.text

    def test_by_page_is_never_there(self, production, development):
        for client in (production, development):
            answer = client.get(PATH, headers={"Accept": "text/html"})
            assert answer.status_code in {406, 422}
            assert answer.mimetype == "application/problem+json"
