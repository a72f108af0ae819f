"""Some fields of products, what is shown with them, and the methods of every address."""

from uuid import uuid4

import pytest
from sqlalchemy import event

from flagon_catalog.domain.shapes import NAMES

PRODUCTS = "/api/v1/products"
CATEGORIES = "/api/v1/categories"


@pytest.fixture
def statements(session):
    """Everything that the database is asked to select."""
    caught = []
    engine = session.get_bind().engine

    def catch(*args):
        if args[2].startswith("SELECT"):
            caught.append(args[2])

    event.listen(engine, "before_cursor_execute", catch)
    yield caught
    event.remove(engine, "before_cursor_execute", catch)


def paths(product):
    return (
        f"{PRODUCTS}/{product['id']}",
        f"{PRODUCTS}/by-slug/{product['slug']}",
        f"{PRODUCTS}/by-sku/{product['sku']}",
    )


class TestFields:
    @pytest.mark.parametrize("field", NAMES)
    def test_each_can_be_asked_for_alone(self, client, make, make_category, field):
        product = make(category=make_category()["slug"])

        for path in paths(product):
            assert client.get(f"{path}?fields={field}").json == {field: product[field]}
        page = client.get(f"{PRODUCTS}?fields={field}").json
        assert page["items"] == [{field: product[field]}]

    def test_come_in_the_order_of_the_api(self, client, make):
        product = make()

        shown = client.get(f"{paths(product)[0]}?fields=stock,sku,id,sku").json

        assert list(shown) == ["id", "sku", "stock"]

    def test_that_are_left_out_are_not_read(self, client, make, statements):
        make()
        statements.clear()

        client.get(f"{PRODUCTS}?fields=id,name")

        (statement,) = statements
        assert "description" not in statement
        assert "product_tag" not in statement

    def test_that_do_not_exist_are_refused_with_those_that_do(
        self, client, make, assert_problem
    ):
        for path in (PRODUCTS, *paths(make())):
            answer = client.get(f"{path}?fields=id,colour")

            problem = assert_problem(answer, 422, "field-unknown")
            assert problem["known"] == list(NAMES)
            assert problem["errors"][0]["pointer"] == "#/fields"

    @pytest.mark.parametrize("sort", ["-created_at", "name", "price_minor"])
    def test_page_like_the_whole(self, client, make, make_category, sort):
        make_category(slug="shelf")
        for number in range(5):
            make(price_minor=number % 2, category="shelf")
        base = f"{PRODUCTS}?sort={sort}&category=shelf"
        whole = [item["sku"] for item in client.get(base).json["items"]]

        first = client.get(f"{base}&limit=3&fields=sku").json
        # What is shown is no part of what is listed, so the cursor stays good.
        second = client.get(f"{base}&cursor={first['next_cursor']}&fields=sku,id").json

        found = [item["sku"] for item in first["items"] + second["items"]]
        assert found == whole

    def test_have_the_etag_of_the_product(self, client, make, merchandiser):
        product = make()
        asked = f"{paths(product)[0]}?fields=name"

        sparse = client.get(asked)

        assert sparse.headers["ETag"] == product["etag"]
        same = client.get(asked, headers={"If-None-Match": product["etag"]})
        assert (same.status_code, same.data) == (304, b"")
        changed = client.patch(
            paths(product)[0],
            json={"stock": 3},
            headers={**merchandiser, "If-Match": sparse.headers["ETag"]},
        )
        assert changed.status_code == 200
        again = client.get(asked, headers={"If-None-Match": product["etag"]})
        assert again.status_code == 200

    def test_hide_what_is_hidden(self, client, make, merchandiser, assert_problem):
        for path in paths(make(status="draft")):
            assert_problem(client.get(f"{path}?fields=name"), 404)
            answer = client.get(f"{path}?fields=name", headers=merchandiser)
            assert list(answer.json) == ["name"]


