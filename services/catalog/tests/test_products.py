"""One product: create, read, replace, patch, delete."""

from datetime import datetime
from uuid import UUID, uuid4

import pytest

PRODUCTS = "/api/v1/products"
MERGE = {"content_type": "application/merge-patch+json"}


def url(product):
    return f"{PRODUCTS}/{product['id']}"


class TestCreateProduct:
    def test_answers_201_with_the_product(self, client, merchandiser):
        body = {
            "sku": "Mug_1.a",
            "name": "  Blue Mug ",
            "description": "Two\nlines",
            "price_minor": 1299,
            "currency": "CHF",
            "status": "draft",
            "stock": 3,
            "attributes": {"colour": "blue", "sizes": [1, 2.5, None], "a": {"b": True}},
        }

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        assert answer.status_code == 201
        product = answer.json
        assert list(product) == [
            "id",
            "sku",
            "slug",
            "name",
            "description",
            "description_html",
            "price_minor",
            "currency",
            "status",
            "stock",
            "available",
            "category",
            "tags",
            "attributes",
            "rating",
            "version",
            "created_at",
            "updated_at",
        ]
        assert product.items() >= {**body, "name": "Blue Mug"}.items()
        assert product["slug"] == "blue-mug"
        assert product["version"] == 1
        assert UUID(product["id"]).version == 7
        assert product["created_at"].endswith("Z")
        assert datetime.fromisoformat(product["created_at"]).tzinfo
        assert answer.headers["Location"] == url(product)
        assert answer.headers["ETag"].startswith(f'"v1-{product["id"]}-')

    def test_has_defaults(self, make):
        product = make()

        assert (
            product.items()
            >= {
                "description": "",
                "currency": "EUR",
                "status": "active",
                "stock": 0,
                "category": None,
                "attributes": {},
            }.items()
        )

    def test_leaves_an_event_in_the_same_transaction(self, make, make_category, sent):
        shelf = make_category()
        product = make(category=shelf["slug"])
        etag = product.pop("etag")
        # Who follows events makes it again, or asks.
        product.pop("description_html")

        (event,) = sent(product["id"])

        assert etag
        assert event["type"] == "market.flagon.product.changed.v1"
        assert event["source"] == "/services/catalog"
        assert event["topics"] == ["products", f"products/{product['id']}"]
        assert event["data"] == {**product, "changed": list(product)}

    def test_refuses_a_taken_sku(self, client, make, merchandiser, assert_problem):
        product = make()
        body = {"sku": product["sku"], "name": "Other", "price_minor": 1}

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        problem = assert_problem(answer, 409, "sku-taken")
        assert problem["errors"][0]["pointer"] == "#/sku"

    def test_refuses_a_taken_slug(
        self, client, make, merchandiser, new_product, assert_problem
    ):
        product = make()
        body = new_product(slug=product["slug"])

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        assert_problem(answer, 409, "slug-taken")

    def test_finds_another_slug_for_the_same_name(self, make):
        name = f"Same {uuid4().hex[:8]}"
        first, second = make(name=name), make(name=name, sku="S.2")
        third = make(name=name, sku="s-2")

        assert second["slug"] == f"{first['slug']}-s-2"
        assert third["slug"] == f"{first['slug']}-{third['id'][-12:]}"

    def test_refuses_an_unknown_category(
        self, client, merchandiser, new_product, assert_problem
    ):
        body = new_product(category="nowhere")

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        problem = assert_problem(answer, 422, "category-unknown")
        assert problem["errors"][0]["pointer"] == "#/category"

    def test_takes_whole_numbers_however_they_are_written(self, make):
        assert make(price_minor=106.0)["price_minor"] == 106

    @pytest.mark.parametrize(
        "field", ["id", "version", "created_at", "updated_at", "category_id", "search"]
    )
    def test_lets_nobody_set_what_is_ours(
        self, client, merchandiser, new_product, assert_problem, field
    ):
        body = new_product(**{field: 1})

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        problem = assert_problem(answer, 422, "invalid-request")
        assert [error["pointer"] for error in problem["errors"]] == [f"#/{field}"]

    def test_tells_every_wrong_field_at_once(
        self, client, merchandiser, assert_problem
    ):
        body = {"sku": "a b", "price_minor": -1, "attributes": [], "colour": "red"}

        answer = client.post(PRODUCTS, json=body, headers=merchandiser)

        problem = assert_problem(answer, 422, "invalid-request")
        assert {error["pointer"] for error in problem["errors"]} == {
            "#/sku",
            "#/name",
            "#/price_minor",
            "#/attributes",
            "#/colour",
        }

    def test_needs_the_scope(self, client, customer, new_product, assert_problem):
        assert_problem(client.post(PRODUCTS, json=new_product()), 401)
        answer = client.post(PRODUCTS, json=new_product(), headers=customer)
        assert_problem(answer, 403, "scope-missing")

    def test_answers_a_repetition_with_the_first_answer(
        self, client, merchandiser, new_product, sent
    ):
        headers = {**merchandiser, "Idempotency-Key": uuid4().hex}
        body = new_product()

        first = client.post(PRODUCTS, json=body, headers=headers)
        second = client.post(PRODUCTS, json=body, headers=headers)

        assert first.status_code == second.status_code == 201
        assert first.data == second.data
        assert second.headers["Idempotent-Replayed"] == "true"
        for name in ("ETag", "Location", "Content-Type"):
            assert first.headers[name] == second.headers[name]
        assert len(sent(first.json["id"])) == 1

    def test_refuses_a_used_key_with_another_body(
        self, client, merchandiser, new_product, assert_problem
    ):
        headers = {**merchandiser, "Idempotency-Key": uuid4().hex}
        client.post(PRODUCTS, json=new_product(), headers=headers)

        answer = client.post(PRODUCTS, json=new_product(), headers=headers)

        assert_problem(answer, 422, "idempotency-key-reused")

    def test_forgets_a_key_whose_request_failed(
        self, client, make, merchandiser, new_product
    ):
        headers = {**merchandiser, "Idempotency-Key": uuid4().hex}
        taken = make()["sku"]

        refused = client.post(PRODUCTS, json=new_product(sku=taken), headers=headers)
        accepted = client.post(PRODUCTS, json=new_product(), headers=headers)

        assert refused.status_code == 409
        assert accepted.status_code == 201


