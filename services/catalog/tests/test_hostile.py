"""Requests that mean no good: a problem each time, nothing of our insides, no effect."""

import json
from uuid import uuid4

import pytest

PRODUCTS = "/api/v1/products"
BULK = f"{PRODUCTS}/bulk"
JSON = "application/json"

GOOD = {"sku": "hostile", "name": "N", "price_minor": 1}
DEEP = "[" * 100_000 + "]" * 100_000


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"a": value}
    return value


BODIES = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "a sentence": (b"hello", 400),
    "two documents": (b"{} {}", 400),
    "a trailing comma": (b'{"sku": "x",}', 400),
    "single quotes": (b"{'sku': 'x'}", 400),
    "NaN": (b'{"price_minor": NaN}', 400),
    "minus Infinity": (b'{"price_minor": -Infinity}', 400),
    "invalid UTF-8": (b'{"sku": "\xff\xfe"}', 400),
    "an overlong UTF-8 slash": (b'{"sku": "\xc0\xaf"}', 400),
    "an encoded surrogate": (b'{"sku": "\xed\xa0\x80"}', 400),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), 400),
    "UTF-16 that spells NUL": ('{"name": "\\u0000"}'.encode("utf-16-le"), 400),
    "an escaped NUL": (b'{"name": "a\\u0000b"}', 400),
    "a raw NUL": (b'{"name": "a\x00b"}', 400),
    "a NUL in a name": (b'{"attributes": {"a\\u0000": 1}}', 400),
    "a lone surrogate": (b'{"name": "\\ud800"}', 400),
    "deep nesting": (DEEP.encode(), 400),
    "deep attributes": (b'{"attributes":' + b'{"a":' * 9999 + b"1" + b"}" * 9999, 400),
    "a number of 5,000 digits": (b'{"price_minor": ' + b"9" * 5000 + b"}", 400),
    "null": (b"null", 422),
    "true": (b"true", 422),
    "a number": (b"1", 422),
    "a text": (b'"x"', 422),
    "a list": (b"[]", 422),
    "a list of products": (json.dumps([GOOD]).encode(), 422),
    "an empty object": (b"{}", 422),
}

FIELDS = {
    "sku": [
        "",
        " ",
        "a b",
        "-a",
        "a" * 65,
        "a\n",
        "é",
        "a/b",
        "'; drop table product; --",
        None,
        1,
        True,
        [],
        {},
    ],
    "name": ["", "   ", "x" * 201, "a\x07b", "a\nb", "\x7f", None, 1, ["x"], {"$": 1}],
    "slug": ["", "A", "a--b", "-a", "a b", "../etc", "x" * 121, "a\n", 1],
    "description": ["x" * 20_001, "\x1b[31m", None, 5],
    "price_minor": [
        -1,
        0.5,
        10**12,
        10**400,
        1e300,
        "1",
        "\u0661",
        None,
        True,
        [],
        "1; select 1",
    ],
    "currency": ["eur", "EURO", "XXX", "E R", "", None, 978, "EUR\n"],
    "status": ["gone", "", "ACTIVE", None, 0, ["active"]],
    "stock": [-1, 1.5, 2**31, 10**18, "5", None, False],
    "category": ["A b", "", "x" * 121, "'", 7, [], {"slug": "x"}],
    "tags": [
        "sale",
        {},
        None,
        7,
        [None],
        [1],
        [["sale"]],
        ["A b"],
        [""],
        ["x" * 121],
        ["'; drop table tag; --"],
        ["<b>"],
        [f"t{number}" for number in range(21)],
    ],
    "attributes": [
        [],
        "x",
        None,
        nested(7),
        {"a": 10**16},
        {"a": 1e300},
        {"a": "\x01"},
        {"\x01": 1},
        {"a": "x" * 5001},
        {str(number): 1 for number in range(400)},
    ],
}

