"""The jobs API as its callers see it."""

import json
from datetime import UTC, datetime
from io import BytesIO
from uuid import uuid4

import pytest
from openapi_spec_validator import validate

from flagon_worker.domain import files, jobs


class Unread(BytesIO):
    """A body that must not be touched."""

    def read(self, *_):
        raise AssertionError

    readline = read


READ = ("jobs:read",)
WRITE = ("jobs:read", "jobs:write")
MANAGE = ("jobs:read", "jobs:write", "jobs:manage")


class TestSubmitJob:
    def test_answers_with_the_job_and_where_it_is(self, submit, client, bearer):
        response = submit(b"sku,name\na,A\n", defaults={"stock": 5})

        assert response.status_code == 202
        job = response.json
        assert response.headers["Location"] == f"/api/v1/jobs/{job['id']}"
        assert job["state"] == "queued"
        assert job["upload"] == {
            "name": "goods.csv",
            "bytes": 13,
            "sha256": "61f7e9e0b8b14d55e4d19efbdfa5e0c5e6b1f7a3dc6a3a9c5bd4cf2a1e6d0a5b",
        } | {"sha256": job["upload"]["sha256"]}
        assert len(job["upload"]["sha256"]) == 64
        assert job["params"]["defaults"] == {"stock": 5}

    def test_takes_what_the_submitter_knows_of_the_file(self, submit):
        params = submit(encoding="CP1251", delimiter=";", decimals="comma").json[
            "params"
        ]

        assert params["encoding"] == "cp1251"
        assert (params["delimiter"], params["decimals"]) == (";", "comma")

    def test_keeps_the_file(self, submit, settings):
        job_id = submit(b"sku,name\na,A\n").json["id"]

        kept = settings.files_dir / job_id / "upload"
        assert kept.read_bytes() == b"sku,name\na,A\n"
        assert not list((settings.files_dir / "incoming").iterdir())

    def test_writes_row_message_and_event_together(self, submit, outbox):
        job_id = submit(headers={"X-Request-ID": "my-own-request"}).json["id"]

        task, event = outbox()

        assert (task.channel, task.name, task.subject) == (
            "task",
            "worker.run_job",
            job_id,
        )
        assert task.body == {
            "queue": "bulk",
            "kwargs": {"job_id": job_id, "queue": "bulk"},
        }
        assert task.headers["request_id"] == "my-own-request"
        assert event.body["type"] == "market.flagon.job.changed.v1"
        assert event.body["topics"] == [
            "jobs",
            f"jobs/{job_id}",
            "users/me",
            "users/me/jobs",
            f"users/me/jobs/{job_id}",
        ]

    def test_does_it_once_under_one_key(self, submit, outbox, settings):
        key = {"Idempotency-Key": "k1"}

        first = submit(headers=key)
        again = submit(headers=key)
        other = submit(b"sku,name\nb,B\n", headers=key)

        assert again.json == first.json
        assert again.headers["Location"] == first.headers["Location"]
        assert other.status_code == 422
        assert len(outbox("task")) == 1
        assert len(list(settings.files_dir.glob("*/upload"))) == 1
        assert not list((settings.files_dir / "incoming").iterdir())

    def test_leaves_no_file_when_the_row_cannot_be_written(
        self, submit, settings, monkeypatch
    ):
        def down(*_, **__):
            raise RuntimeError

        monkeypatch.setattr(jobs, "submit_job", down)

        assert submit().status_code == 500
        assert not list(settings.files_dir.glob("*/upload"))
        assert not list((settings.files_dir / "incoming").iterdir())

    def test_refuses_a_file_that_is_too_large(self, app, settings, submit):
        app.extensions["flagon.settings"] = settings.model_copy(
            update={"upload_bytes": 1000}
        )

        response = submit(b"x" * 1001)

        assert response.status_code == 413
        assert response.json["limit_bytes"] == 1000
        assert response.json["type"].endswith("#upload-too-large")
        assert not list((settings.files_dir / "incoming").iterdir())

    def test_refuses_2_gb_before_reading_any(self, client, bearer):
        response = client.post(
            "/api/v1/jobs",
            input_stream=Unread(b"x"),
            headers=bearer(*WRITE),
            environ_overrides={"CONTENT_LENGTH": str(2 * 1024**3)},
            content_type="multipart/form-data; boundary=x",
        )

        assert response.status_code == 413

    def test_checks_the_caller_before_reading_any(self, client):
        response = client.post(
            "/api/v1/jobs",
            input_stream=Unread(b"x"),
            environ_overrides={"CONTENT_LENGTH": str(100 * 1024**2)},
            content_type="multipart/form-data; boundary=x",
        )

        assert response.status_code == 401

    def test_needs_the_kinds_scope(self, client, bearer):
        for kind, scopes in (("import", READ), ("probe", WRITE)):
            response = client.post(
                "/api/v1/jobs",
                data={"kind": kind, "file": (BytesIO(b"x"), "x")},
                headers=bearer(*scopes),
            )

            assert response.status_code == 403, response.json

    def test_shows_a_safe_name(self, client, bearer):
        response = client.post(
            "/api/v1/jobs",
            data={
                "kind": "import",
                "params": json.dumps({"mapping": {"sku": "a", "name": "b"}}),
                "file": (
                    BytesIO(b"a,b\n"),
                    "..\\..\\etc/pass\twd" + "x" * 500 + ".csv",
                ),
            },
            headers=bearer(*WRITE),
        )

        name = response.json["upload"]["name"]
        assert name.startswith("passwdxxx")
        assert len(name) == 120

    def test_a_probe_is_an_interactive_job(self, client, bearer, outbox):
        response = client.post(
            "/api/v1/jobs",
            data={"kind": "probe"},
            content_type="multipart/form-data",
            headers=bearer(*MANAGE),
        )

        assert response.status_code == 202
        assert response.json["upload"] is None
        assert outbox("task")[0].body["queue"] == "interactive"


