"""The main job: a supplier's file goes in, and everybody sees what came of it."""

import csv
import io
import re
import secrets
from urllib.parse import urlsplit

import pytest
from conftest import DATA
from harness import imports
from harness.events import Stream
from harness.people import browser, csrf_token
from harness.waiting import until

JOB_CHANGED = "market.flagon.job.changed.v1"
JOB_PROGRESSED = "market.flagon.job.progressed.v1"
PRODUCT_CHANGED = "market.flagon.product.changed.v1"

BOOKS = {
    "mapping": {
        "sku": "book_id",
        "name": "title",
        "attributes.authors": "authors",
        "attributes.year": "original_publication_year",
        "attributes.language": "language_code",
    },
    "defaults": {
        "price_minor": 1299,
        "currency": "EUR",
        "stock": 5,
        "category": "books",
    },
    "dry_run": False,
}


def supplier_file():
    """Return name, content and parameters of 10,000 rows: the real file where it is."""
    if DATA.exists():
        return "books.csv", DATA.read_bytes(), BOOKS
    print(f"{DATA} is not there: a generated file takes its place")
    table = [
        ["book_id", "title", "authors", "original_publication_year", "language_code"]
    ]
    table += [
        [str(n), f"The Hunger of {n}", f"Author {n % 100}", str(1900 + n % 120), "eng"]
        for n in range(1, 10_001)
    ]
    return "generated.csv", imports.as_csv(table), BOOKS


@pytest.fixture(scope="module")
def books(stack, merchandiser):
    """The finished import of 10,000 rows, with everything that was seen on the way."""
    name, content, params = supplier_file()
    # The caller's own trace id, to find everything again.
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    with Stream(stack, ["jobs"], merchandiser) as stream:
        path = imports.accepted(
            merchandiser, content, params, name=name, headers=headers
        )
        job_id = path.rpartition("/")[2]
        seen = []

        def until_the_end(event):
            if event.data.get("id") == job_id:
                seen.append(event)
            return (
                event.type == JOB_CHANGED
                and event.data.get("id") == job_id
                and event.data["state"] in imports.ENDED
            )

        stream.next(until_the_end, seconds=300)
    return {"path": path, "events": seen, "trace_id": trace_id}


class TestImport:
    def test_takes_every_row_of_the_file(self, stack, merchandiser, books):
        job = imports.look(merchandiser, books["path"])

        assert job["state"] == "succeeded", job["error"]
        result = job["result"]
        # On a stack that has the books already, nothing is created again.
        assert result["created"] + result["updated"] + result["unchanged"] == 10_000
        assert result["refused"] == 0
        assert job["progress"]["done"] == job["progress"]["total"] == 10_000

    def test_shows_its_progress_while_it_runs(self, books):
        states = [e.data["state"] for e in books["events"] if e.type == JOB_CHANGED]
        done = [
            e.data["progress"]["done"]
            for e in books["events"]
            if e.type == JOB_PROGRESSED
        ]

        assert states[-2:] == ["running", "succeeded"]
        assert len(done) >= 3
        assert done == sorted(done)

    def test_makes_the_books_findable(self, stack, books):
        with stack.client() as client:
            found = client.get("/api/v1/products", params={"q": "hunger", "limit": 50})

        assert found.status_code == 200
        names = [item["name"] for item in found.json()["items"]]
        assert any("Hunger" in name for name in names), names
        assert {item["category"] for item in found.json()["items"]} >= {"books"}

    def test_makes_the_books_buyable_in_the_shop(self, stack, books):
        with stack.client(follow_redirects=True) as client:
            page = client.get("/search", params={"q": "hunger"})

            assert page.status_code == 200
            assert "Hunger" in page.text
            link = re.search(r'href="(/products/[^"]+)"', page.text)
            assert link, "no product on the page"
            product = client.get(link[1])
            assert product.status_code == 200

    def test_changes_nothing_the_second_time(self, stack, merchandiser, books):
        name, content, params = supplier_file()
        with Stream(stack, ["products"]) as stream:
            path = imports.accepted(merchandiser, content, params, name=name)
            job = imports.ended(merchandiser, path)

            assert job["state"] == "succeeded", job["error"]
            assert job["result"] == {
                "created": 0,
                "updated": 0,
                "unchanged": 10_000,
                "refused": 0,
            }
            # Another test's product may pass by, and what the relay still had of the
            # first import when that job had ended, but no book for a second time.
            changed = [
                e
                for e in stream.collected()
                if e.data.get("category") == "books"
                and books["trace_id"] not in e.envelope["traceparent"]
            ]
            assert changed == []

    def test_reports_every_refused_row_and_why(self, stack, merchandiser, word):
        content = imports.as_csv(imports.rows(word, 40, refused=3))
        path = imports.accepted(merchandiser, content, imports.params(word))
        job = imports.ended(merchandiser, path)

        assert job["state"] == "succeeded", job["error"]
        assert job["result"]["created"] == 37
        assert job["result"]["refused"] == 3
        report = merchandiser.patiently(
            "GET", urlsplit(job["artefacts"][0]["url"]).path
        )
        assert report.status_code == 200
        lines = list(csv.DictReader(io.StringIO(report.content.decode("utf-8-sig"))))
        assert len(lines) == 3, report.text
        assert "name" in report.text

    def test_dry_run_says_what_would_happen_and_changes_nothing(
        self, stack, merchandiser, word
    ):
        content = imports.as_csv(imports.rows(word, 20, refused=1))
        params = imports.params(word, dry_run=True)
        job = imports.ended(
            merchandiser, imports.accepted(merchandiser, content, params)
        )

        assert job["state"] == "succeeded", job["error"]
        assert job["result"]["refused"] == 1
        assert imports.products(stack, word) == []

    def test_is_submitted_once_however_often_it_is_sent(
        self, stack, merchandiser, word
    ):
        content = imports.as_csv(imports.rows(word, 5))
        first = imports.submit(merchandiser, content, imports.params(word), key=word)
        again = imports.submit(merchandiser, content, imports.params(word), key=word)

        assert first.status_code == again.status_code == 202
        assert first.headers["location"] == again.headers["location"]
        imports.ended(merchandiser, urlsplit(first.headers["location"]).path)


