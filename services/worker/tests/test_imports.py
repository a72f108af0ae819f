"""Imports, run in this process against a catalog behind real HTTP."""

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from flagon_chassis import health
from flagon_worker.domain import imports, leases, reports
from flagon_worker.models import Job

COUNTS = {"created": 0, "updated": 0, "unchanged": 0, "refused": 0}


def sheet(count, name="Thing"):
    return ("sku,name\n" + "".join(f"s{n},{name} {n}\n" for n in range(count))).encode()


class TestRunImport:
    def test_imports_the_books_and_the_second_time_changes_nothing(
        self, submit, run, catalog, books, books_params
    ):
        first = run(submit(books, **books_params).json["id"])
        second = run(submit(books, **books_params).json["id"])

        assert first["result"] == {**COUNTS, "created": 10_000}
        assert second["result"] == {**COUNTS, "unchanged": 10_000}
        assert first["progress"] == {
            "done": 10_000,
            "total": 10_000,
            "unit": "rows",
            "message": "Imported; 0 refused.",
        }
        assert catalog.products["1"] == {
            "sku": "1",
            "name": "The Hunger Games (The Hunger Games, #1)",
            "attributes": {"authors": "Suzanne Collins"},
            "price_minor": 1299,
            "currency": "EUR",
            "stock": 5,
            "category": "books",
        }

    def test_reports_refused_rows_of_both_kinds(self, submit, run, report, catalog):
        catalog.refuse = lambda item: "is taken" if item["sku"] == "c" else None
        content = 'sku;name;price\na;A;1,50\nb;B;=1+1\nc;C;2,50\nd;"D"x;1\n;E;3,5\n'

        job = run(
            submit(
                content.encode(),
                mapping={"sku": "sku", "name": "name", "price": "price"},
            ).json["id"]
        )

        assert job["result"] == {**COUNTS, "created": 1, "refused": 4}
        assert [artefact["name"] for artefact in job["artefacts"]] == ["refused.csv"]
        assert report(job["id"]) == [
            ["3", "b", "price: “=1+1” is not a price.", "b", "B", "'=1+1"],
            ["4", "c", "name: is taken", "c", "C", "2,50"],
            [
                "5",
                "",
                "The row is not valid CSV: text follows a closing quotation mark.",
            ],
            ["6", "", "sku: The cell is empty.", "", "E", "3,5"],
        ]

    def test_reads_prices_by_the_files_own_decimal_sign(self, submit, run, catalog):
        content = b"sku;name;price\na;A;1.234\nb;B;2,50\n"

        run(
            submit(
                content, mapping={"sku": "sku", "name": "name", "price": "price"}
            ).json["id"]
        )

        assert catalog.products["a"]["price_minor"] == 123_400

    def test_believes_the_submitter_about_decimals(self, submit, run, catalog):
        content = b"sku;name;price\na;A;1.234\nb;B;2,50\n"

        job = run(
            submit(
                content,
                mapping={"sku": "sku", "name": "name", "price": "price"},
                decimals="point",
            ).json["id"]
        )

        assert job["result"] == {**COUNTS, "refused": 2}

    def test_changes_nothing_in_a_dry_run(self, submit, run, catalog, report):
        job = run(submit(sheet(3) + b"-,X\n", dry_run=True).json["id"])

        assert catalog.calls == []
        assert job["result"] == {**COUNTS, "refused": 1}
        assert "3 rows can be imported, 1 refused" in job["progress"]["message"]
        assert report(job["id"])[0][:2] == ["5", "'-"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"PK\x03\x04\0\0", "Excel"),
            (b"sku;titel\na;A\n", "no column “name”"),
            (b"sku,name\n", "no rows"),
            (b"sku,name\na,A\n" * 3 + b'b,"', "never closed"),
        ],
    )
    def test_fails_with_a_reason_and_without_a_trace(
        self, submit, run, catalog, content, said
    ):
        job = run(submit(content).json["id"])

        assert job["state"] == "failed"
        assert said in job["error"]
        assert job["attempts"] == 1
        assert catalog.calls == []

    def test_fails_when_its_file_is_gone(self, submit, run, settings):
        job_id = submit().json["id"]
        (settings.files_dir / job_id / "upload").unlink()

        assert "file is gone" in run(job_id)["error"]

    def test_reads_ndjson(self, submit, run, catalog):
        content = b'{"sku": "a", "name": "A"}\n{"sku": 5, "name": "B"}\n'

        assert run(submit(content).json["id"])["result"]["created"] == 2

    def test_a_sku_twice_counts_twice(self, submit, run, catalog):
        job = run(submit(b"sku,name\na,A\na,B\na,B\n").json["id"])

        assert job["result"] == {
            "created": 1,
            "updated": 1,
            "unchanged": 1,
            "refused": 0,
        }


