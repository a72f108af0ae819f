"""Kinds, attempts, logs, retries and dead letters through the API."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from flagon_worker.domain import history, jobs, leases

READ = ("jobs:read",)
WRITE = ("jobs:read", "jobs:write")
MANAGE = ("jobs:read", "jobs:write", "jobs:manage")
PATIENCE = leases.Patience(
    lease_seconds=15,
    crashes_max=1,
    patience_seconds=0,
    backoff_seconds=60,
    resend_seconds=10,
)


@pytest.fixture
def get(client, bearer):
    def get(path, *scopes, who="me", **headers):
        return client.get(
            f"/api/v1/jobs/{path}",
            headers={**bearer(*(scopes or READ), sub=who), **headers},
        )

    return get


@pytest.fixture
def post(client, bearer):
    def post(path, *scopes, who="me", **options):
        return client.post(
            f"/api/v1/jobs/{path}",
            headers=bearer(*(scopes or WRITE), sub=who),
            **options,
        )

    return post


@pytest.fixture
def held(begin):
    """Takes a job up and has something done to it under the lease."""

    def held(job_id, act):
        token = uuid4()
        with begin() as session:
            taken = leases.claim(
                session,
                UUID(job_id),
                token=token,
                lease_seconds=15,
                worker="host/1",
            )
        assert taken is not None
        with begin() as session:
            act(session, leases.hold(session, UUID(job_id), token))

    return held


@pytest.fixture
def poison(submit, held):
    """Makes a dead letter that took its worker down."""

    def poison(**options):
        job_id = submit(**options).json["id"]
        held(job_id, lambda session, job: leases.crash(session, job, PATIENCE))
        return job_id

    return poison


@pytest.fixture
def exhausted(submit, held, change, begin):
    """Makes a dead letter that waited too long."""

    def exhausted(**options):
        job_id = submit(**options).json["id"]
        change(job_id, troubled_since=datetime.now(UTC) - timedelta(days=2))
        held(job_id, lambda *it: leases.pause(*it, "catalog is away.", PATIENCE))
        return job_id

    return exhausted


class TestListKinds:
    def test_shows_what_each_kind_wants_to_know(self, get):
        kinds = {kind["kind"]: kind for kind in get("kinds").json["items"]}

        assert kinds["import"]["queue"] == "bulk"
        assert kinds["import"]["scope"] == "jobs:write"
        assert kinds["import"]["takes_file"]
        assert {"mapping", "profile"} <= kinds["import"]["params"]["properties"].keys()
        assert kinds["report"]["params"]["properties"]["hours"]["default"] == 24
        assert kinds["probe"]["scope"] == "jobs:manage"
        assert all(kind["once"] for kind in kinds.values())

    def test_asks_for_a_token(self, client):
        assert client.get("/api/v1/jobs/kinds").status_code == 401


class TestAttempts:
    def test_tell_who_worked_and_how_it_ended(self, submit, get, run, held):
        job_id = submit().json["id"]
        held(job_id, lambda *it: leases.hand_back(*it, PATIENCE))
        run(job_id)

        second, first = get(f"{job_id}/attempts").json["items"]

        assert (first["number"], second["number"]) == (1, 2)
        assert (first["outcome"], second["outcome"]) == ("handed_back", "succeeded")
        assert first["worker"] == "host/1"
        assert second["ended_at"] >= second["started_at"]
        assert get(job_id).json["attempts"] == 2

    def test_show_the_one_at_work(self, submit, get, held):
        job_id = submit().json["id"]
        held(job_id, lambda *_: None)

        (attempt,) = get(f"{job_id}/attempts").json["items"]

        assert (attempt["outcome"], attempt["ended_at"]) == (None, None)

    def test_say_what_was_waited_for(self, submit, get, held, change):
        job_id = submit().json["id"]
        patient = leases.Patience(15, 3, 60, 60, 10)
        held(job_id, lambda *it: leases.pause(*it, "catalog is away.", patient))

        (attempt,) = get(f"{job_id}/attempts").json["items"]

        assert (attempt["outcome"], attempt["error"]) == ("paused", "catalog is away.")

    def test_come_in_pages_and_the_newest_stay(self, submit, get, held, monkeypatch):
        monkeypatch.setattr(history, "ATTEMPTS_MAX", 3)
        job_id = submit().json["id"]
        for _ in range(5):
            held(job_id, lambda *it: leases.hand_back(*it, PATIENCE))

        page = get(f"{job_id}/attempts?limit=2").json
        rest = get(f"{job_id}/attempts?limit=2&cursor={page['next_cursor']}").json

        assert [item["number"] for item in page["items"]] == [5, 4]
        assert [item["number"] for item in rest["items"]] == [3]
        assert rest["next_cursor"] is None

    def test_of_others_are_not_shown(self, submit, get):
        job_id = submit().json["id"]

        assert get(f"{job_id}/attempts", who="other").status_code == 404
        assert get(f"{job_id}/log", who="other").status_code == 404


class TestLog:
    def test_says_what_the_import_did(self, submit, get, run):
        job_id = submit(b"sku,name\na,A\n-b,B\n").json["id"]
        run(job_id)

        lines = get(f"{job_id}/log").json["items"]

        assert [line["number"] for line in lines] == [1, 2, 3]
        assert lines[0]["text"].startswith("Read the file: 2 rows, 2 columns")
        assert lines[1]["level"] == "warning"
        assert lines[1]["text"] == "Up to row 3: refused 1 of 2."
        assert get(job_id).json["log_lines"] == 3

    def test_is_bounded_and_comes_in_pages(self, submit, get, begin, monkeypatch):
        monkeypatch.setattr(history, "LINES_MAX", 5)
        job_id = submit().json["id"]
        viewer = jobs.Viewer("", manages=True)
        for number in range(8):
            with begin() as session:
                job = jobs.find_job(session, UUID(job_id), viewer, lock=True)
                history.write_line(session, job, "info", f"{number}\0" + "x" * 3000)

        page = get(f"{job_id}/log?limit=3").json
        rest = get(f"{job_id}/log?limit=3&cursor={page['next_cursor']}").json

        texts = [line["text"] for line in page["items"] + rest["items"]]
        assert [text[:2] for text in texts] == [f"{n}\ufffd" for n in range(3, 8)]
        assert {len(text) for text in texts} == {2000}
        assert get(job_id).json["log_lines"] == 5

    def test_refuses_the_cursor_of_another_log(self, submit, get, run):
        first, second = submit().json["id"], submit().json["id"]
        run(first)
        cursor = get(f"{first}/log?limit=1").json["next_cursor"]

        assert get(f"{second}/log?cursor={cursor}").status_code == 422

    def test_goes_with_its_job(self, submit, get, run, client, bearer):
        job_id = submit().json["id"]
        run(job_id)

        gone = client.delete(
            f"/api/v1/jobs/{job_id}",
            headers={**bearer(*WRITE, sub="me"), "If-Match": "*"},
        )

        assert gone.status_code == 204
        assert get(f"{job_id}/log").status_code == 404


class TestRetryJob:
    def test_queues_a_cancelled_job_again(self, submit, get, post, run, outbox):
        job_id = submit().json["id"]
        post(f"{job_id}/cancel")

        response = post(f"{job_id}/retry")

        assert response.status_code == 202
        job = response.json
        assert (job["id"], job["state"]) == (job_id, "queued")
        assert (job["result"], job["finished_at"]) == (None, None)
        assert len(outbox("task")) == 2
        changed = outbox("event")[-1].body["data"]
        assert (changed["state"], "state" in changed["changed"]) == ("queued", True)
        assert run(job_id)["state"] == "succeeded"

    def test_goes_on_where_the_job_was(self, submit, post, run, catalog, change):
        content = b"sku,name\n" + b"".join(b"s%d,N\n" % n for n in range(1500))
        job_id = submit(content).json["id"]
        seen = []
        honest = catalog.bulk

        def stop_after_one(headers, body):
            if seen:
                return 422, {"title": "No", "detail": "no more of these"}
            seen.append(headers["Idempotency-Key"])
            return honest(headers, body)

        catalog.bulk = stop_after_one
        failed = run(job_id)
        assert (failed["state"], failed["progress"]["done"]) == ("failed", 500)
        assert failed["dead"] is None
        del catalog.bulk

        post(f"{job_id}/retry")
        done = run(job_id)

        assert done["state"] == "succeeded"
        assert done["result"]["created"] == 1500
        assert done["attempts"] == 2
        assert len(catalog.products) == 1500
        keys = [key for key, _ in catalog.calls]
        assert keys == [f"{job_id}:{n}" for n in range(3)]

    def test_refuses_what_is_on_its_way_or_done(self, submit, post, run):
        job_id = submit().json["id"]
        assert post(f"{job_id}/retry").json["type"].endswith("#job-unfinished")

        run(job_id)

        assert post(f"{job_id}/retry").json["type"].endswith("#job-succeeded")

    def test_twice_at_once_queues_once(self, submit, post, outbox):
        job_id = submit().json["id"]
        post(f"{job_id}/cancel")

        first, second = post(f"{job_id}/retry"), post(f"{job_id}/retry")

        assert (first.status_code, second.status_code) == (202, 409)
        assert len(outbox("task")) == 2

    def test_leaves_poison_to_operators(self, poison, post):
        job_id = poison()

        assert post(f"{job_id}/retry").json["type"].endswith("#job-dead")
        assert post(f"{job_id}/retry", *MANAGE).status_code == 202

    def test_lets_the_owner_retry_what_only_waited_too_long(self, exhausted, post):
        assert post(f"{exhausted()}/retry").json["dead"] is None

    def test_of_others_is_not_found(self, submit, post):
        job_id = submit().json["id"]
        post(f"{job_id}/cancel")

        assert post(f"{job_id}/retry", who="other").status_code == 404
        assert post(f"{job_id}/retry", "jobs:read").status_code == 403


class TestDeadLetters:
    def test_are_listed_newest_first_by_kind(self, poison, exhausted, submit, get):
        first, second = poison(), exhausted(who="other")
        submit()

        page = get("dead?limit=1", *MANAGE).json
        rest = get(f"dead?limit=1&cursor={page['next_cursor']}", *MANAGE).json

        found = page["items"] + rest["items"]
        assert [job["id"] for job in found] == [second, first]
        assert [job["dead"] for job in found] == ["exhausted", "poison"]
        assert {job["state"] for job in found} == {"failed"}
        assert get("dead?kind=probe", *MANAGE).json["items"] == []

    def test_are_no_jobs_that_are_wrong_themselves(self, submit, run, get):
        job = run(submit(b"nothing\n").json["id"])

        assert (job["state"], job["dead"]) == ("failed", None)
        assert get("dead", *MANAGE).json["items"] == []
        assert get(f"dead/{job['id']}", *MANAGE).status_code == 404

    def test_show_what_an_operator_needs(self, poison, get):
        job_id = poison()

        response = get(f"dead/{job_id}", *MANAGE)

        letter = response.json
        assert "took its worker down 1 times" in letter["error"]
        assert letter["last_attempts"][0]["outcome"] == "crashed"
        assert letter["last_lines"][-1]["level"] == "error"
        tag = response.headers["ETag"]
        again = get(f"dead/{job_id}", *MANAGE, **{"If-None-Match": tag})
        assert again.status_code == 304

    def test_are_replayed(self, poison, post, run, get):
        job_id = poison()

        response = post(f"dead/{job_id}/replay", *MANAGE)

        assert response.status_code == 202
        assert (response.json["state"], response.json["dead"]) == ("queued", None)
        assert run(job_id)["state"] == "succeeded"
        assert post(f"dead/{job_id}/replay", *MANAGE).status_code == 404

    def test_are_replayed_in_bounded_batches(self, poison, post, get):
        ids = [poison() for _ in range(3)]

        first = post("dead/replay", *MANAGE, json={"kind": "import", "limit": 2})

        assert (first.status_code, first.json) == (202, {"replayed": 2, "left": 1})
        assert get(ids[0]).json["state"] == "queued"
        assert get(ids[2]).json["state"] == "failed"
        assert post("dead/replay", *MANAGE, json={"kind": "probe"}).json == {
            "replayed": 0,
            "left": 0,
        }
        assert post("dead/replay", *MANAGE, json={}).json == {"replayed": 1, "left": 0}
        assert post("dead/replay", *MANAGE, json={"limit": 501}).status_code == 422

    def test_are_discarded_with_their_files(self, poison, client, bearer, settings):
        job_id = poison()
        path, headers = f"/api/v1/jobs/dead/{job_id}", bearer(*MANAGE, sub="me")
        assert (settings.files_dir / job_id).exists()

        assert client.delete(path, headers=headers).status_code == 428
        gone = client.delete(path, headers={**headers, "If-Match": "*"})

        assert gone.status_code == 204
        assert client.get(path, headers=headers).status_code == 404
        assert not (settings.files_dir / job_id).exists()

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "dead"),
            ("GET", "dead/{}"),
            ("POST", "dead/{}/replay"),
            ("POST", "dead/replay"),
            ("DELETE", "dead/{}"),
        ],
    )
    def test_are_for_operators(self, poison, client, bearer, method, path):
        response = client.open(
            f"/api/v1/jobs/{path.format(poison())}",
            method=method,
            json={} if method == "POST" else None,
            headers={**bearer(*WRITE, sub="me"), "If-Match": "*"},
        )

        assert response.status_code == 403
        assert json.loads(response.data)["type"].endswith("#scope-missing")