QUERIES = [
    "limit=0",
    "limit=101",
    "limit=-1",
    "limit=1e9",
    "limit=x",
    "limit=",
    "limit=1&limit=2",
    f"limit={'9' * 5000}",
    "cursor=x",
    "cursor=",
    "cursor=W10.abc",
    f"cursor={'A' * 3000}",
    "cursor=%00",
    "offset=10",
    "page=2",
    "sort=price",
    "sort=search",
    "sort=name;drop table product",
    "sort=--name",
    "status=deleted",
    "price_minor_min=-1",
    "price_minor_max=1.5",
    "price_minor_max=99999999999999999999",
    "in_stock=maybe",
    "category=%27%20or%201=1",
    "sku=%25",
    "tag=A%20b",
    "tag=",
    "tag=%27%20or%201=1",
    "tag=a&tag=B",
    "&".join(f"tag=t{number}" for number in range(21)),
    "slug=%5Fa",
    "currency=euro",
    f"q={'x' * 201}",
    "q=%01",
    "q[]=x",
    "__proto__=1",
    "q=a&q=b",
    "q=%00",
    "fields=",
    "fields=colour",
    "fields=id,,name",
    "fields=id, name",
    "fields=search",
    "fields=category_id",
    "fields=__class__",
    "fields=id;drop table product",
    f"fields={'id,' * 300}",
    "fields=id&fields=name",
    "facets=",
    "facets=colour",
    "facets=tag,,price",
    "facets=tag&facets=price",
    "include=",
    "include=products",
    "include=category,tags",
]


@pytest.fixture
def post(client, merchandiser):
    def post(url=PRODUCTS, **request):
        return client.post(url, headers=merchandiser, **request)

    return post


class TestBodies:
    @pytest.mark.parametrize("name", BODIES)
    @pytest.mark.parametrize(
        "url", [PRODUCTS, "/api/v1/categories", "/api/v1/tags", BULK]
    )
    def test_that_are_no_object_of_ours(self, post, assert_problem, url, name):
        body, status = BODIES[name]

        assert_problem(post(url, data=body, content_type=JSON), status)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (field, value)
            for field, values in FIELDS.items()
            for value in values
            # Null means "none" for these two and is no fault.
            if not (field in {"slug", "category"} and value is None)
        ],
    )
    def test_with_a_wrong_field(self, post, assert_problem, client, field, value):
        body = {**GOOD, field: value}

        problem = assert_problem(post(json=body), 422, "invalid-request")

        assert problem["errors"][0]["pointer"].startswith(f"#/{field}")
        report = post(BULK, json={"items": [body]}).json
        assert report["summary"]["refused"] == 1
        assert client.get(f"{PRODUCTS}/by-sku/hostile").status_code == 404

    @pytest.mark.parametrize(
        "body",
        [
            {"items": []},
            {"items": {}},
            {"items": None},
            {"items": [GOOD], "surprise": True},
            {"items": "x" * 1000},
        ],
    )
    def test_of_bulk_that_are_no_list(self, post, assert_problem, body):
        assert_problem(post(BULK, json=body), 422, "invalid-request")

    @pytest.mark.parametrize(
        "content_type",
        [
            None,
            "",
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "application/octet-stream",
            "nonsense",
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    def test_of_another_media_type(
        self, client, make, merchandiser, assert_problem, method, content_type
    ):
        url = PRODUCTS if method == "POST" else f"{PRODUCTS}/{make()['id']}"

        answer = client.open(
            url,
            method=method,
            data=json.dumps(GOOD),
            content_type=content_type,
            headers={**merchandiser, "If-Match": "*"},
        )

        assert_problem(answer, 415)

    def test_that_are_too_large(self, post, assert_problem):
        large = json.dumps({**GOOD, "description": "x" * 300_000})

        assert_problem(post(data=large, content_type=JSON), 413)

    def test_of_bulk_may_be_larger_but_not_endless(self, post, assert_problem):
        items = [{**GOOD, "sku": f"s{n}", "description": "x" * 9000} for n in range(50)]
        assert post(BULK, json={"items": items}).status_code == 200

        answer = post(BULK, data=b" " * (9 << 20), content_type=JSON)

        assert_problem(answer, 413)

    def test_with_a_field_twice_keep_the_last(self, post):
        body = '{"sku": "twice", "sku": "last", "name": "N", "price_minor": 1}'

        assert post(data=body, content_type=JSON).json["sku"] == "last"

    def test_that_look_like_sql_are_only_text(self, post, client):
        name = "'; drop table product; -- %s %(x)s :x {0} \\"

        answer = post(
            json={**GOOD, "sku": "sql", "name": name, "attributes": {name: name}}
        )

        assert answer.status_code == 201
        found = client.get(f"{PRODUCTS}/by-sku/sql").json
        assert found["name"] == name
        assert found["attributes"] == {name: name}
        bulk = post(BULK, json={"items": [{**GOOD, "sku": "sql", "name": f"{name}2"}]})
        assert bulk.json["summary"]["updated"] == 1

    def test_that_look_like_html_are_only_text(self, post):
        name = "<script>alert(1)</script>"

        answer = post(json={**GOOD, "name": name})

        assert answer.json["name"] == name
        assert answer.mimetype == JSON
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


class TestQueries:
    @pytest.mark.parametrize("query", QUERIES)
    def test_that_make_no_sense(self, client, assert_problem, query):
        answer = client.get(f"{PRODUCTS}?{query}")

        assert answer.status_code in {400, 422}
        assert_problem(answer, answer.status_code)

    def test_with_an_altered_cursor(self, client, make, assert_problem):
        make()
        make()
        cursor = client.get(f"{PRODUCTS}?limit=1").json["next_cursor"]

        for altered in (
            cursor[:-1],
            f"A{cursor[1:]}",
            cursor.split(".")[0],
            cursor * 2,
        ):
            answer = client.get(f"{PRODUCTS}?limit=1&cursor={altered}")
            assert_problem(answer, 422)


class TestAddresses:
    @pytest.mark.parametrize(
        "path",
        [
            "/1",
            "/nonsense",
            f"/{uuid4()}/more",
            f"/{uuid4().hex}",
            "/by-sku/",
            "/by-sku/a/b",
            "/by-slug/" + "x" * 5000,
            "/by-sku/%2e%2e%2fetc%2fpasswd",
            "/by-sku/..",
            "/by-sku/%F0%9F%98%80",
            "/by-slug/%27%20OR%201=1--",
            "/%ff",
            "//",
        ],
    )
    def test_that_name_nothing(self, client, assert_problem, path):
        assert_problem(client.get(PRODUCTS + path), 404)

    def test_with_a_nul(self, client, assert_problem):
        assert_problem(client.get(f"{PRODUCTS}/by-sku/a%00b"), 400)

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", PRODUCTS, "GET, HEAD, OPTIONS, POST"),
            ("PATCH", PRODUCTS, "GET, HEAD, OPTIONS, POST"),
            ("PUT", "/api/v1/categories", "GET, HEAD, OPTIONS, POST"),
            (
                "POST",
                f"{PRODUCTS}/{uuid4()}",
                "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
            ),
            ("POST", f"{PRODUCTS}/by-sku/x", "GET, HEAD, OPTIONS"),
        ],
    )
    def test_with_another_method_name_the_right_ones(
        self, client, assert_problem, method, path, allowed
    ):
        answer = client.open(path, method=method, json={})

        assert_problem(answer, 405)
        assert ", ".join(sorted(answer.headers["Allow"].split(", "))) == allowed


