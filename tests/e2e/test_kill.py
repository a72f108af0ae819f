"""Whatever process dies, without warning and at the worst moment, the import ends right."""

from datetime import UTC, datetime

import pytest
from harness import imports
from harness.stack import PROCESSES

ROWS = 5_000
REFUSED = 7


@pytest.mark.parametrize("name", PROCESSES)
class TestKill:
    def disturb(self, stack, merchandiser, prefix, name):
        """Kill a process in the middle of an import; return when, and the ended job."""
        content = imports.as_csv(imports.rows(prefix, ROWS, refused=REFUSED))
        assert merchandiser.token
        victim = stack.pid(name)
        path = imports.accepted(merchandiser, content, imports.params(prefix))
        imports.running(merchandiser, path)
        stack.kill(name, pid=victim)
        killed_at = datetime.now(UTC)
        job = imports.ended(merchandiser, path, seconds=300)
        stack.back(name, victim)
        return killed_at, job

    def test_of_any_process_loses_and_doubles_nothing(
        self, stack, merchandiser, word, name
    ):
        for attempt in range(5):
            prefix = f"{word}{attempt}"
            killed_at, job = self.disturb(stack, merchandiser, prefix, name)
            finished_at = datetime.fromisoformat(job["finished_at"])
            if finished_at > killed_at:
                break

        # Else it was every time too late to disturb the import.
        assert finished_at > killed_at
        assert job["state"] == "succeeded", job["error"]
        assert job["result"] == {
            "created": ROWS - REFUSED,
            "updated": 0,
            "unchanged": 0,
            "refused": REFUSED,
        }
        found = imports.products(stack, prefix)
        assert len(found) == ROWS - REFUSED
        assert len({item["sku"] for item in found}) == ROWS - REFUSED
        # A product that was written twice would have another version.
        assert {item["version"] for item in found} == {1}
        mine = merchandiser.patiently("GET", "/api/v1/jobs").json()["items"]
        assert [j["state"] for j in mine].count("running") == 0
        print(f"{name}: the import ended {finished_at - killed_at} after the kill")
