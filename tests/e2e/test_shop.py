"""The catalog through the gateway: what is cached, reserved, reviewed and exported."""

import csv
import io
import json
import uuid

import pytest
from harness.waiting import until

PRODUCTS = "/api/v1/products"


@pytest.fixture
def product(merchandiser, word):
    with merchandiser.client() as client:
        made = client.post(
            PRODUCTS,
            json={"sku": word, "name": f"Flask {word}", "price_minor": 900, "stock": 2},
        )
        assert made.status_code == 201, made.text
        yield made.json()
        path = f"{PRODUCTS}/{made.json()['id']}"
        tag = client.get(path).headers["ETag"]
        gone = client.delete(path, headers={"If-Match": tag})
        assert gone.status_code == 204, gone.text


class TestLists:
    def test_of_one_address_are_cached_in_each_format(self, stack, product):
        types = {
            "application/json": lambda text: json.loads(text)["items"][0]["sku"],
            "text/csv": lambda text: next(csv.DictReader(io.StringIO(text)))["sku"],
            "application/x-ndjson": lambda text: json.loads(text)["sku"],
        }
        path = f"{PRODUCTS}?sku={product['sku']}"
        with stack.client() as client:
            for _ in range(2):
                for wanted, sku in types.items():
                    answer = client.get(path, headers={"Accept": wanted})
                    assert answer.status_code == 200, answer.text
                    assert answer.headers["Content-Type"].startswith(wanted)
                    assert sku(answer.text) == product["sku"]
            refused = client.get(path, headers={"Accept": "image/png"})
        assert refused.status_code == 406
        assert refused.headers["Content-Type"] == "application/problem+json"

    def test_are_exported_whole(self, merchandiser, product):
        with merchandiser.client() as client:
            path = f"{PRODUCTS}/export?sku={product['sku']}&format="
            lines = client.get(path + "ndjson").text.splitlines()
            (row,) = csv.DictReader(io.StringIO(client.get(path + "csv").text))

        assert [json.loads(line)["id"] for line in lines] == [product["id"]]
        assert row["name"] == product["name"]


class TestReservation:
    def test_takes_the_last_one_and_gives_it_back(self, stack, merchandiser, product):
        path = f"{PRODUCTS}/{product['id']}"

        def available():
            with stack.client() as client:
                answer = client.get(path, headers={"Cache-Control": "no-cache"})
            return answer.json()["available"], answer.headers["ETag"]

        _, before = available()
        with merchandiser.client() as client:
            key = {"Idempotency-Key": str(uuid.uuid4())}
            wanted = {"quantity": 2, "expires_in": 600}
            made = [
                client.post(f"{path}/reservations", json=wanted, headers=key)
                for _ in range(2)
            ]
            assert [one.status_code for one in made] == [201, 201]
            assert made[0].json() == made[1].json()
            held, tag = available()
            assert (held, tag != before) == (0, True)

            late = client.post(f"{path}/reservations", json={"quantity": 1})
            assert late.status_code == 409, late.text

            # Somebody else's reservation is no reason to refuse an edit.
            edited = client.patch(
                path,
                json={"name": "Renamed"},
                headers={
                    "If-Match": before,
                    "Content-Type": "application/merge-patch+json",
                },
            )
            assert edited.status_code == 200, edited.text

            where = made[0].headers["Location"]
            given = client.post(f"{where}/release")
            assert given.json()["state"] == "released"
        assert available()[0] == 2


class TestReview:
    def test_is_seen_once_it_is_published(self, stack, customer, merchandiser, product):
        path = f"{PRODUCTS}/{product['id']}"
        written = {
            "author": "Ada",
            "rating": 4,
            "title": "Holds water",
            "body": "*Really* <script>alert(1)</script>",
        }
        with customer.client() as writer, merchandiser.client() as moderator:
            made = writer.post(f"{path}/reviews", json=written)
            assert made.status_code == 201, made.text
            where = made.headers["Location"]
            with stack.client() as stranger:
                assert stranger.get(where).status_code == 404
                assert stranger.get(f"{path}/reviews").json()["items"] == []

            tag = moderator.get(where).headers["ETag"]
            published = moderator.post(f"{where}/publish", headers={"If-Match": tag})
            assert published.status_code == 200, published.text
            again = writer.post(f"{path}/reviews", json=written)
            assert again.status_code == 409, again.text

        def shown():
            with stack.client(headers={"Cache-Control": "no-cache"}) as stranger:
                (review,) = stranger.get(f"{path}/reviews").json()["items"]
                rating = stranger.get(path).json()["rating"]
            return review, rating

        review, rating = until(
            shown, 10, pause=0.2, what="the review", ignore=(ValueError,)
        )
        assert rating == {"count": 1, "average": 4.0}
        assert "<em>Really</em>" in review["body_html"]
        assert "<script" not in review["body_html"]
        assert review["subject"] is None