class TestPriceChange:
    def test_reaches_another_open_browser(self, stack, merchandiser, word):
        content = imports.as_csv(imports.rows(word, 1))
        imports.ended(
            merchandiser,
            imports.accepted(merchandiser, content, imports.params(word)),
        )
        [product] = imports.products(stack, word)
        with merchandiser.client() as client:
            etag = client.get(f"/api/v1/products/{product['id']}").headers["etag"]
            with Stream(stack, [f"products/{product['id']}"]) as stream:
                answer = client.patch(
                    f"/api/v1/products/{product['id']}",
                    json={"price_minor": 777},
                    headers={"If-Match": etag},
                )
                assert answer.status_code == 200, answer.text
                event = stream.next(lambda e: e.type == PRODUCT_CHANGED)

        assert event.envelope["subject"] == product["id"]
        assert event.data["price_minor"] == 777
        assert event.data["changed"] == ["price_minor"]
        assert event.envelope["source"] == "/services/catalog"

    def test_can_be_made_with_the_session_of_a_page(
        self, stack, accounts, merchandiser, word
    ):
        content = imports.as_csv(imports.rows(word, 1))
        imports.ended(
            merchandiser,
            imports.accepted(merchandiser, content, imports.params(word)),
        )
        [product] = imports.products(stack, word)
        with browser(stack, accounts["merchandiser"]) as client:
            token = csrf_token(client.get("/").text)
            etag = client.get(f"/api/v1/products/{product['id']}").headers["etag"]
            change = {"json": {"price_minor": 888}}
            headers = {"If-Match": etag, "Origin": stack.url}
            forged = client.patch(
                f"/api/v1/products/{product['id']}", headers=headers, **change
            )
            assert forged.status_code == 403
            answer = client.patch(
                f"/api/v1/products/{product['id']}",
                headers=headers | {"X-CSRF-Token": token},
                **change,
            )

        assert answer.status_code == 200, answer.text
        assert answer.json()["price_minor"] == 888


class TestObservation:
    def test_metrics_count_the_import(self, stack, books):
        def counted():
            samples = stack.query(
                'sum(flagon_jobs_total{kind="import",outcome="succeeded"})'
            )
            return samples and samples[0][1] >= 1

        until(counted, 30, pause=0.5, what="the import in Prometheus")

    def test_one_trace_holds_the_whole_import(self, stack, books):
        def complete():
            services = {span["service"] for span in stack.trace(books["trace_id"])}
            return services if services >= {"worker", "catalog"} else None

        until(complete, 30, pause=1, what="a trace through worker and catalog")

    def test_logs_are_correlated_by_the_trace(self, stack, books):
        lines = [
            line
            for line in stack.logs("gateway", "worker", "worker-bulk", "catalog")
            if isinstance(line, dict) and line.get("trace_id") == books["trace_id"]
        ]

        assert {line["service"] for line in lines} >= {"gateway", "worker", "catalog"}


class TestSignIn:
    def test_gives_each_role_its_scopes_and_no_more(
        self, customer, merchandiser, admin
    ):
        scopes = [
            set(p.sign_in()["scope"].split()) for p in (customer, merchandiser, admin)
        ]

        assert "jobs:write" not in scopes[0]
        assert {"jobs:write", "catalog:write"} <= scopes[1]
        assert "users:read" not in scopes[1]
        assert {"users:read", "users:write", "jobs:manage"} <= scopes[2]

    def test_customers_import_nothing(self, customer, word):
        content = imports.as_csv(imports.rows(word, 1))
        answer = imports.submit(customer, content, imports.params(word))

        assert answer.status_code == 403
        assert answer.headers["content-type"].startswith("application/problem+json")

    def test_jobs_are_seen_by_their_owner_alone(
        self, customer, merchandiser, operator, word
    ):
        content = imports.as_csv(imports.rows(word, 1))
        path = imports.accepted(merchandiser, content, imports.params(word))
        imports.ended(merchandiser, path)

        assert customer.patiently("GET", path).status_code == 404
        assert operator.patiently("GET", path).status_code == 200

    def test_works_in_the_browser_and_ends_there(self, stack, accounts):
        with browser(stack, accounts["customer"]) as client:
            page = client.get("/")
            assert client.get("/api/v1/me").status_code == 200
            token = csrf_token(page.text)
            out = client.post(
                "/sign-out",
                data={"csrf_token": token},
                headers={"X-CSRF-Token": token, "Origin": stack.url},
            )
            assert out.status_code == 200, out.text[:500]

            assert client.get("/api/v1/me").status_code == 401

    def test_make_token_prints_a_token_that_works(self, stack):
        token = stack.make("token", ROLE="operator").split()[-1]
        with stack.client() as client:
            answer = client.get(
                "/api/v1/jobs", headers={"Authorization": f"Bearer {token}"}
            )

        assert answer.status_code == 200
