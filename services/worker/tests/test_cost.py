"""What the jobs API takes, counted as in the catalog's `test_cost.py`."""

import pytest

LIMITS = {"handing in a job": 8.6, "a job": 2.75, "a list of 20": 4.05}
"""Times the emptiest answer; about 8 % above what they are."""


@pytest.fixture
def runs(client, bearer, submit):
    """What is counted, by its name."""
    headers = bearer("jobs:read", "jobs:write", sub="me")
    path = [submit().headers["Location"] for _ in range(25)][-1]

    def hand_in():
        assert submit().status_code == 202

    def read(address):
        assert client.get(address, headers=headers).status_code == 200

    return {
        "handing in a job": hand_in,
        "a job": lambda: read(path),
        "a list of 20": lambda: read("/api/v1/jobs?limit=20"),
    }


class TestCost:
    @pytest.mark.parametrize("what", LIMITS)
    def test_is_not_above_its_limit(self, client, runs, calls, what):
        empty = calls(lambda: client.get("/livez"))

        assert calls(runs[what]) / empty <= LIMITS[what]
