"""What costs much more than other requests is limited more narrowly."""

from uuid import uuid4

import pytest

PRODUCTS = "/api/v1/products"


@pytest.fixture(scope="module")
def strict(migrated, make_app):
    return make_app(
        migrated(),
        review_limit="2 per minute",
        facet_limit="2 per minute",
        export_limit="2 per minute",
    )


@pytest.fixture
def client(strict):
    return strict.test_client()


@pytest.fixture
def merchandiser(bearer):
    """Headers of somebody new."""
    return bearer("catalog:write", sub=str(uuid4()))


class TestLimits:
    def test_of_exports(self, client, merchandiser, assert_problem):
        for _ in range(2):
            answer = client.get(f"{PRODUCTS}/export", headers=merchandiser)
            assert answer.status_code == 200

        refused = client.get(f"{PRODUCTS}/export", headers=merchandiser)

        assert_problem(refused, 429)
        assert int(refused.headers["Retry-After"]) > 0
        assert client.get(PRODUCTS, headers=merchandiser).status_code == 200

    def test_of_facets_alone(self, client, merchandiser, assert_problem):
        for _ in range(5):
            assert client.get(PRODUCTS, headers=merchandiser).status_code == 200
        path = f"{PRODUCTS}?facets=tag"
        for _ in range(2):
            assert client.get(path, headers=merchandiser).status_code == 200

        assert_problem(client.get(path, headers=merchandiser), 429)
        assert client.get(PRODUCTS, headers=merchandiser).status_code == 200

    def test_of_writing_reviews_whatever_the_product(
        self, client, bearer, merchandiser, new_product, assert_problem
    ):
        writer = bearer("reviews:write", sub=str(uuid4()))
        body = {"author": "Ada", "rating": 5, "title": "T", "body": "B"}
        made = [
            client.post(PRODUCTS, json=new_product(), headers=merchandiser).json["id"]
            for _ in range(3)
        ]

        answers = [
            client.post(f"{PRODUCTS}/{one}/reviews", json=body, headers=writer)
            for one in made
        ]

        assert [answer.status_code for answer in answers] == [201, 201, 429]
        mine = client.get("/api/v1/reviews", headers=writer)
        assert len(mine.json["items"]) == 2
        other = bearer("reviews:write", sub=str(uuid4()))
        answer = client.post(f"{PRODUCTS}/{made[2]}/reviews", json=body, headers=other)
        assert answer.status_code == 201
