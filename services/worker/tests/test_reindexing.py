"""Reindexing: every step once or again, to the end, whatever dies."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flagon_worker import clients
from flagon_worker.domain import leases

AT = "2026-11-21T09:30:00+00:00"


class Words:
    """A catalog with seven products and five words, two a step, behind real HTTP."""

    def __init__(self):
        self.asked = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                step = self.path.removeprefix("/internal/words/")
                outer.asked.append((step, body))
                sent = json.dumps(outer.answer(step, body)).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()

    def answer(self, step, body):
        there = 0 if "since" in body else {"learn": 7, "forget": 5}[step]
        begin = int(body.get("after", "0"))
        count = min(2, there - begin)
        after = str(begin + count) if count else None
        return {"after": after, "looked_at": count, "written": count, "at": AT}


@pytest.fixture
def words(app, settings):
    found = Words()
    there = settings.model_copy(update={"catalog_url": found.url})
    app.extensions["flagon.catalog"] = clients.Catalog(there)
    yield found
    app.extensions["flagon.catalog"].close()
    found.server.shutdown()
    found.server.server_close()


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