class TestFindJob:
    def test_is_the_owners_or_a_managers(self, submit, client, bearer):
        path = submit(who="me").headers["Location"]

        assert client.get(path, headers=bearer(*READ, sub="me")).status_code == 200
        assert client.get(path, headers=bearer(*MANAGE, sub="you")).status_code == 200
        stranger = client.get(path, headers=bearer(*READ, sub="you"))
        assert stranger.status_code == 404
        assert stranger.json["type"].endswith("#job-not-found")

    def test_answers_304_while_nothing_has_changed(self, submit, client, bearer, run):
        created = submit().json
        path = f"/api/v1/jobs/{created['id']}"
        me = bearer(*READ, sub="me")
        etag = client.get(path, headers=me).headers["ETag"]

        same = client.get(path, headers={**me, "If-None-Match": etag})
        run(created["id"])
        changed = client.get(path, headers={**me, "If-None-Match": etag})

        assert (same.status_code, changed.status_code) == (304, 200)
        assert changed.json["version"] > created["version"]
        assert changed.headers["Cache-Control"] == "private, no-cache"


class TestListJobs:
    def test_pages_through_the_callers_own(self, submit, client, bearer):
        mine = [submit(who="me").json["id"] for _ in range(5)]
        submit(who="you")
        me = bearer(*READ, sub="me")

        found, cursor = [], ""
        while cursor is not None:
            query = f"?limit=2&cursor={cursor}" if cursor else "?limit=2"
            page = client.get(f"/api/v1/jobs{query}", headers=me).json
            found += [job["id"] for job in page["items"]]
            cursor = page["next_cursor"]

        assert found == mine[::-1]

    def test_shows_a_manager_all(self, submit, client, bearer):
        submit(who="me")
        submit(who="you")

        page = client.get("/api/v1/jobs", headers=bearer(*MANAGE)).json

        assert len(page["items"]) == 2

    def test_filters(self, submit, client, bearer, run):
        run(submit(who="me").json["id"])
        submit(who="me")
        me = bearer(*READ, sub="me")

        def count(query):
            return len(client.get(f"/api/v1/jobs?{query}", headers=me).json["items"])

        assert count("state=succeeded") == 1
        assert count("state=queued&kind=import") == 1
        assert count("state=&kind=probe") == 0

    def test_refuses_a_cursor_of_another_list(self, submit, client, bearer):
        for _ in range(3):
            submit(who="me")
        page = client.get("/api/v1/jobs?limit=1", headers=bearer(*READ, sub="me")).json

        response = client.get(
            f"/api/v1/jobs?limit=1&cursor={page['next_cursor']}",
            headers=bearer(*READ, sub="you"),
        )

        assert response.status_code == 422


