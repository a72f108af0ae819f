"""GraphQL through the gateway: public, cached by hash, as REST for who may see more."""

import json
from hashlib import sha256

import pytest
from harness.stack import GATEWAY

PATH = "/api/v1/graphql"
PRODUCTS = "/api/v1/products"
QUERY = """query BySku($sku: String!) {
  product(sku: $sku) { id name status priceMinor reviews { nodes { title } } }
}"""


@pytest.fixture
def draft(merchandiser, word):
    with merchandiser.client() as client:
        new = {"sku": word, "name": "D", "price_minor": 5, "status": "draft"}
        made = client.post(PRODUCTS, json=new)
        assert made.status_code == 201, made.text
        yield made.json()
        path = f"{PRODUCTS}/{made.json()['id']}"
        gone = client.delete(path, headers={"If-Match": made.headers["ETag"]})
        assert gone.status_code == 204, gone.text


def named(text):
    digest = sha256(text.encode()).hexdigest()
    return {"persistedQuery": {"version": 1, "sha256Hash": digest}}


class TestQuery:
    def test_shows_strangers_what_is_for_sale_alone(self, stack, merchandiser, draft):
        body = {"query": QUERY, "variables": {"sku": draft["sku"]}}
        with stack.client() as client:
            stranger = client.post(PATH, json=body)
        with merchandiser.client() as client:
            own = client.post(PATH, json=body)

        assert stranger.status_code == own.status_code == 200, stranger.text
        assert stranger.headers["Content-Type"] == "application/graphql-response+json"
        (error,) = stranger.json()["errors"]
        assert error["extensions"]["code"] == "product-not-found"
        assert own.json()["data"]["product"]["status"] == "DRAFT"
        assert own.json()["data"]["product"]["reviews"] == {"nodes": []}

    def test_that_is_bad_is_told_as_graphql(self, stack):
        with stack.client() as client:
            wrong = client.post(PATH, json={"query": "{ productz { id } }"})
            costly = client.post(
                PATH,
                json={
                    "query": "{ products(first: 100) { nodes { reviews(first: 100)"
                    " { nodes { id } } } } }"
                },
            )

        for answer, code in ((wrong, "query-invalid"), (costly, "query-too-costly")):
            assert answer.status_code == 422
            (error,) = answer.json()["errors"]
            assert error["extensions"]["code"] == code

    def test_that_is_none_is_a_problem(self, stack):
        with stack.client() as client:
            for more in ({"json": [{"query": "{ __typename }"}]}, {"content": "{"}):
                answer = client.post(PATH, **more)
                assert answer.status_code in {415, 422}
                assert answer.headers["Content-Type"] == "application/problem+json"


class TestPersistedQuery:
    def test_is_kept_by_the_gateway_for_strangers(self, stack, word):
        text = f"# {word}\n{{ products(first: 2) {{ nodes {{ name }} }} }}"
        asked = {"extensions": json.dumps(named(text))}
        with stack.client() as client:
            unknown = client.get(PATH, params=asked)
            taught = client.post(PATH, json={"query": text, "extensions": named(text)})
            found = [client.get(PATH, params=asked) for _ in range(5)]

        assert unknown.status_code == 404
        assert unknown.json()["errors"][0]["message"] == "PersistedQueryNotFound"
        assert taught.status_code == 200
        assert {answer.status_code for answer in found} == {200}
        kept = "HIT" in {answer.headers.get("X-Cache") for answer in found}
        # Others keep nothing: then the catalog is asked each time.
        assert kept == (GATEWAY == "nginx")
        assert found[-1].json()["data"] == taught.json()["data"]