class TestTrouble:
    @pytest.mark.parametrize(
        "failure",
        [
            (503, {"title": "Down"}),
            (500, {"title": "Broken"}),
            (409, {"title": "Twin", "detail": "Ask again."}),
            (401, {"title": "Who?"}),
        ],
    )
    def test_pauses_the_job_and_goes_on_later(
        self, submit, run, catalog, change, failure
    ):
        job_id = submit(sheet(1200)).json["id"]
        catalog.failures = [failure] * 9

        paused = run(job_id)
        catalog.failures = []
        change(job_id, queued_at=datetime.now(UTC) - timedelta(seconds=1))
        done = run(job_id)

        assert paused["state"] == "queued"
        assert paused["progress"]["message"].startswith("Waiting: ")
        assert done["result"]["created"] == 1200
        assert done["attempts"] == 2

    def test_does_not_start_before_its_time(self, submit, run, catalog, app):
        job_id = submit().json["id"]
        catalog.failures = [(503, {})] * 9
        with app.app_context(), app.extensions["flagon.sessions"].begin() as session:
            session.execute(
                update(Job).values(queued_at=datetime.now(UTC) + timedelta(hours=1))
            )

        assert run(job_id)["attempts"] == 0

    def test_gives_up_after_a_day(self, submit, run, catalog, change):
        job_id = submit().json["id"]
        catalog.failures = [(503, {})] * 9
        run(job_id)
        long_ago = datetime.now(UTC) - timedelta(days=2)
        change(job_id, troubled_since=long_ago, queued_at=long_ago)

        assert "Gave up waiting" in run(job_id)["error"]

    def test_goes_on_with_the_batch_that_was_not_confirmed(
        self, submit, run, catalog, change
    ):
        """The catalog got batch 1, but its answer never came."""
        job_id = submit(sheet(1200)).json["id"]
        bulk = catalog.bulk
        lost = []

        def lose(headers, body):
            answer = bulk(headers, body)
            if headers["Idempotency-Key"].endswith(":1") and len(lost) < 9:
                lost.append(1)
                return 503, {}
            return answer

        catalog.bulk = lose
        run(job_id)
        lost += [1] * 9
        change(job_id, queued_at=datetime.now(UTC) - timedelta(seconds=1))
        done = run(job_id)

        assert done["result"] == {**COUNTS, "created": 1200}
        keys = [key for key, _ in catalog.calls]
        assert sorted(set(keys)) == [f"{job_id}:{n}" for n in range(3)]

    def test_a_job_cancelled_meanwhile_shows_what_it_did(
        self, submit, run, catalog, client, bearer
    ):
        job_id = submit(b"sku,name\n-,X\n" + sheet(1200)[9:]).json["id"]
        bulk = catalog.bulk

        def once(headers, body):
            first = headers["Idempotency-Key"].endswith(":0")
            return bulk(headers, body) if first else (503, {})

        catalog.bulk = once
        assert run(job_id)["result"] is None

        job = client.post(
            f"/api/v1/jobs/{job_id}/cancel", headers=bearer("jobs:write", sub="me")
        ).json

        assert job["state"] == "cancelled"
        assert job["result"] == {**COUNTS, "created": 499, "refused": 1}
        assert [artefact["name"] for artefact in job["artefacts"]] == ["refused.csv"]

    def test_a_full_disk_is_waited_for(self, submit, run, catalog, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(reports, "write", full)

        job = run(submit(b"sku,name\n-,A\n").json["id"])

        assert job["state"] == "queued"
        assert job["progress"]["message"] == "Waiting: A file: No space left on device."


class TestWholeBatchRefused:
    def test_finds_the_rows_to_blame(self, submit, run, catalog, report):
        bulk = catalog.bulk

        def choosy(headers, body):
            if b"s77" in body:
                return 422, {
                    "detail": "odd",
                    "errors": [{"pointer": "#/items/1/x", "detail": "no"}, 5],
                }
            return bulk(headers, body)

        catalog.bulk = choosy

        job = run(submit(sheet(100)).json["id"])

        assert job["result"] == {**COUNTS, "created": 99, "refused": 1}
        assert report(job["id"])[0][:3] == ["79", "s77", "odd items/1/x: no"]

    def test_fails_when_it_is_all_of_them(self, submit, run, catalog):
        catalog.bulk = lambda _headers, _body: (400, {})

        job = run(submit(sheet(8)).json["id"])

        assert job["error"] == "The catalog refuses the import: status 400"


class TestTurns:
    def test_makes_room_for_others_and_goes_on(
        self, submit, app, run, catalog, settings, outbox
    ):
        app.extensions["flagon.settings"] = settings.model_copy(
            update={"slice_seconds": 0.001, "import_batch_rows": 100}
        )
        job_id = submit(sheet(300)).json["id"]

        turns = [run(job_id) for _ in range(4)]

        assert [turn["state"] for turn in turns] == ["running"] * 3 + ["succeeded"]
        assert [turn["progress"]["done"] for turn in turns] == [0, 100, 200, 300]
        assert turns[-1]["attempts"] == 1
        assert len(outbox("task")) == 4

    def test_stops_between_batches_when_the_worker_stops(
        self, submit, run, catalog, outbox
    ):
        job_id = submit(sheet(1200)).json["id"]
        bulk = catalog.bulk

        def stop(headers, body):
            health.drain()
            return bulk(headers, body)

        catalog.bulk = stop
        try:
            handed_back = run(job_id)
        finally:
            health.reset()
        catalog.bulk = bulk
        done = run(job_id)

        assert handed_back["state"] == "queued"
        assert handed_back["progress"]["done"] == 500
        assert len(outbox("task")) == 2
        assert done["result"]["created"] == 1200

    def test_is_cancelled_between_batches(self, submit, run, catalog, client, bearer):
        job_id = submit(b"sku,name\n-,X\n" + sheet(1200)[9:]).json["id"]
        bulk = catalog.bulk
        answers = []

        def cancel(headers, body):
            answers.append(
                client.post(
                    f"/api/v1/jobs/{job_id}/cancel",
                    headers=bearer("jobs:write", sub="me"),
                ).json
            )
            return bulk(headers, body)

        catalog.bulk = cancel

        job = run(job_id)

        assert (answers[0]["state"], answers[0]["cancel_requested"]) == (
            "running",
            True,
        )
        assert job["state"] == "cancelled"
        assert job["result"] == {**COUNTS, "created": 499, "refused": 1}
        assert job["artefacts"]
        assert len(catalog.calls) == 1

    def test_loses_the_lease_and_writes_no_more(
        self, submit, run, catalog, change, settings
    ):
        """Another worker took over while this one was frozen in its HTTP call."""
        job_id = submit(b"sku,name\n-,X\n" + sheet(600)[9:]).json["id"]
        other = uuid4()
        bulk = catalog.bulk

        def freeze(headers, body):
            change(job_id, lease_token=other)
            return bulk(headers, body)

        catalog.bulk = freeze

        job = run(job_id)

        assert (job["state"], job["progress"]["done"]) == ("running", 0)
        assert not (settings.files_dir / job_id / "refused.csv").exists()


class TestCrashes:
    def test_are_counted_reported_and_end_in_failure(
        self, submit, run, change, monkeypatch
    ):
        def bug(*_, **__):
            raise ZeroDivisionError

        monkeypatch.setattr(imports, "_import_rows", bug)
        job_id = submit().json["id"]

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                run(job_id)

        monkeypatch.undo()
        job = run(job_id)
        assert job["state"] == "failed"
        assert "took its worker down 3 times" in job["error"]

    def test_progress_forgives_them(self, submit, run, change, begin):
        job_id = submit().json["id"]
        change(job_id, crashes=2)

        assert run(job_id)["state"] == "succeeded"

    def test_an_outage_of_the_database_is_none(self, submit, run, monkeypatch, change):
        def down(*_, **__):
            raise OperationalError("select", {}, Exception("gone"))

        monkeypatch.setattr(imports, "_import_rows", down)

        job = run(submit().json["id"])

        assert job["progress"]["message"] == "Waiting: The database does not answer."


class TestHeartbeat:
    def test_keeps_the_lease_and_hears_of_cancelling(
        self, client, bearer, app, run, settings, change
    ):
        app.extensions["flagon.settings"] = settings.model_copy(
            update={"lease_seconds": 1.5}
        )
        job_id = self.submit_probe(client, bearer)
        timer = threading.Timer(0.4, change, [job_id], {"cancel_requested": True})
        timer.start()

        job = run(job_id)

        timer.join()
        assert job["state"] == "cancelled"

    def test_notices_the_loss_of_the_lease(
        self, client, bearer, app, run, settings, change
    ):
        app.extensions["flagon.settings"] = settings.model_copy(
            update={"lease_seconds": 0.15}
        )
        job_id = self.submit_probe(client, bearer)
        timer = threading.Timer(0.3, change, [job_id], {"lease_token": uuid4()})
        timer.start()

        job = run(job_id)

        timer.join()
        assert job["state"] == "running"

    def test_gives_up_when_the_database_is_away_too_long(
        self, client, bearer, app, run, settings, monkeypatch
    ):
        def down(*_, **__):
            raise OperationalError("update", {}, Exception("gone"))

        app.extensions["flagon.settings"] = settings.model_copy(
            update={"lease_seconds": 0.1}
        )
        monkeypatch.setattr(leases, "renew", down)

        assert run(self.submit_probe(client, bearer))["state"] == "running"

    def test_lets_a_probe_pass(self, client, bearer, run):
        job_id = self.submit_probe(client, bearer, seconds=0.15)

        assert run(job_id)["result"] == {"seconds": 0.15}

    @staticmethod
    def submit_probe(client, bearer, seconds=5.0):
        response = client.post(
            "/api/v1/jobs",
            data={"kind": "probe", "params": json.dumps({"seconds": seconds})},
            content_type="multipart/form-data",
            headers=bearer("jobs:write", "jobs:manage", sub="me"),
        )
        assert response.status_code == 202, response.json
        return response.json["id"]


MEMORY = """
import resource, sys
from pathlib import Path
from flagon_worker.domain import imports, sheets, reports
from flagon_worker.domain.mapping import Mapper

path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
layout = sheets.inspect(path, wanted=["sku", "name"])
total = sheets.survey(path, layout)
mapper = Mapper(layout.columns, {"sku": "sku", "name": "name"}, {})
length = 0
with sheets.open_rows(
    path, layout, start_byte=layout.start_byte, start_row=layout.start_row
) as rows:
    while batch := sheets.take(rows, 500):
        found = imports._send(mapper, batch, None, "k", imports.Counts())
        addition = reports.encode([str(row.number), why] for row, why in found)
        length = reports.write(path.parent / "report", addition, at=length)
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_big_file_takes_constant_memory(tmp_path):
    path = tmp_path / "upload"
    with path.open("w", encoding="utf-8") as file:
        file.write("sku,name,text\n")
        for number in range(60_000):
            file.write(f"s{number},Größe {number},{'x' * 850}\n")
    assert path.stat().st_size > 50_000_000

    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )

    total, kilobytes = map(int, done.stdout.split())
    assert total == 60_000
    assert kilobytes < 12_000
