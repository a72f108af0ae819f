"""The OpenAPI document says what the service does."""

import json
import re

import pytest
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import validate

PRODUCTS = "/api/v1/products"


@pytest.fixture(scope="module")
def document(real_app):
    answer = real_app.test_client().get("/openapi.json")
    assert answer.status_code == 200
    return answer.json


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


class TestDocument:
    def test_is_valid_openapi_3_1(self, document):
        assert document["openapi"].startswith("3.1")
        validate(document)

    def test_names_exactly_the_routes_that_exist(self, document, real_app):
        routes = {
            (re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule), method.lower())
            for rule in real_app.url_map.iter_rules()
            if rule.rule.startswith("/api/")
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }

        described = {(path, method) for path, method, _ in operations(document)}

        assert {item for item in described if item[0].startswith("/api/")} == routes

    def test_names_each_operation_once_and_in_words(self, document):
        ids = [
            operation["operationId"]
            for path, _, operation in operations(document)
            if path.startswith("/api/")
        ]

        assert len(ids) == len(set(ids)) == 47
        assert {"list_products", "upsert_products", "change_category"} <= set(ids)

    def test_describes_problems_as_problems(self, document):
        for path, method, operation in operations(document):
            for status, response in operation["responses"].items():
                if status == "default" or status >= "400":
                    content = response["content"]["application/problem+json"]
                    assert content["schema"]["$ref"].endswith("/Problem"), (
                        path,
                        method,
                    )

    def test_says_what_a_change_needs(self, document):
        for path, method, operation in operations(document):
            if not path.startswith("/api/") or path == "/api/v1/graphql":
                continue
            headers = {
                parameter["name"]: parameter["required"]
                for parameter in operation["parameters"]
                if parameter["in"] == "header"
            }
            # What is done to one resource creates nothing.
            done = path.endswith(("/publish", "/reject"))
            expected = {
                "post": {"If-Match": True} if done else {"Idempotency-Key": False},
                "put": {"If-Match": True},
                "patch": {"If-Match": True},
                "delete": {"If-Match": True},
                "get": {"If-None-Match": False} if path.endswith("}") else {},
            }[method]
            if path == f"{PRODUCTS}/bulk/lines":
                # Sending all of it again is harmless by itself.
                expected = {}
            assert headers == expected, (path, method)
            own = {"/api/v1/reviews", "/api/v1/audit", f"{PRODUCTS}/export"}
            asks = method != "get" or path in own or "/reservations" in path
            assert ("security" in operation) == asks, path
            if method in {"put", "patch", "delete"}:
                assert {"404", "412", "428"} <= set(operation["responses"])

    def test_names_the_types_of_lists_and_exports(self, document):
        types = {
            path: set(document["paths"][path]["get"]["responses"]["200"]["content"])
            for path in (PRODUCTS, "/api/v1/categories", f"{PRODUCTS}/export")
        }

        whole = {
            "application/json",
            "application/x-ndjson",
            "text/csv",
            "application/xml",
        }
        lines = {"application/x-ndjson", "text/csv"}
        assert list(types.values()) == [whole, whole, lines]

    def test_describes_graphql(self, document):
        item = document["paths"]["/api/v1/graphql"]

        assert set(item) == {"get", "post"}
        for operation in item.values():
            assert set(operation["responses"]["200"]["content"]) == {
                "application/json",
                "application/graphql-response+json",
            }
            assert {"406", "422"} <= set(operation["responses"])
            assert "security" not in operation
        assert not [one for one in item["post"]["parameters"] if one["in"] == "header"]

    def test_offers_merge_patches(self, document):
        body = document["paths"][f"{PRODUCTS}/{{product_id}}"]["patch"]["requestBody"]

        assert set(body["content"]) == {
            "application/merge-patch+json",
            "application/json",
        }

    def test_gives_examples(self, document):
        properties = document["components"]["schemas"]["NewProduct"]["properties"]

        assert properties["sku"]["examples"]
        assert properties["price_minor"]["examples"]

    def test_promises_nothing_that_is_ours_to_set(self, document):
        new = document["components"]["schemas"]["NewProduct"]

        assert new["additionalProperties"] is False
        assert "id" not in new["properties"]
        assert set(new["required"]) == {"sku", "name", "price_minor"}

    def test_describes_bulk_items(self, document):
        items = document["components"]["schemas"]["BulkUpsert"]["properties"]["items"]

        assert items["items"]["required"] == ["sku"]
        assert "default" not in json.dumps(items)

    def test_matches_what_is_answered(self, document, real_app, merchandiser):
        client = real_app.test_client()
        body = {"sku": "documented", "name": "N", "price_minor": 1, "stock": 1}
        made = client.post(PRODUCTS, json=body, headers=merchandiser)
        place = f"{made.headers['Location']}/reservations"
        held = client.post(place, json={"quantity": 1}, headers=merchandiser)
        for name, path in (
            ("ProductView", f"{PRODUCTS}/by-sku/documented"),
            ("ProductPage", PRODUCTS),
            ("CategoryPage", "/api/v1/categories"),
            ("ReservationPage", "/api/v1/reservations"),
            ("ReservationView", held.headers["Location"]),
        ):
            schema = {
                **document["components"]["schemas"][name],
                "components": document["components"],
            }
            answer = client.get(path, headers=merchandiser)
            Draft202012Validator(schema).validate(answer.json)
