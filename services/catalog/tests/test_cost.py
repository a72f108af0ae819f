"""What answers take, counted: code does not become dearer without somebody saying so.

Counted are calls of Python functions, which no busy machine changes, beside those for the
emptiest answer of the same app: so another Python or Flask changes little. A limit that is
passed for a good reason is raised here; a time is measured by tests/bench.
"""

import pytest

PRODUCTS = "/api/v1/products"
FRESH = {"Cache-Control": "no-cache"}
LIMITS = {
    "a product": 2.85,
    "a product that is kept": 2.85,
    "a list of 1": 2.7,
    "a list of 50": 3.7,
    "a search": 3.1,
    "a change": 5.4,
}
"""Times the emptiest answer; about 8 % above what they are."""


@pytest.fixture
def runs(client, merchandiser, make):
    """What is counted, by its name."""
    path = [f"{PRODUCTS}/{make(name=f'Thing {n}')['id']}" for n in range(60)][-1]
    tags = [client.get(path).headers["ETag"]]

    def change():
        headers = {**merchandiser, "If-Match": tags[-1]}
        answer = client.patch(path, json={"stock": len(tags)}, headers=headers)
        assert answer.status_code == 200, answer.text
        tags.append(answer.headers["ETag"])

    def read(address, **headers):
        assert client.get(address, headers=headers).status_code == 200

    return {
        "a product": lambda: read(path, **FRESH),
        "a product that is kept": lambda: read(path),
        "a list of 1": lambda: read(f"{PRODUCTS}?limit=1", **FRESH),
        "a list of 50": lambda: read(f"{PRODUCTS}?limit=50", **FRESH),
        "a search": lambda: read(f"{PRODUCTS}?q=thing&limit=20", **FRESH),
        "a change": change,
    }


class TestCost:
    @pytest.mark.parametrize("what", LIMITS)
    def test_is_not_above_its_limit(self, client, runs, calls, what):
        empty = calls(lambda: client.get("/livez"))

        assert calls(runs[what]) / empty <= LIMITS[what]