class TestFindProduct:
    def test_by_id_slug_or_sku(self, client, make):
        product = make()
        product.pop("etag")

        for path in (
            product["id"],
            f"by-slug/{product['slug']}",
            f"by-sku/{product['sku']}",
        ):
            assert client.get(f"{PRODUCTS}/{path}").json == product

    @pytest.mark.parametrize(
        "path", [str(uuid4()), "by-slug/none", "by-sku/none", "by-sku/'or'1'='1"]
    )
    def test_answers_404_when_there_is_none(self, client, assert_problem, path):
        answer = client.get(f"{PRODUCTS}/{path}")

        assert_problem(answer, 404, "product-not-found")

    def test_answers_304_while_it_is_the_same(self, client, make):
        product = make()

        answer = client.get(url(product), headers={"If-None-Match": product["etag"]})

        assert answer.status_code == 304
        assert answer.data == b""
        assert answer.headers["ETag"] == product["etag"]
        other = client.get(url(product), headers={"If-None-Match": '"v9"'})
        assert other.status_code == 200

    def test_answers_head_without_a_body(self, client, make):
        answer = client.head(url(make()))

        assert answer.status_code == 200
        assert answer.data == b""
        assert int(answer.headers["Content-Length"]) > 100

    @pytest.mark.parametrize("status", ["draft", "archived"])
    def test_hides_what_is_not_for_sale(
        self, client, make, merchandiser, customer, assert_problem, status
    ):
        product = make(status=status)

        assert_problem(client.get(url(product)), 404)
        assert_problem(client.get(url(product), headers=customer), 404)
        assert client.get(url(product), headers=merchandiser).status_code == 200

    def test_lets_shared_caches_keep_what_everybody_sees(
        self, client, make, merchandiser
    ):
        product = make()

        public = client.get(url(product)).headers
        private = client.get(url(product), headers=merchandiser).headers

        assert "s-maxage=1" in public["Cache-Control"]
        assert "stale-if-error=600" in public["Cache-Control"]
        assert private["Cache-Control"] == "private, no-cache"
        assert public["Vary"] == private["Vary"] == "Authorization"

    def test_refuses_a_bad_token_even_where_none_is_needed(
        self, client, make, assert_problem
    ):
        answer = client.get(url(make()), headers={"Authorization": "Bearer a.b.c"})

        assert_problem(answer, 401)


