"""Whatever process dies, without warning and at the worst moment, the import ends right."""

from datetime import UTC, datetime

import pytest
from harness import imports
from harness.stack import PROCESSES

ROWS = 5_000
REFUSED = 7


@pytest.mark.parametrize("name", PROCESSES)
class TestKill:
    def test_of_any_process_loses_and_doubles_nothing(
        self, stack, merchandiser, word, name
    ):
        content = imports.as_csv(imports.rows(word, ROWS, refused=REFUSED))
        assert merchandiser.token
        victim = stack.pid(name)

        path = imports.accepted(merchandiser, content, imports.params(word))
        imports.running(merchandiser, path)
        stack.kill(name, pid=victim)
        killed_at = datetime.now(UTC)
        job = imports.ended(merchandiser, path, seconds=180)

        assert job["state"] == "succeeded", job["error"]
        finished_at = datetime.fromisoformat(job["finished_at"])
        assert finished_at > killed_at, "too late to disturb it"
        assert job["result"] == {
            "created": ROWS - REFUSED,
            "updated": 0,
            "unchanged": 0,
            "refused": REFUSED,
        }
        stack.back(name, victim)
        found = imports.products(stack, word)
        assert len(found) == ROWS - REFUSED
        assert len({item["sku"] for item in found}) == ROWS - REFUSED
        # A product that was written twice would have another version.
        assert {item["version"] for item in found} == {1}
        mine = merchandiser.patiently("GET", "/api/v1/jobs").json()["items"]
        assert [j["state"] for j in mine].count("running") == 0
        print(f"{name}: the import ended {finished_at - killed_at} after the kill")
