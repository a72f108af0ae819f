"""Reports on the catalog: the right numbers, of one moment, in a file others can read."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from pypdf import PdfReader
from uuid_utils.compat import uuid7

from flagon_chassis.testing import Peer
from flagon_worker.domain import archive, charts, overviews
from flagon_worker.models import Job

FACETS = {
    "complete": True,
    "status": [{"value": "active", "count": 12}, {"value": "draft", "count": 3}],
    "category": [{"value": f"shelf-{n}", "count": 20 - n} for n in range(18)],
    "currency": [{"value": "EUR", "count": 10}, {"value": "JPY", "count": 5}],
    "price": [
        {"price_minor_min": 0, "price_minor_max": 1000, "count": 4},
        {"price_minor_min": 1000, "price_minor_max": None, "count": 6},
    ],
}


class Counter(Peer):
    """A catalog that counts, and fails as told."""

    def __init__(self):
        self.asked = []
        self.facets = FACETS
        self.status = 200
        super().__init__()

    def answer(self, method, path, headers, body):
        asked = parse_qs(urlsplit(path).query)
        self.asked.append(asked)
        names = {"complete", *asked["facets"][0].split(",")}
        return self.status, {"facets": {name: self.facets[name] for name in names}}


@pytest.fixture
def counter(put):
    return put(Counter())


@pytest.fixture
def manager(bearer):
    return bearer("jobs:read", "jobs:write", "jobs:manage", sub="me")


@pytest.fixture
def hand_in(client, manager):
    def hand_in(**params):
        return client.post(
            "/api/v1/jobs",
            data={"kind": "report", "params": json.dumps(params)},
            content_type="multipart/form-data",
            headers=manager,
        )

    return hand_in


@pytest.fixture
def download(client, manager):
    def download(job):
        (artefact,) = job["artefacts"]
        with client.get(artefact["url"], headers=manager) as answer:
            assert answer.status_code == 200
            assert answer.mimetype == "application/pdf"
            assert answer.headers["Content-Disposition"].startswith("attachment")
            return answer.data

    return download


def text_of(content):
    return "\n".join(page.extract_text() for page in PdfReader(BytesIO(content)).pages)


def event(type_, **data):
    return {
        "id": str(uuid4()),
        "source": "/services/catalog",
        "type": f"market.flagon.{type_}",
        "subject": "s",
        "time": datetime.now(UTC).isoformat(),
        "data": data,
    }


@pytest.fixture
def lately(begin):
    """Has things happen that a report tells of, and some long ago."""
    happened = [
        event("product.changed.v1", changed=["id", "price_minor"]),
        event("product.changed.v1", changed=["price_minor", "version"]),
        event("product.changed.v1", changed=["stock", "version"]),
        event("product.deleted.v1"),
        event("user.registered.v1"),
    ]
    with begin() as session:
        archive.archive_events(session, happened)
        at = datetime.now(UTC)
        for age, created in ((1, 5), (2, 7), (30, 100)):
            session.add(
                Job(
                    id=uuid7(),
                    kind="import",
                    queue="bulk",
                    owner="somebody",
                    state="succeeded",
                    params={},
                    result={"created": created, "refused": 1},
                    headers={},
                    created_at=at - timedelta(hours=age),
                    queued_at=at,
                    wake_at=at,
                    finished_at=at,
                )
            )


class TestReport:
    def test_shows_what_is_there_and_what_changed(
        self, hand_in, run, counter, download, lately
    ):
        job = run(hand_in().json["id"])

        assert job["state"] == "succeeded", job
        assert job["result"] == {"products": 15, "changes": 4, "jobs": 2}
        text = text_of(download(job))
        for line in (
            "15 products.",
            "active 12",
            "shelf-0 20",
            "3 more have fewer.",
            "By price in EUR",
            "0 to 10",
            "By price in JPY",
            "1000 and more",
            "Products made 1",
            "Products changed 2",
            "of these, in price 1",
            "Products deleted 1",
            "import succeeded 2",
            "12 created, 0 updated, 0 unchanged, 2 refused",
        ):
            assert line in text, text

    def test_counts_everything_in_the_catalog(self, hand_in, run, counter):
        run(hand_in().json["id"])

        assert {asked["status"][0] for asked in counter.asked} == {"any"}
        currencies = [asked.get("currency") for asked in counter.asked]
        assert currencies == [None, ["EUR"], ["JPY"]]

    def test_of_more_hours_goes_further_back(self, hand_in, run, counter, lately):
        job = run(hand_in(hours=48).json["id"])

        assert job["result"]["jobs"] == 3

    def test_of_an_empty_catalog_is_a_report(self, hand_in, run, counter, download):
        empty = {name: [] for name in FACETS}
        counter.facets = {**empty, "complete": True}

        job = run(hand_in().json["id"])

        assert "0 products." in text_of(download(job))

    def test_says_when_not_all_were_counted(self, hand_in, run, counter, download):
        counter.facets = {**FACETS, "complete": False}

        job = run(hand_in().json["id"])

        assert "More than 15 products" in text_of(download(job))

    def test_waits_while_the_catalog_is_away(
        self, hand_in, run, counter, change, download
    ):
        counter.status = 503
        job = run(hand_in().json["id"])
        assert job["state"] == "queued"
        assert job["artefacts"] == []

        counter.status = 200
        change(job["id"], queued_at=datetime.now(UTC))
        job = run(job["id"])

        assert job["state"] == "succeeded"
        assert text_of(download(job))

    def test_needs_the_right_to_see_everybodys_jobs(self, client, bearer, counter):
        answer = client.post(
            "/api/v1/jobs",
            data={"kind": "report"},
            content_type="multipart/form-data",
            headers=bearer("jobs:read", "jobs:write", "catalog:write"),
        )

        assert answer.status_code == 403

    @pytest.mark.parametrize(
        "params", [{"hours": 0}, {"hours": 169}, {"hours": "x"}, {"since": "1970"}]
    )
    def test_refuses_other_parameters(self, hand_in, params):
        assert hand_in(**params).status_code == 422

    def test_can_be_scheduled(self, client, bearer):
        answer = client.post(
            "/api/v1/schedules",
            json={"name": "daily", "kind": "report", "cron": "0 6 * * *"},
            headers=bearer("jobs:manage"),
        )

        assert answer.status_code == 201
        assert answer.json["params"] == {"hours": 24}


class TestKilled:
    def test_between_numbers_and_file_draws_the_same_numbers(
        self, hand_in, run, counter, download, monkeypatch, change
    ):
        """The worker dies as it draws, and the catalog changes before another goes on."""

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(overviews, "draw", die)
            job_id = hand_in().json["id"]
            with pytest.raises(KeyboardInterrupt):
                run(job_id)
        asked = len(counter.asked)
        counter.facets = {**FACETS, "status": []}
        change(job_id, lease_token=None, lease_until=None)

        job = run(job_id)

        assert job["state"] == "succeeded"
        assert len(counter.asked) == asked
        assert job["result"]["products"] == 15
        assert "15 products." in text_of(download(job))


class TestDocument:
    AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)

    def write(self, text="x", bars=1):
        document = charts.Document("Title", self.AT)
        document.heading(text)
        document.bars([(text, number) for number in range(bars)])
        document.columns([(text, 0)])
        document.table((text, text), [(text, text)])
        return document

    def test_is_the_same_for_the_same_contents(self):
        assert self.write().bytes() == self.write().bytes()

    def test_goes_on_on_another_page(self):
        document = self.write(bars=200)
        found = PdfReader(BytesIO(document.bytes()))

        assert len(found.pages) == document.pages > 3
        assert found.metadata.title == "Title"

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (r"a) Tj ET (b\) \(", r"a) Tj ET (b\) \("),
            ("Bücher – 5 €", "Bücher – 5 €"),
            ("本 книга", "? ?????"),
            ("a\x00b\nc\u202ed", "a b c d"),
            ("W" * 500, "WWW"),
        ],
    )
    def test_shows_whatever_a_text_holds_as_text(self, text, shown):
        found = text_of(self.write(text).bytes())

        assert shown in found
        assert found.count("page 1") == 1

    def test_is_loaded_by_nobody_who_draws_nothing(self):
        """Memory: the library comes with the first report."""
        code = "import sys, flagon_worker.tasks; print('pydyf' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, text=True
        )

        assert done.stdout.strip() == "False"