class TestReplaceProduct:
    def test_sets_every_field(self, client, make, make_category, merchandiser, sent):
        old = make(stock=7, description="Old", attributes={"a": 1})
        shelf = make_category()
        body = {
            "sku": f"{old['sku']}-x",
            "name": "New",
            "price_minor": 5,
            "category": shelf["slug"],
        }

        answer = client.put(
            url(old), json=body, headers={**merchandiser, "If-Match": old["etag"]}
        )

        assert answer.status_code == 200
        new = answer.json
        assert new.items() >= body.items()
        assert (new["stock"], new["description"], new["attributes"]) == (0, "", {})
        assert new["slug"] == old["slug"]
        assert new["created_at"] == old["created_at"]
        assert new["updated_at"] > old["updated_at"]
        assert new["version"] == 2
        assert answer.headers["ETag"].startswith(f'"v2-{old["id"]}-')
        assert set(sent(old["id"])[-1]["data"]["changed"]) == {
            "sku",
            "name",
            "price_minor",
            "category",
            "stock",
            "available",
            "description",
            "attributes",
        }
        assert client.get(url(old)).json == new

    def test_changes_the_slug_when_asked(self, client, make, merchandiser):
        old = make()
        body = {"sku": old["sku"], "slug": "brand-new", "name": "N", "price_minor": 5}

        answer = client.put(
            url(old), json=body, headers={**merchandiser, "If-Match": "*"}
        )

        assert answer.json["slug"] == "brand-new"

    def test_without_a_difference_changes_nothing(
        self, client, make, merchandiser, sent
    ):
        old = make()
        body = {name: old[name] for name in ("sku", "name", "price_minor")}

        answer = client.put(
            url(old), json=body, headers={**merchandiser, "If-Match": old["etag"]}
        )

        assert answer.status_code == 200
        assert answer.headers["ETag"] == old["etag"]
        assert len(sent(old["id"])) == 1

    @pytest.mark.parametrize("field", ["sku", "slug"])
    def test_refuses_what_another_product_has(
        self, client, make, merchandiser, assert_problem, field
    ):
        first, second = make(), make()
        body = {
            "sku": second["sku"],
            "name": "N",
            "price_minor": 1,
            field: first[field],
        }

        answer = client.put(
            url(second), json=body, headers={**merchandiser, "If-Match": "*"}
        )

        assert_problem(answer, 409, f"{field}-taken")
        assert client.get(url(second)).json["version"] == 1


class TestChangeProduct:
    def patch(self, client, product, headers, body, **more):
        return client.patch(
            url(product),
            json=body,
            headers={**headers, "If-Match": product["etag"], **more},
            **MERGE,
        )

    def test_changes_the_price_and_says_so(self, client, make, merchandiser, sent):
        product = make()

        answer = self.patch(client, product, merchandiser, {"price_minor": 777})

        assert answer.status_code == 200
        assert answer.json["price_minor"] == 777
        event = sent(product["id"])[-1]
        assert event["data"]["changed"] == ["price_minor"]
        assert event["data"]["price_minor"] == 777
        assert event["data"]["version"] == 2

    def test_takes_plain_json_too(self, client, make, merchandiser):
        product = make()

        answer = client.patch(
            url(product),
            json={"stock": 9},
            headers={**merchandiser, "If-Match": product["etag"]},
        )

        assert answer.json["stock"] == 9

    def test_merges_attributes(self, client, make, merchandiser):
        product = make(attributes={"a": 1, "b": {"c": 2, "d": 3}})

        answer = self.patch(
            client,
            product,
            merchandiser,
            {"attributes": {"a": None, "b": {"c": 9}, "e": [1]}},
        )

        assert answer.json["attributes"] == {"b": {"c": 9, "d": 3}, "e": [1]}

    def test_takes_fields_back_with_null(
        self, client, make, make_category, merchandiser
    ):
        product = make(
            description="D",
            stock=4,
            status="active",
            category=make_category()["slug"],
            attributes={"a": 1},
        )
        names = ("description", "stock", "category", "attributes", "currency", "status")

        answer = self.patch(client, product, merchandiser, dict.fromkeys(names))

        assert [answer.json[name] for name in names] == [
            "",
            0,
            None,
            {},
            "EUR",
            "active",
        ]

    @pytest.mark.parametrize("name", ["sku", "slug", "name", "price_minor"])
    def test_cannot_take_back_what_a_product_needs(
        self, client, make, merchandiser, assert_problem, name
    ):
        answer = self.patch(client, make(), merchandiser, {name: None})

        problem = assert_problem(answer, 422, "invalid-request")
        assert problem["errors"][0]["pointer"] == f"#/{name}"

    @pytest.mark.parametrize(
        "patch",
        [
            {"id": str(uuid4())},
            {"version": 9},
            {"created_at": None},
            {"price_minor": "1"},
            {"attributes": "x"},
            {"unknown": None},
            [],
            "x",
        ],
    )
    def test_refuses_what_is_no_change_of_a_product(
        self, client, make, merchandiser, assert_problem, patch
    ):
        product = make()

        answer = self.patch(client, product, merchandiser, patch)

        assert_problem(answer, 422, "invalid-request")
        assert client.get(url(product)).json["version"] == 1

    def test_holds_the_whole_to_the_limits(
        self, client, make, merchandiser, assert_problem
    ):
        product = make(attributes={str(number): number for number in range(240)})

        answer = self.patch(
            client,
            product,
            merchandiser,
            {"attributes": {f"n{number}": number for number in range(240)}},
        )

        assert_problem(answer, 422, "invalid-request")

    def test_an_empty_patch_changes_nothing(self, client, make, merchandiser):
        product = make()

        answer = self.patch(client, product, merchandiser, {})

        assert answer.headers["ETag"] == product["etag"]

    def test_refuses_other_media_types(
        self, client, make, merchandiser, assert_problem
    ):
        product = make()

        answer = client.patch(
            url(product),
            data='[{"op": "remove", "path": "/name"}]',
            headers={**merchandiser, "If-Match": product["etag"]},
            content_type="application/json-patch+json",
        )

        assert_problem(answer, 415)