class TestInclude:
    def test_shows_the_category(self, client, make, make_category):
        make_category(slug="home")
        shelf = make_category(slug="kitchen", parent="home")
        shelf.pop("etag")
        product, bare = make(category="kitchen"), make()
        etags = product.pop("etag"), bare.pop("etag")

        for path in paths(product):
            shown = client.get(f"{path}?include=category").json
            assert shown == {**product, "embedded": {"category": shelf}}
        for one in (product, bare):
            one.pop("description_html")
        page = client.get(f"{PRODUCTS}?include=category").json

        assert etags
        assert page["items"] == [
            {**bare, "embedded": {"category": None}},
            {**product, "embedded": {"category": shelf}},
        ]

    def test_is_one_statement_for_a_page(self, client, make, make_category, statements):
        for _ in range(3):
            make(category=make_category()["slug"])
        statements.clear()

        page = client.get(f"{PRODUCTS}?include=category&fields=id").json

        assert len(page["items"]) == 3
        assert list(page["items"][0]) == ["id", "embedded"]
        assert len(statements) == 1

    def test_has_an_etag_that_changes_with_either(
        self, client, make, make_category, merchandiser
    ):
        shelf = make_category()
        product = make(category=shelf["slug"])
        asked = f"{paths(product)[0]}?include=category"
        first = client.get(asked).headers["ETag"]
        headers = {**merchandiser, "If-Match": "*"}

        assert client.get(asked, headers={"If-None-Match": first}).status_code == 304
        client.patch(
            f"{CATEGORIES}/{shelf['id']}", json={"name": "Other"}, headers=headers
        )
        second = client.get(asked, headers={"If-None-Match": first})
        client.patch(paths(product)[0], json={"stock": 3}, headers=headers)
        third = client.get(asked, headers={"If-None-Match": second.headers["ETag"]})

        assert second.json["embedded"]["category"]["name"] == "Other"
        assert third.json["stock"] == 3
        assert len({first, second.headers["ETag"], third.headers["ETag"]}) == 3

    def test_refuses_what_cannot_be_shown(self, client, make, assert_problem):
        for path in (PRODUCTS, *paths(make())):
            answer = client.get(f"{path}?include=stock")

            problem = assert_problem(answer, 422, "include-unknown")
            assert problem["known"] == ["category", "images"]


class TestMethods:
    """Of every address of the API: HEAD, OPTIONS and those that it does not have."""

    def addresses(self, app, product, category, tag):
        known = {
            "product_id": product["id"],
            "category_id": category["id"],
            "tag_id": tag["id"],
            "reservation_id": uuid4(),
            "review_id": uuid4(),
            "image_id": uuid4(),
        }
        adapter = app.url_map.bind("localhost")
        for rule in app.url_map.iter_rules():
            if not rule.rule.startswith("/api/"):
                continue
            slug = {"tags": tag, "categories": category}.get(
                rule.endpoint.split(".")[0], product
            )["slug"]
            values = {**known, "slug": slug, "sku": product["sku"]}
            wanted = {name: values[name] for name in rule.arguments}
            yield adapter.build(rule.endpoint, wanted), rule.methods

    @pytest.fixture
    def known(self, app, make, make_category, make_tag):
        made = list(self.addresses(app, make(), make_category(), make_tag()))
        assert len(made) > 10
        return made

    def test_options_names_those_that_are_there(self, client, known):
        for path, methods in known:
            answer = client.options(path)

            assert answer.status_code == 200, path
            assert set(answer.headers["Allow"].split(", ")) == methods
            assert answer.data == b""

    def test_others_are_refused_with_the_right_ones(
        self, client, known, assert_problem
    ):
        every = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
        for path, methods in known:
            for method in every - methods:
                answer = client.open(path, method=method)

                assert answer.status_code == 405, (method, path)
                assert set(answer.headers["Allow"].split(", ")) == methods
                if method != "HEAD":
                    assert_problem(answer, 405)

    def test_head_says_what_get_says_without_a_body(self, client, known):
        found = []
        for path, methods in known:
            if "GET" not in methods:
                continue
            get, head = client.get(path), client.head(path)

            assert (head.status_code, head.data) == (get.status_code, b""), path
            found.append(get.status_code)
            for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control"):
                assert head.headers.get(name) == get.headers.get(name)
        # The others ask for a token, or are of what is not there.
        assert found.count(200) > 10
