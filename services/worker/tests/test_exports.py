"""Exports: products of the catalog, in files that are whole whatever dies."""

import csv
import gzip
import io
import json
import threading
import time
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from flagon_worker import clients
from flagon_worker.domain import exports, leases

NAUGHTY = ["=1+1", "+1", "-1", "@x", "'=1", 'a"b,c\nd', "<&>\x01", "ünï", "'quoted"]


def product(number):
    return {
        "id": str(UUID(int=number)),
        "sku": f"s{number}",
        "name": NAUGHTY[number % len(NAUGHTY)],
        "price_minor": 100 * number,
        "category": None,
        "tags": ["a", "b"],
        "rating": {"count": 1, "average": 4.5},
        "attributes": {"colour": "blue", "a b": [1, True, None]},
    }


class Shelf:
    """A catalog's export behind real HTTP, which breaks off and slows down as told."""

    def __init__(self):
        self.reset()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                url = urlsplit(self.path)
                asked = parse_qs(url.query)
                outer.asked.append((url.path, asked))
                if outer.refusal:
                    status, problem = outer.refusal
                    self.send_response(status)
                    self.send_header("Content-Type", "application/problem+json")
                    body = json.dumps(problem).encode()
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                after = asked.get("after", [""])[0]
                first = UUID(after).int + 1 if after else 1
                try:
                    self.send(first)
                except OSError:
                    return

            def send(self, first):
                sent = 0
                for start in range(first, outer.count + 1, 100):
                    end = min(start + 100, outer.count + 1)
                    text = "".join(
                        json.dumps(product(n)) + "\n" for n in range(start, end)
                    ).encode()
                    # Pieces end anywhere, not where lines do.
                    for piece in (text[:777], text[777:]):
                        if piece:
                            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    sent += end - start
                    if outer.break_after and sent >= outer.break_after:
                        outer.break_after = 0
                        self.wfile.write(b'5\r\n{"id"\r\n')
                        self.close_connection = True
                        return
                    time.sleep(outer.delay)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()

    def reset(self):
        self.count = 2500
        self.break_after = 0
        self.delay = 0.0
        self.refusal = None
        self.asked = []


@pytest.fixture(scope="module")
def server_of_products():
    found = Shelf()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def shelf(server_of_products, app, settings):
    server_of_products.reset()
    there = settings.model_copy(update={"catalog_url": server_of_products.url})
    app.extensions["flagon.catalog"] = clients.Catalog(there)
    return server_of_products


@pytest.fixture
def mine(bearer):
    return bearer("jobs:read", "jobs:write", "catalog:write", sub="me")


@pytest.fixture
def export(client, mine, shelf):
    """Hands in an export and returns the response."""

    def export(**params):
        data = {"kind": "export", "params": json.dumps(params)}
        return client.post(
            "/api/v1/jobs", data=data, headers=mine, content_type="multipart/form-data"
        )

    return export


@pytest.fixture
def download(client, mine):
    def download(job):
        (artefact,) = job["artefacts"]
        response = client.get(artefact["url"], headers=mine)
        assert response.status_code == 200
        body = response.get_data()
        response.close()
        return body, response.headers

    return download


def ids(count=2500):
    return [str(UUID(int=n)) for n in range(1, count + 1)]


