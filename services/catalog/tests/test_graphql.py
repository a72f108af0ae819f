"""The GraphQL API: the same things as over REST, batched, by hash, and in its own form."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import redis
from graphql import (
    build_schema,
    get_named_type,
    is_list_type,
    is_object_type,
    parse,
    validate,
)
from graphql.type import get_nullable_type
from sqlalchemy import event, update
from structlog.contextvars import get_contextvars

from flagon_catalog.domain import products
from flagon_catalog.models import Review
from flagon_catalog.routes import graphql
from flagon_catalog.routes.graphql import documents, weight
from flagon_chassis.testing import free_port

PATH = "/api/v1/graphql"
PRODUCTS = "/api/v1/products"
SDL = Path(__file__).parents[1] / "schema.graphql"


@pytest.fixture
def ask(client):
    """Send a query and return the whole answer."""

    def ask(query, headers=None, status=200, **variables):
        body = {"query": query, "variables": variables}
        answer = client.post(PATH, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json

    return ask


@pytest.fixture
def data(ask):
    """Send a query that has no errors and return its data."""

    def data(query, headers=None, **variables):
        answer = ask(query, headers, **variables)
        assert "errors" not in answer, answer
        return answer["data"]

    return data


@pytest.fixture
def review(client, bearer, merchandiser):
    """Write a review of a product; return it."""

    def review(product, *, publish=True, headers=None, **fields):
        body = {"author": "Ada", "rating": 5, "title": "T", "body": "*b*", **fields}
        path = f"{PRODUCTS}/{product['id']}/reviews"
        # Each by somebody else: an account reviews a product once.
        made = client.post(path, json=body, headers=headers or bearer("reviews:write"))
        assert made.status_code == 201, made.text
        if publish:
            path = f"/api/v1/reviews/{made.json['id']}/publish"
            tag = {"If-Match": made.headers["ETag"]}
            shown = client.post(path, headers={**merchandiser, **tag})
            assert shown.status_code == 200, shown.text
        return made.json

    return review


@pytest.fixture
def statements(session):
    """Count the statements of a call, without those that a test's savepoints need."""

    def statements(call):
        caught = []
        connection = session.connection()

        def note(*args):
            if "SAVEPOINT" not in args[2]:
                caught.append(args[2])

        event.listen(connection, "before_cursor_execute", note)
        try:
            call()
        finally:
            event.remove(connection, "before_cursor_execute", note)
        return len(caught)

    return statements


def codes(answer):
    return [error["extensions"]["code"] for error in answer["errors"]]


def digest(text):
    return sha256(text.encode()).hexdigest()


class TestProduct:
    def test_has_all_that_rest_shows(self, client, data, make, make_category, make_tag):
        make_category(slug="kitchen")
        make_tag(slug="sale")
        made = make(
            category="kitchen",
            tags=["sale"],
            stock=3,
            price_minor=999_999_999_999,
            attributes={"colour": ["blue", 1, None]},
        )
        rest = client.get(f"{PRODUCTS}/{made['id']}").json

        found = data(
            "query($id: ID!) { product(id: $id) { id sku slug name description priceMinor"
            " currency status stock available attributes rating { count average } version"
            " createdAt updatedAt category { slug } tags { slug } } }",
            id=made["id"],
        )["product"]

        assert found == {
            **{name: rest[name] for name in ("id", "sku", "slug", "name", "currency")},
            **{name: rest[name] for name in ("description", "stock", "available")},
            **{name: rest[name] for name in ("attributes", "rating", "version")},
            "priceMinor": 999_999_999_999,
            "status": "ACTIVE",
            "createdAt": rest["created_at"],
            "updatedAt": rest["updated_at"],
            "category": {"slug": "kitchen"},
            "tags": [{"slug": "sale"}],
        }

    @pytest.mark.parametrize("name", ["id", "slug", "sku"])
    def test_is_found_by_each_name(self, data, make, name):
        made = make()
        literal = json.dumps(made[name])

        assert data(f"{{ product({name}: {literal}) {{ id }} }}") == {
            "product": {"id": made["id"]}
        }

    @pytest.mark.parametrize(
        "arguments",
        [
            "",
            '(sku: "a", slug: "a")',
            "(sku: null)",
        ],
    )
    def test_is_asked_for_by_one_name(self, ask, arguments):
        assert codes(ask(f"{{ product{arguments} {{ id }} }}")) == ["key-unclear"]

    def test_that_is_not_there_is_null_and_says_why(self, ask):
        answer = ask('{ product(sku: "none") { id } }')

        assert answer["data"] == {"product": None}
        (error,) = answer["errors"]
        assert error["path"] == ["product"]
        assert error["locations"] == [{"line": 1, "column": 3}]
        assert error["extensions"]["code"] == "product-not-found"
        assert error["extensions"]["type"].endswith("/problems#product-not-found")

    def test_has_its_prices(self, client, data, make, merchandiser):
        made = make(price_minor=100)
        client.patch(
            f"{PRODUCTS}/{made['id']}",
            json={"price_minor": 90},
            headers={**merchandiser, "If-Match": made["etag"]},
        )

        query = """query($id: ID!, $after: String) { product(id: $id) {
            prices(first: 1, after: $after) {
                nodes { version priceMinor currency from } pageInfo { endCursor hasNextPage }
            } } }"""
        first = data(query, id=made["id"])["product"]["prices"]
        cursor = first["pageInfo"]["endCursor"]
        last = data(query, id=made["id"], after=cursor)["product"]["prices"]

        rest = client.get(f"{PRODUCTS}/{made['id']}/prices").json["items"]
        assert [page["nodes"][0]["from"] for page in (first, last)] == [
            item["from"] for item in rest
        ]
        assert [page["nodes"][0]["priceMinor"] for page in (first, last)] == [90, 100]
        assert first["pageInfo"]["hasNextPage"]
        assert not last["pageInfo"]["hasNextPage"]