class TestDeleteProduct:
    def test_archives_and_leaves_an_event(
        self, client, make, merchandiser, sent, assert_problem
    ):
        product = make()
        headers = {**merchandiser, "If-Match": product["etag"]}

        answer = client.delete(url(product), headers=headers)

        assert answer.status_code == 204
        assert answer.data == b""
        assert_problem(client.get(url(product)), 404)
        event = sent(product["id"])[-1]
        assert event["type"] == "market.flagon.product.changed.v1"
        assert event["data"]["changed"] == ["status"]
        shown = client.get(url(product), headers=merchandiser).json
        assert (shown["status"], shown["version"]) == ("archived", 2)

    def test_hides_it_from_shops_searches_and_counts(self, client, make, merchandiser):
        word = f"w{uuid4().hex[:12]}"
        product, other = make(name=f"{word} one"), make(name=f"{word} two")
        assert asked(client, word) == ({product["id"], other["id"]}, 2)

        client.delete(url(product), headers={**merchandiser, "If-Match": "*"})

        assert asked(client, word) == ({other["id"]}, 1)
        for path in (f"/by-slug/{product['slug']}", f"/by-sku/{product['sku']}"):
            assert client.get(PRODUCTS + path).status_code == 404
            found = client.get(PRODUCTS + path, headers=merchandiser)
            assert found.json["id"] == product["id"]

    def test_keeps_sku_and_slug_taken(
        self, client, make, merchandiser, new_product, assert_problem
    ):
        product = make()
        client.delete(url(product), headers={**merchandiser, "If-Match": "*"})

        for name, slug in (("sku", "sku-taken"), ("slug", "slug-taken")):
            twin = new_product(**{name: product[name]})
            answer = client.post(PRODUCTS, json=twin, headers=merchandiser)
            assert_problem(answer, 409, slug)

    def test_twice_is_once(self, client, make, merchandiser, sent):
        product = make()
        headers = {**merchandiser, "If-Match": "*"}

        for _ in range(2):
            answer = client.delete(url(product), headers=headers)
            assert answer.status_code == 204

        assert len(sent(product["id"])) == 2
        assert client.get(url(product), headers=merchandiser).json["version"] == 2

    def test_is_undone_by_a_patch_of_the_status(self, client, make, merchandiser):
        product = make(stock=3)
        headers = {**merchandiser, "If-Match": "*"}
        client.delete(url(product), headers=headers)

        client.patch(url(product), json={"status": "active"}, headers=headers)

        shown = client.get(url(product)).json
        stamps = ("version", "updated_at", "etag")
        assert {name: shown.get(name) for name in shown if name not in stamps} == {
            name: product[name] for name in shown if name not in stamps
        }

    @pytest.mark.parametrize("archived", [False, True])
    def test_for_good_is_gone_and_leaves_an_event(
        self, client, make, admin, sent, assert_problem, archived
    ):
        product = make(status="archived" if archived else "active")
        headers = {**admin, "If-Match": product["etag"]}

        answer = client.delete(f"{url(product)}?permanently=true", headers=headers)

        assert answer.status_code == 204
        assert answer.data == b""
        assert_problem(client.get(url(product), headers=admin), 404)
        event = sent(product["id"])[-1]
        assert event["type"] == "market.flagon.product.deleted.v1"
        assert event["data"] == {"id": product["id"], "sku": product["sku"]}

    @pytest.mark.parametrize("query", ["", "?permanently=true"])
    def test_needs_the_scope(self, client, make, customer, assert_problem, query):
        product = make()

        answer = client.delete(
            url(product) + query, headers={**customer, "If-Match": product["etag"]}
        )

        assert_problem(answer, 403)

    def test_for_good_needs_more_than_a_merchandiser_has(
        self, client, make, merchandiser, sent, assert_problem
    ):
        product = make()
        headers = {**merchandiser, "If-Match": "*"}

        for _ in range(2):
            answer = client.delete(f"{url(product)}?permanently=1", headers=headers)
            problem = assert_problem(answer, 403, "scope-missing")
            assert problem["scopes"] == ["catalog:purge"]
            assert 'scope="catalog:purge"' in answer.headers["WWW-Authenticate"]
            client.delete(url(product), headers=headers)

        assert len(sent(product["id"])) == 2

    def test_for_good_needs_the_scope_to_write_as_well(
        self, client, make, bearer, assert_problem
    ):
        answer = client.delete(
            f"{url(make())}?permanently=true",
            headers={**bearer("catalog:purge"), "If-Match": "*"},
        )

        assert_problem(answer, 403, "scope-missing")

    @pytest.mark.parametrize(
        "query",
        [
            "?permanently=maybe",
            "?permanent=true",
            "?permanently=",
            "?permanently=true&permanently=false",
        ],
    )
    def test_refuses_what_is_unclear(
        self, client, make, admin, query, sent, assert_problem
    ):
        product = make()

        answer = client.delete(url(product) + query, headers={**admin, "If-Match": "*"})

        assert_problem(answer, 400 if "&" in query else 422)
        assert len(sent(product["id"])) == 1


