"""Lists in every format, and exports of any size."""

import csv
import io
import json
import tracemalloc
from datetime import datetime
from xml.etree import ElementTree as ET

import pytest
from sqlalchemy import event, insert, select, text

from flagon_catalog.domain import exports
from flagon_catalog.models import PRODUCT_VIEW, Product
from flagon_catalog.routes import formats

PRODUCTS = "/api/v1/products"
MANY = 20_000
EXPORT = f"{PRODUCTS}/export"
FIELDS = [column.key for column in PRODUCT_VIEW]
WHOLE = ("price_minor", "stock", "available", "version")
FORMULAS = ["=1+1", "+1", "-1", "@a", "\t=1", "'=1", "''+1"]


@pytest.fixture
def assortment(make, make_category):
    make_category(name="Kitchen", slug="kitchen")
    make(sku="a", name='Müller, "the" <mug> & Söhne', category="kitchen")
    make(
        sku="b",
        name="B",
        description="two\nlines",
        attributes={"größe": [1, {"a b": None}]},
    )
    make(sku="c", name="C", stock=3, price_minor=1)


def lines(answer):
    return [json.loads(line) for line in answer.get_data().splitlines()]


def rows(answer):
    return list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))


def as_cells(item):
    """An item of JSON as CSV has it."""
    return {
        name: ""
        if value is None
        else formats._cell(
            datetime.fromisoformat(value) if name.endswith("_at") else value
        )
        for name, value in item.items()
    }


@pytest.mark.usefixtures("assortment")
class TestLists:
    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            ("application/json", "application/json"),
            ("text/csv", "text/csv; charset=utf-8; header=present"),
            ("application/x-ndjson", "application/x-ndjson"),
            ("application/xml", "application/xml"),
            ("text/csv;q=0.5, application/xml", "application/xml"),
            ("application/json;q=0, */*", "application/x-ndjson"),
            ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
            ("application/*", "application/json"),
            ("", "application/json"),
        ],
    )
    def test_come_as_the_client_likes_them(self, client, accept, expected):
        headers = {"Accept": accept} if accept else {}
        answer = client.get(PRODUCTS, headers=headers)

        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == expected
        assert answer.headers["Vary"] == "Accept, Authorization"

    @pytest.mark.parametrize("accept", ["text/html", "application/pdf", "*/*;q=0", ","])
    @pytest.mark.parametrize("path", [PRODUCTS, "/api/v1/categories"])
    def test_cannot_come_as_anything(self, client, assert_problem, path, accept):
        assert_problem(client.get(path, headers={"Accept": accept}), 406)

    def test_the_same_in_each_format(self, client):
        items = client.get(PRODUCTS).json["items"]

        found = {
            name: client.get(PRODUCTS, headers={"Accept": formats.TYPES[name]})
            for name in formats.TYPES
        }

        assert found["json"].json["items"] == items
        assert lines(found["ndjson"]) == items
        assert [as_cells(item) for item in items] == [
            {**row, **{name: int(row[name]) for name in WHOLE}}
            for row in rows(found["csv"])
        ]
        top = ET.fromstring(found["xml"].get_data())
        assert top.tag == "products"
        assert [one.findtext("name") for one in top] == [item["name"] for item in items]
        assert [[part.tag for part in one] for one in top] == [FIELDS] * 3
        size = next(one for one in top if one.findtext("sku") == "b").find("attributes")
        assert size.find("entry").get("name") == "größe"
        assert size.find("entry/item[1]").text == "1"
        assert size.find("entry/item[2]/entry").get("name") == "a b"

    def test_links_lead_through_all_pages(self, client):
        found, onward = [], f"{PRODUCTS}?limit=1&sort=name"
        while onward:
            answer = client.get(onward, headers={"Accept": "application/x-ndjson"})
            found += [item["name"] for item in lines(answer)]
            link = answer.headers.get("Link", "")
            onward = link[1 : link.index(">")] if link else None
            assert not link or link.endswith('; rel="next"')

        assert found == ["B", "C", 'Müller, "the" <mug> & Söhne']

    def test_a_cursor_goes_on_in_another_format(self, client):
        cursor = client.get(f"{PRODUCTS}?limit=2").json["next_cursor"]

        answer = client.get(f"{PRODUCTS}?limit=2&format=csv&cursor={cursor}")

        assert len(rows(answer)) == 1

    def test_a_link_can_name_the_format(self, client, assert_problem):
        answer = client.get(f"{PRODUCTS}?format=csv", headers={"Accept": "text/html"})

        assert answer.mimetype == "text/csv"
        assert_problem(client.get(f"{PRODUCTS}?format=pdf"), 422)

    def test_of_nothing_have_a_header_in_csv(self, client):
        answer = client.get(f"{PRODUCTS}?format=csv&q=nothingness")

        assert answer.text == ",".join(FIELDS) + "\n"

    def test_of_categories_too(self, client):
        answer = client.get("/api/v1/categories", headers={"Accept": "text/csv"})

        assert [row["slug"] for row in rows(answer)] == ["kitchen"]