class TestProducts:
    @pytest.fixture(autouse=True)
    def _assortment(self, make, make_category, make_tag):
        make_category(slug="house")
        make_category(slug="kitchen", parent="house")
        make_tag(slug="sale")
        make(sku="a", name="Apple", price_minor=100, category="kitchen", stock=1)
        make(sku="b", name="Bread", price_minor=200, category="house", tags=["sale"])
        make(sku="c", name="Corn", price_minor=300, currency="CHF")
        make(sku="d", name="Draft", price_minor=400, status="draft")

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("", "cba"),
            ("(sort: NAME)", "abc"),
            ("(sort: PRICE_DESC)", "cba"),
            ('(category: "house")', "ba"),
            ('(category: "kitchen")', "a"),
            ('(category: "nowhere")', ""),
            ('(q: "bread")', "b"),
            ('(filter: {tags: ["sale"]})', "b"),
            ("(filter: {priceMinorMin: 150, priceMinorMax: 250})", "b"),
            ('(filter: {currency: "CHF"})', "c"),
            ("(filter: {inStock: true})", "a"),
        ],
    )
    def test_are_filtered_and_ordered_as_over_rest(self, data, arguments, expected):
        found = data(f"{{ products{arguments} {{ nodes {{ sku }} }} }}")

        assert "".join(node["sku"] for node in found["products"]["nodes"]) == expected

    @pytest.mark.parametrize("status", ["DRAFT", "ARCHIVED", "ANY"])
    def test_that_are_hidden_need_the_scope(self, ask, data, merchandiser, status):
        query = f"{{ products(filter: {{status: {status}}}) {{ nodes {{ sku }} }} }}"

        assert codes(ask(query)) == ["hidden-products"]
        found = data(query, merchandiser)["products"]["nodes"]
        assert {"sku": "d"} in found or status == "ARCHIVED"

    @pytest.mark.parametrize("sort", ["NEWEST", "OLDEST", "NAME", "PRICE_DESC"])
    def test_come_in_pages_that_miss_nothing(self, data, sort):
        query = """query($after: String, $sort: ProductSort) {
            products(first: 1, after: $after, sort: $sort) {
                edges { cursor node { sku } }
                pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
        found, after = [], None
        while True:
            page = data(query, after=after, sort=sort)["products"]
            found += [edge["node"]["sku"] for edge in page["edges"]]
            assert page["pageInfo"]["hasPreviousPage"] == (after is not None)
            after = page["pageInfo"]["endCursor"]
            assert page["edges"][-1]["cursor"] == after
            assert page["pageInfo"]["startCursor"] == page["edges"][0]["cursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break

        assert sorted(found) == ["a", "b", "c"]

    def test_go_on_where_rest_stopped(self, client, data):
        cursor = client.get(f"{PRODUCTS}?limit=1").json["next_cursor"]

        found = data(
            "query($after: String) { products(after: $after) { nodes { sku } } }",
            after=cursor,
        )

        assert [node["sku"] for node in found["products"]["nodes"]] == ["b", "a"]

    def test_refuse_the_cursor_of_another_list(self, ask, client):
        cursor = client.get(f"{PRODUCTS}?limit=1&sort=name").json["next_cursor"]

        answer = ask(
            "query($after: String) { products(after: $after) { nodes { sku } } }",
            after=cursor,
        )

        assert codes(answer) == ["cursor-invalid"]

    @pytest.mark.parametrize(
        ("arguments", "pointer"),
        [
            ("(first: 0)", "#/first"),
            ("(first: -1)", "#/first"),
            ("(first: 101)", "#/first"),
            ('(category: "No Slug")', "#/category"),
            ('(filter: {tags: ["No Slug"]})', "#/tags/0"),
            ("(filter: {priceMinorMin: -1})", "#/priceMinorMin"),
            ('(q: "\\u0000")', "#/q"),
        ],
    )
    def test_refuse_arguments_as_rest_does(self, ask, arguments, pointer):
        answer = ask(f"{{ products{arguments} {{ nodes {{ sku }} }} }}")

        assert codes(answer) == ["invalid-request"]
        (wrong,) = answer["errors"][0]["extensions"]["errors"]
        assert wrong["pointer"] == pointer

    def test_have_a_relevance_in_a_search_alone(self, ask):
        answer = ask("{ products(sort: RELEVANCE) { nodes { sku } } }")

        assert codes(answer) == ["relevance-unknown"]


class TestCategories:
    @pytest.fixture(autouse=True)
    def _shelves(self, make_category, make):
        make_category(slug="house", name="House")
        make_category(slug="kitchen", name="Kitchen", parent="house")
        make_category(slug="bath", name="Bath", parent="house")
        make_category(slug="pots", name="Pots", parent="kitchen")
        make(sku="pot", category="pots")
        make(sku="towel", category="bath")
        make(sku="secret", category="bath", status="draft")

    def test_are_a_tree(self, data):
        found = data(
            """{ categories(roots: true, first: 5) { nodes { slug parent { slug }
                children(first: 5) { nodes { slug parent { slug } ancestors { slug }
                  children(first: 5) { nodes { slug path ancestors { slug } } } } } } } }"""
        )["categories"]["nodes"]

        assert found == [
            {
                "slug": "house",
                "parent": None,
                "children": {
                    "nodes": [
                        {
                            "slug": "bath",
                            "parent": {"slug": "house"},
                            "ancestors": [{"slug": "house"}],
                            "children": {"nodes": []},
                        },
                        {
                            "slug": "kitchen",
                            "parent": {"slug": "house"},
                            "ancestors": [{"slug": "house"}],
                            "children": {
                                "nodes": [
                                    {
                                        "slug": "pots",
                                        "path": ["house", "kitchen", "pots"],
                                        "ancestors": [
                                            {"slug": "house"},
                                            {"slug": "kitchen"},
                                        ],
                                    }
                                ]
                            },
                        },
                    ]
                },
            }
        ]

    def test_hold_the_products_of_all_in_them(self, data, merchandiser):
        query = """query($wanted: StatusFilter! = ACTIVE) {
            categories(first: 10) { nodes { slug
              products(sort: OLDEST, filter: {status: $wanted}) { nodes { sku } } } } }"""

        def shelves(*args, **variables):
            return {
                node["slug"]: [item["sku"] for item in node["products"]["nodes"]]
                for node in data(query, *args, **variables)["categories"]["nodes"]
            }

        assert shelves() == {
            "house": ["pot", "towel"],
            "kitchen": ["pot"],
            "bath": ["towel"],
            "pots": ["pot"],
        }
        assert shelves(merchandiser, wanted="ANY")["bath"] == ["towel", "secret"]

    def test_refuse_hidden_products_in_them_too(self, ask):
        answer = ask(
            '{ category(slug: "bath") { products(filter: {status: ANY})'
            " { nodes { sku } } } }"
        )

        assert codes(answer) == ["hidden-products"]

    @pytest.mark.parametrize("field", ["children", "products"])
    def test_have_pages_in_them(self, data, field):
        query = f"""query($after: String) {{ category(slug: "house") {{
            {field}(first: 1, after: $after) {{ nodes {{ id }}
              pageInfo {{ endCursor hasNextPage }} }} }} }}"""
        first = data(query)["category"][field]
        second = data(query, after=first["pageInfo"]["endCursor"])["category"][field]

        assert first["pageInfo"]["hasNextPage"]
        assert not second["pageInfo"]["hasNextPage"]
        assert len({first["nodes"][0]["id"], second["nodes"][0]["id"]}) == 2

    @pytest.mark.parametrize("field", ["children", "products"])
    def test_take_a_cursor_only_where_there_is_one_list(self, data, ask, field):
        query = f"""{{ category(slug: "house") {{
            {field}(first: 1) {{ pageInfo {{ endCursor }} }} }} }}"""
        cursor = data(query)["category"][field]["pageInfo"]["endCursor"]

        answer = ask(
            f"""query($after: String) {{ categories {{ nodes {{
                {field}(first: 1, after: $after) {{ nodes {{ id }} }} }} }} }}""",
            after=cursor,
        )

        assert set(codes(answer)) == {"cursor-invalid"}


class TestReviews:
    def test_are_the_published_ones(self, data, make, review, merchandiser):
        product = make()
        review(product, rating=4, title="Shown")
        review(product, publish=False, title="Waits")
        query = """query($id: ID!) { product(id: $id) { rating { count average }
            reviews { nodes { title rating bodyHtml state subject note
                product { id } } } } }"""

        for headers in (None, merchandiser):
            found = data(query, headers, id=product["id"])["product"]

            assert found["rating"] == {"count": 1, "average": 4.0}
            (shown,) = found["reviews"]["nodes"]
            assert shown == {
                "title": "Shown",
                "rating": 4,
                "bodyHtml": "<p><em>b</em></p>",
                "state": "PUBLISHED",
                "subject": None,
                "note": None,
                "product": {"id": product["id"]},
            }

    def test_that_wait_are_seen_by_author_and_moderators(
        self, ask, data, make, review, bearer, merchandiser
    ):
        author = bearer("reviews:write")
        waiting = review(make(), publish=False, headers=author)
        query = "query($id: ID!) { review(id: $id) { state } }"

        for headers in (author, merchandiser):
            found = data(query, headers, id=waiting["id"])
            assert found["review"]["state"] == "PENDING"
        for headers in (None, bearer("reviews:write")):
            answer = ask(query, headers, id=waiting["id"])
            assert codes(answer) == ["review-not-found"]

    def test_lead_to_no_hidden_product(
        self, client, data, make, review, bearer, merchandiser
    ):
        author = bearer("reviews:write")
        product = make()
        mine = review(product, publish=False, headers=author)
        client.patch(
            f"{PRODUCTS}/{product['id']}",
            json={"status": "archived"},
            headers={**merchandiser, "If-Match": product["etag"]},
        )
        query = "query($id: ID!) { review(id: $id) { product { sku } } }"

        assert data(query, author, id=mine["id"])["review"]["product"] is None
        assert data(query, merchandiser, id=mine["id"])["review"]["product"]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("", "bac"),
            ("(sort: HIGHEST)", "cba"),
            ("(sort: LOWEST)", "abc"),
            ("(rating: 3)", "b"),
            ('(language: "de")', "c"),
            ("(first: 1)", "b"),
        ],
    )
    def test_of_each_product_are_ordered_and_filtered(
        self, session, data, make, review, arguments, expected
    ):
        product, other = make(), make()
        for title, rating, language in (("c", 5, "de"), ("a", 1, "en"), ("b", 3, "en")):
            made = review(product, title=title, rating=rating, language=language)
            # One transaction, one time: the database would call them equally new.
            session.execute(
                update(Review)
                .where(Review.id == made["id"])
                .values(created_at=f"2026-01-0{'cab'.index(title) + 1}T00:00:00Z")
            )
        review(other, title="x", rating=3, language="de")
        asked = f"reviews{arguments} {{ nodes {{ title }} }}"
        query = f"{{ products {{ nodes {{ id {asked} }} }} }}"

        found = {
            node["id"]: "".join(item["title"] for item in node["reviews"]["nodes"])
            for node in data(query)["products"]["nodes"]
        }

        assert found == {product["id"]: expected, other["id"]: "x"}


class TestStatements:
    QUERY = """query($first: Int!) { products(first: $first) { nodes {
        name available descriptionHtml rating { count }
        category { name parent { name } ancestors { name }
            children(first: 2) { nodes { name } }
            products(first: 2) { nodes { name tags { name } } } }
        tags { name }
        reviews(first: 2) { nodes { title product { name } } }
        prices(first: 2) { nodes { priceMinor } }
    } } }"""

    def test_are_as_many_for_fifty_products_as_for_one(
        self, make, make_category, make_tag, review, data, statements
    ):
        make_category(slug="house")
        for number in range(5):
            make_category(slug=f"c{number}", parent="house")
            make_tag(slug=f"t{number}")
        for number in range(50):
            made = make(category=f"c{number % 5}", tags=[f"t{number % 5}"])
            if number >= 45:
                review(made)

        few = statements(lambda: data(self.QUERY, first=1))
        many = statements(lambda: data(self.QUERY, first=50))

        # Products, their descriptions; their category, above and in it, products in it
        # with tags; tags, reviews and their product, prices.
        assert few == many == 11
        found = data(self.QUERY, first=50)["products"]["nodes"]
        assert len(found) == 50
        assert all(len(node["category"]["products"]["nodes"]) == 2 for node in found)
        assert sum(len(node["reviews"]["nodes"]) for node in found) == 5

    def test_are_none_for_what_is_not_asked_for(self, make, data, statements):
        make()

        assert statements(lambda: data("{ products { nodes { name } } }")) == 1
        assert statements(lambda: data("{ __typename }")) == 0

    def test_of_a_product_alone_without_tags_and_category(self, make, data, statements):
        made = make()
        query = (
            f'{{ product(id: "{made["id"]}") {{ category {{ id }} tags {{ id }} }} }}'
        )

        assert statements(lambda: data(query)) == 1


class TestPersisted:
    QUERY = "query Short($n: Int! = 1) { products(first: $n) { nodes { name } } }"

    @pytest.fixture
    def by_hash(self, client):
        def by_hash(text, **more):
            body = {"extensions": {"persistedQuery": persisted(text)}, **more}
            return client.post(PATH, json=body)

        return by_hash

    def test_is_known_after_it_came_with_its_hash(self, make, by_hash, request):
        # A hash of its own: other tests use the same Redis.
        text = f"# {request.node.name}\n{self.QUERY}"
        made = make()

        unknown = by_hash(text)
        taught = by_hash(text, query=text)
        known = by_hash(text, variables={"n": 5})

        assert unknown.status_code == 404
        assert unknown.json["errors"][0]["message"] == "PersistedQueryNotFound"
        assert codes(unknown.json) == ["persisted-query-not-found"]
        assert taught.status_code == known.status_code == 200
        assert known.json["data"] == {"products": {"nodes": [{"name": made["name"]}]}}

    def test_is_known_to_other_processes(self, make_app, database_url, by_hash):
        text = f"# of one process\n{self.QUERY}"
        assert by_hash(text, query=text).status_code == 200

        other = make_app(database_url).test_client()
        answer = other.post(
            PATH, json={"extensions": {"persistedQuery": persisted(text)}}
        )

        assert answer.status_code == 200

    def test_can_be_asked_for_by_address_and_cached(
        self, client, by_hash, merchandiser
    ):
        text = f"# by address\n{self.QUERY}"
        by_hash(text, query=text)
        asked = {
            "extensions": json.dumps({"persistedQuery": persisted(text)}),
            "variables": '{"n": 2}',
            "operationName": "Short",
        }

        public = client.get(PATH, query_string=asked)
        own = client.get(PATH, query_string=asked, headers=merchandiser)

        assert public.status_code == own.status_code == 200
        assert public.headers["Cache-Control"].startswith("public")
        assert own.headers["Cache-Control"].startswith("private")
        assert public.headers["Vary"] == "Accept, Authorization"

    def test_is_no_text_in_an_address(self, client, assert_problem):
        asked = {"query": "{ __typename }", "extensions": "{}"}

        assert_problem(client.get(PATH, query_string=asked), 422, "invalid-request")

    @pytest.mark.parametrize(
        ("name", "text"),
        [("variables", "{"), ("extensions", "{"), ("variables", "NaN")],
    )
    def test_needs_json_in_an_address(self, client, assert_problem, name, text):
        asked = {"extensions": "{}", name: text}

        assert_problem(client.get(PATH, query_string=asked), 400)

    def test_must_fit_its_hash(self, by_hash):
        answer = by_hash("{ __typename }", query="{ products { nodes { id } } }")

        assert answer.status_code == 422
        assert codes(answer.json) == ["persisted-query-mismatch"]

    def test_is_kept_only_when_it_is_good(self, by_hash):
        text = "{ nothing }"

        assert codes(by_hash(text, query=text).json) == ["query-invalid"]
        assert codes(by_hash(text).json) == ["persisted-query-not-found"]

    def test_goes_on_without_redis(self, make_app, database_url):
        down = f"redis://127.0.0.1:{free_port()}/0"
        client = make_app(database_url, redis_cache_url=down).test_client()
        text = f"# without redis\n{self.QUERY}"
        named = {"extensions": {"persistedQuery": persisted(text)}}

        unknown = client.post(PATH, json=named)
        told = client.post(PATH, json={**named, "query": text})

        assert codes(unknown.json) == ["persisted-query-not-found"]
        assert told.status_code == 200

    def test_is_forgotten_when_nobody_uses_it(self, client, by_hash, redis_server):
        text = f"# for a day\n{self.QUERY}"
        by_hash(text, query=text)

        seconds = redis.Redis.from_url(redis_server.url).ttl(
            f"catalog:graphql:{digest(text)}"
        )

        assert 0 < seconds <= 24 * 3600


def persisted(text):
    return {"version": 1, "sha256Hash": digest(text)}


class TestShipped:
    @pytest.fixture
    def strict(self, make_app, database_url):
        return make_app(database_url, graphql_only_persisted=True).test_client()

    def test_are_there_and_fit_the_schema(self):
        core = build_schema(SDL.read_text())

        found = documents.shipped()

        assert len(found) >= 3
        for text in found.values():
            assert validate(core, parse(text)) == []

    def test_alone_are_carried_out_when_it_is_so_set(self, strict):
        (text,) = (
            text for text in documents.shipped().values() if "CategoryTree" in text
        )
        whole = strict.post(PATH, json={"query": text})
        named = strict.post(
            PATH, json={"extensions": {"persistedQuery": persisted(text)}}
        )
        other = strict.post(PATH, json={"query": "{ __typename }"})
        unknown = strict.post(
            PATH, json={"extensions": {"persistedQuery": persisted("{ a }")}}
        )

        assert whole.status_code == named.status_code == 200
        assert other.status_code == unknown.status_code == 403
        assert codes(other.json) == codes(unknown.json) == ["query-not-listed"]

    def test_are_known_by_hash_from_the_start(self, client):
        (text,) = (
            text for text in documents.shipped().values() if "ProductList" in text
        )

        answer = client.post(
            PATH, json={"extensions": {"persistedQuery": persisted(text)}}
        )

        assert answer.status_code == 200


class TestAnswer:
    @pytest.mark.parametrize(
        ("accept", "media", "status"),
        [
            (None, graphql.GRAPHQL, 422),
            ("*/*", graphql.GRAPHQL, 422),
            (graphql.GRAPHQL, graphql.GRAPHQL, 422),
            (f"{graphql.JSON}, {graphql.GRAPHQL};q=0.9", graphql.JSON, 200),
            (graphql.JSON, graphql.JSON, 200),
        ],
    )
    def test_to_a_bad_query_has_the_type_and_status_of_the_client(
        self, client, accept, media, status
    ):
        headers = {"Accept": accept} if accept else {}

        answer = client.post(PATH, json={"query": "{ nothing }"}, headers=headers)

        assert (answer.status_code, answer.mimetype) == (status, media)
        assert "data" not in answer.json
        assert codes(answer.json) == ["query-invalid"]
        assert answer.headers["Cache-Control"] == "no-store"

    def test_is_refused_in_another_type(self, client, assert_problem):
        answer = client.post(
            PATH, json={"query": "{ __typename }"}, headers={"Accept": "text/csv"}
        )

        assert_problem(answer, 406)

    def test_tells_the_cost(self, ask):
        answer = ask("{ products(first: 50) { nodes { name category { name } } } }")

        assert answer["extensions"]["cost"] == {"requested": 101, "maximum": 5000}

    def test_tells_of_variables_that_do_not_fit(self, ask):
        answer = ask(
            "query($n: Int!) { products(first: $n) { nodes { id } } }",
            status=422,
            n="x",
        )

        assert codes(answer) == ["query-invalid"]
        assert "data" not in answer

    def test_tells_of_an_operation_that_is_not_there(self, client):
        body = {"query": "query A { __typename }", "operationName": "B"}

        answer = client.post(PATH, json=body)

        assert answer.status_code == 422
        assert codes(answer.json) == ["query-invalid"]

    def test_holds_part_of_what_was_asked(self, ask, make):
        made = make()

        answer = ask(
            f'{{ a: product(sku: "{made["sku"]}") {{ sku }} b: product(sku: "no")'
            " { sku } }"
        )

        assert answer["data"] == {"a": {"sku": made["sku"]}, "b": None}
        assert codes(answer) == ["product-not-found"]

    def test_to_a_bad_token_is_a_problem(self, client, assert_problem):
        answer = client.post(
            PATH,
            json={"query": "{ __typename }"},
            headers={"Authorization": "Bearer made.up.token"},
        )

        assert_problem(answer, 401, "token-invalid")

    def test_beyond_the_limit_is_a_problem(
        self, make_app, database_url, assert_problem
    ):
        client = make_app(database_url, graphql_limit="2 per minute").test_client()
        asked = [client.post(PATH, json={"query": "{ __typename }"}) for _ in range(3)]

        assert [answer.status_code for answer in asked] == [200, 200, 429]
        assert_problem(asked[2], 429)
        assert client.get(PRODUCTS).status_code == 200

    def test_is_logged_and_counted_without_made_up_names(self, client):
        body = {"query": "query MadeUp { __typename }", "operationName": "MadeUp"}
        client.post(PATH, json=body)

        # Every line that is logged of a request has these.
        logged = get_contextvars()
        assert logged["graphql_operation"] == "MadeUp"
        assert logged["graphql_cost"] == 0
        assert "MadeUp" not in client.get("/metrics").text
        assert 'flagon_catalog_graphql_total{operation="other",outcome="answered"}' in (
            client.get("/metrics").text
        )


class TestDown:
    @pytest.fixture
    def without_postgres(self, make_app):
        url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
        return make_app(url, owner_database_url=None).test_client()

    def test_postgres_is_a_503_problem(self, without_postgres, assert_problem):
        answer = without_postgres.post(
            PATH,
            json={
                "query": "{ a: products { nodes { id } } b: categories { nodes"
                " { id } } }"
            },
        )

        assert_problem(answer, 503, "dependency-down")
        assert int(answer.headers["Retry-After"]) > 0

    def test_store_redis_does_not_matter(self, make_app, migrated, merchandiser):
        down = f"redis://127.0.0.1:{free_port()}/0"
        client = make_app(
            migrated(), redis_store_url=down, redis_cache_url=down
        ).test_client()

        answer = client.post(
            PATH,
            json={"query": "{ products(filter: {status: ANY}) { nodes { id } } }"},
            headers=merchandiser,
        )

        assert answer.json["data"] == {"products": {"nodes": []}}

    def test_what_nobody_expected_tells_nothing(
        self, client, monkeypatch, assert_problem
    ):
        asked = []

        def broken(*_args, **_more):
            asked.append(1)
            raise RuntimeError("psycopg: SELECT secret")

        monkeypatch.setattr(products, "list_products", broken)

        answer = client.post(
            PATH,
            json={
                "query": "{ a: products { nodes { id } } b: products { nodes { id } } }"
            },
        )

        assert_problem(answer, 500)
        assert "secret" not in answer.text
        assert len(asked) == 1


class TestSchema:
    def test_is_the_one_in_the_repository(self):
        printed = graphql.schema().as_str() + "\n"

        assert SDL.read_text() == printed, (
            "Renew it: cd services/catalog &&"
            " python -m flagon_catalog.routes.graphql > schema.graphql"
        )

    def test_has_no_list_whose_size_the_cost_does_not_know(self):
        core = build_schema(SDL.read_text())
        for kind in core.type_map.values():
            if not is_object_type(kind) or kind.name.startswith("__"):
                continue
            for name, field in kind.fields.items():
                inner = get_named_type(field.type)
                if inner.name.endswith("Connection"):
                    assert name in weight.CONNECTIONS
                    default = field.args["first"].default.literal.value
                    assert int(default) == weight.FIRST
                elif is_list_type(get_nullable_type(field.type)) and is_object_type(
                    inner
                ):
                    assert name in {*weight.LISTS, *weight.WRAPPERS}

    def test_changes_nothing(self):
        core = build_schema(SDL.read_text())

        assert core.mutation_type is None
        assert core.subscription_type is None