class TestCancelJob:
    def test_ends_one_that_waits_at_once(self, submit, client, bearer, run, outbox):
        job_id = submit().json["id"]

        response = client.post(
            f"/api/v1/jobs/{job_id}/cancel", headers=bearer(*WRITE, sub="me")
        )

        assert response.status_code == 202
        assert response.json["state"] == "cancelled"
        assert response.json["finished_at"]
        assert run(job_id)["attempts"] == 0
        assert outbox("event")[-1].body["data"]["state"] == "cancelled"

    def test_refuses_one_that_has_ended(self, submit, client, bearer, run):
        job_id = submit().json["id"]
        run(job_id)

        response = client.post(
            f"/api/v1/jobs/{job_id}/cancel", headers=bearer(*WRITE, sub="me")
        )

        assert response.status_code == 409
        assert response.json["state"] == "succeeded"

    def test_asks_one_that_runs_once(self, submit, client, bearer, change, outbox):
        job_id = submit().json["id"]
        change(
            job_id, state="running", lease_token=uuid4(), lease_until=datetime.now(UTC)
        )
        me = bearer(*WRITE, sub="me")

        first = client.post(f"/api/v1/jobs/{job_id}/cancel", headers=me).json
        again = client.post(f"/api/v1/jobs/{job_id}/cancel", headers=me).json

        assert (first["state"], first["cancel_requested"]) == ("running", True)
        assert again["version"] == first["version"]
        assert len(outbox("event")) == 2

    def test_is_not_for_strangers(self, submit, client, bearer):
        job_id = submit(who="me").json["id"]
        path = f"/api/v1/jobs/{job_id}/cancel"

        assert client.post(path, headers=bearer(*WRITE, sub="x")).status_code == 404
        assert client.post(path, headers=bearer(*READ, sub="me")).status_code == 403


class TestDeleteJob:
    def test_forgets_row_and_files(self, submit, client, bearer, run, settings):
        job = run(submit().json["id"])
        path = f"/api/v1/jobs/{job['id']}"
        me = bearer(*WRITE, sub="me")

        blind = client.delete(path, headers=me)
        stale = client.delete(path, headers={**me, "If-Match": '"v1"'})
        right = client.delete(path, headers={**me, "If-Match": f'"v{job["version"]}"'})

        assert [r.status_code for r in (blind, stale, right)] == [428, 412, 204]
        assert client.get(path, headers=me).status_code == 404
        assert not (settings.files_dir / job["id"]).exists()

    def test_refuses_one_that_has_not_ended(self, submit, client, bearer):
        job_id = submit().json["id"]

        response = client.delete(
            f"/api/v1/jobs/{job_id}",
            headers={**bearer(*WRITE, sub="me"), "If-Match": "*"},
        )

        assert response.status_code == 409
        assert response.json["type"].endswith("#job-unfinished")


class TestFindArtefact:
    def test_is_a_download(self, submit, client, bearer, run):
        job = run(submit(b"sku,name\n-,A\n").json["id"])

        response = client.get(
            job["artefacts"][0]["url"], headers=bearer(*READ, sub="me")
        )
        response.close()

        assert response.status_code == 200
        assert response.headers["Content-Disposition"] == (
            "attachment; filename=refused.csv"
        )
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.mimetype == "text/csv"

    @pytest.mark.parametrize(
        "name", ["upload", "..%2fupload", "%2e%2e%2fupload", "refused.csv%00", "x"]
    )
    def test_gives_nothing_else(self, submit, client, bearer, run, name):
        job = run(submit(b"sku,name\n-,A\n").json["id"])

        response = client.get(
            f"/api/v1/jobs/{job['id']}/artefacts/{name}",
            headers=bearer(*READ, sub="me"),
        )

        assert response.status_code in {400, 404}

    def test_is_not_for_strangers(self, submit, client, bearer, run):
        job = run(submit(b"sku,name\n-,A\n").json["id"])

        response = client.get(
            job["artefacts"][0]["url"], headers=bearer(*READ, sub="you")
        )

        assert response.status_code == 404

    def test_tells_of_a_file_that_was_lost(self, submit, client, bearer, run, settings):
        job = run(submit(b"sku,name\n-,A\n").json["id"])
        (settings.files_dir / job["id"] / "refused.csv").unlink()

        response = client.get(
            job["artefacts"][0]["url"], headers=bearer(*READ, sub="me")
        )

        assert response.json["type"].endswith("#artefact-not-found")