class TestSingle:
    def test_comes_as_json_alone(self, client, make, assert_problem):
        path = f"{PRODUCTS}/{make()['id']}"

        assert_problem(client.get(path, headers={"Accept": "text/csv"}), 406)
        assert client.get(path, headers={"Accept": "text/csv, */*"}).is_json

    def test_nothing_is_changed_for_who_accepts_no_answer(
        self, client, merchandiser, new_product, assert_problem
    ):
        body = new_product()
        headers = {**merchandiser, "Accept": "text/csv"}

        assert_problem(client.post(PRODUCTS, json=body, headers=headers), 406)
        assert client.get(f"{PRODUCTS}/by-sku/{body['sku']}").status_code == 404


class TestFormulas:
    @pytest.mark.parametrize("text", FORMULAS)
    def test_are_text_in_lists_and_exports(self, client, make, merchandiser, text):
        made = make(description=text)

        found = [
            rows(client.get(path, headers={**merchandiser, "Accept": "text/csv"}))
            for path in (f"{PRODUCTS}?sku={made['sku']}", f"{EXPORT}?sku={made['sku']}")
        ]

        assert [[row["description"] for row in part] for part in found] == [
            [f"'{text}"]
        ] * 2
        exact = client.get(f"{EXPORT}?sku={made['sku']}", headers=merchandiser)
        assert lines(exact)[0]["description"] == text

    @pytest.mark.parametrize("text", ["", "a=1", "'", "it's", "1-2"])
    def test_are_not_seen_where_there_are_none(self, client, make, merchandiser, text):
        made = make(description=text)

        answer = client.get(
            f"{EXPORT}?format=csv&sku={made['sku']}", headers=merchandiser
        )

        assert rows(answer)[0]["description"] == text
        assert formats.harmless(text) == text


class TestExport:
    @pytest.fixture
    def export(self, client, merchandiser):
        def export(**asked):
            answer = client.get(EXPORT, query_string=asked, headers=merchandiser)
            assert answer.status_code == 200, answer.text
            return answer

        return export

    @pytest.fixture
    def small_batches(self, monkeypatch):
        monkeypatch.setattr(exports, "BATCH", 2)

    def listed(self, client, headers, **asked):
        asked = {"limit": 100, "sort": "created_at", **asked}
        return client.get(PRODUCTS, query_string=asked, headers=headers).json["items"]

    @pytest.mark.usefixtures("assortment", "small_batches")
    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"category": "kitchen"},
            {"q": "mug or B"},
            {"status": "any"},
            {"status": "draft"},
        ],
    )
    def test_is_what_the_list_is(self, export, client, merchandiser, make, asked):
        for number in range(4):
            make(sku=f"draft-{number}", status="draft")
        items = sorted(
            self.listed(client, merchandiser, **asked), key=lambda one: one["id"]
        )

        found = lines(export(**asked))

        for one in (*found, *items):
            for name in ("created_at", "updated_at"):
                one[name] = datetime.fromisoformat(one[name])
        assert found == items
        assert [list(one) for one in found] == [FIELDS] * len(items)

    @pytest.mark.usefixtures("assortment")
    @pytest.mark.parametrize("size", [1, 2, 3, 4])
    def test_is_whole_whatever_the_size_of_a_batch(self, export, monkeypatch, size):
        monkeypatch.setattr(exports, "BATCH", size)

        assert sorted(row["sku"] for row in rows(export(format="csv"))) == [
            "a",
            "b",
            "c",
        ]
        assert len(lines(export())) == 3

    @pytest.mark.usefixtures("assortment")
    def test_goes_on_after_an_id(self, export, monkeypatch):
        monkeypatch.setattr(exports, "BATCH", 2)
        whole = lines(export())

        assert lines(export(after=whole[0]["id"])) == whole[1:]
        assert lines(export(after=whole[-1]["id"])) == []

    def test_has_the_cells_of_the_list(self, export, client):
        listed = rows(client.get(f"{PRODUCTS}?format=csv"))

        answer = export(format="csv")

        assert rows(answer) == sorted(listed, key=lambda row: row["id"])
        assert (
            answer.headers["Content-Disposition"] == "attachment; filename=products.csv"
        )
        assert answer.headers["Cache-Control"] == "private, no-store"

    def test_knows_attributes(self, client, make, merchandiser):
        """`COPY` takes its parameters without the types that a list's go through."""
        made = make(attributes={"colour": "blue", "size": [7]})
        make(attributes={"colour": "red"})
        asked = {"attribute": ["colour:blue", "size:7"]}

        answer = client.get(EXPORT, query_string=asked, headers=merchandiser)

        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [
            made["id"]
        ]

    def test_of_nothing(self, export):
        assert export(q="nothingness").get_data() == b""
        assert export(q="nothingness", format="csv").text == ",".join(FIELDS) + "\n"

    @pytest.mark.parametrize(
        "hostile", ["%s %(a)s :b", "'; drop table product; --", "\\x41\\", "{\u2028}"]
    )
    def test_survives_hostile_text(self, export, make, hostile):
        made = make(
            name=hostile,
            description=f"{hostile}\r\n\\N\n\\.\n",
            attributes={hostile: "\x7e"},
        )

        (found,) = lines(export(sku=made["sku"]))
        (cells,) = rows(export(sku=made["sku"], format="csv"))
        (searched,) = lines(export(sku=made["sku"], q=f"{made['sku']} or {hostile}"))

        assert found["name"] == cells["name"] == searched["name"] == hostile
        assert found["description"] == cells["description"] == made["description"]
        assert found["attributes"] == json.loads(cells["attributes"]) == {hostile: "~"}

    def test_needs_who_may_change(self, client, customer, assert_problem):
        assert_problem(client.get(EXPORT), 401)
        assert_problem(client.get(EXPORT, headers=customer), 403)

    @pytest.mark.parametrize(
        "accept", ["application/json", "application/xml", "text/html"]
    )
    def test_comes_by_the_line_alone(
        self, client, merchandiser, assert_problem, accept
    ):
        answer = client.get(EXPORT, headers={**merchandiser, "Accept": accept})

        assert_problem(answer, 406)

    def test_takes_no_order_and_no_page(self, client, merchandiser, assert_problem):
        for name in ("sort", "limit", "cursor"):
            answer = client.get(f"{EXPORT}?{name}=1", headers=merchandiser)
            assert_problem(answer, 422)