def asked(client, word):
    page = client.get(f"{PRODUCTS}?q={word}&facets=status").json
    counts = {item["value"]: item["count"] for item in page["facets"]["status"]}
    assert counts.keys() <= {"active"}
    return {item["id"] for item in page["items"]}, counts.get("active", 0)


class TestIfMatch:
    @pytest.fixture(params=["put", "patch", "delete", "delete for good"])
    def change(self, request, client, admin):
        def change(product, **headers):
            method, _, for_good = request.param.partition(" ")
            body = {"sku": product["sku"], "name": "Changed", "price_minor": 1}
            if method == "delete":
                body = None
            return client.open(
                url(product) + ("?permanently=true" if for_good else ""),
                method=method.upper(),
                json=body,
                headers={**admin, **headers},
            )

        return change

    def test_is_required(self, change, make, assert_problem):
        assert_problem(change(make()), 428, "version-required")

    @pytest.mark.parametrize(
        "tag", ['"v2-{id}"', '"v1"', "nonsense", '"', "", 'W/"v1-{id}"']
    )
    def test_must_name_the_present_version(self, change, make, assert_problem, tag):
        product = make()

        answer = change(product, **{"If-Match": tag.format(id=product["id"])})

        assert_problem(answer, 412, "version-stale")

    @pytest.mark.parametrize("tag", ["{etag}", "*", '"other", {etag}'])
    def test_lets_the_present_version_through(self, change, make, tag):
        product = make()

        answer = change(product, **{"If-Match": tag.format(etag=product["etag"])})

        assert answer.status_code in {200, 204}

    def test_comes_after_existence(self, change, make, assert_problem):
        product = {**make(), "id": str(uuid4())}

        assert_problem(change(product, **{"If-Match": "*"}), 404)
