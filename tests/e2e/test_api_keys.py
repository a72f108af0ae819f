"""A script's key from its making to its end, through the gateway."""

import pytest
from harness.waiting import until


@pytest.fixture
def key(merchandiser):
    with merchandiser.client() as client:
        made = client.post(
            "/api/v1/api-keys", json={"name": "End to end", "scope": "jobs:read"}
        )
        assert made.status_code == 201, made.text
        yield made.json()["key"]
        client.delete(made.headers["Location"])


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class TestApiKey:
    def test_opens_what_its_scope_names_in_every_service(self, stack, key):
        with stack.client(headers=bearer(key)) as client:
            assert client.get("/api/v1/jobs").status_code == 200
            assert (
                client.get("/api/v1/me").json()["email"] == "merchandiser@flagon.test"
            )
            refused = client.post("/api/v1/products", json={})
            assert refused.status_code == 403, refused.text

    def test_ends_within_a_second(self, stack, merchandiser, key):
        with merchandiser.client() as client:
            [mine] = [
                one
                for one in client.get("/api/v1/api-keys").json()["items"]
                if one["prefix"] == key.split("_")[1]
            ]
            with stack.client(headers=bearer(key)) as script:
                assert script.get("/api/v1/jobs").status_code == 200
                ended = client.delete(f"/api/v1/api-keys/{mine['id']}")
                assert ended.status_code == 204
                until(
                    lambda: script.get("/api/v1/jobs").status_code == 401,
                    2,
                    pause=0.1,
                    what="the key to end",
                )

    def test_that_is_made_up_opens_nothing(self, stack):
        made_up = f"flg_{'a' * 12}_{'b' * 43}"
        with stack.client(headers=bearer(made_up)) as client:
            answer = client.get("/api/v1/jobs")

        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert "bearer" in answer.headers["www-authenticate"].lower()