class TestExport:
    def test_as_csv_has_cells_that_no_spreadsheet_carries_out(
        self, export, run, download
    ):
        job = run(export().json["id"])

        assert job["state"] == "succeeded", job
        assert job["result"] == {"products": 2500}
        assert job["progress"]["done"] == job["progress"]["total"] == 2500
        body, headers = download(job)
        assert headers["Content-Type"].startswith("text/csv")
        assert headers["Content-Disposition"] == "attachment; filename=products.csv"
        assert headers["X-Content-Type-Options"] == "nosniff"
        rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
        assert [row["id"] for row in rows] == ids()
        assert {row["name"] for row in rows} >= {"'=1+1", "'+1", "''=1", "ünï"}
        assert not [
            c for row in rows for c in row.values() if c.startswith(tuple("=+-@"))
        ]
        assert json.loads(rows[0]["attributes"])["colour"] == "blue"

    def test_as_ndjson_is_exact(self, export, run, download):
        body, headers = download(run(export(format="ndjson").json["id"]))

        assert headers["Content-Type"] == "application/x-ndjson"
        found = [json.loads(line) for line in body.splitlines()]
        assert found == [product(n) for n in range(1, 2501)]

    def test_as_xml_is_well_formed(self, export, run, download):
        body, headers = download(run(export(format="xml").json["id"]))

        assert headers["Content-Type"].startswith("application/xml")
        assert headers["Content-Disposition"].startswith("attachment")
        items = ET.fromstring(body).findall("item")
        assert [item.findtext("id") for item in items] == ids()
        entry = items[0].find("attributes/entry")
        assert entry.get("name") == "a b"
        assert [part.text for part in entry] == ["1", "true", None]

    def test_as_xlsx_has_no_formula_and_no_link(self, export, run, download):
        body, headers = download(run(export(format="xlsx").json["id"]))

        assert headers["Content-Type"] == exports.media_type("x.xlsx")
        book = zipfile.ZipFile(io.BytesIO(body))
        assert book.testzip() is None
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        assert sheet.count("<row ") == 2501
        assert "<f>" not in sheet
        assert "hyperlink" not in sheet
        assert "&apos;=1+1" in sheet or "'=1+1" in sheet
        assert "<v>100</v>" in sheet

    @pytest.mark.parametrize("format_", ["csv", "ndjson", "xml"])
    def test_compressed_is_the_same(self, export, run, download, format_):
        plain, _ = download(run(export(format=format_).json["id"]))
        body, headers = download(run(export(format=format_, gzip=True).json["id"]))

        assert headers["Content-Type"] == "application/gzip"
        assert f"products.{format_}.gz" in headers["Content-Disposition"]
        assert gzip.decompress(body) == plain

    @pytest.mark.parametrize("format_", ["csv", "ndjson", "xml", "xlsx"])
    def test_of_nothing_is_a_file_of_nothing(
        self, export, run, download, shelf, format_
    ):
        shelf.count = 0

        job = run(export(format=format_).json["id"])

        assert job["result"] == {"products": 0}
        body, _ = download(job)
        if format_ == "csv":
            assert body.decode().strip() == ",".join(exports.FIELDS)
        if format_ == "xml":
            assert list(ET.fromstring(body)) == []

    def test_asks_for_what_was_asked_for(self, export, run, shelf):
        run(
            export(
                q="mug", category="cups", tag=["a", "b"], in_stock=True, status="any"
            ).json["id"]
        )

        path, asked = shelf.asked[0]
        assert path == "/api/v1/products/export"
        assert asked == {
            "format": ["ndjson"],
            "q": ["mug"],
            "category": ["cups"],
            "tag": ["a", "b"],
            "in_stock": ["true"],
            "status": ["any"],
        }

    def test_that_breaks_off_goes_on_after_the_last_product(
        self, export, run, shelf, change, download
    ):
        shelf.break_after = 1700
        job_id = export(gzip=True).json["id"]
        assert run(job_id)["state"] == "queued"

        change(job_id, queued_at=datetime.now(UTC) - timedelta(seconds=1))
        job = run(job_id)

        assert job["state"] == "succeeded", job
        assert shelf.asked[1][1]["after"] == [str(UUID(int=1000))]
        body, _ = download(job)
        rows = csv.DictReader(io.StringIO(gzip.decompress(body).decode(), newline=""))
        assert [row["id"] for row in rows] == ids()

    def test_whose_filters_the_catalog_refuses_says_why(self, export, run, shelf):
        shelf.refusal = (422, {"title": "no", "detail": "No such category."})

        job = run(export(category="x").json["id"])

        assert job["state"] == "failed"
        assert "No such category." in job["error"]

    def test_waits_while_the_catalog_is_away(self, export, run, shelf):
        shelf.refusal = (503, {})

        assert run(export().json["id"])["state"] == "queued"

        shelf.refusal = (429, {})
        assert run(export().json["id"])["state"] == "queued"

    def test_of_too_many_for_a_workbook_says_so(self, export, run, monkeypatch):
        monkeypatch.setattr(exports, "XLSX_ROWS_MAX", 1500)

        job = run(export(format="xlsx").json["id"])

        assert job["state"] == "failed"
        assert "CSV" in job["error"]
        assert job["artefacts"] == []

    def test_takes_memory_that_does_not_grow(self, export, run, shelf):
        peaks = []
        for count in (5_000, 20_000):
            shelf.count = count
            job_id = export(format="csv").json["id"]
            tracemalloc.start()
            assert run(job_id)["state"] == "succeeded"
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

        assert peaks[1] < peaks[0] * 1.5


class TestSubmit:
    @pytest.mark.parametrize(
        "params",
        [
            {"format": "pdf"},
            {"format": "xlsx", "gzip": True},
            {"currency": "euro"},
            {"limit": 5},
            {"after": "x"},
        ],
    )
    def test_refuses_what_is_not_right(self, export, params):
        assert export(**params).status_code == 422

    def test_needs_the_right_to_see_drafts(self, client, bearer):
        response = client.post(
            "/api/v1/jobs",
            data={"kind": "export"},
            headers=bearer("jobs:read", "jobs:write"),
            content_type="multipart/form-data",
        )

        assert response.status_code == 403


class TestLines:
    def test_end_where_the_catalog_ends_them(self):
        pieces = [b'{"a"', b': "\xe2\x80', b'\xa8"}\n{}\n', b"", b"{}", b"\n"]

        found = list(exports._lines(iter(pieces)))

        assert found == ['{"a": "\u2028"}\n'.encode(), b"{}\n", b"{}\n"]

    def test_that_do_not_end_are_trouble(self):
        with pytest.raises(leases.Trouble):
            list(exports._lines(iter([b"{}\n{"])))


class TestKilled:
    def test_a_worker_in_the_midst_of_an_export_leaves_a_whole_file(
        self, stack, shelf, export, client, mine, download, wait_for
    ):
        shelf.delay = 0.05
        shelf.count = 6000
        celery = ("celery", "--queues", "bulk,maintenance", "--concurrency", "1")
        here = {"WORKER_CATALOG_URL": shelf.url}

        def job():
            return client.get(f"/api/v1/jobs/{job_id}", headers=mine).json

        try:
            stack.start("export-relay", "relay")
            stack.start("export-beat", "beat")
            stack.start("exporter", *celery, **here)
            job_id = export(format="ndjson").json["id"]
            for least in (1000, 3000):
                wait_for(lambda least=least: job()["progress"]["done"] >= least)
                stack.kill("exporter")
                stack.start("exporter", *celery, **here)
            wait_for(lambda: job()["state"] in {"succeeded", "failed"}, 40)
        finally:
            for name in {"export-relay", "export-beat", "exporter"} & (
                stack.processes.keys()
            ):
                stack.kill(name)

        assert job()["state"] == "succeeded", job()
        body, _ = download(job())
        assert [json.loads(line)["id"] for line in body.splitlines()] == ids(6000)
        assert len(shelf.asked) >= 3
