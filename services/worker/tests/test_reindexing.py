"""Reindexing: every step once or again, to the end, whatever dies."""

import json
from datetime import UTC, datetime

import pytest

from flagon_chassis.testing import Peer
from flagon_worker.domain import leases

AT = "2026-11-21T09:30:00+00:00"


class Words(Peer):
    """A catalog with seven products and five words, two a step."""

    def __init__(self):
        self.asked = []
        self.status = 200
        super().__init__()

    def answer(self, method, path, headers, body):
        step, body = path.removeprefix("/internal/words/"), json.loads(body)
        self.asked.append((step, body))
        there = 0 if "since" in body else {"learn": 7, "forget": 5}[step]
        begin = int(body.get("after", "0"))
        count = min(2, there - begin)
        after = str(begin + count) if count else None
        done = {"after": after, "looked_at": count, "written": count, "at": AT}
        return self.status, done


@pytest.fixture
def words(put):
    return put(Words())


@pytest.fixture
def hand_in(client, bearer):
    def hand_in(*scopes, **params):
        return client.post(
            "/api/v1/jobs",
            data={"kind": "reindex", "params": json.dumps(params)},
            content_type="multipart/form-data",
            headers=bearer("jobs:write", *(scopes or ("jobs:manage",)), sub="me"),
        )

    return hand_in


ALL = [
    ("learn", {}),
    ("learn", {"after": "2"}),
    ("learn", {"after": "4"}),
    ("learn", {"after": "6"}),
    ("learn", {"after": "7"}),
    ("forget", {}),
    ("forget", {"after": "2"}),
    ("forget", {"after": "4"}),
    ("forget", {"after": "5"}),
    ("learn", {"since": AT}),
]


class TestReindex:
    def test_learns_then_forgets_then_learns_what_came_meanwhile(
        self, hand_in, run, words
    ):
        job = run(hand_in().json["id"])

        assert job["state"] == "succeeded", job
        assert words.asked == ALL
        assert job["result"] == {"learned": 7, "forgotten": 5}
        assert job["progress"]["done"] == job["progress"]["total"] == 12

    def test_waits_while_the_catalog_is_away(self, hand_in, run, words, change):
        words.status = 503
        job = run(hand_in().json["id"])
        assert job["state"] == "queued"

        words.status = 200
        words.asked.clear()
        change(job["id"], queued_at=datetime.now(UTC))

        assert run(job["id"])["state"] == "succeeded"
        assert words.asked == ALL

    @pytest.mark.parametrize("nth", [1, 5, 6, 10])
    def test_killed_between_a_step_and_its_confirmation_sends_it_again(
        self, hand_in, run, words, change, monkeypatch, nth
    ):
        """The worker dies once the catalog has done the step, before it writes so."""
        job_id = hand_in().json["id"]
        advance, calls = leases.advance, []

        def die(*given, **more):
            calls.append(given)
            if len(calls) == nth:
                raise KeyboardInterrupt
            advance(*given, **more)

        with monkeypatch.context() as patched:
            patched.setattr(leases, "advance", die)
            with pytest.raises(KeyboardInterrupt):
                run(job_id)
        assert words.asked == ALL[:nth]
        change(job_id, lease_token=None, lease_until=None)

        job = run(job_id)

        assert job["state"] == "succeeded", job
        assert words.asked == ALL[:nth] + ALL[nth - 1 :]
        assert job["result"] == {"learned": 7, "forgotten": 5}

    def test_takes_no_parameters_and_is_for_operators(self, hand_in):
        assert hand_in(full=True).status_code == 422
        assert hand_in("catalog:write").status_code == 403