class TestHeaders:
    @pytest.mark.parametrize(
        "key", ["", " ", "a b", "x" * 201, "é", "a\tb", "'; drop table product; --"]
    )
    def test_idempotency_keys(self, post, client, merchandiser, assert_problem, key):
        answer = client.post(
            PRODUCTS, json=GOOD, headers={**merchandiser, "Idempotency-Key": key}
        )

        assert_problem(answer, 422, "idempotency-key-malformed")

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Bearer a.b.c",
            "Basic dXNlcjpwYXNz",
            "Bearer " + "a" * 10_000,
            "Bearer eyJhbGciOiJub25lIn0.e30.",
            "bearer null",
            "\xff",
        ],
    )
    def test_authorization(self, client, assert_problem, value):
        answer = client.post(PRODUCTS, json=GOOD, headers={"Authorization": value})

        assert_problem(answer, 401)

    @pytest.mark.parametrize("value", ["x" * 300, "a b", "<script>", "é", "1"])
    def test_request_ids_are_replaced(self, client, value):
        answer = client.get(PRODUCTS, headers={"X-Request-ID": value})

        assert answer.status_code == 200
        assert answer.headers["X-Request-ID"] != value

    def test_if_none_match_that_is_nonsense(self, client, make):
        product = make()

        for tag in ('"', "W/", ",,,", "x" * 5000):
            answer = client.get(
                f"{PRODUCTS}/{product['id']}", headers={"If-None-Match": tag}
            )
            assert answer.status_code == 200