GOOD = {"mapping": {"sku": "a", "name": "b"}}
PARAMS = {
    "none": None,
    "no json": "{",
    "no object": "[]",
    "a number": "7",
    "nan": '{"mapping": NaN}',
    "nul": '{"mapping": {"sku": "a\\u0000", "name": "b"}}',
    "surrogate": '{"mapping": {"sku": "\\ud800", "name": "b"}}',
    "deep": "[" * 100_000,
    "no mapping": "{}",
    "unknown field": {**GOOD, "owner": "you"},
    "unknown target": {"mapping": {**GOOD["mapping"], "version": "c"}},
    "bad attribute": {"mapping": {**GOOD["mapping"], "attributes.": "c"}},
    "path attribute": {"mapping": {**GOOD["mapping"], "attributes.../x": "c"}},
    "long target": {"mapping": {**GOOD["mapping"], "x" * 5000: "c"}},
    "no sku": {"mapping": {"name": "b"}},
    "no name": {"mapping": {"sku": "b"}},
    "empty column": {"mapping": {"sku": " ", "name": "b"}},
    "column list": {"mapping": {"sku": ["a"], "name": "b"}},
    "sku default": {**GOOD, "defaults": {"sku": "x"}},
    "bad default price": {**GOOD, "defaults": {"price_minor": -1}},
    "bad default stock": {**GOOD, "defaults": {"stock": 1.5}},
    "bool default": {**GOOD, "defaults": {"stock": True}},
    "null default": {**GOOD, "defaults": {"stock": None}},
    "ambiguous default": {**GOOD, "defaults": {"price": "1.234"}},
    "bad currency": {**GOOD, "defaults": {"currency": "euro"}},
    "bad status": {**GOOD, "defaults": {"status": "gone"}},
    "both prices": {**GOOD, "defaults": {"price": "1", "price_minor": 1}},
    "encoding": {**GOOD, "encoding": "rot13"},
    "delimiter": {**GOOD, "delimiter": "x"},
    "decimals": {**GOOD, "decimals": "yes"},
    "many": {"mapping": {f"attributes.a{n}": "c" for n in range(200)}},
}
FORMS = {
    "no kind": {"params": json.dumps(GOOD)},
    "unknown kind": {"kind": "rm -rf", "params": json.dumps(GOOD)},
    "empty kind": {"kind": ""},
    "extra field": {"kind": "import", "params": json.dumps(GOOD), "owner": "you"},
    "kind twice": {"kind": ["import", "import"], "params": json.dumps(GOOD)},
    "file as field": {"kind": "import", "params": json.dumps(GOOD), "file": "x"},
    "big params": {"kind": "import", "params": "x" * 3_000_000},
}
PATHS = [
    ("GET", "/api/v1/jobs?limit=0"),
    ("GET", "/api/v1/jobs?limit=101"),
    ("GET", "/api/v1/jobs?limit=x"),
    ("GET", "/api/v1/jobs?limit=1&limit=2"),
    ("GET", "/api/v1/jobs?state=' or 1=1 --"),
    ("GET", "/api/v1/jobs?kind=x"),
    ("GET", "/api/v1/jobs?cursor=x.y"),
    ("GET", "/api/v1/jobs?cursor=" + "x" * 5000),
    ("GET", "/api/v1/jobs?owner=you"),
    ("GET", "/api/v1/jobs?state=%00"),
    ("GET", "/api/v1/jobs/1"),
    ("GET", "/api/v1/jobs/%00"),
    ("GET", "/api/v1/jobs/../../etc/passwd"),
    ("GET", f"/api/v1/jobs/{uuid4()}"),
    ("PUT", f"/api/v1/jobs/{uuid4()}"),
    ("PATCH", "/api/v1/jobs"),
    ("DELETE", "/api/v1/jobs"),
    ("DELETE", f"/api/v1/jobs/{uuid4()}"),
    ("POST", f"/api/v1/jobs/{uuid4()}/cancel"),
    ("GET", f"/api/v1/jobs/{uuid4()}/artefacts/x"),
    ("TRACE", "/api/v1/jobs"),
]
BODIES = {
    "no body": ("multipart/form-data; boundary=x", b""),
    "no boundary": ("multipart/form-data", b"--x\r\n"),
    "json": ("application/json", b"{}"),
    "urlencoded": ("application/x-www-form-urlencoded", b"kind=import"),
    "no type": ("", b"kind=import"),
    "cut short": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="kind"\r\n\r\nimp',
    ),
    "garbage": ("multipart/form-data; boundary=x", bytes(range(256)) * 50),
    "two files": (
        "multipart/form-data; boundary=x",
        b"".join(
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n'
            b"\r\na\r\n" % name
            for name in (b"a", b"b")
        )
        + b"--x--\r\n",
    ),
    "many parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\na\r\n' * 2000
        + b"--x--\r\n",
    ),
}


