"""The load program, as `make load` runs it: every journey, and nothing is lost."""

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness.engine import ROOT

REPORTS = ROOT / ".run" / "reports"


@pytest.fixture(scope="module")
def smoke(stack):
    """What a run of the smallest profile said, and its report."""
    before = set(REPORTS.glob("*"))
    said = stack.make("load", seconds=900, PROFILE="smoke")
    # The other mode's tests may run beside these.
    made = set(REPORTS.glob("*")) - before
    [folder] = [one for one in made if one.name in said]
    return said, folder, json.loads((folder / "report.json").read_text())


class TestSmoke:
    def test_loses_no_write_and_shows_nobody_an_error(self, smoke):
        said, _folder, report = smoke

        verdicts = {one["name"]: one["ok"] for one in report["verdicts"]}
        assert verdicts["graceful"] is verdicts["ledger"] is True, said
        assert verdicts["invariants"] is True, said
        # Products of the run, a review, a price, an import and a probe at least.
        assert report["acknowledged writes"] >= 44

    def test_is_everything_that_people_do(self, smoke):
        _said, _folder, report = smoke

        assert {
            "GET home page",
            "GET list",
            "GET search",
            "GET product page",
            "GET events",
            "POST password",
            "POST review",
            "PATCH product",
            "POST job (import)",
            "POST job (probe)",
        } <= set(report["requests"])

    def test_leaves_a_page_with_pictures(self, smoke):
        _said, folder, _report = smoke

        page = (folder / "report.html").read_text()
        for name in ("rate.png", "reads.png", "people.png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
            assert f'src="{name}"' in page
        assert "Locust" in (folder / "locust.html").read_text()


@pytest.fixture
def door():
    """A server that answers nobody before all have come."""
    everybody = threading.Barrier(21)

    class Door(BaseHTTPRequestHandler):
        def do_GET(self):
            everybody.wait(120)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class TestOpenArrival:
    @pytest.mark.usefixtures("smoke")
    def test_does_not_wait_for_slow_answers_and_counts_the_wait(self, door):
        program = [ROOT / ".venv/load/bin/python", ROOT / "tests/load/queue_at.py"]
        done = subprocess.run(
            [*program, door], check=True, capture_output=True, text=True, timeout=180
        )

        seen = json.loads(done.stdout)
        # With people who wait for each other the door would never have opened.
        assert [status for _at, _seconds, status in seen] == [200] * 21
        ended = [at + seconds for at, seconds, _status in seen]
        # All got their answers after the last had come, and each waited since his own
        # moment, the one who was late by our fault too.
        assert min(ended) >= 0.95
        late, first, *_others = seen
        assert late[0] == -5
        assert late[1] >= 5.95
        assert first[1] >= 0.95
