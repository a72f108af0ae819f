"""What categories ask of the attributes of their products."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import uuid4

import pytest
from alembic import command
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from flagon_catalog.__main__ import MIGRATIONS
from flagon_catalog.domain import attribute_schemas, categories, products
from flagon_catalog.domain.attribute_schemas import (
    AttributeSchemaInvalid,
    AttributesUnfit,
    Budget,
    Rule,
    check_attributes,
    check_schema,
    misfits,
)
from flagon_chassis import db

from .conftest import wait_until_blocked

PRODUCTS = "/api/v1/products"
CATEGORIES = "/api/v1/categories"
WAIT = 10
COLOUR = {
    "type": "object",
    "required": ["colour"],
    "properties": {"colour": {"enum": ["blue", "red"]}},
}
SIZE = {
    "type": "object",
    "required": ["size"],
    "properties": {"size": {"$ref": "#/$defs/size"}},
    "$defs": {"size": {"type": "integer", "minimum": 1}},
}


def rooted(**more):
    return {"type": "object", **more}


def rule(schema):
    return Rule("shelf", "Shelf", json.dumps(schema))


@pytest.fixture
def patch(client, merchandiser):
    def patch(url, **change):
        return client.patch(url, json=change, headers={**merchandiser, "If-Match": "*"})

    return patch


@pytest.fixture
def bulk(client, merchandiser):
    def bulk(*items):
        answer = client.post(
            f"{PRODUCTS}/bulk", json={"items": list(items)}, headers=merchandiser
        )
        assert answer.status_code == 200, answer.text
        return answer.json["results"]

    return bulk


@pytest.fixture
def statements(session):
    seen = []

    def note(*args):
        seen.append(args[2])

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


class TestCategory:
    def test_shows_and_tells_its_schema(self, client, make_category, sent):
        category = make_category(attribute_schema=COLOUR)

        assert category["attribute_schema"] == COLOUR
        shown = client.get(f"{CATEGORIES}/{category['id']}").json
        assert shown["attribute_schema"] == COLOUR
        assert sent(category["id"])[0]["data"]["attribute_schema"] == COLOUR
        assert make_category()["attribute_schema"] is None

    def test_changes_it_by_merge_patch(self, make_category, patch, sent):
        category = make_category(attribute_schema=COLOUR)
        url = f"{CATEGORIES}/{category['id']}"

        more = patch(
            url, attribute_schema={"properties": {"size": {"type": "integer"}}}
        )
        gone = patch(url, attribute_schema=None)

        assert set(more.json["attribute_schema"]["properties"]) == {"colour", "size"}
        assert sent(category["id"])[1]["data"]["changed"] == ["attribute_schema"]
        assert (gone.json["attribute_schema"], gone.json["version"]) == (None, 3)
        assert patch(url, attribute_schema=None).json["version"] == 3

    def test_changes_from_one_to_true(self, make_category, patch):
        one = rooted(properties={"a": {"const": 1}})
        category = make_category(attribute_schema=one)

        answer = patch(
            f"{CATEGORIES}/{category['id']}",
            attribute_schema={"properties": {"a": {"const": True}}},
        )

        assert answer.json["version"] == 2
        assert answer.json["attribute_schema"]["properties"]["a"]["const"] is True

    @pytest.mark.parametrize(
        ("schema", "pointer"),
        [
            ({}, "/type"),
            ({"type": "string"}, "/type"),
            (
                rooted(**{"$schema": "http://json-schema.org/draft-07/schema"}),
                "/$schema",
            ),
            (rooted(required="colour"), "/required"),
            (rooted(properties={"a/b": {"type": "text"}}), "/properties/a~1b/type"),
            (rooted(requierd=["a"]), "/requierd"),
            (rooted(**{"$ref": "http://localhost/x"}), "/$ref"),
            (rooted(**{"$ref": "file:///etc/passwd"}), "/$ref"),
            (rooted(**{"$ref": "#"}), "/$ref"),
            (rooted(**{"$ref": "#/properties/a"}), "/$ref"),
            (rooted(**{"$ref": "#/$defs/none"}), "/$ref"),
            (rooted(**{"$ref": 7}), "/$ref"),
            (
                rooted(properties={"a": {"$dynamicRef": "#a"}}),
                "/properties/a/$dynamicRef",
            ),
            (rooted(**{"$recursiveRef": "#"}), "/$recursiveRef"),
            (rooted(**{"$id": "http://localhost/x"}), "/$id"),
            (rooted(items={"$anchor": "a"}), "/items/$anchor"),
            (rooted(unevaluatedProperties=False), "/unevaluatedProperties"),
            (rooted(items={"$defs": {}}), "/items/$defs"),
            (rooted(items={"format": "regex"}), "/items/format"),
            (rooted(items={"pattern": "(?=a)"}), "/items/pattern"),
            (rooted(items={"pattern": r"(a)\1"}), "/items/pattern"),
            (rooted(items={"pattern": "(a{1,99}){1,99}"}), "/items/pattern"),
            (rooted(items={"pattern": "("}), "/items/pattern"),
            (rooted(patternProperties={"(?!a)": {}}), "/patternProperties"),
            (
                rooted(
                    description="x" * 5000,
                    title="y" * 5000,
                    **{"$comment": "z" * 5000},
                    default=["v" * 2000],
                ),
                "",
            ),
            (rooted(enum=list(range(1001))), ""),
            (rooted(allOf=[{"uniqueItems": True}] * 51), ""),
        ],
    )
    def test_refuses_a_schema_and_says_where(
        self, client, merchandiser, assert_problem, schema, pointer
    ):
        answer = client.post(
            CATEGORIES,
            json={"name": "N", "attribute_schema": schema},
            headers=merchandiser,
        )

        problem = assert_problem(answer, 422, "attribute-schema-invalid")
        found = [error["pointer"] for error in problem["errors"]]
        assert found[0].startswith(f"#/attribute_schema{pointer}")

    @pytest.mark.parametrize(
        "schema",
        [True, [], "x", 7, {"a": 1e300}, {"a": {"b": [2**60]}}],
    )
    def test_refuses_what_is_no_usable_object(
        self, client, merchandiser, assert_problem, schema
    ):
        answer = client.post(
            CATEGORIES,
            data=json.dumps({"name": "N", "attribute_schema": schema}),
            content_type="application/json",
            headers=merchandiser,
        )

        problem = assert_problem(answer, 422, "invalid-request")
        assert problem["errors"][0]["pointer"].startswith("#/attribute_schema")

    def test_refuses_a_patch_that_makes_a_wrong_one(
        self, make_category, patch, assert_problem
    ):
        category = make_category(attribute_schema=COLOUR)

        answer = patch(
            f"{CATEGORIES}/{category['id']}", attribute_schema={"type": None}
        )

        problem = assert_problem(answer, 422, "attribute-schema-invalid")
        assert problem["errors"][0]["pointer"] == "#/attribute_schema/type"

    def test_is_held_to_an_object_by_the_database(self, make_category, session):
        category = make_category()

        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(
                text("update category set attribute_schema = '[]' where id = :id"),
                {"id": category["id"]},
            )


class TestHostileSchemas:
    def test_may_not_refer_to_themselves(self):
        for definitions in (
            {"a": {"$ref": "#/$defs/a"}},
            {
                "a": {"items": {"$ref": "#/$defs/b"}},
                "b": {"not": {"$ref": "#/$defs/a"}},
            },
        ):
            with pytest.raises(AttributeSchemaInvalid) as caught:
                check_schema(rooted(**{"$defs": definitions}))

            (error,) = caught.value.extra["errors"]
            assert error["pointer"].startswith("#/attribute_schema/$defs/")

    @pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
    def test_may_not_grow_by_doubling(self, keyword):
        definitions = {
            f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)
        }
        definitions["d60"] = {"type": "integer"}
        began = time.perf_counter()

        with pytest.raises(AttributeSchemaInvalid):
            check_schema(rooted(**{"$ref": "#/$defs/d0", "$defs": definitions}))

        # 2 to the power of 60 places, if each were looked at.
        assert time.perf_counter() - began < 10

    def test_may_not_be_a_long_chain(self):
        definitions = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(300)}
        definitions["d300"] = {}

        with pytest.raises(AttributeSchemaInvalid, match="inside each other"):
            check_schema(rooted(**{"$ref": "#/$defs/d0", "$defs": definitions}))

    def test_may_not_be_deep(self):
        schema = {"type": "integer"}
        for _ in range(16):
            schema = {"anyOf": [schema]}

        with pytest.raises(AttributeSchemaInvalid, match="inside each other"):
            check_schema(rooted(properties={"a": schema}))

    def test_fetch_nothing_that_only_looks_like_a_reference(self):
        schema = rooted(
            properties={"$ref": {"const": {"$ref": "http://127.0.0.1:9/x"}}},
            default={"$id": "http://127.0.0.1:9/y"},
        )

        check_schema(schema)

        with pytest.raises(AttributesUnfit):
            check_attributes({"$ref": 7}, [rule(schema)])

    @pytest.mark.parametrize(
        ("schema", "attributes"),
        [
            (
                rooted(
                    additionalProperties={"anyOf": [{"const": n} for n in range(300)]}
                ),
                {str(n): "x" for n in range(240)},
            ),
            (
                rooted(
                    properties={"a": {"allOf": [{"items": {"type": "null"}}] * 160}}
                ),
                {"a": ["x"] * 490},
            ),
            (
                rooted(properties={"a": {"allOf": [{"uniqueItems": True}] * 50}}),
                {"a": [str(n) * 100 for n in range(480)]},
            ),
            (
                rooted(
                    additionalProperties={"pattern": "^(a+)+(a|aa)*(a{1,20}){1,6}$"}
                ),
                {str(n): "a" * 4999 + "b" for n in range(50)},
            ),
        ],
        ids=["anyOf", "allOf", "uniqueItems", "pattern"],
    )
    def test_take_a_bounded_time(self, schema, attributes):
        check_schema(schema)
        began = time.perf_counter()

        misfits(attributes, [rule(schema)] * 6, Budget())

        # A hundred times what it takes; without bounds it is minutes.
        assert time.perf_counter() - began < 10

    def test_nested_choices_take_a_bounded_time(self):
        schema = {"type": "integer"}
        for n in range(13):
            schema = {"oneOf": [schema, {"anyOf": [{"const": n}]}]}
        schema = rooted(additionalProperties=schema)
        check_schema(schema)
        began = time.perf_counter()

        wrong = misfits({str(n): "x" for n in range(240)}, [rule(schema)] * 6, Budget())

        assert time.perf_counter() - began < 10
        assert 0 < len(wrong) <= attribute_schemas.ERRORS_MAX

    def test_share_one_budget_in_a_batch(self):
        schema = rule(rooted(properties={"a": {"type": "integer"}}))
        attributes = {"a": "x"}

        listed = misfits(attributes, [schema], Budget())
        short = misfits(attributes, [schema], Budget(told=10))
        none = misfits({"a": 1}, [schema], Budget(work=10))

        assert listed[0]["pointer"] == "#/attributes/a"
        assert short[0]["pointer"] == "#/attributes"
        assert none[0]["detail"].startswith("Too much")

    def test_are_kept_in_a_bounded_number(self):
        for n in range(attribute_schemas._CACHED + 20):
            misfits({}, [rule(rooted(maxProperties=n))], Budget())

        assert attribute_schemas._compiled.cache_info().currsize <= (
            attribute_schemas._CACHED
        )

    def test_tell_nothing_of_long_values(self):
        schema = rule(rooted(properties={"a": {"type": "integer"}}))

        (wrong,) = misfits({"a": "secret" * 800}, [schema], Budget())

        assert "secret" not in wrong["detail"]


class TestProduct:
    def test_must_fit_when_it_is_created(
        self, client, make_category, merchandiser, new_product, assert_problem
    ):
        category = make_category(name="Mugs", attribute_schema=COLOUR)

        for attributes, pointer in (
            ({}, "#/attributes/colour"),
            ({"colour": "green"}, "#/attributes/colour"),
        ):
            answer = client.post(
                PRODUCTS,
                json=new_product(category=category["slug"], attributes=attributes),
                headers=merchandiser,
            )

            problem = assert_problem(answer, 422, "attributes-unfit")
            (error,) = problem["errors"]
            assert (error["pointer"], error["category"]) == (pointer, category["slug"])
            assert "Mugs" in error["detail"]

    def test_is_told_of_each_attribute_that_is_not_known(
        self, make_category, client, merchandiser, new_product
    ):
        category = make_category(
            attribute_schema=rooted(properties={"a": {}}, additionalProperties=False)
        )
        body = new_product(category=category["slug"], attributes={"b/c": 1, "d": 2})

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        pointers = {error["pointer"] for error in answer.json["errors"]}
        assert pointers == {"#/attributes/b~1c", "#/attributes/d"}

    def test_must_fit_every_category_above(
        self, make, make_category, client, merchandiser, new_product
    ):
        top = make_category(attribute_schema=COLOUR)
        middle = make_category(parent=top["slug"])
        leaf = make_category(parent=middle["slug"], attribute_schema=SIZE)

        answer = client.post(
            PRODUCTS, json=new_product(category=leaf["slug"]), headers=merchandiser
        )

        wanted = {(e["pointer"], e["category"]) for e in answer.json["errors"]}
        assert wanted == {
            ("#/attributes/colour", top["slug"]),
            ("#/attributes/size", leaf["slug"]),
        }
        make(category=leaf["slug"], attributes={"colour": "red", "size": 2})
        make(category=middle["slug"], attributes={"colour": "red"})

    def test_must_fit_when_it_is_changed(
        self, client, make, make_category, merchandiser, patch, assert_problem
    ):
        category = make_category(attribute_schema=COLOUR)
        product = make(category=category["slug"], attributes={"colour": "red"})
        url = f"{PRODUCTS}/{product['id']}"

        by_patch = patch(url, attributes={"colour": "green"})
        body = {key: product[key] for key in ("sku", "name", "price_minor", "category")}
        by_put = client.put(
            url, json=body, headers={**merchandiser, "If-Match": product["etag"]}
        )

        for answer in (by_patch, by_put):
            problem = assert_problem(answer, 422, "attributes-unfit")
            assert problem["errors"][0]["pointer"] == "#/attributes/colour"
        assert client.get(url).json["version"] == 1
        assert patch(url, attributes={"colour": "blue"}).status_code == 200
        assert patch(url, category=None, attributes={"colour": 7}).status_code == 200

    def test_must_fit_the_category_that_it_is_moved_to(
        self, make, make_category, patch, assert_problem
    ):
        category = make_category(attribute_schema=COLOUR)
        product = make(attributes={"colour": "green"})
        url = f"{PRODUCTS}/{product['id']}"

        assert_problem(patch(url, category=category["slug"]), 422, "attributes-unfit")
        moved = patch(url, category=category["slug"], attributes={"colour": "red"})
        assert moved.status_code == 200

    def test_can_be_edited_when_more_is_asked_for_later(
        self, make, make_category, patch, assert_problem
    ):
        top = make_category()
        category = make_category()
        product = make(category=category["slug"], attributes={"size": 2})
        url = f"{PRODUCTS}/{product['id']}"

        shelf = f"{CATEGORIES}/{category['id']}"
        assert patch(shelf, attribute_schema=SIZE).status_code == 200
        assert (
            patch(f"{CATEGORIES}/{top['id']}", attribute_schema=COLOUR).status_code
            == 200
        )
        assert patch(shelf, parent=top["slug"]).status_code == 200

        assert patch(url, stock=4, attributes={"size": 2}).status_code == 200
        assert_problem(patch(url, attributes={"size": 3}), 422, "attributes-unfit")
        whole = patch(url, attributes={"size": 3, "colour": "red"})
        assert whole.status_code == 200

    def test_is_checked_when_one_becomes_true(self, make, make_category, patch):
        category = make_category(attribute_schema=SIZE)
        product = make(category=category["slug"], attributes={"size": 1})

        answer = patch(f"{PRODUCTS}/{product['id']}", attributes={"size": True})

        assert answer.json["errors"][0]["pointer"] == "#/attributes/size"

    def test_is_checked_without_another_statement(
        self, client, make_category, merchandiser, new_product, statements
    ):
        plain = make_category()
        strict = make_category(parent=plain["slug"], attribute_schema=COLOUR)
        counts = []
        for category in (plain, strict):
            statements.clear()
            body = new_product(category=category["slug"], attributes={"colour": "red"})
            answer = client.post(PRODUCTS, json=body, headers=merchandiser)
            assert answer.status_code == 201
            counts.append(len(statements))
            assert len([each for each in statements if "FROM category" in each]) == 1

        assert counts[0] == counts[1]


class TestBulk:
    def item(self, **more):
        sku = f"sku-{uuid4().hex[:12]}"
        return {"sku": sku, "name": sku, "price_minor": 1, **more}

    def test_refuses_the_items_that_do_not_fit(self, bulk, make_category):
        slug = make_category(attribute_schema=COLOUR)["slug"]
        good = self.item(category=slug, attributes={"colour": "red"})
        bad = self.item(category=slug, attributes={"colour": "green"})
        bare = self.item(category=slug)

        results = bulk(good, bad, bare, self.item())

        outcomes = [result["outcome"] for result in results]
        assert outcomes == ["created", "refused", "refused", "created"]
        for result in results[1:3]:
            (error,) = result["errors"]
            assert error["pointer"] == "#/attributes/colour"
            assert error["category"] == slug

    def test_judges_by_what_there_is(self, bulk, make, make_category):
        slug = make_category(attribute_schema=COLOUR)["slug"]
        inside = make(category=slug, attributes={"colour": "red"})["sku"]
        outside = make(attributes={"colour": "green"})["sku"]

        results = bulk(
            {"sku": inside, "attributes": {"colour": "green"}},
            {"sku": outside, "category": slug},
            {"sku": inside, "attributes": {"colour": True}, "category": None},
            {"sku": outside, "category": slug, "attributes": {"colour": "blue"}},
        )

        outcomes = [result["outcome"] for result in results]
        assert outcomes == ["refused", "refused", "updated", "updated"]

    def test_leaves_alone_what_is_not_changed(self, bulk, make, make_category, patch):
        category = make_category()
        fields = {"category": category["slug"], "attributes": {"size": 1}}
        sku = make(**fields)["sku"]
        patch(f"{CATEGORIES}/{category['id']}", attribute_schema=COLOUR)

        first, again = bulk({"sku": sku, "stock": 9, **fields}, {"sku": sku, **fields})
        (true,) = bulk({"sku": sku, "attributes": {"size": True}})

        assert (first["outcome"], again["outcome"]) == ("updated", "unchanged")
        assert true["outcome"] == "refused"

    def test_still_says_what_a_new_product_lacks(self, bulk, make_category):
        slug = make_category(attribute_schema=COLOUR)["slug"]

        (result,) = bulk({"sku": f"sku-{uuid4().hex[:12]}", "category": slug})

        assert {error["pointer"] for error in result["errors"]} == {
            "#/name",
            "#/price_minor",
        }

    def test_makes_one_statement_of_all_checks(self, bulk, make_category, statements):
        top = make_category(attribute_schema=COLOUR)["slug"]
        slugs = [
            make_category(parent=top, attribute_schema=SIZE)["slug"] for _ in range(3)
        ]
        statements.clear()

        results = bulk(
            *(
                self.item(
                    category=slugs[n % 3],
                    attributes={"colour": "red", "size": 1 if n % 2 else 0},
                )
                for n in range(60)
            )
        )

        assert [result["outcome"] for result in results[:2]] == ["refused", "created"]
        asked = [each for each in statements if "attribute_schema" in each]
        assert len(asked) == 1


class TestAtTheSameTime:
    """Transactions that really end."""

    @pytest.fixture
    def shelf(self, real_app, merchandiser):
        def shelf(**fields):
            answer = real_app.test_client().post(
                CATEGORIES,
                json={"name": f"Shelf {uuid4().hex}", **fields},
                headers=merchandiser,
            )
            assert answer.status_code == 201, answer.text
            return answer.json

        return shelf

    @pytest.fixture
    def change(self, real_app, merchandiser):
        def change(category, **fields):
            answer = real_app.test_client().patch(
                f"{CATEGORIES}/{category['id']}",
                json=fields,
                headers={**merchandiser, "If-Match": "*"},
            )
            assert answer.status_code == 200, answer.text
            return answer

        return change

    @pytest.fixture
    def create(self, real_app, merchandiser, new_product):
        def create(category, **attributes):
            return real_app.test_client().post(
                PRODUCTS,
                json=new_product(category=category["slug"], attributes=attributes),
                headers=merchandiser,
            )

        return create

    def moved(self, session, category, **fields):
        locked = categories.lock_category(session, id=category["id"])
        whole = {
            name: getattr(locked, name)
            for name in ("name", "slug", "description", "parent", "attribute_schema")
        }
        categories.change_category(session, locked, **{**whole, **fields})

    def test_a_product_waits_for_its_category_and_fits_the_new_schema(
        self, real_app, real_sessions, shelf, create, assert_problem
    ):
        category = shelf(attribute_schema=COLOUR)
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            self.moved(session, category, attribute_schema=SIZE)
            old = pool.submit(create, category, colour="red")
            wait_until_blocked(session)
            session.commit()
            answer = old.result(WAIT)

        problem = assert_problem(answer, 422, "attributes-unfit")
        assert [error["pointer"] for error in problem["errors"]] == [
            "#/attributes/size"
        ]

    def test_a_product_that_waited_sees_no_mixture(
        self, real_app, real_sessions, shelf, change, create, assert_problem
    ):
        """Its new parent's schema is newer than the moment the wait began."""
        parent, category = shelf(attribute_schema=COLOUR), shelf()
        with (
            ThreadPoolExecutor() as pool,
            real_app.test_request_context(),
            real_sessions.begin() as session,
        ):
            # Held without the turn of those who move, so that the parent can change.
            session.execute(
                text("select 1 from category where id = :id for update"),
                {"id": category["id"]},
            )
            waiting = pool.submit(create, category, colour="red")
            wait_until_blocked(session)
            change(parent, attribute_schema=SIZE)
            self.moved(session, category, parent=parent["slug"])
            session.commit()
            answer = waiting.result(WAIT)

        # The category is in its parent only since that asks for a size.
        problem = assert_problem(answer, 422, "attributes-unfit")
        assert problem["errors"][0]["pointer"] == "#/attributes/size"

    def test_a_category_waits_for_the_products_that_are_written(
        self, real_app, real_sessions, shelf, change, monkeypatch, new_product, create
    ):
        category = shelf(attribute_schema=COLOUR)
        checked, go_on = Event(), Event()
        write = products._insert

        def slow(*args):
            checked.set()
            assert go_on.wait(WAIT)
            return write(*args)

        monkeypatch.setattr(products, "_insert", slow)
        with ThreadPoolExecutor() as pool, real_sessions() as session:
            product = pool.submit(create, category, colour="red")
            assert checked.wait(WAIT)
            changing = pool.submit(change, category, attribute_schema=SIZE)
            waits = text(
                "select count(*) from pg_locks where not granted"
                " and cardinality(pg_blocking_pids(pid)) > 0"
            )
            for _ in range(2000):
                if session.scalar(waits):
                    break
                session.execute(text("select pg_sleep(0.005)"))
            assert not changing.done()
            go_on.set()
            assert product.result(WAIT).status_code == 201
            assert changing.result(WAIT).status_code == 200

    def test_every_product_fits_one_of_both(self, shelf, change, create, together):
        top = shelf(attribute_schema=COLOUR)
        leaf = shelf(parent=top["slug"])

        def act(number):
            if number < 2:
                for schema in (SIZE, COLOUR) * 4:
                    change(top if number else leaf, attribute_schema=schema)
                return []
            return [
                (attributes, create(leaf, **attributes).status_code)
                for attributes in ({}, {"colour": "red", "size": 1}) * 5
            ]

        answers = [answer for each in together(act, range(5)) for answer in each]

        # Something is asked for at any time, and what has both fits either.
        assert len(answers) == 30
        for attributes, status in answers:
            assert status == (201 if attributes else 422)


class TestMigration:
    def test_keeps_what_is_there_both_ways(self, make_database):
        url = make_database()
        config = db.config(url, MIGRATIONS)
        engine = create_engine(url, poolclass=NullPool)
        command.upgrade(config, "0004")
        with engine.begin() as connection:
            connection.execute(
                text(
                    "insert into category (id, slug, name, description, path)"
                    " values (gen_random_uuid(), 'old', 'Old', '', '{old}')"
                )
            )

        command.upgrade(config, "0005")
        with engine.connect() as connection:
            asked = connection.execute(
                text("select slug, attribute_schema from category")
            )
            assert asked.all() == [("old", None)]
        command.downgrade(config, "0004")

        with engine.connect() as connection:
            assert connection.scalar(text("select slug from category")) == "old"