@pytest.fixture(scope="module")
def full(migrated, make_app):
    app = make_app(migrated())
    with app.extensions["flagon.sessions"].begin() as session:
        session.execute(
            insert(Product),
            [
                {
                    "sku": f"many-{number}",
                    "slug": f"many-{number}",
                    "name": f"Many {number}",
                    "description": "x" * 500,
                    "price_minor": number,
                    "currency": "EUR",
                    "status": "active",
                    "stock": 0,
                    "attributes": {},
                }
                for number in range(MANY)
            ],
        )
        session.execute(text("analyze product"))
    return app


class TestManyProducts:
    @pytest.mark.parametrize("kind", ["ndjson", "csv"])
    def test_take_no_more_memory_than_one_batch(self, full, merchandiser, kind):
        client = full.test_client()
        list(
            client.get(f"{EXPORT}?format={kind}&q=none", headers=merchandiser).response
        )
        seen = size = 0
        tracemalloc.start()
        try:
            answer = client.get(f"{EXPORT}?format={kind}", headers=merchandiser)
            for part in answer.response:
                seen += part.count(b"\n")
                size += len(part)
            _now, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert seen == MANY + (kind == "csv")
        # The lines of a batch, the batch put together, what the client reads, the first
        # part that the test's client keeps, and little else.
        assert most < 5 * size / (MANY / exports.BATCH)

    def test_hold_no_connection_while_the_client_reads(self, full, merchandiser):
        pool = full.extensions["flagon.sessions"].kw["bind"].pool
        answer = full.test_client().get(EXPORT, headers=merchandiser)

        for _part in answer.response:
            assert pool.checkedout() == 0

    def test_come_by_the_index(self, full, merchandiser):
        engine, queries = full.extensions["flagon.sessions"].kw["bind"], []

        def note(_connection, _cursor, statement, *_):
            queries.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            answer = full.test_client().get(EXPORT, headers=merchandiser)
            batches = len(list(answer.response))
        finally:
            event.remove(engine, "before_cursor_execute", note)

        # What is copied is no statement to SQLAlchemy: this is the ends of batches.
        assert sum("OFFSET" in query for query in queries) == batches
        with engine.connect() as connection:
            middle = connection.scalar(
                select(Product.id).order_by(Product.id).offset(MANY // 2).limit(1)
            )
            last = next(
                query for query in queries if "OFFSET" in query and ">" in query
            )
            plan = "\n".join(
                row[0]
                for row in connection.exec_driver_sql(
                    f"explain {last}",
                    {
                        "status_1": "active",
                        "id_1": middle,
                        "param_1": 1,
                        "param_2": exports.BATCH,
                    },
                )
            )
        assert "pk_product" in plan
        assert "Sort" not in plan

    def test_an_export_that_breaks_off_is_seen_to_be_no_whole_one(
        self, full, merchandiser, monkeypatch
    ):
        answer = full.test_client().get(EXPORT, headers=merchandiser)
        parts = iter(answer.response)
        next(parts)
        monkeypatch.setattr(exports, "_RAW", "nonsense")

        with pytest.raises(Exception, match="nonsense"):
            list(parts)