class TestHostileRequests:
    def assert_problem(self, response, outbox):
        assert 400 <= response.status_code < 500 or response.status_code == 501
        text = response.get_data(as_text=True)
        if response.status_code != 501:
            assert response.mimetype == "application/problem+json", text
            assert set(response.json) >= {"type", "title", "status", "instance"}
        for trace in ("Traceback", 'File "', "sqlalchemy", "psycopg"):
            assert trace not in text
        assert not outbox()

    @pytest.mark.parametrize("name", PARAMS)
    def test_params(self, client, bearer, outbox, settings, name):
        params = PARAMS[name]
        form = {"kind": "import", "file": (BytesIO(b"a,b\n"), "f.csv")}
        if params is not None:
            form["params"] = params if isinstance(params, str) else json.dumps(params)

        response = client.post("/api/v1/jobs", data=form, headers=bearer(*WRITE))

        self.assert_problem(response, outbox)
        assert response.status_code == 422
        assert response.json["errors"][0]["pointer"].startswith("#/params")
        assert not list((settings.files_dir / "incoming").iterdir())

    @pytest.mark.parametrize("name", FORMS)
    def test_forms(self, client, bearer, outbox, name):
        response = client.post(
            "/api/v1/jobs",
            data=FORMS[name],
            content_type="multipart/form-data",
            headers=bearer(*WRITE),
        )
        response.request.environ["wsgi.input"].close()

        self.assert_problem(response, outbox)

    @pytest.mark.parametrize("name", BODIES)
    def test_bodies(self, client, bearer, outbox, settings, name):
        content_type, body = BODIES[name]

        response = client.post(
            "/api/v1/jobs", data=body, content_type=content_type, headers=bearer(*WRITE)
        )

        self.assert_problem(response, outbox)
        incoming = settings.files_dir / "incoming"
        assert not incoming.exists() or not list(incoming.iterdir())

    @pytest.mark.parametrize(("method", "path"), PATHS)
    def test_paths(self, client, bearer, outbox, method, path):
        response = client.open(path, method=method, headers=bearer(*WRITE))

        self.assert_problem(response, outbox)

    @pytest.mark.parametrize(
        "key", ["", "two words", "x" * 201, "käse".encode().decode("latin-1")]
    )
    def test_idempotency_keys(self, submit, outbox, key):
        self.assert_problem(submit(headers={"Idempotency-Key": key}), outbox)

    def test_a_file_where_none_belongs(self, client, bearer, outbox):
        response = client.post(
            "/api/v1/jobs",
            data={"kind": "probe", "file": (BytesIO(b"x"), "x")},
            headers=bearer(*MANAGE),
        )

        self.assert_problem(response, outbox)

    def test_a_file_sent_elsewhere_is_not_kept(self, client, bearer, settings):
        response = client.post(
            f"/api/v1/jobs/{uuid4()}/cancel",
            data={"file": (BytesIO(b"x"), "x")},
            headers=bearer(*WRITE),
        )

        assert response.status_code == 404
        assert not (settings.files_dir / "incoming").exists()


def test_every_route_is_guarded_or_open(app):
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        assert (
            hasattr(view, "flagon_scopes")
            or hasattr(view, "flagon_open")
            or (rule.endpoint in {"static", "openapi.spec"})
        ), rule


def test_is_ready_when_its_parts_are(client):
    report = client.get("/readyz").json

    assert report["status"] == "ready"
    assert set(report["checks"]) == {"postgres", "files", "keys"}


class TestFiles:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("a.csv", "a.csv"),
            ("", "upload"),
            ("/", "upload"),
            ("C:\\x\\b.csv", "b.csv"),
            ("\r\nSet-Cookie: x", "Set-Cookie: x"),
            ("\ud800", "upload"),
        ],
    )
    def test_names_are_made_safe(self, given, shown):
        assert files.safe_name(given) == shown


def test_the_document_is_valid(client):
    document = client.get("/openapi.json").json

    validate(document)
    form = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(form) == {"multipart/form-data"}
